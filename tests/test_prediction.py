"""What predict() says of every kind of group."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import rotational
from compare import assert_same
from reference import adamw_rotation, sgd_rotation
from rotational import rules


def layer(size=64, count=8):
    return [nn.Parameter(torch.randn(count, size))]


def bias():
    return [nn.Parameter(torch.zeros(8))]


FREE = {
    "SGD": (torch.optim.SGD, {}, rules.sgd(), sgd_rotation(1e-3, 0.1)),
    "SGDM": (torch.optim.SGD, {"momentum": 0.9}, rules.sgd(0.9), sgd_rotation(1e-3, 0.1, 0.9)),
    "AdamW": (torch.optim.AdamW, {}, rules.adamw(), adamw_rotation(1e-3, 0.1)),
    "NAdam": (torch.optim.NAdam, {"decoupled_weight_decay": True}, rules.nadamw(momentum_decay=4e-3), None),
    "our AdamW": (rotational.AdamW, {"rotational": False}, rules.adamw(), adamw_rotation(1e-3, 0.1)),
    "our Lion": (rotational.Lion, {"rotational": False}, rules.lion(), None),
}


@pytest.mark.parametrize(("make", "options", "rule", "rotation"), FREE.values(), ids=FREE)
def test_a_free_group_is_predicted_by_theory(make, options, rule, rotation):
    p = rotational.predict(make(layer(), lr=1e-3, weight_decay=0.1, **options))[0]
    e = rotational.equilibrium(rule, 1e-3, 0.1, size=64)
    assert (p.rule, p.lr, p.weight_decay, p.held, p.group) == (rule, 1e-3, 0.1, False, 0)
    assert p.equilibrium == {64: e}
    assert (p.half_life, p.timescale) == (e.half_life, e.timescale)
    assert_same(p.rotation, rotational.equilibrium(rule, 1e-3, 0.1).rotation, 1e-12)
    if rotation is not None:
        assert_same(p.rotation, rotation, 1e-3)
    assert f"rotation {p.rotation:.2e} rad/step ({math.degrees(p.rotation):.3g} deg)" in str(p)
    assert f"half-life {p.half_life:.0f} steps" in str(p)


@pytest.mark.parametrize(
    ("make", "options", "rotation"),
    [
        (rotational.AdamW, {}, adamw_rotation(1e-3, 0.1)),
        (rotational.SGD, {"momentum": 0.9}, sgd_rotation(1e-3, 0.1, 0.9)),
        (rotational.Lion, {}, rotational.equilibrium(rules.lion(), 1e-3, 0.1).rotation),
        (rotational.Adam, {"rotation": 0.02}, 0.02),
        (rotational.Adam, {"rotation": rules.adamw()}, adamw_rotation(1e-3, 0.1)),
        (rotational.AdamW, {"rotation": lambda step: 0.01 * (1 + step)}, 0.01),
        (rotational.AdamW, {"units": "tensor"}, adamw_rotation(1e-3, 0.1)),
    ],
)
def test_a_held_group_is_predicted_by_what_it_holds(make, options, rotation):
    opt = make(layer(), lr=1e-3, weight_decay=0.1, **options)
    p = rotational.predict(opt)[0]
    assert p.held
    assert p.half_life == 0
    assert_same(p.rotation, rotation, 1e-12)
    assert "held" in str(p)
    opt.param_groups[0]["params"][0].grad = torch.randn(8, 64)
    opt.step()
    assert_same(opt.param_groups[0]["held"], p.rotation, 1e-12)


def test_a_function_is_asked_for_the_step_that_comes():
    opt = rotational.AdamW(layer(), rotation=lambda step: 0.01 * (1 + step))
    opt.param_groups[0]["params"][0].grad = torch.randn(8, 64)
    for k in range(3):
        assert_same(rotational.predict(opt)[0].rotation, 0.01 * (1 + k), 1e-12)
        opt.step()


def test_the_numbers_are_those_of_now():
    opt = torch.optim.AdamW(layer(), lr=torch.tensor(1e-3), weight_decay=0.1)
    opt.param_groups[0].update(lr=4e-3, betas=(0.5, 0.9))
    assert_same(rotational.predict(opt)[0].rotation, adamw_rotation(4e-3, 0.1, 0.5), 1e-3)


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.NAdam, torch.optim.RMSprop])
def test_what_depends_on_the_gradient_is_none_and_no_guess(make):
    p = rotational.predict(make(layer(), lr=1e-3, weight_decay=0.1))[0]
    assert (p.rotation, p.half_life, p.timescale, p.held) == (None, None, None, False)
    assert "depends on the size of the gradient" in str(p)


def test_sgds_norm_needs_the_gradient():
    p = rotational.predict(torch.optim.SGD(layer(), lr=1e-3, weight_decay=0.1))[0]
    assert p.equilibrium[64].norm is None
    assert "norm needs the size of the gradient" in str(p)


@pytest.mark.parametrize("options", [{"weight_decay": 0.0}, {"lr": 0.0, "weight_decay": 0.1}])
def test_without_decay_there_is_no_equilibrium(options):
    for make in (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD):
        p = rotational.predict(make(layer(), **options))[0]
        assert p.rotation == 0
        assert ("nothing moves" if p.lr == 0 else "no equilibrium") in str(p)


def test_groups_without_neurons_are_said_to_have_none():
    model = nn.Sequential(nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 4))
    for opt in (
        torch.optim.AdamW(rotational.groups(model, weight_decay=0.1)),
        rotational.AdamW(rotational.groups(model, weight_decay=0.1)),
    ):
        weights, gains = rotational.predict(opt)
        assert sorted(weights.equilibrium) == [8, 16]
        assert (gains.rotation, gains.equilibrium, gains.held) == (None, {}, False)
        assert "no neurons" in str(gains)
    assert "no neurons" in str(rotational.predict(torch.optim.Adam(bias())))
    assert "no neurons" in str(rotational.predict(torch.optim.Adam([nn.Parameter(torch.zeros(0, 4))])))


def test_a_rotational_group_in_which_nothing_can_turn_holds_nothing():
    p = rotational.predict(rotational.AdamW(layer(size=2), weight_decay=0.1))[0]
    assert not p.held
    assert_same(p.rotation, adamw_rotation(1e-3, 0.1), 1e-3)


def test_sizes_are_those_of_the_partition():
    model = nn.ConvTranspose2d(4, 6, 3, groups=2)
    assert list(rotational.predict(torch.optim.AdamW(model.parameters()))[0].equilibrium) == [27]
    groups = rotational.groups(model, weight_decay=0.1)
    assert list(rotational.predict(torch.optim.AdamW(groups))[0].equilibrium) == [18]


def test_a_prediction_is_a_sequence_and_prints_a_line_a_group():
    opt = torch.optim.AdamW([{"params": layer(), "lr": 1e-3}, {"params": layer(32), "lr": 1e-2}, {"params": bias()}])
    p = rotational.predict(opt)
    assert len(p) == len(list(p)) == 3
    assert p[1].rotation > p[0].rotation
    assert [g.group for g in p] == [0, 1, 2]
    assert repr(p) == str(p)
    assert len(str(p).splitlines()) == 3


def test_a_rule_may_be_named():
    class Own(torch.optim.AdamW):
        def step(self, closure=None):
            return None

    opt = Own(layer(), lr=1e-3, weight_decay=0.1)
    with pytest.raises(ValueError, match=r"predict\(Own\): .*rule=rotational.rules.adamw"):
        rotational.predict(opt)
    assert rotational.predict(opt, rule=rules.lion())[0].rule == rules.lion()


def test_a_forecast_begins_before_its_first_step():
    pytest.importorskip("pandas")
    given = {"lr": 1e-2, "weight_decay": 0.1, "steps": 300, "size": 64}
    f = rotational.forecast(rotational.rules.adamw(), norm=[0.3, 0.5], every=100, **given)
    assert f.initial.tolist() == [0.3, 0.5]
    assert f.neuron(1).initial == 0.5
    assert f.thinned(3).step.tolist() == [300]
    assert f.to_pandas().attrs["initial"] == [0.3, 0.5]
    assert ["0", "0.5"] in [line.split() for line in str(f.neuron(1)).splitlines()]
    assert "initial" not in f.series()
    layer = torch.nn.Linear(64, 8)
    p = rotational.predict(torch.optim.AdamW(layer.parameters(), lr=1e-2), steps=300, every=300, model=layer)
    norm = float((layer.weight.detach() ** 2).sum(1).mean() ** 0.5)
    assert f"norm {norm:.3g} to" in str(p)


def test_neurons_of_one_weight_have_no_direction():
    model = nn.Sequential(nn.Linear(1, 8), nn.Linear(8, 4))
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    assert list(rotational.predict(opt)[0].equilibrium) == [8]
    p = rotational.predict(opt, steps=20, model=model)[0]
    assert p.names == ("1.weight",)
    assert "no neurons" in str(rotational.predict(torch.optim.AdamW(model[0].parameters()), steps=5)[0])
