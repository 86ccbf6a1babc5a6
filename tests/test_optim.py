"""Laws of the rotational optimizers: the paper's algorithm, and the rotation that they hold."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import reference
import rotational
from compare import assert_same
from layouts import members
from optimizers import DECAY, LR, RULES, every_optimizer, every_rule, give_gradients, layers, weight
from rotational import rules
from rotational.neurons import ROWS

# The law ----------------------------------------------------------------------------------------------------


@every_rule
@pytest.mark.parametrize(
    ("center", "units", "memory", "for_each"),
    [
        (True, "neuron", 0.9, None),
        (False, "neuron", 0.9, None),
        (True, "tensor", 0.9, None),
        (False, "tensor", 0.9, None),
        (True, "neuron", 0.99, False),
        (False, "tensor", 0.0, False),
    ],
)
def test_two_hundred_steps_are_the_papers_algorithm(rule, center, units, memory, for_each):
    make, direction, rotation, coupled = RULES[rule]
    model, zero = layers(), {0, 30, 31, 32, 120}
    partition = rotational.partition(model)
    runs = {}
    for name, p in model.named_parameters():
        w = p.detach().numpy()
        if name in partition:
            every = [list(range(p.numel()))]
            positions = every if units == "tensor" else members(partition[name], tuple(p.shape))
            runs[name] = reference.rotational(w, positions, direction(), center, memory)
        else:
            runs[name] = reference.plain(w, direction(), coupled)
        next(runs[name])

    groups = rotational.groups(model, weight_decay=DECAY)
    opt = make(groups, lr=LR, center=center, units=units, update_memory=memory, foreach=for_each)
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda t: min(1, t / 20) * (1 + math.cos(math.pi * t / 200)) / 2)
    expected = {}
    for t in range(200):
        lr = opt.param_groups[0]["lr"]
        give_gradients(model.parameters(), t, zero)
        for name, p in model.named_parameters():
            numbers = (rotation(lr, DECAY),) if name in partition else (lr, 0.0)
            expected[name] = runs[name].send((p.grad.numpy(), *numbers))
        opt.step()
        schedule.step()
    for name, p in model.named_parameters():
        # A first gradient of one sign makes Adam's direction nearly constant, and amplifies rounding.
        assert_same(p, expected[name], 1e-7, name)


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lengths_do_not_drift(make, dtype):
    p = nn.Parameter(torch.randn(12, 40, generator=torch.Generator().manual_seed(0)).to(dtype))
    opt = make([p], lr=0.1, weight_decay=0.1)
    before = ROWS.norm(p.detach().double())
    for t in range(500):
        give_gradients([p], t)
        opt.step()
    after = ROWS.norm(p.detach().double())
    assert ((after / before - 1).abs() < (2**-8 if dtype == torch.bfloat16 else 1e-6)).all()


def test_held_rotation_is_what_neurons_turn_by():
    p = nn.Parameter(torch.randn(50, 64, dtype=torch.float64))
    opt = rotational.AdamW([p], lr=1e-2, weight_decay=0.1)
    squares = []
    for t in range(400):
        give_gradients([p], t)
        before = p.detach().clone()
        opt.step()
        squares.append(ROWS.angle(before, p.detach()).square().mean().item())
    held = opt.param_groups[0]["held"]
    assert_same(held, reference.adamw_rotation(1e-2, 0.1), 1e-12)
    assert_same(math.sqrt(sum(squares[50:]) / 350), math.atan(held), 1e-2)


@pytest.mark.parametrize("scale", [1e-20, 1e18])
@every_optimizer
def test_gradients_of_any_size_keep_weights_finite(make, scale):
    p, bias = (nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0))) for shape in ((6, 9), (6,)))
    opt = make([p, bias], lr=1e-3, weight_decay=0.1)
    norm = ROWS.norm(p.detach())
    for _ in range(20):
        p.grad, bias.grad = torch.randn(p.shape) * scale, torch.randn(6)
        opt.step()
    assert p.isfinite().all()
    assert_same(ROWS.norm(p.detach()), norm, 1e-6)
    assert (p.detach() != p.detach()[0, 0]).any()


# What rotation is held --------------------------------------------------------------------------------------


def turned_by(opt, p, t=0):
    give_gradients([p], t)
    before = p.detach().clone()
    opt.step()
    return torch.tan(ROWS.angle(before, p.detach())).mean().item()


def test_rotation_is_a_number_a_function_of_the_steps_or_a_rule():
    p = weight()
    opt = rotational.Adam([p], lr=0.1, weight_decay=0.01, rotation=0.02, update_memory=0)
    group = opt.param_groups[0]
    assert_same(turned_by(opt, p), 0.02, 1e-9)
    group["rotation"] = lambda step: 0.01 * (1 + step)  # one step has been taken
    assert_same(turned_by(opt, p), 0.02, 1e-9)
    assert_same(turned_by(opt, p), 0.03, 1e-9)
    group["rotation"] = rules.adamw()
    assert_same(turned_by(opt, p), reference.adamw_rotation(0.1, 0.01), 1e-9)
    group["rotation"] = rules.lion(linearised=True)
    assert_same(turned_by(opt, p), rotational.theory.rate(rules.lion(linearised=True), 0.1, 0.01), 1e-9)
    assert_same(group["held"], rotational.theory.rate(rules.lion(linearised=True), 0.1, 0.01), 1e-12)
    assert group["steps"] == 5


def test_a_rotation_of_its_own_needs_no_weight_decay():
    p = weight()
    opt = rotational.AdamW([p], weight_decay=0.0, rotation=0.02, update_memory=0)
    assert_same(turned_by(opt, p), 0.02, 1e-9)


def test_adam_includes_its_decay_in_the_direction():
    """L2 regularisation is not separable from Adam's direction: it stays in it."""
    (a, b), decay = (weight(), weight()), 0.5
    held = rotational.Adam([a], weight_decay=decay, rotation=0.01, center=False)
    free = rotational.Adam([b], weight_decay=0.0, rotation=0.01, center=False)
    for t in range(3):
        give_gradients([a], t)
        b.grad = a.grad + decay * b.detach()
        held.step()
        free.step()
    assert_same(a, b, 1e-12)


def test_sgds_decay_is_not_in_the_direction():
    """Coupled decay of a linear rule is radial: rotation stands in its place."""
    a, b = weight(), weight()
    opts = [rotational.SGD([p], momentum=0.9, weight_decay=d, rotation=0.1) for p, d in ((a, 0.5), (b, 0.0))]
    for t in range(3):
        give_gradients([a, b], t)
        b.grad = a.grad
        for opt in opts:
            opt.step()
    assert_same(a, b)
