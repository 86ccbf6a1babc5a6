"""What turns in the parameters of a group: its neurons, their lengths, and their means taken out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from rotational.control import Control
from rotational.kernels.work import sharded, wide
from rotational.neurons import Neurons

CHUNK, LANES = 1 << 18, 128
"""Weights that are worked on at once, which takes a few megabytes; and columns that stay together, so that reductions
have the same bits in pieces."""


@lru_cache(maxsize=1024)
def units_of(
    units: str | Neurons, center: bool, known: tuple[Neurons, ...] | None, shapes: tuple[torch.Size, ...]
) -> tuple[Neurons | None, ...]:
    """What turns as one in tensors of these shapes; None where nothing does.

    Without a partition, tensors of two and more axes have rows for neurons and the others have none.
    Neurons of too few weights to have a direction take the plain rule.
    """
    control = Control(units, center)
    chosen = [control.neurons(known[i] if known else None) for i in range(len(shapes))]
    return tuple(
        n if len(shape) >= 2 and control.can_turn(n, shape) else None for n, shape in zip(chosen, shapes, strict=True)
    )


@torch.no_grad()
def center_(p: Tensor, units: Neurons) -> None:
    """Take the mean out of every neuron that has one; those without keep every bit.

    A constant neuron (a gain of ones, say) is nothing but its mean: it keeps it, and turns away from it.
    """
    flat, size = Neurons(units.axes), units.size(p.shape)
    for w in _pieces(p, units)[1]:
        norm, mean = flat.norm(w), flat.mean(w)
        rounding = (16 * torch.finfo(norm.dtype).eps + torch.finfo(p.dtype).eps) * norm
        centred = w - mean
        centred -= flat.mean(centred)  # where the mean was most of the neuron, its rounding shows
        # What is left of a constant neuron is the rounding of its mean, not a direction.
        varies = flat.norm(centred) > rounding
        w.copy_(torch.where(varies & (mean.abs() * size**0.5 > rounding), centred, w))


def lengths(p: Tensor, units: Neurons) -> Tensor:
    """`units.norm(p)`, without a temporary of the parameter's size."""
    axis, pieces = _pieces(p, units)
    if len(pieces) == 1:
        return units.norm(p)
    # Into memory of its own: what is kept between temporaries keeps theirs from being used again.
    found = torch.empty(kept(units, p.shape), dtype=wide(p.dtype), device=p.device)
    for w, norm in zip(pieces, found.split([w.shape[axis] for w in pieces], axis), strict=True):
        norm.copy_(Neurons(units.axes).norm(w))
    return found


def noted(state: Mapping[str, Any], units: Neurons, shape: Sequence[int]) -> bool:
    """Whether a state holds the lengths of these neurons; those of others are noted anew."""
    return isinstance(norm := state.get("norm"), Tensor) and list(norm.shape) == kept(units, shape)


def kept(units: Neurons, shape: Sequence[int]) -> list[int]:
    """The shape of one number for each neuron: that of the view, its inner axes 1."""
    return [n if a in units.axes else 1 for a, n in enumerate(units.view_shape(tuple(shape)))]


def _pieces(p: Tensor, units: Neurons) -> tuple[int, Sequence[Tensor]]:
    """The view of a parameter, cut along its longest axis of neurons; whole neurons, however long they are."""
    w = units.view(p)
    axis = max(units.axes, key=lambda a: w.shape[a], default=0)
    if not units.axes or w.numel() <= CHUNK or sharded(p):
        return axis, (w,)
    # What torch reduces by itself, one neuron or a few columns, it adds up in another order.
    inner = all(w.stride(axis) <= w.stride(a) for a in range(w.dim()) if a not in units.axes)
    least = LANES if inner else 2
    count, many = max(least, CHUNK * w.shape[axis] // w.numel() // least * least), w.shape[axis]
    if many < 2 * count:
        return axis, (w,)
    return axis, w.split([count] * (many // count - 1) + [count + many % count], axis)
