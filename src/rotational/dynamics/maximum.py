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

CELL, POINTS = 0.15, 160
"""Width of a cell in log y, and how many: e^24 in all, as sizes of gradients may change by orders of magnitude."""

LADDER = np.exp(CELL * np.arange(POINTS))
"""y at the points, over that at the first."""

NEVER, SURELY = -40.0, 6.0
"""log P(v <= y) of points below which v is not, and how many times its size a gradient is below."""

SINGLE = np.float32
"""What probabilities at a point are computed in: fast, and as exact as the series for them."""

TINY, LEAST = 1e-12, 0.005
"""The least P(|g| <= x), and the least part of decay in a gradient: of a smaller one as much is said, to 1e-5."""

FOLLOWS, FADES, MOVES, TOGETHER = 30, 0.015, 0.01, 3
"""v is looked at afresh in every step at first, then after every thirtieth part of the steps so far, but before it
fades by 1.5%, and when |g|^2 has changed by a percent since: of many neurons together, three times in that while, or
at once when it has changed by two percent."""

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
        power, decay2 = self._rows(q), self._rows(gradient.coupled**2 * square)
        self._due += 1
        moved = np.abs(power - look.q) + np.abs(decay2 - look.steady)
        most = min(t // FOLLOWS, self._stride)
        pace = max(1, int(most / TOGETHER))
        still = moved <= (MOVES if t % pace == 0 else 2 * MOVES) * (look.q + look.steady)
        if t % pace == 0:
            still &= self._due + pace < most + 1
        if not still.all():
            remembered = self._rows(self._squares / kept if np.all(kept > 0) else np.nan)
            self._take(np.flatnonzero(~still), power, decay2, remembered, first=t == 1)
        fresh, old, inverse = (x.reshape(self._shape) for x in look[2:])
        sigma2 = now.new**2 * q + now.old**2 * kept
        seen = now.new**2 * q * fresh + now.old**2 * kept * old
        decay = self._setting.rule.memory.decay
        self._squares = decay**2 * self._squares + now.inflow**2 * q**2
        self.second = _plain(np.asarray(sigma2 * self._setting.fading[1] / seen))
        amplitude = (self._setting.size * seen / sigma2) ** 0.5
        return gradient._replace(amplitude=_plain(np.asarray(amplitude)), response=_plain(inverse.copy()))

    def _take(self, due: np.ndarray, q: np.ndarray, decay2: np.ndarray, remembered: np.ndarray, *, first: bool) -> None:
        """Take in the gradients since the last look, as if all were of this size, and see what v makes of it.

        `remembered` is E|g|^2 of what the memory holds: gradients of many sizes are one of their mean.
        """
        beta, count, size = self._scale.beta, self._due[due][:, None], self._rows(self._setting.size)[due]
        q, decay2, remembered = q[due], decay2[due], remembered[due]
        if first:
            self._lowest[due] = np.log(q / size) / 2 - CELL * POINTS / 2
        elif beta > 0:
            self._fade(due, count[:, 0] * -math.log(beta))
        else:
            self._below[due] = 0.0
        lowest, decay = np.exp(self._lowest[due]), np.sqrt(decay2 / size)
        reach = (np.log(SURELY * np.sqrt(q / size) + decay) - self._lowest[due]) / CELL
        self._last[due] = np.maximum(self._last[due], reach.astype(int))
        start = min(max(int(self._first[due].min()) - 1, 0), POINTS - 1)  # also where sizes leave the range of numbers
        points = slice(start, max(min(int(self._last[due].max()) + 3, POINTS), start + 1))
        below = self._below[due, points]

        def scaled(spread: np.ndarray, rows: Any = slice(None)) -> Gradient:
            """A gradient whose noise has this RMS, at the points."""
            x = (lowest[rows] / spread).astype(SINGLE)[:, None] * LADDER[points].astype(SINGLE)
            return Gradient.at(x, (decay[rows] / spread).astype(SINGLE)[:, None])

        gradient = scaled(np.sqrt(q / size))
        last = np.log(gradient.within)
        if np.any(count > 1):  # all but the last, which fade on the way: each as the one in their middle
            middle = last + count / 2 * -math.log(beta) * gradient.slope / gradient.within
            below = below + (count - 1) * np.minimum(middle, 0.0)
        ends = np.minimum(self._last[due] + 2 - start, below.shape[1] - 1)
        share, inverse = gradient.alone() if first else gradient.over(below, ends)
        self._below[due, points] = below = below + last
        self._first[due] = start + (below <= NEVER).sum(axis=1)
        look = self._look
        look.q[due], look.steady[due], look.fresh[due], look.old[due] = q, decay2, share / q, share / q
        look.inverse[due] = inverse / (q / size) ** 0.5
        # What is remembered stands in v too, by the size that it had.
        other = np.abs(remembered - q) > ALIKE * q
        if other.any():
            gradient = scaled(np.sqrt(remembered / size)[other], other)
            others = np.minimum(below[other] - np.log(gradient.within), 0.0)
            look.old[due[other]] = gradient.over(others, ends[other])[0] / remembered[other]
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
        """Go on with one class of weights, as v is in the one of most weight: others have points elsewhere."""
        assert self._setting.nodes is not None
        most = int(np.argmax(self._setting.nodes[1]))
        shape, self._shape = self._shape, self._shape[1:]
        self._setting = replace(self._setting, merged=True)
        self.second, self._squares = mean(self.second), mean(self._squares)
        self._lowest, self._faded, self._first, self._last = (
            x.reshape(shape)[most].reshape(-1) for x in (self._lowest, self._faded, self._first, self._last)
        )
        self._below = self._below.reshape(*shape, POINTS)[most].reshape(-1, POINTS)
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


def steady(beta: float, apart: np.ndarray) -> np.ndarray:
    """1/E(1/v) at rest of gradients z + `apart`, z of unit variance, over that of z alone.

    The largest of many is a few z beyond `apart`, while a normal gradient of their size has one a few times that.
    """
    at, beyond = _beyond(beta)
    return (apart + np.interp(apart, at, beyond)) / beyond[0]


@lru_cache(maxsize=16)
def _beyond(beta: float) -> tuple[np.ndarray, np.ndarray]:
    """(means of entries, how far 1/E(1/v) at rest is beyond them)."""
    at, cell, beyond = 50 * np.linspace(0, 1, 40) ** 3, 0.01, list[float]()
    for apart in at.tolist():
        y = np.arange(math.log(0.02), math.log(apart + SURELY), cell)
        gradient = Gradient.at(np.exp(y)[None], np.array([[apart]]))
        last = np.log(gradient.within)
        others = np.zeros_like(last)
        if 0 < beta < 1:  # the sum of `last` where those before it have faded from, by Euler and Maclaurin
            fades = -math.log(beta)
            after = cell * (np.cumsum(last[:, ::-1], axis=1)[:, ::-1] - last / 2)
            others = np.minimum(after / fades - last / 2 - fades / 12 * gradient.slope / gradient.within, 0.0)
        beyond.append(1 / float(gradient.over(others, np.array([len(y) - 1]), cell)[1][0]) - apart)
    return at, np.array(beyond)


@lru_cache(maxsize=16)
def _at_rest(beta: float) -> np.ndarray:
    """log P(v <= y) after long, for gradients of unit variance, at the points of a grid around it."""
    y = np.exp(CELL * (np.arange(POINTS) - POINTS / 2))
    return log_within(y, beta)


class Gradient(NamedTuple):
    """An entry g = z + apart, z of unit variance, and what of it is within [-x, x], at points x.

    apart     what decay adds to the noise
    within    P(|g| <= x)
    slope     its slope by log x
    mean      E(g; |g| <= x)/(x apart)
    square    E(g^2; |g| <= x)/x^2
    """

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
        return cls(apart, within, slope, mean / x, np.clip(part / x**2, 0.0, within))

    def over(self, others: np.ndarray, ends: np.ndarray, cell: float = CELL) -> tuple[np.ndarray, np.ndarray]:
        """(E z^2/v^2, E g/v over `apart`), v the larger of |g| and v', from log P(v' <= x); at `ends` that is 0.

        As log x rises, E g^2/v^2 at v' = x falls by twice `square`, and E g/v by `mean`. Both are therefore sums of
        these over P(v' <= x), smooth functions all. Of E g^2/v^2 noise has the share that it has of E g^2: at a b2 of
        0.99 that is within 1% of Var g/v where decay is as large, and within 5% where it is five times larger.
        """
        below = np.exp(others.astype(SINGLE))
        below *= np.arange(below.shape[1]) <= ends[:, None]
        at = np.arange(len(ends)), ends
        square, mean = (  # what is beyond, where all is within, is a geometric series
            cell * (np.einsum("ij,ij->i", below, part, dtype=float) + part[at] / math.expm1(falls * cell))
            for part, falls in ((self.square, 2), (self.mean, 1))
        )
        return self._noise() * 2 * square, mean.astype(float)

    def alone(self) -> tuple[np.ndarray, np.ndarray]:
        """The same where there are no others: u is the sign of g."""
        apart = np.maximum(self.apart[:, 0], LEAST)
        return self._noise(), (_normal(apart)[0] / apart).astype(float)

    def _noise(self) -> np.ndarray:
        """The share of E g^2 that is noise."""
        return 1 / (1 + self.apart[:, 0].astype(float) ** 2)


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


def _plain(x: np.ndarray) -> Number:
    """A number where there is one neuron."""
    return float(x) if np.ndim(x) == 0 else x
