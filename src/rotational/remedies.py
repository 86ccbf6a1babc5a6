"""What mends a run that advice.py warns of, sought by forecasting it: a factor of lr or weight decay, a warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from rotational.outlook import Forecast

EARLY = 0.1
"""The share of a run that a suggestion leaves to the transient."""
TWICE = 2.0
"""Rotation above this many times the equilibrium's is an overshoot."""
TRIES = 5
"""Forecasts to find a factor: the third is mostly close, and one that is not found so is out of reach."""
STEPS = (1.0, 1.2, 1.5, 1.8, 2.2, 2.7, 3.3, 3.9, 4.7, 5.6, 6.8, 8.2)
"""Factors that are tried, by decades: few, so that numbers are round and forecasts serve more than one search."""


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


def _even(factor: float) -> float:
    """The factor of `STEPS` that is nearest in ratio, and at least 1.2."""
    steps = max(1, round(12 * math.log10(factor)))
    return float(f"{STEPS[steps % 12] * 10.0 ** (steps // 12):.2g}")


def factor(guess: float, again: Callable[[float], Forecast]) -> tuple[float, float, Forecast] | None:
    """The smallest factor found whose transient is a tenth of the run or less; else the one with the least of it.

    `again` gives the forecast at a factor. Returned is the factor, the share of its transient and its forecast.
    """
    low, high = 1.0, math.inf
    best: tuple[float, float, Forecast] | None = None
    tried = set[float]()
    for _ in range(TRIES):
        now = _even(guess)
        if now in tried:
            break
        tried.add(now)
        try:
            then = again(now)
        except ValueError:  # so much decay removes the whole weight in a step
            high, guess = now, math.sqrt(low * now)
            continue
        settles = then.settles
        share = 1.0 if settles is None else settles / int(then.step[-1])
        if best is None or share < best[1] > EARLY or (share <= EARLY and now < best[0]):
            best = (now, share, then)
        if 0.7 * EARLY < share <= EARLY:
            break
        low, high = (low, now) if share <= EARLY else (now, high)
        # In proportion where the transient was seen to end, within what is known already.
        guess = now * share / (0.85 * EARLY) if settles is not None else 3 * now
        if not low < guess < high:
            guess = math.sqrt(low * min(high, 9 * low))
    return best if best is not None and best[1] < 1 else None


def warmup(low: int, most: int, with_warmup: Callable[[int], Forecast]) -> tuple[int, float] | None:
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
        times = peak(with_warmup(length))[0]
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


def trade(f: Forecast, times: float, traded: Callable[[float], Forecast]) -> tuple[float, float] | None:
    """A factor between lr and weight decay that is enough, and the overshoot that it leaves, which falls about as it.

    `times` is the overshoot of `f`, the run as it is; `traded` gives its beginning at a factor.
    """
    if f.initial is not None and f.static_norm is not None:  # angles of a radian and more tell less of it
        times = max(times, float(f.static_norm[np.argmax(f.lr)]) / f.initial)
    factor = times / TWICE
    for _ in range(TRIES):
        factor = _even(1.1 * factor)
        try:
            now = peak(traded(factor))[0]
        except ValueError:
            return None
        if now < TWICE:
            return factor, now
        factor *= now / TWICE
    return None
