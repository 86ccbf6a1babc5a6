"""Second moments of few steps, and what is said of rules that are less exact than others."""

from __future__ import annotations

import numpy as np
import pytest

from rotational import forecast, rules, theory
from rotational.walk import walk


@pytest.mark.parametrize("make", [rules.adamw, rules.nadamw, rules.adamax])
def test_without_memory_of_v_momentum_has_no_law(make):
    for ask in (theory.rate, theory.equilibrium):
        with pytest.raises(ValueError, match=r"(rate|equilibrium)\(.*infinite; take b2 > 0, or b1 = 0"):
            ask(make((0.9, 0.0), decay="decoupled"), 1e-3, 0.1)
    assert theory.rate(make((0.0, 0.0), decay="decoupled"), 1e-3, 0.1) > 0


def test_laprop_divides_before_it_remembers_and_has_one():
    assert theory.equilibrium(rules.laprop((0.9, 0.0)), 5e-3, 1.0, size=64).norm == pytest.approx(0.4, rel=0.03)


def test_a_radam_that_is_never_rectified_is_refused():
    with pytest.raises(ValueError, match=r"radam\(betas=\(0.9, 0.5\)\).*unrectified phase"):
        rules.radam((0.9, 0.5))


NOTES = [
    (rules.laprop((0.9, 0.7)), {"size": 64}, "second moment of few steps"),
    (rules.adamw((0.9, 0.7)), {"size": 64}, "second moment of few steps"),
    (rules.muon(), {"shape": (4, 64)}, "four rows or columns"),
    (rules.lion((0.9, 0.999)), {"size": 64}, "memory as long as the decay's"),
]


@pytest.mark.parametrize(("rule", "needs", "says"), NOTES)
def test_what_is_less_exact_is_said(rule, needs, says):
    run = {"lr": 5e-3, "weight_decay": 1.0, "steps": 300, "norm": 0.05}
    assert [note for note in forecast(rule, **run, **needs).notes if says in note]


@pytest.mark.parametrize(
    ("rule", "needs"),
    [
        (rules.laprop((0.9, 0.95)), {"size": 64}),
        (rules.adamw((0.9, 0.9)), {"size": 64}),
        (rules.muon(), {"shape": (6, 64)}),
        (rules.muon(ns_steps=None), {"shape": (4, 64)}),
        (rules.lion((0.9, 0.99)), {"size": 64}),
    ],
)
def test_and_of_others_not(rule, needs):
    run = {"lr": 3e-3, "weight_decay": 1.0, "steps": 300, "norm": 0.5}
    assert not forecast(rule, **run, **needs).notes


def test_laprop_s_norm_is_off_by_what_is_said():
    rule, run = rules.laprop((0.9, 0.7)), {"lr": 3e-3, "weight_decay": 0.3, "size": 64}
    norm = theory.equilibrium(rule, 3e-3, 0.3, size=64).norm
    f = forecast(rule, **run, steps=2500, norm=norm)
    trace = walk(rule, **run, steps=2500, norm=norm, neurons=128)
    assert np.sqrt(np.mean(trace.norm[1500:] ** 2)) / f.norm[-1] == pytest.approx(1.07, abs=0.015)
