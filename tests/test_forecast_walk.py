"""The simulator as witness of forecasts: every rule, three schedules, from norms far too small and far too large."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from rotational import equilibrium, forecast, rules, walk
from rotational.rule import Rule
from rotational.scale import Polar, Raw, Sign

RULES = {
    "sgd": rules.sgd(),
    "sgdm": rules.sgd(0.9),
    "dampened": rules.sgd(0.9, dampening=0.5),
    "nesterov": rules.sgd(0.9, nesterov=True),
    "sgdw": rules.sgd(0.9, decay="decoupled"),
    "adamw": rules.adamw(kurtosis=3.0),
    "adamw b2 .95": rules.adamw((0.9, 0.95), kurtosis=3.0),
    "adamw independent": rules.adamw(kurtosis=3.0, decay="independent"),
    "adamw adamc": rules.adamw(kurtosis=3.0, decay="adamc"),
    "adamw cautious": rules.adamw(kurtosis=3.0, decay="cautious"),
    "nadamw": rules.nadamw(kurtosis=3.0),
    "nadamw ramp": rules.nadamw(momentum_decay=4e-3, kurtosis=3.0),
    "laprop": rules.laprop(kurtosis=3.0),
    "radam": rules.radam(decay="decoupled"),
    "adam+l2": rules.adam_l2(),
    "rmsprop": rules.rmsprop(),
    "rmsprop centered": rules.rmsprop(momentum=0.9, centered=True),
    "adamax": rules.adamax(decay="decoupled"),
    "lion": rules.lion(),
    "lion cautious": rules.lion(decay="cautious"),
    "signum": rules.signum(),
    "signum coupled": rules.signum(decay="coupled"),
    "muon": rules.muon(),
}
EARLY, LATE, SIGNS = 0.05, 0.02, 0.03

# What does not reach these: (rule, x, initial norm over equilibrium, schedule) -> (early, late), a little above what
# was measured; None where the deviation is so large that no number is promised. docs/theory.md says why.
FLAT = "constant or steps"
WEAK: dict[tuple[str, float, float, str], tuple[float | None, float | None]] = {
    ("adamw cautious", 1e-2, 10.0, FLAT): (EARLY, 0.035),
    ("adamw cautious", 1e-2, 10.0, "cosine"): (EARLY, 0.03),
    ("adam+l2", 1e-2, 0.1, FLAT): (EARLY, 0.035),
    ("adam+l2", 1e-2, 10.0, FLAT): (0.055, 0.16),
    ("adam+l2", 1e-2, 10.0, "cosine"): (0.055, 0.16),
    ("adam+l2", 1e-3, 10.0, FLAT): (0.15, 0.055),
    ("adam+l2", 1e-3, 10.0, "cosine"): (0.15, 0.06),
    ("rmsprop", 1e-2, 0.1, FLAT): (None, 0.07),
    ("rmsprop", 1e-2, 10.0, FLAT): (0.11, LATE),
    ("rmsprop", 1e-2, 10.0, "cosine"): (0.055, 0.105),
    ("rmsprop", 1e-3, 0.1, FLAT): (0.40, LATE),
    ("rmsprop", 1e-3, 10.0, FLAT): (0.15, 0.022),
    ("rmsprop", 1e-3, 10.0, "cosine"): (0.15, 0.025),
    ("rmsprop centered", 1e-2, 0.1, FLAT): (0.14, 0.055),
    ("rmsprop centered", 1e-2, 10.0, FLAT): (0.11, LATE),
    ("rmsprop centered", 1e-2, 10.0, "cosine"): (EARLY, 0.06),
    ("rmsprop centered", 1e-3, 10.0, FLAT): (0.15, LATE),
    ("rmsprop centered", 1e-3, 10.0, "cosine"): (0.15, LATE),
    ("adamax", 1e-2, 0.1, FLAT): (None, LATE),
    ("adamax", 1e-3, 0.1, FLAT): (0.30, 0.025),
    ("lion cautious", 1e-2, 0.1, FLAT): (0.06, 0.13),
    ("lion cautious", 1e-2, 10.0, FLAT): (EARLY, 0.06),
    ("lion cautious", 1e-2, 0.1, "cosine"): (0.06, 0.15),
    ("lion cautious", 1e-2, 10.0, "cosine"): (EARLY, 0.04),
    ("signum coupled", 1e-2, 10.0, FLAT): (EARLY, None),
    ("signum coupled", 1e-2, 10.0, "cosine"): (EARLY, 0.055),
    ("signum coupled", 1e-3, 10.0, FLAT): (0.065, 0.20),
    ("signum coupled", 1e-3, 10.0, "cosine"): (0.065, 0.21),
}


def allowed(name: str, x: float, factor: float, kind: str) -> tuple[float, float]:
    """What the first 100 steps may be off by, and the others."""
    late = SIGNS if isinstance(RULES[name].scale, Sign | Polar) else LATE
    found = WEAK.get((name, x, factor, kind if kind == "cosine" else FLAT), (EARLY, late))
    early, late = (math.inf if limit is None else limit for limit in found)
    return early, late


def needs(rule: Rule, size: int) -> dict:
    """What a rule needs beside lr and weight decay."""
    return {"shape": (32, size)} if isinstance(rule.scale, Polar) else {"size": size, "gradient_norm": 1.0}


def hyper(name: str, x: float, size: int) -> tuple[float, float]:
    """lr and weight decay of the product x; where the gradient divides the decay, of the share taken at rest."""
    rule = RULES[name]
    if rule.decay != "coupled" or isinstance(rule.scale, Raw):
        lr = 1e-3 if isinstance(rule.scale, Sign | Polar) else 0.1
        return lr, x if rule.decay == "independent" else x / lr
    lr, low, high = 1e-3, 1e-6, 1e6
    for _ in range(40):
        middle = math.sqrt(low * high)
        try:
            taken = math.log(2) / 3 / equilibrium(rule, lr, middle, **needs(rule, size)).half_life
        except ValueError:
            taken = 1.0
        low, high = (middle, high) if taken < x else (low, middle)
    return lr, low


def schedule(kind: str, lr: float, steps: int) -> np.ndarray:
    t = np.arange(steps)
    if kind == "cosine":
        return lr * np.minimum(1, (t + 1) / (0.1 * steps)) * (0.5 + 0.5 * np.cos(np.pi * t / steps))
    if kind == "steps":
        return lr * np.where(t < 0.4 * steps, 1.0, np.where(t < 0.7 * steps, 0.1, 0.5))
    return np.full(steps, lr)


def deviations(
    name: str, x: float, size: int, kind: str, factor: float, weights: int, wrong: float = 1.0
) -> np.ndarray:
    """Simulation over forecast, less 1: (rotation, norm) in each window. `wrong` multiplies the decay told."""
    rule, (lr, weight_decay) = RULES[name], hyper(name, x, size)
    start = factor * equilibrium(rule, lr, weight_decay, **needs(rule, size)).norm
    steps = int(max(600, 3 / x))
    lrs = schedule(kind, lr, steps)
    f = forecast(rule, lr=lrs, weight_decay=wrong * weight_decay, steps=steps, norm=start, **needs(rule, size))
    count = 32 if isinstance(rule.scale, Polar) else weights // size
    repeats = min(8, max(1, weights // (size * count)))
    rotation, norm = np.zeros(steps), np.zeros(steps)
    for seed in range(repeats):
        given = {"lr": lrs, "weight_decay": weight_decay, "size": size, "steps": steps, "neurons": count, "norm": start}
        trace = walk(rule, **given, seed=seed)
        rotation += np.mean(trace.rotation**2, axis=1) / repeats
        norm += np.mean(trace.norm**2, axis=1) / repeats
    edges = [0, 1, 2, 4, 8, 16, 32, 64, 100, *np.linspace(100, steps, 13).astype(int)[1:]]
    windows = list(itertools.pairwise(edges))
    found = np.zeros((2, len(windows)))
    for row, (said, measured) in zip(found, ((f.rotation, rotation), (f.norm, norm)), strict=True):
        for i, (a, b) in enumerate(windows):
            expected, got = np.sum(said[a:b] ** 2), np.sum(measured[a:b])
            # RAdam's first five steps only shrink: both angles are zero, to rounding
            row[i] = math.sqrt(got / expected) - 1 if expected > 1e-12 else math.sqrt(got)
    return found


def meet(name: str, x: float, size: int, kind: str, factor: float, weights: int) -> None:
    off = np.abs(deviations(name, x, size, kind, factor, weights))
    early, late = allowed(name, x, factor, kind)
    assert off[:, :8].max() < early, "in the first 100 steps"
    assert off[:, 8:].max() < late, "after the first 100 steps"


# Each rule twice in the default run, at the smallest size that tells 2% from nothing; the whole product is slow.
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("kind", "factor"), [("steps", 0.1), ("steps", 10.0)])
def test_a_forecast_meets_the_walk(name, kind, factor):
    meet(name, 1e-2, 32, kind, factor, 16384)


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kind", ["constant", "cosine", "steps"])
@pytest.mark.parametrize("factor", [0.1, 10.0])
@pytest.mark.parametrize("x", [1e-2, 1e-3])
@pytest.mark.parametrize("size", [32, 128])
def test_a_forecast_meets_long_walks(name, kind, factor, x, size):
    meet(name, x, size, kind, factor, 24576)


def test_the_comparison_can_fail():
    assert np.abs(deviations("adamw", 1e-2, 32, "constant", 1.0, 8192, wrong=1.1)[:, -1]).min() > 0.03
