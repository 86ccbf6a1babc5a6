"""What the layers of a log were expected to do: the one place where "held, else forecast, else at rest" is decided.

    held       a rotational optimizer was told an angle
    forecast   the random walk from the norms that were measured first, along the lr and weight decay that were logged
    at rest    the static equilibrium of the moment, where a log does not hold what a forecast needs

Between logged steps lr and weight decay are taken as straight lines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from rotational import rule, theory
from rotational.correlation import Shape
from rotational.forecasts import propagate, setting_of
from rotational.outlook import Forecast
from rotational.records import Layer, Run, Series
from rotational.rule import Rule
from rotational.scale import Polar, Raw, Rms

Array = np.ndarray[Any, Any]

AT_ONCE = 1_000_000
"""Kept steps times layers that are propagated together, at most: what bounds the memory."""

UNKNOWN_RULE = (
    "Nothing is predicted, because the rule of this optimizer is not known. Name it: "
    "watch(model, optimizer, rule=rotational.rules.adamw())."
)
NEEDS_GRADIENT = (
    "With L2 regularisation in an update of one length (Adam, signs) the rotation depends on the size of each neuron's "
    "gradient, which a log does not hold. Each neuron has its own equilibrium."
)
AT_REST = (
    " The prediction is the static equilibrium of the moment: where a layer would settle if nothing changed any more."
)
INSTEAD = {
    "raw": "Under SGD the way to equilibrium depends on the size of the gradients, which a log does not hold.",
    "rule": "Momentum or betas changed during the run, which forecasts do not follow.",
    "held": "Rotation was held in a part of the run only.",
    "norm": "The first norm that was measured is 0 or no number, and no forecast can start there.",
}
"""Why there is no forecast, in words."""


@dataclass(frozen=True)
class Expected:
    """Expectations of one layer, each [T], NaN where there is none (half-life: infinity).

    rotation    radians per step, RMS over neurons: held, forecast, or at rest
    norm        RMS length of a weight vector; NaN where rotation is held, as the length then stays where it began
    static      rotation at rest at the lr and weight decay of the moment; NaN where it is held
    static_norm the norm there
    half_life   in steps, of the distance from rest
    held        where the rotation was held by the optimizer
    forecast    whether `rotation` is a forecast
    reason      why a rotation is missing at the end, in words; `instead` why it is that at rest and no forecast
    """

    rotation: Array
    norm: Array
    static: Array
    static_norm: Array
    half_life: Array
    held: Array
    forecast: bool = False
    reason: str = ""
    instead: str = ""


def of(run: Run, layers: Sequence[Series]) -> list[Expected]:
    """Expectations of every layer of a log, at each of its logged steps. A log never raises here."""
    found, batches = dict[int, Expected](), dict[Any, list[int]]()
    for i, s in enumerate(layers):
        known, why = _plain(s)
        if known is None:
            found[i] = _at_rest(s, why and INSTEAD[why])
            continue
        shape = _matrix(s.layer) if isinstance(known.scale, Polar) else None
        course = np.round(s.lr / s.lr.max(), 9)  # groups whose lr differs by a factor go together
        key = (known, shape, s.step.tobytes(), course.tobytes(), s.weight_decay.tobytes())
        batches.setdefault(key, []).append(i)
    for (known, shape, *_), members in batches.items():
        at_once = max(1, AT_ONCE // len(layers[members[0]].step))
        for start in range(0, len(members), at_once):
            part = members[start : start + at_once]
            those = [layers[i] for i in part]
            try:
                walked = _walked(run, known, shape, those)
            except ValueError as error:  # no law for this, in the words of the theory
                walked = [_at_rest(s, str(error)) for s in those]
            found.update(zip(part, walked, strict=True))
    return [found[i] for i in range(len(layers))]


def rule_name(data: Mapping[str, Any] | None) -> str:
    """A group's rule as it is shown."""
    return "unknown" if data is None else str(data["name"])


# At rest ------------------------------------------------------------------------------------------------------


class _State(NamedTuple):
    """A layer at rest; NaN and infinity where there is no such state, and why."""

    rotation: float = math.nan
    norm: float = math.nan
    half_life: float = math.inf
    reason: str = ""


def _at_rest(s: Series, instead: str) -> Expected:
    known = {id(r): None if r is None else rule.from_dict(r) for r in s.rule}  # most lines share one object
    rows = [
        _rest(known[id(r)], lr, wd, s.layer.size, _matrix(s.layer))
        for r, lr, wd in zip(s.rule, s.lr.tolist(), s.weight_decay.tolist(), strict=True)
    ]
    held = np.isfinite(s.held)
    static = np.where(held, math.nan, [r.rotation for r in rows])
    static_norm = np.where(held, math.nan, [r.norm for r in rows])
    reasons = [r.reason for r, holds in zip(rows, held.tolist(), strict=True) if r.reason and not holds]
    return Expected(
        rotation=np.where(held, s.held, static),
        norm=static_norm,
        static=static,
        static_norm=static_norm,
        half_life=np.array([r.half_life for r in rows], dtype=np.float64),
        held=held,
        reason=reasons[-1] if reasons else "",
        instead=instead and instead + AT_REST,
    )


@lru_cache(maxsize=1 << 16)  # layers of one size share their answers, and so do steps of one lr
def _rest(known: Rule | None, lr: float, weight_decay: float, size: int, matrix: Shape) -> _State:
    if not (lr > 0 and weight_decay > 0):
        return _State(reason="No equilibrium exists without a learning rate and weight decay.")
    if known is None:
        return _State(reason=UNKNOWN_RULE)
    shape = matrix if isinstance(known.scale, Polar) else None
    try:
        e = theory.equilibrium(known, lr, weight_decay, size=size, shape=shape)
    except ValueError as error:  # no law for this rule, or a step that is not stable: the page says which
        return _State(reason=str(error))
    if e.rotation is None:
        return _State(reason=NEEDS_GRADIENT)
    return _State(e.rotation, math.nan if e.norm is None else e.norm, e.half_life or math.inf)


def _matrix(layer: Layer) -> Shape:
    """A layer's weights as rows of neurons."""
    return layer.neurons, layer.size


# Forecast -----------------------------------------------------------------------------------------------------


def _plain(s: Series) -> tuple[Rule | None, str]:
    """The rule along which a layer can be forecast, or why it cannot: a key of `INSTEAD`, if it is to be told."""
    held = np.isfinite(s.held)
    if s.rule[0] is None or held.all():
        return None, ""
    if held.any():
        return None, "held"
    if any(r is not s.rule[0] and r != s.rule[0] for r in s.rule):
        return None, "rule"
    known = rule.from_dict(s.rule[0])
    if isinstance(known.scale, Raw):
        return None, "raw" if s.weight_decay.any() else ""
    if known.decay == "coupled" and not s.weight_decay.any():
        known = replace(known, decay="decoupled")  # L2 of nothing
    if known.decay == "coupled":
        return None, ""
    if not (np.isfinite(s.lr).all() and np.isfinite(s.weight_decay).all() and s.lr.any()):
        return None, ""
    if not (math.isfinite(s.norm_rms[0]) and s.norm_rms[0] > 0):
        return None, "norm"
    return known, ""


def _walked(run: Run, known: Rule, shape: Shape | None, layers: Sequence[Series]) -> list[Expected]:
    """Layers that share their rule, steps, weight decay and the course of lr."""
    first = layers[0]
    step = first.step
    # A layer that joined late was new to its optimizer then: its memory began to fill at that step.
    before = int(step[0]) - min(int(step[0]), run.every)
    burned = _burned(known, run.every) if run.resumed and not before else 0
    lr, decay = (_every_step(x, step, before, burned, run.every) for x in (first.lr, first.weight_decay))
    square = np.array([s.norm_rms[0] for s in layers]) ** 2
    size = np.array([float(s.layer.size) for s in layers])
    tops = np.array([s.lr.max() for s in layers])

    def walk(steps: int, start: Array, every: int) -> Forecast:
        """From E|w|^2 = `start`, [layers] or twice that."""
        many = len(start) // len(layers)
        columns = {"norm": np.sqrt(start), "size": np.tile(size, many), "gradient_norm": None}
        setting = setting_of("report", known, columns, len(start), shape=shape)
        scale = np.tile(tops / tops[0], many)
        with np.errstate(all="ignore"):  # a run that diverges has no forecast, and is no error here
            return propagate("report", setting, lr, decay, steps, columns["norm"], every, known=True, scale=scale)

    def after(start: Array) -> Array:
        """E|w|^2 at the first logged step."""
        norm = walk(lead, start, lead).norm
        assert norm is not None  # sizes are known
        return np.square(norm[-1])

    # Sought is the start from which the forecast passes through what was measured first: nearly linear in |w|^2, as the
    # length of a step hardly depends on the weights.
    lead = int(step[0]) - before + burned
    old, start = square / 4, square
    got_old, got = np.split(after(np.concatenate([old, start])), 2)
    for _ in range(4):
        if np.allclose(got, square, rtol=1e-5):
            break
        slope = (got - got_old) / np.where(start == old, 1.0, start - old)
        new = start + (square - got) / np.where(slope > 1e-3, slope, 1.0)
        old, got_old, start = start, got, np.clip(new, 1e-4 * square, 1e4 * square)
        got = after(start)
    at = step - before + burned
    every = int(np.gcd.reduce(at))
    f, kept = walk(int(at[-1]), start, every), at // every - 1
    half = math.log(2) / theory.relaxation(known)
    assert f.norm is not None
    assert f.static_norm is not None
    rests = f.static > 0
    static, static_norm = (np.where(rests, x, math.nan)[kept].T for x in (f.static, f.static_norm))
    columns = (f.rotation[kept].T, f.norm[kept].T, static, static_norm, half * f.timescale[kept].T)
    free = np.zeros(len(step), dtype=bool)
    return [Expected(*column, held=free, forecast=True) for column in zip(*columns, strict=True)]


def _every_step(values: Array, step: Array, before: int, burned: int, every: int) -> Array:
    """A value for each step after `before`, and nothing in `burned` steps ahead of them."""
    taken = np.arange(before + 1, step[-1] + 1)
    between = np.interp(taken, step, values)
    ahead = int(step[0]) - before - 1
    if ahead and len(step) > 1 and values[1] > values[0]:
        # Most runs start with a warm-up, whose line goes on to the left; whatever falls was no higher before.
        slope = (values[1] - values[0]) / (step[1] - step[0])
        between[:ahead] = np.maximum(values[0] - slope * np.arange(ahead, 0, -1), 0.0)
    nearest = step[np.searchsorted(step, taken)]
    between[nearest - taken >= every] = 0.0  # a layer without a line where one was due was frozen
    return np.concatenate([np.zeros(burned), between])


def _burned(known: Rule, every: int) -> int:
    """Steps without lr and decay in which the memories of an optimizer fill that was on its way when the log began."""
    remembers = 5 / (1 - known.memory.decay)
    if isinstance(known.scale, Rms):
        remembers = max(remembers, min(1 / (1 - known.scale.beta), 1000))
    return every * math.ceil(remembers / every)  # so that logged steps stay multiples
