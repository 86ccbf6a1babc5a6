"""What a kernel is asked to do: for each param group its rule, its numbers and its parameters with their state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from rotational.neurons import Neurons
from rotational.rule import Rule
from rotational.scale import Raw, Rms


@dataclass(eq=False)
class Part:
    """A parameter and its state.

    w           weights, at the same `address` in memory and of the same `shape` for as long as the part is in use
    m, v        memory and second moments, where the rule has them
    step        steps of the rule so far, a tensor as torch has it
    fresh       whether `m` holds nothing yet
    units       what turns as one; None where the plain rule applies
    norm, rms   of every neuron: length to keep, and RMS of its update
    turns       how often it turned so far
    """

    w: Tensor
    m: Tensor | None
    v: Tensor | None
    step: Tensor
    fresh: bool
    units: Neurons | None
    norm: Tensor | None
    rms: Tensor | None
    turns: Tensor | None

    def __post_init__(self) -> None:
        self.shape, self.stride, self.address = self.w.shape, self.w.stride(), self.w.data_ptr()


@dataclass(eq=False)
class Work:
    """One step of a param group, on one rung.

    parts         the same list for as long as nothing about its parameters changes
    grads         their gradients, taken in the precision of their weights; None where a parameter takes no step
    alike         the precision of the gradients where all are of one, dense and without gaps; else None
    rotation      to hold, in radians; `ema` is the factor of the mean that holds it
    dither        round moments that are stored in bfloat16 at random
    foreach       whether plain torch may take parameters together
    measured      where the change of every neuron of a part goes: its index -> (neurons, [4, neurons]), the rows
                  being angle, norm, update and radial share
    """

    rule: Rule
    lr: float
    weight_decay: float
    rotation: float
    ema: float
    center: bool
    maximize: bool
    dither: bool
    foreach: bool
    parts: list[Part]
    grads: Sequence[Tensor | None]
    alike: torch.dtype | None = None
    measured: dict[int, tuple[Neurons, Tensor]] = field(default_factory=dict[int, "tuple[Neurons, Tensor]"])

    def coupled(self, turns: bool) -> float:
        """Weight decay that is added to the gradient.

        A coupled decay of a linear rule is separable, and the rotation stands in its place; in Adam's direction it is
        not, and stays.
        """
        if self.rule.decay != "coupled" or (turns and isinstance(self.rule.scale, Raw)):
            return 0.0
        return self.weight_decay

    def kept(self, turns: bool) -> float:
        """The share of the weights that the plain rule keeps beside its step."""
        return 1 - self.lr * self.weight_decay if self.rule.decay == "decoupled" and not turns else 1.0


class Kernel(Protocol):
    """One way to take a step."""

    def step(self, works: Sequence[Work]) -> None:
        """Take one step of all these groups, counters included."""
        ...


def beta_of(rule: Rule) -> float:
    """The decay of v; 0 where there is none."""
    return rule.scale.beta if isinstance(rule.scale, Rms) else 0.0


def wide(dtype: torch.dtype) -> torch.dtype:
    """The precision of the arithmetic."""
    return torch.promote_types(dtype, torch.float32)


def in_line(g: Tensor, w: Tensor) -> Tensor:
    """A gradient that lies as its weight does, and is stored as it is; autograd's own always is."""
    if g.stride() == w.stride() and g.dtype is w.dtype and g.device == w.device:
        return g
    return torch.empty_strided(w.shape, w.stride(), dtype=w.dtype, device=w.device).copy_(g)


def sharded(w: Tensor) -> bool:
    """Whether several processes hold a tensor together (a DTensor, of FSDP2 or tensor parallelism)."""
    return hasattr(w, "to_local")
