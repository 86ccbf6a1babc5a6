"""What a kernel is asked to do: for each param group its rule, its numbers and its parameters with their state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import is_
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rotational.neurons import Neurons
from rotational.rule import Rule
from rotational.scale import Raw, Rms

# torch names its tensors of nothing but zeros, and what it takes for a list, less strictly than pyright would like.
# pyright: reportPrivateUsage=false


@dataclass(eq=False)
class Part:
    """A parameter and its state.

    w           weights, at the same `address` in memory and of the same `shape` for as long as the part is in use
    m, v        memory and second moments, where the rule has them
    step        steps of the rule so far, a tensor as torch has it
    fresh       whether `m` holds nothing yet, and takes its first gradient undamped
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
        self.shape, self.stride, self.address = self.w.shape, self.w.stride(), address(self.w)


NOTHING: Mapping[int, tuple[Neurons, Tensor]] = MappingProxyType({})
"""Measured of a work."""


@dataclass(eq=False)
class Work:
    """One step of a param group, on one rung.

    parts         the same list for as long as nothing about its parameters changes
    grads         their gradients, taken in the precision of their weights; None where a parameter takes no step
    places        where the gradients lie, if each one is stored and lies as its weights do (0 for None); else None
    complete      whether there is a gradient for each part (False where nobody has asked)
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
    places: np.ndarray | None = None
    complete: bool = False
    measured: Mapping[int, tuple[Neurons, Tensor]] = field(default_factory=lambda: NOTHING)

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

    def in_line(self) -> Sequence[Tensor | None]:
        """The gradients, each as its weight lies: autograd's own do, others are copied."""
        if self.places is not None:
            return self.grads
        return [None if g is None else in_line(g, part.w) for part, g in zip(self.parts, self.grads, strict=True)]


class Kernel(Protocol):
    """One way to take a step."""

    def step(self, works: Sequence[Work]) -> None:
        """Take one step of all these groups, counters included."""
        ...


def identical(found: Sequence[Any], known: Sequence[Any]) -> bool:
    """Whether these are the very same objects."""
    return len(found) == len(known) and all(map(is_, found, known))


def beta_of(rule: Rule) -> float:
    """The decay of v; 0 where there is none."""
    return rule.scale.beta if isinstance(rule.scale, Rms) else 0.0


def wide(dtype: torch.dtype) -> torch.dtype:
    """The precision of the arithmetic."""
    return torch.promote_types(dtype, torch.float32)


def span(x: Tensor) -> int:
    """Entries from the first of a tensor to its last, those between that are not its own included."""
    return sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)) + 1 if x.numel() else 0


def in_line(g: Tensor, w: Tensor) -> Tensor:
    """A gradient that lies as its weight does, and is stored as it is; autograd's own always is.

    Raises ValueError where it is of another shape: it would be read beyond its end, or repeated without a word.
    """
    if g.shape != w.shape:
        raise ValueError(
            f"step: a gradient of shape {list(g.shape)} for weights of {list(w.shape)}, which have been replaced since "
            "it was made; call zero_grad() and backward() again."
        )
    if g.stride() == w.stride() and g.dtype is w.dtype and g.device == w.device and not (g.is_neg() or empty(g)):
        return g
    return torch.empty_strided(w.shape, w.stride(), dtype=w.dtype, device=w.device).copy_(g)


def empty(g: Tensor) -> bool:
    """Whether a gradient has entries and no memory: torch's tensor of nothing but zeros, which is copied.

    Raises ValueError where its memory was taken from it.
    """
    if nowhere(g) or g.data_ptr() or not g.numel():
        return False
    if g._is_zerotensor():
        return True
    raise ValueError(f"step: the storage of a gradient of shape {list(g.shape)} is gone; call backward() again.")


def nowhere(x: Tensor) -> bool:
    """Whether a tensor has a shape and no memory: it is on torch's meta device, or fake (FakeTensorMode)."""
    plain = type(x) in (Tensor, torch.nn.Parameter)
    return x.is_meta or (not plain and x.untyped_storage().device.type == "meta")


def address(x: Tensor) -> int:
    """Where a tensor lies; 0 of what has no memory."""
    return 0 if nowhere(x) else x.data_ptr()


def check_table(out: Tensor, count: int) -> None:
    """Raise ValueError unless the changes of so many neurons can be written into a table.

    One that was given other memory since it was made would be written to beyond its end.
    """
    short = out.untyped_storage().nbytes() < 4 * (out.storage_offset() + 4 * count)
    if out.dtype is not torch.float32 or out.shape != (4, count) or not out.is_contiguous() or short:
        raise ValueError(
            f"step: a table of measure() is {list(out.shape)} {str(out.dtype).removeprefix('torch.')} of strides "
            f"{list(out.stride())}; expected [4, {count}] float32, row by row. It, or the weights, have become others "
            "since it was made: call measure() without out= for new ones."
        )


def changed(weights: list[Tensor]) -> None:
    """Tell autograd that weights were written to behind its back."""
    if _LISTS:
        torch.autograd.graph.increment_version(weights)
    else:
        for w in weights:
            torch.autograd.graph.increment_version(w)


def _takes_lists() -> bool:
    """Whether this torch's `increment_version` does; that of 2.4 takes one tensor."""
    try:
        torch.autograd.graph.increment_version([])
    except (RuntimeError, TypeError):
        return False
    return True


_LISTS = _takes_lists()


def sharded(w: Tensor) -> bool:
    """Whether several processes hold a tensor together (a DTensor, of FSDP2 or tensor parallelism)."""
    return hasattr(w, "to_local")


def own(x: Any) -> Any:
    """What this process holds of a tensor, sharing its memory."""
    return x.to_local() if sharded(x) else x
