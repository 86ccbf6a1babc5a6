"""The simulator's steps against torch's own optimizers, on the same gradients, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rotational import rules
from rotational.walk import _directions

STEPS, SHAPE, LR = 30, (6, 10), 1e-2

# torch keeps NAdam's product of momenta in float32, and RAdam adds eps at another place
PAIRS = {
    "NAdam": (torch.optim.NAdam, {}, rules.nadam_l2(momentum_decay=4e-3), 1e-7),
    "RAdam": (torch.optim.RAdam, {}, rules.radam(), 1e-6),
    "Adamax": (torch.optim.Adamax, {}, rules.adamax(), 1e-10),
    "RMSprop": (
        torch.optim.RMSprop,
        {"momentum": 0.9, "centered": True},
        rules.rmsprop(momentum=0.9, centered=True),
        1e-10,
    ),
    "SGD, dampened": (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.3}, rules.sgd(0.9, dampening=0.3), 1e-10),
    # torch's Newton-Schulz runs in bfloat16
    "Muon": (torch.optim.Muon, {"weight_decay": 0.0}, rules.muon(), 0.03),
    "Muon, no look-ahead": (
        torch.optim.Muon,
        {"weight_decay": 0.0, "nesterov": False, "adjust_lr_fn": "match_rms_adamw"},
        rules.muon(nesterov=False, adjust_lr_fn="match_rms_adamw"),
        0.03,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_walk_steps_as_torch_does(name):
    make, options, rule, tolerance = PAIRS[name]
    rng = np.random.default_rng(0)
    w = torch.nn.Parameter(torch.from_numpy(rng.standard_normal(SHAPE)))
    opt = make([w], lr=LR, **options)
    directions = _directions(rule, SHAPE)
    next(directions)
    for step in range(STEPS):
        g = rng.standard_normal(SHAPE)
        before = w.detach().numpy().copy()
        w.grad = torch.from_numpy(g)
        opt.step()
        ours = -LR * directions.send(g)
        if name == "RAdam" and step < 5:
            continue  # not yet rectified: torch steps along the moving average itself
        theirs = w.detach().numpy() - before
        assert np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs), step
