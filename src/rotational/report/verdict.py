"""One layer's state in plain language: a pure function of what was measured and what was predicted.

    measured     RMS rotation over the layer's neurons, radians per step          [T logged steps]
    predicted    what was held, or forecast, or is the equilibrium                [T], NaN where unknown
    static       the equilibrium of the moment, where the prediction is a forecast
    half-lives   sum of (steps passed)/(half-life at that time): the clock by which equilibrium forms

The clock is exact for rules without and with gradients in their step alike: the excess
e = (predicted/measured)^2 - 1 halves in every half-life (it is the excess of |w|^2 for AdamW and Lion, of
|w|^4 for SGD, over its equilibrium). So the start of a log tells how long the rest has to take.

The word says how the layer stands to equilibrium, and the sentence also how it stands to the forecast. A layer that
turns as forecast is never called out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]

WITHIN = 1.15
"""In equilibrium: measured and predicted rotation agree to this factor."""
HELD = 0.02
"""Held: a rotational optimizer is this close to the rotation that it was told to hold."""
TOO_SHORT = 0.3
"""Half-lives below which no equilibrium can form; for AdamW it is a sum of lr*weight_decay of 0.1."""
AT_LEAST = 2.0
"""Half-lives that are always granted before a layer is called out."""
APPROACH = 0.9
"""Still moving: the distance from the prediction shrank below this share of what it was one window ago."""
WINDOW = 5
""""Now" is the last fifth of the logged steps: 1/WINDOW of them."""

Word = Literal["held", "in equilibrium", "warming up", "lagging", "out", "cannot form", "no prediction"]

MEANING: dict[Word, str] = {
    "held": "A rotational optimizer keeps the rotation that it was told to hold, to within 2%.",
    "in equilibrium": "Rotation is within 15% of that at rest: updates and weight decay balance.",
    "warming up": "Too few half-lives have passed since the log began, or it still moves towards equilibrium.",
    "lagging": "The schedule lowers lr*weight_decay faster than the weights can follow the equilibrium of the moment.",
    "out": "More than 15% off although enough time has passed: something beyond a random walk is at work.",
    "cannot form": "No equilibrium is possible: no weight decay, no learning rate, or far too few steps for a balance.",
    "no prediction": "The rule is unknown, or its rotation depends on something that the log does not hold.",
}


@dataclass(frozen=True)
class History:
    """What is known of one layer; arrays are [T], one value for each logged step.

    `half_life` is in steps (infinite where nothing decays), `held` says where the prediction is a rotation
    that the optimizer held, and `reason` why there is no prediction where there is none. `static` is None where the
    prediction is no forecast. `every` is the number of steps between logged ones, which also stand before the first.
    """

    step: Array
    measured: Array
    predicted: Array
    held: Array
    half_life: Array
    lr: Array
    weight_decay: Array
    every: int = 1
    reason: str = ""
    static: Array | None = None


@dataclass(frozen=True)
class Verdict:
    """A word and the sentence that explains it, with the numbers of the last fifth of the log."""

    word: Word
    sentence: str
    measured: float
    predicted: float | None
    ratio: float | None
    half_lives: float


def window(length: int) -> slice:
    """The last fifth of `length` logged steps, one of them at least.

    >>> window(12)
    slice(9, 12, None)
    """
    return slice(length - max(1, math.ceil(length / WINDOW)), length)


def clock(h: History) -> Array:
    """Half-lives that have passed at each logged step, [T]; 0 where the log begins."""
    gaps = np.diff(h.step, prepend=h.step[0] - min(h.step[0], h.every))
    return np.cumsum(gaps / np.where(np.isfinite(h.half_life) & (h.half_life > 0), h.half_life, math.inf))


def judge(h: History) -> Verdict:
    """The verdict on a layer, from its whole history; `MEANING` says what each word stands for.

    >>> def flat(x):
    ...     return np.full(100, x)
    >>> steps = np.arange(10, 1010, 10)
    >>> h = History(steps, flat(1.0e-2), flat(1.1e-2), flat(False), flat(200.0), flat(2e-3), flat(1.0), every=10)
    >>> judge(h).word, round(judge(h).half_lives, 6)
    ('in equilibrium', 5.0)
    """
    if len(h.step) == 0:
        raise ValueError("judge: the history is empty; a verdict needs one logged step or more.")
    now, time = window(len(h.step)), clock(h)
    both = np.isfinite(h.measured) & np.isfinite(h.predicted) & (h.predicted > 0)
    passed = float(time[-1])
    if not both[now].any():
        measured = _rms(h.measured[now])
        return Verdict(*_without_prediction(h, measured, now), measured, None, None, passed)
    measured, predicted = _rms(h.measured[now][both[now]]), _rms(h.predicted[now][both[now]])
    ratio = measured / predicted
    if h.held[now][both[now]].all():
        said = _when_held(ratio, h.measured[now][both[now]] / h.predicted[now][both[now]])
    elif h.static is None:
        said = _when_free(h, both, time)
    else:
        said = _beside_forecast(h, ratio, h.static, time)
    return Verdict(*said, measured, predicted, ratio, passed)


def _without_prediction(h: History, measured: float, now: slice) -> tuple[Word, str]:
    if not math.isfinite(measured):
        return "out", "No finite rotation was measured at the end: the weights hold NaN or infinity."
    if not h.lr[now].any():
        return "cannot form", "The learning rate is 0: nothing moves."
    if not h.weight_decay[now].any():
        return (
            "cannot form",
            "No weight decay: the norm keeps growing and the rotation falling, with nothing to balance.",
        )
    return "no prediction", h.reason or "Nothing was predicted for these steps."


def _when_held(ratio: float, ratios: Array) -> tuple[Word, str]:
    # Held means held on average over time: a short window may miss it by its own noise, and no more.
    noise = float(np.std(ratios, ddof=1) / math.sqrt(len(ratios))) if len(ratios) > 1 else 0.0
    if abs(ratio - 1) <= HELD + min(2 * noise, HELD):
        return "held", f"{_percent(ratio)} the rotation asked for."
    why = "some neurons get no gradient, or something else changes these weights after the step"
    return "out", f"{_percent(ratio)} the rotation to hold: {why}."


def _beside_forecast(h: History, ratio: float, static: Array, time: Array) -> tuple[Word, str]:
    """The word against the equilibrium of the moment; the sentence tells of the forecast first."""
    now = window(len(h.step))
    rest = replace(h, predicted=static, static=None)
    both = np.isfinite(rest.measured) & np.isfinite(static) & (static > 0)
    meets = 1 / WITHIN <= ratio <= WITHIN
    told = f"{_percent(ratio)} the forecast." if meets else f"{_times(ratio)} for the forecast."
    if not both[now].any():
        word, said = _without_prediction(rest, _rms(h.measured[now]), now)
    else:
        word, said = _when_free(rest, both, time)
        said = said.replace("the prediction.", "equilibrium.")
        if word == "out" and meets:
            apart = _ratio(rest, both, now)
            word = "lagging" if apart < 1 else "warming up"
            said = f"{_times(apart)} for equilibrium, as a random walk is after {time[-1]:.2g} half-lives here."
    return word, f"{told} {said}"


def _when_free(h: History, both: Array, time: Array) -> tuple[Word, str]:
    ratio = _ratio(h, both, window(len(h.step)))
    if ratio == 0:
        return "out", "It does not move at all: no gradient reaches these weights, or they are frozen."
    passed, off = float(time[-1]), _times(ratio)
    if 1 / WITHIN <= ratio <= WITHIN:
        early = f" Only {passed:.2g} half-lives have passed in this log, so it may not stay." if passed < 1 else ""
        return "in equilibrium", f"{_percent(ratio)} the prediction.{early}"
    if passed < TOO_SHORT:
        return "cannot form", _too_short(h, passed)
    if ratio < 1 and _falls(h.predicted, time):
        return (
            "lagging",
            f"{off} for equilibrium: lr*weight_decay falls faster than weights follow.",
        )
    needed = _needed(h, both, time)
    if passed < needed:
        return "warming up", f"{off} for equilibrium: {passed:.2g} of about {needed:.2g} half-lives have passed."
    if _approaches(h, both):
        return "warming up", f"{off} for equilibrium, and still moving towards it."
    return "out", f"{off}, after {passed:.2g} half-lives. {_hint(ratio)}"


def spread(rotation: Array) -> float | None:
    """p95/p5 over neurons of each neuron's own RMS rotation, over the last fifth of a [T, neurons] log.

    Infinite where neurons at the 5th percentile stand still; None where nothing finite was logged.

    >>> round(spread(np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 4.0]])), 3)
    3.455
    """
    own = np.sqrt(np.mean(np.square(rotation[window(len(rotation))]), axis=0))
    own = own[np.isfinite(own)]
    if own.size == 0 or not own.any():
        return None
    low, high = (float(q) for q in np.quantile(own, (0.05, 0.95)))
    return high / low if low > 0 else math.inf


def _needed(h: History, both: Array, time: Array) -> float:
    """Half-lives from the first logged step until the excess at the start has faded, and one to spare."""
    first = slice(0, max(1, len(h.step) // WINDOW))
    if not both[first].any():
        return AT_LEAST
    # The median passes over the first few steps, which turn more because momentum has nothing to average yet.
    ratio = float(np.median(h.measured[first][both[first]] / h.predicted[first][both[first]]))
    start = abs(ratio**-2 - 1) if ratio > 0 else 0.0
    faded = 1 - WITHIN**-2
    return max(AT_LEAST, float(time[first].mean()) + 1 + math.log2(start / faded)) if start > 0 else AT_LEAST


def _approaches(h: History, both: Array) -> bool:
    now = window(len(h.step))
    before = slice(max(0, 2 * now.start - now.stop), now.start)
    if not both[before].any():
        return False
    last, earlier = _ratio(h, both, now), _ratio(h, both, before)
    return earlier > 0 and abs(math.log(last)) < APPROACH * abs(math.log(earlier))


def _falls(predicted: Array, time: Array) -> bool:
    """Whether the prediction fell by more than the tolerance within the last half-life."""
    recent = predicted[(time >= time[-1] - 1) & np.isfinite(predicted) & (predicted > 0)]
    return len(recent) > 1 and float(recent[-1]) * WITHIN < float(recent.max())


def _too_short(h: History, passed: float) -> str:
    steps = int(h.step[-1] - h.step[0] + min(h.step[0], h.every))
    need = float(f"{AT_LEAST * steps / passed:.2g}") if passed > 0 else 0.0
    about = f"; equilibrium needs about {need:,.0f} steps or more at these settings" if need else ""
    return f"Only {passed:.2g} half-lives in {steps:,} step{'s' * (steps > 1)}{about}."


def _hint(ratio: float) -> str:
    if ratio > 1:
        return "A gradient that pulls the weights inward acts as extra decay (no normalisation after this layer?)."
    return "Gradients that agree from step to step, push outward, or reach few neurons (rare tokens) slow it down."


def _ratio(h: History, both: Array, part: slice) -> float:
    return _rms(h.measured[part][both[part]]) / _rms(h.predicted[part][both[part]])


def _rms(x: Array) -> float:
    x = x[np.isfinite(x)]
    return float(np.sqrt(np.mean(np.square(x)))) if x.size else math.nan


def _percent(ratio: float) -> str:
    if abs(ratio - 1) < 0.0005:
        return "Within 0.1% of"
    return f"{100 * abs(ratio - 1):.1f}% {'above' if ratio > 1 else 'below'}"


def _times(ratio: float) -> str:
    return f"{ratio:.3g} times too fast" if ratio > 1 else f"{1 / ratio:.3g} times too slow"
