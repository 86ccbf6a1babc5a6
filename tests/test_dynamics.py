"""The moments that a forecast follows, against the simulator, the equilibrium, and each other."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import rotational
from rotational import forecast, rules, walk
from rotational.dynamics import path
from rotational.dynamics.setting import Setting, half_normal

RULES = {
    "sgd": rules.sgd(),
    "sgdm": rules.sgd(0.9),
    "dampened": rules.sgd(0.9, dampening=0.5),
    "nesterov": rules.sgd(0.9, nesterov=True),
    "sgdw": rules.sgd(0.9, decay="decoupled"),
    "adamw": rules.adamw(kurtosis=3.0),
    "adamw .95": rules.adamw((0.9, 0.95), kurtosis=3.0),
    "adamw independent": rules.adamw(kurtosis=3.0, decay="independent"),
    "adamw adamc": rules.adamw(kurtosis=3.0, decay="adamc"),
    "adamw cautious": rules.adamw(kurtosis=3.0, decay="cautious"),
    "nadamw": rules.nadamw(kurtosis=3.0),
    "nadamw ramp": rules.nadamw(momentum_decay=4e-3, kurtosis=3.0),
    "laprop": rules.laprop(kurtosis=3.0),
    "radam": rules.radam(decay="decoupled"),
    "adam+l2": rules.adam_l2(),
    "rmsprop": rules.rmsprop(),
    "adamax": rules.adamax(decay="decoupled"),
    "lion": rules.lion(),
    "signum": rules.signum(),
    "muon": rules.muon(),
}
MORE = {
    "rmsprop centered": rules.rmsprop(momentum=0.9, centered=True),
    "signum coupled": rules.signum(decay="coupled"),
}
SIGNS = ("lion", "signum", "muon")


def shaped(rule, size=64):
    """What a rule needs beside lr and weight decay."""
    return {"shape": (32, size)} if rule.name == "muon" else {"size": size, "gradient_norm": 1.0}


def hyper(name, x):
    """lr and weight decay of the product (of the decay itself where lr does not multiply it)."""
    lr = 1e-3 if name in ("adam+l2", "rmsprop", *MORE, *SIGNS) else 0.1
    return lr, x if name == "adamw independent" else x / lr


# Limits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("x", [1e-3, 1e-2])
def test_the_limit_is_the_equilibrium(name, x):
    rule, (lr, wd) = RULES[name], hyper(name, x)
    state = rotational.equilibrium(rule, lr, wd, **shaped(rule))
    steps = 60_000 if "ramp" in name else int(12 / x) + 15_000
    f = forecast(rule, lr=lr, weight_decay=wd, steps=steps, norm=2 * state.norm, every=steps, **shaped(rule))
    assert f.rotation[-1] == pytest.approx(state.rotation, rel=3e-3)
    assert f.norm[-1] == pytest.approx(state.norm, rel=3e-3)
    assert f.static[-1] == pytest.approx(state.rotation, rel=1e-9)


def test_no_decay_is_the_random_walk():
    # |w|^2 grows by lr^2 C tau r_0 = lr^2 C a step once the memory is full
    f = forecast(rules.adamw(), lr=1e-3, weight_decay=0.0, steps=5000, norm=30.0, size=100, kurtosis=None)
    grown = (f.norm[-1] ** 2 - f.norm[2999] ** 2) / 2000
    assert grown == pytest.approx(1e-6 * 100, rel=1e-3)
    assert np.all(f.static == 0)
    assert f.arrives is None


@pytest.mark.parametrize("name", ["sgd", "sgdm", "adam+l2", "adamw", "lion"])
def test_without_decay_there_is_no_equilibrium_to_compare_with(name):
    f = forecast(RULES[name], lr=0.01, weight_decay=0.0, steps=7000, norm=3.0, size=64, gradient_norm=1.0, every=500)
    assert np.all(f.static == 0)
    assert np.all(np.isinf(f.static_norm))
    assert np.all(np.diff(f.norm) > 0)
    assert "Without weight decay" in str(f)


def test_under_adamc_the_norm_does_not_see_the_schedule():
    steps = 8000
    lr = 0.02 * (0.5 + 0.5 * np.cos(np.pi * np.arange(steps) / steps))
    rule = rules.adamw(decay="adamc", kurtosis=3.0)
    state = rotational.equilibrium(rule, 0.02, 0.1, size=128)
    f = forecast(rule, lr=lr, weight_decay=0.1, steps=steps, norm=state.norm, size=128)
    assert np.ptp(f.norm) < 0.02 * state.norm
    late = (f.step > 200) & (f.step < 0.97 * steps)
    assert np.abs(f.ratio[late] - 1).max() < 0.015


@pytest.mark.parametrize(
    "name", ["adamw", "sgdm", "lion", "adam+l2", "adamw cautious", "nadamw ramp", "muon", "rmsprop"]
)
def test_blocks_of_steps_are_the_steps(name, monkeypatch):
    rule, steps = RULES[name], 30_000
    t = np.arange(steps)
    lr = 5e-3 * np.minimum(1, (t + 1) / 500) * (0.5 + 0.5 * np.cos(np.pi * t / steps))
    given = {"lr": lr, "weight_decay": 0.2, "steps": steps, "norm": 2.0, "every": 100, **shaped(rule)}
    coarse = forecast(rule, **given)
    monkeypatch.setattr(path, "SHORT", steps)
    fine = forecast(rule, **given)
    assert np.abs(coarse.norm / fine.norm - 1).max() < 8e-3
    turning = fine.rotation > 1e-3 * fine.rotation.max()
    assert np.abs(coarse.rotation / fine.rotation - 1)[turning].max() < 8e-3


STEPS = 7500
COURSES = {
    "five times up": np.where(np.arange(STEPS) < 5500, 0.2, 1.0),
    "five times down": np.where(np.arange(STEPS) < 5500, 1.0, 0.2),
    "cosine": np.minimum(1, (np.arange(STEPS) + 1) / 750) * (0.5 + 0.5 * np.cos(np.pi * np.arange(STEPS) / STEPS)),
}
LONG = ("adamw .95", "nadamw", "nadamw ramp", "laprop", "radam", "adamax", "adamw adamc", "adamw cautious")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in (*RULES, *MORE)]
)
@pytest.mark.parametrize("course", COURSES)
def test_blocks_are_the_steps_through_jumps_of_lr(name, course, monkeypatch):
    # What past updates left in the weights was of another size: blocks alone would be off by 10 to 60% after a jump.
    rule, (lr, wd) = (RULES | MORE)[name], hyper(name, 2e-3)
    start = 2 * rotational.equilibrium(rule, lr, wd, **shaped(rule)).norm
    given = {"lr": lr * COURSES[course], "weight_decay": wd, "steps": STEPS, "norm": start, **shaped(rule)}
    coarse = forecast(rule, **given)
    monkeypatch.setattr(path, "SHORT", STEPS)
    fine = forecast(rule, **given)
    turning = fine.rotation > 1e-3 * fine.rotation.max()
    assert np.abs(coarse.norm / fine.norm - 1).max() < 0.02
    assert np.abs(coarse.rotation[turning] / fine.rotation[turning] - 1).max() < 0.02


def test_adamax_goes_on_after_a_jump_of_a_long_run():
    """With nothing in the memory yet when single steps are resumed; one neuron as plain numbers, several as arrays."""
    lr = 1e-3 * np.where(np.arange(12_000) < 8000, 1.0, 0.5)
    told = {"lr": lr, "weight_decay": 0.1, "steps": 12_000, "every": 500}
    one = forecast(rules.adamax(decay="decoupled"), norm=0.3, size=64, **told)
    three = forecast(rules.adamax(decay="decoupled"), norm=[0.3, 0.1, 1.0], size=64, **told)
    assert np.isfinite(three.norm).all()
    np.testing.assert_allclose(three.norm[:, 0], one.norm, rtol=5e-3)  # blocks are finer together


def test_long_blocks_do_not_leap_about_the_rest(monkeypatch):
    """With a power of |w| that is not linear under a sign with L2, 400 blocks were cut short to come back to it."""
    count, blocks, t = [0], path.blocks, np.arange(300_000)

    def counted(*told):
        for state in blocks(*told):
            count[0] += 1
            yield state

    monkeypatch.setattr(path, "blocks", counted)
    lr = 1e-3 * (0.55 + 0.45 * np.cos(np.pi * t / len(t)))
    given = {"size": 3072, "gradient_norm": 0.13, "norm": 1.0, "every": 1000}
    forecast(rules.signum(decay="coupled"), lr=lr, weight_decay=0.1, steps=len(t), **given)
    assert 50 < count[0] < 150


def test_many_jumps_are_followed_for_so_many_steps_in_all():
    setting = Setting(rules.adamw(), size=np.ones(1), gradient=np.ones(1))
    stairs = 0.95 ** (np.arange(400_000) // 1000)
    found = path.stretches(setting, path.Told(setting, stairs, 1e-4, np.ones(1), len(stairs)))
    assert found[0][0] == 0
    assert sum(b - a for a, b in found[1:]) <= path.SHORT
    assert all(a % 1000 == 0 and b - a <= 81 for a, b in found[1:])


def test_neurons_side_by_side_are_neurons_alone():
    norms, sizes = np.array([0.1, 1.0, 7.0]), np.array([32, 64, 512])
    given = {"lr": 1e-2, "weight_decay": 0.1, "steps": 7000, "every": 50}
    for rule in (rules.adamw(), rules.adam_l2(), rules.lion(), rules.adamax()):
        together = forecast(rule, norm=norms, size=sizes, gradient_norm=np.ones(3), **given)
        assert together.rotation.shape == (140, 3)
        for i in range(3):
            alone = forecast(rule, norm=norms[i], size=sizes[i], gradient_norm=1.0, **given)
            # blocks of steps are as short as the one of them that changes fastest wants them
            assert np.abs(together.norm[:, i] / alone.norm - 1).max() < 5e-3
            assert np.abs(together.rotation[:, i] / alone.rotation - 1).max() < 5e-3


def test_each_neuron_may_have_a_weight_decay_of_its_own():
    rule, steps, decays = RULES["adamw"], 7000, np.array([1.0, 3.0])
    lr = 1e-2 * (0.5 + 0.5 * np.cos(np.pi * np.arange(steps) / steps))
    setting = Setting(rule, size=np.full(2, 64.0), known=True, gradient=np.ones(2))
    together = path.follow(setting, path.Told(setting, lr, 0.1, np.ones(2), steps, decays), np.ones(2), 100)
    for i, decay in enumerate(0.1 * decays):
        alone = forecast(rule, lr=lr, weight_decay=decay, steps=steps, norm=1.0, size=64, every=100)
        np.testing.assert_allclose(np.sqrt(together.square[:, i]), alone.norm, rtol=2e-3)
        np.testing.assert_allclose(together.rotation[:, i], alone.rotation, rtol=2e-3)
        np.testing.assert_allclose(together.static[:, i], alone.static, rtol=1e-9)
        assert np.all(together.decay[:, i] == decay)


# The simulator as witness ---------------------------------------------------------------------------------------


def schedule(kind, lr, steps):
    t = np.arange(steps)
    if kind == "cosine":
        ramp = np.minimum(1, (t + 1) / (0.1 * steps))
        return lr * ramp * (0.5 + 0.5 * np.cos(np.pi * np.clip((t / steps - 0.1) / 0.9, 0, 1)))
    if kind == "steps":
        return lr * np.where(t < 0.4 * steps, 1.0, np.where(t < 0.7 * steps, 0.1, 0.5))
    return np.full(steps, lr)


def deviations(name, x, size, kind, factor, neurons, series=("rotation", "norm")):
    """(early, late) worst deviations of rotation and norm over windows, forecast over simulation."""
    rule, (lr, wd) = RULES[name], hyper(name, x)
    given = shaped(rule, size)
    start = factor * rotational.equilibrium(rule, lr, wd, **given).norm
    steps = int(max(600, 3 / x))
    lrs = schedule(kind, lr, steps)
    f = forecast(rule, lr=lrs, weight_decay=wd, steps=steps, norm=start, **given)
    count = given["shape"][0] if "shape" in given else neurons
    rotation = norm = 0.0
    repeats = max(1, neurons // count)
    for seed in range(repeats):
        trace = walk(rule, lr=lrs, weight_decay=wd, size=size, steps=steps, neurons=count, norm=start, seed=seed)
        rotation = rotation + np.mean(trace.rotation**2, axis=1) / repeats
        norm = norm + np.mean(trace.norm**2, axis=1) / repeats
    edges = [0, 1, 2, 4, 8, 16, 32, 64, 100, *np.linspace(100, steps, 13).astype(int)[1:]]
    pairs = {"rotation": (f.rotation, rotation), "norm": (f.norm, norm)}
    off = np.array(
        [
            max(abs(math.sqrt(np.sum(x[a:b] ** 2) / np.sum(y[a:b])) - 1) for x, y in (pairs[k] for k in series))
            for a, b in itertools.pairwise(edges)
        ]
    )
    return max(off[:8]), max(off[8:])


# What docs/theory.md lists as outside its range. From a norm ten times too small without a warm-up, Adamax's early
# maxima are of other gradients than its late ones; RMSprop's first steps, not corrected for bias by torch, are ten
# times too long; Adam's decay outweighs the gradient from ten times too large.
OUTSIDE = {("adamax", 0.1), ("rmsprop", 0.1), ("rmsprop", 10.0), ("adam+l2", 10.0)}


@pytest.mark.parametrize(
    "name", [n for n in RULES if n not in ("adamw independent", "radam", "nadamw ramp", "rmsprop")]
)
@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_a_forecast_meets_the_walk(name, factor):
    # Where decay outweighs the gradient the rotation is what is left between two large numbers (docs/theory.md).
    series = ("norm",) if (name, factor) == ("adam+l2", 10.0) else ("rotation", "norm")
    early, late = deviations(name, 1e-2, 32, "cosine", factor, 512, series)
    assert early < 0.05
    assert late < (0.03 if name in (*SIGNS, "adamw cautious", "adam+l2") else 0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in RULES if n not in ("radam",)])
@pytest.mark.parametrize("factor", [0.1, 10.0])
@pytest.mark.parametrize("kind", ["constant", "steps"])
@pytest.mark.parametrize(("x", "size"), [(1e-2, 32), (1e-2, 128), (1e-3, 64)])
def test_a_forecast_meets_long_walks(name, factor, kind, x, size):
    if (name, factor) in OUTSIDE:
        pytest.skip("outside the range that docs/theory.md gives")
    early, late = deviations(name, x, size, kind, factor, neurons=1024)
    # NAdamW's first steps, and Lion is 3.2% off from ten times too large at C = 32
    assert early < (0.075 if size == 32 else 0.06)
    assert late < (0.035 if name in (*SIGNS, "adam+l2", "adamw cautious") else 0.022)


def test_the_comparison_can_fail():
    rule = rules.adamw()
    f = forecast(rule, lr=0.1, weight_decay=0.1, steps=600, norm=0.3, size=32)
    t = walk(rule, lr=0.1, weight_decay=0.05, size=32, steps=600, neurons=256, norm=0.3)
    assert abs(f.norm[-1] / t.rms("norm", after=590) - 1) > 0.1


# Where the random walk is stretched -------------------------------------------------------------------------------


def test_extra_decay_targets_and_means_are_simulated_too():
    given = {"lr": 0.1, "weight_decay": 0.1, "steps": 600, "size": 64}
    cases = [
        (rules.adamw(), {"radial": 0.1, "scale_invariant": False}, 0.02),
        (rules.adamw(), {"radial": -0.05, "scale_invariant": False}, 0.02),
        (rules.adamw(), {"target_norm": 2.0}, 0.02),
        (rules.sgd(0.9), {"drift": 0.3}, 0.02),
        (rules.adamw(), {"drift": 0.3, "scale_invariant": False}, 0.03),
    ]
    for rule, extra, tolerance in cases:
        f = forecast(rule, norm=1.0, gradient_norm=1.0, **given, **extra)
        t = walk(rule, norm=1.0, gradient_norm=1.0, neurons=512, **given, **extra)
        for series, measured in ((f.norm, t.norm), (f.rotation, t.rotation)):
            ratio = np.sqrt(np.mean(series[300:] ** 2) / np.mean(measured[300:] ** 2))
            assert ratio == pytest.approx(1, abs=tolerance), (rule.name, extra)


def test_decay_that_outweighs_the_gradient_is_followed_and_said():
    rule, given = rules.adam_l2(), {"lr": 1e-3, "weight_decay": 10.0, "steps": 600, "size": 128}
    f = forecast(rule, norm=0.6, gradient_norm=1.0, **given)
    t = walk(rule, norm=0.6, gradient_norm=1.0, neurons=256, **given)
    assert np.abs(f.norm / np.sqrt(np.mean(t.norm**2, axis=1)) - 1).max() < 0.01
    assert any("outweighs the gradient" in note for note in f.notes)


def test_quadrature_is_that_of_a_half_normal():
    z, weights = half_normal(8)
    for power, moment in ((0, 1), (1, math.sqrt(2 / math.pi)), (2, 1), (3, 2 * math.sqrt(2 / math.pi)), (6, 15)):
        assert float(weights @ z**power) == pytest.approx(moment, rel=1e-9)
