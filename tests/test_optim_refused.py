"""What the rotational optimizers refuse: with a sentence, and so that nothing has changed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import reference
import rotational
from compare import assert_same
from optimizers import give_gradients, running, snapshot, weight
from rotational import rules
from rotational.neurons import ROWS, Neurons


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        (
            rotational.AdamW,
            {"weight_decay": 0.0},
            r"AdamW\(weight_decay=0.0\): a rotational group needs weight_decay > 0",
        ),
        (rotational.SGD, {}, r"SGD\(weight_decay=0.0\): a rotational group needs"),
        (rotational.Lion, {}, r"Lion\(weight_decay=0.0\): a rotational group needs"),
        (rotational.Adam, {"weight_decay": 0.1}, r"Adam: with L2 .* Pass rotation="),
        (rotational.Adam, {}, r"Adam: with L2 .* Pass rotation="),
        (rotational.AdamW, {"rotation": rules.adam_l2()}, r"AdamW: with L2 .* Pass rotation="),
        (rotational.AdamW, {"lr": -1.0}, r"AdamW\(lr=-1.0\): expected a finite number"),
        (rotational.AdamW, {"lr": math.nan}, r"AdamW\(lr=nan\)"),
        (rotational.AdamW, {"lr": math.inf}, r"AdamW\(lr=inf\)"),
        (rotational.AdamW, {"lr": torch.tensor(-1.0)}, r"AdamW\(lr=tensor"),
        (rotational.AdamW, {"weight_decay": -0.1}, r"AdamW\(weight_decay=-0.1\)"),
        (rotational.AdamW, {"weight_decay": math.nan}, r"AdamW\(weight_decay=nan\)"),
        (rotational.AdamW, {"betas": (0.9, 1.0)}, r"betas\[1\]=1.0"),
        (rotational.AdamW, {"betas": (-0.1, 0.9)}, r"betas\[0\]=-0.1"),
        (rotational.AdamW, {"betas": (0.9,)}, r"expected two numbers"),
        (rotational.AdamW, {"eps": -1e-8}, r"eps=-1e-08"),
        (rotational.AdamW, {"eps": math.nan}, r"eps=nan"),
        (rotational.AdamW, {"update_memory": 1.0}, r"AdamW\(update_memory=1.0\)"),
        (rotational.AdamW, {"update_memory": -0.1}, r"AdamW\(update_memory=-0.1\)"),
        (rotational.AdamW, {"rotation": -0.1}, r"AdamW\(rotation=-0.1\).* radians per step"),
        (rotational.AdamW, {"rotation": math.inf}, r"AdamW\(rotation=inf\)"),
        (rotational.AdamW, {"rotation": lambda step: math.nan}, r"AdamW\(rotation=nan\)"),
        (rotational.AdamW, {"units": "layer"}, r"AdamW\(units='layer'\): expected one of 'neuron', 'tensor'"),
        (rotational.AdamW, {"units": Neurons((2,))}, r"parameter 0 of its group has only 2 axes"),
        (rotational.AdamW, {"amsgrad": True}, r"AdamW\(amsgrad=True\): .*no such mode"),
        (rotational.AdamW, {"fused": "quick"}, r"AdamW\(fused='quick'\): expected None, True, False or one of"),
        (rotational.AdamW, {"capturable": True}, r"AdamW\(capturable=True\)"),
        (rotational.AdamW, {"differentiable": True}, r"AdamW\(differentiable=True\)"),
        (rotational.Adam, {"amsgrad": True, "rotation": 0.1}, r"Adam\(amsgrad=True\)"),
        (rotational.SGD, {"momentum": 1.0, "weight_decay": 0.1}, r"momentum=1.0"),
        (rotational.SGD, {"momentum": -0.1, "weight_decay": 0.1}, r"momentum=-0.1"),
        (rotational.SGD, {"nesterov": True, "weight_decay": 0.1}, r"Nesterov momentum needs"),
        (rotational.Lion, {"lr": 0.5, "weight_decay": 3.0}, r"Lion\(lr=0.5, weight_decay=3\): .*must be below 1"),
    ],
)
def test_options_out_of_range_are_refused_with_a_sentence(make, options, says):
    p = nn.Parameter(torch.randn(3, 4) + 1)
    before = p.detach().clone()
    with pytest.raises(ValueError, match=says):
        make([p], **options)
    assert_same(p.detach(), before)


@pytest.mark.parametrize("options", [{"lr": "fast"}, {"weight_decay": None}, {"rotation": True}, {"rotation": "0.1"}])
def test_options_of_the_wrong_type_are_refused(options):
    with pytest.raises(TypeError, match=r"AdamW\(.*expected a number"):
        rotational.AdamW([weight()], **options)


def test_a_constructor_that_fails_in_its_second_group_leaves_the_weights_of_the_first():
    p, q = weight(), weight()
    before = p.detach().clone()
    with pytest.raises(ValueError, match="weight_decay"):
        rotational.AdamW([{"params": [p]}, {"params": [q], "weight_decay": 0.0}])
    assert_same(p.detach(), before)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda g: g.update(weight_decay=0.0), r"AdamW\(weight_decay=0.0\): a rotational group needs"),
        (lambda g: g.update(lr=math.nan), r"AdamW\(lr=nan\)"),
        (lambda g: g.update(lr=-1.0), r"AdamW\(lr=-1.0\)"),
        (lambda g: g.update(betas=(0.9, 2.0)), r"betas\[1\]=2.0"),
        (lambda g: g.update(rotation=math.nan), r"AdamW\(rotation=nan\)"),
        (lambda g: g.update(update_memory=1.5), r"AdamW\(update_memory=1.5\)"),
        (lambda g: g.update(units="head"), r"AdamW\(units='head'\)"),
        (lambda g: setattr(g["params"][0], "grad", g["params"][0].grad.to_sparse()), r"step: .* has a sparse gradient"),
    ],
)
def test_what_goes_wrong_in_the_last_group_changes_no_other(spoil, says):
    opt, parameters = running()
    give_gradients(parameters, 2)
    before = snapshot(opt)
    group = opt.param_groups[-1]
    kept = {k: group[k] for k in ("lr", "weight_decay", "betas", "rotation", "update_memory", "units")}
    spoil(group)
    with pytest.raises(ValueError, match=says):
        opt.step()
    group.update(kept)
    assert_same(list(snapshot(opt)), list(before))


def test_a_sparse_gradient_names_the_parameter_and_the_remedy():
    model = nn.Embedding(5, 4, sparse=True)
    opt = rotational.AdamW(rotational.groups(model, weight_decay=0.1))
    model(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(ValueError, match=r"AdamW.step: parameter 'weight' has a sparse gradient.*sparse=False"):
        opt.step()


def test_complex_parameters_are_refused():
    with pytest.raises(ValueError, match="parameter 0 of its group is complex"):
        rotational.AdamW([nn.Parameter(torch.randn(3, 4, dtype=torch.complex64))], weight_decay=0.1)


@pytest.mark.parametrize(
    ("group", "says"),
    [
        ({"weight_decay": 0.0}, "needs weight_decay > 0"),
        ({"lr": math.inf}, "lr=inf"),
        ({"neurons": [ROWS, ROWS]}, r"1 parameters but 2 entries in 'neurons'.*rotational.groups"),
        ({"neurons": [Neurons((3,))]}, "has only 2 axes"),
        ({"neurons": [Neurons((0, 1), split=3)]}, "does not divide into 3 groups"),
    ],
)
def test_a_group_that_is_refused_leaves_the_optimizer_as_it_was(group, says):
    opt, _ = running()
    before = snapshot(opt)
    p = nn.Parameter(torch.randn(4, 5) + 1)
    kept = p.detach().clone()
    with pytest.raises(ValueError, match=says):
        opt.add_param_group({"params": [p], "param_names": ["p"], **group})
    assert_same(list(snapshot(opt)), list(before))
    assert p not in opt.state
    assert_same(p.detach(), kept)


def test_a_group_may_be_added_later():
    opt, parameters = running()
    p = nn.Parameter(torch.randn(4, 5, dtype=torch.float64) + 1)
    opt.add_param_group({"params": [p], "param_names": ["p"], "weight_decay": 0.1, "update_memory": 0.0})
    assert (ROWS.mean(p.detach()).abs() < 1e-15).all()
    norm = ROWS.norm(p.detach())
    give_gradients([*parameters, p], 2)
    before = p.detach().clone()
    opt.step()
    assert_same(ROWS.norm(p.detach()), norm, 1e-12)
    assert_same(ROWS.angle(before, p.detach()).mean().item(), reference.adamw_rotation(1e-3, 0.1), 1e-4)


@pytest.mark.parametrize(
    ("group", "says"),
    [
        ({"rotatoinal": False}, "'rotatoinal'; write 'rotational'"),
        ({"wieght_decay": 0.3}, "write 'weight_decay'"),
        ({"center": "yes"}, "center='yes'.: expected True or False"),
        ({"rotational": "no"}, "rotational='no'.: expected True or False"),
        ({"foreach": 1}, "foreach=1.: expected True or False"),
        ({"betas": (1.0, 0.9)}, "AdamW: adamw.betas"),
    ],
)
def test_slips_in_a_group_are_a_sentence(group, says):
    with pytest.raises((TypeError, ValueError), match=says):
        rotational.AdamW([{"params": [weight()], **group}])
    rotational.AdamW([{"params": [weight()], "name": "mine", "initial_lr": 0.1, "max_momentum": 0.9}])
