"""What a neuron is, in one place.

A parameter tensor holds many weight vectors. `Neurons` says which axes tell one vector from the next; the
other axes run inside a vector. All that the library measures or controls (norms, dots, angles, means) is a
method here, written once as reductions with kept dimensions for torch, numpy and JAX.

    w, v    parameter tensors of the same shape; a "neuron" is one weight vector w[n] inside
    C       size of a neuron, its number of weights
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rotational import _array
from rotational._array import Array


class Change(NamedTuple):
    """What happened to each neuron between two weights; shapes as `Neurons.norm` gives them.

    angle    radians turned
    update   length of the difference
    radial   signed share of the difference that runs along the first weight, in [-1, 1]
    """

    angle: Array
    update: Array
    radial: Array


@dataclass(frozen=True)
class Neurons:
    """Which axes of a parameter index its neurons.

    `axes` are axes of the *view*: the tensor itself, or, when `split` is above 1, the tensor with its first
    axis divided into (split, rest), as the weight of a grouped transposed convolution needs. `axes=()` makes
    the whole tensor one neuron. `parts` names consecutive ranges along the first neuron axis, such as the
    q, k, v rows of a fused projection.

    Raises TypeError for axes that are no tuple; ValueError for axes that repeat or fall, a split below 1,
    parts of no size, and parts where there is no neuron axis to divide.

    >>> import numpy as np
    >>> rows = Neurons(axes=(0,))
    >>> rows.norm(np.array([[3.0, 4.0], [0.0, 2.0]])).ravel().tolist()
    [5.0, 2.0]
    >>> rows.count((10, 3, 2, 2)), rows.size((10, 3, 2, 2))
    (10, 12)
    """

    axes: tuple[int, ...] = (0,)
    split: int = 1
    parts: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.axes, tuple):  # pyright: ignore[reportUnnecessaryIsInstance] users do write 0 or [0]
            raise TypeError(f"Neurons(axes={self.axes!r}): expected a tuple of axis numbers, such as (0,).")
        if list(self.axes) != sorted(set(self.axes)) or any(a < 0 for a in self.axes):
            raise ValueError(f"Neurons(axes={self.axes}): expected distinct axes, rising, each 0 or above.")
        if self.split < 1:
            raise ValueError(f"Neurons(split={self.split}): expected a number of groups, 1 or above.")
        if any(n < 1 for _, n in self.parts):
            raise ValueError(f"Neurons(parts={self.parts}): every part needs at least one neuron.")
        if self.parts and not self.axes:
            raise ValueError(f"Neurons(axes=(), parts={self.parts}): one neuron has no parts; name its axis.")

    # Shapes ---------------------------------------------------------------------------------------------

    def check(self, shape: Sequence[int], name: str = "the parameter") -> None:
        """Raise ValueError, naming the parameter, unless a tensor of this shape can be read this way."""
        shape = tuple(shape)
        if self.split > 1 and (not shape or shape[0] % self.split):
            raise ValueError(
                f"{self}: the first axis of {name}, {list(shape)}, does not divide into {self.split} groups."
            )
        view = self.view_shape(shape)
        if any(a >= len(view) for a in self.axes):
            raise ValueError(f"{self}: {name} has only {len(view)} axes, {list(view)}.")
        if self.parts and sum(n for _, n in self.parts) != view[self.axes[0]]:
            raise ValueError(f"{self}: the parts of {name} do not add up to {view[self.axes[0]]} neurons.")

    def view_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the view that `axes` refer to."""
        if self.split == 1:
            return tuple(shape)
        return (self.split, shape[0] // self.split, *shape[1:])

    def within(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The axes of the view that run inside a neuron."""
        return tuple(a for a in range(len(self.view_shape(shape))) if a not in self.axes)

    def count(self, shape: Sequence[int]) -> int:
        """Number of neurons in a tensor of this shape."""
        view = self.view_shape(shape)
        return math.prod(view[a] for a in self.axes)

    def size(self, shape: Sequence[int]) -> int:
        """Number of weights in one neuron of a tensor of this shape (C, the fan-in of a linear layer)."""
        view = self.view_shape(shape)
        return math.prod(view[a] for a in self.within(shape))

    # Views: no copies -----------------------------------------------------------------------------------

    def view(self, w: Array) -> Array:
        """`w` with its first axis split into groups, if there are any."""
        return w if self.split == 1 else w.reshape(self.view_shape(w.shape))

    def matrix(self, w: Array) -> Array:
        """`w` as [neurons, C], a row a neuron (a view where strides allow it, a copy elsewhere)."""
        count, size = self.count(w.shape), self.size(w.shape)
        v = self.view(w)
        for target, axis in enumerate(self.axes):
            # Bring the neuron axes to the front one by one; those already there stay.
            v = _moved(v, axis, target)
        return v.reshape((count, size))

    # Reductions over each neuron, kept dimensions, in single precision or better ----------------

    def sum(self, w: Array) -> Array:
        """Sum of the weights of every neuron; shape of the view with the inner axes 1."""
        v = _array.wide(self.view(w))
        within = self.within(w.shape)
        return v.sum(within, keepdims=True) if within else v

    def mean(self, w: Array) -> Array:
        """Mean weight of every neuron."""
        return self.sum(w) / max(self.size(w.shape), 1)

    def dot(self, w: Array, v: Array) -> Array:
        """Inner product of each neuron of `w` with the same neuron of `v`."""
        return self.sum(_array.wide(w) * _array.wide(v))

    def norm(self, w: Array) -> Array:
        """Euclidean length |w| of every neuron."""
        return _array.sqrt(self.dot(w, w))

    def center(self, w: Array) -> Array:
        """`w` with the mean of every neuron taken out."""
        return (self.view(w) - self.mean(w)).reshape(w.shape)

    def change(self, w: Array, v: Array) -> Change:
        """How each neuron goes from `w` to `v`.

            angle = atan2(|d - (d.w/w.w) w|,  w.v/|w|),    d = v - w

        The difference of nearby floats is exact, so the angle keeps its relative accuracy down to the
        rounding of the weights themselves: 0.1% at 1e-6 rad in float32, where the arc cosine of a cosine
        reads 0 below 3e-4. A neuron of length zero has no direction: its angle and radial part read 0.
        """
        flat = Neurons(self.axes)  # w and v are views from here on
        w, v = _array.wide(self.view(w)), _array.wide(self.view(v))
        d = v - w
        ww, update = flat.dot(w, w), flat.norm(d)
        length = _array.sqrt(ww)
        along = flat.dot(d, w) / _array.where(ww > 0, ww, ww + 1)
        angle = _array.arctan2(flat.norm(d - along * w), (1 + along) * length)
        radial = along * length / _array.where(update > 0, update, update + 1)
        return Change(_array.where(ww > 0, angle, ww), update, radial)

    def angle(self, w: Array, v: Array) -> Array:
        """Angle between each neuron of `w` and the same neuron of `v`, in radians (see `change`)."""
        return self.change(w, v).angle

    def __str__(self) -> str:
        listed = ", ".join(map(str, self.axes))
        what = f"axes {listed}" if len(self.axes) > 1 else f"axis {listed}" if listed else "whole tensor"
        return what + (f" of {self.split} groups" if self.split > 1 else "")


def _moved(v: Array, axis: int, target: int) -> Array:
    """`v` with `axis` moved down to `target` by swaps of neighbours, views in every array library."""
    while axis > target:
        v = v.swapaxes(axis, axis - 1)
        axis -= 1
    return v


ROWS = Neurons(axes=(0,))
"""Rows of the first axis: the neurons of Linear, Embedding and convolutions."""

WHOLE = Neurons(axes=())
"""The whole tensor as one neuron."""
