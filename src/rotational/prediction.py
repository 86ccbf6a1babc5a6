"""What an optimizer's hyperparameters imply, before training: one prediction for each param group."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from rotational import theory
from rotational.control import Control
from rotational.neurons import ROWS, Neurons
from rotational.optim.recognise import recognise
from rotational.rule import Rule
from rotational.theory import Equilibrium

Found: TypeAlias = tuple[Neurons, tuple[int, ...]]


@dataclass(frozen=True)
class GroupPrediction:
    """The prediction of one param group.

    rotation      radians per step, RMS; None where the hyperparameters alone do not give one
    held          True if a rotational optimizer holds it from the first step, False if it is approached
    equilibrium   for each neuron size found in the group; empty if it holds none (gains, biases)
    """

    group: int
    rule: Rule
    lr: float
    weight_decay: float
    rotation: float | None
    held: bool
    equilibrium: dict[int, Equilibrium]

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


def predict(optimizer: Any, *, rule: Rule | None = None) -> Prediction:
    """Predict rotation, norm and time scale of each param group, from its hyperparameters as they are now.

    `rule` names the rule of an optimizer that is not known. Gradients are taken as scale-invariant noise.
    Raises ValueError for an optimizer that is not known, with what to write.

    >>> import torch
    >>> opt = torch.optim.AdamW(torch.nn.Linear(64, 8).parameters(), lr=3e-3, weight_decay=0.1)
    >>> p = predict(opt)[0]
    >>> f"{p.rotation:.2e} rad/step, half-life {p.half_life:.0f} steps, norm {p.equilibrium[64].norm:.2f}"
    '5.62e-03 rad/step, half-life 1155 steps, norm 0.98'

    Source: `theory.equilibrium`.
    """
    rules = recognise(optimizer, rule, "predict")
    return Prediction([_group(i, g, r) for i, (g, r) in enumerate(zip(optimizer.param_groups, rules, strict=True))])


def _group(index: int, group: dict[str, Any], rule: Rule) -> GroupPrediction:
    lr, weight_decay = float(group["lr"]), float(group.get("weight_decay", 0.0))
    found = _neurons(group)
    if not found:
        return GroupPrediction(index, rule, lr, weight_decay, None, False, {})
    sizes = sorted({neurons.size(shape) for neurons, shape in found})
    states: dict[int, Equilibrium] = {size: theory.equilibrium(rule, lr, weight_decay, size=size) for size in sizes}
    held = _held(group, rule, lr, weight_decay, found) if group.get("rotational") else None
    # One angle for all sizes: what a finite neuron adds is far below what is measured.
    rotation = theory.equilibrium(rule, lr, weight_decay).rotation if held is None else held
    return GroupPrediction(index, rule, lr, weight_decay, rotation, held is not None, states)


def _held(group: dict[str, Any], rule: Rule, lr: float, weight_decay: float, found: list[Found]) -> float | None:
    """What a rotational group holds in its next step; None if nothing in it can turn."""
    control = Control(group["units"], group["center"], group["update_memory"], group["rotation"], "predict")
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
