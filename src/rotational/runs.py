"""Forecasts of the param groups of an optimizer along its scheduler: what `predict(optimizer, scheduler, steps)` adds.

Neurons that share a rule, a weight decay and the shape of their lr schedule (and for Muon that of their matrix) are
propagated together, whatever their groups, sizes, norms and peak learning rates.
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


Columns = list[tuple[int, int]]
"""Neurons that are propagated together, each as (its group, its place there)."""

GRADIENT = "the rotation depends on the size of the gradient: forecast(..., gradient_norm=, size=) gives it"
GROWTH = (
    "without weight decay the norm grows in units of a gradient that is not known: forecast(..., gradient_norm=, "
    "norm=) gives it"
)
NO_START = (
    "without weight decay there is no equilibrium to start from: predict(..., model=) takes the model's own norms"
)
NO_NORM = "The initial norms are left out, because SGD's norm is in units of a gradient that is not known."
ZERO = "Weights that start at zero are counted from the length that one step gives them."


def forecasts(groups: Sequence[Planned], steps: int, every: int) -> list[Outcome]:
    """One outcome for each group."""
    # L2 of nothing is no decay, and then nothing depends on the size of Adam's gradient.
    groups = [replace(g, rule=replace(g.rule, decay="decoupled")) if g.weight_decay == 0 else g for g in groups]
    rates = _Rates()
    found: dict[int, Outcome] = {}
    batches: dict[Any, Columns] = {}
    for i, group in enumerate(groups):
        if group.control is not None:
            found[i] = _held(group, steps, every)
        elif reason := _lacks(group, rates):
            found[i] = Outcome(None, reason)
        else:
            for k, kind in enumerate(group.kinds):
                shape = kind.matrix if isinstance(group.rule.scale, Polar) else None
                key = (group.rule, group.weight_decay, rates.course(group.lr), shape)
                batches.setdefault(key, []).append((i, k))
    columns: dict[tuple[int, int], tuple[Forecast, int] | str] = {}
    for (*_, shape), members in batches.items():
        columns |= _together(groups, members, rates, steps, every, shape)
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


class _Rates:
    """Learning rates of many groups: their peaks, and which of them go the same way, each being read once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Lr, float, list[int]]] = {}
        self._leads: list[np.ndarray] = []

    def top(self, lr: Lr) -> float:
        """The highest."""
        return self._of(lr)[1] if isinstance(lr, np.ndarray) else lr

    def course(self, lr: Lr) -> int:
        """A number that multiples of one schedule share; -1 for all constants."""
        if not isinstance(lr, np.ndarray):
            return -1
        _, top, course = self._of(lr)
        if not course:
            same = (i for i, lead in enumerate(self._leads) if _multiple(lead, self.top(lead), lr, top))
            course.append(next(same, len(self._leads)))
            if course[0] == len(self._leads):
                self._leads.append(lr)
        return course[0]

    def _of(self, lr: np.ndarray) -> tuple[Lr, float, list[int]]:
        if id(lr) not in self._known:
            self._known[id(lr)] = (lr, float(np.max(lr)), [])  # the array too, so that no other takes its id
        return self._known[id(lr)]


_CHUNK = 16384
"""Steps compared at once: few enough to stay in the cache."""


def _multiple(a: np.ndarray, top_a: float, b: np.ndarray, top_b: float) -> bool:
    """Whether b is a times one number, to within the rounding of schedulers that multiply step by step."""
    ratio, near = top_b / top_a, (1e-11 * top_b) ** 2
    for start in range(0, len(a), _CHUNK):
        apart = a[start : start + _CHUNK] * ratio
        apart -= b[start : start + _CHUNK]
        if not float(apart @ apart) <= near:
            return False
    return True


_NOTHING: dict[str, np.ndarray | None] = {"norm": None, "size": np.array([2.0]), "gradient_norm": np.array([1.0])}


def _lacks(group: Planned, rates: _Rates) -> str:
    """What a forecast of this group would need, in words; nothing if it has all."""
    raw, shaped = (isinstance(group.rule.scale, kind) for kind in (Raw, Polar))
    if not group.kinds:
        return "no neurons, nothing that rotates"
    if rates.top(group.lr) == 0:
        return "nothing moves"
    if not shaped and theory.depends_on_gradient(setting_of("predict", group.rule, _NOTHING, 1)):
        return GRADIENT
    if group.weight_decay == 0 and raw:
        return GROWTH
    if group.weight_decay == 0 and any(kind.norm is None for kind in group.kinds):
        return NO_START
    return ""


def _together(
    groups: Sequence[Planned], members: Columns, rates: _Rates, steps: int, every: int, shape: Shape | None
) -> dict[tuple[int, int], tuple[Forecast, int] | str]:
    """For each neuron of a batch the forecast that holds it and its column there, or why there is none."""
    first, kinds = groups[members[0][0]], [groups[i].kinds[k] for i, k in members]
    tops = np.array([rates.top(groups[i].lr) for i, _ in members])
    norms, notes = _norms(first, kinds, tops, shape)
    arrays = {"norm": norms, "size": np.array([float(kind.size) for kind in kinds]), "gradient_norm": None}
    try:
        setting = setting_of("predict", first.rule, arrays, len(kinds), shape=shape)
        whole = propagate(
            "predict",
            setting,
            first.lr,
            first.weight_decay,
            steps,
            norms,
            every,
            known=known(setting, arrays),
            scale=tops / rates.top(first.lr),
        )
    except ValueError as error:
        own = {i: [member for member in members if member[0] == i] for i, _ in members}
        if len(own) == 1:
            return dict.fromkeys(members, str(error))
        # What one group asks for is no reason to leave the others without a forecast.
        return {
            member: column
            for alone in own.values()
            for member, column in _together(groups, alone, rates, steps, every, shape).items()
        }
    whole = replace(whole, notes=(*whole.notes, *notes))
    return {member: (whole, column) for column, member in enumerate(members)}


def _norms(
    group: Planned, kinds: Sequence[Kind], tops: np.ndarray, shape: Shape | None
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Initial norms, if they are known and tell something, and what is to be said of them."""
    given = [kind.norm for kind in kinds if kind.norm is not None]
    if len(given) < len(kinds):
        return None, ()
    if isinstance(group.rule.scale, Raw):
        return None, (NO_NORM,)
    if all(given):
        return np.array(given), ()
    norms = [
        norm or _step(group.rule, top, kind.size, shape)
        for norm, kind, top in zip(given, kinds, tops.tolist(), strict=True)
    ]
    return np.array(norms), (ZERO,)


def _step(rule: Rule, lr: float, size: int, shape: Shape | None) -> float:
    """The length of one step; a decay that is too weak to count stands in for the group's, which may be 0."""
    weak = 1e-6 if rule.decay == "independent" else 1e-6 / lr
    length = theory.equilibrium(rule, lr, weak, size=size, shape=shape).update
    assert length is not None  # the size is known, and rules in units of the gradient have no norms here
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
    return replace(first, notes=tuple(notes), **together)


def _held(group: Planned, steps: int, every: int) -> Outcome:
    """A rotational group: norms stay, and the rotation is what its control holds, whatever the lr is then."""
    control = group.control
    assert control is not None
    step = np.arange(every, steps + 1, every) if steps >= every else np.array([steps])
    lr = group.lr[step - 1] if isinstance(group.lr, np.ndarray) else np.full(len(step), group.lr)
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
    taken = np.broadcast_to(np.asarray(group.rule.shrink(lr, group.weight_decay))[:, None], shape)
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
            held=True,
            lr=lr_t,
            rotation=turned,
        )
    )
