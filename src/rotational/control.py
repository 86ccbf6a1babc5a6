"""Control as data: what happens, beside a rule, to each neuron's length and angle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from rotational import _check, theory
from rotational.neurons import ROWS, WHOLE, Neurons
from rotational.rule import Rule
from rotational.scale import Rms

Rate: TypeAlias = float | Rule | Callable[[int], float]
"""A rotation in radians per step; a rule, whose equilibrium at the group's lr and weight decay it is; or a
function of the number of steps taken before this one."""


@dataclass(frozen=True)
class Control:
    """The paper's rotational variant: norms stay where they start, the average rotation is held.

    units    what turns as one: "neuron", "tensor", or a `Neurons` of the user's own
    center   take the mean out of every neuron and of every update
    memory   factor of the EMA that holds the average rotation; 0 turns by exactly atan(rotation) every step
    rate     the rotation to hold; None takes it from the rule, lr and weight decay

    Raises ValueError for a memory outside [0, 1), unknown units, a rate that is negative or not finite.

    >>> from rotational import rules
    >>> round(Control().rotation(rules.adamw(), lr=1e-3, weight_decay=0.1), 6)
    0.003244
    >>> Control(rate=0.01).rotation(rules.adam_l2(), lr=1e-3, weight_decay=0.0)
    0.01

    Source: Kosson, Messmer, Jaggi 2024 (arXiv 2305.17212), algorithm 1.
    """

    units: str | Neurons = "neuron"
    center: bool = True
    memory: float = 0.9
    rate: Rate | None = None
    call: str = "Control"

    def __post_init__(self) -> None:
        _check.number(self.call, "update_memory", self.memory, low=0, high=1, below=True)
        if not isinstance(self.units, Neurons):
            _check.choice(self.call, "units", self.units, ("neuron", "tensor"))
        if not (self.rate is None or isinstance(self.rate, Rule) or callable(self.rate)):
            _check.number(self.call, "rotation", self.rate, low=0, hint="It is an angle in radians per step.")

    def neurons(self, partition: Neurons | None) -> Neurons:
        """The units of a parameter whose own partition is given (rows where it is not known)."""
        if isinstance(self.units, Neurons):
            return self.units
        return WHOLE if self.units == "tensor" else partition or ROWS

    def can_turn(self, neurons: Neurons, shape: tuple[int, ...]) -> bool:
        """Whether a vector of this many weights has a direction to turn in at all."""
        return neurons.count(shape) > 0 and neurons.size(shape) >= 2 + self.center

    def rotation(self, rule: Rule, lr: Any, weight_decay: Any, step: int = 0) -> Any:
        """The rotation to hold at this step, in radians; raises ValueError where there is none.

        Of tensors it is a tensor, and they are not looked at: those are numbers that a captured step reads anew.
        """
        if self.rate is not None and not isinstance(self.rate, Rule):
            angle = self.rate(step) if callable(self.rate) else self.rate
            return _check.number(self.call, "rotation", angle, low=0, hint="It is an angle in radians per step.")
        source = self.rate or rule
        if isinstance(source.scale, Rms) and source.decay == "coupled":
            raise ValueError(
                f"{self.call}: with L2 regularisation the rotation of {source.title} depends on the size of each "
                "gradient, so lr and weight_decay give none to hold. Pass rotation=, an angle in radians per step or "
                "a rule that has one, such as rotational.rules.adamw()."
            )
        plain = type(lr) is type(weight_decay) is float
        if not plain and (hasattr(lr, "data_ptr") or hasattr(weight_decay, "data_ptr")):  # torch is not loaded here
            try:
                return theory.rate_of(source, lr, weight_decay)
            except ValueError:
                raise ValueError(
                    f"{self.call}: the rotation of {source.title} does not follow from tensors, which a captured step "
                    "reads only when it is replayed. Pass rotation=, an angle in radians per step, or lr as a number."
                ) from None
        if weight_decay == 0:
            raise ValueError(
                f"{self.call}(weight_decay={weight_decay}): a rotational group needs weight_decay > 0, because its "
                "rotation is sqrt(2*lr*weight_decay/tau). Pass rotation=, an angle in radians per step, or set "
                "rotational=False for this group."
            )
        try:
            return _rate(source, float(lr), float(weight_decay))
        except ValueError as error:
            raise ValueError(f"{self.call}(lr={lr:g}, weight_decay={weight_decay:g}): {error}") from None


@lru_cache(maxsize=64)
def _rate(rule: Rule, lr: float, weight_decay: float) -> float:
    """Kept from step to step: that of a sign has to be solved for, in as long as a small model's step takes."""
    return theory.rate(rule, lr, weight_decay)
