"""Forecast: norm and rotation at every step of a run that has not begun, for any rule and any schedule.

The second moments of the weights are followed (dynamics/): from any norm, through the optimizer's first steps, along
any lr and weight decay. Derivation and simulation: docs/theory.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rotational import _check, given, limits, scaling, schedule, theory
from rotational.correlation import Shape
from rotational.dynamics.path import Path, Told, follow
from rotational.dynamics.setting import Setting
from rotational.dynamics.settled import rest
from rotational.given import setting_of
from rotational.outlook import AtBatchSize, BatchSizes, Forecast
from rotational.rule import Rule
from rotational.scale import Raw

AT_REST = "No initial norm was given: the run starts at the equilibrium of its highest learning rate."

MOST = 100_000_000
"""Steps that are kept at most: beyond, a slip of the pen is likelier than the memory for it."""


def forecast(
    rule: Rule,
    *,
    lr: schedule.Schedule,
    weight_decay: schedule.Schedule,
    steps: int,
    norm: ArrayLike | None = None,
    size: ArrayLike | None = None,
    gradient_norm: ArrayLike | None = None,
    scale_invariant: bool = True,
    drift: float = 0.0,
    batch_size: float | None = None,
    noise_scale: float | None = None,
    radial: float = 0.0,
    target_norm: float = 0.0,
    shape: Shape | None = None,
    kurtosis: float | None = 3.0,
    every: int = 1,
) -> Forecast:
    """Forecast `steps` steps of neurons under `rule`: rotation, norm and update size of each.

    lr, weight_decay    a number; a number for each step; a function of the steps taken before; for lr a torch
                        scheduler, which is read and not stepped
    norm                initial RMS length; None starts at the equilibrium of the highest lr
    size                weights of a neuron, C
    gradient_norm       RMS norm of its gradient: at |w| = 1 where the gradient is `scale_invariant` (orthogonal to w,
                        shrinking as 1/|w|), at any w where it is not (isotropic)
    drift               |E g|/gradient_norm, the share of the gradient that is its mean, of one direction throughout
    batch_size          with `noise_scale`, both in examples or both in tokens, in place of `drift`: the gradient noise
                        scale is the batch size at which mean and noise are equal, drift^2 = B/(B + noise_scale)
    radial              <u, w>/|w|^2 that the loss adds (scale-sensitive weights): decay D = lr (wd + radial)
    target_norm         norm towards which decay pulls, D (1 - target_norm/|w|)
    shape               (rows, columns) of the matrix, which Muon needs; all is said of one row
    kurtosis            of the gradient's entries where the rule does not say; None takes Adam's v as exact
    every               steps from one kept value to the next: what bounds the memory

    `norm`, `size` and `gradient_norm` may be arrays of G neurons; then the results are [T, G], else [T]. What is
    needed and not given is refused: Adam's norm needs `size`, SGD's `gradient_norm`, Adam+L2 both.

    The noise is white, and so is the walk; the first steps, the memory's filling, a second moment that lags, a
    schedule and finite lr*weight_decay are all followed. Runs longer than 6000 steps are integrated in blocks after
    their beginning. `Forecast.notes` says where the simulator found a forecast off.

    Raises TypeError or ValueError for numbers out of range and schedules that are too short.

    >>> from rotational import rules
    >>> cosine = lambda t: 3e-3 * (0.5 + 0.5 * math.cos(math.pi * t / 10_000))
    >>> f = forecast(rules.adamw(), lr=cosine, weight_decay=0.1, steps=10_000, norm=0.58, size=256)
    >>> late = f.at(9000)
    >>> round(late["rotation"] / late["static"], 2)      # at 90% of a cosine the norm lags
    0.23

    Source: docs/theory.md; Kosson et al. 2024 (arXiv 2305.17212) for the random walk; McCandlish et al. 2018 (arXiv
    1812.06162) for the noise scale.
    """
    call = "forecast"
    steps, every = _check.whole(call, "steps", steps), _check.whole(call, "every", every)
    scale_invariant = _check.flag(call, "scale_invariant", scale_invariant)
    if steps // every > MOST:
        raise ValueError(
            f"{call}(steps={steps}, every={every}): would keep {steps // every} steps, more than {MOST}; give a larger "
            "every=."
        )
    drift = given.drift_of(call, drift, batch_size, noise_scale)
    arrays = {
        name: given.neurons(call, name, x)
        for name, x in (("norm", norm), ("size", size), ("gradient_norm", gradient_norm))
    }
    count = given.count(call, steps, arrays)
    lrs = schedule.values(call, "lr", lr, steps)
    decays = schedule.values(call, "weight_decay", weight_decay, steps)
    setting = setting_of(call, rule, arrays, count, scale_invariant, drift, radial, target_norm, shape, kurtosis)
    given.directed(call, setting)
    result = propagate(call, setting, lrs, decays, steps, arrays["norm"], every, known=known(setting, arrays))
    in_range(call, result)
    return result if any(x is not None and np.ndim(x) for x in (norm, size, gradient_norm)) else result.neuron(0)


def at_batch_sizes(
    rule: Rule,
    batch_sizes: Sequence[float],
    *,
    lr: schedule.Schedule,
    weight_decay: schedule.Schedule,
    steps: int,
    batch_size: float,
    noise_scale: float | None = None,
    follow: bool = True,
    gradient_norm: float | None = None,
    unit: str = "examples",
    every: int = 1,
    **told: Any,
) -> BatchSizes:
    """A run at other batch sizes, with the same lr, weight decay and data: rotation, norm, timescale, transient.

        E|g|^2 = |G|^2 (1 + noise_scale/B),    drift^2 = B/(B + noise_scale),    steps = `steps` batch_size/B

    batch_size      of the run that `steps`, the schedules and `gradient_norm` describe; these follow from it at each
                    of `batch_sizes`, schedules stretched to as many steps as the data then make
    noise_scale     batch size at which a gradient is half mean, half noise (in squares); None for noise alone
    follow          whether forecasts follow the mean, which takes 70 us for each step; else its share is only told, and
                    gradients of that size are noise
    unit            what a batch is counted in, in words; `noise_scale` counts the same
    told            what else `forecast` takes of one neuron: norm, size, shape, scale_invariant and so on

    A mean that is followed keeps its direction throughout the run, the most that it can do; noise alone is the least.
    Raises what `forecast` raises, ValueError for more than 1000 batch sizes or arrays of neurons, and TypeError for a
    `drift`, which follows from `noise_scale`.

    >>> from rotational import rules
    >>> found = at_batch_sizes(
    ...     rules.adamw(), [64, 256], lr=1e-2, weight_decay=0.1, steps=4000, batch_size=256, norm=0.3, size=64
    ... )
    >>> [(row.steps, row.timescale, row.timescale * row.batch_size, round(row.transient, 2)) for row in found]
    [(16000, 1000.0, 64000.0, 0.06), (4000, 1000.0, 256000.0, 0.23)]

    Source: McCandlish et al. 2018 (arXiv 1812.06162) for the noise scale; `forecast`.
    """
    call = "at_batch_sizes"
    steps, here = _check.whole(call, "steps", steps), _check.number(call, "batch_size", batch_size, low=0, above=True)
    if noise_scale is not None:
        noise_scale = _check.number(call, "noise_scale", noise_scale, low=0, above=True)
    given.of_one(call, told | {"gradient_norm": gradient_norm})
    courses = [schedule.values(call, name, x, steps) for name, x in (("lr", lr), ("weight_decay", weight_decay))]
    rows: list[AtBatchSize] = []
    for i, size in enumerate(given.several(call, "batch_sizes", batch_sizes)):
        there = _check.number(call, f"batch_sizes[{i}]", size, low=0, above=True)
        count = round(steps * here / there)
        if count < 1:
            raise ValueError(
                f"{call}(batch_sizes[{i}]={size:g}): one step would take more than the run's {steps * here:g} {unit}."
            )
        # The same lr at the same share of the run: the middle of a step tells which of the old ones it was in.
        at = ((np.arange(count) + 0.5) * steps / count).astype(int)
        drift, grown = scaling.signal(noise_scale, there, here)
        gradient = None if gradient_norm is None else gradient_norm * grown
        lrs, decays = (x[at] if isinstance(x, np.ndarray) else x for x in courses)
        there_told: dict[str, Any] = {
            "lr": lrs,
            "weight_decay": decays,
            "gradient_norm": gradient,
            "drift": drift * follow,
        }
        rows.append(
            AtBatchSize(size, count, drift, grown, forecast(rule, steps=count, every=every, **told, **there_told))
        )
    matters = "norm" if isinstance(rule.scale, Raw) else "size" if rule.decay == "coupled" else "mean"
    return BatchSizes(rows, unit, noise_scale, follow, _MATTERS[matters])


_MATTERS = {
    "mean": "The size of the gradient cancels under this optimizer: noise alone turns weights as far in a step at any "
    "batch size, and only the share of the mean moves that. The timescale stays in steps, and so grows with the batch.",
    "size": "This decay is divided by the size of the gradient: beside the smaller gradients of larger batches it is "
    "stronger, and weights turn further in a step. The share of the mean moves the rotation too.",
    "norm": "The size of the gradient sets the norm at rest, and how far the start is from it, not the rotation there; "
    "only the share of the mean moves that. The timescale stays in steps, and so grows with the batch.",
}
"""What of the gradient a rule's rotation depends on."""


def propagate(
    call: str,
    setting: Setting,
    lr: float | np.ndarray,
    decay: float | np.ndarray,
    steps: int,
    norm: np.ndarray | None,
    every: int,
    *,
    known: bool,
    scale: np.ndarray | None = None,
    decays: np.ndarray | None = None,
) -> Forecast:
    """The forecast of a checked setting; `scale` multiplies lr and `decays` the decay, an entry for each neuron.

    lr may be courses [K, T], and `scale` then tells the mixture of each neuron, [K, G] (see `Told`).
    """
    told = Told(setting, lr, decay, np.ones_like(setting.size) if scale is None else scale, steps, decays)
    _bounded(call, setting, told)
    notes: list[str] = []
    if norm is None:
        square = _at_highest(call, setting, told)
        notes.append(AT_REST)
    else:
        with np.errstate(over="ignore", under="ignore"):
            square = np.broadcast_to(norm**2, setting.size.shape) + 0.0
    initial = np.sqrt(square) if known else None
    path = follow(setting, told, square, every)
    notes += limits.notes(setting, told, square, path)
    return _result(setting, path, initial, tuple(notes))


def in_range(call: str, result: Forecast) -> None:
    """Raise ValueError where norms or rotations are not finite; it names the first step."""
    series = (result.rotation, result.norm, result.update)
    lost = ~np.logical_and.reduce([np.isfinite(x) for x in series if x is not None])
    if lost.any():
        first, which = np.argwhere(lost)[0]
        of = f" of neuron {which}" if lost.shape[1] > 1 else ""
        raise ValueError(
            f"{call}({result.rule.title}): at step {int(result.step[first])} squares or quotients{of} leave the range "
            "of numbers, or the step is not stable. Give norm and gradient_norm in units nearer to 1, and an lr "
            "at which training does not diverge."
        )


def _result(setting: Setting, path: Path, initial: np.ndarray | None, notes: tuple[str, ...]) -> Forecast:
    known = initial is not None
    norm, settled = np.sqrt(path.square), np.sqrt(path.settled)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = norm / settled
        reached = np.where(settled > 0, np.minimum(ratio, 1 / ratio), 0.0)
        timescale = np.where(path.delta > 1e-100, 1 / path.delta, math.inf)
    return Forecast(
        rule=setting.rule,
        step=path.step,
        lr=np.broadcast_to(path.lr, norm.shape),
        weight_decay=np.broadcast_to(path.decay, norm.shape),
        rotation=path.rotation,
        norm=norm if known else None,
        update=path.update if known else None,
        static=path.static,
        static_norm=settled if known else None,
        reached=np.nan_to_num(reached),
        timescale=timescale,
        initial=initial,
        notes=notes,
    )


def known(setting: Setting, arrays: dict[str, np.ndarray | None]) -> bool:
    """Whether norms are in the user's own units."""
    if isinstance(setting.rule.scale, Raw):
        return arrays["gradient_norm"] is not None
    return setting.known and (not theory.depends_on_gradient(setting) or arrays["gradient_norm"] is not None)


def _bounded(call: str, setting: Setting, told: Told) -> None:
    """Refuse a decay that takes the whole weight in one step."""
    rule = setting.rule
    if rule.decay == "coupled" and not isinstance(rule.scale, Raw):
        return  # divided by the size of the gradient, it cannot take more than the rule's step

    def taken(lr: Any) -> Any:  # every decay but the independent goes with lr
        share = lr * told.decay if rule.decay == "coupled" else rule.shrink(lr, told.decay, float(np.max(lr)) or None)
        return share * float(np.max(told.decays)) if rule.decay == "independent" else share

    if np.max(taken(told.most(told.decays))) >= 1:
        shares = taken(told.most_at_each(told.decays))
        at = int(np.argmax(shares))
        raise ValueError(
            f"{call}(lr, weight_decay): at step {at} one step would remove the whole weight, for its decay is "
            f"{float(np.max(shares)):g}. lr*weight_decay must be below 1."
        )


def _at_highest(call: str, setting: Setting, told: Told) -> np.ndarray:
    """E|w|^2 at the equilibrium of the highest lr."""
    at = told.highest
    square, law = rest(setting, told.at(at))
    square = np.broadcast_to(square, setting.size.shape) + 0.0
    if not np.all(np.isfinite(square) & (law.loss > 0) & (square > 0) & (law.gain > 0)):
        raise ValueError(
            f"{call}(norm=None): there is no equilibrium to start from at the highest lr, "
            f"{float(np.max(told.peaks)):g} (step {at}). Give the initial norm."
        )
    return square
