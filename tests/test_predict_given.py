"""What predict() is given: schedulers by functions, gradients' sizes, and what is neither."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import rotational
from compare import assert_same
from nets import net
from rotational import forecast, rules

# LambdaLR, whose functions are called once for all groups ----------------------------------------------------------


def by_lambdas(taken: int = 0):
    """Five groups with learning rates of their own, two functions, and so many steps taken."""
    opt = torch.optim.AdamW(
        [{"params": [nn.Parameter(torch.zeros(4, 16 + i))], "lr": 1e-2 * 1.3**i} for i in range(5)], weight_decay=0.1
    )
    falls = [lambda t: 1 / (1 + 0.1 * t), lambda t: 0.99**t]
    scheduler = torch.optim.lr_scheduler.LambdaLR(opt, [falls[i % 2] for i in range(5)])
    for _ in range(taken):
        opt.step()
        scheduler.step()
    return opt, scheduler


@pytest.mark.parametrize("taken", [0, 7])
@pytest.mark.parametrize("by_hand", [False, True])
def test_lambdas_are_read_as_torch_steps_them(taken, by_hand):
    opt, scheduler = by_lambdas(taken)
    if by_hand:  # stands until the next step
        opt.param_groups[3]["lr"] = 0.123
    said = rotational.predict(opt, scheduler, steps=40)
    for t in range(40):
        for group, lr in zip(said, [g["lr"] for g in opt.param_groups], strict=True):
            # to the last bit; read the long way, multiples of one course are so to within rounding
            np.testing.assert_allclose(group.forecast.lr[t], lr, rtol=1e-11 if by_hand else 0)
        opt.step()
        scheduler.step()


def test_a_function_is_called_once_a_step_for_all_groups():
    calls = []
    opt, _ = by_lambdas()
    scheduler = torch.optim.lr_scheduler.LambdaLR(opt, lambda t: calls.append(t) or 1.0)
    calls.clear()
    rotational.predict(opt, scheduler, steps=30)
    assert calls == list(range(30))


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_a_factor_that_is_no_rate_is_refused_with_its_step(bad):
    opt, _ = by_lambdas()
    scheduler = torch.optim.lr_scheduler.LambdaLR(opt, lambda t: bad if t == 12 else 1.0)
    with pytest.raises(ValueError, match="at step 12"):
        rotational.predict(opt, scheduler, steps=30)


def test_weights_that_are_no_numbers_are_refused_by_name():
    model = torch.nn.Linear(4, 3)
    with torch.no_grad():
        model.weight[1, 2] = math.nan
    with pytest.raises(ValueError, match="the weights of weight hold NaN or infinity"):
        rotational.predict(torch.optim.AdamW(model.parameters()), steps=10, model=model)


def test_gradients_of_one_size_or_of_each_parameter_are_what_forecast_takes():
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-2, momentum=0.9)
    given = {"0.weight": 0.5, "2.weight": 2.0}
    each, one = (rotational.predict(opt, steps=500, model=model, gradient_norm=g)[0] for g in (given, 0.5))
    for i, (weight, size) in enumerate(((model[0].weight, 0.5), (model[2].weight, 2.0))):
        norm = float((weight.detach() ** 2).sum(1).mean() ** 0.5)
        told = {"lr": 0.1, "weight_decay": 1e-2, "steps": 500, "norm": norm, "size": weight.shape[1]}
        assert_same(each.forecast.norm[:, i], forecast(rules.sgd(0.9), gradient_norm=size, **told).norm, 1e-6)
        assert_same(one.forecast.norm[:, i], forecast(rules.sgd(0.9), gradient_norm=0.5, **told).norm, 1e-6)
    assert not any("initial norm" in note or "left out" in note for note in each.forecast.notes)
    assert_same(
        one.equilibrium[64].norm, rotational.equilibrium(rules.sgd(0.9), 0.1, 1e-2, gradient_norm=0.5).norm, 2e-2
    )


def test_adam_with_l2_is_forecast_where_all_gradients_are_told():
    model = net()
    opt = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-2)
    p = rotational.predict(opt, steps=200, model=model, gradient_norm=0.5)[0]
    assert p.forecast is not None
    assert "fan-in 32: rotation" in str(p)
    part = rotational.predict(opt, steps=200, model=model, gradient_norm={"0.weight": 0.5})[0]
    assert part.forecast is None
    assert "predict(..., gradient_norm=)" in part.reason


def test_a_model_that_was_given_is_not_said_to_be_missing():
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-3, momentum=0.9)
    notes = rotational.predict(opt, steps=100, model=model)[0].forecast.notes
    assert not any("No initial norm was given" in note for note in notes)
    assert any("starts at the equilibrium of its highest learning rate" in note for note in notes)


@pytest.mark.parametrize(
    ("gradient_norm", "with_model", "says"),
    [
        (-1.0, True, r"predict\(gradient_norm=-1.0\): expected a finite number with gradient_norm > 0"),
        (math.nan, True, "finite"),
        ({"0.weight": 0.0}, True, r"gradient_norm\['0.weight'\]"),
        ({"0.bias": 1.0}, True, r"'0.bias': ...}\): no parameter of this name has neurons; .* '0.weight', '2.weight'"),
        ({"0.weight": 1.0}, False, r"give model= too"),
    ],
)
def test_gradients_that_are_none_are_a_sentence(gradient_norm, with_model, says):
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=says):
        rotational.predict(opt, model=model if with_model else None, gradient_norm=gradient_norm)


def test_what_is_no_optimizer_or_no_scheduler_is_a_sentence():
    with pytest.raises(TypeError, match=r"^predict\(AdamW, a class\): expected an optimizer"):
        rotational.predict(torch.optim.AdamW)
    opt = torch.optim.AdamW(net().parameters())
    with pytest.raises(TypeError, match=r"^predict\(scheduler=function\): expected a scheduler of torch"):
        rotational.predict(opt, lambda t: 1.0, steps=10)
    with pytest.raises(ValueError, match=r"^predict\(ReduceLROnPlateau\): its learning rate waits for losses"):
        rotational.predict(opt, torch.optim.lr_scheduler.ReduceLROnPlateau(opt), steps=10)


LRS = torch.optim.lr_scheduler


@pytest.mark.parametrize(
    "make",
    [
        lambda o: LRS.CyclicLR(o, 1e-3, 1e-2, 20, cycle_momentum=False),
        lambda o: LRS.OneCycleLR(o, 1e-2, total_steps=201, cycle_momentum=False),
        lambda o: LRS.SequentialLR(o, [LRS.LinearLR(o, 0.1, 1.0, 50), LRS.CosineAnnealingLR(o, 150)], [50]),
        lambda o: LRS.LambdaLR(o, lambda t: min(1.0, t / 50)),
        lambda o: LRS.CosineAnnealingWarmRestarts(o, 50),
    ],
)
def test_every_scheduler_is_followed_as_its_rates_are(make):
    opt = torch.optim.AdamW([nn.Parameter(torch.randn(4, 8))], lr=1e-2, weight_decay=0.1)
    scheduler = make(opt)
    (lr,) = rotational.schedule.read_scheduler(scheduler, 200)
    p = rotational.predict(opt, scheduler, steps=200)[0]
    alone = forecast(rules.adamw(), lr=lr, weight_decay=0.1, steps=200, size=8)
    assert_same(p.forecast.rotation[:, 0], alone.rotation, 1e-9)
    assert (p.at, p.lr) == (int(lr.argmax()) + 1, lr.max())
    assert_same(p.rotation, rotational.equilibrium(rules.adamw(), float(lr.max()), 0.1).rotation, 1e-9)
