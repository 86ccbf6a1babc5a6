"""Forecasts of the param groups of an optimizer along its scheduler: what `predict(optimizer, scheduler, steps)` adds.

Groups that share a rule, a weight decay and the shape of their lr schedule are propagated together, whatever their
sizes, norms and peak learning rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from rotational import theory
from rotational.control import Control
from rotational.correlation import Shape
from rotational.forecasts import known, propagate, setting_of
from rotational.outlook import Forecast
from rotational.rule import Rule
from rotational.scale import Polar, Raw

Lr = float | np.ndarray


class Kind(NamedTuple):
    """Neurons of one parameter: their number of weights, initial RMS length (None: not known), and its name.

    `matrix` is the shape as rows of neurons, which Muon needs.
    """

    size: int
    norm: float | None
    name: str
    matrix: Shape


@dataclass(frozen=True)
class Planned:
    """A param group: its rule, its lr at each step, and the neurons in it; `control` where rotation is held."""

    rule: Rule
    lr: Lr
    weight_decay: float
    kinds: tuple[Kind, ...]
    control: Control | None = None
    taken: int = 0


class Outcome(NamedTuple):
    """The forecast of a group, a column for each kind, or why there is none."""

    forecast: Forecast | None
    reason: str = ""


GRADIENT = "the rotation depends on the size of the gradient: forecast(..., gradient_norm=, size=) gives it"
NO_NORM = "The initial norms are left out, because SGD's norm is in units of a gradient that is not known."


def forecasts(groups: Sequence[Planned], steps: int, every: int) -> list[Outcome]:
    """One outcome for each group."""
    found: list[Outcome | None] = [None] * len(groups)
    waiting: list[int] = []
    for i, group in enumerate(groups):
        if not group.kinds:
            found[i] = Outcome(None, "no neurons, nothing that rotates")
        elif group.control is not None:
            found[i] = Outcome(_held(group, steps, every))
        elif (
            theory.depends_on_gradient(setting_of("predict", group.rule, _NOTHING, 1)) if _plain(group.rule) else False
        ):
            found[i] = Outcome(None, GRADIENT)
        elif not np.any(group.lr):
            found[i] = Outcome(None, "nothing moves")
        else:
            waiting.append(i)
    while waiting:
        first = groups[waiting[0]]
        multiples: dict[int, bool] = {}  # groups often share one array, and reading it takes longer than all else
        together = [i for i in waiting if _alike(first, groups[i], multiples)]
        waiting = [i for i in waiting if i not in together]
        for i, outcome in zip(together, _together([groups[i] for i in together], steps, every), strict=True):
            found[i] = outcome
    return [outcome for outcome in found if outcome is not None]


_NOTHING: dict[str, np.ndarray | None] = {"norm": None, "size": np.array([2.0]), "gradient_norm": np.array([1.0])}


def _plain(rule: Rule) -> bool:
    return not isinstance(rule.scale, Polar)


def _alike(a: Planned, b: Planned, multiples: dict[int, bool]) -> bool:
    """Whether b's lr is a multiple of a's throughout, and all else the same."""
    if (a.rule, a.weight_decay, _matrix(a)) != (b.rule, b.weight_decay, _matrix(b)):
        return False
    if a.lr is b.lr or (isinstance(a.lr, float) and isinstance(b.lr, float)):
        return True
    if isinstance(a.lr, float) or isinstance(b.lr, float):
        return False
    if id(b.lr) not in multiples:
        multiples[id(b.lr)] = bool(np.allclose(a.lr * np.max(b.lr), b.lr * np.max(a.lr), rtol=1e-12, atol=0.0))
    return multiples[id(b.lr)]


def _matrix(group: Planned) -> Shape | None:
    """The one shape of a group whose matrices are orthogonalised; groups of several shapes are split before."""
    return group.kinds[0].matrix if isinstance(group.rule.scale, Polar) else None


def _together(groups: Sequence[Planned], steps: int, every: int) -> list[Outcome]:
    if isinstance(groups[0].rule.scale, Polar):
        return [_by_shape(group, steps, every) for group in groups]
    return _columns(groups, steps, every, None)


def _by_shape(group: Planned, steps: int, every: int) -> Outcome:
    """Muon: one propagation for each shape of matrix."""
    columns: dict[int, Forecast] = {}
    for shape in {kind.matrix for kind in group.kinds}:
        members = [i for i, kind in enumerate(group.kinds) if kind.matrix == shape]
        part = replace(group, kinds=tuple(group.kinds[i] for i in members))
        (outcome,) = _columns([part], steps, every, shape)
        if outcome.forecast is None:
            return outcome
        columns |= {i: outcome.forecast.neuron(k) for k, i in enumerate(members)}
    return Outcome(_joined([columns[i] for i in range(len(group.kinds))]))


def _columns(groups: Sequence[Planned], steps: int, every: int, shape: Shape | None) -> list[Outcome]:
    rule, weight_decay, lr = groups[0].rule, groups[0].weight_decay, groups[0].lr
    kinds = [kind for group in groups for kind in group.kinds]
    top = float(np.max(lr))
    scale = np.array([float(np.max(group.lr)) / top for group in groups for _ in group.kinds])
    norms = [kind.norm for kind in kinds]
    notes: tuple[str, ...] = ()
    given: np.ndarray | None = None
    if all(norm is not None for norm in norms):
        given = np.array(norms, dtype=np.float64)
        if isinstance(rule.scale, Raw):
            given, notes = None, (NO_NORM,)
    arrays = {"norm": given, "size": np.array([float(kind.size) for kind in kinds]), "gradient_norm": None}
    try:
        setting = setting_of("predict", rule, arrays, len(kinds), shape=shape)
        whole = propagate(
            "predict", setting, lr, weight_decay, steps, given, every, known=known(setting, arrays), scale=scale
        )
    except ValueError as error:
        return [Outcome(None, str(error))] * len(groups)
    whole = replace(whole, notes=(*whole.notes, *notes))
    ends = np.cumsum([len(group.kinds) for group in groups])
    return [Outcome(_some(whole, end - len(g.kinds), end)) for g, end in zip(groups, ends.tolist(), strict=True)]


def _some(whole: Forecast, start: int, end: int) -> Forecast:
    arrays = {f.name: getattr(whole, f.name) for f in fields(whole)}
    return replace(
        whole,
        **{k: x[:, start:end] for k, x in arrays.items() if isinstance(x, np.ndarray) and x.ndim == 2},
    )


def _joined(columns: Sequence[Forecast]) -> Forecast:
    first = columns[0]
    together: dict[str, Any] = {}
    for f in fields(first):
        values = [getattr(column, f.name) for column in columns]
        if isinstance(values[0], np.ndarray) and f.name != "step":
            together[f.name] = np.stack(values, axis=1)
    return replace(first, **together)


def _held(group: Planned, steps: int, every: int) -> Forecast:
    """A rotational group: norms stay, and the rotation is what its control holds."""
    assert group.control is not None
    step = np.arange(every, steps + 1, every) if steps >= every else np.array([steps])
    lr = group.lr[step - 1] if isinstance(group.lr, np.ndarray) else np.full(len(step), group.lr)
    rotation = np.array(
        [
            group.control.rotation(group.rule, x, group.weight_decay, group.taken + t - 1) if x > 0 else 0.0
            for x, t in zip(lr.tolist(), step.tolist(), strict=True)
        ]
    )
    shape = (len(step), len(group.kinds))
    lr_t, turned = (np.broadcast_to(x[:, None], shape) for x in (lr, rotation))
    norms = [kind.norm for kind in group.kinds]
    norm = None if None in norms else np.broadcast_to(np.array(norms, dtype=np.float64), shape)
    taken = np.broadcast_to(np.asarray(group.rule.shrink(lr, group.weight_decay))[:, None], shape)
    with np.errstate(divide="ignore"):
        timescale = np.where(taken > 0, 1 / taken, np.inf)
    return Forecast(
        rule=group.rule,
        step=step,
        weight_decay=np.full(shape, group.weight_decay),
        norm=norm,
        update=None if norm is None else 2 * np.sin(turned / 2) * norm,
        static=turned,
        static_norm=norm,
        reached=np.ones(shape),
        timescale=timescale,
        held=True,
        lr=lr_t,
        rotation=turned,
    )
