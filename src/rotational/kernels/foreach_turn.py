"""The rotation of many neurons with torch's own operations: `rotate.rotate` in place, for lists of tensors.

    w  weights     u  directions     |.|  of a neuron

What leads to the side is found by sums, u being only read (`_summed`); where single precision does not bear that, by
taking the rest from u first (`_projected`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from rotational.kernels.pieces import Piece, Scratch
from rotational.rotate import rounding

# torch's own optimizers are written with these functions; only their names begin with an underscore.
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

Tensors = list[Tensor]

JOINED = 1 << 15
"""Weights of a tensor that is rather copied than gone over by itself; on accelerators all are."""

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


def rotate_(
    batch: Sequence[Piece],
    u: Tensors,
    *,
    rotation: float,
    memory: float,
    center: bool,
    scratch: Scratch | None = None,
) -> bool:
    """`rotate.rotate` in place: `w` turns, `rms` is brought up to date, `u` is used up; returns whether what is left of
    it are numbers.

    A neuron whose `norm` is 0 stays as it is until it has a length, which then becomes its norm.
    Low-precision weights are turned in single precision and rounded once, at the end.
    """
    scratch = scratch or Scratch()
    # Rows of one size turn together; all else goes alone.
    alike: dict[tuple[int, int, torch.dtype, torch.device], list[tuple[Piece, Tensor]]] = {}
    for i, (piece, direction) in enumerate(zip(batch, u, strict=True)):
        assert piece.held is not None
        key = piece.held.turns, piece.size or -1 - i, piece.w.dtype, piece.w.device
        alike.setdefault(key, []).append((piece, direction))
    numbers = True
    for (turns, *_), members in alike.items():
        numbers &= _turn_alike_(members, _Options(rotation, turns, memory, center), scratch)
    return numbers


def _turn_alike_(members: list[tuple[Piece, Tensor]], options: _Options, scratch: Scratch) -> bool:
    """What there is one number of for each neuron is joined, and so are small tensors."""

    def joins(w: Tensor) -> bool:
        return w.device.type != "cpu" or w.numel() <= JOINED

    if len(members) > 1:
        members.sort(key=lambda x: not joins(x[0].w))
    turning = [piece.turning for piece, _ in members]
    w, u, within = [x for x, *_ in turning], [piece.read(u) for piece, u in members], turning[0][3]
    small = sum(map(joins, w)) if len(w) > 1 else 0
    beside = [x for _, x, _, _ in turning], [x for _, _, x, _ in turning]
    norm, rms = kept = [_joined(column) for column in beside]
    tall = [_joined(w[:small])] if small else []
    u = [_joined(u[:small]), *u[small:]] if small else u
    numbers = _turn_(tall + w[small:], u, within, norm, rms, options, scratch)
    if small > 1:
        _part_(tall[0], w[:small])
    for column, joined in zip(beside, kept, strict=True):
        if len(column) > 1:
            _part_(joined, column)
    return numbers


class _Neurons(NamedTuple):
    """Weights and directions of many neurons of one size, in one tensor or in several.

    They run along the axes `within`. There is one number for each of them in `length`, that of its weights, and in what
    methods return, one tensor for all.
    """

    w: Tensors
    u: Tensors
    within: tuple[int, ...]
    size: int
    length: Tensor
    scratch: Scratch

    def sum(self, tensors: Tensors) -> Tensor:
        return _joined([x.sum(self.within, keepdim=True) for x in tensors])

    def mean(self) -> Tensor:
        return _joined([u.mean(self.within, keepdim=True) for u in self.u])

    def dot(self) -> Tensor:
        """u w."""
        products = self.scratch.like("product", self.u)
        return self.sum([torch.mul(u, w, out=to) for u, w, to in zip(self.u, self.w, products, strict=True)])

    def length_of(self, tensors: Tensors) -> Tensor:
        return _joined([_length(x, self.within, self.size) for x in tensors])

    def center_(self, mean: Tensor) -> None:
        for u, each in zip(self.u, self.each(mean), strict=True):
            u.sub_(each)

    def each(self, numbers: Tensor) -> Sequence[Tensor]:
        """Those of each tensor."""
        return [numbers] if len(self.w) == 1 else numbers.split([len(w) for w in self.w])


class _Side(NamedTuple):
    """What of u leads to the side, of each neuron.

    left      its length, and `tangent` the same in the units of the rule: u may be in others by now
    along     what u still holds along w/|w|: 0 of neurons that are projected, and None where all are
    still     neurons of which nothing but noise leads there, or that are zero; None where there are none
    """

    left: Tensor
    tangent: Tensor
    along: Tensor | None = None
    still: Tensor | None = None


def _turn_(
    w: Tensors,
    u: Tensors,
    within: tuple[int, ...],
    norm: Tensor,
    rms: Tensor,
    options: _Options,
    scratch: Scratch,
) -> bool:
    """The step itself, on neurons that run along the axes `within`; returns whether what is left of u are numbers."""
    wide = [x if x.dtype in (torch.float32, torch.float64) else x.float() for x in w]
    size, stored = math.prod(w[0].shape[a] for a in within), u[0].dtype
    length = _joined([_length(x, within, size) for x in wide])
    torch.where(norm > 0, norm, length, out=norm)
    of = _Neurons(wide, [x.to(wide[0].dtype) for x in u], within, size, length, scratch)
    left, tangent, along, still = _aside(of, stored, options.center)
    torch.hypot(rms.mul_(options.memory**0.5), tangent * (1 - options.memory) ** 0.5, out=rms)
    if options.rotation == 0.0:  # nothing turns, and nothing is rounded either
        if still is not None:
            for x, lost in zip(w, of.each(left.isnan()), strict=True):
                x.masked_fill_(lost, math.nan)
        return still is None
    slope = tangent.div(rms).mul_(options.rotation * (1 - options.memory**options.turns) ** 0.5)
    # w' = n N(w/|w| - slope u/|u|); the two are orthogonal, and their lengths are known
    stretch = slope.square().add_(1.0).rsqrt_().mul_(norm)
    slope.mul_(stretch).div_(left)
    if along is not None:
        stretch.addcmul_(slope, along)
    stretch.div_(length if still is None else length.clamp_min(torch.finfo(length.dtype).tiny))
    if still is not None:
        stretch.masked_fill_(still, 1.0)
        slope.masked_fill_(still, 0.0)
    for x, y, u_of, by, to in zip(w, wide, of.u, of.each(stretch), of.each(slope), strict=True):
        y.mul_(by).addcmul_(u_of, to, value=-1)
        if y is not x:
            x.copy_(y)
    return still is None


def _aside(of: _Neurons, stored: torch.dtype, center: bool) -> _Side:
    """What leads to the side: by sums, and of neurons for which those will not do by projection.

    Each neuron decides for itself: what others are does not change its bits.
    """
    like = of.length
    noise = rounding(torch.finfo(like.dtype).eps, torch.finfo(stored).eps)
    if like.device.type != "cpu" or not all(map(Tensor.numel, of.w)):
        # An accelerator would have to wait to be asked about the rest.
        return _projected(of, noise, center)
    mean = None
    if center:
        mean = of.mean().nan_to_num_(0.0, 0.0, 0.0)  # they show themselves, or are too large to add up
        of.center_(mean)
    summed, rest = _summed(of, mean)
    if rest is None:
        return summed
    found, zero = _projected(of, noise, center, mean, rest), torch.zeros_like(like)
    left, tangent = torch.where(rest, found.left, summed.left), torch.where(rest, found.tangent, summed.tangent)
    return _Side(left, tangent, None if summed.along is None else torch.where(rest, zero, summed.along), found.still)


def _summed(of: _Neurons, mean: Tensor | None) -> tuple[_Side, Tensor | None]:
    """By sums alone, u is only read; and those neurons for which that will not do, if there are any.

    In single precision their sums nearly cancel, or the squares leave its range. `mean` is what was taken from u.
    """
    low, high = _range(of.length.dtype)
    along, square = of.dot().div_(of.length), of.length_of(of.u).square_()
    whole = square if mean is None else torch.addcmul(square, mean, mean, value=of.size)
    left = torch.addcmul(square, along, along, value=-1)
    share, least = left / whole, (CANCELS if of.size <= LONG else CANCEL_LONG) ** 2
    squares = of.length.square()
    shortest, longest = torch.aminmax(torch.cat((squares, whole)))
    if shortest.item() > low and longest.item() < high and share.amin().item() > least:
        left.sqrt_()
        return _Side(left, left, along), None
    within = (torch.minimum(squares, whole) > low) & (torch.maximum(squares, whole) < high)
    left.clamp_min_(0.0).sqrt_()
    return _Side(left, left, along), ~(within & (share > least))  # what is NaN is among the rest


@lru_cache
def _range(dtype: torch.dtype) -> tuple[float, float]:
    """Between which squares of lengths are well in the range of a precision.

    Of single entries they are too: the smallest of a million is a thousandth of the length.
    """
    precision = torch.finfo(dtype)
    return precision.tiny**0.8, precision.max**0.8


def _projected(
    of: _Neurons, noise: float, center: bool, taken: Tensor | None = None, rest: Tensor | None = None
) -> _Side:
    """By taking from u what does not lead to the side, whatever its size; of the rest alone, if there are others.

    `noise` is the share of |u| below which what is left is rounding, and `taken` the mean that u has lost before.
    """

    def here(x: Tensor, there: float) -> Tensor:
        return x if rest is None else torch.where(rest, x, there)

    tiny = torch.finfo(of.length.dtype).tiny
    # u in units of its largest entry: squares of gradients of 1e-20 or 1e+20 do not exist in single precision.
    most = _joined([x.amax(of.within, keepdim=True) for x in of.u])
    least = _joined([x.amin(of.within, keepdim=True) for x in of.u])
    scale = here(torch.maximum(most, least.neg_()).clamp_min_(tiny), 1.0)
    for u, unit in zip(of.u, of.each(scale), strict=True):
        u.div_(unit)
    mean = here(of.mean(), 0.0) if center else None
    if mean is not None:
        of.center_(mean)
    nonzero = of.length.clamp_min(tiny)
    along = here(of.dot().div_(nonzero), 0.0)
    for u, w, share in zip(of.u, of.w, of.each(along / nonzero), strict=True):
        u.addcmul_(w, share, value=-1)
    left = of.length_of(of.u)
    # By Pythagoras, |u|^2 is what is left, what lay along w and, C times squared, the mean.
    whole = torch.hypot(left, along)
    if mean is not None:
        before = mean if taken is None else mean.add_(taken / scale)
        torch.hypot(whole, before.mul_(of.size**0.5), out=whole)
    still = left <= whole.mul_(noise)
    left.masked_fill_(still, 0.0)
    # NaN passes all these tests and is seen in the weights, as it is with torch's own optimizers.
    still |= (of.length == 0) & (left == left)
    return _Side(left, left * scale, still=still if rest is None else still & rest)


def _joined(parts: Tensors) -> Tensor:
    """One tensor of them all, along the first axis."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _part_(joined: Tensor, parts: Tensors) -> None:
    """Back to where it was joined from."""
    torch._foreach_copy_(parts, list(joined.split([len(x) for x in parts])))


def _length(x: Tensor, within: tuple[int, ...], size: int) -> Tensor:
    """Lengths of the neurons.

    On a CPU torch's norm adds up in one chain, 1e-5 off at 10^6 entries and 1e-3 at 10^7; its sum does not.
    """
    if size > 1 << 16:
        return x.square().sum(within, keepdim=True).sqrt_()
    return torch.linalg.vector_norm(x, dim=within, keepdim=True)
