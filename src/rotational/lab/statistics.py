"""Intervals over seeds: by them, and never by a point, a claim is decided.

t-interval over n seeds    mean +- t(0.975, n-1) s/sqrt(n)
ratio of two means         Fieller's interval, which pairs the two by seed and says so where it has no bounds
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

# Two-sided 95% points of Student's t, by degrees of freedom; the expansion below is exact to 4 digits beyond.
_T = (12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216, 2.22814)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval; `seeds` holds what each seed gave, and `spread` is their standard deviation.

    `low` and `high` are infinite where nothing bounds the number: one seed, say.
    """

    value: float
    low: float
    high: float
    seeds: Mapping[int, float] = field(default_factory=dict[int, float])

    @property
    def spread(self) -> float:
        """Sample standard deviation over seeds; NaN of one."""
        values = list(self.seeds.values())
        return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def student(freedom: int) -> float:
    """The 97.5% point of Student's t.

    >>> [round(student(n), 3) for n in (1, 2, 10, 30)]
    [12.706, 4.303, 2.228, 2.042]
    """
    if freedom < 1:
        return math.inf
    if freedom <= len(_T):
        return _T[freedom - 1]
    z, n = 1.959964, freedom
    first, second = (z**3 + z) / (4 * n), (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    return z + first + second + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)


def interval(seeds: Mapping[int, float], *, geometric: bool = False) -> Estimate:
    """Mean over seeds with its t-interval; `geometric` takes both of the logarithms, for ratios above 0.

    A value that is not finite makes the estimate NaN without bounds: a run that diverged has no mean.

    >>> e = interval({0: 1.0, 1: 2.0, 2: 3.0})
    >>> e.value, round(e.low, 2), round(e.high, 2)
    (2.0, -0.48, 4.48)
    """
    values = np.array(list(seeds.values()), dtype=np.float64)
    if not len(values) or not np.isfinite(values).all() or (geometric and (values <= 0).any()):
        return Estimate(math.nan, -math.inf, math.inf, seeds)
    logs = np.log(values) if geometric else values
    middle = float(logs.mean())
    half = student(len(logs) - 1) * float(np.std(logs, ddof=1)) / math.sqrt(len(logs)) if len(logs) > 1 else math.inf
    if geometric:
        high = math.exp(middle + half) if middle + half < 700 else math.inf
        return Estimate(math.exp(middle), math.exp(middle - half), high, seeds)
    return Estimate(middle, middle - half, middle + half, seeds)


def share(part: Mapping[int, float], whole: Mapping[int, float]) -> Estimate:
    """Mean of `part` over mean of `whole`, paired by seed, with Fieller's interval.

    Without bounds where the whole's own interval holds 0: a share of nothing is anything.

    >>> e = share({0: 1.0, 1: 1.1, 2: 0.9}, {0: 2.0, 1: 2.1, 2: 1.9})
    >>> round(e.value, 3), 0.4 < e.low < 0.5 < e.high < 0.6
    (0.5, True)
    """
    common = [seed for seed in part if seed in whole]
    each = {seed: part[seed] / whole[seed] if whole[seed] else math.nan for seed in common}
    p, w = (np.array([side[seed] for seed in common], dtype=np.float64) for side in (part, whole))
    n = len(common)
    if not n or not (np.isfinite(p).all() and np.isfinite(w).all()) or float(w.mean()) == 0:
        return Estimate(math.nan, -math.inf, math.inf, each)
    value = float(p.mean() / w.mean())
    if n == 1:
        return Estimate(value, -math.inf, math.inf, each)
    spread = np.cov(p, w) * student(n - 1) ** 2 / n
    a, b, c = w.mean() ** 2 - spread[1, 1], p.mean() * w.mean() - spread[0, 1], p.mean() ** 2 - spread[0, 0]
    if a <= 0:
        return Estimate(value, -math.inf, math.inf, each)
    root = math.sqrt(max(0.0, float(b * b - a * c)))
    return Estimate(value, float(b - root) / float(a), float(b + root) / float(a), each)


def total(values: Iterable[float]) -> float:
    """Sum, rounded once: those of `sum` end in other digits from Python 3.12 on. What is too large is infinite.

    >>> total([0.1] * 10), total([1e308, 1e308])
    (1.0, inf)
    """
    all_of = list(values)
    try:
        return math.fsum(all_of)
    except (OverflowError, ValueError):  # too large, or infinite in both directions
        return sum(all_of)


def mean(values: Sequence[float]) -> float:
    """Mean of what is finite; NaN of nothing.

    >>> mean([1.0, float("nan"), 3.0])
    2.0
    """
    finite = [x for x in values if math.isfinite(x)]
    return total(finite) / len(finite) if finite else math.nan


def geometric(values: Sequence[float]) -> float:
    """Geometric mean; NaN unless all are positive.

    >>> round(geometric([1.0, 4.0]), 9)
    2.0
    """
    if not values or not all(x > 0 for x in values):
        return math.nan
    return math.exp(total(map(math.log, values)) / len(values))


def rank(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's correlation of ranks, ties at their mean rank: 1 where y rises with x throughout; NaN where flat.

    >>> rank([1, 2, 3], [1.0, 4.0, 9.0]), rank([1, 2, 3], [3.0, 2.0, 1.0])
    (1.0, -1.0)
    """
    a, b = (_ranks(np.asarray(v, dtype=np.float64)) for v in (x, y))
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return round(float(a @ b) / scale, 12) if scale else math.nan


def _ranks(values: np.ndarray) -> np.ndarray:
    below = (values[:, None] > values[None, :]).sum(1)
    same = (values[:, None] == values[None, :]).sum(1)
    return below + (same - 1) / 2
