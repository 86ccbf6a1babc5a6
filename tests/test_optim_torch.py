"""The rotational optimizers behave as torch's own: same numbers where they do not rotate, same manners elsewhere."""

from __future__ import annotations

import copy
import inspect
import io
import math
import pickle

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import reference
import rotational
from compare import assert_same
from rotational.neurons import ROWS

PAIRS = {
    "SGD": (rotational.SGD, torch.optim.SGD),
    "AdamW": (rotational.AdamW, torch.optim.AdamW),
    "Adam": (rotational.Adam, torch.optim.Adam),
}
OPTIONS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.1, "dampening": 0.5}),  # without momentum nothing is damped
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.01, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.3}),
    ("AdamW", {"betas": (0.0, 0.0), "weight_decay": 0.0}),
    ("Adam", {}),
    ("Adam", {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1}),
]
MAKES = {
    "SGD": lambda p, **o: rotational.SGD(p, lr=0.1, weight_decay=0.1, **o),
    "SGDM": lambda p, **o: rotational.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, **o),
    "AdamW": lambda p, **o: rotational.AdamW(p, lr=0.01, weight_decay=0.1, **o),
    "Adam": lambda p, **o: rotational.Adam(p, lr=0.01, weight_decay=0.1, rotation=0.02, **o),
    "Lion": lambda p, **o: rotational.Lion(p, lr=0.01, weight_decay=0.1, **o),
}
every_optimizer = pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def loss(model, t=0, rows=16):
    generator = torch.Generator().manual_seed(t)
    x = torch.randn(rows, 5, generator=generator, dtype=torch.float64).to(next(model.parameters()).dtype)
    return (model(x) - x[:, :3].sin()).square().mean()


def train(model, opt, steps, start=0, scheduler=None):
    for t in range(start, start + steps):
        opt.zero_grad()
        loss(model, t).backward()
        opt.step()
        if scheduler is not None:
            scheduler.step()


def everything(model, opt):
    """Weights, options and state, as they are now."""
    state = [copy.deepcopy(dict(opt.state[p])) for p in model.parameters() if p in opt.state]
    groups = [{k: copy.copy(v) for k, v in g.items() if k not in ("params", "neurons")} for g in opt.param_groups]
    return [[p.detach().clone() for p in model.parameters()], state, groups]


# The same numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
@pytest.mark.parametrize(
    ("dtype", "foreach", "maximize"),
    [
        (torch.float64, None, True),
        (torch.float32, None, False),
        (torch.float32, True, True),
        (torch.float32, False, False),
        (torch.bfloat16, True, False),
    ],
    ids=str,
)
def test_rotational_false_is_torchs_own(name, options, dtype, foreach, maximize):
    """Bit for bit."""
    ours, theirs = network(dtype), network(dtype)
    make, torchs = PAIRS[name]
    opt = make(ours.parameters(), rotational=False, foreach=foreach, fused=False, maximize=maximize, **options)
    other = torchs(theirs.parameters(), foreach=foreach, maximize=maximize, **options)
    sign = -1 if maximize else 1
    for t in range(200):
        for model, each in ((ours, opt), (theirs, other)):
            each.zero_grad()
            (sign * loss(model, t)).backward()
            each.step()
    assert_same(dict(ours.state_dict()), dict(theirs.state_dict()))


@pytest.mark.parametrize("maximize", [False, True])
def test_lion_without_rotation_is_lion(maximize):
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(4, 5, dtype=torch.float64))
    expected = reference.plain(p.detach().numpy(), reference.lion(0.8, 0.95), coupled=False)
    next(expected)
    opt = rotational.Lion([p], lr=0.01, betas=(0.8, 0.95), weight_decay=0.3, maximize=maximize, rotational=False)
    for _ in range(200):
        p.grad = torch.randn_like(p)
        w = expected.send((p.grad.numpy() * (-1 if maximize else 1), 0.01, 0.3))
        opt.step()
    assert_same(p, w, 1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_gains_and_biases_in_a_rotational_group_take_torchs_rule(name):
    make, torchs = PAIRS[name]
    a, b = ([nn.Parameter(torch.randn(s, dtype=torch.float64)) for s in ((4, 5), (5,), ())] for _ in "ab")
    for x, y in zip(a, b, strict=True):
        y.data.copy_(x.data)
    options = {"lr": 0.05, "weight_decay": 0.1}
    opt, other = make(a, rotation=0.01, **options), torchs(b, **options)
    for _ in range(20):
        for x, y in zip(a, b, strict=True):
            x.grad = y.grad = torch.randn_like(x)
        opt.step()
        other.step()
    assert_same(a[1:], b[1:], 1e-12)
    assert (a[0] != b[0]).all()


@pytest.mark.parametrize("name", PAIRS)
def test_arguments_have_torchs_names_order_and_defaults(name):
    ours, theirs = (inspect.signature(c.__init__).parameters for c in PAIRS[name])
    positional = [k for k, p in theirs.items() if p.kind == p.POSITIONAL_OR_KEYWORD]
    assert [k for k, p in ours.items() if p.kind == p.POSITIONAL_OR_KEYWORD] == positional
    missing = {"decoupled_weight_decay"}  # AdamW is a class of its own
    for key, p in theirs.items():
        if key not in missing:
            assert ours[key].default == p.default, key


def test_momentum_may_be_switched_on_later():
    ours, theirs = network(), network()
    opt = rotational.SGD(ours.parameters(), lr=0.1, rotational=False)
    other = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for options in ({}, {"momentum": 0.9, "dampening": 0.5}, {"momentum": 0.5}):
        for model, each in ((ours, opt), (theirs, other)):
            each.param_groups[0].update(options)
            train(model, each, 3)
    assert_same(dict(ours.state_dict()), dict(theirs.state_dict()), 1e-12)


# The same manners -------------------------------------------------------------------------------------------

SCHEDULERS = {
    "LambdaLR": lambda opt: lr_scheduler.LambdaLR(opt, lambda t: min(1.0, t / 10)),
    "StepLR": lambda opt: lr_scheduler.StepLR(opt, 5),
    "CosineAnnealingLR": lambda opt: lr_scheduler.CosineAnnealingLR(opt, 20),
    "CosineAnnealingWarmRestarts": lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, 7),
    "ChainedScheduler": lambda opt: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(opt, 0.1, total_iters=5), lr_scheduler.ExponentialLR(opt, 0.9)]
    ),
    "OneCycleLR": lambda opt: lr_scheduler.OneCycleLR(
        opt, 0.05, total_steps=30, cycle_momentum={"momentum", "betas"} & opt.defaults.keys() != set()
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS)
@pytest.mark.parametrize("name", PAIRS)
def test_schedulers_drive_what_torchs_own_follows(schedule, name):
    make, torchs = PAIRS[name]
    options = {"momentum": 0.9} if name == "SGD" else {}
    ours, theirs = network(), network()
    opt = make(ours.parameters(), lr=0.02, weight_decay=0.1, rotational=False, **options)
    other = torchs(theirs.parameters(), lr=0.02, weight_decay=0.1, **options)
    train(ours, opt, 25, scheduler=schedule(opt))
    train(theirs, other, 25, scheduler=schedule(other))
    assert_same(dict(ours.state_dict()), dict(theirs.state_dict()), 1e-11)


def test_schedulers_drive_the_rotation():
    model = network()
    opt = rotational.AdamW(model.parameters(), lr=0.02, weight_decay=0.1, betas=(0.9, 0.99))
    scheduler = SCHEDULERS["OneCycleLR"](opt)
    group, held = opt.param_groups[0], []
    for t in range(25):
        lr, (b1, _) = group["lr"], group["betas"]
        train(model, opt, 1, t)
        held.append(group["held"])
        assert_same(held[-1], reference.adamw_rotation(lr, 0.1, b1), 1e-12)
        scheduler.step()
    assert len(set(held)) == 25


def test_lr_as_a_tensor():
    a, b = network(), network()
    for model, lr in ((a, 0.01), (b, torch.tensor(0.01, dtype=torch.float64))):
        opt = rotational.AdamW(model.parameters(), lr=lr, weight_decay=0.1)
        train(model, opt, 5, scheduler=lr_scheduler.StepLR(opt, 2))
    assert_same(dict(b.state_dict()), dict(a.state_dict()), 1e-12)


@every_optimizer
def test_a_closure_is_run_with_gradients_and_its_loss_returned(make):
    a, b = network(), network()
    opt = make(a.parameters())
    seen = []

    def closure():
        opt.zero_grad()
        seen.append(loss(a))
        seen[-1].backward()
        return seen[-1]

    with torch.no_grad():
        returned = [opt.step(closure) for _ in range(3)]
    assert returned == seen
    other = make(b.parameters())
    for _ in range(3):
        train(b, other, 1)
    assert_same(dict(a.state_dict()), dict(b.state_dict()))
    assert other.step() is None


@every_optimizer
def test_accumulated_gradients_are_one_gradient(make):
    a, b = network(), network()
    opt, other = make(a.parameters()), make(b.parameters())
    for t in range(3):
        opt.zero_grad()
        other.zero_grad()
        for k in range(4):
            loss(a, 10 * t + k).div(4).backward()
        sum(loss(b, 10 * t + k) for k in range(4)).div(4).backward()
        opt.step()
        other.step()
    assert_same(dict(a.state_dict()), dict(b.state_dict()), 1e-9)


@every_optimizer
def test_clipped_gradients_are_smaller_gradients(make):
    a, b = network(), network()
    opt, other = make(a.parameters()), make(b.parameters())
    for t in range(5):
        for model, each in ((a, opt), (b, other)):
            each.zero_grad()
            loss(model, t).backward()
        norm = nn.utils.clip_grad_norm_(a.parameters(), 0.1)
        assert norm > 0.1
        for p in b.parameters():
            p.grad *= 0.1 / (norm + 1e-6)
        opt.step()
        other.step()
    assert_same(dict(a.state_dict()), dict(b.state_dict()), 1e-12)


@every_optimizer
def test_a_step_that_the_scaler_skips_changes_no_bit(make):
    model = network(torch.float32)
    opt = make(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for t in range(6):
        opt.zero_grad()
        scaler.scale(loss(model, t)).backward()
        if t == 3:
            model[0].weight.grad[1, 2] = math.inf
        before = everything(model, opt)
        scaler.step(opt)
        scaler.update()
        after = everything(model, opt)
        if t == 3:
            assert_same(after, before)
        else:
            assert (after[0][0] != before[0][0]).any()
    assert scaler.get_scale() == 2.0**9


@every_optimizer
def test_a_frozen_parameter_stays(make):
    model = network()
    model[3].weight.requires_grad_(False)
    opt = make(model.parameters())
    before = model[3].weight.clone()
    train(model, opt, 3)
    assert_same(model[3].weight, before)
    model[3].weight.requires_grad_(True)
    norm = ROWS.norm(before)
    train(model, opt, 3)
    assert_same(ROWS.norm(model[3].weight.detach()), norm, 1e-12)
    assert (model[3].weight != before).all()


@every_optimizer
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "save"])
def test_a_copy_goes_on_bit_for_bit(make, how):
    model = network()
    opt = make(rotational.groups(model, weight_decay=0.1))
    train(model, opt, 3)
    if how == "deepcopy":
        copied, opt2 = copy.deepcopy((model, opt))
    elif how == "pickle":
        copied, opt2 = pickle.loads(pickle.dumps((model, opt)))
    else:
        file = io.BytesIO()
        torch.save((model, opt), file)
        file.seek(0)
        copied, opt2 = torch.load(file, weights_only=False)
    train(model, opt, 3, 3)
    train(copied, opt2, 3, 3)
    assert_same(everything(copied, opt2), everything(model, opt))
    p = nn.Parameter(torch.randn(3, 4) + 1)
    opt2.add_param_group({"params": [p], "param_names": ["p"], "weight_decay": 0.1})
    assert (ROWS.mean(p.detach()).abs() < 1e-6).all()


def test_hooks_see_the_step():
    model, seen = network(), []
    opt = rotational.AdamW(model.parameters())
    opt.register_step_pre_hook(lambda *_: seen.append(model[0].weight.detach().clone()))
    opt.register_step_post_hook(lambda *_: seen.append(model[0].weight.detach().clone()))
    train(model, opt, 1)
    assert len(seen) == 2
    assert (seen[0] != seen[1]).any()


def test_training_works():
    """A loss falls: nothing above would notice a step uphill."""
    for make in MAKES.values():
        model = network()
        before = loss(model, 999, rows=200).item()
        train(model, make(rotational.groups(model, weight_decay=0.1)), 150)
        assert loss(model, 999, rows=200).item() < 0.6 * before
