"""Where the weights of each neuron lie in memory: what a hand-written kernel needs to know of `Neurons`.

A parameter is `outer` blocks of `segments` x `lanes` x `run` weights; a neuron is one lane of one block:

    weight (block, segment, lane, i) lies at  block outer_stride + segment segment_stride + lane run + i

Rows have one segment, columns have as many as rows, a whole tensor is one lane. Channels last is a matter of strides,
and takes no copy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from rotational.neurons import Neurons


class Layout(NamedTuple):
    """Numbers of blocks, segments and lanes, their strides, and the length of a run, all in weights."""

    outer: int
    outer_stride: int
    segments: int
    segment_stride: int
    lanes: int
    run: int

    @property
    def neurons(self) -> int:
        """Number of neurons."""
        return self.outer * self.lanes

    @property
    def size(self) -> int:
        """Weights in a neuron."""
        return self.segments * self.run


class _Axis(NamedTuple):
    size: int
    stride: int
    neuron: bool


def layout(neurons: Neurons, shape: Sequence[int], stride: Sequence[int]) -> Layout | None:
    """The layout of a parameter; None where memory does not lie in this form (say, every second column of a matrix).

    >>> from rotational.neurons import ROWS
    >>> layout(ROWS, (5, 8), (8, 1))                                           # rows
    Layout(outer=1, outer_stride=40, segments=1, segment_stride=40, lanes=5, run=8)
    >>> layout(Neurons(axes=(1,)), (4, 6, 3, 3), (54, 9, 3, 1))                # columns of a transposed convolution
    Layout(outer=1, outer_stride=216, segments=4, segment_stride=54, lanes=6, run=9)
    >>> layout(ROWS, (5, 8), (16, 2)) is None
    True
    """
    sizes, strides = list(shape), list(stride)
    if neurons.split > 1:
        rest = sizes[0] // neurons.split
        sizes[:1], strides[:1] = [neurons.split, rest], [strides[0] * rest, strides[0]]
    axes = [_Axis(n, s, i in neurons.axes) for i, (n, s) in enumerate(zip(sizes, strides, strict=True)) if n != 1]
    if math.prod(sizes) == 0:
        return Layout(0, 0, 1, 0, 1, 1)
    if any(a.stride <= 0 for a in axes):
        return None
    ordered = sorted(axes, key=lambda a: -a.stride)
    if [a for a in ordered if a.neuron] != [a for a in axes if a.neuron]:
        return None  # neurons are numbered in the order of their axes
    joined = _joined(ordered)
    run, lanes, segments, outer = 1, 1, _Axis(1, 0, False), _Axis(1, 0, True)
    if joined and not joined[-1].neuron:
        last = joined.pop()
        if last.stride != 1:
            return None
        run = last.size
    if joined and joined[-1].neuron and joined[-1].stride == run:
        lanes = joined.pop().size
    if joined and not joined[-1].neuron:
        segments = joined.pop()
    if joined and joined[-1].neuron:
        outer = joined.pop()
    if joined or (run > 1 and segments.size > 1 and segments.stride < run * lanes):
        return None
    segment_stride = segments.stride or lanes * run
    return Layout(outer.size, outer.stride or segments.size * segment_stride, segments.size, segment_stride, lanes, run)


def _joined(axes: Sequence[_Axis]) -> list[_Axis]:
    """Neighbours of one kind without a gap between them become one axis."""
    joined: list[_Axis] = []
    for axis in axes:
        if joined and joined[-1].neuron == axis.neuron and joined[-1].stride == axis.size * axis.stride:
            axis = _Axis(joined.pop().size * axis.size, axis.stride, axis.neuron)
        joined.append(axis)
    return joined
