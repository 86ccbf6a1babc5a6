"""The rotational step as a pure function: the reference of every kernel.

    u_perp = u - mean(u) - <u, w>/<w, w> w              tangent to the sphere (and to zero-mean vectors)
    s'     = f s + (1-f) |u_perp|^2                     EMA of its square, divided by 1 - f^t when used
    w'     = n N(w - eta n u_perp/sqrt(s'))             N(.) to unit length

    w  weights    u  update direction    n  length to keep    eta  rotation (radians)    f  EMA factor

One step turns w by atan(eta |u_perp|/sqrt(s')): eta on average, exactly atan(eta) when f = 0, and never more
than atan(eta/sqrt(1-f)). Source: Kosson, Messmer, Jaggi 2024 (arXiv 2305.17212), algorithm 1.
"""

from __future__ import annotations

from rotational import _array
from rotational._array import Array
from rotational.neurons import Neurons

ROUNDING = 16
"""A tangent part below this many roundings of u is noise, not a direction."""


def rotate(
    w: Array,
    u: Array,
    neurons: Neurons,
    *,
    rotation: float,
    norm: Array,
    mean_square: Array,
    steps: int,
    memory: float = 0.9,
    center: bool = True,
) -> tuple[Array, Array]:
    """One rotational step of every neuron of `w` along `-u`; returns (new weights, new mean square).

    `norm` and `mean_square` have the shape of `neurons.norm(w)`; `steps` counts this step. A neuron of norm
    0 has no direction and is returned as it is; one whose `u` has no tangent part does not turn. Neither
    raises nor warns: the arguments are the caller's to check.

    >>> import numpy as np
    >>> from rotational.neurons import ROWS
    >>> w, u = np.array([[3.0, 0.0, -3.0]]), np.array([[0.0, 1.0, 0.0]])
    >>> n = ROWS.norm(w)
    >>> turned, _ = rotate(w, u, ROWS, rotation=0.01, norm=n, mean_square=0 * n, steps=1)
    >>> round(float(ROWS.angle(w, turned)[0, 0]), 6), bool(np.allclose(ROWS.norm(turned), n))
    (0.01, True)
    """
    shape, flat = w.shape, Neurons(neurons.axes)
    w, u = _array.wide(neurons.view(w)), _array.wide(neurons.view(u))
    floor = (ROUNDING * _array.epsilon(u)) ** 2 * flat.dot(u, u)
    if center:
        u = u - flat.mean(u)
    ww = flat.dot(w, w)
    u = u - flat.dot(u, w) / _array.where(ww > 0, ww, ww + 1) * w
    square = flat.dot(u, u)
    square = _array.where(square > floor, square, 0 * square)
    mean_square = memory * mean_square + (1 - memory) * square
    corrected = mean_square / (1 - memory**steps)
    turns = (square > 0) & (norm > 0)
    step = _array.where(turns, rotation * norm / _array.sqrt(_array.where(turns, corrected, corrected + 1)), 0 * norm)
    w = w - step * u
    length = flat.norm(w)
    w = w * _array.where((norm > 0) & (length > 0), norm / _array.where(length > 0, length, length + 1), 0 * norm + 1)
    return w.reshape(shape), mean_square
