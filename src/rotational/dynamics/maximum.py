"""Adamax's fading maximum, step by step: its distribution over entries, on a grid that fades with it.

    v_t = max(beta v_{t-1}, |g_t|)        P(v_t <= y) = P(v_{t-1} <= y/beta) P(|g_t| <= y)

At points that are multiplied by beta in each step this is one product, whatever the history of gradient sizes. With v'
the faded maximum of all other gradients, a gradient either is the maximum or is below it:

    E g^2/v^2 = E [ P(|g| > v') + E(g^2; |g| <= v')/v'^2 ]        E 1/v, where g is not it = E [ P(|g| <= v')/v' ]

What is remembered is taken as gradients of one size, the mean of theirs, in which v has faded since (see `entry`), and
two updates as sharing as much of it as under a v that stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from rotational.correlation import log_within
from rotational.dynamics.entry import CELL, SINGLE, SURELY, Gradient, faded
from rotational.dynamics.setting import Divided, Number, Setting
from rotational.memory import Filter
from rotational.scale import Max

POINTS = 160
"""How many cells: e^24 in all, as sizes of gradients may change by orders of magnitude."""

LADDER = np.exp(CELL * np.arange(POINTS))
"""y at the points, over that at the first."""

NEVER = -40.0
"""log P(v <= y) of points below which v is not."""

FOLLOWS, FADES, MOVES, TOGETHER = 30, 0.015, 0.01, 3
"""v is looked at afresh in every step at first, then after every thirtieth part of the steps so far, but before it
fades by 1.5%, and when |g|^2 has changed by a percent since: of many neurons together, three times in that while, or
at once when it has changed by two percent."""

BESIDE = 3.0
"""How far the grid reaches beyond where v may be."""

ALIKE = 0.01
"""By what share |g|^2 of what is remembered may differ from that of the step to be taken as the same."""


class Look(NamedTuple):
    """What v makes of gradients while it hardly changes, a row for each neuron, or class of its weights.

    q, steady    E|g|^2 of the noise, and of the decay among the gradients, when it was looked at
    fresh, old   E g^2/v^2 over E g^2/C of the gradient of the step, and of one that is remembered, over C
    inverse      E g/v over E g, for the gradient of the step
    late         what that is multiplied by for what is remembered, in which v has faded since
    """

    q: np.ndarray
    steady: np.ndarray
    fresh: np.ndarray
    old: np.ndarray
    inverse: np.ndarray
    late: np.ndarray


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
            self._take(np.flatnonzero(~still), power, decay2, remembered, t)
        fresh, old, inverse, late = (x.reshape(self._shape) for x in look[2:])
        sigma2 = now.new**2 * q + now.old**2 * kept
        seen = now.new**2 * q * fresh + now.old**2 * kept * old
        decay = self._setting.rule.memory.decay
        self._squares = decay**2 * self._squares + now.inflow**2 * q**2
        self.second = _plain(np.asarray(sigma2 * self._setting.fading[1] / seen))
        amplitude = (self._setting.size * seen / sigma2) ** 0.5
        return gradient._replace(
            amplitude=_plain(np.asarray(amplitude)), response=_plain(inverse.copy()), late=_plain(late.copy())
        )

    def _take(self, due: np.ndarray, q: np.ndarray, decay2: np.ndarray, remembered: np.ndarray, t: int) -> None:
        """Take in the gradients since the last look, as if all were of this size, and see what v makes of step t.

        `remembered` is E|g|^2 of what the memory holds: gradients of many sizes are one of their mean.
        """
        beta, count, size = self._scale.beta, self._due[due][:, None], self._rows(self._setting.size)[due]
        q, decay2, remembered = q[due], decay2[due], remembered[due]
        if t == 1:
            self._lowest[due] = _lowest(q / size, decay2 / size)
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
        ends = np.clip(self._last[due] + 2 - start, 0, below.shape[1] - 1)
        since = None if t == 1 else faded(beta, self._setting.rule.memory.decay, t)
        seen = gradient.alone() if t == 1 else gradient.over(below, ends, since=since)
        self._below[due, points] = below = below + last
        self._first[due] = start + (below <= NEVER).sum(axis=1)
        look = self._look
        look.q[due], look.steady[due], look.fresh[due], look.old[due] = q, decay2, seen.noise / q, seen.old_noise / q
        look.inverse[due], look.late[due] = seen.mean / (q / size) ** 0.5, seen.old_mean / seen.mean
        # What is remembered stands in v too, by the size that it had.
        other = np.abs(remembered - q) > ALIKE * q
        if other.any():
            gradient = scaled(np.sqrt(remembered / size)[other], other)
            others = np.minimum(below[other] - np.log(gradient.within), 0.0)
            look.old[due[other]] = gradient.over(others, ends[other], since=since).old_noise / remembered[other]
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


def _lowest(noise2: np.ndarray, decay2: np.ndarray) -> np.ndarray:
    """log y of the first point: around the larger of noise and decay, which meet in the course, from below both."""
    noise, decay = np.log(noise2) / 2, np.log(decay2 + 1e-300) / 2
    lowest = np.minimum(np.maximum(noise, decay) - CELL * POINTS / 2, noise - BESIDE)
    return np.maximum(lowest, decay + BESIDE - CELL * POINTS)


@lru_cache(maxsize=16)
def _at_rest(beta: float) -> np.ndarray:
    """log P(v <= y) after long, for gradients of unit variance, at the points of a grid around it."""
    y = np.exp(CELL * (np.arange(POINTS) - POINTS / 2))
    return log_within(y, beta)


def _plain(x: np.ndarray) -> Number:
    """A number where there is one neuron."""
    return float(x) if np.ndim(x) == 0 else x
