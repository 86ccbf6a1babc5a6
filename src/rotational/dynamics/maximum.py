"""Adamax's fading maximum, step by step: its distribution over entries, on a grid that fades with it.

    v_t = max(beta v_{t-1}, |g_t|)        P(v_t <= y) = P(v_{t-1} <= y/beta) P(|g_t| <= y)

At points that are multiplied by beta in each step this is one product, whatever the history of gradient sizes. With v'
the faded maximum of all other gradients, a gradient either is the maximum or is below it:

    E g^2/v^2 = E [ P(|g| > v') + E(g^2; |g| <= v')/v'^2 ]        E 1/v, where g is not it = E [ P(|g| <= v')/v' ]

What is remembered is taken as gradients of one size, the mean of theirs. Entries are taken as alike but for this: that
one which divides by little goes on to do so, and its weight with it, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from rotational.correlation import log_within
from rotational.dynamics.setting import Divided, Number, Setting
from rotational.memory import Filter
from rotational.scale import Max

CELL, POINTS = 0.1, 240
"""Width of a cell in log y, and how many: e^24 in all, as sizes of gradients may change by orders of magnitude."""

LADDER = np.exp(CELL * np.arange(POINTS))
"""y at the points, over that at the first."""

NEVER, SURELY = -40.0, 9.0
"""log P(v <= y) of points below which v is not, and how many times its size a gradient is below."""

SINGLE = np.float32
"""What probabilities at a point are computed in: fast, and as exact as the series for them. Sums are
double."""

FOLLOWS, FADES, MOVES = 30, 0.015, 0.01
"""v is looked at afresh in every step at first, then after every thirtieth part of the steps so far, but before it
fades by 1.5%, and whenever |g|^2 has changed by a percent since."""

ALIKE = 0.01
"""By what share |g|^2 of what is remembered may differ from that of the step to be taken as the same."""


class Look(NamedTuple):
    """What v makes of gradients while it hardly changes, a row for each neuron, or class of its weights.

    q, steady    E|g|^2 of the noise, and of the decay among the gradients, when it was looked at
    fresh, old   E g^2/v^2 over E g^2/C of the gradient of the step, and of one that is remembered, over C
    inverse      E 1/v, for a gradient that is not the maximum
    """

    q: np.ndarray
    steady: np.ndarray
    fresh: np.ndarray
    old: np.ndarray
    inverse: np.ndarray


class FadingMaximum:
    """The divisor of Adamax; `second` is E|g|^2 of the gradients whose maximum, at rest, would divide as this one.

    Each row is looked at when it is due, whatever those beside it do.
    """

    def __init__(self, setting: Setting, scale: Max, zero: Number) -> None:
        self.second, self._shape = zero, np.shape(zero)
        self._setting, self._scale = setting, scale
        self._squares: Number = 0.0  # of E|g|^2, as the memory holds them
        self._stride = FADES / -math.log(scale.beta) if 0 < scale.beta < 1 else 0.0
        rows = math.prod(self._shape)
        self._lowest = np.full(rows, np.nan)  # log y of the first point
        self._below = np.zeros((rows, POINTS))  # log P(v <= y)
        self._faded = np.zeros(rows)
        self._first, self._last = np.zeros((2, rows), dtype=int)  # the points between which v may be
        self._held: Number = None  # where v was put, and whether it has changed since
        self._changed = False
        self._unseen(rows)

    def _unseen(self, rows: int) -> None:
        """No look yet: all rows are due."""
        self._look = Look(*np.full((len(Look._fields), rows), np.nan))
        self._due = np.zeros(rows, dtype=int)  # gradients since the last look

    def _rows(self, x: Number) -> np.ndarray:
        """A row for each neuron, or class of its weights."""
        return np.broadcast_to(x, self._shape).reshape(-1)

    def step(
        self, t: int, now: Filter, kept: Number, gradient: Divided, mean2: Number, square: Number, lr: Number
    ) -> Divided:
        """Take in the gradient of step t (see `divisor.Divisor`)."""
        q, look = gradient.power + mean2, self._look
        power, steady = self._rows(q), self._rows(gradient.coupled**2 * square)
        self._due += 1
        moved = np.abs(power - look.q) + np.abs(steady - look.steady)
        still = (moved <= MOVES * (look.q + look.steady)) & (self._due < min(t // FOLLOWS, self._stride))
        if not still.all():
            remembered = self._rows(self._squares / kept if np.all(kept > 0) else np.nan)
            self._take(np.flatnonzero(~still), power, steady, remembered, first=t == 1)
        fresh, old, inverse = (x.reshape(self._shape) for x in look[2:])
        sigma2 = now.new**2 * q + now.old**2 * kept
        seen = now.new**2 * q * fresh + now.old**2 * kept * old
        decay = self._setting.rule.memory.decay
        self._squares = decay**2 * self._squares + now.inflow**2 * q**2
        self.second = _plain(np.asarray(sigma2 * self._setting.fading[1] / seen))
        amplitude = (self._setting.size * seen / sigma2) ** 0.5
        return gradient._replace(amplitude=_plain(np.asarray(amplitude)), response=_plain(inverse.copy()))

    def _take(
        self, due: np.ndarray, q: np.ndarray, steady2: np.ndarray, remembered: np.ndarray, *, first: bool
    ) -> None:
        """Take in the gradients since the last look, as if all were of this size, and see what v makes of it.

        `remembered` is E|g|^2 of what the memory holds: gradients of many sizes are one of their mean.
        """
        beta, count, size = self._scale.beta, self._due[due][:, None], self._rows(self._setting.size)[due]
        q, steady2, remembered = q[due], steady2[due], remembered[due]
        if first:
            self._lowest[due] = np.log(q / size) / 2 - CELL * POINTS / 2
        elif beta > 0:
            self._fade(due, count[:, 0] * -math.log(beta))
        else:
            self._below[due] = 0.0
        lowest, steady = np.exp(self._lowest[due]), np.sqrt(steady2 / size)
        reach = (np.log(SURELY * np.sqrt(q / size) + steady) - self._lowest[due]) / CELL
        self._last[due] = np.maximum(self._last[due], reach.astype(int))
        start = max(int(self._first[due].min()) - 1, 0)
        points = slice(start, min(int(self._last[due].max()) + 3, POINTS))
        below = self._below[due, points]

        def scaled(spread: np.ndarray, rows: Any = slice(None)) -> tuple[np.ndarray, np.ndarray]:
            """(y, the decay's part) over the RMS of the noise, in single precision."""
            one = (lowest[rows] / spread).astype(SINGLE)[:, None] * LADDER[points].astype(SINGLE)
            return one, (steady[rows] / spread).astype(SINGLE)[:, None]

        x, apart = scaled(np.sqrt(q / size))
        last = np.log(_between(x, apart)[0])
        if np.any(count > 1):  # all but the last, which fade on the way: each as the one in their middle
            rise = np.zeros_like(last)
            np.subtract(last[:, 1:], last[:, :-1], out=rise[:, :-1])
            below = below + (count - 1) * (last + count / 2 * -math.log(beta) / CELL * rise)
        share, inverse = _seen(x, below, apart, first=first)
        self._below[due, points] = below = below + last
        self._first[due] = start + (below <= NEVER).sum(axis=1)
        look = self._look
        look.q[due], look.steady[due], look.fresh[due], look.old[due] = q, steady2, share / q, share / q
        look.inverse[due] = inverse / (q / size) ** 0.5
        # What is remembered stands in v too, by the size that it had.
        other = np.abs(remembered - q) > ALIKE * q
        if other.any():
            x, apart = scaled(np.sqrt(remembered / size)[other], other)
            others = np.minimum(below[other] - np.log(_between(x, apart)[0]), 0.0)
            look.old[due[other]] = _seen(x, others, apart)[0] / remembered[other]
        self._due[due], self._changed = 0, True

    def writes(self) -> tuple[Number, Number]:
        """One pole only."""
        return 1.0, 0.0

    def reads(self) -> tuple[Number, Number]:
        """One pole only."""
        return 1.0, 0.0

    def crossed(self) -> Number | None:
        """Known by its pole alone."""
        return None

    def leave(self, kept: Number, lr: Number) -> None:
        """Entries of w are taken as alike."""

    def hold(self, second: Number, q: Number) -> None:
        """Be as `second` is for long. Held there again, it is seen as it was."""
        if self._held is not second or self._changed:
            self._lowest = np.log(self._rows(second / self._setting.size)) / 2 - CELL * POINTS / 2
            self._below[:] = below = _at_rest(self._scale.beta)
            self._first[:], self._last[:] = np.count_nonzero(below <= NEVER), np.count_nonzero(below < 0)
            self._faded[:] = 0.0
        if self._held is not second:
            self._unseen(len(self._lowest))
        self._held, self._changed, self._due[:] = second, False, 0
        memory = self._setting.rule.memory
        self._squares = memory.inflow**2 * q**2 / (1 - memory.decay**2)

    def merge(self, mean: Callable[[Number], Number]) -> None:
        """Go on with one class of weights."""
        shape, self._shape = self._shape, self._shape[1:]
        self._setting = replace(self._setting, merged=True)
        self.second, self._squares = mean(self.second), mean(self._squares)
        self._lowest, self._faded = (np.reshape(mean(x.reshape(shape)), -1) for x in (self._lowest, self._faded))
        self._below = np.reshape(mean(self._below.reshape(*shape, POINTS)), (-1, POINTS))
        self._first = np.min(self._first.reshape(shape), axis=0).reshape(-1)
        self._last = np.max(self._last.reshape(shape), axis=0).reshape(-1)
        self._unseen(len(self._lowest))

    def _fade(self, rows: np.ndarray, by: np.ndarray) -> None:
        """Move the points down; a point that has gone down a whole cell makes room for one at the top."""
        faded = self._faded[rows] + by
        cells = np.minimum(faded // CELL, POINTS).astype(int)
        self._faded[rows] = faded - cells * CELL
        self._lowest[rows] += cells * CELL - by
        down = cells > 0
        if down.any():
            rows, cells = rows[down], cells[down]
            at = np.arange(POINTS) + cells[:, None]
            below = self._below[rows[:, None], np.minimum(at, POINTS - 1)]
            self._below[rows] = np.where(at < POINTS, below, 0.0)
            self._first[rows] -= cells
            self._last[rows] -= cells


def _seen(x: np.ndarray, others: np.ndarray, apart: np.ndarray, *, first: bool = False) -> tuple[Any, Any]:
    """(E g^2/v^2, E 1/v in units of g) of a gradient, from log P(v' <= x) of all others.

    x is in units of its noise, and so is `apart`, the decay's part of it.
    """
    noise = 1 / (1 + apart**2)
    # where the gradient is the maximum, u is its sign, which follows the decay once that outweighs the noise
    sign = (noise * (1 - noise)) ** 0.5
    if first:
        return noise[:, 0], sign[:, 0]
    at = np.exp(others.astype(SINGLE))
    mass = at.copy()
    mass[:, 1:] -= at[:, :-1]
    x = x * SINGLE(math.exp(-CELL / 2))  # where the mass of a cell is
    within, beside = _between(x, apart)
    part = _inside(x, within, beside, np.maximum(x - apart, 0.0))
    share = mass * ((1 - within) * noise + part / x**2)
    inverse = mass * (within / x + (1 - within) * sign)
    return share.sum(-1, dtype=float), inverse.sum(-1, dtype=float)


@lru_cache(maxsize=16)
def _at_rest(beta: float) -> np.ndarray:
    """log P(v <= y) after long, for gradients of unit variance, at the points of a grid around it."""
    y = np.exp(CELL * (np.arange(POINTS) - POINTS / 2))
    return log_within(y, beta)


def _inside(x: np.ndarray, within: np.ndarray, beside: np.ndarray, left: np.ndarray) -> np.ndarray:
    """E(z^2; |g| <= x), taken as that of a normal z within `left`.

    Near 0, where the difference loses its digits, its series is no larger; a density that falls bounds it by x^2/3.
    """
    part = 1 - left * math.sqrt(2 / math.pi) * np.exp(-(left**2) / 2) / beside
    return within * np.minimum(np.maximum(part, left**2 / 3 * (1 - left**2 * (2 / 15))), x**2 / 3)


def _between(x: np.ndarray, apart: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P(|z + apart| <= x) of a standard normal z, and P(|z| <= x - apart)."""
    if not np.any(apart):
        within = np.maximum(_normal(x), 1e-12)
        return within, within
    low = _normal(x - apart)
    return np.clip((low + _normal(x + apart)) / 2, 1e-12, 1.0), np.maximum(low, 1e-12)


def _normal(x: np.ndarray) -> np.ndarray:
    """P(|z| <= |x|) of a standard normal z, with the sign of x; to 3e-7 (Abramowitz and Stegun 7.1.26)."""
    t = np.reciprocal(1 + 0.3275911 / math.sqrt(2) * np.abs(x))
    series = 1.061405429 * t
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series += coefficient
        series *= t
    series *= np.exp(x * x * -0.5)
    return np.copysign(1 - series, x, out=series)


def _plain(x: np.ndarray) -> Number:
    """A number where there is one neuron."""
    return float(x) if np.ndim(x) == 0 else x
