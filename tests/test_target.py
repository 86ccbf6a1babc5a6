"""Decay towards a norm: its equilibrium beside closed forms, forecasts and random walks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rotational import forecast, rules
from rotational.theory import equilibrium
from rotational.walk import walk

CASES = ((3e-4, 0.1, 1.0), (1e-3, 0.1, 2.0), (5e-3, 1.0, 2.0), (1e-5, 0.1, 5.0), (3e-3, 1.0, 1e-3))


@pytest.mark.parametrize(("lr", "weight_decay", "target"), CASES)
def test_the_norm_at_rest_is_that_of_the_balance(lr, weight_decay, target):
    # 2 lr wd n (n - target) = lr^2 C, of small lr wd: all of an update counts in the end, whatever the memory
    e = equilibrium(rules.adamw(), lr, weight_decay, size=64, target_norm=target)
    square = lr * 64 / (2 * weight_decay)
    closed = (target + math.sqrt(target**2 + 4 * square)) / 2
    assert e.norm == pytest.approx(closed, rel=6 * lr * weight_decay + 1e-4)
    taken = lr * weight_decay * (1 - target / e.norm)
    assert e.rotation == pytest.approx(math.sqrt(2 * taken * 0.1 / 1.9), rel=3 * lr * weight_decay + 1e-3)
    assert e.half_life == pytest.approx(math.log(2) / (lr * weight_decay * (2 - target / e.norm)), rel=1e-2)


@pytest.mark.parametrize("rule", [rules.adamw(), rules.lion(), rules.sgd(0.9, decay="decoupled"), rules.muon()])
@pytest.mark.parametrize("target", [0.3, 2.0])
def test_a_forecast_comes_to_the_equilibrium_from_both_sides(rule, target):
    lr, decay = 5e-3, 1.0
    needs = {"shape": (64, 64)} if rule.title.startswith("muon") else {"size": 64, "gradient_norm": 1.0}
    e = equilibrium(rule, lr, decay, target_norm=target, **needs)
    for start in (0.5 * e.norm, 1.5 * e.norm):
        f = forecast(
            rule, lr=lr, weight_decay=decay, steps=6000, norm=start, target_norm=target, kurtosis=None, **needs
        )
        assert f.static_norm[-1] == pytest.approx(e.norm, rel=2e-3)
        assert f.norm[-1] == pytest.approx(e.norm, rel=2e-3)
        assert f.rotation[-1] == pytest.approx(e.rotation, rel=2e-3)


def test_a_random_walk_rests_there():
    given = {"lr": 5e-3, "weight_decay": 1.0, "size": 64, "target_norm": 2.0}
    rule = rules.adamw((0.9, 0.99))
    trace = walk(rule, **given, steps=1500, norm=2.2, neurons=128)
    f = forecast(rule, lr=5e-3, weight_decay=1.0, size=64, target_norm=2.0, steps=1500, norm=2.2)
    late = slice(1000, None)
    assert np.sqrt(np.mean(trace.norm[late] ** 2)) == pytest.approx(f.static_norm[-1], rel=0.01)
    assert np.sqrt(np.mean(trace.rotation[late] ** 2)) == pytest.approx(f.static[-1], rel=0.01)


@pytest.mark.parametrize("rule", [rules.sgd(0.9), rules.adam_l2(), rules.signum(decay="coupled")])
@pytest.mark.parametrize("decay", ["coupled", "cautious"])
def test_a_target_is_refused_where_decay_knows_of_none(rule, decay):
    rule = rule if decay == "coupled" else rules.adamw(decay="cautious")
    given = {"size": 64, "gradient_norm": 1.0, "target_norm": 2.0}
    with pytest.raises(ValueError, match=r"target_norm=2.*leave target_norm out"):
        equilibrium(rule, 1e-3, 0.1, **given)
    with pytest.raises(ValueError, match=r"forecast\(.*target_norm=2"):
        forecast(rule, lr=1e-3, weight_decay=0.1, steps=10, norm=1.0, **given)
    with pytest.raises(ValueError, match=r"walk\(.*target_norm=2"):
        walk(rule, lr=1e-3, weight_decay=0.1, steps=10, neurons=2, **given)
