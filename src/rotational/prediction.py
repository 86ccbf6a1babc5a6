"""What an optimizer's hyperparameters imply, before training: one prediction for each param group."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from rotational import _check, runs, schedule, theory
from rotational.control import Control
from rotational.neurons import ROWS, Neurons
from rotational.optim.recognise import recognise
from rotational.outlook import Forecast
from rotational.rule import Rule
from rotational.scale import Polar
from rotational.theory import Equilibrium

Found: TypeAlias = tuple[Neurons, tuple[int, ...]]


@dataclass(frozen=True)
class GroupPrediction:
    """The prediction of one param group.

    rotation      radians per step, RMS; None where the hyperparameters alone do not give one
    held          True if a rotational optimizer holds it from the first step, False if it is approached
    equilibrium   for each neuron size found in the group; empty if it holds none (gains, biases)
    forecast      along the scheduler, where `steps` were asked for: a column for each of `names`
    names         parameters (where the model was given) or sizes, a name for each column of the forecast
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
        """1/(lr*weight_decay) in steps."""
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
            [said, *(f"  {name}: {_outlook(self.forecast.neuron(i))}" for i, name in enumerate(self.names))]
        )

    def _now(self) -> str:
        head = f"group {self.group}: {self.rule.name}, lr {self.lr:g}, weight decay {self.weight_decay:g}: "
        if not self.equilibrium:
            return head + "no neurons, nothing that rotates"
        if self.held:
            return head + f"rotation {_angle(self.rotation)} held, norms stay where they start"
        if self.lr == 0:
            return head + "nothing moves"
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
            f"1/(lr*wd) {self.timescale:.0f} steps"
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
    read and not stepped. `model` gives the real initial norms, parameter by parameter; without it a run starts at its
    equilibrium. `every` is the number of steps from one kept value to the next (default: at most 2000 are kept).

    `rule` names the rule of an optimizer that is not known. Gradients are taken as scale-invariant noise.
    Raises ValueError for an optimizer that is not known, with what to write, and for a scheduler without steps.

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
    groups = [_group(i, g, r) for i, (g, r) in enumerate(zip(optimizer.param_groups, rules, strict=True))]
    if steps is None:
        if scheduler is not None:
            raise ValueError("predict(scheduler=...): expected steps= beside it, the number of steps to forecast.")
        return Prediction(groups)
    steps = _check.whole("predict", "steps", steps)
    every = max(1, steps // 2000) if every is None else _check.whole("predict", "every", every)
    lrs = (
        [float(g["lr"]) for g in optimizer.param_groups]
        if scheduler is None
        else schedule.read_scheduler(scheduler, steps, call="predict")
    )
    kinds = [_kinds(g, model) for g in optimizer.param_groups]
    planned = [
        runs.Planned(
            rule=p.rule,
            lr=lr,
            weight_decay=p.weight_decay,
            kinds=tuple(found),
            control=_control(group) if p.held else None,
            taken=int(group.get("steps", 0)),
        )
        for p, lr, found, group in zip(groups, lrs, kinds, optimizer.param_groups, strict=True)
    ]
    outcomes = runs.forecasts(planned, steps, every)
    return Prediction(
        [
            replace(p, forecast=o.forecast, reason=o.reason, names=tuple(kind.name for kind in found))
            for p, o, found in zip(groups, outcomes, kinds, strict=True)
        ]
    )


def _kinds(group: dict[str, Any], model: Any) -> list[runs.Kind]:
    """The kinds of neurons in a group: each parameter of the model, or each size (for Muon, each shape)."""
    if model is None:
        found: dict[Any, runs.Kind] = {}
        for neurons, shape in _neurons(group):
            size, matrix = neurons.size(shape), (neurons.count(shape), neurons.size(shape))
            found.setdefault(matrix, runs.Kind(size, None, f"fan-in {size}", matrix))
        return list({(k.matrix if _orthogonal(group) else k.size): k for k in found.values()}.values())
    from rotational.layers import partition  # needs torch, which a prediction alone does not

    parts = partition(model)
    names = {p: name for name, p in model.named_parameters()}
    known: Sequence[Neurons] | None = group.get("neurons")
    kinds: list[runs.Kind] = []
    for i, p in enumerate(group["params"]):
        name = names.get(p)
        units = known[i] if known else parts.get(name) if name is not None else None
        if name is None or units is None or p.numel() == 0:
            continue
        # A zero matrix has no length yet: its first step gives it one.
        norm = float((Neurons(units.axes).norm(units.view(p.detach().float())) ** 2).mean()) ** 0.5
        shape = tuple(p.shape)
        kinds.append(runs.Kind(units.size(shape), max(norm, 1e-6), name, (units.count(shape), units.size(shape))))
    return kinds


def _orthogonal(group: dict[str, Any]) -> bool:
    return "ns_steps" in group


def _control(group: dict[str, Any]) -> Control:
    return Control(group["units"], group["center"], group["update_memory"], group["rotation"], "predict")


def _outlook(f: Forecast) -> str:
    """A forecast in one line."""
    if f.held:
        return f"rotation held, from {f.rotation[0]:.3g} to {f.rotation[-1]:.3g} rad/step"
    parts = [f"{float(f.rotation[int(part * (len(f.step) - 1))]):.2e}" for part in (0.1, 0.5, 0.9, 1.0)]
    arrives = f.arrives
    when = "never near the static rotation" if arrives is None else f"near the static rotation from step {arrives:,}"
    norm = "" if f.norm is None else f", norm {f.norm[0]:.3g} to {f.norm[-1]:.3g}"
    return (
        f"{when}, {f.transient:.0%} of the run away from it; rotation at 10/50/90/100% of the run "
        f"{' '.join(parts)}{norm}"
    )


def _group(index: int, group: dict[str, Any], rule: Rule) -> GroupPrediction:
    lr, weight_decay = float(group["lr"]), float(group.get("weight_decay", 0.0))
    found = _neurons(group)
    if not found:
        return GroupPrediction(index, rule, lr, weight_decay, None, False, {})
    sizes = sorted({neurons.size(shape) for neurons, shape in found})
    matrices = {neurons.size(shape): (neurons.count(shape), neurons.size(shape)) for neurons, shape in found}
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
    if not any(control.can_turn(control.neurons(neurons), shape) for neurons, shape in found):
        return None
    return control.rotation(rule, lr, weight_decay, group.get("steps", 0))


def _neurons(group: dict[str, Any]) -> list[Found]:
    """The neurons of each parameter that has some, with its shape: of the group's own partition, or rows."""
    known: Sequence[Neurons] | None = group.get("neurons")
    return [
        (known[i] if known else ROWS, tuple(p.shape))
        for i, p in enumerate(group["params"])
        if p.dim() >= 2 and p.numel() > 0
    ]


def _angle(rotation: float | None) -> str:
    assert rotation is not None
    return f"{rotation:.2e} rad/step ({math.degrees(rotation):.3g} deg)"
