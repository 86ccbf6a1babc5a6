"""What `predict` answers: the prediction of each param group, and how it prints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rotational.outlook import Forecast
from rotational.rule import Rule
from rotational.theory import Equilibrium


@dataclass(frozen=True)
class GroupPrediction:
    """The prediction of one param group.

    lr            as it is now; along a scheduler the highest, first met at step `at` (from 1) of `steps`, and the rule
                  as it is there
    rotation      radians per step, RMS; None where the hyperparameters alone do not give one for all sizes
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
    at: int | None = None
    steps: int | None = None

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
        when = "" if self.at is None else f" at step {self.at:,} of {self.steps:,}"
        head = f"group {self.group}: {self.rule.title}, lr {self.lr:g}{when}, weight decay {self.weight_decay:g}: "
        if not self.equilibrium:
            return head + "no neurons, nothing that rotates"
        if self.held:
            return head + f"rotation {_angle(self.rotation)} held, norms stay where they start"
        if self.lr == 0:
            return head + "without a learning rate nothing moves"
        if self.weight_decay == 0:
            return head + "no decay, so no equilibrium: norms grow and rotation falls as training goes on"
        if self.rotation is None:
            return head + self._of_each_size()
        norms = {size: e.norm for size, e in self.equilibrium.items() if e.norm is not None}
        shown = ", ".join(f"{norm:.3g} (fan-in {size})" for size, norm in sorted(norms.items())[:4])
        norm = f"norm {shown}" if shown else "norm needs the size of the gradient (gradient_norm=)"
        return head + (
            f"rotation {_angle(self.rotation)}, {norm}, half-life {self.half_life:.0f} steps, "
            f"timescale {self.timescale:.0f} steps"
        )

    def _of_each_size(self) -> str:
        """Rotations that depend on the size of the gradient, and so on that of the neuron."""
        known = [(size, e) for size, e in sorted(self.equilibrium.items()) if e.rotation is not None]
        if not known:
            return "rotation depends on the size of the gradient (predict(..., gradient_norm=) takes it)"
        return "; ".join(
            f"fan-in {size}: rotation {_angle(e.rotation)}, norm {e.norm:.3g}, half-life {e.half_life:.0f} steps"
            for size, e in known[:4]
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


def _angle(rotation: float | None) -> str:
    assert rotation is not None
    return f"{rotation:.2e} rad/step ({math.degrees(rotation):.3g} deg)"
