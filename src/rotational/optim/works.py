"""What the rungs are asked to do in a step: the works of the step before, with other numbers and gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rotational.kernels.work import NOTHING, Part, Work, identical
from rotational.optim.bound import Bound, Group
from rotational.optim.measuring import Asked


class Plan(NamedTuple):
    """What one param group does in one step, decided and checked before anything is changed.

    `turning` is whether any neuron turns; gradients, their places and whether there are all of them as `Given` has it.
    """

    group: Group
    bound: Bound
    lr: float
    weight_decay: float
    rotation: float
    turning: bool
    grads: list[Tensor | None]
    places: np.ndarray | None
    complete: bool

    def places_of(self, indices: list[int]) -> np.ndarray | None:
        """Those of some parameters."""
        if self.places is None or len(indices) == len(self.grads):
            return self.places
        return self.places[indices]


class Works:
    """The works of an optimizer. They, and the list of them, are the same objects until a group or a part changes."""

    def __init__(self) -> None:
        self._shares: Sequence[Mapping[str, tuple[list[int], list[Part]]]] = ()
        self._of: list[tuple[int, list[int]]] = []  # which group, and which of its parameters
        self._works: list[tuple[str, Work]] = []
        self._asked: Asked | None = None  # what the works measure, where that is all there is

    def of(self, plans: Sequence[Plan], asked: Asked) -> Sequence[tuple[str, Work]]:
        """For each group and rung its work in this step."""
        shares = [plan.bound.shares() for plan in plans]
        if not identical(shares, self._shares):
            each = [(i, rung, *share) for i, rungs in enumerate(shares) for rung, share in rungs.items()]
            self._works = [(rung, _work(plans[i], parts)) for i, rung, _, parts in each]
            self._of = [(i, indices) for i, _, indices, _ in each]
            self._asked, self._shares = None, shares  # the last: what is broken off is begun anew
        known, self._asked = self._asked, None  # until all are told
        complete = True
        for plan in plans:
            if not plan.complete:
                complete = False
                if asked:
                    plan.bound.rest(asked)
        for (rung, work), (i, indices) in zip(self._works, self._of, strict=True):
            plan = plans[i]
            work.lr, work.weight_decay, work.rotation = plan.lr, plan.weight_decay, plan.rotation
            work.grads = plan.bound.gradients(indices, plan.grads)
            work.places = None if plan.bound.apart else plan.places_of(indices)
            work.complete = plan.complete
            if known is not asked or not plan.complete:
                work.measured = plan.bound.asked(rung, asked, work.grads, plan.complete) if asked else NOTHING
        self._asked = asked if complete else None
        return self._works

    def release(self) -> None:
        """Gradients do not outlive their step."""
        for _, work in self._works:
            work.grads, work.places = (), None


def _work(plan: Plan, parts: list[Part]) -> Work:
    group, bound = plan.group, plan.bound
    return Work(
        rule=bound.rule,
        lr=plan.lr,
        weight_decay=plan.weight_decay,
        rotation=plan.rotation,
        ema=bound.control.memory,
        center=bound.control.center,
        maximize=group["maximize"],
        dither=group["stochastic_rounding"] and group["moment_dtype"] is torch.bfloat16,
        foreach=group["foreach"] is not False,
        parts=parts,
        grads=(),
    )
