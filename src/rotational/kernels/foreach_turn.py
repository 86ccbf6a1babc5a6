"""The rotation of many neurons with torch's own operations: `rotate.rotate` in place, for lists of tensors.

    w  weights     u  directions     |.|  of a neuron

What leads to the side is found by sums, u being only read (`_summed`); where single precision does not bear that, by
taking the rest from u first (`_projected`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rotational.kernels.pieces import Held, Piece
from rotational.rotate import rounding

# torch's own optimizers are written with these functions; only their names begin with an underscore.
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

CANCELS = 0.2
"""The share of |u| to the side below which sums in single precision cancel: at 0.2 they cost a digit and a half,"""
LONG, CANCEL_LONG = 1024, 0.7
"""and of neurons of more weights, whose lengths have lost a digit before, at 0.7 a factor of two."""


class _Options(NamedTuple):
    """What is the same for all neurons that turn in one go."""

    rotation: float
    turns: int
    memory: float
    center: bool


@torch.no_grad()
def rotate_(batch: Sequence[Piece], u: list[Tensor], *, rotation: float, memory: float, center: bool) -> None:
    """`rotate.rotate` in place: `w` turns, `rms` is brought up to date, `u` is used up.

    A neuron whose `norm` is 0 stays as it is until it has a length, which then becomes its norm.
    Low-precision weights are turned in single precision and rounded once, at the end.
    """
    # Rows of one size are one tall matrix; all else goes alone.
    alike: dict[tuple[_Options, int, torch.dtype, torch.device], list[tuple[Tensor, Tensor, Held]]] = {}
    for i, (piece, direction) in enumerate(zip(batch, u, strict=True)):
        assert piece.held is not None
        w, held = piece.w, piece.held
        options = _Options(rotation, held.turns, memory, center)
        size = held.neurons.size(w.shape) if _in_rows(piece) else -1 - i
        alike.setdefault((options, size, w.dtype, w.device), []).append((w, direction, held))
    for (options, size, *_), members in alike.items():
        if len(members) > 1:
            _turn_rows_(members, size, options)
        else:
            ((w, direction, held),) = members
            view = held.neurons.view
            _turn_(view(w), view(direction), held.neurons.within(w.shape), held.norm, held.rms, options)


def _in_rows(piece: Piece) -> bool:
    """Whether the neurons lie one after the other in memory."""
    assert piece.held is not None
    axes = piece.held.neurons.axes
    return axes == tuple(range(len(axes))) and piece.w.is_contiguous()


def _turn_rows_(members: Sequence[tuple[Tensor, Tensor, Held]], size: int, options: _Options) -> None:
    """Join, turn, and put back."""
    w = [x.view(-1, size) for x, _, _ in members]
    norm, rms = [x.norm.view(-1, 1) for _, _, x in members], [x.rms.view(-1, 1) for _, _, x in members]
    kept = (w, norm, rms)
    tall_w, tall_norm, tall_rms = tall = [torch.cat(column) for column in kept]
    _turn_(tall_w, torch.cat([u.reshape(-1, size) for _, u, _ in members]), (1,), tall_norm, tall_rms, options)
    for column, joined in zip(kept, tall, strict=True):
        torch._foreach_copy_(column, list(joined.split([len(x) for x in w])))


class _Neurons(NamedTuple):
    """Weights and directions of many neurons of one size, which run along the axes `within`, and their lengths."""

    w: Tensor
    u: Tensor
    within: tuple[int, ...]
    size: int
    length: Tensor
    center: bool

    def sum(self, x: Tensor) -> Tensor:
        return x.sum(self.within, keepdim=True)

    def mean(self) -> Tensor:
        return self.u.mean(self.within, keepdim=True)

    def length_of(self, x: Tensor) -> Tensor:
        return _length(x, self.within, self.size)


class _Side(NamedTuple):
    """What of u leads to the side, of each neuron.

    left      its length, and `tangent` the same in the units of the rule: u may be in others by now
    along     what u still holds along w/|w|, and `mean` what of every entry: 0 of neurons that are projected, and None
              where all are
    still     neurons of which nothing but noise leads there, or that are zero; None where there are none
    """

    left: Tensor
    tangent: Tensor
    along: Tensor | None = None
    mean: Tensor | None = None
    still: Tensor | None = None


def _turn_(w: Tensor, u: Tensor, within: tuple[int, ...], norm: Tensor, rms: Tensor, options: _Options) -> None:
    """The step itself, on neurons that run along the axes `within`."""
    wide = w if w.dtype in (torch.float32, torch.float64) else w.float()
    size, stored = math.prod(w.shape[a] for a in within), u.dtype
    u, length = u.to(wide.dtype), _length(wide, within, size)
    torch.where(norm > 0, norm, length, out=norm)
    side = _aside(_Neurons(wide, u, within, size, length, options.center), stored)
    left, tangent, still = side.left, side.tangent, side.still
    torch.hypot(rms.mul_(options.memory**0.5), tangent * (1 - options.memory) ** 0.5, out=rms)
    if options.rotation == 0.0:
        return  # nothing turns, and nothing is rounded either
    slope = tangent.div(rms).mul_(options.rotation * (1 - options.memory**options.turns) ** 0.5)
    # w' = n N(w/|w| - slope u/|u|); the two are orthogonal, and their lengths are known
    stretch = slope.square().add_(1.0).rsqrt_().mul_(norm)
    slope.mul_(stretch).div_(left)
    if side.along is not None:
        stretch.addcmul_(slope, side.along)
    stretch.div_(length if still is None else length.clamp_min(torch.finfo(wide.dtype).tiny))
    if side.mean is not None:
        u.sub_(side.mean)
    if still is not None:
        stretch.masked_fill_(still, 1.0)
        slope.masked_fill_(still, 0.0)
    wide.mul_(stretch)
    wide.addcmul_(u, slope, value=-1)
    if wide is not w:
        w.copy_(wide)


def _aside(of: _Neurons, stored: torch.dtype) -> _Side:
    """What leads to the side: by sums, and of neurons for which those will not do by projection.

    Each neuron decides for itself: what others are does not change its bits.
    """
    noise = rounding(torch.finfo(of.w.dtype).eps, torch.finfo(stored).eps)
    if of.w.device.type != "cpu" or not of.w.numel():  # an accelerator would have to wait to be asked about the rest
        return _projected(of, noise, None)
    summed, rest = _summed(of)
    if rest is None:
        return summed
    found, zero = _projected(of, noise, rest), torch.zeros_like(summed.left)
    return _Side(
        torch.where(rest, found.left, summed.left),
        torch.where(rest, found.tangent, summed.tangent),
        None if summed.along is None else torch.where(rest, zero, summed.along),
        None if summed.mean is None else torch.where(rest, zero, summed.mean),
        found.still,
    )


def _summed(of: _Neurons) -> tuple[_Side, Tensor | None]:
    """By sums alone, u is only read; and those neurons for which that will not do, if there are any.

    In single precision their sums nearly cancel, or the squares leave its range.
    """
    precision = torch.finfo(of.w.dtype)
    # Of single entries too the squares are in range: the smallest of a million is a thousandth of the length.
    low, high = precision.tiny**0.4, precision.max**0.4
    whole, along = of.length_of(of.u), of.sum(of.u * of.w)
    mean, square = None, whole.square()
    if of.center:
        mean = of.mean()
        along.addcmul_(mean, of.sum(of.w), value=-1)
        square.addcmul_(mean, mean, value=-of.size)
    along.div_(of.length)
    left = square.addcmul_(along, along, value=-1).clamp_min_(0.0).sqrt_()
    side, share, least = _Side(left, left, along, mean), left / whole, CANCELS if of.size <= LONG else CANCEL_LONG
    shortest, longest = torch.aminmax(torch.cat((of.length, whole)))
    if shortest.item() > low and longest.item() < high and share.amin().item() > least:
        return side, None
    within = (torch.minimum(of.length, whole) > low) & (torch.maximum(of.length, whole) < high)
    return side, ~(within & (share > least))  # what is NaN is among the rest


def _projected(of: _Neurons, noise: float, rest: Tensor | None) -> _Side:
    """By taking from u what does not lead to the side, whatever its size; of the rest alone, if there are others.

    `noise` is the share of |u| below which what is left is rounding.
    """

    def here(x: Tensor, there: float) -> Tensor:
        return x if rest is None else torch.where(rest, x, there)

    u, tiny = of.u, torch.finfo(of.w.dtype).tiny
    # u in units of its largest entry: squares of gradients of 1e-20 or 1e+20 do not exist in single precision.
    largest = torch.maximum(u.amax(of.within, keepdim=True), u.amin(of.within, keepdim=True).neg_())
    scale = here(largest.clamp_min_(tiny), 1.0)
    u.div_(scale)
    mean = here(of.mean(), 0.0) if of.center else None
    if mean is not None:
        u.sub_(mean)
    nonzero = of.length.clamp_min(tiny)
    along = here(of.sum(u * of.w).div_(nonzero), 0.0)
    u.addcmul_(of.w, along / nonzero, value=-1)
    left = of.length_of(u)
    # By Pythagoras, |u|^2 is what is left, what lay along w and, C times squared, the mean.
    whole = torch.hypot(left, along)
    if mean is not None:
        torch.hypot(whole, mean.mul_(of.size**0.5), out=whole)
    still = left <= whole.mul_(noise)
    left.masked_fill_(still, 0.0)
    # NaN passes all these tests and is seen in the weights, as it is with torch's own optimizers.
    still |= of.length == 0
    return _Side(left, left * scale, still=still if rest is None else still & rest)


def _length(x: Tensor, within: tuple[int, ...], size: int) -> Tensor:
    """Lengths of the neurons.

    On a CPU torch's norm adds up in one chain, 1e-5 off at 10^6 entries and 1e-3 at 10^7; its sum does not.
    """
    if size > 1 << 16:
        return x.square().sum(within, keepdim=True).sqrt_()
    return torch.linalg.vector_norm(x, dim=within, keepdim=True)
