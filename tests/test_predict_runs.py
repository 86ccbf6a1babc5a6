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
from nets import net
from rotational import forecast, rules, runs, walk


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
    assert f"0.weight: near the static rotation from step {p.forecast.neuron(0).settles:,}" in str(p)


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


@pytest.fixture
def counted(monkeypatch):
    """How many neurons each propagation had."""
    calls = []

    def counting(call, setting, *rest, **options):
        calls.append(len(setting.size))
        return propagate(call, setting, *rest, **options)

    propagate = runs.propagate
    monkeypatch.setattr(runs, "propagate", counting)
    return calls


def many(shapes, **options):
    return [{"params": [nn.Parameter(torch.randn(shape))], "lr": 1e-3 * (1 + i), **options} for i, shape in shapes]


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda opt: torch.optim.lr_scheduler.LambdaLR(opt, lambda t: 0.99**t),
        lambda opt: torch.optim.lr_scheduler.CosineAnnealingLR(opt, 300),  # multiplies step by step, and rounds
        lambda opt: None,
    ],
)
def test_multiples_of_one_schedule_are_one_propagation(counted, scheduler):
    opt = torch.optim.AdamW(many([(i, (4, 8 + i)) for i in range(40)]), weight_decay=0.1)
    rotational.predict(opt, scheduler(opt), steps=300)
    assert counted == [40]


def test_schedules_that_differ_are_not_mixed(counted):
    opt = torch.optim.AdamW(many([(i, (4, 8)) for i in range(6)]), weight_decay=0.1)
    falls = [lambda t: 0.99**t, lambda t: 0.98**t]
    scheduler = torch.optim.lr_scheduler.LambdaLR(opt, [falls[i % 2] for i in range(6)])
    p = rotational.predict(opt, scheduler, steps=200)
    assert counted == [3, 3]
    for i, group in enumerate(p):
        alone = forecast(
            rules.adamw(),
            lr=[1e-3 * (1 + i) * falls[i % 2](t) for t in range(200)],
            weight_decay=0.1,
            steps=200,
            size=8,
        )
        assert_same(group.forecast.rotation[:, 0], alone.rotation, 1e-9)
        assert_same(group.forecast.lr[:, 0], alone.lr, 1e-9)


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.SGD])
def test_weight_decays_that_differ_are_one_propagation_and_the_same_as_alone(counted, make):
    groups = [{"params": [nn.Parameter(torch.randn(4, 8 + i))], "weight_decay": 0.3 / (1 + i)} for i in range(5)]
    opt = make([*groups, {"params": [nn.Parameter(torch.randn(4, 8))], "weight_decay": 0.0}], lr=1e-2)
    together = rotational.predict(opt, torch.optim.lr_scheduler.CosineAnnealingLR(opt, 300), steps=300)
    assert counted == [5]  # without decay there is no equilibrium to start from
    assert "no equilibrium" in together[5].reason or "gradient" in together[5].reason
    for i, p in enumerate(together[:5]):
        lr = [1e-2 * (0.5 + 0.5 * math.cos(math.pi * t / 300)) for t in range(300)]
        alone = forecast(p.rule, lr=lr, weight_decay=0.3 / (1 + i), steps=300, size=8 + i)
        for name in ("rotation", "static", "weight_decay", "timescale"):
            assert_same(getattr(p.forecast, name)[:, 0], getattr(alone, name), 1e-9)


@pytest.mark.parametrize("decay", ["decoupled", "independent", "adamc"])
def test_a_decay_that_would_take_the_whole_weight_is_found_in_the_neuron_that_has_it(decay):
    kind = runs.Kind(8, 1.0, "rows", (4, 8))
    lr = np.full(20, 1e-2)
    top = 2.0 if decay == "independent" else 200.0
    groups = [runs.Planned(rules.adamw(decay=decay), lr, wd, (kind,)) for wd in (0.1, top)]
    fine, wrong = runs.forecasts(groups, 20, 1)
    assert fine.forecast is not None
    assert "would remove the whole weight" in wrong.reason


def test_a_group_prints_where_its_forecast_is_off():
    model = nn.Linear(64, 8, bias=False)
    nn.init.normal_(model.weight, std=1e-3)
    opt = torch.optim.RMSprop(model.parameters(), lr=1e-2, weight_decay=0.0)
    p = rotational.predict(opt, steps=100, model=model)[0]
    assert any("not corrected for bias" in note for note in p.forecast.notes)
    assert all(f"  {note}" in str(p).splitlines() for note in p.forecast.notes)


def test_muons_matrices_of_one_shape_are_one_propagation(counted):
    shapes = [(i, (8, 16) if i % 3 else (16, 8)) for i in range(12)]
    p = rotational.predict(torch.optim.Muon(many(shapes), weight_decay=0.1), steps=100)
    assert sorted(counted) == [4, 8]
    assert [g.names for g in p[:2]] == [("16x8",), ("8x16",)]
    for i in (0, 7):
        alone = forecast(rules.muon(), lr=1e-3 * (1 + i), weight_decay=0.1, steps=100, shape=shapes[i][1])
        assert_same(p[i].forecast.rotation[:, 0], alone.rotation, 1e-9)


def test_a_group_that_cannot_be_forecast_leaves_the_others_theirs():
    opt = torch.optim.AdamW(many([(0, (4, 8)), (99, (4, 8))]), weight_decay=1.0)
    weak, strong = rotational.predict(opt, torch.optim.lr_scheduler.LambdaLR(opt, lambda t: 1 + t), steps=50)
    assert weak.forecast is not None
    assert "would remove the whole weight" in strong.reason


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RAdam])
def test_without_decay_norms_grow_as_the_walk_does(make):
    """L2 of nothing is no decay: what Adam does then does not depend on the size of its gradient."""
    model = nn.Linear(64, 256, bias=False)
    opt = make(model.parameters(), lr=1e-2, weight_decay=0.0)
    p = rotational.predict(opt, steps=400, model=model)[0]
    norm = model.weight.detach().norm(dim=1).numpy()
    trace = walk(p.rule, lr=1e-2, weight_decay=0.0, size=64, neurons=256, steps=400, norm=norm)
    assert_same(p.forecast.norm[-1, 0], np.sqrt(np.mean(trace.norm[-1] ** 2)), 0.02)
    assert_same(p.forecast.rotation[-1, 0], np.sqrt(np.mean(trace.rotation[-1] ** 2)), 0.03)
    assert "no equilibrium without decay" in str(p)


@pytest.mark.parametrize(("make", "step"), [(torch.optim.AdamW, 0.08), (torch.optim.Muon, 0.01)])
def test_weights_that_start_at_zero_are_counted_from_their_first_step(make, step):
    model = nn.Linear(64, 64, bias=False)
    nn.init.zeros_(model.weight)
    p = rotational.predict(make(model.parameters(), lr=1e-2, weight_decay=0.1), steps=50, model=model)[0]
    assert 0.1 * step < p.forecast.norm[0, 0] < 4 * step
    assert any("start at zero" in note for note in p.forecast.notes)
    assert np.isfinite(p.forecast.rotation).all()


def test_the_models_neurons_are_those_of_its_layers():
    model = nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False)
    opt = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    assert list(rotational.predict(opt)[0].equilibrium) == [27]
    p = rotational.predict(opt, steps=20, model=model)[0]
    assert list(p.equilibrium) == list(rotational.predict(opt, model=model)[0].equilibrium) == [18]
    norm = rotational.partition(model)["weight"].norm(model.weight.detach())
    f = forecast(rules.adamw(), lr=1e-2, weight_decay=0.1, steps=20, size=18, norm=float((norm**2).mean() ** 0.5))
    assert_same(p.forecast.norm[:, 0], f.norm, 1e-6)


@pytest.mark.parametrize("units", ["neuron", "tensor"])
@pytest.mark.parametrize("center", [True, False])
def test_a_held_group_is_forecast_as_it_will_be_held(units, center):
    """Weights that were loaded after the optimizer was made, a rate of the user's own, an lr that is 0 at first."""
    model = nn.Linear(16, 8)
    opt = rotational.AdamW(
        [model.weight], lr=1e-2, weight_decay=0.1, units=units, center=center, rotation=lambda step: 0.01 * (1 + step)
    )
    nn.init.uniform_(model.weight, 0.5, 1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(opt, lambda t: t / 5)
    for taken in (0, 3):
        f = rotational.predict(opt, scheduler, steps=3, model=model)[0].forecast
        for t in range(3):
            model.weight.grad = torch.randn(8, 16)
            opt.step()
            scheduler.step()
            assert_same(f.rotation[t, 0], np.float64(opt.param_groups[0]["held"]), 1e-9)
        w = model.weight.detach() if units == "neuron" else model.weight.detach().reshape(1, -1)
        assert_same(f.norm[-1, 0], float((w**2).sum(1).mean() ** 0.5), 1e-5)
        assert opt.param_groups[0]["steps"] == taken + 3


def test_a_held_group_names_what_turns_and_a_rate_that_fails_is_a_reason():
    parameters = [nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.randn(4, 8))]
    p = rotational.predict(rotational.AdamW(parameters, weight_decay=0.1), steps=10)[0]
    assert p.names == ("fan-in 8",)
    opt = rotational.AdamW(parameters, rotation=lambda step: 0.1 - 0.01 * step)
    p = rotational.predict(opt, steps=100)[0]
    assert p.forecast is None
    assert "expected" in p.reason


def test_a_held_group_keeps_its_norms_and_turns_as_it_is_told():
    model = net()
    opt = rotational.AdamW(rotational.groups(model, weight_decay=0.1), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.LinearLR(opt, 0.1, 1.0, 100)
    weights, gains = rotational.predict(opt, scheduler, steps=200, model=model)
    assert weights.forecast.held
    assert_same(weights.forecast.rotation[-1, 0], np.float64(weights.rotation), 1e-6)
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
        (torch.optim.Adamax, {"lr": 1e-3, "weight_decay": 0.1}, "depends on the size of the gradient"),
        (torch.optim.SGD, {"lr": 1e-3, "weight_decay": 0.0}, "in units of a gradient that is not known"),
        (torch.optim.AdamW, {"lr": 0.0}, "nothing moves"),
        (torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 0.0}, "no equilibrium to start from: predict(..., model=)"),
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
    with pytest.raises(ValueError, match=r"predict\(every=...\): expected steps= beside it"):
        rotational.predict(opt, every=5)
    with pytest.raises(ValueError, match="steps"):
        rotational.predict(opt, steps=-5)


def test_a_scheduler_or_a_model_of_another_is_a_sentence():
    model, other = net(), net()
    opt = torch.optim.AdamW(model.parameters())
    for groups in (other.parameters(), [{"params": [p]} for p in other.parameters()]):
        scheduler = torch.optim.lr_scheduler.StepLR(torch.optim.AdamW(groups), 10)
        with pytest.raises(ValueError, match=r"predict\(scheduler=StepLR\): it drives another optimizer"):
            rotational.predict(opt, scheduler, steps=10)
    with pytest.raises(ValueError, match=r"predict\(model=Sequential\): parameter 0 of group 0 is not one"):
        rotational.predict(opt, steps=10, model=other)


def test_at_most_two_thousand_steps_are_kept():
    opt = torch.optim.AdamW(net().parameters())
    for steps, kept in ((1999, 1999), (3999, 1999), (10_000, 2000)):
        assert len(rotational.predict(opt, steps=steps)[0].forecast.step) == kept


def test_a_forecast_prints_a_line_for_each_parameter():
    model = net()
    opt = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    warm = torch.optim.lr_scheduler.LambdaLR(opt, lambda t: min(1.0, t / 100))
    first, *lines = str(rotational.predict(opt, warm, steps=1000, model=model)[0]).splitlines()
    assert "lr 0.01 at step 101 of 1,000" in first  # and not that of a warm-up's first step, 0
    assert len(lines) == 2
    f = rotational.predict(opt, warm, steps=1000, model=model)[0].forecast.neuron(0)
    told = " ".join(f"{f.at(step)['rotation']:.2e}" for step in (100, 500, 900, 1000))
    assert f"rotation at 10/50/90/100% of the run {told}, norm {f.norm[0]:.3g} to {f.norm[-1]:.3g}" in lines[0]
