"""predict() along a scheduler: one forecast for each param group, with the norms that the model really has."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import rotational
from compare import assert_same
from rotational import forecast, rules


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32), nn.Linear(32, 16, bias=False))


def test_a_forecast_along_a_scheduler_starts_at_the_real_norms():
    model = net()
    opt = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 3000)
    before = copy.deepcopy((opt.state_dict(), scheduler.state_dict()))
    p = rotational.predict(opt, scheduler, steps=3000, model=model, every=10)[0]
    assert (opt.state_dict(), scheduler.state_dict()) == before
    assert p.names == ("0.weight", "2.weight")
    lr = [1e-2 * (0.5 + 0.5 * math.cos(math.pi * t / 3000)) for t in range(3000)]
    for i, weight in enumerate((model[0].weight, model[2].weight)):
        norm = float((weight.detach() ** 2).sum(1).mean() ** 0.5)
        alone = forecast(rules.adamw(), lr=lr, weight_decay=0.1, steps=3000, norm=norm, size=weight.shape[1], every=10)
        assert_same(p.forecast.neuron(i).norm, alone.norm, 1e-6)
        assert_same(p.forecast.neuron(i).rotation, alone.rotation, 1e-6)
    assert "0.weight: near the static rotation from step" in str(p)


def test_without_a_model_a_run_starts_at_equilibrium():
    opt = torch.optim.AdamW(net().parameters(), lr=1e-2, weight_decay=0.1)
    p = rotational.predict(opt, steps=2000)[0]
    assert p.names == ("fan-in 64", "fan-in 32")
    assert_same(
        p.forecast.norm[-1, 0], np.float64(rotational.equilibrium(rules.adamw(), 1e-2, 0.1, size=64).norm), 5e-3
    )
    assert any("No initial norm" in note for note in p.forecast.notes)


def test_a_measured_run_follows_its_forecast(tmp_path):
    """The random walk itself, under torch's own optimizer and scheduler."""
    torch.manual_seed(0)
    w = nn.Linear(64, 256, bias=False)
    opt = torch.optim.AdamW(w.parameters(), lr=3e-2, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 400)
    f = rotational.predict(opt, scheduler, steps=400, model=w, every=1)[0].forecast.neuron(0)
    with rotational.watch(w, opt, every=1, path=tmp_path / "log") as log:
        for _ in range(400):
            v = w.weight.detach()
            g = torch.randn_like(v)
            w.weight.grad = (g - (g * v).sum(1, keepdim=True) / (v * v).sum(1, keepdim=True) * v) / v.norm(
                dim=1, keepdim=True
            )
            opt.step()
            scheduler.step()
    series = log.read().series("weight")
    assert np.abs(f.norm / series.norm_rms - 1).max() < 0.02
    assert np.abs(f.rotation[:390] / series.rotation_rms[:390] - 1).max() < 0.05


def test_groups_of_many_learning_rates_are_one_propagation_and_the_same_as_alone():
    groups = [{"params": [nn.Parameter(torch.randn(4, 8 + i))], "lr": 1e-3 * (1 + i)} for i in range(4)]
    opt = torch.optim.AdamW(groups, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(opt, lambda t: 0.999**t)
    together = rotational.predict(opt, scheduler, steps=500)
    for i, p in enumerate(together):
        alone = forecast(
            rules.adamw(), lr=lambda t, i=i: 1e-3 * (1 + i) * 0.999**t, weight_decay=0.1, steps=500, size=8 + i
        )
        assert_same(p.forecast.rotation[:, 0], alone.rotation, 1e-6)


def test_a_held_group_keeps_its_norms_and_turns_as_it_is_told():
    model = net()
    opt = rotational.AdamW(rotational.groups(model, weight_decay=0.1), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.LinearLR(opt, 0.1, 1.0, 100)
    weights, gains = rotational.predict(opt, scheduler, steps=200, model=model)
    assert weights.forecast.held
    assert_same(weights.forecast.rotation[-1, 0], np.float64(weights.rotation * math.sqrt(10)), 1e-6)
    assert np.ptp(weights.forecast.norm[:, 0]) == 0
    assert gains.forecast is None
    assert "rotation held" in str(weights)


def test_muon_is_forecast_matrix_by_matrix():
    parameters = [nn.Parameter(torch.randn(16, 64)), nn.Parameter(torch.randn(64, 16))]
    opt = torch.optim.Muon(parameters, lr=0.02, weight_decay=0.1)
    p = rotational.predict(opt, steps=300)[0]
    assert p.forecast.rotation.shape == (300, 2)
    wide = rotational.equilibrium(rules.muon(), 0.02, 0.1, shape=(16, 64))
    assert_same(p.equilibrium[64].norm, wide.norm, 1e-9)
    assert_same(p.forecast.static[-1, 0], np.float64(wide.rotation), 1e-9)


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        (torch.optim.Adam, {"lr": 1e-3, "weight_decay": 0.1}, "depends on the size of the gradient"),
        (torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 0.0}, "Give the initial norm"),
    ],
)
def test_what_cannot_be_forecast_says_why(make, options, says):
    p = rotational.predict(make(net().parameters(), **options), steps=100)[0]
    assert p.forecast is None
    assert says in p.reason
    assert says in str(p)


def test_sgds_real_norms_are_left_out_and_it_is_said():
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-3, momentum=0.9)
    p = rotational.predict(opt, steps=100, model=model)[0]
    assert p.forecast.norm is None
    assert any("left out" in note for note in p.forecast.notes)


def test_a_scheduler_without_steps_is_a_sentence():
    opt = torch.optim.SGD(net().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="expected steps= beside it"):
        rotational.predict(opt, torch.optim.lr_scheduler.StepLR(opt, 10))
    with pytest.raises(ValueError, match="steps"):
        rotational.predict(opt, steps=-5)
