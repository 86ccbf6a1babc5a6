"""Long series made short: RMS over neighbouring logged steps, and evenly spaced picks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def edges(length: int, limit: int) -> Array:
    """Borders of at most `limit` bins over `length` points.

    >>> edges(10, 4).tolist()
    [0, 2, 5, 8, 10]
    """
    return np.unique(np.linspace(0, length, min(length, limit) + 1).round().astype(int))


def last(x: Array, borders: Array) -> Array:
    """The last entry of each bin: the step that a bin stands at."""
    return x[borders[1:] - 1]


def rms(x: Array, borders: Array) -> Array:
    """RMS within each bin along axis 0, over the finite values; NaN where there is none.

    >>> rms(np.array([3.0, 3.0, math.nan, 4.0]), edges(4, 2)).tolist()
    [3.0, 4.0]
    """
    if len(borders) == len(x) + 1:
        return np.abs(x.astype(np.float64))
    finite = np.isfinite(x)
    total = np.add.reduceat(np.square(np.where(finite, x, 0.0)), borders[:-1])
    count = np.add.reduceat(finite.astype(np.float64), borders[:-1])
    return np.where(count > 0, np.sqrt(total / np.maximum(count, 1)), math.nan)


def pick(length: int, limit: int) -> Array:
    """At most `limit` evenly spaced indices into `length` entries, both ends among them."""
    return np.unique(np.linspace(0, length - 1, min(length, limit)).round().astype(int))
