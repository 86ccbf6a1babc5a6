"""What a step works on: parameters and their state, in batches that fit the cache.

A step reads and writes a dozen arrays of the size of the weights. Done parameter by parameter each pass goes
through memory; done piece by piece all but the first find their arrays in the cache, and many small tensors
share one call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rotational.neurons import Neurons

CACHED = 1 << 18
"""Weights in a batch on the CPU, for each thread: three megabytes that the last cache holds, at 0.1 ms of overhead."""
LAUNCH = 1 << 24
"""Weights in a batch on an accelerator: few launches, and a bound on temporary memory."""


class Held(NamedTuple):
    """What turns: neurons, the `norm` of each and the RMS of its update, and the turns, this one included."""

    neurons: Neurons
    norm: Tensor
    rms: Tensor
    turns: int


class Piece(NamedTuple):
    """A parameter, or a range along its first axis, with all that a step reads and writes of it.

    w, g weights and gradients; m, v memory and second moments, where the rule has them; `steps` of the rule,
    this one included; `fresh` where `m` holds nothing yet; `held` is None where the plain rule applies.
    """

    w: Tensor
    g: Tensor
    m: Tensor | None
    v: Tensor | None
    steps: int
    fresh: bool
    held: Held | None = None


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


def _cut(piece: Piece, limit: int) -> Iterable[Piece]:
    w, held = piece.w, piece.held
    # A neuron must stay in one piece: its axes have to begin with the one that is cut.
    whole = held is not None and (held.neurons.axes[:1] != (0,) or held.neurons.split > 1)
    if w.numel() <= limit or whole:
        return (piece,)
    length = max(1, limit * w.shape[0] // w.numel())
    count = -(-w.shape[0] // length)

    def parts(x: Tensor | None) -> Sequence[Tensor | None]:
        return (None,) * count if x is None else x.split(length)

    helds: Sequence[Held | None] = (None,) * count
    if held is not None:
        ends = zip(held.norm.split(length), held.rms.split(length), strict=True)
        helds = [held._replace(norm=norm, rms=rms) for norm, rms in ends]
    columns = zip(w.split(length), piece.g.split(length), parts(piece.m), parts(piece.v), helds, strict=True)
    return [Piece(pw, pg, pm, pv, piece.steps, piece.fresh, ph) for pw, pg, pm, pv, ph in columns]
