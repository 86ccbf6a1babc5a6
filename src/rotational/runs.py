"""Forecasts of the param groups of an optimizer along its scheduler: what `predict(optimizer, scheduler, steps)` adds.

Neurons that share a rule and the shape of their lr schedule (and for Muon that of their matrix) are propagated
together, whatever their groups, sizes, norms, weight decays and peak learning rates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from rotational import theory
from rotational.control import Control
from rotational.correlation import Shape
from rotational.forecasts import AT_REST, in_range, known, propagate, setting_of
from rotational.outlook import Forecast
from rotational.rule import Rule
from rotational.scale import Polar, Raw

Lr = float | np.ndarray
"""A number, one for each step, or courses [K, T] of which a group has a mixture."""

Factor = float | np.ndarray
"""What a group's lr is of that: a factor, or [K]."""


class Kind(NamedTuple):
    """Neurons of one parameter: their number of weights, initial RMS length (None: not known), and its name.

    `matrix` is the shape as rows of neurons, which Muon needs; `gradient` the RMS norm of a neuron's gradient at length
    1 (None: not known).
    """

    size: int
    norm: float | None
    name: str
    matrix: Shape
    gradient: float | None = None


@dataclass(frozen=True)
class Planned:
    """A param group: its rule, its lr at each step (times `scale`, or a mixture of courses), and the neurons in it;
    `control` where rotation is held. Groups that share an lr array are propagated together. `decay` multiplies weight
    decay at each step, beside an lr of one course.
    """

    rule: Rule
    lr: Lr
    weight_decay: float
    kinds: tuple[Kind, ...]
    control: Control | None = None
    taken: int = 0
    scale: Factor = 1.0
    decay: np.ndarray | None = None

    @property
    def top(self) -> float:
        """The highest lr."""
        if isinstance(self.lr, np.ndarray) and self.lr.ndim == 2:
            return float(np.max(self.scale @ self.lr))
        return float(self.scale * np.max(self.lr))

    @property
    def measured(self) -> bool:
        """Whether the gradient of all its neurons is known."""
        return all(kind.gradient is not None for kind in self.kinds)

    @property
    def still(self) -> bool:
        """Whether lr is 0 at every step."""
        return not any(
            np.any(s) and np.any(x) for s, x in zip(np.ravel(self.scale), np.atleast_2d(self.lr), strict=True)
        )

    def at(self, step: np.ndarray) -> np.ndarray:
        """lr of these steps, which count from 1."""
        if not isinstance(self.lr, np.ndarray):
            return np.full(len(step), self.scale * self.lr)
        lr = self.lr[..., step - 1]
        return np.asarray(self.scale) @ lr if lr.ndim == 2 else self.scale * lr


class Outcome(NamedTuple):
    """The forecast of a group, a column for each kind, or why there is none."""

    forecast: Forecast | None
    reason: str = ""


Columns = list[tuple[int, int]]
"""Neurons that are propagated together, each as (its group, its place there)."""

GRADIENT = "the rotation depends on the size of the gradient: predict(..., gradient_norm=) gives it"
GROWTH = (
    "without weight decay the norm grows in units of a gradient that is not known: predict(..., model=, "
    "gradient_norm=) gives it"
)
NO_START = (
    "without weight decay there is no equilibrium to start from: predict(..., model=) takes the model's own norms"
)
NO_NORM = (
    "The model's norms are left out, because SGD's norm is in units of a gradient that is not known: the run starts at "
    "the equilibrium of its highest learning rate. predict(..., gradient_norm=) takes them."
)
ZERO = "Weights that start at zero are counted from the length that one step gives them."


def forecasts(groups: Sequence[Planned], steps: int, every: int) -> list[Outcome]:
    """One outcome for each group."""
    # L2 of nothing is no decay, and then nothing depends on the size of Adam's gradient.
    groups = [replace(g, rule=replace(g.rule, decay="decoupled")) if g.weight_decay == 0 else g for g in groups]
    found: dict[int, Outcome] = {}
    batches: dict[Any, Columns] = {}
    for i, group in enumerate(groups):
        if group.control is not None:
            found[i] = _held(group, steps, every)
        elif reason := _lacks(group):
            found[i] = Outcome(None, reason)
        else:
            for k, kind in enumerate(group.kinds):
                shape = kind.matrix if isinstance(group.rule.scale, Polar) else None
                course = id(group.lr) if isinstance(group.lr, np.ndarray) else None
                decay = None if group.decay is None else id(group.decay)
                key = (group.rule, group.weight_decay > 0, course, decay, shape, group.measured)
                batches.setdefault(key, []).append((i, k))
    columns: dict[tuple[int, int], tuple[Forecast, int] | str] = {}
    for (*_, shape, _), members in batches.items():
        columns |= _together(groups, members, steps, every, shape)
    for i, group in enumerate(groups):
        if i not in found:
            parts = [columns[i, k] for k in range(len(group.kinds))]
            reason = next((part for part in parts if isinstance(part, str)), "")
            found[i] = (
                Outcome(None, reason)
                if reason
                else Outcome(_gathered([part for part in parts if not isinstance(part, str)]))
            )
    return [found[i] for i in range(len(groups))]


def courses(stretches: Iterable[list[np.ndarray]]) -> list[tuple[np.ndarray, float]]:
    """Learning rates, read a stretch of steps after another, as (course, factor): multiples of one course share it.

    Only courses are kept whole, however many groups there are: 8 bytes a step for each.

    >>> courses(iter([[np.array([1.0, 0.5]), np.array([3.0, 1.5])], [np.array([0.25]), np.array([0.75])]]))
    [(array([1.  , 0.5 , 0.25]), 1.0), (array([1.  , 0.5 , 0.25]), 3.0)]
    """
    leads: dict[int, list[np.ndarray]] = {}
    follows: dict[int, tuple[int, float]] = {}
    for part in stretches:
        for j, x in enumerate(part):
            if j in leads:
                leads[j].append(x)
            elif j not in follows:
                found = ((i, _factor(part[i], x)) for i in leads)
                i, factor = next(((i, factor) for i, factor in found if factor is not None), (j, 1.0))
                follows[j] = (i, factor)
                if i == j:
                    leads[j] = [x]
            elif not _multiple(part[follows[j][0]], x, follows[j][1]):
                i, factor = follows[j]  # which parts here, after so many steps on one course
                leads[j], follows[j] = [*(factor * y for y in leads[i][:-1]), x], (j, 1.0)
    whole = {i: np.concatenate(parts) for i, parts in leads.items()}
    return [(whole[i], factor) for _, (i, factor) in sorted(follows.items())]


def _factor(lead: np.ndarray, x: np.ndarray) -> float | None:
    """What one is to be multiplied by to be the other; None where no number does it, or any does."""
    k = int(np.argmax(lead))
    factor = float(x[k] / lead[k]) if lead[k] > 0 else 0.0
    return factor if factor > 0 and _multiple(lead, x, factor) else None


def _multiple(lead: np.ndarray, x: np.ndarray, factor: float) -> bool:
    """Whether x is that many times the other, to within the rounding of schedulers that multiply step by step."""
    apart = lead * factor - x
    return bool(apart @ apart <= (1e-11 * float(np.max(x, initial=0.0))) ** 2)


_NOTHING: dict[str, np.ndarray | None] = {"norm": None, "size": np.array([2.0]), "gradient_norm": np.array([1.0])}


def _lacks(group: Planned) -> str:
    """What a forecast of this group would need, in words; nothing if it has all."""
    raw, shaped = (isinstance(group.rule.scale, kind) for kind in (Raw, Polar))
    if not group.kinds:
        return "no neurons, nothing that rotates"
    if group.still:
        return "nothing moves"
    if not (shaped or group.measured) and theory.depends_on_gradient(setting_of("predict", group.rule, _NOTHING, 1)):
        return GRADIENT
    if group.weight_decay == 0 and raw and not group.measured:
        return GROWTH
    if group.weight_decay == 0 and any(kind.norm is None for kind in group.kinds):
        return NO_START
    return ""


def _together(
    groups: Sequence[Planned], members: Columns, steps: int, every: int, shape: Shape | None
) -> dict[tuple[int, int], tuple[Forecast, int] | str]:
    """For each neuron of a batch the forecast that holds it and its column there, or why there is none."""
    first, kinds = groups[members[0][0]], [groups[i].kinds[k] for i, k in members]
    norms, notes = _norms(groups, members, shape)
    told = [groups[i] for i, _ in members]
    # a number of each group's own is a multiple of 1
    lr = first.lr if isinstance(first.lr, np.ndarray) else 1.0
    scale = np.array([g.scale if isinstance(g.lr, np.ndarray) else g.scale * g.lr for g in told]).T
    arrays = {
        "norm": norms,
        "size": np.array([float(kind.size) for kind in kinds]),
        "gradient_norm": np.array([kind.gradient for kind in kinds]) if first.measured else None,
    }
    try:
        setting = setting_of("predict", first.rule, arrays, len(kinds), shape=shape)
        whole = propagate(
            "predict",
            setting,
            lr,
            1.0 if first.decay is None else first.decay,
            steps,
            norms,
            every,
            known=known(setting, arrays),
            scale=scale,
            decays=np.array([g.weight_decay for g in told]),
        )
        in_range("predict", whole)
    except ValueError as error:
        own = {i: [member for member in members if member[0] == i] for i, _ in members}
        if len(own) == 1:
            return dict.fromkeys(members, str(error))
        # What one group asks for is no reason to leave the others without a forecast.
        return {
            member: column
            for alone in own.values()
            for member, column in _together(groups, alone, steps, every, shape).items()
        }
    if NO_NORM in notes:  # which says where the run starts
        whole = replace(whole, notes=tuple(note for note in whole.notes if note != AT_REST))
    whole = replace(whole, notes=(*whole.notes, *notes))
    return {member: (whole, column) for column, member in enumerate(members)}


def _norms(
    groups: Sequence[Planned], members: Columns, shape: Shape | None
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Initial norms, if they are known and tell something, and what is to be said of them."""
    first, kinds = groups[members[0][0]], [groups[i].kinds[k] for i, k in members]
    rule = first.rule
    given = [kind.norm for kind in kinds if kind.norm is not None]
    if len(given) < len(kinds):
        return None, ()
    if isinstance(rule.scale, Raw) and not first.measured:
        return None, (NO_NORM,)
    if all(given):
        return np.array(given), ()
    norms = [
        norm or one_step(rule, groups[i].top, kind, shape)
        for norm, kind, (i, _) in zip(given, kinds, members, strict=True)
    ]
    return np.array(norms), (ZERO,)


def one_step(rule: Rule, lr: float, kind: Kind, shape: Shape | None, *, scale_invariant: bool = True) -> float:
    """The length that one step gives weights of zero; a decay too weak to count stands in, as theirs may be 0."""
    if isinstance(rule.scale, Raw) and kind.gradient is not None:
        # lr*g(|w|) = |w|: a gradient that goes as 1/|w| throws weights further the shorter they are
        return float(np.sqrt(lr * kind.gradient)) if scale_invariant else lr * kind.gradient
    weak = 1e-6 if rule.decay == "independent" else 1e-6 / lr
    length = theory.equilibrium(rule, lr, weak, size=kind.size, gradient_norm=kind.gradient, shape=shape).update
    assert length is not None  # the size is known
    return length


def _gathered(parts: Sequence[tuple[Forecast, int]]) -> Forecast:
    """One forecast of columns out of several."""
    first, _ = parts[0]
    together: dict[str, Any] = {}
    for f in fields(first):
        x = getattr(first, f.name)
        if isinstance(x, np.ndarray) and x.ndim == 2:
            together[f.name] = np.stack([getattr(whole, f.name)[:, column] for whole, column in parts], axis=1)
    notes = dict.fromkeys(note for whole, _ in parts for note in whole.notes)
    initial = None if first.initial is None else np.array([whole.initial[column] for whole, column in parts])
    return replace(first, notes=tuple(notes), initial=initial, **together)


def _held(group: Planned, steps: int, every: int) -> Outcome:
    """A rotational group: norms stay, and the rotation is what its control holds, whatever the lr is then."""
    control = group.control
    assert control is not None
    step = np.arange(every, steps + 1, every) if steps >= every else np.array([steps])
    lr = group.at(step)
    try:
        rotation = np.array(
            [
                control.rotation(group.rule, x, group.weight_decay, group.taken + t - 1)
                for x, t in zip(lr.tolist(), step.tolist(), strict=True)
            ]
        )
    except ValueError as error:
        return Outcome(None, str(error))
    shape = (len(step), len(group.kinds))
    lr_t, turned = (np.broadcast_to(x[:, None], shape) for x in (lr, rotation))
    norms = [kind.norm for kind in group.kinds]
    norm = None if None in norms else np.broadcast_to(np.array(norms, dtype=np.float64), shape)
    rule, decay = group.rule, group.weight_decay
    raw = rule.decay == "coupled" and isinstance(rule.scale, Raw)
    taken = theory.decay_gain(rule) * lr * decay if raw else rule.shrink(lr, decay)
    taken = np.broadcast_to(np.asarray(taken)[:, None], shape)
    with np.errstate(divide="ignore"):
        timescale = np.where(taken > 0, 1 / taken, np.inf)
    return Outcome(
        Forecast(
            rule=group.rule,
            step=step,
            weight_decay=np.full(shape, group.weight_decay),
            norm=norm,
            update=None if norm is None else 2 * np.sin(turned / 2) * norm,
            static=turned,
            static_norm=norm,
            reached=np.ones(shape),
            timescale=timescale,
            initial=None if norm is None else norm[0],
            held=True,
            lr=lr_t,
            rotation=turned,
        )
    )
