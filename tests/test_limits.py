"""What a forecast says of itself: where the simulator found it off, in notes and in print; nothing elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from rotational import equilibrium, forecast, rules, walk

LION = {"lr": 1e-3, "weight_decay": 10.0}
ADAM = {"lr": 0.1, "weight_decay": 0.1}
L2 = {"lr": 1e-3, "weight_decay": 1.0, "gradient_norm": 1.0}
WARM = {"lr": np.minimum(1, np.arange(1, 601) / 100) * 0.1, "weight_decay": 0.1}

# rule, initial norm over equilibrium, what else, words of the note (None: none)
CASES = {
    "rmsprop, small": (rules.rmsprop(), 0.1, L2, "not corrected for bias"),
    "rmsprop, at rest": (rules.rmsprop(), 1.0, L2, None),
    "rmsprop, large": (rules.rmsprop(), 10.0, L2, "Up to step"),
    "rmsprop, centred, large": (rules.rmsprop(momentum=0.9, centered=True), 10.0, L2, "up to 20%"),
    "adamax, small": (rules.adamax(decay="decoupled"), 0.1, ADAM, "Adamax still remembers"),
    "adamax, warmed up": (rules.adamax(decay="decoupled"), 0.1, WARM, None),
    "nadamw, small": (rules.nadamw(), 0.1, ADAM, None),
    "nadamw, warmed up": (rules.nadamw(), 0.1, WARM, None),
    "signum with L2, large": (rules.signum(decay="coupled"), 10.0, {**L2, "weight_decay": 10.0}, "up to 27%"),
    "signum with L2, at rest": (rules.signum(decay="coupled"), 1.0, {**L2, "weight_decay": 10.0}, "as a linear rule"),
    "signum with L2, weak": (rules.signum(decay="coupled"), 1.0, {**L2, "weight_decay": 0.1}, None),
    "adamax, short memory": (rules.adamax((0.9, 0.98), decay="decoupled"), 1.0, ADAM, "at a b2 of 0.98 and 0.95"),
    "adamax, shorter memory": (rules.adamax((0.9, 0.5), decay="decoupled"), 1.0, ADAM, "at a b2 of 0.7, 0.5"),
    "adamax, no momentum": (rules.adamax((0.0, 0.5), decay="decoupled"), 1.0, ADAM, None),
    "adamax, large": (rules.adamax((0.9, 0.99)), 10.0, L2, "by up to 20%, the norm by 7%"),
    "adamax, larger": (rules.adamax((0.9, 0.99)), 1000.0, L2, "by up to 60%, the norm by 10%"),
    "radam": (rules.radam(decay="decoupled"), 0.1, {**ADAM, "gradient_norm": 1.0}, "RAdam's first steps"),
    "adamax, at rest": (rules.adamax(decay="decoupled"), 1.0, {**ADAM, "lr": 0.01}, None),
    "adam with L2, large": (rules.adam_l2(), 10.0, L2, "up to 15%"),
    "adam with L2, small": (rules.adam_l2(), 0.1, {**L2, "weight_decay": 30.0}, "up to 3.5%"),
    "adam with L2, at rest": (rules.adam_l2(), 1.0, L2, None),
    "lion, cautious, small": (rules.lion(decay="cautious"), 0.1, LION, "A cautious decay"),
    "lion, cautious, weak": (rules.lion(decay="cautious"), 0.1, {**LION, "weight_decay": 1.0}, None),
    "adamw, cautious, large": (rules.adamw(decay="cautious"), 10.0, ADAM, "up to 4%"),
    "adamw, cautious, small": (rules.adamw(decay="cautious"), 0.1, ADAM, None),
    "lion, large, few weights": (rules.lion(), 10.0, {**LION, "size": 32}, None),
    "lion, large": (rules.lion(), 10.0, LION, None),
    "adamw, mean": (rules.adamw(), 1.0, {**ADAM, "drift": 0.5}, "Adam's kinds"),
    "adamw, small mean": (rules.adamw(), 1.0, {**ADAM, "drift": 0.1}, None),
    "adamw, isotropic": (rules.adamw(), 1.0, {**ADAM, "drift": 0.5, "scale_invariant": False}, None),
    "adamax, isotropic mean": (
        *(rules.adamax(decay="decoupled"), 1.0, {**ADAM, "drift": 0.5, "scale_invariant": False}),
        "Adamax was found",
    ),
    "signum with L2, isotropic mean": (
        *(rules.signum(decay="coupled"), 1.0, {**L2, "drift": 0.3, "scale_invariant": False}),
        "signs with L2",
    ),
    "lion, mean": (rules.lion(), 1.0, {**LION, "drift": 0.3}, "signs were found off"),
    "muon, mean": (rules.muon(), 1.0, {"lr": 1e-2, "weight_decay": 0.5, "shape": (32, 64), "drift": 0.3}, "Muon was"),
    "sgd, mean": (rules.sgd(0.9), 1.0, {"lr": 0.1, "weight_decay": 0.01, "gradient_norm": 1.0, "drift": 0.5}, None),
    "adamw": (rules.adamw(), 0.1, ADAM, None),
    "sgd": (rules.sgd(0.9), 0.1, {"lr": 0.1, "weight_decay": 0.01, "gradient_norm": 1.0}, None),
}


@pytest.mark.parametrize("name", CASES)
def test_a_forecast_says_where_it_is_off(name):
    rule, factor, given, words = CASES[name]
    given = given if "shape" in given else {"size": 64, **given}
    there = {k: v for k, v in given.items() if k != "drift"} | {"lr": float(np.max(given["lr"]))}
    f = forecast(rule, norm=factor * equilibrium(rule, **there).norm, steps=600, **given)
    if words is None:
        assert f.notes == ()
    else:
        assert any(words in note for note in f.notes)
        assert all(note.endswith(".") and note in str(f) for note in f.notes)


def test_of_many_neurons_it_is_said_how_many():
    rest = equilibrium(rules.adamax(decay="decoupled"), 0.1, 0.1, size=64).norm
    f = forecast(
        rules.adamax(decay="decoupled"), norm=rest * np.array([0.1, 0.1, 1.0, 1.0]), size=64, steps=50, every=50, **ADAM
    )
    assert f.notes[0].endswith("(2 of 4 neurons).")


@pytest.mark.parametrize(
    ("rule", "lr", "weight_decay", "size", "norm"),
    [
        (rules.signum(decay="coupled"), 1e-3, 10.0, 128, 1.09),
        (rules.signum(decay="coupled"), 1e-3, 1.0, 32, 1.002),
        (rules.adamax((0.9, 0.95), decay="decoupled"), 0.1, 0.05, 64, 1.015),
    ],
)
def test_the_sizes_at_rest_are_those_that_the_notes_tell(rule, lr, weight_decay, size, norm):
    told = {"lr": lr, "weight_decay": weight_decay, "size": size, "gradient_norm": 1.0}
    start = equilibrium(rule, **told).norm
    trace = walk(rule, steps=1500, neurons=64, norm=start * norm, every=4, **told)
    assert trace.rms("norm", after=500) / start == pytest.approx(norm, abs=0.006)


# Means that were followed worse once: isotropic gradients, in which decay comes to cancel the mean ------------------


@pytest.mark.parametrize(
    ("rule", "lr", "weight_decay"),
    [(rules.adam_l2(), 1e-3, 1.0), (rules.signum(decay="coupled"), 1e-3, 10.0), (rules.muon(), 1e-2, 0.5)],
    ids=lambda x: getattr(x, "name", ""),
)
def test_an_isotropic_mean_is_followed(rule, lr, weight_decay):
    given = {"shape": (32, 64)} if rule.name == "muon" else {"size": 64, "gradient_norm": 1.0}
    told = {"lr": lr, "weight_decay": weight_decay, "scale_invariant": False}
    start = equilibrium(rule, **told, **given).norm
    f = forecast(rule, steps=800, norm=start, drift=0.3, **told, **given)
    neurons = 32 if rule.name == "muon" else 96
    trace = walk(rule, steps=800, norm=start, drift=0.3, neurons=neurons, gradient_norm=1.0, size=64, **told)
    off = np.abs(f.norm / np.sqrt(np.mean(trace.norm**2, axis=1)) - 1)
    assert off[100:].max() < 0.05
    assert off[-200:].mean() < 0.02


@pytest.mark.parametrize("rule", [rules.adam_l2(), rules.rmsprop(momentum=0.9), rules.signum(decay="coupled")])
def test_a_mean_where_decay_outweighs_the_gradient(rule):
    """The classes of weights that are followed then share one mean."""
    told = {"lr": 1e-3, "weight_decay": 10.0, "steps": 200, "gradient_norm": 1.0, "drift": 0.3, "norm": 5.0}
    one = forecast(rule, size=64, **told)
    eight = forecast(rule, size=[64] * 8, **told)
    np.testing.assert_allclose(eight.norm[:, 3], one.norm, rtol=1e-9)
