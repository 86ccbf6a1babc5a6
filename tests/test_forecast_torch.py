"""torch's optimizers as witness of forecasts: other rules, schedules and sizes than those of the simulator's tests."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from rotational import equilibrium, forecast, rules

OPTIM, SIZE, NEURONS, STEPS = torch.optim, 48, 1000, 500
LR, PRODUCT = 0.05, 1e-2

# rule, the optimizer without its decay, and whether that is L2, in the gradient
WITNESSES = {
    "sgd": (rules.sgd(0.95), lambda p: OPTIM.SGD(p, lr=LR, momentum=0.95), True),
    "nesterov": (rules.sgd(0.95, nesterov=True), lambda p: OPTIM.SGD(p, lr=LR, momentum=0.95, nesterov=True), True),
    "adamw": (rules.adamw((0.95, 0.98)), lambda p: OPTIM.AdamW(p, lr=LR, betas=(0.95, 0.98), weight_decay=0.0), False),
    "nadam": (
        rules.nadamw((0.85, 0.99), momentum_decay=4e-3),
        lambda p: OPTIM.NAdam(p, lr=LR, betas=(0.85, 0.99)),
        False,
    ),
}
T = np.arange(STEPS)
COURSES = {
    "stable, then linear decay": np.minimum(1, (T + 1) / 25) * np.where(T < 350, 1, (1 - T / STEPS) / 0.3),
    "three times up": np.where(T < 250, 1 / 3, 1.0),
}


def measured(make, coupled, lrs, weight_decay, norm):
    """Mean square rotation and norm of each step, for gradients orthogonal to the weights that shrink as 1/|w|."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(NEURONS, SIZE, generator=generator, dtype=torch.float64)
    p = torch.nn.Parameter(norm * w / w.norm(dim=1, keepdim=True))
    optimizer, found = make([p]), []
    for lr in lrs.tolist():
        w = p.detach().clone()
        unit = w / w.norm(dim=1, keepdim=True)
        g = torch.randn(w.shape, generator=generator, dtype=torch.float64)
        g -= (g * unit).sum(1, keepdim=True) * unit
        p.grad = g / math.sqrt(SIZE - 1) / w.norm(dim=1, keepdim=True)
        if coupled:
            p.grad += weight_decay * w
        else:
            p.data.mul_(1 - lr * weight_decay)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        after = p.detach()
        chord = (after / after.norm(dim=1, keepdim=True) - unit).norm(dim=1)
        found.append((float((2 * torch.asin(chord / 2)).square().mean()), float(after.square().sum(1).mean())))
    return np.array(found).T


@pytest.mark.parametrize("name", WITNESSES)
@pytest.mark.parametrize("course", COURSES)
@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_a_forecast_meets_torchs_optimizer(name, course, factor):
    rule, make, coupled = WITNESSES[name]
    lrs, needs = LR * COURSES[course], {"size": SIZE, "gradient_norm": 1.0}
    norm = factor * equilibrium(rule, LR, PRODUCT / LR, **needs).norm
    f = forecast(rule, lr=lrs, weight_decay=PRODUCT / LR, steps=STEPS, norm=norm, **needs)
    rotation, square = measured(make, coupled, lrs, PRODUCT / LR, norm)
    edges = [0, 1, 2, 4, 8, 16, 32, 64, 100, *range(120, STEPS + 1, 20)]
    for a, b in itertools.pairwise(edges):
        for said, got in ((f.rotation, rotation), (f.norm, square)):
            off = math.sqrt(np.sum(said[a:b] ** 2) / np.sum(got[a:b])) - 1
            assert abs(off) < (0.05 if b <= 100 else 0.02), (a, b)
