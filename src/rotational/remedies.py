"""What mends a run that advice.py warns of, sought by forecasting it: a factor of lr or weight decay, a warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from rotational.outlook import NEAR, Forecast

Again = Callable[[float], Sequence[Forecast]]
"""Forecasts of all kinds of neurons that share a setting, at a factor of it; a suggestion has to serve the worst."""

EARLY = 0.1
"""The share of a run that a suggestion leaves to what comes before rotation is at rest."""
PASSING = 0.5
"""sum(lr*wd) below which a run keeps more than a third of its squared initial norm, e^-1: it cannot have settled."""
TWICE = 2.0
"""Rotation above this many times the equilibrium's is an overshoot."""
TRIES = 4
"""Forecasts to find a factor: the second is mostly close, and one that is not found so is out of reach."""
FAR = 100.0
"""A factor of lr or weight decay that nobody would try."""
FURTHEST = 1000.0
"""A factor that is not even sought."""
STEPS = (1.0, 1.2, 1.5, 1.8, 2.2, 2.7, 3.3, 3.9, 4.7, 5.6, 6.8, 8.2)
"""Factors that are tried, by decades: few, so that numbers are round and forecasts serve more than one search."""


def taken(f: Forecast) -> np.ndarray:
    """Share of a weight that decay takes off in each kept step: lr*wd, or what stands for it (1/timescale)."""
    return np.where(np.isfinite(f.timescale), 1 / f.timescale, 0.0)


def summed(f: Forecast) -> float:
    """sum(lr*wd) over the run, or what stands for it where decay enters another way: the sum of D."""
    return float(np.sum(taken(f)) * float(f.step[0]))


def until_settled(f: Forecast) -> float:
    """Share of the run until rotation settles, 1 for never. `Forecast.transient` is another: it counts what follows."""
    return 1.0 if f.settles is None else f.settles / float(f.step[-1])


def peak(f: Forecast) -> tuple[float, int]:
    """Rotation at its highest over the equilibrium's at the highest lr, and over how many steps it is averaged.

    An average (RMS) over 5/(1-momentum) steps: single first steps of any Adam turn 4 times as far, as its memory has
    nothing to average yet, and that is no overshoot. 0 where there is no equilibrium.
    """
    every = int(f.step[0])
    window = math.ceil(round(5 / (1 - f.rule.memory.decay), 6))
    count = max(1, min(len(f.step), round(window / every)))
    mean = np.convolve(np.square(f.rotation), np.full(count, 1 / count), mode="valid")
    rest = float(np.max(f.static))
    return float(np.sqrt(np.max(mean))) / rest if rest > 0 else 0.0, count * every


def off(f: Forecast) -> float:
    """Share of the run that rotation is more than 10% off the static one before lr falls below half its peak for good.

    What is sought is little of this: what `Forecast.transient` has beyond it is the lag behind a lr that falls. 1 where
    rotation does not settle, or has passed the static one and no more.
    """
    if f.settles is None or summed(f) < PASSING:
        return 1.0
    high = np.flatnonzero(f.lr >= 0.5 * np.max(f.lr))[-1] + 1
    ratio = f.ratio[:high]
    return float(np.count_nonzero(np.isfinite(ratio) & ~(np.abs(ratio - 1) <= NEAR))) / len(f.step)


def highest(forecasts: Sequence[Forecast]) -> float:
    """The largest `peak` of several kinds of neurons."""
    return max(peak(f)[0] for f in forecasts)


def rounded(x: float, digits: int = 2) -> float:
    """As it is printed: a suggestion is forecast at the number that is read, so that a plan of it shows the same.

    >>> rounded(0.0123456), rounded(0.0123456, 3)
    (0.012, 0.0123)
    """
    return float(f"{x:.{digits}g}")


def _even(factor: float) -> float:
    """The factor of `STEPS` that is nearest in ratio, and at least 1.2."""
    steps = max(1, round(12 * math.log10(factor)))
    return float(f"{STEPS[steps % 12] * 10.0 ** (steps // 12):.2g}")


def factor(guess: float, now: float, again: Again) -> tuple[float, Sequence[Forecast]] | None:
    """The smallest value found that leaves rotation `off` for a tenth of the run or less; else that with the least.

    `now` is the value of the run as it is, and `again` gives the forecasts at a factor of it. Returned is the value, of
    two digits, and its forecasts; None where rotation settles at none.
    """
    low, high = 1.0, math.inf
    best: tuple[float, float, Sequence[Forecast]] | None = None
    tried = set[float]()
    for _ in range(TRIES):
        value = rounded(now * _even(guess))
        if value in tried or value > FURTHEST * now:
            break
        tried.add(value)
        at = value / now
        try:
            then = again(at)
        except ValueError:  # so much decay removes the whole weight in a step
            high, guess = at, math.sqrt(low * at)
            continue
        share = max(map(off, then))
        if best is None or share < best[1] > EARLY or (share <= EARLY and value < best[0]):
            best = (value, share, then)
        if 0.5 * EARLY < share <= EARLY:
            break
        low, high = (low, at) if share <= EARLY else (at, high)
        # In proportion where it was seen to come there, within what is known already.
        guess = at * share / (0.8 * EARLY) if share < 1 else 3 * at
        if not low < guess < high:
            guess = math.sqrt(low * min(high, 9 * low))
    return None if best is None or best[1] == 1 else (best[0], best[2])


def warmup(low: int, most: int, with_warmup: Callable[[int], Sequence[Forecast]]) -> tuple[int, float] | None:
    """The shortest warm-up, to about a tenth, that keeps rotation below twice the equilibrium's; and what is left.

    `low` and `most` bound its length; `with_warmup` gives the beginning with one. An overshoot falls as a power of the
    length, so that lengths are sought on logarithms of both.
    """
    length, short, found = max(2, low), (1, math.inf), None
    power = 0.5
    for _ in range(16):
        if length > most:
            length = most
        if length <= short[0] or (found is not None and length >= found[0]):
            break
        times = highest(with_warmup(length))
        if times < TWICE:
            found = (length, times)
            if times > 0.93 * TWICE or length == max(2, low):
                break
        elif length == most:
            return None
        else:
            if short[0] > 1 and times < short[1]:
                power = min(2.0, max(0.2, math.log(short[1] / times) / math.log(length / short[0])))
            short = (length, times)
        aim = 0.97 * TWICE
        if found is not None:
            part = math.log(short[1] / aim) / math.log(short[1] / found[1])
            length = _up(short[0] * (found[0] / short[0]) ** min(0.9, max(0.1, part)))
        else:
            length = _up(short[0] * min(30.0, (short[1] / aim) ** (1 / power)))
    return found


def _up(steps: float) -> int:
    """A number of steps rounded up to two digits."""
    unit = 10 ** max(0, math.floor(math.log10(steps)) - 1)
    return math.ceil(steps / unit) * unit


def trade(
    f: Forecast, times: float, traded: Callable[[float, float], Sequence[Forecast]]
) -> tuple[float, float, Sequence[Forecast]] | None:
    """An lr and a weight decay of the same product that are enough, and the beginnings of the run with them.

    `times` is the overshoot of `f`, the run as it is; it falls about as the factor between the two rises. `traded`
    gives its beginning at factors of lr and of weight decay.
    """
    if f.initial is not None and f.static_norm is not None:  # angles of a radian and more tell less of it
        times = max(times, float(f.static_norm[np.argmax(f.lr)]) / f.initial)
    lr, decay = float(np.max(f.lr)), float(np.max(f.weight_decay))
    if decay == 0:
        return None
    apart = times / TWICE
    for _ in range(TRIES):
        apart = _even(1.1 * apart)
        if apart > FAR:
            return None
        lower = rounded(lr / apart)
        # an independent decay is not multiplied by lr, and at rest turns as fast whatever that is
        more = decay if f.rule.decay == "independent" else rounded(decay * lr / lower, 3)
        try:
            then = traded(lower / lr, more / decay)
        except ValueError:
            return None
        if (now := highest(then)) < TWICE:
            return lower, more, then
        apart *= now / TWICE
    return None
