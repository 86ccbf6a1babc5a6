"""An entry of the gradient beside the fading maximum of all others: what of it is left when it is divided by that.

    v = max(v', |g|)        E g^2/v^2 = E [ P(|g| > v') + E(g^2; |g| <= v')/v'^2 ]

A gradient of k steps ago stands in v by beta^k |g|, so that of its noise and its mean there is

    E g_(t-k)^2/v_t^2 = E [ E(g^2 | beta^k |g| <= v)/v^2 ]     which tends to E g^2 E 1/v^2
    E g_(t-k)/v_t     = E [ E(g | beta^k |g| <= v)/v ]         which tends to E g E 1/v
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from rotational.memory import Memory

CELL = 0.15
"""Width of a cell in log y."""

SURELY = 6.0
"""How many times its size a gradient is below."""

SINGLE = np.float32
"""What probabilities at a point are computed in: fast, and as exact as the series for them."""

TINY, LEAST = 1e-12, 0.005
"""The least P(|g| <= x), and the least part of decay in a gradient: of a smaller one as much is said, to 1e-5."""

SLIGHT = 0.02
"""What log v fades by over a memory without being counted: it makes less than 0.15% of decay and of noise."""

LATE = 10**9
"""A step before which there were more than any memory holds."""


class Since(NamedTuple):
    """What log v has faded by since the gradients in a memory: the newest, their mean, and that of their squares."""

    newest: float
    mean: float
    square: float


def faded(beta: float, decay: float, t: int = LATE) -> Since | None:
    """The same of a memory with this pole in step t > 1; None where it changes nothing."""
    fades = -math.log(beta) if 0 < beta < 1 and decay > 0 else 0.0
    if fades <= SLIGHT * (1 - decay):
        return None
    return Since(fades, fades * _age(decay, t), fades * _age(decay**2, t))


def _age(pole: float, t: int) -> float:
    """The mean of 1, 2, ... t - 1 in proportion to powers of the pole."""
    missing = pole ** (t - 1)
    return 1 / (1 - pole) - (t - 1) * missing / (1 - missing)


class Seen(NamedTuple):
    """E z^2/v^2 of the noise, and E g/v over E g, of the gradient of the step; and of those that are remembered."""

    noise: np.ndarray
    mean: np.ndarray
    old_noise: np.ndarray
    old_mean: np.ndarray


class Gradient(NamedTuple):
    """An entry g = z + apart, z of unit variance, and what of it is within [-x, x], at points x.

    x         these points
    apart     what decay adds to the noise
    within    P(|g| <= x)
    slope     its slope by log x
    mean      E(g; |g| <= x)/(x apart)
    square    E(g^2; |g| <= x)/x^2
    """

    x: np.ndarray
    apart: np.ndarray
    within: np.ndarray
    slope: np.ndarray
    mean: np.ndarray
    square: np.ndarray

    @classmethod
    def at(cls, x: np.ndarray, apart: np.ndarray) -> Gradient:
        """At points x [G, points], of entries of these means [G, 1]."""
        if not apart.any():
            within, bell = _normal(x)
            slope = 2 * x * bell
            mean = part = within - slope
        else:
            apart = np.maximum(apart, LEAST)
            sides = np.stack((x - apart, x + apart))
            (low, high), bells = _normal(sides)
            within = (low + high) / 2
            slope = x * (bells[0] + bells[1])
            mean = within + (bells[1] - bells[0]) / apart
            part = (1 + apart**2) * within - (sides[::-1] * bells).sum(0)
        within = np.clip(within, TINY, 1.0)
        # near 0 the difference has no digits left
        return cls(x, apart, within, slope, mean / x, np.clip(part / x**2, 0.0, within))

    def over(self, others: np.ndarray, ends: np.ndarray, cell: float = CELL, since: Since | None = None) -> Seen:
        """What is left over v, the larger of |g| and v', from log P(v' <= x); at `ends` that is 0.

        As log x rises, E g^2/v^2 at v' = x falls by twice `square`, and E g/v by `mean`. Both are therefore sums of
        these over P(v' <= x), smooth functions all. Of E g^2/v^2 noise has the share that it has of E g^2: at a b2 of
        0.99 that is within 1% of Var g/v where decay is as large, and within 5% where it is five times larger.
        """
        below = np.exp(others.astype(SINGLE))
        below *= np.arange(below.shape[1]) <= ends[:, None]
        at = np.arange(len(ends)), ends
        noise, mean = (  # what is beyond, where all is within, is a geometric series
            cell * (np.einsum("ij,ij->i", below, part, dtype=float) + part[at] / math.expm1(falls * cell))
            for part, falls in ((self.square, 2), (self.mean, 1))
        )
        noise, mean = self._noise() * 2 * noise, mean.astype(float)
        if since is None:
            return Seen(noise, mean, noise, mean)
        # E(g; |g| <= x) falls short of E g P(|g| <= x), and so for g^2: by less, of a g that v has faded since
        over = self.x / self.within
        short = np.clip(1 - over * self.mean, 0.0, 1.0)
        below /= over
        old_mean = mean + cell * np.einsum("ij,ij->i", below, short - _earlier(short, since, since.mean, cell))
        short = np.clip(1 - over * self.x * self.square * self._noise()[:, None].astype(short.dtype), 0.0, 1.0)
        below /= self.x
        old_noise = noise + 2 * cell * np.einsum("ij,ij->i", below, short - _earlier(short, since, since.square, cell))
        return Seen(noise, mean, old_noise, old_mean)

    def alone(self) -> Seen:
        """The same where there are no others, and nothing is remembered: u is the sign of g."""
        apart = np.maximum(self.apart[:, 0], LEAST)
        noise, mean = self._noise(), (_normal(apart)[0] / apart).astype(float)
        return Seen(noise, mean, noise, mean)

    def _noise(self) -> np.ndarray:
        """The share of E g^2 that is noise."""
        return 1 / (1 + self.apart[:, 0].astype(float) ** 2)


def _earlier(short: np.ndarray, since: Since, by: float, cell: float) -> np.ndarray:
    """The mean of what falls off to 0 along points, at beta^-k x over the ages k of what is remembered,
    in which log v fades `by` so much on average.

    From the least age on these are geometric: 1 + r S + r^2 S^2 + ... = (1 + r S)(1 + r^2 S^2)(1 + r^4 S^4) ...
    """
    whole, points = int(since.newest / cell), short.shape[1]
    width = max(whole, 1)  # from one age to the next, or a cell where that is less: on average both are as far
    further = (by / cell - whole) / width
    share = further / (1 + further)
    found = np.zeros_like(short)
    found[:, : max(points - whole, 0)] = short[:, whole:] * short.dtype.type(1 - share)
    while share > 1e-3 and width < points:
        found[:, :-width] += short.dtype.type(share) * found[:, width:]
        share, width = share * share, 2 * width
    return found


def _normal(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P(|z| <= |x|) of a standard normal z, with the sign of x, to 3e-7 (Abramowitz and Stegun 7.1.26); its density."""
    t = np.reciprocal(1 + 0.3275911 / math.sqrt(2) * np.abs(x))
    series = 1.061405429 * t
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series += coefficient
        series *= t
    bell = np.exp(x * x * -0.5)
    series *= bell
    bell *= 1 / math.sqrt(2 * math.pi)
    return np.copysign(1 - series, x, out=series), bell


def steady(beta: float, apart: np.ndarray) -> np.ndarray:
    """1/E(1/v) at rest of gradients z + `apart`, z of unit variance, over that of z alone.

    The largest of many is a few z beyond `apart`, while a normal gradient of their size has one a few times that.
    """
    at, beyond, _, _ = _resting(beta, 0.0)
    return (apart + np.interp(apart, at, beyond)) / beyond[0]


def mean_since(beta: float, memory: Memory, apart: Any) -> Any:
    """E c/v at rest of a filtered gradient c, over E c, over that of g: v has faded since what is remembered."""
    if faded(beta, memory.decay) is None:
        return 1.0
    at, _, mean, _ = _resting(beta, memory.decay)
    return (memory.new + (memory.total - memory.new) * np.interp(apart, at, mean)) / memory.total


def noise_since(beta: float, memory: Memory) -> float:
    """E c^2/v^2 at rest of a filtered gradient c of noise, over E c^2, over that of g."""
    if faded(beta, memory.decay) is None:
        return 1.0
    r0, new2 = memory.autocovariance()[0], memory.new**2
    return (new2 + (r0 - new2) * float(_resting(beta, memory.decay)[3][0])) / r0


@lru_cache(maxsize=16)
def _resting(beta: float, decay: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(means of entries, how far 1/E(1/v) at rest is beyond them, what more of mean and noise is left of what is
    remembered with this pole)."""
    at, cell, rows = 50 * np.linspace(0, 1, 40) ** 3, 0.01, list[tuple[float, float, float]]()
    for apart in at.tolist():
        y = np.arange(math.log(0.02), math.log(apart + SURELY), cell)
        gradient = Gradient.at(np.exp(y)[None], np.array([[apart]]))
        last = np.log(gradient.within)
        others = np.zeros_like(last)
        if 0 < beta < 1:  # the sum of `last` where those before it have faded from, by Euler and Maclaurin
            fades = -math.log(beta)
            after = cell * (np.cumsum(last[:, ::-1], axis=1)[:, ::-1] - last / 2)
            others = np.minimum(after / fades - last / 2 - fades / 12 * gradient.slope / gradient.within, 0.0)
        seen = gradient.over(others, np.array([len(y) - 1]), cell, faded(beta, decay))
        noise, mean, old_noise, old_mean = (float(x[0]) for x in seen)
        rows.append((1 / mean - apart, old_mean / mean, old_noise / noise))
    beyond, means, noises = np.array(rows).T
    return at, beyond, means, noises
