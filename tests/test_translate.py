"""Hyperparameters carried from one optimizer to another: both sides by theory, and both sides simulated."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import rotational
from rotational import Config, rules, translate, walk

SOURCE = Config(rules.adamw(), lr=1e-3, weight_decay=0.1, batch_size=256, steps=2000)
GIVEN = {"size": 64, "gradient_norm": 1.0, "shape": (64, 64)}
TARGETS = {
    "sgd": rules.sgd(0.9),
    "nesterov": rules.sgd(0.9, nesterov=True),
    "lion": rules.lion(),
    "signum": rules.signum(),
    "muon": rules.muon(),
    "laprop": rules.laprop(),
    "adamw .95": rules.adamw((0.95, 0.95)),
    "independent": rules.adamw(decay="independent"),
    "adamc": rules.adamw(decay="adamc"),
    "cautious": rules.adamw(decay="cautious"),
}


def at_rest(rule, lr, wd):
    shape = (64, 64) if rule.name == "muon" else None
    return rotational.equilibrium(rule, lr, wd, size=64, gradient_norm=1.0, shape=shape)


@pytest.mark.parametrize("name", TARGETS)
def test_rotation_and_norm_are_the_sources(name):
    rule = TARGETS[name]
    found = translate(SOURCE, rule, **GIVEN)
    here, there = at_rest(SOURCE.rule, SOURCE.lr, SOURCE.weight_decay), at_rest(rule, found.lr, found.weight_decay)
    assert there.rotation == pytest.approx(here.rotation, rel=1e-6)
    assert there.norm == pytest.approx(here.norm, rel=1e-3)
    back = translate(
        Config(rule, lr=found.lr, weight_decay=found.weight_decay, batch_size=256, steps=2000), SOURCE.rule, **GIVEN
    )
    assert back.lr == pytest.approx(SOURCE.lr, rel=2e-3)
    assert back.lr * back.weight_decay == pytest.approx(SOURCE.lr * SOURCE.weight_decay, rel=1e-5)


@pytest.mark.parametrize("name", TARGETS)
def test_the_first_match_is_met_and_the_other_is_said(name):
    found = translate(SOURCE, TARGETS[name], match=("timescale",), **GIVEN)
    if name != "cautious":  # its decay also depends on how update and weight agree
        assert found.timescale == pytest.approx(10_000, rel=0.01)
    other = at_rest(TARGETS[name], found.lr, found.weight_decay).rotation / at_rest(SOURCE.rule, 1e-3, 0.1).rotation
    assert any("Rotation is" in sentence for sentence in found.said) == (abs(other - 1) > 0.01)


def measured(rule, lr, wd, norm, steps, seed):
    muon = rule.name == "muon"
    runs = [
        walk(rule, lr=lr, weight_decay=wd, size=64, steps=steps, neurons=64 if muon else 192, norm=norm, seed=seed + k)
        for k in range(3 if muon else 1)
    ]
    return np.mean([np.mean(t.rotation**2, axis=1) for t in runs], axis=0)


@pytest.mark.parametrize("name", ["lion", "sgd", "muon", "cautious"])
def test_both_sides_simulated_along_a_cosine_turn_alike(name):
    steps, rule = 1500, TARGETS[name]
    source = Config(rules.adamw(), lr=2e-2, weight_decay=0.3, batch_size=256, steps=steps)
    t = np.arange(steps)
    lr = 2e-2 * np.minimum(1, (t + 1) / 100) * (0.5 + 0.5 * np.cos(np.pi * t / steps))
    found = translate(source, rule, schedule=lr, norm=1.0, **GIVEN)
    here = measured(source.rule, lr, source.weight_decay, 1.0, steps, 0)
    there = measured(rule, found.lr, found.weight_decay, 1.0, steps, 10)
    edges = np.linspace(100, steps - 15, 12).astype(int)
    ratios = [math.sqrt(there[a:b].sum() / here[a:b].sum()) for a, b in itertools.pairwise(edges)]
    assert np.abs(np.array(ratios) - 1).max() < 0.03


def test_a_rotational_optimizer_takes_the_angles_as_they_are():
    lr = 2e-2 * (0.5 + 0.5 * np.cos(np.pi * np.arange(300) / 300))
    source = Config(rules.adamw(), lr=2e-2, weight_decay=0.3, batch_size=1, steps=300)
    found = translate(source, "rotational", schedule=lr, norm=1.0, size=64)
    model = nn.Linear(64, 8, bias=False)
    opt = rotational.AdamW(
        rotational.groups(model, weight_decay=0.1), lr=1e-3, rotation=found.angles, update_memory=0.0, center=False
    )
    for step in range(3):
        before = model.weight.detach().clone()
        model.weight.grad = torch.randn(8, 64)
        opt.step()
        cos = torch.cosine_similarity(before.double(), model.weight.detach().double(), dim=1)
        assert float(torch.arccos(cos).mean()) == pytest.approx(math.atan(found.rotation[step]), rel=1e-3)
    assert translate(source, "fixed-norm", size=64).lr == pytest.approx(
        math.tan(translate(source, "rotational").rotation)
    )


def test_it_prints_and_is_plain_data():
    found = translate(SOURCE, rules.lion(), size=64)
    assert "lion: lr" in str(found)
    assert found.as_dict()["rule"]["name"] == "lion"
    assert any("Gains and biases" in sentence for sentence in found.said)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"target": rules.adam_l2()}, "depends on the size of each gradient"),
        ({"target": rules.muon()}, "give shape="),
        ({"target": rules.lion(), "match": "rotation"}, "expected names among"),
        ({"target": rules.lion(), "match": ("speed",)}, "expected names among"),
        ({"target": "hyperball"}, "'rotational', 'fixed-norm'"),
    ],
)
def test_what_cannot_be_translated_is_a_sentence(arguments, says):
    with pytest.raises(ValueError, match=says):
        translate(SOURCE, **arguments)
