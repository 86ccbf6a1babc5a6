"""The rotational step as a pure function: the reference of every kernel.

    u_perp = u - mean(u) - <u, w>/<w, w> w              tangent to the sphere (and to zero-mean vectors)
    s'^2   = f s^2 + (1-f) |u_perp|^2                   EMA of its square, divided by 1 - f^t when used
    w'     = n N(w - eta |w| sqrt(1-f^t) u_perp/s')     N(.) to unit length

    w  weights    u  update direction    n  length to keep    s  RMS of |u_perp|    eta  rotation (radians)
    f  EMA factor    t  steps turned, this one included

One step turns w by atan(eta |u_perp| sqrt(1-f^t)/s'): eta on average, exactly atan(eta) when f = 0, and never
more than atan(eta/sqrt(1-f)). Source: Kosson, Messmer, Jaggi 2024 (arXiv 2305.17212), algorithm 1.
"""

from __future__ import annotations

from rotational import _array
from rotational._array import Array
from rotational.neurons import Neurons


def rounding(arithmetic: float, stored: float) -> float:
    """Share of |u| below which a tangent part is noise, not a direction.

    Measured: projecting leaves up to 8 roundings of the arithmetic, and computing u up to 1.3 of the
    precision in which it is stored.
    """
    return 16 * arithmetic + 2 * stored


def rotate(
    w: Array,
    u: Array,
    neurons: Neurons,
    *,
    rotation: float,
    norm: Array,
    rms: Array,
    steps: int,
    memory: float = 0.9,
    center: bool = True,
) -> tuple[Array, Array]:
    """One rotational step of every neuron of `w` along `-u`; returns (new weights, new RMS).

    `norm` and `rms` have the shape of `neurons.norm(w)`; `steps` counts this step; low precision comes back
    in single. A neuron is returned as it is if it or its `norm` is zero, for then it has no direction, if its
    `u` has no tangent part, and if `rotation` is 0. But NaN in `u` is always seen in what is returned. Nothing
    is raised: the arguments are the caller's to check.

    >>> import numpy as np
    >>> from rotational.neurons import ROWS
    >>> w, u = np.array([[3.0, 0.0, -3.0]]), np.array([[0.0, 1.0, 0.0]])
    >>> n = ROWS.norm(w)
    >>> turned, _ = rotate(w, u, ROWS, rotation=0.01, norm=n, rms=0 * n, steps=1)
    >>> round(float(ROWS.angle(w, turned)[0, 0]), 6), bool(np.allclose(ROWS.norm(turned), n))
    (0.01, True)
    """
    shape, flat, stored = w.shape, Neurons(neurons.axes), _array.epsilon(u)
    w, u = _array.wide(neurons.view(w)), _array.wide(neurons.view(u))
    floor = rounding(_array.epsilon(w), stored) ** 2 * flat.dot(u, u)
    if center:
        u = u - flat.mean(u)
    ww = flat.dot(w, w)
    u = u - flat.dot(u, w) / _array.where(ww > 0, ww, 1 + ww) * w
    square = flat.dot(u, u)
    square = _array.where(square <= floor, 0 * floor, square)
    rms = _array.sqrt(memory * rms**2 + (1 - memory) * square)
    turns = (square != 0) & (norm > 0) & (ww > 0) & (rotation > 0) | (square != square)
    mean = _array.where(turns, rms, 1 + 0 * rms) / (1 - memory**steps) ** 0.5
    turned = w - rotation * _array.sqrt(ww) / mean * u
    length = flat.norm(turned)
    turned = turned * (norm / _array.where(length > 0, length, 1 + length))
    return _array.where(turns, turned, w).reshape(shape), rms
