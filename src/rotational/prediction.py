"""What an optimizer's hyperparameters imply, before training: one prediction for each param group."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, TypeAlias

import numpy as np

from rotational import _check, runs, schedulers, theory
from rotational.control import Control
from rotational.mixtures import mixtures
from rotational.neurons import ROWS, Neurons
from rotational.optim.recognise import recognise
from rotational.outlook import Forecast
from rotational.rule import Rule
from rotational.scale import Polar
from rotational.theory import Equilibrium

Found: TypeAlias = tuple[Neurons, Any, str]
"""Neurons of a parameter, the parameter, and its name (empty where no model was given)."""


@dataclass(frozen=True)
class GroupPrediction:
    """The prediction of one param group.

    rotation      radians per step, RMS; None where the hyperparameters alone do not give one
    held          True if a rotational optimizer holds it from the first step, False if it is approached
    equilibrium   for each neuron size found in the group; empty if it holds none (gains, biases)
    forecast      along the scheduler, where `steps` were asked for: a column for each of `names`
    names         parameters (where the model was given) or sizes, a name for each column of the forecast; of a held
                  group only those that turn
    reason        why there is no forecast
    """

    group: int
    rule: Rule
    lr: float
    weight_decay: float
    rotation: float | None
    held: bool
    equilibrium: dict[int, Equilibrium]
    forecast: Forecast | None = None
    names: tuple[str, ...] = ()
    reason: str = ""

    @property
    def half_life(self) -> float | None:
        """Steps in which the distance of the norm from its equilibrium halves; 0 where rotation is held."""
        return 0.0 if self.held else self._any(lambda e: e.half_life)

    @property
    def timescale(self) -> float | None:
        """1/D, the steps over which past updates are forgotten: 1/(lr*weight_decay) where decay is decoupled."""
        return self._any(lambda e: e.timescale)

    def _any(self, read: Callable[[Equilibrium], float | None]) -> float | None:
        return next((read(e) for e in self.equilibrium.values()), None)

    def __str__(self) -> str:
        said = self._now()
        if self.reason and self.equilibrium:
            return f"{said}\n  no forecast: {self.reason}"
        if self.forecast is None:
            return said
        return "\n".join(
            [
                said,
                *(f"  {name}: {_outlook(self.forecast.neuron(i))}" for i, name in enumerate(self.names)),
                *(f"  {note}" for note in self.forecast.notes),
            ]
        )

    def _now(self) -> str:
        head = f"group {self.group}: {self.rule.name}, lr {self.lr:g}, weight decay {self.weight_decay:g}: "
        if not self.equilibrium:
            return head + "no neurons, nothing that rotates"
        if self.held:
            return head + f"rotation {_angle(self.rotation)} held, norms stay where they start"
        if self.lr == 0:
            return head + "at this lr nothing moves"
        if self.weight_decay == 0:
            return head + "no decay, so no equilibrium: norms grow and rotation falls as training goes on"
        if self.rotation is None:
            return (
                head + "rotation depends on the size of the gradient (equilibrium(..., gradient_norm=, size=) gives it)"
            )
        norms = {size: e.norm for size, e in self.equilibrium.items() if e.norm is not None}
        shown = ", ".join(f"{norm:.3g} (fan-in {size})" for size, norm in sorted(norms.items())[:4])
        norm = f"norm {shown}" if shown else "norm needs the size of the gradient"
        return head + (
            f"rotation {_angle(self.rotation)}, {norm}, half-life {self.half_life:.0f} steps, "
            f"timescale {self.timescale:.0f} steps"
        )


class Prediction(Sequence[GroupPrediction]):
    """One `GroupPrediction` for each param group; prints a line for each."""

    def __init__(self, groups: Sequence[GroupPrediction]) -> None:
        self._groups = tuple(groups)

    def __getitem__(self, index: Any) -> Any:
        return self._groups[index]

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[GroupPrediction]:
        return iter(self._groups)

    def __str__(self) -> str:
        return "\n".join(str(g) for g in self._groups)

    __repr__ = __str__


def predict(
    optimizer: Any,
    scheduler: Any = None,
    steps: int | None = None,
    model: Any = None,
    *,
    rule: Rule | None = None,
    every: int | None = None,
) -> Prediction:
    """Predict rotation, norm and time scale of each param group, from its hyperparameters as they are now.

    With `steps`, also a `Forecast` of each group over that many steps, along the `scheduler` if there is one, which is
    read and not stepped. `model` gives the neurons of each parameter and their real initial norms; without it they are
    the group's own or rows, and a run starts at its equilibrium. `every` is the number of steps from one kept value to
    the next (default: at most 2000 are kept).

    `rule` names the rule of an optimizer that is not known. Gradients are taken as scale-invariant noise.
    Raises ValueError for an optimizer that is not known, with what to write; for a scheduler without steps or of
    another optimizer; and for a model that does not hold the optimizer's parameters.

    >>> import torch
    >>> opt = torch.optim.AdamW(torch.nn.Linear(64, 8).parameters(), lr=3e-3, weight_decay=0.1)
    >>> p = predict(opt)[0]
    >>> f"{p.rotation:.2e} rad/step, half-life {p.half_life:.0f} steps, norm {p.equilibrium[64].norm:.2f}"
    '5.62e-03 rad/step, half-life 1155 steps, norm 0.98'
    >>> cosine = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 10_000)
    >>> p = predict(opt, cosine, steps=10_000)[0]
    >>> late = p.forecast.neuron(0).at(9000)
    >>> round(late["rotation"] / late["static"], 2)      # the norm lags behind the falling lr
    0.21

    Source: `theory.equilibrium`, `forecast`.
    """
    rules = recognise(optimizer, rule, "predict")
    held_by = None if model is None else _of_model(optimizer, model)
    found = [_neurons(g, held_by) for g in optimizer.param_groups]
    groups = [_group(i, g, r, n) for i, (g, r, n) in enumerate(zip(optimizer.param_groups, rules, found, strict=True))]
    if steps is None:
        for name, value in (("scheduler", scheduler), ("every", every)):
            if value is not None:
                raise ValueError(f"predict({name}=...): expected steps= beside it, the number of steps to forecast.")
        return Prediction(groups)
    steps = _check.whole("predict", "steps", steps)
    every = -(-steps // 2000) if every is None else _check.whole("predict", "every", every)
    lrs: Sequence[tuple[runs.Lr, runs.Factor]] = [(float(g["lr"]), 1.0) for g in optimizer.param_groups]
    if scheduler is not None:
        told = _of_lambdas(scheduler, steps) or mixtures(scheduler, steps, call="predict")
        if told is None:
            places, stretches = schedulers.stretches(scheduler, steps, call="predict")
            courses = runs.courses(stretches)
            told = [courses[place] for place in places]
        lrs = told
        if _parameters(scheduler.optimizer) != _parameters(optimizer):
            raise ValueError(
                f"predict(scheduler={type(scheduler).__name__}): it drives another optimizer. Give the scheduler that "
                "was made with this one."
            )
    kinds = [
        _kinds(n, p, _control(g) if p.held else None, known=held_by is not None)
        for n, p, g in zip(found, groups, optimizer.param_groups, strict=True)
    ]
    planned = [
        runs.Planned(
            rule=p.rule,
            lr=lr,
            scale=factor,
            weight_decay=p.weight_decay,
            kinds=tuple(those),
            control=_control(group) if p.held else None,
            taken=int(group.get("steps", 0)),
        )
        for p, (lr, factor), those, group in zip(groups, lrs, kinds, optimizer.param_groups, strict=True)
    ]
    outcomes = runs.forecasts(planned, steps, every)
    return Prediction(
        [
            replace(p, forecast=o.forecast, reason=o.reason, names=tuple(kind.name for kind in those))
            for p, o, those in zip(groups, outcomes, kinds, strict=True)
        ]
    )


def _of_lambdas(scheduler: Any, steps: int) -> list[tuple[runs.Lr, runs.Factor]] | None:
    """Of torch's own LambdaLR each group's (course, factor): each function is called once a step, whatever the groups.

    torch sets base_lr * f(step), which a course of f and a factor of base_lr are to the last bit. None where that is
    not all there is to it, or a number is one that the long way refuses, and then says why.
    """
    kind = type(scheduler)
    if (kind.__module__, kind.__name__) != ("torch.optim.lr_scheduler", "LambdaLR"):
        return None
    groups, start = scheduler.optimizer.param_groups, scheduler.last_epoch
    pairs = list(zip(scheduler.lr_lambdas, scheduler.base_lrs, strict=True))
    plain = (FunctionType, BuiltinFunctionType, MethodType, partial)
    if len(pairs) != len(groups) or not all(
        isinstance(f, plain) and type(base) is float and type(group["lr"]) is float and 0 < base < math.inf
        for (f, base), group in zip(pairs, groups, strict=True)
    ):
        return None
    courses: dict[int, np.ndarray] = {}
    for f, _ in pairs:
        if id(f) in courses:
            continue
        try:
            factors = [f(t) for t in range(start, start + steps)]
        except Exception:
            return None  # the long way names the step
        if not set(map(type, factors)) <= {float, int, np.float64}:
            return None
        x = np.array(factors, dtype=np.float64)
        if not np.all(np.isfinite(x) & (x >= 0)):
            return None
        courses[id(f)] = x
    whole = [(courses[id(f)], base) for f, base in pairs]
    # A rate that was set by hand stands until the scheduler's next step.
    now = all(float(x[0]) * base == group["lr"] for (x, base), group in zip(whole, groups, strict=True))
    return list(whole) if now else None


def _parameters(optimizer: Any) -> list[list[int]]:
    return [[id(p) for p in group["params"]] for group in optimizer.param_groups]


def _of_model(optimizer: Any, model: Any) -> dict[Any, tuple[str, Neurons | None]]:
    """The name of each of the model's parameters, and its neurons if it holds any."""
    from rotational.layers import partition  # needs torch, which a prediction alone does not

    parts = partition(model)
    held_by = {p: (name, parts.get(name)) for name, p in model.named_parameters()}
    for i, group in enumerate(optimizer.param_groups):
        for k, p in enumerate(group["params"]):
            if p not in held_by:
                raise ValueError(
                    f"predict(model={type(model).__name__}): parameter {k} of group {i} is not one of this model's. "
                    "Give the model that the optimizer trains."
                )
    return held_by


def _kinds(found: list[Found], group: GroupPrediction, control: Control | None, *, known: bool) -> list[runs.Kind]:
    """The kinds of neurons in a group: each parameter of the model, or each size (for Muon, each shape)."""
    if control is not None:
        units = [(control.neurons(neurons), p, name) for neurons, p, name in found]
        found = [(neurons, p, name) for neurons, p, name in units if control.can_turn(neurons, tuple(p.shape))]
    kinds: dict[Any, runs.Kind] = {}
    for neurons, p, name in found:
        size, matrix = neurons.size(p.shape), (neurons.count(p.shape), neurons.size(p.shape))
        if known:
            norm = _length(p, neurons, center=control is not None and control.center)
            if not math.isfinite(norm):
                raise ValueError(f"predict(model=...): the weights of {name} hold NaN or infinity; load finite ones.")
            kinds[name] = runs.Kind(size, norm, name, matrix)
        elif isinstance(group.rule.scale, Polar):
            kinds.setdefault(matrix, runs.Kind(size, None, f"{matrix[0]}x{matrix[1]}", matrix))
        else:
            kinds.setdefault(size, runs.Kind(size, None, f"fan-in {size}", matrix))
    return list(kinds.values())


def _length(p: Any, neurons: Neurons, *, center: bool) -> float:
    """RMS length of a parameter's neurons; `center` takes out the mean, as a rotational group does before it turns."""
    w = p.detach().float()
    square = float((neurons.norm(w) ** 2).mean())
    mean = float((neurons.mean(w) ** 2).mean()) * neurons.size(p.shape) if center else 0.0
    return math.sqrt(max(square - mean, 0.0))


def _control(group: dict[str, Any]) -> Control:
    return Control(group["units"], group["center"], group["update_memory"], group["rotation"], "predict")


def _outlook(f: Forecast) -> str:
    """A forecast in one line."""
    if f.held:
        return f"rotation held, from {f.rotation[0]:.3g} to {f.rotation[-1]:.3g} rad/step"
    at = [int(np.searchsorted(f.step, part * f.step[-1], side="right")) - 1 for part in (0.1, 0.5, 0.9, 1.0)]
    parts = [f"{float(f.rotation[max(i, 0)]):.2e}" for i in at]
    if not (f.static > 0).any():
        when = "no equilibrium without decay"
    elif f.arrives is None:
        when = "never near the static rotation, 100% of the run away from it"
    else:
        first = f"in passing at step {f.arrives:,}" if f.settles is None else f"from step {f.settles:,}"
        when = f"near the static rotation {first}, {f.transient:.0%} of the run away from it"
    norm = "" if f.norm is None or f.initial is None else f", norm {f.initial:.3g} to {f.norm[-1]:.3g}"
    return f"{when}; rotation at 10/50/90/100% of the run {' '.join(parts)}{norm}"


def _group(index: int, group: dict[str, Any], rule: Rule, found: list[Found]) -> GroupPrediction:
    lr, weight_decay = float(group["lr"]), float(group.get("weight_decay", 0.0))
    if not found:
        return GroupPrediction(index, rule, lr, weight_decay, None, False, {})
    matrices = {n.size(p.shape): (n.count(p.shape), n.size(p.shape)) for n, p, _ in found}
    sizes = sorted(matrices)
    shaped = isinstance(rule.scale, Polar)
    states: dict[int, Equilibrium] = {
        size: theory.equilibrium(rule, lr, weight_decay, size=size, shape=matrices[size] if shaped else None)
        for size in sizes
    }
    held = _held(group, rule, lr, weight_decay, found) if group.get("rotational") else None
    # One angle for all sizes: what a finite neuron adds is far below what is measured.
    free = states[sizes[0]].rotation if shaped else theory.equilibrium(rule, lr, weight_decay).rotation
    rotation = free if held is None else held
    return GroupPrediction(index, rule, lr, weight_decay, rotation, held is not None, states)


def _held(group: dict[str, Any], rule: Rule, lr: float, weight_decay: float, found: list[Found]) -> float | None:
    """What a rotational group holds in its next step; None if nothing in it can turn."""
    control = _control(group)
    if not any(control.can_turn(control.neurons(neurons), tuple(p.shape)) for neurons, p, _ in found):
        return None
    return control.rotation(rule, lr, weight_decay, group.get("steps", 0))


def _neurons(group: dict[str, Any], held_by: dict[Any, tuple[str, Neurons | None]] | None) -> list[Found]:
    """The neurons of each parameter that has some: of the group's own partition, the model's, or rows."""
    own: Sequence[Neurons] | None = group.get("neurons")
    found: list[Found] = []
    for i, p in enumerate(group["params"]):
        name, read = (held_by or {}).get(p, ("", ROWS))
        neurons = own[i] if own else read
        if neurons is not None and p.dim() >= 2 and p.numel() > 0:
            found.append((neurons, p, name))
    return found


def _angle(rotation: float | None) -> str:
    assert rotation is not None
    return f"{rotation:.2e} rad/step ({math.degrees(rotation):.3g} deg)"
