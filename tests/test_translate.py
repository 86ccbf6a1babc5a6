"""Hyperparameters carried from one optimizer to another: both sides by theory, and both sides simulated."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

import rotational
from compare import assert_same
from rotational import Angles, Config, equilibrium, rules, walk
from rotational.translating import translate
from rotational.translation import Held, Hyper
from rotational.walk import _directions

GIVEN = {"size": 64, "gradient_norm": 0.5, "shape": (64, 64)}
RULES = {
    "adamw": rules.adamw(),
    "adamw b2=.95": rules.adamw((0.95, 0.95), kurtosis=3.0),
    "nadamw": rules.nadamw(),
    "laprop": rules.laprop(),
    "sgd": rules.sgd(0.9),
    "nesterov": rules.sgd(0.9, nesterov=True),
    "sgdw": rules.sgd(0.9, decay="decoupled"),
    "lion": rules.lion(),
    "signum": rules.signum(),
    "muon": rules.muon(),
    "independent": rules.adamw(decay="independent"),
    "adamc": rules.adamw(decay="adamc"),
    "cautious": rules.adamw(decay="cautious"),
    "adam_l2": rules.adam_l2(),
}
SOURCES = {
    "adamw": Hyper(RULES["adamw"], 1e-3, 0.1),
    "sgd": Hyper(RULES["sgd"], 0.1, 1e-3),
    "lion": Hyper(RULES["lion"], 1e-4, 1.0),
    "muon": Hyper(RULES["muon"], 0.02, 0.01),
    "laprop": Hyper(RULES["laprop"], 2e-3, 0.05),
}


def at_rest(x, **given):
    given = {**GIVEN, **given}
    shape = given["shape"] if x.rule.name == "muon" else None
    return equilibrium(x.rule, x.lr, x.weight_decay, size=64, gradient_norm=given["gradient_norm"], shape=shape)


@pytest.mark.parametrize("target", RULES)
@pytest.mark.parametrize("source", SOURCES)
def test_rotation_and_norm_are_the_sources_and_the_way_back_leads_back(source, target):
    here, rule = SOURCES[source], RULES[target]
    there = translate(here, rule, **GIVEN)
    assert_same(at_rest(there).rotation, at_rest(here).rotation, 1e-9)
    assert_same(at_rest(there).norm, at_rest(here).norm, 1e-9)
    assert_same([there.rotation, there.norm], [at_rest(here).rotation, at_rest(here).norm], 1e-9)
    back = translate(there, here.rule, **GIVEN)
    assert_same([back.lr, back.weight_decay], [here.lr, here.weight_decay], 1e-6)


@pytest.mark.parametrize("target", [name for name in RULES if name not in ("adam_l2", "muon")])
def test_without_sizes_the_rotation_is_the_sources_all_the_same(target):
    here, rule = SOURCES["adamw"], RULES[target]
    there = translate(here, rule)
    assert_same(
        equilibrium(rule, there.lr, there.weight_decay).rotation, equilibrium(here.rule, 1e-3, 0.1).rotation, 1e-6
    )
    assert there.norm is None
    said = " ".join(there.said)
    assert ("Norms are not matched" in said) == (rule.name == "sgd")
    assert rule.name != "sgd" or there.weight_decay == pytest.approx(0.1)


@pytest.mark.parametrize("target", RULES)
def test_the_timescale_is_met_where_it_comes_first(target):
    there = translate(SOURCES["adamw"], RULES[target], match=("timescale", "norm"), **GIVEN)
    assert there.timescale == pytest.approx(10_000, rel=1e-9)
    assert there.norm == pytest.approx(at_rest(SOURCES["adamw"]).norm, rel=1e-9)
    both = abs(there.rotation / at_rest(SOURCES["adamw"]).rotation - 1) < 1e-3
    assert ("Rotation and timescale both match." in there.said) == both


BOTH = {
    "lion": lambda x: rules.lion((x, 0.99)),
    "signum": lambda x: rules.signum(x),
    "nadamw": lambda x: rules.nadamw((x, 0.999)),
    "adamw b2=.95": lambda x: rules.adamw((x, 0.95), kurtosis=3.0),
    "nesterov": lambda x: rules.sgd(x, nesterov=True),
    "muon": lambda x: rules.muon(x),
}


@pytest.mark.parametrize("target", BOTH)
def test_the_momentum_that_is_named_matches_both(target):
    said = " ".join(translate(SOURCES["adamw"], RULES[target], **GIVEN).said)
    value = float(said.split(" would match both")[0].split("=")[-1].split()[0])
    there = translate(SOURCES["adamw"], BOTH[target](value), **GIVEN)
    assert there.timescale == pytest.approx(10_000, rel=0.02)  # three digits of it were told


def test_a_momentum_that_is_nowhere_is_said_too():
    there = translate(Hyper(rules.adamw((0.999, 0.999)), 1e-3, 0.1), rules.lion((0.9, 0.9)))
    assert "No betas[0] of lion would match both." in there.said


def test_gains_move_by_another_step_and_the_factor_is_said():
    there = translate(SOURCES["adamw"], rules.lion())
    gains = next(x for x in there.said if x.startswith("Gains"))
    assert f"{there.lr:.3g} a step against 0.001 with adamw, {there.lr / 1e-3:.3g} times" in gains
    assert "lr=0.001" in gains
    assert "whatever its size" in " ".join(translate(SOURCES["adamw"], rules.sgd(0.9)).said)
    assert "matrices only" in " ".join(translate(SOURCES["adamw"], rules.muon(), **GIVEN).said)
    assert not any(x.startswith("Gains") for x in translate(SOURCES["adamw"], rules.laprop()).said)


# Along a schedule ---------------------------------------------------------------------------------------------

STEPS = 1200
T = np.arange(STEPS)
COSINE = 2e-2 * np.minimum(1, (T + 1) / 100) * (0.5 + 0.5 * np.cos(np.pi * T / STEPS))
FAST = Hyper(rules.adamw(), 2e-2, 0.3)


def squares(rule, lr, wd, norm, seed):
    runs = [
        walk(
            rule, lr=lr, weight_decay=wd, size=64, steps=STEPS, neurons=64, norm=norm, gradient_norm=0.5, seed=seed + k
        )
        for k in range(2)
    ]
    return np.mean([np.mean(run.rotation**2, axis=1) for run in runs], axis=0)


def windows(a, b):
    edges = [0, 5, 20, 50, *np.linspace(100, STEPS - 10, 12).astype(int)]
    return np.array([math.sqrt(b[i:j].sum() / a[i:j].sum()) for i, j in itertools.pairwise(edges)])


@pytest.fixture(scope="module")
def measured():
    return squares(FAST.rule, COSINE, FAST.weight_decay, 1.0, 0)


QUICK = ("lion", "sgd", "muon")


@pytest.mark.parametrize(
    "target", [x if x in QUICK else pytest.param(x, marks=pytest.mark.slow) for x in RULES if x != "adamw"]
)
def test_both_sides_simulated_turn_alike_in_every_window(target, measured):
    there = translate(FAST, RULES[target], schedule=COSINE, steps=STEPS, norm=1.0, **GIVEN)
    ratio = windows(measured, squares(there.rule, there.lr, there.weight_decay, 1.0, 10))
    assert np.abs(ratio - 1).max() < 0.03
    assert there.lr.shape == (STEPS,)


@pytest.mark.parametrize("target", ["lion", "sgd"])
def test_without_a_norm_a_run_begins_at_rest_on_both_sides(target):
    there = translate(FAST, RULES[target], schedule=lambda t: COSINE[t], steps=STEPS)
    expected = rotational.forecast(FAST.rule, lr=COSINE, weight_decay=0.3, steps=STEPS).rotation
    assert np.abs(there.rotation[:-1] / expected[:-1] - 1).max() < 2e-4


def test_a_schedule_leads_there_and_back():
    there = translate(FAST, rules.lion(), schedule=COSINE, steps=STEPS, norm=1.0, **GIVEN)
    back = translate(there, FAST.rule, norm=1.0, **GIVEN)
    ratio = back.lr / COSINE / (back.lr[STEPS // 2] / COSINE[STEPS // 2])
    assert np.abs(ratio[20:] - 1).max() < 0.05  # weight_decay is the highest angle's, and so is lr's scale
    assert_same(back.rotation, there.rotation, 1e-3)


def test_a_scheduler_of_torch_and_a_config_are_read():
    opt = torch.optim.AdamW(
        [{"params": [torch.ones(2)], "weight_decay": 0.0}, {"params": [torch.ones(3)]}], lr=1e-3, weight_decay=0.1
    )
    flat = translate(opt, rules.lion())
    assert_same([flat.lr, flat.weight_decay], [(t := translate(SOURCES["adamw"], rules.lion())).lr, t.weight_decay])
    with pytest.raises(ValueError, match="no rotation to keep"):
        translate(opt, rules.lion(), group=0)
    with pytest.raises(ValueError, match="2 param groups"):
        translate(opt, rules.lion(), group=2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 100)
    config = Config(rules.adamw(), lr=1e-3, weight_decay=0.1, batch_size=8, steps=100)
    read = translate(opt, rules.lion(), schedule=scheduler, steps=100).lr
    assert_same(read, translate(config, rules.lion(), schedule=scheduler).lr)


def test_the_first_steps_of_radam_are_nobodys():
    there = translate(
        FAST, rules.radam((0.9, 0.99), decay="decoupled"), schedule=COSINE, steps=STEPS, norm=1.0, **GIVEN
    )
    source = rotational.forecast(FAST.rule, lr=COSINE, weight_decay=FAST.weight_decay, steps=STEPS, norm=1.0, size=64)
    assert np.abs(there.rotation[5:-1] / source.rotation[5:-1] - 1).max() < 2e-4
    assert there.lr[:5].max() < 3 * COSINE[:5].max()  # no lr would turn it, so none is sought
    assert any("but for the first 5" in sentence for sentence in there.said)


# Angles that are held -----------------------------------------------------------------------------------------


def fixed_norm(rule, lr, seed, rows=64, size=64):
    """W <- R N(W - lr R N(u)), simulated: squared angle of each step."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((rows, size))
    directions, length, found = _directions(rule, w.shape), np.linalg.norm(w), []
    next(directions)
    for x in lr:
        g = rng.standard_normal(w.shape)
        square = (w * w).sum(1, keepdims=True)
        g = (g - (g * w).sum(1, keepdims=True) / square * w) / np.sqrt(square)
        u = directions.send(g)
        after = w - x * length * u / np.linalg.norm(u)
        after *= length / np.linalg.norm(after)
        found.append((2 * math.asin(np.linalg.norm(after - w) / length / 2)) ** 2)
        w = after
    return np.array(found)


@pytest.mark.parametrize("rule", [rules.adamw(), rules.muon()], ids=["AdamH", "MuonH"])
def test_a_fixed_norm_simulated_turns_as_its_source(rule, measured):
    there = translate(FAST, Held("fixed-norm", rule), schedule=COSINE, steps=STEPS, norm=1.0, **GIVEN)
    assert np.abs(windows(measured, fixed_norm(rule, there.lr, 5)) - 1).max() < 0.03


def test_the_law_of_a_fixed_norm_where_memory_shows():
    held = Held("fixed-norm", rules.adamw())
    found = math.sqrt(fixed_norm(rules.adamw(), [0.1] * 800, 1)[200:].mean())
    assert found == pytest.approx(float(held.angle(0.1)), rel=0.01)
    assert found < 0.97 * math.atan(0.1)
    assert_same(float(Held("fixed-norm").angle(0.1)), math.atan(0.1), 1e-12)
    assert_same(held.step(held.angle(np.array([1e-4, 0.01, 0.1]))), np.array([1e-4, 0.01, 0.1]), 1e-9)


def test_a_rotational_optimizer_takes_the_angles_and_gives_them_back():
    there = translate(FAST, "rotational", schedule=COSINE, steps=STEPS, norm=1.0, size=64)
    model = torch.nn.Linear(64, 8, bias=False)
    opt = rotational.AdamW(
        rotational.groups(model, weight_decay=0.1), lr=1e-3, rotation=there.angles, update_memory=0.0, center=False
    )
    for step in range(3):
        before = model.weight.detach().double().clone()
        model.weight.grad = torch.randn(8, 64)
        opt.step()
        chord = torch.nn.functional.normalize(before) - torch.nn.functional.normalize(model.weight.detach().double())
        assert 2 * math.asin(float(chord.norm(dim=1).mean()) / 2) == pytest.approx(there.rotation[step], rel=1e-3)
    back = translate(there, FAST.rule, norm=1.0, size=64)
    # the first steps from another lr's rest are as the source's, so lr is a multiple of its schedule there
    assert_same(back.rotation, there.rotation, 1e-3)


def test_rotational_sources_are_read_from_optimizers_translations_and_records():
    opt = rotational.AdamW(rotational.groups(torch.nn.Linear(64, 8), weight_decay=0.1), lr=1e-3)
    angle = math.atan(math.sqrt(2 * 1e-4 / 19))
    assert_same(translate(opt, rules.lion()).rotation, angle, 1e-9)
    held = translate(SOURCES["adamw"], Held("rotational", rules.adamw()))
    back = translate(held, rules.adamw(), norm=at_rest(SOURCES["adamw"]).norm, size=64)
    assert_same([back.lr, back.weight_decay], [1e-3, 0.1], 1e-6)
    recorded = Angles(range(50), [0.01] * 50, "0.weight")
    again = translate(recorded, rules.lion(), norm=1.0, size=64)
    assert np.abs(again.rotation / 0.01 - 1).max() < 2e-4
    fixed = translate(SOURCES["adamw"], "fixed-norm")
    assert_same(fixed.lr, math.tan(at_rest(SOURCES["adamw"]).rotation), 1e-4)


# What is printed and refused ----------------------------------------------------------------------------------


def test_it_prints_and_is_plain_data():
    for target in (rules.lion(), "rotational", Held("fixed-norm", rules.adamw())):
        for given in ({}, {"schedule": [1e-3] * 9 + [0.0], "steps": 10}):
            found = translate(SOURCES["adamw"], target, **given)
            assert json.loads(json.dumps(found.as_dict()))["said"] == list(found.said)
            assert str(found).splitlines()[0].split()[0] == "adamw"
            assert "rotation, rad/step" in str(found)


def test_gains_along_a_schedule_are_told_at_the_step_of_the_highest_lr():
    lr = np.concatenate((np.linspace(1e-4, 1e-3, 50), np.full(150, 5e-4)))
    found = translate(SOURCES["adamw"], rules.lion(), schedule=lr, steps=200, norm=0.3, size=64)
    at = int(np.argmax(found.lr))
    (said,) = (sentence for sentence in found.said if "Gains" in sentence)
    assert (
        f"move by {found.lr[at]:.3g} a step against {lr[at]:.3g} with adamw at step {at + 1}, where lr is highest"
        in said
    )
    assert "a group with the source's schedule as its lr" in said


def test_decays_of_one_optimizer_are_told_apart():
    found = translate(SOURCES["adamw"], rules.adamw(decay="independent"))
    assert str(found).splitlines()[0].split() == ["adamw", "adamw", "(independent)"]
    titles = [rules.adamw(decay=d).title for d in ("decoupled", "coupled", "independent", "adamc", "cautious")]
    assert len(set(titles)) == 5
    assert rules.sgd().title == "sgd"
    assert rules.sgd(decay="decoupled").title == "sgd (decoupled)"


REFUSED = [
    ({"target": rules.adam_l2()}, "L2 regularisation"),
    ({"source": Hyper(rules.adam_l2(), 1e-3, 0.1)}, "L2 regularisation"),
    ({"target": rules.muon()}, r"shape=\(rows, columns\)"),
    ({"target": Held("fixed-norm", rules.muon())}, r"shape=\(rows, columns\)"),
    ({"source": Hyper(rules.adamw(), 1e-3, 0.0)}, "no rotation to keep"),
    ({"source": Hyper(rules.adamw(), 0.0, 0.1)}, "expected a finite number with lr > 0"),
    ({"source": Hyper(rules.adamw(), 1e-3, math.nan)}, "weight_decay"),
    ({"source": Hyper(rules.adamw((0, 0.9)), 1.0, 0.9), "target": rules.sgd(0.9)}, "out of reach"),
    ({"match": "rotation"}, "expected a tuple"),
    ({"match": ("norm",)}, "expected a tuple"),
    ({"match": None}, "expected a tuple"),
    ({"shape": (3,), "target": rules.muon()}, r"shape=\(3,\)\): expected the rows and columns"),
    ({"steps": -3}, r"steps=-3\): expected schedule="),
    ({"match": ("rotation", "speed")}, "expected a tuple"),
    ({"match": ("rotation", "norm"), "target": rules.sgd()}, "size= and gradient_norm="),
    ({"target": "hyperball"}, "'rotational', 'fixed-norm'"),
    ({"schedule": [1e-3]}, "steps="),
    ({"schedule": [1e-3], "steps": 2}, "expected a number for each of 2 steps"),
    ({"schedule": [0.0, 0.0], "steps": 2}, "highest lr of the schedule"),
    ({"schedule": [1e-3, 1e-3], "steps": 2, "norm": 1.0}, "size= too"),
    ({"norm": -1.0}, "norm > 0"),
    ({"size": 0}, r"translate\(size=0\)"),
    ({"gradient_norm": math.inf}, r"translate\(gradient_norm=inf\)"),
    ({"rounds": 0, "schedule": [1e-3], "steps": 1}, "rounds >= 1"),
    ({"source": Angles([0, 1], [0.1, 0.2])}, "give norm="),
    ({"source": Angles([0, 1], [0.1, 0.2]), "match": ("timescale",), "norm": 1.0, "size": 9}, "no timescale"),
]


@pytest.mark.parametrize(("arguments", "says"), REFUSED)
def test_what_cannot_be_translated_is_one_sentence(arguments, says):
    with pytest.raises(ValueError, match=says) as error:
        translate(**{"source": SOURCES["adamw"], "target": rules.lion(), **arguments})
    assert "\n" not in str(error.value)


def test_what_is_no_rule_or_no_flag_is_refused_where_it_is_given():
    with pytest.raises(TypeError, match=r"Hyper\(rule='adamw'\): expected a Rule"):
        Hyper("adamw", 1e-3, 0.1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"Held\(rule='lion'\): expected a Rule"):
        Held("fixed-norm", "lion")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"scale_invariant='no'\): expected True or False"):
        translate(SOURCES["adamw"], rules.lion(), scale_invariant="no")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("arguments", [{"source": "adamw"}, {"target": torch.optim.AdamW}])
def test_what_is_no_optimizer_is_a_type_error(arguments):
    if "target" in arguments:
        with pytest.raises(TypeError, match=r"source=AdamW, a class.*an object of its class"):
            translate(torch.optim.AdamW, rules.lion())
    with pytest.raises(TypeError, match="expected"):
        translate(**{"source": SOURCES["adamw"], "target": rules.lion(), **arguments})


def test_it_loads_without_torch():
    code = "import sys; import rotational.translating; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
