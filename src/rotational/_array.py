"""The few functions that differ between torch, numpy and JAX arrays.

Everything else is written with operators and methods that the three share (`sum`, `mean`, `reshape`,
`swapaxes`), so that a formula stands once for all of them. torch is never imported here: an array that is
not numpy's brings its own module.
"""

from __future__ import annotations

import sys
from typing import Any

Array = Any  # torch.Tensor, numpy.ndarray or jax.Array


def _module(x: Array) -> Any:
    """The namespace of functions that belongs to `x`: torch, numpy or jax.numpy."""
    root = type(x).__module__.partition(".")[0]
    if root == "torch" or (root not in ("numpy", "jax", "jaxlib") and hasattr(x, "requires_grad")):
        return sys.modules["torch"]
    return sys.modules["jax.numpy" if root in ("jax", "jaxlib") else "numpy"]


def wide(x: Array) -> Array:
    """`x` in at least single precision: sums and angles of bfloat16 and float16 entries lose everything."""
    xp = _module(x)
    if x.dtype in (xp.float32, xp.float64):
        return x
    return x.to(xp.float32) if xp.__name__ == "torch" else x.astype(xp.float32)


def sqrt(x: Array) -> Array:
    """Elementwise square root."""
    return _module(x).sqrt(x)


def arctan2(y: Array, x: Array) -> Array:
    """Elementwise angle of the point (x, y), in radians."""
    return _module(x).arctan2(y, x)


def where(condition: Array, yes: Array, no: Array | float) -> Array:
    """Elementwise choice."""
    return _module(condition).where(condition, yes, no)


def epsilon(x: Array) -> float:
    """Relative rounding of the entries of `x`."""
    return float(_module(x).finfo(x.dtype).eps)
