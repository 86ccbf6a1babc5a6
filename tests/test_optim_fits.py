"""What a step asks of state and gradients before it writes: kernels are given addresses, and ask no more."""

from __future__ import annotations

import copy

import pytest
import torch

import rotational
from compare import assert_same
from rotational.neurons import ROWS, Neurons
from stepped import MAKE, every_rung, noise, refused, stepped, weight

# State of other weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize("rows", [11, 9, 400])
def test_a_checkpoint_of_other_shapes_is_refused_before_anything_changes(make, rows):
    """(10, 64) and (11, 64) have the same strides."""
    _, first = stepped(make)
    p, opt = stepped(make, rows)
    kept = copy.deepcopy(opt.state[p])
    with pytest.raises(ValueError, match=rf"load_state_dict: the .* of parameter 0 .*\[10, .*\[{rows}, 64\]"):
        opt.load_state_dict(first.state_dict())
    assert_same(dict(opt.state[p]), dict(kept))
    opt.step()


@every_rung
@pytest.mark.parametrize("make", ["AdamW", "SGD", "plain"])
def test_larger_weights_with_the_old_state_are_refused(make, fused):
    p, opt = stepped(make, fused=fused)
    p.data = noise(400, 64)
    p.grad = noise(400, 64)
    refused(opt, p, r"step: the .* of parameter 0 of its group has the shape \[10, 64\], its weights \[400, 64\]")
    opt.state.pop(p)
    opt.step()  # what the message says to write


@every_rung
def test_larger_weights_without_moments_have_their_length_noted_anew(fused):
    p, opt = stepped("SGD without memory", fused=fused)
    p.data, p.grad = noise(400, 64), noise(400, 64)
    opt.step()
    assert_same(ROWS.norm(p.detach()), ROWS.norm(ROWS.center(noise(400, 64))), 1e-6)


@every_rung
@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("exp_avg", torch.zeros(4, 64), r"exp_avg .* shape \[4, 64\], its weights \[10, 64\]"),
        ("exp_avg_sq", torch.zeros(10), r"exp_avg_sq .* shape \[10\]"),
        ("exp_avg", torch.zeros(10, 64, dtype=torch.int32), "no dense tensor of real numbers"),
        ("exp_avg", torch.zeros(10, 64).to_sparse(), "no dense tensor of real numbers"),
        ("exp_avg", torch.zeros(10, 64, device="meta"), "is on meta, its weights on cpu"),
        ("update_rms", torch.zeros(3, 1), r"update_rms .* is \[3, 1\]; expected \[10, 1\]"),
        ("update_rms", 5, r"update_rms .* is int; expected \[10, 1\]"),
        ("step", "seven", "the step of .* is 'seven'; expected a number of steps"),
        ("turns", torch.zeros(2), "the turns of"),
    ],
    ids=str,
)
def test_state_of_another_kind_is_refused(fused, key, value, says):
    p, opt = stepped(fused=fused)
    good = opt.state[p][key]
    opt.state[p][key] = value
    before = p.detach().clone()
    with pytest.raises(ValueError, match=says):
        opt.step()
    assert_same(p.detach(), before)
    opt.state[p][key] = good
    opt.step()
    assert opt.state[p]["step"] == 2


@every_rung
@pytest.mark.parametrize("number", [5, 5.0, torch.tensor([5.0]), torch.tensor(5.0, dtype=torch.float64)], ids=str)
def test_counters_may_be_numbers(fused, number):
    p, opt = stepped(fused=fused)
    opt.state[p]["step"], opt.state[p]["turns"] = number, number
    opt.step()
    for key in ("step", "turns"):
        assert opt.state[p][key].dtype is torch.float32
        assert opt.state[p][key] == 6


def test_rows_and_columns_of_a_square_are_not_taken_for_each_other():
    p, opt = stepped(size=10)
    opt.param_groups[0]["units"] = Neurons(axes=(1,))
    opt.step()
    assert opt.state[p]["norm"].shape == (1, 10)


def test_a_shape_that_does_not_fit_the_partition_is_refused():
    p = weight(6, 9)
    parts = Neurons(parts=(("q", 2), ("k", 4)))
    opt = rotational.SGD([{"params": [p], "neurons": [parts]}], weight_decay=0.1)
    opt.step()
    p.data, p.grad = noise(7, 9), noise(7, 9)
    refused(opt, p, "the parts of parameter 0 of its group do not add up to 7")
    p.data, p.grad = noise(7), noise(7)  # a vector has no rows to turn
    opt.step()
    assert "norm" not in opt.state[p]


# Gradients ----------------------------------------------------------------------------------------------------


@every_rung
@pytest.mark.parametrize("make", MAKE)
def test_the_gradient_of_smaller_weights_is_refused(make, fused):
    p = weight()
    opt = MAKE[make]([p], fused=fused)
    p.data = noise(400, 64)
    refused(opt, p, r"step: the gradient of parameter 0 of its group is \[10, 64\] .* its weights \[400, 64\]")


@every_rung
def test_a_gradient_that_shrinks_behind_torchs_back_is_refused(fused):
    p, opt = stepped(fused=fused)
    p.grad.data = noise(1)
    with pytest.raises(ValueError, match=r"step: the gradient of parameter 0 of its group is \[1\]"):
        opt.step()


@every_rung
def test_a_gradient_of_nothing_but_zeros_is_one(fused):
    """Forward-mode AD has tensors without memory; steps with and without state of the kernel."""
    (p, opt), (q, other) = stepped(fused=fused), stepped(fused=fused)
    for _ in range(2):
        p.grad, q.grad = torch._efficientzerotensor((10, 64)), torch.zeros(10, 64)
        opt.step()
        other.step()
    assert_same(p.detach(), q.detach())


@every_rung
def test_memory_that_was_taken_away_is_missed(fused):
    for what in ("gradient", "memory", "exp_avg"):
        p, opt = stepped(fused=fused)
        x = {"gradient": p.grad, "memory": p, "exp_avg": opt.state[p]["exp_avg"]}[what]
        if what == "gradient":  # it is looked at where a parameter's part is made anew
            opt = MAKE["AdamW"]([p], fused=fused)
        x.untyped_storage().resize_(0)
        with pytest.raises(ValueError, match=f"the {what} of parameter 0 of its group lies in 0 bytes and needs 2560"):
            opt.step()


@every_rung
def test_the_memory_of_a_gradient_is_missed_at_every_step(fused):
    p, opt = stepped(fused=fused)
    p.grad = noise(10, 64)
    p.grad.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"step: the gradient of parameter 0 of its group lies in 0 bytes"):
        opt.step()
