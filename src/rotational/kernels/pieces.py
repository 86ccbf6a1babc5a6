"""What a step works on: parameters and their state, in batches that fit the cache.

A step reads and writes a dozen arrays of the size of the weights. Done parameter by parameter each pass goes
through memory; done piece by piece all but the first find their arrays in the cache, and many small tensors
share one call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from rotational.kernels.work import span, wide
from rotational.neurons import Neurons

CACHED = 3 << 17
"""Weights in a batch on the CPU, for each thread: ten megabytes that the last cache holds, at 0.1 ms of overhead."""
LAUNCH = 1 << 24
"""Weights in a batch on an accelerator: few launches, and a bound on temporary memory."""


@dataclass(eq=False)
class Held:
    """What turns: neurons, the `norm` of each and the RMS of its update, and the turns, this one included."""

    neurons: Neurons
    norm: Tensor
    rms: Tensor
    turns: int


@dataclass(eq=False)
class Piece:
    """A parameter, or a range along its first axis, with all that a step reads and writes of it.

    w, g weights and gradients; m, v memory and second moments, where the rule has them; `steps` of the rule,
    this one included; `fresh` where `m` holds nothing yet; `held` is None where the plain rule applies; `rows` are the
    first and the number of those in the range, and `index` tells which parameter it is of.

    Of one step are `g`, `steps`, `fresh` and `held.turns`; the rest may last, and what is worked out from it.
    """

    w: Tensor
    g: Tensor | None
    m: Tensor | None
    v: Tensor | None
    steps: int = 0
    fresh: bool = False
    held: Held | None = None
    rows: tuple[int, int] | None = None
    index: int = 0

    def take(self, g: Tensor | None, steps: int, fresh: bool, turns: int) -> None:
        """What there is in one step; `g` is the gradient of the whole parameter."""
        self.g = g.narrow(0, *self.rows) if g is not None and self.rows is not None else g
        self.steps, self.fresh = steps, fresh
        if self.held is not None:
            self.held.turns = turns

    @property
    def moments(self) -> list[Tensor]:
        """m and v, where the rule has them."""
        return [x for x in (self.m, self.v) if x is not None]

    @cached_property
    def exact(self) -> bool:
        """Whether all is stored in the precision of the arithmetic."""
        return all(x.dtype is wide(self.w.dtype) for x in (self.w, *self.moments))

    @cached_property
    def alike(self) -> bool:
        """Whether all is stored in one precision."""
        return all(x.dtype is self.w.dtype for x in self.moments)

    @cached_property
    def together(self) -> bool:
        """Whether torch's kernel for CPUs, which knows neither strides nor shards, may take it."""
        w = self.w
        if type(w) not in (Tensor, torch.nn.Parameter) or w.device.type != "cpu":
            return False
        return span(w) == w.numel() and all(x.stride() == w.stride() for x in self.moments)

    @cached_property
    def size(self) -> int:
        """Weights of a neuron, where those of each lie side by side and after those of another; else 0."""
        assert self.held is not None
        axes, shape = self.held.neurons.axes, self.w.shape
        rows = axes == tuple(range(len(axes))) and self.w.is_contiguous()
        return self.held.neurons.size(shape) if rows else 0

    def read(self, x: Tensor) -> Tensor:
        """What lies as the weights do, as its neurons have it: a row for each, where they have a size."""
        assert self.held is not None
        return x.reshape(-1, self.size) if self.size else self.held.neurons.view(x)

    @cached_property
    def turning(self) -> tuple[Tensor, Tensor, Tensor, tuple[int, ...]]:
        """Views of weights, lengths and RMS, and the axes along which neurons run in them."""
        assert self.held is not None
        w, norm, rms = self.read(self.w), self.held.norm, self.held.rms
        if self.size:
            return w, norm.view(-1, 1), rms.view(-1, 1), (1,)
        return w, norm, rms, self.held.neurons.within(self.w.shape)


class Scratch:
    """Memory of a step that the next batch uses again: fresh pages would cost as much as a pass over them."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, torch.dtype], Tensor] = {}
        self._lent: dict[tuple[str, torch.dtype], Tensor] = {}

    def like(self, name: str, tensors: Sequence[Tensor], lend: bool = False) -> list[Tensor]:
        """One for each of these, of its shape and layout, without gaps, and one after the other; what an earlier call
        gave by this name is overwritten.

        They hold what they last did. Where that has to be numbers they are lent, and come back by `returned` or never.
        On an accelerator, and for more than a batch of them, it is memory of its own.
        """
        made: dict[int, Tensor] = {}
        for dtype in dict.fromkeys(x.dtype for x in tensors):
            at = [i for i, x in enumerate(tensors) if x.dtype is dtype]
            sizes, device = [tensors[i].numel() for i in at], tensors[at[0]].device
            count, key = sum(sizes), (name, dtype)
            keeps = device.type == "cpu" and count <= CACHED * torch.get_num_threads()
            held = self._held.pop(key, None) if keeps else None
            if held is None or held.numel() < count:
                held = (torch.zeros if lend else torch.empty)(count, dtype=dtype, device=device)
            if keeps:
                (self._lent if lend else self._held)[key] = held
            for i, start in zip(at, accumulate(sizes, initial=0), strict=False):
                made[i] = held.as_strided(tensors[i].shape, tensors[i].stride(), start)
        return [made[i] for i in range(len(tensors))]

    def returned(self, numbers: bool) -> None:
        """What was lent is no longer in use; whether it holds numbers."""
        if numbers:
            self._held |= self._lent
        self._lent = {}


def batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """The same work in batches of bounded size: small pieces together, large ones cut along their first axis."""
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        limit = CACHED * torch.get_num_threads() if piece.w.device.type == "cpu" else LAUNCH
        for part in _cut(piece, limit):
            if batch and size + part.w.numel() > limit:
                yield batch
                batch, size = [], 0
            batch.append(part)
            size += part.w.numel()
    if batch:
        yield batch


def _cut(piece: Piece, limit: int) -> Iterator[Piece]:
    w, held, count = piece.w, piece.held, piece.w.shape[0] if piece.w.dim() else 1
    # A neuron must stay in one piece: its axes have to begin with the one that is cut.
    whole = held is not None and (held.neurons.axes[:1] != (0,) or held.neurons.split > 1)
    if w.numel() <= limit or whole:
        yield piece
        return
    length = max(1, limit * count // w.numel())
    for start in range(0, count, length):
        rows = start, min(length, count - start)
        w, m, v = (None if x is None else x.narrow(0, *rows) for x in (piece.w, piece.m, piece.v))
        assert w is not None
        part = Piece(w, None, m, v, rows=rows, index=piece.index)
        if held is not None:
            part.held = Held(held.neurons, held.norm.narrow(0, *rows), held.rms.narrow(0, *rows), held.turns)
        part.take(piece.g, piece.steps, piece.fresh, held.turns if held is not None else 0)
        yield part
