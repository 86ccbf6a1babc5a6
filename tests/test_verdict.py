"""The verdict on a layer: every word where it belongs, and nowhere else."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotational.report.verdict import MEANING, WITHIN, History, clock, judge, spread, window

HALF = 200.0  # steps, about


def history(
    ratio: Any, half_lives: float, *, held: bool = False, falls: Any = 1.0, known: bool = True, **changes: Any
) -> History:
    """A log of 100 lines over so many half-lives, measured at `ratio` times the prediction."""
    every = max(1, round(half_lives * HALF / 100))
    step = np.arange(1, 101) * every
    predicted = 1e-2 * falls * np.ones(100)
    values: dict[str, Any] = {
        "step": step,
        "measured": predicted * ratio,
        "predicted": predicted if known else np.full(100, math.nan),
        "held": np.full(100, held),
        "half_life": np.full(100, 100 * every / half_lives),
        "lr": np.full(100, 1e-3),
        "weight_decay": np.full(100, 0.1),
        "every": every,
        **changes,
    }
    return History(**values)


def relaxing(k: float, half_lives: float) -> np.ndarray:
    """Measured/predicted while |w|^2 relaxes from k times its equilibrium: (1 + (k-1) 2^-h)^(-1/2)."""
    h = np.arange(1, 101) / 100 * half_lives
    return (1 + (k - 1) * 2.0**-h) ** -0.5


def beside(ratio: float, half_lives: float, *, static: float, **changes: Any) -> History:
    """A log beside a forecast, whose equilibrium is `static` times the forecast."""
    h = history(ratio, half_lives, **changes)
    return replace(h, static=static * h.predicted)


ramp = np.linspace(0, 1, 100)
CASES = {
    "as predicted": (history(1.0, 10), "in equilibrium"),
    "just inside": (history(1.14, 10), "in equilibrium"),
    "just outside, above": (history(1.16, 10), "out"),
    "just outside, below": (history(1 / 1.16, 10), "out"),
    "twice too fast for long": (history(2.0, 10), "out"),
    "norm ten times too large, early": (history(relaxing(100, 2), 2), "warming up"),
    "norm ten times too large, late": (history(relaxing(100, 12), 12), "in equilibrium"),
    "norm far too small, early": (history(relaxing(1e-3, 0.6), 0.6), "warming up"),
    "slow, but coming": (history(3.0 - 1.5 * ramp, 12), "warming up"),
    "going away": (history(1.0 + 2.0 * ramp, 12), "out"),
    "a hundredth of a half-life": (history(0.5, 0.01), "cannot form"),
    "no weight decay": (history(1.0, 10, known=False, weight_decay=np.zeros(100)), "cannot form"),
    "no learning rate": (history(0.0, 10, known=False, lr=np.zeros(100)), "cannot form"),
    "unknown rule": (history(1.0, 10, known=False, reason="nobody named it"), "no prediction"),
    "held": (history(1.015, 0.01, held=True), "held"),
    "held, but missed": (history(1.03, 10, held=True), "out"),
    "schedule falls to zero": (history(1 - 0.95 * ramp, 3, falls=1 - 0.99 * ramp), "lagging"),
    "schedule rises": (history(0.3, 1, falls=0.1 + ramp), "warming up"),
    "frozen": (history(0.0, 10), "out"),
    "not a number": (history(math.nan, 10), "out"),
    # Beside a forecast: measured at `ratio` times it, and it at 1/static times the equilibrium.
    "as forecast, at rest": (beside(1.02, 10, static=1.0), "in equilibrium"),
    "as forecast, which lags": (beside(1.02, 3, static=1.3, falls=1 - 0.9 * ramp), "lagging"),
    "as forecast, far from rest": (beside(1.02, 1, static=2.0), "warming up"),
    "as forecast, far from rest for long": (beside(1.02, 20, static=0.5), "warming up"),
    "as forecast, in a run that is too short": (beside(0.98, 0.01, static=2.0), "cannot form"),
    "as forecast, without weight decay": (beside(1.0, 10, static=math.nan, weight_decay=np.zeros(100)), "cannot form"),
    "at rest, where no forecast sees it": (beside(1.5, 10, static=1.45), "in equilibrium"),
    "neither here nor there": (beside(1.5, 20, static=0.7), "out"),
}


@pytest.mark.parametrize("name", CASES)
def test_word(name: str) -> None:
    log, word = CASES[name]
    assert judge(log).word == word


def test_every_word_has_a_case_and_a_meaning() -> None:
    assert {word for _, word in CASES.values()} == set(MEANING)


def test_sentence_carries_numbers_and_reason() -> None:
    said = {name: judge(log).sentence for name, (log, _) in CASES.items()}
    assert "2 times too fast, after 10 half-lives" in said["twice too fast for long"]
    assert "equilibrium needs about 20,000 steps" in said["a hundredth of a half-life"]
    assert "No weight decay" in said["no weight decay"]
    assert "learning rate is 0" in said["no learning rate"]
    assert said["unknown rule"] == "nobody named it"
    assert said["as forecast, at rest"] == "2.0% above the forecast. 2.0% above equilibrium."
    assert said["as forecast, which lags"].startswith("2.0% above the forecast. 1.27 times too slow for equilibrium")
    assert said["neither here nor there"].startswith("1.5 times too fast for the forecast. 2.14 times too fast, after")
    assert "No weight decay" in said["as forecast, without weight decay"]


@given(log_k=st.floats(-8, 8), half_lives=st.floats(0.02, 40))
def test_layer_that_relaxes_as_theory_says_is_never_called_out(log_k: float, half_lives: float) -> None:
    verdict = judge(history(relaxing(10**log_k, half_lives), half_lives))
    assert verdict.word in ("cannot form", "warming up", "in equilibrium")
    inside = verdict.ratio is not None and 1 / WITHIN <= verdict.ratio <= WITHIN
    assert (verdict.word == "in equilibrium") == inside


@given(ratio=st.floats(0.05, 20), half_lives=st.floats(16, 40))
def test_layer_that_stands_beside_its_prediction_is_called_out(ratio: float, half_lives: float) -> None:
    word = judge(history(ratio, half_lives)).word
    assert word == ("in equilibrium" if 1 / WITHIN <= ratio <= WITHIN else "out")


def test_clock_counts_the_steps_before_the_first_line_once() -> None:
    h = history(1.0, 10)
    assert clock(h)[-1] == pytest.approx(10)
    later = History(**{**vars(h), "step": h.step + 100_000})  # a log that begins in the middle of a run
    assert clock(later)[-1] == pytest.approx(10)
    first = History(**{**vars(h), "step": np.concatenate([[1], h.step[:-1]])})  # step 1, then every 20
    assert clock(first)[-1] == pytest.approx(9.9)


def test_one_line_is_a_log_too() -> None:
    h = history(2.0, 10)
    one = History(**{k: v[:1] if isinstance(v, np.ndarray) else v for k, v in vars(h).items()})
    assert judge(one).word == "cannot form"
    with pytest.raises(ValueError, match="one logged step or more"):
        judge(History(**{k: v[:0] if isinstance(v, np.ndarray) else v for k, v in vars(h).items()}))


def test_spread_is_over_neurons_and_only_at_the_end() -> None:
    rotation = np.ones((100, 101))
    rotation[:80] = np.linspace(1, 100, 101)  # what was before the last fifth does not count
    assert spread(rotation) == pytest.approx(1.0)
    rotation[80:] = np.linspace(1, 2, 101)
    assert spread(rotation) == pytest.approx(1.95 / 1.05)


def test_spread_of_still_and_of_broken_neurons() -> None:
    still = np.ones((10, 20))
    still[:, :5] = 0
    assert spread(still) == math.inf
    assert spread(np.zeros((10, 20))) is None
    assert spread(np.full((10, 3), math.nan)) is None
    assert spread(np.ones((10, 0))) is None


def test_window_is_the_last_fifth() -> None:
    assert window(100) == slice(80, 100)
    assert window(1) == slice(0, 1)
