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
from typing import NamedTuple

import numpy as np

from rotational.correlation import log_within
from rotational.dynamics.setting import Divided, Number, Setting
from rotational.memory import Filter
from rotational.scale import Max

CELL, POINTS = 0.1, 240
"""Width of a cell in log y, and how many: e^24 in all, as sizes of gradients may change by orders of magnitude."""

SINGLE = np.float32
"""What probabilities at a point are computed in: fast, and as exact as the series for them. Sums are double."""

FOLLOWS, FADES, MOVES = 30, 0.015, 0.005
"""v is looked at afresh in every step at first, then after every thirtieth part of the steps so far, but before it
fades by 1.5%, and whenever |g|^2 has changed by half a percent since."""


class Look(NamedTuple):
    """What v makes of gradients while it hardly changes.

    q, steady    E|g|^2 of the noise, and of the decay among the gradients, when it was looked at
    fresh, old   E g^2/v^2 over E g^2/C of the gradient of the step, and of one that is remembered, over C
    inverse      E 1/v, for a gradient that is not the maximum
    """

    q: Number
    steady: Number
    fresh: Number
    old: Number
    inverse: Number


class FadingMaximum:
    """The divisor of Adamax; `second` is E|g|^2 of the gradients whose maximum, at rest, would divide as this one."""

    def __init__(self, setting: Setting, scale: Max, zero: Number) -> None:
        self.second = zero
        self._setting, self._scale = setting, scale
        self._grid: np.ndarray | None = None  # log y, the last axis
        self._below = np.zeros(1)  # log P(v <= y)
        self._faded = 0.0
        self._look: Look | None = None
        self._due = 0  # gradients since the last look
        self._stride = FADES / -math.log(scale.beta) if 0 < scale.beta < 1 else 0.0
        self._squares: Number = 0.0  # of E|g|^2, as the memory holds them

    def step(
        self, t: int, now: Filter, kept: Number, gradient: Divided, mean2: Number, square: Number, lr: Number
    ) -> Divided:
        """Take in the gradient of step t (see `divisor.Divisor`)."""
        q = gradient.power + mean2
        self._due += 1
        if (
            self._look is None
            or self._due >= min(t // FOLLOWS, self._stride)
            or self._moved(q, square, gradient.coupled)
        ):
            self._look = self._looked(q, kept, gradient.coupled, square, first=t == 1)
            self._due = 0
        look, sigma2 = self._look, now.new**2 * q + now.old**2 * kept
        power = now.new**2 * q * look.fresh + now.old**2 * kept * look.old
        decay = self._setting.rule.memory.decay
        self._squares = decay**2 * self._squares + now.inflow**2 * q**2
        self.second = _plain(np.asarray(sigma2 * self._setting.fading[1] / power))
        amplitude = (self._setting.size * power / sigma2) ** 0.5
        return gradient._replace(amplitude=_plain(np.asarray(amplitude)), response=_plain(np.asarray(look.inverse)))

    def _moved(self, q: Number, square: Number, coupled: Number) -> bool:
        """Whether gradients or the decay among them are of another size than when v was last looked at."""
        assert self._look is not None
        steady = coupled**2 * square
        moved = np.abs(q - self._look.q) + np.abs(steady - self._look.steady)
        return bool(np.any(moved > MOVES * (self._look.q + self._look.steady)))

    def _looked(self, q: Number, kept: Number, coupled: Number, square: Number, *, first: bool) -> Look:
        """Take in the `_due` gradients since the last look, as if all were of this size, and see what v makes of it."""
        beta, size, count = self._scale.beta, self._setting.size, self._due
        spread = np.sqrt(np.asarray(q / size + 0.0 * square))[..., None]
        steady = np.sqrt(np.asarray(coupled**2 * square / size + 0.0 * q))[..., None]
        if self._grid is None:
            self._grid = np.log(spread) + CELL * (np.arange(POINTS) - POINTS / 2)
            self._below = np.zeros(self._grid.shape)
        elif beta > 0:
            self._fade(-count * math.log(beta))
        else:
            self._below = np.zeros(self._grid.shape)
        matters = self._matters(spread, steady)
        grid, below = self._grid[..., matters], self._below[..., matters]
        y = np.exp(grid).astype(SINGLE)
        spread, steady = spread.astype(SINGLE), steady.astype(SINGLE)
        if count > 1:  # all but the last, which fade on the way: each as the one in their middle
            below = below + (count - 1) * _log_between(y * beta ** (-count / 2), spread, steady)
        share, inverse = self._seen(grid, below, spread, steady, first=first)
        last = _log_between(y, spread, steady)
        below = below + last
        self._below = self._below.copy()
        self._below[..., matters] = below
        old: Number = 0.0
        # What is remembered stands in v too, by the size that it had; gradients of many sizes are one of their mean.
        if self._setting.rule.memory.old and np.all(kept > 0):
            typical = self._squares / kept
            spread = np.sqrt(np.asarray(typical / size + 0.0 * square))[..., None].astype(SINGLE)
            others = np.minimum(below - _log_between(y, spread, steady), 0.0)
            old = self._seen(grid, others, spread, steady)[0] / typical
        return Look(q, coupled**2 * square, share / q, old, inverse / (q / size) ** 0.5)

    def _matters(self, spread: np.ndarray, steady: np.ndarray) -> slice:
        """The points at which v may be: below them it is for no neuron, and above them neither v nor a gradient is."""
        assert self._grid is not None
        axes = tuple(range(self._grid.ndim - 1))
        may = np.any(self._below > -40.0, axis=axes)
        reached = np.any((self._below < -1e-15) | (self._grid < np.log(9 * spread + steady)), axis=axes)
        first, last = int(np.argmax(may)), POINTS - int(np.argmax(reached[::-1]))
        return slice(max(first - 1, 0), min(max(last, first) + 2, POINTS))

    def _seen(
        self, grid: np.ndarray, others: np.ndarray, spread: np.ndarray, steady: np.ndarray, *, first: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """(E g^2/v^2, E 1/v in units of g) of a gradient, `others` being log P(v' <= y) of all others on `grid`."""
        apart = (spread**2 / (spread**2 + steady**2)).astype(np.float64)
        # where the gradient is the maximum, u is its sign, which follows the decay once that outweighs the noise
        sign = (apart * (1 - apart)) ** 0.5
        if first:
            return apart[..., 0], sign[..., 0]
        mass = np.diff(np.exp(others), axis=-1, prepend=0.0)
        y = np.exp(grid - CELL / 2).astype(SINGLE)  # where the mass of a cell is
        x, within = y / spread, _between(y, spread, steady)
        left = np.maximum(x - steady / spread, 0.0)
        beside = _within(left) if np.any(steady) else within
        # E(z^2; |g| <= y), which a density that falls bounds by x^2/3
        part = within * np.minimum(x**2 / 3, 1 - left * math.sqrt(2 / math.pi) * np.exp(-(left**2) / 2) / beside)
        share = (mass * ((1 - within) * apart + part / x**2)).sum(-1)
        return share, (mass * (within / x + (1 - within) * sign)).sum(-1)

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
        """Be as `second` is for long."""
        spread = np.sqrt(np.asarray(second / self._setting.size))[..., None]
        self._grid = np.log(spread) + CELL * (np.arange(POINTS) - POINTS / 2)
        self._below = np.broadcast_to(_at_rest(self._scale.beta), self._grid.shape)
        self._faded, self._look, self._due = 0.0, None, 0
        memory = self._setting.rule.memory
        self._squares = memory.inflow**2 * q**2 / (1 - memory.decay**2)

    def merge(self, mean: Callable[[Number], Number]) -> None:
        """Go on with one class of weights."""
        assert self._grid is not None
        self._setting = replace(self._setting, merged=True)
        self.second, self._grid, self._below = mean(self.second), mean(self._grid), mean(self._below)
        self._squares, self._look = mean(self._squares), None

    def _fade(self, by: float) -> None:
        """Move the points down; a point that has gone down a whole cell makes room for one at the top."""
        assert self._grid is not None
        self._grid = self._grid - by
        self._faded += by
        cells = min(int(self._faded / CELL), POINTS)
        if cells:
            self._faded -= cells * CELL
            self._grid = self._grid + cells * CELL
            self._below = np.concatenate(
                [self._below[..., cells:], np.zeros((*self._below.shape[:-1], cells))], axis=-1
            )


@lru_cache(maxsize=16)
def _at_rest(beta: float) -> np.ndarray:
    """log P(v <= y) after long, for gradients of unit variance, at the points of a grid around it."""
    y = np.exp(CELL * (np.arange(POINTS) - POINTS / 2))
    return log_within(y, beta)


def _within(x: np.ndarray) -> np.ndarray:
    """P(|z| <= x) of a standard normal z, to 3e-7 (Abramowitz and Stegun 7.1.26)."""
    t = 1 / (1 + 0.3275911 / math.sqrt(2) * x)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.clip(1 - series * np.exp(-(x**2) / 2), 1e-12, 1.0)


def _between(y: np.ndarray, spread: np.ndarray, steady: np.ndarray) -> np.ndarray:
    """P(|spread z + steady| <= y)."""
    if not np.any(steady):
        return _within(y / spread)
    low, high = (y - steady) / spread, (y + steady) / spread
    return np.clip((np.sign(low) * _within(np.abs(low)) + _within(high)) / 2, 1e-12, 1.0)


def _log_between(y: np.ndarray, spread: np.ndarray, steady: np.ndarray) -> np.ndarray:
    return np.log(_between(y, spread, steady))


def _plain(x: np.ndarray) -> Number:
    """A number where there is one neuron."""
    return float(x) if np.ndim(x) == 0 else x
