"""What claims are about: numbers for each seed, computed from that seed's runs, so that comparisons are paired.

    Of            a measure of an arm, at its best point where the arm is a sweep
    Difference    a - b              Ratio     a / b, by geometric means
    Share         a / b of two means, such as the part of a gap that is closed: Fieller's interval
    Across        a measure of an arm, by the geometric mean over all points of its sweep
    Plateau       the range of a sweep's axis over which its measure is near the best, as a factor
    Rank          Spearman's correlation of a measure with a sweep's axis
    Largest       the largest of some quantities, seed by seed

Sweeps choose on validation data, by the mean over seeds, and report on test data.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rotational.lab import statistics
from rotational.lab.measures import MEASURES, Found, Point, at, best, common, edges, named, peaks
from rotational.lab.statistics import Estimate


class Quantity(ABC):
    """A number for each seed, from the results of some arms."""

    @property
    @abstractmethod
    def arms(self) -> tuple[str, ...]:
        """Labels of the arms that it needs."""

    @abstractmethod
    def seeds(self, found: Found) -> Mapping[int, float]:
        """Its value for each seed that all its arms have."""

    @property
    def parts(self) -> tuple[Quantity, ...]:
        """The quantities that it is made of."""
        return ()

    def notes(self, found: Found) -> Iterator[tuple[str, str]]:
        """What to know beside its number, each with the arm of which it is so: a best point at the edge of its grid."""
        for part in self.parts:
            yield from part.notes(found)

    def estimate(self, found: Found) -> Estimate:
        """Mean over seeds and its interval."""
        return statistics.interval(self.seeds(found))


@dataclass(frozen=True)
class _One(Quantity):
    """Of the points of one arm."""

    arm: str

    @property
    def arms(self) -> tuple[str, ...]:
        """The one."""
        return (self.arm,)


@dataclass(frozen=True)
class Of(_One):
    """A measure of one arm.

    by    measure by whose validation value the point of a sweep is chosen; the measure itself where it can be
    at    or the point: pairs (field, value)
    """

    measure: str
    by: str | None = None
    at: tuple[tuple[str, Any], ...] = ()

    def seeds(self, found: Found) -> dict[int, float]:
        """Its value at the chosen point."""
        point = best(self._points(found), self.by or self.measure)
        return {seed: m.scalar(self.measure) for seed, m in point.seeds.items()}

    def notes(self, found: Found) -> Iterator[tuple[str, str]]:
        """Where the chosen point lies at an edge of its grid."""
        points = self._points(found)
        yield from _at_edge(self.arm, points, best(points, self.by or self.measure))

    def _points(self, found: Found) -> list[Point]:
        return [p for p in found.points(self.arm) if all(at(p.run, k) == v for k, v in self.at)]


@dataclass(frozen=True)
class Across(_One):
    """A positive measure of one arm, by its geometric mean over all points of the sweep: what does not hang on one.

    A point at which a seed has no finite number, because its run diverged, say, is left out for all of them.
    """

    measure: str

    def seeds(self, found: Found) -> dict[int, float]:
        """The mean, for each seed that all points have."""
        kept = [row for row in self._rows(found) if all(map(math.isfinite, row))]
        return {
            seed: statistics.geometric([row[i] for row in kept])
            for i, seed in enumerate(common(found.points(self.arm)))
        }

    def notes(self, found: Found) -> Iterator[tuple[str, str]]:
        """How many points are left out."""
        rows = self._rows(found)
        if left := sum(not all(map(math.isfinite, row)) for row in rows):
            yield f"{left} of {len(rows)} points left out, of which a run has no finite number", self.arm

    def _rows(self, found: Found) -> list[list[float]]:
        """For each point its values, of the seeds that all points have."""
        points = found.points(self.arm)
        return [[p.seeds[seed].scalar(self.measure) for seed in common(points)] for p in points]


@dataclass(frozen=True)
class _Pair(Quantity):
    """Two that are compared seed by seed."""

    a: Quantity
    b: Quantity

    @property
    def arms(self) -> tuple[str, ...]:
        """Of both."""
        return (*self.a.arms, *self.b.arms)

    @property
    def parts(self) -> tuple[Quantity, ...]:
        """Both."""
        return self.a, self.b


@dataclass(frozen=True)
class Difference(_Pair):
    """a - b."""

    def seeds(self, found: Found) -> dict[int, float]:
        """Paired."""
        a, b = self.a.seeds(found), self.b.seeds(found)
        return {seed: a[seed] - b[seed] for seed in a if seed in b}


@dataclass(frozen=True)
class Ratio(_Pair):
    """a / b of positive numbers; mean and interval are those of logarithms."""

    def seeds(self, found: Found) -> dict[int, float]:
        """Paired."""
        a, b = self.a.seeds(found), self.b.seeds(found)
        return {seed: a[seed] / b[seed] if b[seed] else math.nan for seed in a if seed in b}

    def estimate(self, found: Found) -> Estimate:
        """Geometric."""
        return statistics.interval(self.seeds(found), geometric=True)


@dataclass(frozen=True)
class Share(Quantity):
    """Mean of `part` over mean of `whole`; either may be near 0 for a seed."""

    part: Quantity
    whole: Quantity

    @property
    def arms(self) -> tuple[str, ...]:
        """Of both."""
        return (*self.part.arms, *self.whole.arms)

    @property
    def parts(self) -> tuple[Quantity, ...]:
        """Both."""
        return self.part, self.whole

    def seeds(self, found: Found) -> Mapping[int, float]:
        """The ratio of each seed, which the estimate does not average."""
        return self.estimate(found).seeds

    def estimate(self, found: Found) -> Estimate:
        """Fieller's interval."""
        return statistics.share(self.part.seeds(found), self.whole.seeds(found))


@dataclass(frozen=True)
class Plateau(_One):
    """Largest over smallest value of an axis between which a measure is within `within` of the arm's best point.

    Between two points of the sweep the measure goes straight over the logarithm of the axis. A plateau that reaches
    an end of the sweep is cut there, and so measured too narrow.
    """

    axis: str
    measure: str
    within: float

    def seeds(self, found: Found) -> dict[int, float]:
        """The factor, for each seed that all points have."""
        points = sorted(found.points(self.arm), key=lambda p: at(p.run, self.axis))
        middle = points.index(best(points, self.measure))
        x = [math.log(at(p.run, self.axis)) for p in points]
        sign = 1.0 if MEASURES[self.measure].better == "high" else -1.0
        factors: dict[int, float] = {}
        for seed in common(points):
            y = [sign * p.seeds[seed].scalar(self.measure) for p in points]
            floor = y[middle] - self.within
            right = _edge(x[middle:], y[middle:], floor)
            left = _edge(x[middle::-1], y[middle::-1], floor)
            factors[seed] = math.exp(right - left)
        return factors

    def notes(self, found: Found) -> Iterator[tuple[str, str]]:
        """Where the best point, from which the plateau goes to both sides, lies at an edge."""
        points = found.points(self.arm)
        yield from _at_edge(self.arm, points, best(points, self.measure))

    def estimate(self, found: Found) -> Estimate:
        """Geometric."""
        return statistics.interval(self.seeds(found), geometric=True)


@dataclass(frozen=True)
class Rank(_One):
    """How steadily a measure rises along an axis: Spearman's correlation, 1 where it always does.

    Where the sweep goes over another axis besides, each value of this one has its best point.

    also    another arm, at its best point, and the value of the axis at which it stands: what its runs do not say
    """

    axis: str
    measure: str
    at: tuple[tuple[str, Any], ...] = ()
    also: tuple[str, float] | None = None

    @property
    def arms(self) -> tuple[str, ...]:
        """The one, and the other."""
        return (self.arm,) if self.also is None else (self.arm, self.also[0])

    def seeds(self, found: Found) -> dict[int, float]:
        """The correlation, for each seed that all points have."""
        points = [p for p in found.points(self.arm) if all(at(p.run, k) == v for k, v in self.at)]
        points = peaks(points, self.axis, self.measure)
        x = [at(p.run, self.axis) for p in points]
        if self.also is not None:
            points, x = [*points, best(found.points(self.also[0]), self.measure)], [*x, self.also[1]]
        rows = {seed: [p.seeds[seed].scalar(self.measure) for p in points] for seed in common(points)}
        return {seed: statistics.rank(x, y) for seed, y in rows.items()}

    def notes(self, found: Found) -> Iterator[tuple[str, str]]:
        """Where the best point of a value of the axis lies at an edge of another axis."""
        points = [p for p in found.points(self.arm) if all(at(p.run, k) == v for k, v in self.at)]
        for value in dict.fromkeys(at(p.run, self.axis) for p in points):
            there = [p for p in points if at(p.run, self.axis) == value]
            yield from _at_edge(self.arm, there, best(there, self.measure))
        if self.also is not None:
            others = found.points(self.also[0])
            yield from _at_edge(self.also[0], others, best(others, self.measure))


@dataclass(frozen=True)
class Largest(Quantity):
    """The largest of some quantities, for each seed."""

    among: tuple[Quantity, ...]

    @property
    def arms(self) -> tuple[str, ...]:
        """Of all."""
        return tuple(arm for q in self.among for arm in q.arms)

    @property
    def parts(self) -> tuple[Quantity, ...]:
        """All."""
        return self.among

    def seeds(self, found: Found) -> dict[int, float]:
        """For the seeds that all have; NaN where one is."""
        each = [q.seeds(found) for q in self.among]
        rows = {seed: [e[seed] for e in each] for seed in each[0] if all(seed in e for e in each)}
        return {seed: math.nan if any(map(math.isnan, row)) else max(row) for seed, row in rows.items()}


def _at_edge(arm: str, points: Sequence[Point], point: Point) -> Iterator[tuple[str, str]]:
    if axes := edges(points, point):
        yield f"best at the edge of its grid in {' and '.join(map(named, axes))}", arm


def _edge(x: list[float], y: list[float], floor: float) -> float:
    """Where y falls below the floor, going along x from a first point that is above it."""
    for i in range(1, len(x)):
        if not y[i] >= floor:
            fall = y[i - 1] - y[i]
            share = (y[i - 1] - floor) / fall if math.isfinite(fall) and fall > 0 else 0.0
            return x[i - 1] + share * (x[i] - x[i - 1])
    return x[-1]
