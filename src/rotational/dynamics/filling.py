"""Adam's v while it holds only a few squares: exact where `divisor` has the first orders of its noise.

v = sum_k p_k z_k^2, and the squares z^2 are taken as gamma variables of mean 1 and variance theta = kurtosis - 1 (for
normal gradients they are). Powers of v are integrals over its Laplace transform,

    E f/v = int_0^oo E[f e^(-s v)] ds          E f/sqrt(v) = pi^(-1/2) int_0^oo s^(-1/2) E[f e^(-s v)] ds
    L(s) = E e^(-s v) = prod_k (1 + theta s p_k)^(-1/theta),       E z_j^2 e^(-s v) = L(s)/(1 + theta s p_j)

and p_k s does not change at points s that grow as v fades: each moment is one number a point, multiplied or added to
in each step. Held so are L, B = E|m|^2 e^(-s v)/L and G = E<w, m> e^(-s v), which takes in what an update leaves:

    G' = E<w', m'> e^(-s v),     E<u, m'> e^(-s v) = pi^(-1/2) int_0^oo r^(-1/2) E[c m' e^(-(s + r) v)] dr

Points are e apart: the integrands are analytic in log s up to +-i pi, so a sum over points is as good as the integral.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from rotational.dynamics.setting import Number
from rotational.memory import Filter

NOISY = 0.06
"""Relative variance of v from which it is followed so; below, that of 33 equal squares, its first orders are enough."""

STRONG = 0.1
"""Share of the weights that a step takes away, up to which it is; beyond, gradients outgrow the points."""

STEPS = 500
"""The most steps that are: a first gradient that was larger than all others is most of v for long."""

FADED = 4.0
"""How far, in logarithms, the first square may have faded by then: the points move by as much."""

POINTS = np.arange(-15.0, 23.0)
"""log s v_1, at first; of a kurtosis of 5, beyond is 0.4% of E g^2/v of a lone square, and less of all else."""

LEAN = 0.75
"""Moments times s^LEAN vanish at both ends: they fall as s^(-3/2) or faster."""


def lasts(beta: float) -> int:
    """For how many steps v may be followed so."""
    return int(min(STEPS, FADED / -math.log(beta))) if 0 < beta < 1 else 0


class Filling:
    """Moments of c and w with powers of v; gradients enter by `take`, updates by `leave`."""

    def __init__(self, decay: float, beta: float, kurtosis: float, q: Number) -> None:
        self._decay, self._beta, self._theta = decay, beta, max(kurtosis - 1, 1e-9)
        self._s = np.exp(POINTS).reshape(-1, *(1,) * np.ndim(q)) / ((1 - beta) * q)
        self._transform, zero = 1.0 + 0.0 * self._s, 0.0 * self._s
        self._kept, self._crossed, self._left = zero, zero, zero

    def take(self, now: Filter, q: Number) -> tuple[Number, Number, Number]:
        """(E|c|^2/v, E<w, c>/sqrt(v), E<m', c>/sqrt(v)) with the gradient of this step, of E|g|^2 = `q`."""
        s, theta = self._s, self._theta
        fresh = (1 - self._beta) * s * q
        factor, damped = np.exp(-np.log1p(theta * fresh) / theta), q / (1 + theta * fresh)
        self._transform = self._transform * factor
        self._crossed = self._crossed * factor
        power = self._transform * (now.new**2 * damped + now.old**2 * self._kept)
        shared = self._transform * (now.inflow * now.new * damped + now.old * self._decay * self._kept)
        self._kept = self._decay**2 * self._kept + now.inflow**2 * damped
        self._left = s**0.5 * (half_integral() @ shared.reshape(len(s), -1)).reshape(shared.shape)
        cross = now.old * (s**0.5 * self._crossed).sum(0) / math.pi**0.5
        self._s = s / self._beta
        return (s * power).sum(0), cross, self._left[0]

    def leave(self, kept: Number, size: Number) -> None:
        """The weights keep the share `kept` and move by -`size` c/sqrt(v)."""
        self._crossed = self._decay * kept * self._crossed - size * self._left


@lru_cache(maxsize=1)
def half_integral() -> np.ndarray:
    """What takes R at the points to pi^(-1/2) s^(-1/2) int_0^oo r^(-1/2) R(s + r) dr there.

    R s^LEAN is interpolated between points by sincs, as what is analytic up to +-i pi may be.
    """
    root, width = np.linspace(0, 12, 48_001)[1:], 12 / 48_000  # of y = log((s + r)/s), singular as y^(-1/2)
    y = root**2
    kernel = np.exp((1 - LEAN) * y) / np.sqrt(np.expm1(y)) * 2 * root * width / math.pi**0.5
    ahead = np.arange(1 - len(POINTS), len(POINTS))
    # the kernel is 2 at y = 0, where the sum takes half of it
    weight = np.array([np.sinc(y - k) @ kernel for k in ahead]) + np.sinc(ahead) * width / math.pi**0.5
    lags = np.arange(len(POINTS))
    weights = weight[lags[None, :] - lags[:, None] + len(POINTS) - 1]
    lean = np.exp(LEAN * POINTS)
    return weights * lean[None, :] / lean[:, None]
