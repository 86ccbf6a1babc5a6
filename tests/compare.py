"""The one comparison that tests make of arrays, and of whatever holds arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch


def assert_same(got: Any, expected: Any, tolerance: float = 0.0, at: str = "value") -> None:
    """Raise AssertionError unless `got` is `expected`, to `tolerance` times the largest entry of each array.

    Tensors and numpy arrays compare with each other; without a tolerance every bit counts, and the dtype
    too. Mappings and sequences compare item by item. NaN and infinities never pass: a test that wants them
    asks for them itself.
    """
    if isinstance(expected, dict):
        assert isinstance(got, dict), f"{at}: {type(got).__name__}, not a dict"
        assert list(got) == list(expected), f"{at}: keys {list(got)}, expected {list(expected)}"
        for key, value in expected.items():
            assert_same(got[key], value, tolerance, f"{at}[{key!r}]")
    elif isinstance(expected, list | tuple):
        assert len(got) == len(expected), f"{at}: {len(got)} items, expected {len(expected)}"
        for i, (x, y) in enumerate(zip(got, expected, strict=True)):
            assert_same(x, y, tolerance, f"{at}[{i}]")
    elif isinstance(expected, torch.Tensor | np.ndarray):
        assert_close(got, expected, tolerance, at)
    elif isinstance(expected, float):
        assert math.isclose(got, expected, rel_tol=tolerance), f"{at}: {got!r}, expected {expected!r}"
    else:
        assert got == expected, f"{at}: {got!r}, expected {expected!r}"


def assert_close(got: Any, expected: Any, tolerance: float, at: str) -> None:
    assert tuple(got.shape) == tuple(expected.shape), f"{at}: shape {tuple(got.shape)}, not {tuple(expected.shape)}"
    if tolerance == 0:
        assert got.dtype == expected.dtype, f"{at}: {got.dtype}, expected {expected.dtype}"
    x, y = wide(got), wide(expected)
    assert np.isfinite(y).all(), f"{at}: the expected value is not finite"
    assert np.isfinite(x).all(), f"{at}: not finite"
    error, size = np.max(np.abs(x - y), initial=0.0), np.max(np.abs(y), initial=0.0)
    assert error <= tolerance * size, f"{at}: off by {error:.3g} where the largest entry is {size:.3g}"


def wide(x: Any) -> np.ndarray:
    """Any array in float64, which holds the entries of all others exactly."""
    return (x.detach().cpu().double().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)).astype(np.float64)
