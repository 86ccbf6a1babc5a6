"""What an optimizer's hyperparameters imply, before training: one prediction for each param group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from rotational import _check, momenta, runs, schedulers, theory
from rotational.control import Control
from rotational.mixtures import mixtures, of_lambdas, peaks
from rotational.neurons import ROWS, Neurons
from rotational.optim.recognise import recognise
from rotational.predicted import GroupPrediction, Prediction
from rotational.rule import Rule
from rotational.scale import Polar
from rotational.theory import Equilibrium
from rotational.weights import turns

Found: TypeAlias = tuple[Neurons, Any, str]
"""Neurons of a parameter, the parameter, and its name (empty where no model was given)."""


def predict(
    optimizer: Any,
    scheduler: Any = None,
    steps: int | None = None,
    model: Any = None,
    *,
    rule: Rule | None = None,
    every: int | None = None,
    gradient_norm: float | Mapping[str, float] | None = None,
) -> Prediction:
    """Predict rotation, norm and time scale of each param group, from its hyperparameters as they are now.

    With `steps`, also a `Forecast` of each group over that many steps, along the `scheduler` if there is one, which is
    read and not stepped; equilibria are then those of its highest lr. A momentum that it moves (OneCycleLR, CyclicLR)
    is followed as `momenta` tells, and a note says so. `model` gives the neurons of each parameter and their real
    initial norms; without it they are the group's own or rows, and a run starts at its equilibrium. `every` is the
    number of steps from one kept value to the next (default: at most 2000 are kept).

    `gradient_norm` is the RMS norm of a neuron's gradient at |w| = 1, as `forecast` takes it: one for all, or (with
    the model) one for each parameter by its name. Norms under SGD and all of Adam with L2 take it.

    `rule` names the rule of an optimizer that is not known. Gradients are taken as scale-invariant noise.
    Raises TypeError for what is no optimizer; ValueError for one that is not known, with what to write; for a scheduler
    without steps or of another optimizer; and for a model that does not hold the optimizer's parameters.

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
    gradients = _gradients(gradient_norm, held_by)
    now = zip(optimizer.param_groups, rules, found, strict=True)
    if steps is None:
        for name, value in (("scheduler", scheduler), ("every", every)):
            if value is not None:
                raise ValueError(f"predict({name}=...): expected steps= beside it, the number of steps to forecast.")
        return Prediction([_group(i, g, r, n, gradients) for i, (g, r, n) in enumerate(now)])
    steps = _check.whole("predict", "steps", steps)
    every = -(-steps // 2000) if every is None else _check.whole("predict", "every", every)
    lrs: list[tuple[runs.Lr, runs.Factor]] = [(float(g["lr"]), 1.0) for g in optimizer.param_groups]
    courses: list[np.ndarray | None] = [None] * len(lrs)
    if scheduler is not None:
        lrs = _rates(optimizer, scheduler, steps)
        courses = momenta.read(scheduler, steps, call="predict")
    tops = peaks(lrs)
    known: dict[Any, momenta.Moving] = {}
    groups: list[GroupPrediction] = []
    planned: list[runs.Planned] = []
    moving: list[momenta.Moving | None] = []
    for i, (group, own, neurons) in enumerate(now):
        (lr, factor), course = lrs[i], courses[i]
        said = None
        if scheduler is not None:
            there, then = _highest(optimizer, group, own, tops[i], course, rule)
            with suppress(ValueError):  # of an lr that admits none: the forecast's reason says so
                said = replace(_group(i, there, then, neurons, gradients), at=there["at"] + 1, steps=steps)
        said = said or _group(i, group, own, neurons, gradients)
        control = _control(group) if said.held else None
        kinds = _kinds(neurons, said, control, gradients, known=held_by is not None)
        groups.append(replace(said, names=tuple(kind.name for kind in kinds)))
        plan = runs.Planned(
            rule=own,
            lr=lr,
            scale=factor,
            weight_decay=said.weight_decay,
            kinds=tuple(kinds),
            control=control,
            taken=int(group.get("steps", 0)),
        )
        planned.append(plan)
        moves = None
        if course is not None and rule is None and kinds:
            shape = kinds[0].matrix if isinstance(own.scale, Polar) else None
            lr_t = np.broadcast_to(_course(lr, factor), course.shape)
            key = (own, id(course), shape, i if np.ndim(lr) == 2 else id(lr))
            if key not in known:
                known[key] = momenta.Moving.of(partial(_rule_at, optimizer, group), course, lr_t, shape)
            moves = known[key]
        moving.append(moves)
    equals = [plan if m is None else m.plan(plan) for plan, m in zip(planned, moving, strict=True)]
    outcomes = runs.forecasts(equals, steps, every)
    return Prediction(
        [
            replace(said, **_named(momenta.read_off(plan, outcome, m, course), said.names)._asdict())
            for said, plan, outcome, m, course in zip(groups, planned, outcomes, moving, courses, strict=True)
        ]
    )


def _rates(optimizer: Any, scheduler: Any, steps: int) -> list[tuple[runs.Lr, runs.Factor]]:
    """The lr of each group along the scheduler, as (course, factor)."""
    if not schedulers.is_scheduler(scheduler):
        raise TypeError(
            f"predict(scheduler={type(scheduler).__name__}): expected a scheduler of torch.optim.lr_scheduler, which "
            "drives this optimizer; forecast(lr=...) takes arrays and functions of the step."
        )
    if _parameters(scheduler.optimizer) != _parameters(optimizer):
        raise ValueError(
            f"predict(scheduler={type(scheduler).__name__}): it drives another optimizer. Give the scheduler that "
            "was made with this one."
        )
    told = of_lambdas(scheduler, steps) or mixtures(scheduler, steps, call="predict")
    if told is not None:
        return list(told)
    places, stretches = schedulers.stretches(scheduler, steps, call="predict")
    courses = runs.courses(stretches)
    return [courses[place] for place in places]


def _named(outcome: runs.Outcome, names: tuple[str, ...]) -> runs.Outcome:
    f = outcome.forecast
    return outcome if f is None else outcome._replace(forecast=replace(f, names=names))


def _course(lr: runs.Lr, factor: runs.Factor) -> float | np.ndarray:
    """The course of a group, its own where it is a mixture."""
    return np.asarray(factor) @ lr if isinstance(lr, np.ndarray) and lr.ndim == 2 else lr


def _parameters(optimizer: Any) -> list[list[int]]:
    return [[id(p) for p in group["params"]] for group in optimizer.param_groups]


def _rule_at(optimizer: Any, group: dict[str, Any], momentum: float) -> Rule:
    """A group's rule at another momentum."""
    return recognise(optimizer, None, "predict", groups=[momenta.with_momentum(group, momentum)])[0]


def _highest(
    optimizer: Any,
    group: dict[str, Any],
    rule: Rule,
    peak: tuple[int, float],
    course: np.ndarray | None,
    named: Rule | None,
) -> tuple[dict[str, Any], Rule]:
    """The group as it will be at its highest lr, which is step `at` of the run (from 0), and its rule there."""
    at, top = peak
    there = group | {"lr": top, "at": at, "steps": group.get("steps", 0) + at}
    if course is None or named is not None:
        return there, rule
    return there, _rule_at(optimizer, group, float(course[at]))


def _gradients(told: Any, held_by: dict[Any, tuple[str, Neurons | None]] | None) -> dict[str, float] | float | None:
    """gradient_norm=, checked."""
    if told is None:
        return None
    if not isinstance(told, Mapping):
        return _check.number("predict", "gradient_norm", told, low=0, above=True)
    if held_by is None:
        raise ValueError("predict(gradient_norm={...}): names are those of a model's parameters; give model= too.")
    names = [name for name, neurons in held_by.values() if neurons is not None]
    if unknown := [name for name in told if name not in names]:
        raise ValueError(
            f"predict(gradient_norm={{{unknown[0]!r}: ...}}): no parameter of this name has neurons; those that have "
            f"are {', '.join(map(repr, names[:8]))}{', ...' if len(names) > 8 else ''}."
        )
    return {
        name: _check.number("predict", f"gradient_norm[{name!r}]", x, low=0, above=True) for name, x in told.items()
    }


def _gradient(gradients: dict[str, float] | float | None, name: str) -> float | None:
    return gradients.get(name) if isinstance(gradients, dict) else gradients


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


def _kinds(
    found: list[Found],
    group: GroupPrediction,
    control: Control | None,
    gradients: dict[str, float] | float | None,
    *,
    known: bool,
) -> list[runs.Kind]:
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
            kinds[name] = runs.Kind(size, norm, name, matrix, _gradient(gradients, name))
        elif isinstance(group.rule.scale, Polar):
            kinds.setdefault(
                matrix, runs.Kind(size, None, f"{matrix[0]}x{matrix[1]}", matrix, _gradient(gradients, name))
            )
        else:
            kinds.setdefault(size, runs.Kind(size, None, f"fan-in {size}", matrix, _gradient(gradients, name)))
    return list(kinds.values())


def _length(p: Any, neurons: Neurons, *, center: bool) -> float:
    """RMS length of a parameter's neurons; `center` takes out the mean, as a rotational group does before it turns."""
    w = p.detach().float()
    square = float((neurons.norm(w) ** 2).mean())
    mean = float((neurons.mean(w) ** 2).mean()) * neurons.size(p.shape) if center else 0.0
    return math.sqrt(max(square - mean, 0.0))


def _control(group: dict[str, Any]) -> Control:
    return Control(group["units"], group["center"], group["update_memory"], group["rotation"], "predict")


def _group(
    index: int,
    group: dict[str, Any],
    rule: Rule,
    found: list[Found],
    gradients: dict[str, float] | float | None,
) -> GroupPrediction:
    lr, weight_decay = float(group["lr"]), float(group.get("weight_decay", 0.0))
    if not found:
        return GroupPrediction(index, rule, lr, weight_decay, None, False, {})
    matrices = {n.size(p.shape): (n.count(p.shape), n.size(p.shape)) for n, p, _ in found}
    told = {size: {_gradient(gradients, name) for n, p, name in found if n.size(p.shape) == size} for size in matrices}
    sizes = sorted(matrices)
    shaped = isinstance(rule.scale, Polar)
    states: dict[int, Equilibrium] = {
        size: theory.equilibrium(
            rule,
            lr,
            weight_decay,
            size=size,
            gradient_norm=next(iter(told[size])) if len(told[size]) == 1 else None,  # one for all of this size
            shape=matrices[size] if shaped else None,
        )
        for size in sizes
    }
    held = _held(group, rule, lr, weight_decay, found) if group.get("rotational") else None
    # One angle for all sizes: what a finite neuron adds is far below what is measured.
    free = states[sizes[0]].rotation if shaped else theory.equilibrium(rule, lr, weight_decay).rotation
    if free is None and len(sizes) == 1:
        free = states[sizes[0]].rotation
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
        if neurons is not None and p.dim() >= 2 and p.numel() > 0 and turns(neurons.size(p.shape)):
            found.append((neurons, p, name))
    return found
