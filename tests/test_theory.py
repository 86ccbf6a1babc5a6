"""Equilibrium against the paper's closed forms, exact covariances worked out by hand, and each other."""

import math

import numpy as np
import pytest

from rotational import rules, theory
from rotational.memory import Memory
from rotational.rule import Rule, from_dict
from rotational.scale import Polar, Raw, Rms
from rotational.theory import equilibrium, rate

SMALL = 1e-9  # lr*wd at which only the leading order is left

# The paper's table 1, and the Nesterov and Adam+L2 forms of the same order: rotation at small lr*wd.
CLOSED_FORMS = {
    "sgd": (rules.sgd(), lambda lr, wd: math.sqrt(2 * lr * wd)),
    "sgdm": (rules.sgd(momentum=0.9), lambda lr, wd: math.sqrt(2 * lr * wd / 1.9)),
    "dampened": (rules.sgd(momentum=0.9, dampening=0.4), lambda lr, wd: math.sqrt(2 * 0.6 * lr * wd / 1.9)),
    "nesterov": (
        rules.sgd(momentum=0.9, nesterov=True),
        lambda lr, wd: math.sqrt(2 * lr * wd * (1 + 2 * 0.9 * (1 - 0.81)) / 1.9),
    ),
    "sgdw": (rules.sgd(momentum=0.9, decay="decoupled"), lambda lr, wd: math.sqrt(2 * lr * wd * 0.1 / 1.9)),
    "adamw": (rules.adamw(), lambda lr, wd: math.sqrt(2 * lr * wd * 0.1 / 1.9)),
    "lion": (
        rules.lion(linearised=True),
        lambda lr, wd: math.sqrt(math.pi * lr * wd * ((1 - 0.9) ** 2 + 0.9**2 * (1 - 0.99) / (1 + 0.99))),
    ),
}

# The settings of the paper's experiments: rule, lr, weight decay, radians per step, 1/(lr wd), which is 1/D but for
# SGDM, whose memory multiplies the decay.
SETTINGS = {
    "ResNet-50": (rules.sgd(momentum=0.9), 0.1, 1e-4, 3.24e-3, 1e5),
    "GPT2-124M": (rules.adamw((0.9, 0.95)), 6e-4, 0.1, 2.51e-3, 1.67e4),
    "ResNet-20 AdamW": (rules.adamw(), 0.05, 0.01, 7.255e-3, 2000),
    "ResNet-20 AdamW b2048": (rules.adamw(), 0.16, 0.01, 1.30e-2, 625),
    "ResNet-20 AdamW b2048 few-shot": (rules.adamw(), 0.16, 0.08, 3.67e-2, 78.1),
    "ResNet-20 SGDM": (rules.sgd(momentum=0.9), 0.5, 1e-4, 7.255e-3, 2e4),
    "ResNet-20 SGDM b2048": (rules.sgd(momentum=0.9), 4.8, 1e-4, 2.25e-2, 2.08e3),
    "ResNet-20 Lion": (rules.lion(linearised=True), 5e-4, 1.0, 4.70e-3, 2000),
    "ResNet-20 Lion b2048": (rules.lion(linearised=True), 0.016, 1.0, 2.66e-2, 62.5),
    "DeiT-tiny": (rules.adamw(), 1e-3, 0.05, 2.29e-3, 2e4),
    "DeiT-tiny few-shot": (rules.adamw(), 1e-3, 0.2, 4.59e-3, 5e3),
    "IWSLT": (rules.adamw((0.9, 0.98)), 5e-4, 1e-4, 7.255e-5, 2e7),
    "IWSLT few-shot": (rules.adamw((0.9, 0.98)), 5e-4, 0.4, 4.59e-3, 5e3),
    "Wikitext GPT": (rules.adamw(), 5e-3, 0.5, 1.62e-2, 400),
    "OpenWebText GPT": (rules.adamw((0.9, 0.95)), 4.8e-3, 0.1, 7.11e-3, 2.08e3),
    "OpenWebText GPT, best": (rules.adamw((0.9, 0.95)), 9.6e-3, 0.1, 1.01e-2, 1.04e3),
    "ResNet-50 b8192": (rules.sgd(momentum=0.9), 3.2, 1e-4, 1.84e-2, 3.12e3),
    "ResNet-50 b8192, rotational": (rules.sgd(momentum=0.9), 6.4, 1e-4, 2.60e-2, 1.56e3),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_small_decay_is_the_papers_closed_form(name):
    rule, form = CLOSED_FORMS[name]
    lr = 0.01
    assert equilibrium(rule, lr, SMALL / lr).rotation == pytest.approx(form(lr, SMALL / lr), rel=1e-6)
    assert rate(rule, lr, 1e-3 / lr) == pytest.approx(form(lr, 1e-3 / lr), rel=1e-12)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_the_paper(name):
    rule, lr, wd, rotation, timescale = SETTINGS[name]
    state = equilibrium(rule, lr, wd)
    digits = 5e-3  # they are given to three digits, the last one rounded up or down
    assert state.rotation == pytest.approx(rotation, rel=digits)
    assert rate(rule, lr, wd) == pytest.approx(rotation, rel=digits)
    x, keeps = 1 / timescale, 0.1 if rule.decay == "coupled" else 1.0
    # D^2 - (1 - momentum + x) D + x = 0 for SGDM, the smaller root; x where decay is decoupled
    taken = x if keeps == 1 else 2 * x / (keeps + x + math.sqrt((keeps + x) ** 2 - 4 * x))
    assert state.timescale == pytest.approx(1 / taken, rel=5e-3)


def test_at_large_decay_the_closed_form_is_off_and_the_exact_form_is_not_it():
    # ResNet-20 AdamW few-shot, lr*wd = 0.0128: the paper's form gives 3.67e-2, the walk 3.68e-2.
    assert rate(rules.adamw(), 0.16, 0.08) == pytest.approx(3.671e-2, rel=1e-3)
    assert equilibrium(rules.adamw(), 0.16, 0.08).rotation == pytest.approx(3.682e-2, rel=1e-3)


# Exact closed forms at finite lr*wd, each worked out for one rule --------------------------------------------


def coupled_sgdm(lr, wd, a, dampening):
    e = lr * (1 - dampening)
    k = e * (1 + a) / ((1 - a) * wd * (2 * (1 + a) - e * wd))
    return k, e * wd / (1 + a)


def coupled_nesterov(lr, wd, a):
    x = lr * wd
    p1, p2, t0, t1 = (1 + a) * (1 - x), -a * (1 - x), 1 + a, -a
    k = lr**2 * ((t0**2 + t1**2) * (1 - p2) + 2 * p1 * t0 * t1) / ((1 + p2) * ((1 - p2) ** 2 - p1**2))
    return k, 1 - p1 / (1 - p2) - t0 * t1 * lr**2 / ((1 - p2) * k)


@pytest.mark.parametrize("x", [1e-6, 1e-3, 1e-2, 0.1])
@pytest.mark.parametrize("gradient_norm", [0.3, 7.0])
@pytest.mark.parametrize(
    ("rule", "form"),
    [
        (rules.sgd(), lambda lr, wd: coupled_sgdm(lr, wd, 0.0, 0.0)),
        (rules.sgd(momentum=0.9), lambda lr, wd: coupled_sgdm(lr, wd, 0.9, 0.0)),
        (rules.sgd(momentum=0.8, dampening=0.5), lambda lr, wd: coupled_sgdm(lr, wd, 0.8, 0.5)),
        (rules.sgd(momentum=0.9, nesterov=True), lambda lr, wd: coupled_nesterov(lr, wd, 0.9)),
    ],
)
def test_coupled_sgd_is_exact_at_any_decay(rule, form, x, gradient_norm):
    lr = 0.2
    k, one_minus_cos = form(lr, x / lr)
    rotation = 2 * math.asin(math.sqrt(one_minus_cos / 2))
    free = equilibrium(rule, lr, x / lr, gradient_norm=gradient_norm)
    assert free.rotation == pytest.approx(rotation, rel=1e-6)
    assert free.norm == pytest.approx(math.sqrt(math.sqrt(k) * gradient_norm), rel=1e-8)
    noise = equilibrium(rule, lr, x / lr, gradient_norm=gradient_norm, scale_invariant=False)
    assert noise.norm == pytest.approx(math.sqrt(k) * gradient_norm, rel=1e-8)


def test_adamw_norm_and_update():
    lr, wd, size = 1e-3, 1e-4, 512
    state = equilibrium(rules.adamw(), lr, wd, size=size)
    assert state.norm == pytest.approx(math.sqrt(lr * size / (2 * wd)), rel=1e-5)
    assert state.update == pytest.approx(lr * math.sqrt(size * 0.1 / 1.9), rel=1e-5)
    assert state.half_life == pytest.approx(math.log(2) / (2 * lr * wd))
    assert state.timescale == pytest.approx(1 / (lr * wd))


@pytest.mark.parametrize("gradient_norm", [0.01, 1.0, 100.0])
def test_adam_l2_depends_on_the_gradient_as_its_two_thirds_power(gradient_norm):
    lr, wd, size = 1e-4, 1e-5, 10_000
    state = equilibrium(rules.adam_l2(), lr, wd, size=size, gradient_norm=gradient_norm)
    assert state.norm == pytest.approx((lr * gradient_norm * math.sqrt(size) / (2 * wd)) ** (1 / 3), rel=2e-3)
    closed = math.sqrt(0.1 / 1.9) * (2 * lr**2 * wd * size / gradient_norm) ** (1 / 3)
    assert state.rotation == pytest.approx(closed, rel=2e-3)


def test_adam_l2_isotropic():
    lr, wd, size, sigma = 1e-4, 1e-4, 4096, 0.5
    state = equilibrium(
        rules.adam_l2(), lr, wd, size=size, gradient_norm=sigma * math.sqrt(size), scale_invariant=False
    )
    assert state.norm == pytest.approx(math.sqrt(lr * sigma * size / (2 * wd)), rel=2e-3)
    assert state.rotation == pytest.approx(math.sqrt(2 * lr * wd / sigma * 0.1 / 1.9), rel=2e-3)


# Limit identities ------------------------------------------------------------------------------------------


def same(a, b, rel=1e-9):
    fields = ("rotation", "norm", "update", "half_life", "timescale")
    return all(getattr(a, f) == pytest.approx(getattr(b, f), rel=rel) for f in fields)


def test_momentum_zero_is_plain_sgd():
    still = Rule(Memory(decay=0.0, inflow=1.0, new=1.0, old=0.0), Raw(), "coupled")
    given = {"size": 64, "gradient_norm": 2.0}
    assert same(equilibrium(rules.sgd(), 0.1, 0.01, **given), equilibrium(still, 0.1, 0.01, **given))


def test_rmsprop_is_adam_l2_without_memory():
    given = {"size": 64, "gradient_norm": 2.0}
    a = equilibrium(rules.rmsprop(alpha=0.999), 1e-3, 1e-3, **given)
    b = equilibrium(rules.adam_l2((0.0, 0.999)), 1e-3, 1e-3, **given)
    assert same(a, b)


def test_sign_of_white_noise_is_one_half_and_pi_of_its_linearisation():
    # Without memory signs do not correlate: rotation sqrt(2x), where the paper's form has sqrt(pi x).
    bare = (0.0, 0.0)
    assert equilibrium(rules.lion(bare), 1e-3, 1e-6).rotation == pytest.approx(math.sqrt(2e-9), rel=1e-6)
    assert rate(rules.lion(bare, linearised=True), 1e-3, 1e-6) == pytest.approx(math.sqrt(math.pi * 1e-9))


def test_decoupled_and_coupled_agree_without_memory_at_small_decay():
    given = {"gradient_norm": 1.0}
    coupled = equilibrium(rules.sgd(), 0.1, 1e-6, **given)
    decoupled = equilibrium(rules.sgd(decay="decoupled"), 0.1, 1e-6, **given)
    assert same(coupled, decoupled, rel=1e-6)


def test_exact_second_moment_is_the_limit_of_b2_to_one():
    noisy = Rule(rules.adamw().memory, Rms(beta=1 - 1e-9, kurtosis=3.0))
    assert same(equilibrium(rules.adamw(), 1e-2, 0.1, size=8), equilibrium(noisy, 1e-2, 0.1, size=8), rel=1e-6)


@pytest.mark.parametrize("rule", [rules.sgd(momentum=0.9), rules.adamw(), rules.lion()])
def test_tiny_decay_loses_no_digits(rule):
    a, b = (equilibrium(rule, lr, 1e-8).rotation for lr in (1e-6, 1e-4))
    assert b / a == pytest.approx(10, rel=1e-5)


def test_change_per_step_is_the_chord_of_the_rotation():
    for rule in (rules.sgd(momentum=0.9), rules.adamw(), rules.lion(), rules.adam_l2()):
        state = equilibrium(rule, 1e-2, 0.1, size=100_000, gradient_norm=1.0)
        assert state.update == pytest.approx(2 * state.norm * math.sin(state.rotation / 2), rel=1e-4)


# What is not known is None, what is wrong is a sentence ----------------------------------------------------


def test_what_needs_an_input_that_was_not_given_is_none():
    bare = equilibrium(rules.adamw(), 1e-3, 0.1)
    assert bare.norm is None
    assert bare.update is None
    assert bare.rotation is not None
    sgd = equilibrium(rules.sgd(), 0.1, 1e-4, size=10)
    assert sgd.norm is None
    assert sgd.half_life is not None
    adam = equilibrium(rules.adam_l2(), 1e-3, 0.1, size=10)
    assert (adam.rotation, adam.norm, adam.half_life, adam.timescale) == (None,) * 4


def test_no_decay_and_no_lr_are_the_limits():
    free = equilibrium(rules.adamw(), 1e-3, 0.0)
    assert (free.rotation, free.norm, free.half_life) == (0.0, math.inf, math.inf)
    still = equilibrium(rules.adamw(), 0.0, 0.1)
    assert (still.rotation, still.norm, still.update) == (0.0, None, 0.0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"lr": -1.0, "weight_decay": 0.1}, "lr >= 0"),
        ({"lr": math.nan, "weight_decay": 0.1}, "finite"),
        ({"lr": "0.1", "weight_decay": 0.1}, "expected a number"),
        ({"lr": 1.0, "weight_decay": 1.0}, "below 1"),
        ({"lr": 1.0, "weight_decay": 0.1, "size": 0}, "size"),
        ({"lr": 1.0, "weight_decay": 0.1, "gradient_norm": 0.0}, "gradient_norm > 0"),
    ],
)
def test_wrong_numbers_are_a_sentence(arguments, says):
    with pytest.raises((ValueError, TypeError), match=says):
        equilibrium(rules.adamw(), **arguments)


def test_rules_without_a_law_are_refused():
    with pytest.raises(ValueError, match="no law"):
        equilibrium(Rule(rules.muon().memory, Polar(), "coupled", "muon_l2"), 1e-3, 0.1)
    with pytest.raises(ValueError, match=r"equilibrium\(adamax\): with a b2 of 0"):
        equilibrium(rules.adamax((0.9, 0.0)), 1e-3, 0.1, size=64, gradient_norm=1.0)
    assert equilibrium(rules.adamax((0.0, 0.0)), 1e-3, 0.1, size=64, gradient_norm=1.0).norm > 0  # the sign of g
    with pytest.raises(ValueError, match="Pass rotation="):
        rate(rules.adam_l2(), 1e-3, 0.1)


def test_rules_survive_as_plain_data():
    for rule in [r for r, _ in CLOSED_FORMS.values()] + [rules.rmsprop(momentum=0.5, centered=True)]:
        assert from_dict(rule.as_dict()) == rule


def test_autocovariance_is_that_of_the_filter():
    rng = np.random.default_rng(0)
    g = rng.standard_normal(400_000)
    for rule in (rules.adamw(), rules.lion(), rules.sgd(momentum=0.9, nesterov=True), rules.nadamw()):
        f, m, c = rule.memory, 0.0, np.empty_like(g)
        for t, value in enumerate(g):
            c[t] = f.new * value + f.old * m
            m = f.decay * m + f.inflow * value
        r0, r1 = f.autocovariance()
        assert np.mean(c**2) == pytest.approx(r0, rel=0.03)
        assert np.mean(c[1:] * c[:-1]) == pytest.approx(r1, rel=0.04)
    assert theory.rate(rules.adamw(), 1e-3, 0.1) > 0
