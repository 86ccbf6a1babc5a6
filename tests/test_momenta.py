"""A momentum on a schedule: read as torch sets it, and forecast beside random walks under torch's own optimizers."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as lrs

import rotational
from compare import assert_same
from rotational import forecast, momenta, rules

OPTIM = torch.optim
STEPS = 40


class Own(lrs.LRScheduler):
    """A scheduler of the user's own that sets a momentum."""

    def get_lr(self):
        for group in self.optimizer.param_groups:
            group["momentum"] = 0.9 - 0.01 * self.last_epoch
        return [group["lr"] for group in self.optimizer.param_groups]


SCHEDULERS = {
    "OneCycleLR": lambda o: lrs.OneCycleLR(o, 0.3, total_steps=STEPS + 1),
    "OneCycleLR in three phases": lambda o: lrs.OneCycleLR(o, 0.3, total_steps=STEPS + 1, three_phase=True),
    "OneCycleLR of several": lambda o: lrs.OneCycleLR(
        o, 0.3, total_steps=STEPS + 1, base_momentum=[0.7, 0.8, 0.7], max_momentum=[0.9, 0.95, 0.9]
    ),
    "CyclicLR": lambda o: lrs.CyclicLR(o, 0.01, 0.2, 7),
    "CyclicLR of several": lambda o: lrs.CyclicLR(o, 0.01, 0.2, 7, 3, base_momentum=[0.5, 0.6, 0.5]),
    "ChainedScheduler": lambda o: lrs.ChainedScheduler([lrs.CyclicLR(o, 0.01, 0.2, 7), lrs.ExponentialLR(o, 0.9)]),
    "SequentialLR": lambda o: lrs.SequentialLR(o, [lrs.LinearLR(o, 0.1, 1.0, 10), lrs.CyclicLR(o, 0.01, 0.2, 7)], [10]),
    "one of the user's own": Own,
}


def groups():
    return [{"params": [torch.nn.Parameter(torch.ones(2, 3))], "lr": 0.1 * (1 + i)} for i in range(3)]


@pytest.mark.parametrize("make", [lambda: OPTIM.SGD(groups(), momentum=0.9), lambda: OPTIM.AdamW(groups())])
@pytest.mark.parametrize("case", SCHEDULERS)
@pytest.mark.parametrize("before", [0, 5])
@pytest.mark.filterwarnings("ignore:Detected call of")
def test_what_is_read_is_what_torch_sets_bit_for_bit(make, case, before):
    if case == "one of the user's own" and "betas" in make().defaults:
        return
    opt = make()
    scheduler = SCHEDULERS[case](opt)
    for _ in range(before):
        scheduler.step()
    state = copy.deepcopy((opt.state_dict(), scheduler.state_dict()))
    found = momenta.read(scheduler, STEPS - before, call="predict")
    assert repr((opt.state_dict(), scheduler.state_dict())) == repr(state)
    for t in range(STEPS - before):
        assert [course[t] for course in found] == [momenta.momentum_of(group) for group in opt.param_groups]
        scheduler.step()


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda o: lrs.OneCycleLR(o, 0.3, total_steps=STEPS, cycle_momentum=False),
        lambda o: lrs.OneCycleLR(o, 0.3, total_steps=STEPS, base_momentum=0.9, max_momentum=0.9),
        lambda o: lrs.CosineAnnealingLR(o, STEPS),
        lambda o: lrs.LambdaLR(o, lambda t: 0.9**t),
    ],
)
def test_a_momentum_that_stays_is_none(scheduler):
    opt = OPTIM.SGD(groups(), momentum=0.9)
    assert momenta.read(scheduler(opt), STEPS, call="predict") == [None] * 3
    p = rotational.predict(opt, scheduler(opt), steps=STEPS)
    assert all("momentum" not in str(group) for group in p)


def test_groups_of_one_momentum_share_what_is_read():
    opt = OPTIM.SGD(groups(), momentum=0.9)
    first, second, third = momenta.read(SCHEDULERS["OneCycleLR of several"](opt), STEPS, call="predict")
    assert first is third
    assert first is not second


# Beside random walks ------------------------------------------------------------------------------------------

ONE_CYCLE = {
    "SGD": (lambda p: OPTIM.SGD(p, lr=0.1, weight_decay=1e-2, momentum=0.9), 1000, 0.04),
    "Nesterov": (lambda p: OPTIM.SGD(p, lr=0.1, weight_decay=1e-2, momentum=0.9, nesterov=True), 1000, 0.04),
    "AdamW": (lambda p: OPTIM.AdamW(p, lr=1e-2, weight_decay=0.3), 300, 0.015),
    "Adam with L2": (lambda p: OPTIM.Adam(p, lr=1e-2, weight_decay=0.02), 300, 0.015),
    "NAdam": (lambda p: OPTIM.NAdam(p, lr=1e-2, weight_decay=0.3, decoupled_weight_decay=True), 300, 0.02),
    "RMSprop": (lambda p: OPTIM.RMSprop(p, lr=1e-3, weight_decay=0.02, momentum=0.9), 1000, 0.02),
    "Lion": (lambda p: rotational.Lion(p, lr=3e-3, weight_decay=1.0, rotational=False), 1000, 0.035),
    "Muon": (lambda p: OPTIM.Muon(p, lr=1e-2, weight_decay=0.3), 300, 0.02),
}


def smooth(x, steps=20):
    """RMS over so many steps, for what scatters."""
    return np.sqrt(np.convolve(np.square(x), np.full(steps, 1 / steps), "valid"))


def walked(make, steps, neurons=256, size=64):
    """(rotation, norm) of a random walk under an optimizer and OneCycleLR, and the forecast of the same."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(size, neurons, bias=False)
    w = layer.weight
    opt = make([w])
    scheduler = lrs.OneCycleLR(opt, max_lr=opt.param_groups[0]["lr"], total_steps=steps + 1)
    found = rotational.predict(opt, scheduler, steps=steps, model=layer, every=1, gradient_norm=1.0)[0]
    rotation, norm = [], []
    for _ in range(steps):
        old, length = w.detach().clone(), w.detach().norm(dim=1, keepdim=True)
        g = torch.randn(neurons, size)
        g -= (g * old).sum(1, keepdim=True) / length**2 * old
        w.grad = g / (math.sqrt(size) * length)
        opt.step()
        scheduler.step()
        new = w.detach().double()
        chord = (new / new.norm(dim=1, keepdim=True) - old.double() / length.double()).norm(dim=1)
        rotation.append(float((2 * torch.asin(chord / 2)).square().mean().sqrt()))
        norm.append(float(new.square().sum(1).mean().sqrt()))
    return np.array(rotation), np.array(norm), found


@pytest.mark.parametrize(("make", "steps", "within"), ONE_CYCLE.values(), ids=ONE_CYCLE)
def test_a_one_cycle_turns_as_it_is_forecast(make, steps, within):
    rotation, norm, found = walked(make, steps)
    f = found.forecast.neuron(0)
    off = np.abs(smooth(rotation) / smooth(f.rotation) - 1)
    assert off[:100].max() < 0.045
    assert off[100:].max() < within
    assert np.abs(norm / f.norm - 1).max() < 0.025
    assert any("moves the momentum too, between 0.85 and 0.95" in note for note in f.notes)
    # held at the optimizer's own, the same forecast would be far off
    held = forecast(
        rotational.predict(make([torch.ones(4, 4)]))[0].rule,
        lr=f.lr,
        weight_decay=float(f.weight_decay[0]),
        steps=steps,
        norm=float(f.initial),
        size=64,
        gradient_norm=1.0,
        shape=(256, 64) if found.rule.name == "muon" else None,
    )
    assert np.abs(smooth(rotation) / smooth(held.rotation) - 1).max() > 1.5 * off.max()


def test_what_is_said_is_of_the_step_of_the_highest_lr():
    opt = OPTIM.AdamW([torch.nn.Parameter(torch.randn(8, 64))], lr=1e-2, weight_decay=0.1)
    p = rotational.predict(opt, lrs.OneCycleLR(opt, 1e-2, total_steps=1001), steps=1000)[0]
    assert (p.at, p.steps) == (300, 1000)
    assert_same(p.rule.memory.decay, 0.85, 1e-4)
    assert "at step 300 of 1,000, weight decay 0.1: rotation" in str(p)
    assert_same(p.rotation, math.sqrt(2 * p.lr * 0.1 * 0.15 / 1.85), 1e-3)
    assert_same(p.forecast.static[299, 0], p.rotation, 5e-3)


def test_lr_and_weight_decay_are_those_of_the_run():
    """Whatever stands in for them while it is propagated."""
    opt = rotational.Lion(groups(), weight_decay=0.1, rotational=False)
    scheduler = lrs.CyclicLR(opt, [0.001, 0.002, 0.001], [0.01, 0.05, 0.03], 7)
    for p, lr in zip(
        rotational.predict(opt, scheduler, steps=STEPS),
        rotational.schedule.read_scheduler(scheduler, STEPS),
        strict=True,
    ):
        assert_same(p.forecast.lr[:, 0], lr, 1e-9)
        assert_same(p.forecast.weight_decay, np.full((STEPS, 1), 0.1), 1e-9)
        assert_same(p.lr, lr.max(), 1e-12)


@pytest.mark.parametrize("make", [rotational.AdamW, rotational.SGD, rotational.Lion])
def test_a_held_group_holds_the_equilibrium_of_each_momentum(make):
    options = {"momentum": 0.95} if make is rotational.SGD else {}
    opt = make([torch.nn.Parameter(torch.randn(8, 64))], lr=1e-3, weight_decay=0.1, **options)
    scheduler = lrs.OneCycleLR(opt, 1e-3, total_steps=STEPS + 1)
    found = rotational.predict(opt, scheduler, steps=STEPS)[0]
    for t in range(STEPS):
        opt.param_groups[0]["params"][0].grad = torch.randn(8, 64)
        opt.step()
        scheduler.step()
        assert_same(found.forecast.rotation[t, 0], float(opt.param_groups[0]["held"]), 2e-3)
    assert "what is held is the equilibrium of each step" in str(found)


def test_an_angle_of_the_users_own_does_not_depend_on_the_momentum():
    opt = rotational.AdamW([torch.nn.Parameter(torch.randn(8, 64))], lr=1e-3, rotation=0.01)
    p = rotational.predict(opt, lrs.OneCycleLR(opt, 1e-3, total_steps=STEPS + 1), steps=STEPS)[0]
    assert np.ptp(p.forecast.rotation) == 0
    assert p.forecast.notes == ()


def test_a_rule_that_is_named_is_held_and_it_is_said():
    opt = OPTIM.SGD([torch.nn.Parameter(torch.randn(8, 64))], lr=0.1, momentum=0.9, weight_decay=0.1)
    scheduler = lrs.OneCycleLR(opt, 0.1, total_steps=STEPS + 1)
    p = rotational.predict(opt, scheduler, steps=STEPS, rule=rules.adamw())[0]
    assert "but rule= names one memory for every step" in str(p)
    alone = forecast(
        rules.adamw(),
        lr=rotational.schedule.read_scheduler(scheduler, STEPS)[0],
        weight_decay=0.1,
        steps=STEPS,
        size=64,
    )
    assert_same(p.forecast.rotation[:, 0], alone.rotation, 1e-9)


def test_one_rule_does_not_take_a_scheduler_that_moves_the_momentum():
    opt = OPTIM.SGD([torch.nn.Parameter(torch.randn(8, 64))], lr=0.1, momentum=0.9)
    scheduler = lrs.OneCycleLR(opt, 0.1, total_steps=STEPS + 1)
    with pytest.raises(ValueError, match=r"^forecast\(lr=OneCycleLR\): it moves the momentum too"):
        forecast(rules.sgd(0.9), lr=scheduler, weight_decay=0.1, steps=STEPS)
    plain = lrs.OneCycleLR(opt, 0.1, total_steps=STEPS + 1, cycle_momentum=False)
    forecast(rules.sgd(0.9), lr=plain, weight_decay=0.1, steps=STEPS)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 99, 100, 101, 4000])
def test_a_recurrence_in_blocks_is_the_recurrence(count):
    rng = np.random.default_rng(count)
    factor, term, y = rng.uniform(0, 1, count), rng.normal(size=count), 1.7
    found = momenta.recurrence(factor, term, y)
    for t in range(count):
        y = factor[t] * y + term[t]
        assert found[t] == pytest.approx(y, rel=1e-10, abs=1e-12)
