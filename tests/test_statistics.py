"""Intervals against simulation: they hold the truth as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rotational.lab import statistics
from rotational.lab.statistics import interval, rank, share, student, total

TRIALS = 4000


@pytest.mark.parametrize(
    ("freedom", "value"), [(1, 12.706), (2, 4.303), (5, 2.571), (10, 2.228), (11, 2.201), (30, 2.042), (1000, 1.962)]
)
def test_students_points_are_those_of_the_tables(freedom, value):
    assert student(freedom) == pytest.approx(value, abs=6e-4)
    assert student(0) == math.inf


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_holds_the_mean_in_95_of_100_samples(seeds):
    rng = np.random.default_rng(seeds)
    samples = rng.normal(3.0, 2.0, (TRIALS, seeds))
    found = [interval(dict(enumerate(map(float, row)))) for row in samples]
    assert np.mean([e.low <= 3.0 <= e.high for e in found]) == pytest.approx(0.95, abs=0.012)


def test_a_geometric_interval_is_that_of_logarithms():
    logs = {0: 0.1, 1: 0.3, 2: 0.2}
    plain, ratios = interval(logs), interval({k: math.exp(v) for k, v in logs.items()}, geometric=True)
    assert (ratios.value, ratios.low, ratios.high) == pytest.approx(
        tuple(map(math.exp, (plain.value, plain.low, plain.high)))
    )


def test_one_seed_has_no_bounds_and_no_spread():
    e = interval({4: 2.0})
    assert (e.value, e.low, e.high) == (2.0, -math.inf, math.inf)
    assert math.isnan(e.spread)


@pytest.mark.parametrize("values", [{}, {0: 1.0, 1: math.nan}, {0: 1.0, 1: math.inf}])
def test_what_diverged_has_no_mean(values):
    assert math.isnan(interval(values).value)
    assert interval(values).low == -math.inf


def test_a_geometric_mean_of_what_is_not_positive_is_none():
    assert math.isnan(interval({0: 1.0, 1: -1.0}, geometric=True).value)


def test_fiellers_interval_holds_the_ratio_of_means_in_95_of_100_samples():
    rng = np.random.default_rng(0)
    whole = rng.normal(2.0, 0.3, (TRIALS, 4))
    part = 0.6 * whole + rng.normal(0.0, 0.2, whole.shape)  # paired: what one seed has, the other has
    found = [
        share(dict(enumerate(map(float, p))), dict(enumerate(map(float, w)))) for p, w in zip(part, whole, strict=True)
    ]
    bounded = [e for e in found if math.isfinite(e.low)]
    assert len(bounded) > 0.9 * TRIALS
    assert np.mean([e.low <= 0.6 <= e.high for e in found]) == pytest.approx(0.95, abs=0.012)


def test_a_share_of_a_gap_that_may_be_none_has_no_bounds():
    e = share({0: 1.0, 1: 1.1, 2: 0.9}, {0: 1.0, 1: -1.0, 2: 0.5})
    assert e.value == pytest.approx(6.0)
    assert (e.low, e.high) == (-math.inf, math.inf)


def test_a_share_pairs_by_seed_and_not_by_place():
    assert share({0: 1.0, 1: 2.0}, {1: 4.0, 0: 2.0}).seeds == {0: 0.5, 1: 0.5}


def test_ranks_with_ties():
    assert rank([1, 2, 3, 4], [10, 20, 30, 40]) == 1.0
    assert rank([1, 2, 3, 4], [1, 1, 2, 2]) == pytest.approx(0.894, abs=1e-3)
    assert math.isnan(rank([1, 2], [5, 5]))


def test_the_mean_passes_over_what_is_not_finite():
    assert statistics.mean([1.0, math.inf, 2.0]) == 1.5
    assert math.isnan(statistics.mean([]))


def test_sums_round_once_and_end_where_no_float_does() -> None:
    assert total([0.1] * 10) == 1.0
    assert total([1e308, 1e308]) == math.inf
    assert math.isnan(total([math.inf, -math.inf]))
    assert math.isnan(total([math.nan, 1.0]))
