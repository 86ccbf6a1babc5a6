"""Where forecasts come to an edge: an lr of 0, rows beside each other, numbers out of range, neurons of one weight."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import rotational
from rotational import at_batch_sizes, forecast, rules
from rotational.dynamics import path
from rotational.dynamics.coarse import Slow, law_at
from rotational.dynamics.setting import Push, Setting
from rotational.dynamics.settled import rest
from rotational.dynamics.told import Told
from rotational.scale import Polar, Raw, Sign
from rotational.weights import turns

FAST = (0.9, 0.99)
RULES = {
    "sgd": rules.sgd(),
    "sgdm": rules.sgd(0.9),
    "nesterov": rules.sgd(0.9, nesterov=True),
    "sgdw": rules.sgd(0.9, decay="decoupled"),
    "adamw": rules.adamw(FAST),
    "adamw adamc": rules.adamw(FAST, decay="adamc"),
    "adamw cautious": rules.adamw(FAST, decay="cautious"),
    "nadamw": rules.nadamw(FAST),
    "laprop": rules.laprop(FAST),
    "lion": rules.lion(),
    "signum coupled": rules.signum(decay="coupled"),
    "adam+l2": rules.adam_l2(FAST),
    "nadam+l2": rules.nadam_l2(FAST),
    "rmsprop": rules.rmsprop(),
    "rmsprop centered": rules.rmsprop(momentum=0.9, centered=True),
    "radam": rules.radam(FAST),
    "adamax": rules.adamax(FAST),
    "muon": rules.muon(),
}
STEPS = 8000


def run(rule, course, **given):
    """A run long enough to go on in blocks: 8000 steps at `course` times an lr that is usual for the rule."""
    lr, decay = (0.1, 1e-2) if isinstance(rule.scale, Raw) else (1e-3, 0.3)
    if not isinstance(rule.scale, Raw | Sign | Polar) and rule.decay != "coupled":
        lr = 3e-3
    needs = {"shape": (32, 64)} if isinstance(rule.scale, Polar) else {"size": 64, "gradient_norm": 1.0}
    return forecast(
        rule, **({"lr": lambda t: lr * course(t), "weight_decay": decay, "steps": STEPS, "norm": 0.5} | needs | given)
    )


def single(monkeypatch, rule, course, **given):
    """The same run, every step of it followed."""
    with monkeypatch.context() as patch:
        patch.setattr(path, "SHORT", 10 * STEPS)
        return run(rule, course, **given)


# An lr of 0 -----------------------------------------------------------------------------------------------------

PAUSES = {
    "at the start": lambda t: float(t >= 6500),
    "in the middle": lambda t: float(not 2000 <= t < 6500),
    "at the end": lambda t: float(t < 6000),
    "throughout": lambda t: 0.0,
}


@pytest.mark.parametrize("when", PAUSES)
@pytest.mark.parametrize("name", RULES)
def test_blocks_without_lr_say_what_single_steps_say(name, when, monkeypatch):
    found = run(RULES[name], PAUSES[when], every=25)
    every = single(monkeypatch, RULES[name], PAUSES[when], every=25)
    # SGD, without a memory, is followed in blocks from its 200th step, in which its norm still changes fast
    within = 0.02 if name == "sgd" else 0.012
    np.testing.assert_allclose(found.norm, every.norm, rtol=within)
    np.testing.assert_allclose(found.rotation, every.rotation, rtol=within)
    still = found.lr == 0
    assert still.any()
    assert np.all(found.rotation[still] == 0)
    assert np.all(found.update[still] == 0)


def test_a_jump_is_followed_where_the_norm_settles_slowly(monkeypatch):
    """Lion forgets in a hundred steps, of which this decay takes 3%: the norm settles in more than are followed."""

    def rises(t):
        return float(t >= 6500)

    found = run(rules.lion(), rises, every=25)
    every = single(monkeypatch, rules.lion(), rises, every=25)
    np.testing.assert_allclose(found.norm, every.norm, rtol=1e-4)  # 38% where the jump is not followed


# A falling or rising lr under a coupled decay ---------------------------------------------------------------------


@pytest.mark.parametrize("scale_invariant", [True, False])
@pytest.mark.parametrize("momentum", [0.9, 0.99])
@pytest.mark.parametrize("nesterov", [False, True])
def test_updates_of_an_earlier_lr_are_remembered_under_l2(momentum, nesterov, scale_invariant, monkeypatch):
    def falls(t):
        return math.exp(-6 * t / STEPS)

    given = {
        "lr": lambda t: (1 - momentum) * falls(t),
        "weight_decay": 5e-3,
        "norm": 0.5 if scale_invariant else 3.0,
        "scale_invariant": scale_invariant,
        "every": 25,
    }
    rule = rules.sgd(momentum, nesterov=nesterov)
    found, every = run(rule, falls, **given), single(monkeypatch, rule, falls, **given)
    late = slice(60, None)
    np.testing.assert_allclose(found.norm[late], every.norm[late], rtol=2e-3)
    np.testing.assert_allclose(found.rotation[late], every.rotation[late], rtol=8e-3)


# Rows beside each other -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adamw", "sgdw", "nadamw", "laprop", "lion", "sgdm", "adam+l2", "adamax"])
def test_a_law_reads_each_row_as_if_it_stood_alone(name):
    setting = Setting(RULES[name], size=np.full(4, 64.0), known=True, gradient=np.ones(4), merged=True)
    push = Push(np.full(4, 1e-3), np.full(4, 1e-4) * (not setting.coupled), np.full(4, 0.1) * setting.coupled)
    at_rest, _ = rest(setting, push)
    square = at_rest * np.array([1.0, 1 + 1e-4, 0.05, 30.0])  # at rest, nearly so, and on the way
    second = setting.power(square) * np.array([1.0, 1.0, 1.3, 0.7])
    together = law_at(setting, Slow(900, square, second, 0.0 * square), push, 901)
    for i in range(4):
        alone = Setting(RULES[name], size=np.full(1, 64.0), known=True, gradient=np.ones(1), merged=True)
        one = law_at(
            alone,
            Slow(900, square[i : i + 1], second[i : i + 1], np.zeros(1)),
            Push(*(np.asarray(x)[i : i + 1] for x in push[:3])),
            901,
        )
        for what in ("gain", "loss", "noise", "pull", "delta"):
            row = np.broadcast_to(getattr(together, what), square.shape)[i]
            np.testing.assert_allclose(row, np.ravel(getattr(one, what))[0], rtol=1e-13, err_msg=what)


# Numbers out of range -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [50, 7000])
@pytest.mark.parametrize(
    ("norm", "gradient"), [(1e-200, 1.0), (1e200, 1.0), (1.0, 1e-200), (1.0, 1e200), (1e-300, 1e300)]
)
@pytest.mark.parametrize("name", ["sgdm", "adamw", "adam+l2", "adamax", "lion"])
def test_numbers_out_of_range_are_named_with_their_step(name, norm, gradient, steps):
    given = {"lr": 1e-3, "weight_decay": 0.1, "steps": steps, "size": 64}
    with pytest.raises(ValueError, match=r"^forecast\(.*\): at step \d+ squares or quotients leave the range"):
        forecast(RULES[name], norm=norm, gradient_norm=gradient, **given)
    with pytest.raises(ValueError, match=r"quotients of neuron 1 leave the range"):
        forecast(RULES[name], norm=[1.0, norm], gradient_norm=[1.0, gradient], **given)


def test_momentum_and_decay_too_strong_to_settle_evenly_have_finite_forecasts():
    f = forecast(rules.sgd(0.9), lr=0.5, weight_decay=1.0, steps=8000, norm=1.0, size=64, gradient_norm=1.0)
    assert np.all(np.isfinite(f.rotation))
    assert f.rotation[-1] == pytest.approx(0.7496, rel=0.02)  # what single steps come to
    assert f.norm[-1] == pytest.approx(1.3057, rel=0.01)


def test_a_rotation_that_is_no_number_is_not_near():
    from dataclasses import replace

    f = forecast(rules.adamw(), lr=1e-2, weight_decay=0.1, steps=100, size=64)
    assert replace(f, rotation=np.full(100, np.nan)).transient == 1.0


# Neurons of one weight --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adam+l2", "adamax", "signum coupled", "radam", "adamw", "sgd"])
def test_one_weight_has_no_direction(name):
    given = {"lr": 1e-3, "weight_decay": 0.1, "steps": 10, "norm": 0.5, "gradient_norm": 1.0}
    with pytest.raises(ValueError, match=r"^forecast\(size=1\): a neuron of one weight has no direction"):
        forecast(RULES[name], size=1, **given)
    with pytest.raises(ValueError, match=r"forecast\(size=1 for 1 of 3 neurons\)"):
        forecast(RULES[name], size=[64, 1, 2], **given)
    assert np.all(np.isfinite(forecast(RULES[name], size=1, scale_invariant=False, **given).norm))


def test_which_neurons_turn_is_told_in_one_place():
    assert not turns(1)
    assert turns(np.array([1, 2, 64])).tolist() == [False, True, True]


# What users may ask -----------------------------------------------------------------------------------------------

TABLE = {"lr": 0.1, "weight_decay": 1e-2, "steps": 400, "batch_size": 64}


def test_tables_of_batch_sizes_are_of_one_neuron_and_of_at_most_a_thousand_rows():
    with pytest.raises(
        ValueError, match=r"at_batch_sizes\(batch_sizes\): expected at most 1,000 batch sizes, got 10,0"
    ):
        at_batch_sizes(rules.sgd(), range(1, 10**16 + 1), **TABLE)
    with pytest.raises(ValueError, match=r"at_batch_sizes\(norm=array of 1 axis\): expected a number, .* one neuron"):
        at_batch_sizes(rules.sgd(), [64], norm=np.ones(3), gradient_norm=1.0, **TABLE)
    with pytest.raises(ValueError, match=r"at_batch_sizes\(gradient_norm=array of 1 axis\)"):
        at_batch_sizes(rules.sgd(), [64], gradient_norm=[1.0, 2.0], **TABLE)
    with pytest.raises(TypeError, match=r"at_batch_sizes\(drift=0.3\): noise_scale= gives the drift"):
        at_batch_sizes(rules.sgd(), [64], drift=0.3, **TABLE)


def test_a_neuron_that_is_not_there():
    f = forecast(rules.adamw(), lr=1e-3, weight_decay=0.1, steps=10, norm=[0.5, 1.0, 2.0], size=64)
    assert f.neuron(-1).initial == 2.0
    with pytest.raises(IndexError, match=r"Forecast\.neuron\(9\): this is a forecast of 3 neurons, which count from 0"):
        f.neuron(9)
    with pytest.raises(IndexError, match=r"Forecast\.neuron\(1\): this is a forecast of one neuron"):
        f.neuron(0).neuron(1)


def test_an_optimizer_in_place_of_a_rule_is_sent_to_predict():
    optimizer = torch.optim.AdamW([torch.zeros(4, 4)])
    with pytest.raises(TypeError) as error:
        forecast(optimizer, lr=1e-3, weight_decay=0.1, steps=10)
    assert str(error.value) == (
        "forecast(rule=AdamW): expected a Rule, such as rotational.rules.adamw(). For an optimizer there is "
        "rotational.predict(optimizer)."
    )
    with pytest.raises(TypeError, match=r"equilibrium\(rule=adamw\): expected a Rule"):
        rotational.equilibrium(rules.adamw, 1e-3, 0.1)


@pytest.mark.parametrize("steps", [0, -3, math.nan, math.inf])
def test_counts_are_whole_numbers(steps):
    with pytest.raises(ValueError, match=r"forecast\(steps=.*\): expected a whole number with steps >= 1"):
        forecast(rules.adamw(), lr=1e-3, weight_decay=0.1, steps=steps)


# The loss's own decay ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.decay == "coupled"])
def test_the_radial_gradient_of_the_loss_counts_beside_a_coupled_decay(monkeypatch, name):
    rule = RULES[name]
    radial = 1e-2 if isinstance(rule.scale, Raw) else 0.3
    given = {"radial": radial, "scale_invariant": False}
    found, known = run(rule, lambda t: 1.0, **given), single(monkeypatch, rule, lambda t: 1.0, **given)
    assert found.norm[-1] == pytest.approx(known.norm[-1], rel=0.02)
    assert found.static_norm[-1] == pytest.approx(known.norm[-1], rel=0.03)
    without = run(rule, lambda t: 1.0, scale_invariant=False)
    assert found.static_norm[-1] < 0.995 * without.static_norm[-1]  # so it does count


def test_the_radial_gradient_alone_holds_norms_under_sgd():
    """As much of it, and as much weight decay, are the same: what is added to the gradient is the same number."""
    given = {"lr": 0.1, "steps": 8000, "size": 64, "gradient_norm": 1.0, "norm": 0.5, "scale_invariant": False}
    alone = forecast(rules.sgd(), weight_decay=0.0, radial=0.02, **given)
    decayed = forecast(rules.sgd(), weight_decay=0.02, **given)
    np.testing.assert_allclose(alone.norm, decayed.norm, rtol=1e-9)
    np.testing.assert_allclose(alone.static, decayed.static, rtol=1e-9)
    np.testing.assert_allclose(alone.timescale, decayed.timescale, rtol=1e-9)


def test_without_decay_nothing_is_ever_forgotten():
    f = forecast(rules.sgd(0.9), lr=0.1, weight_decay=0.0, steps=10, size=64, gradient_norm=1.0, norm=0.5)
    assert np.all(np.isinf(f.timescale))


def test_the_highest_lr_of_all_neurons_is_known_without_all_of_them():
    rng = np.random.default_rng(0)
    lr, scale, decays = rng.uniform(0, 1, (2, 9000)), rng.uniform(0, 1, (2, 60)), rng.uniform(0.1, 1, 60)
    setting = Setting(rules.adamw(), size=np.full(60, 64.0), known=True)
    one, moving = (Told(setting, lr, decay, scale, 9000, decays) for decay in (0.1, rng.uniform(0, 0.1, 9000)))
    whole = scale.T @ lr * decays[:, None]
    assert one.most(decays) == pytest.approx(whole.max(), rel=1e-12)
    assert moving.most(decays) == pytest.approx(whole.max(axis=0), rel=1e-12)
