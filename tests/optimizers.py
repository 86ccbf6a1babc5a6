"""What the laws of the optimizers range over: rules with their references, layers, gradients."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn

import reference
import rotational
from rotational import rules

# The rules: how to make one, the reference's direction and rotation, and whether decay is coupled ------------


def lion_rotation(lr, weight_decay):
    return rotational.equilibrium(rules.lion((0.9, 0.99)), lr, weight_decay).rotation


def sgd(**options):
    return (
        partial(rotational.SGD, **options),
        partial(reference.sgd, **options),
        partial(reference.sgd_rotation, **options),
        True,
    )


RULES = {
    "AdamW": (rotational.AdamW, reference.adam, reference.adamw_rotation, False),
    "AdamW with short memory": (
        partial(rotational.AdamW, betas=(0.5, 0.8), eps=1e-3),
        partial(reference.adam, 0.5, 0.8, 1e-3),
        partial(reference.adamw_rotation, beta1=0.5),
        False,
    ),
    "SGD": sgd(),
    "SGD with momentum": sgd(momentum=0.9),
    "SGD with dampening": sgd(momentum=0.8, dampening=0.3),
    "SGD with Nesterov": sgd(momentum=0.9, nesterov=True),
    "Lion": (rotational.Lion, reference.lion, lion_rotation, False),
}
LR, DECAY = 0.01, 0.1

every_rule = pytest.mark.parametrize("rule", RULES)
every_optimizer = pytest.mark.parametrize(
    "make", [RULES[r][0] for r in ("AdamW", "SGD", "SGD with momentum", "Lion")], ids=["AdamW", "SGD", "SGDM", "Lion"]
)


def layers(dtype=torch.float64):
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(7, 5),
            "convolution": nn.Conv2d(3, 4, 2),
            "embedding": nn.Embedding(6, 4),
            "transposed": nn.ConvTranspose2d(4, 3, 2),
            "grouped": nn.ConvTranspose2d(4, 6, 3, groups=2),
            "norm": nn.LayerNorm(5),
        }
    )
    return model.to(dtype)


def give_gradients(parameters, t, zero=()):
    """White noise of its own size for every parameter and row, or nothing but zeros."""
    generator = torch.Generator().manual_seed(1000 + t)
    for i, p in enumerate(parameters):
        g = torch.randn(p.shape, generator=generator, dtype=torch.float64) * 10.0 ** (i % 5 - 2)
        p.grad = (g * (0 if t in zero else 1)).to(p.dtype)


def weight(rows=5, size=8, dtype=torch.float64):
    return nn.Parameter(torch.randn(rows, size, generator=torch.Generator().manual_seed(0)).to(dtype))


def snapshot(opt):
    """All that an optimizer holds, as it is now."""
    groups = [{k: v for k, v in g.items() if k not in ("params", "neurons")} for g in opt.param_groups]
    ids = [[id(p) for p in g["params"]] for g in opt.param_groups]
    weights = [p.detach().clone() for g in opt.param_groups for p in g["params"]]
    state = [copy.deepcopy(dict(opt.state[p])) for g in opt.param_groups for p in g["params"] if p in opt.state]
    return copy.deepcopy(groups), ids, weights, state, len(opt.state)


def running(**options):
    """An optimizer of three groups after two steps: a rotational one, a plain one, one more."""
    model = layers()
    groups = rotational.groups(model, weight_decay=0.1)
    last = nn.Parameter(torch.randn(4, 5, dtype=torch.float64))
    opt = rotational.AdamW([*groups, {"params": [last], "param_names": ["last"], "weight_decay": 0.1}], **options)
    parameters = [*model.parameters(), last]
    for t in range(2):
        give_gradients(parameters, t)
        opt.step()
    return opt, parameters
