"""What a log's layers were expected to do: forecasts against runs of noise, and sentences where there is none."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

import synthetic
from rotational import expected, rules, theory, watch
from rotational.expected import INSTEAD, NEEDS_GRADIENT, UNKNOWN_RULE
from rotational.records import Records, Series
from rulebook import RULES

RULE = rules.adamw().as_dict()


def read(path: Path) -> tuple[Records, list[Series]]:
    records = Records(path)
    return records, [records.series(layer.name) for layer in records.layers]


def series(**changes: Any) -> tuple[Any, Series]:
    """A series of 30 logged steps of one layer, and its run."""
    step = np.arange(10, 310, 10)
    flat, layer = np.ones(30), synthetic.renamed("weight")
    values: dict[str, Any] = {
        "layer": layer,
        "step": step,
        "group": np.zeros(30, int),
        "lr": 2e-3 * flat,
        "weight_decay": 0.5 * flat,
        "held": math.nan * flat,
        "rotation_rms": 1e-2 * flat,
        "norm_rms": 0.6 * flat,
        "update_rms": 1e-2 * flat,
        "quantiles": np.ones((30, 5)),
        **{name: np.ones((30, len(layer.kept))) for name in ("rotation", "norm", "update", "radial")},
        "rule": (RULE,) * 30,
        **changes,
    }
    run = Records.__new__(Records)  # only `every` and `resumed` are read of a run
    run.every, run.resumed = 10, False  # pyright: ignore[reportAttributeAccessIssue]
    return run, Series(**values)


def one(**changes: Any) -> expected.Expected:
    run, s = series(**changes)
    return expected.of(run, [s])[0]


# Forecasts ----------------------------------------------------------------------------------------------------


def test_forecast_begins_at_the_norm_that_was_measured_first() -> None:
    for norm in (0.2, 0.6, 3.0):
        e = one(norm_rms=np.full(30, norm))
        assert e.forecast
        assert e.norm[0] == pytest.approx(norm, rel=1e-4)
    assert one(weight_decay=np.zeros(30)).forecast  # growth without an equilibrium can be forecast all the same
    assert np.isnan(one(weight_decay=np.zeros(30)).static).all()


@pytest.mark.parametrize("name", ["adamw", "lion", "signum", "laprop", "adamax"])
def test_what_stands_beside_a_forecast_is_the_equilibrium(name: str) -> None:
    e, layer = one(rule=(RULES[name].as_dict(),) * 30), synthetic.renamed("weight")
    known = theory.equilibrium(RULES[name], 2e-3, 0.5, size=layer.size)
    assert e.forecast
    np.testing.assert_allclose(e.static, known.rotation, rtol=0.01)
    np.testing.assert_allclose(e.static_norm, known.norm, rtol=0.025)
    np.testing.assert_allclose(e.half_life, known.half_life, rtol=0.01)


@pytest.mark.parametrize("every", [1, 7, 20])
@pytest.mark.parametrize("resumed", [False, True])
def test_weights_that_walk_at_random_are_as_forecast(every: int, resumed: bool, tmp_path: Path) -> None:
    """torch's AdamW on noise: warm-up, then a fall, logged from the start or from the middle."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 128, bias=False), torch.nn.Linear(128, 64, bias=False))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2, weight_decay=0.5, betas=(0.9, 0.95))
    schedule = LambdaLR(optimizer, lambda t: min(1, (t + 1) / 40) * (1 - 0.8 * t / 240))

    def run(steps: int) -> None:
        for _ in range(steps):
            for p in model.parameters():  # orthogonal to each neuron and shrinking as 1/|w|: a normalisation follows
                unit = p.detach() / p.detach().norm(dim=-1, keepdim=True)
                g = torch.randn_like(p)
                p.grad = (g - (g * unit).sum(-1, keepdim=True) * unit) / p.detach().norm(dim=-1, keepdim=True)
            optimizer.step()
            schedule.step()

    if resumed:
        run(60)
    with watch(model, optimizer, every=every, path=tmp_path / "log") as log:
        run(240 - 60 * resumed)
    records, layers = read(log.path)
    assert records.run.resumed == resumed
    for s, e in zip(layers, expected.of(records.run, layers), strict=True):
        # What v and the weights remember of gradients before the log is not known.
        assert np.abs(s.norm_rms / e.norm - 1).max() < (0.08 if resumed else 0.01)
        known = s.step > (40 if resumed else 0)
        assert np.abs(s.rotation_rms / e.rotation - 1)[known].max() < (0.05 if resumed else 0.03)
        assert s.rotation_rms[-1] / e.static[-1] < 0.8  # the static line does not know of the lag


def test_groups_whose_lr_differs_by_a_factor_go_together_and_alike() -> None:
    run, s = series(lr=np.linspace(2e-3, 1e-3, 30))
    other = replace(s, lr=3 * s.lr, norm_rms=1.1 * s.norm_rms)
    both = expected.of(run, [s, other])
    for alone, e in zip((expected.of(run, [s])[0], expected.of(run, [other])[0]), both, strict=True):
        np.testing.assert_allclose(e.rotation, alone.rotation, rtol=1e-7)


def test_layer_that_was_frozen_waits_and_one_that_joins_late_begins_then() -> None:
    run, whole = series()
    kept = np.r_[0:10, 20:30]  # no lines at steps 110 to 200
    frozen = one(**{k: v[kept] for k, v in vars(whole).items() if isinstance(v, np.ndarray)}, rule=(RULE,) * 20)
    steady = expected.of(run, [whole])[0]
    assert frozen.norm[10] == pytest.approx(steady.norm[10], rel=0.01)  # ten steps after it was left
    late = one(step=whole.step + 5000)
    np.testing.assert_allclose(late.rotation, steady.rotation, rtol=1e-7)


def test_one_line_is_a_log_too() -> None:
    _, s = series()
    first = {k: v[:1] for k, v in vars(s).items() if isinstance(v, np.ndarray)}
    assert one(**first, rule=(RULE,)).norm[0] == pytest.approx(0.6, rel=1e-4)


def test_muon_is_forecast_by_the_shape_of_its_matrix() -> None:
    e = one(rule=(rules.muon().as_dict(),) * 30)
    assert e.forecast
    assert (e.static > 0).all()


def test_the_rulebook_holds_every_rule() -> None:
    public = {name for name, f in vars(rules).items() if getattr(f, "__module__", "") == rules.__name__}
    assert {r.name for r in RULES.values()} == {name for name in public if not name.startswith("_")}


@pytest.mark.parametrize("name", RULES)
def test_every_rule_has_a_forecast_or_a_reason(name: str) -> None:
    decay = 1e-3 if RULES[name].decay == "independent" else 0.5
    e = one(rule=(RULES[name].as_dict(),) * 30, weight_decay=np.full(30, decay))
    assert e.forecast or e.instead or e.reason
    assert np.isfinite(e.rotation).all() or (e.reason and np.isnan(e.rotation).all())
    if e.forecast:
        assert e.norm[0] == pytest.approx(0.6, rel=0.01)
        assert (e.rotation > 0).all()


# No forecast --------------------------------------------------------------------------------------------------

held = np.where(np.arange(30) < 10, 5e-3, math.nan)
STATIC = {
    "raw": {"rule": (rules.sgd(0.9).as_dict(),) * 30},
    "rule": {"rule": (RULE,) * 20 + (rules.adamw((0.8, 0.999)).as_dict(),) * 10},
    "held": {"held": held},
    "norm": {"norm_rms": np.zeros(30)},
}


@pytest.mark.parametrize("why", STATIC)
def test_where_no_forecast_can_be_made_the_static_line_stands_and_a_sentence_says_why(why: str) -> None:
    e = one(**STATIC[why])
    assert not e.forecast
    assert e.instead.startswith(INSTEAD[why])
    assert "static equilibrium" in e.instead
    assert np.isfinite(e.rotation).all()
    free = np.isnan(STATIC[why].get("held", np.full(30, math.nan)))
    np.testing.assert_array_equal(e.rotation[free], e.static[free])


def test_every_reason_has_a_case() -> None:
    assert set(STATIC) == set(INSTEAD)


def test_what_was_held_is_what_is_expected() -> None:
    e = one(held=np.full(30, 5e-3))
    assert e.held.all()
    assert (e.rotation == 5e-3).all()
    assert np.isnan(e.static).all()
    assert not e.instead


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rule": (None,) * 30}, UNKNOWN_RULE),
        ({"rule": (rules.adam_l2().as_dict(),) * 30}, NEEDS_GRADIENT),
        ({"lr": np.full(30, math.nan)}, "No equilibrium exists"),
        ({"weight_decay": np.full(30, math.nan)}, "No equilibrium exists"),
        ({"weight_decay": np.full(30, 600.0)}, "must be below 1"),
        ({"lr": np.zeros(30)}, "No equilibrium exists"),
    ],
    ids=["unknown", "L2", "no lr", "no decay", "unstable", "lr 0"],
)
def test_what_nobody_can_predict_has_a_reason(changes: dict[str, Any], reason: str) -> None:
    e = one(**changes)
    assert np.isnan(e.rotation).all()
    assert reason in e.reason
