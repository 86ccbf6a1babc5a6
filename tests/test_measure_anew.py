"""What a step was asked to measure of parameters that have become others since: it is measured all the same."""

from __future__ import annotations

import copy
import math
import weakref

import pytest
import torch
from torch import nn

import rotational
from compare import assert_same
from kernels import linear, part_of
from rotational.kernels import native
from rotational.kernels.choose import refusal
from rotational.neurons import ROWS, WHOLE, Neurons
from rotational.optim.bound import Bound

pytestmark = pytest.mark.skipif(native.available() is not None, reason=str(native.available()))


def options(**given):
    return lambda opt, p: opt.param_groups[0].update(given)


def moved_to_gaps(opt, p):
    p.data = torch.stack([p.data, p.data], dim=-1)[..., 0]


def stored_otherwise(opt, p):
    p.data, p.grad = p.data.mT.contiguous().mT, p.grad.mT.contiguous().mT


def half_moments(opt, p):
    opt.state[p]["exp_avg"] = opt.state[p]["exp_avg"].half()


def begun_anew(opt, p):
    opt.state.clear()
    p.data += 1  # no longer centred


CHANGES = {
    "nothing": lambda opt, p: None,
    "fused=False": options(fused=False),
    "foreach=True": options(foreach=True),
    "units=tensor": options(units="tensor"),
    "rotational=False": options(rotational=False),
    "neurons": options(neurons=[Neurons(axes=(1,))]),
    "moved to gaps": moved_to_gaps,
    "stored otherwise": stored_otherwise,
    "half moments": half_moments,
    "begun anew": begun_anew,
}


@pytest.mark.parametrize("rotational_", [True, False], ids=["turning", "plain"])
@pytest.mark.parametrize("when", ["before it is asked", "after"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_tables_say_what_became_of_the_weights_whatever_changes(change, when, rotational_):
    p = linear(10, 5)
    opt = rotational.AdamW([p], lr=1e-2, weight_decay=0.1, rotational=rotational_)
    opt.step()
    if when == "before it is asked":
        change(opt, p)
    (table,) = opt.measure({p: ROWS}).values()
    table.fill_(math.nan)
    if when == "after":
        change(opt, p)
    before = p.detach().double()
    opt.step()
    after = p.detach().double()
    assert_table(table, before, after)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_log_says_what_became_of_the_weights_whatever_changes(change, tmp_path):
    layer, true = nn.Linear(5, 10, bias=False), []
    opt = rotational.AdamW(layer.parameters(), lr=1e-2, weight_decay=0.1)
    with rotational.watch(layer, opt, every=1, path=tmp_path / "log") as log:
        for t in range(6):
            layer.weight.grad = linear(10, 5, t).grad
            if t == 3:
                change(opt, layer.weight)
            before = layer.weight.detach().double()
            opt.step()
            true.append(ROWS.angle(before, layer.weight.detach().double())[:, 0])
    assert_same(torch.as_tensor(log.read().series("weight").rotation).double(), torch.stack(true), 2e-4)


def two(**options):
    p, q = linear(10, 5), linear(7, 4)
    opt = rotational.AdamW([p, q], lr=1e-2, weight_decay=0.1, **options)
    opt.step()
    return p, q, opt


@pytest.mark.parametrize("plain", [True, False])
def test_parameters_that_come_or_change_places_are_measured_from_their_next_step_on(plain):
    p, q, opt = two(rotational=not plain)
    new, params = linear(6, 3), opt.param_groups[0]["params"]
    params[:] = [q, new, p]
    asked = dict.fromkeys(params, ROWS)
    assert opt.measure(asked) == {}
    opt.step()
    assert [table.shape[1] for table in opt.measure(asked).values()] == [7, 6, 10]


def test_what_has_left_the_optimizer_is_not_a_number():
    p, q, opt = two()
    tables = opt.measure({p: ROWS, q: ROWS})
    del opt.param_groups[0]["params"][1]
    opt.step()
    assert tables[q].isnan().all()
    assert tables[p].isfinite().all()


def test_a_parameter_in_another_place_that_has_lost_its_gradient_stays():
    p, q, opt = two()
    tables = opt.measure({p: ROWS, q: ROWS})
    opt.param_groups[0]["params"].reverse()
    q.grad = None
    opt.step()
    assert_same(tables[q], torch.stack([torch.zeros(7), ROWS.norm(q.detach())[:, 0], *torch.zeros(2, 7)]), 1e-6)


def test_a_gradient_that_comes_back_is_measured_again():
    p, q, opt = two()
    tables = opt.measure({p: ROWS, q: ROWS})
    opt.step()
    for grad in (None, q.grad, q.grad):
        q.grad = grad
        tables[q].fill_(math.nan)
        assert opt.measure(out=tables) is tables
        before = q.detach().double()
        opt.step()
        assert_same(tables[q][0].double(), ROWS.angle(before, q.detach().double())[:, 0], 2e-4)


def test_a_step_that_is_broken_off_leaves_no_group_with_the_tables_of_another(monkeypatch):
    p, q = linear(10, 5), linear(7, 4)
    opt = rotational.AdamW([{"params": [p]}, {"params": [q]}], lr=1e-2, weight_decay=0.1)
    opt.step()
    first = opt.measure({p: ROWS, q: ROWS})
    opt.step()
    second = opt.measure({p: ROWS, q: ROWS})
    asked, groups = Bound.asked, []

    def broken(bound, *arguments):
        groups.append(bound)
        if len(groups) == 2:
            raise KeyboardInterrupt
        return asked(bound, *arguments)

    monkeypatch.setattr(Bound, "asked", broken)
    with pytest.raises(KeyboardInterrupt):
        opt.step()
    kept = {x: first[x].clone() for x in (p, q)}
    assert opt.measure(out=second) is second
    second[q].fill_(math.nan)
    opt.step()
    assert second[q].isfinite().all()
    assert all(torch.equal(first[x], kept[x]) for x in (p, q))


@pytest.mark.parametrize(("units", "shape"), [(ROWS, (5, 0)), (ROWS, (0, 5)), (WHOLE, (0, 5))], ids=str)
def test_empty_parameters_are_not_promised_and_do_no_harm(units, shape):
    p, empty = linear(10, 5), nn.Parameter(torch.zeros(shape))
    empty.grad = torch.zeros(shape)
    opt = rotational.AdamW([p, empty], lr=1e-2, weight_decay=0.1, units="neuron" if units is ROWS else "tensor")
    opt.step()
    assert list(opt.measure({p: units, empty: units})) == [p]
    opt.step()


def test_a_momentum_that_a_refused_step_has_made_is_filled_by_the_first_gradient():
    """torch's SGD takes the first gradient whole, dampening or not; zeros would be another momentum."""
    p, q = linear(10, 5), linear(7, 4)
    opt = rotational.SGD([p, q], lr=1e-2, weight_decay=0.1, momentum=0.9, dampening=0.5, fused=True)
    stored, q.data = q.data, q.data.double()  # for which there is no fused step
    q.grad = None
    q.grad = q.data.clone()
    with pytest.raises(ValueError, match="fused=True"):
        opt.step()
    q.grad = None
    q.data = stored
    opt.load_state_dict(opt.state_dict())
    opt.step()
    assert_same(opt.state[p]["momentum_buffer"], p.grad)


@pytest.mark.parametrize("fused", [None, False, "numba", "reference"])
def test_a_gradient_of_other_weights_is_refused_before_anything_moves(fused):
    p, q = linear(10, 5), linear(10, 5)
    if isinstance(fused, str) and (why := refusal(fused, part_of(p, torch.float32))):
        pytest.skip(why)
    groups = [{"params": [p]}, {"params": [q]}]
    opt = rotational.AdamW(groups, lr=1e-2, weight_decay=0.1, fused=fused)
    opt.step()
    before, stored = p.detach().clone(), q.data
    q.grad = None
    q.data = torch.zeros(11, 5)
    q.grad = torch.ones(11, 5)
    q.data = stored
    with pytest.raises(ValueError, match=r"the gradient of parameter 0 .*is \[11, 5\]"):
        opt.step()
    assert torch.equal(p, before)
    assert opt.state[p]["step"] == opt.state[q]["step"] == 1


def test_the_kernel_that_was_foreseen_is_said_until_there_is_a_gradient():
    p = linear(10, 5)
    p.grad = None
    opt = rotational.AdamW([p], weight_decay=0.1)
    opt.step()
    assert opt.param_groups[0]["kernel"] == "native"


@pytest.mark.parametrize("rotational_", [True, False], ids=["turning", "plain"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_a_closure_asks_for_is_measured_by_the_next_step_whatever_changes(change, rotational_):
    p = linear(8, 8)
    opt = rotational.AdamW([p], lr=1e-2, weight_decay=0.1, rotational=rotational_)
    opt.step()
    opt.step()
    tables = {}
    change(opt, p)  # unseen until the step that calls the closure
    opt.step(lambda: tables.update(opt.measure({p: ROWS})))
    tables[p].fill_(math.nan)
    before = p.detach().double()
    opt.step()
    assert_table(tables[p], before, p.detach().double())


def assert_table(table, before, after):
    change = ROWS.change(before, after)
    assert_same(table[:3].double(), torch.cat([change.angle, ROWS.norm(after), change.update], dim=1).T, 2e-4)
    assert_same(2 + table[3].double(), 2 + change.radial[:, 0], 2e-5)


def test_state_may_be_loaded_between_what_is_asked_and_the_step():
    p = linear(8, 8)
    opt = rotational.AdamW([p], lr=1e-2, weight_decay=0.1)
    opt.step()
    (table,) = opt.measure({p: ROWS}).values()
    opt.load_state_dict(opt.state_dict())
    before = p.detach().double()
    opt.step()
    assert_table(table, before, p.detach().double())
    opt.measure({p: ROWS})
    copy.deepcopy(opt).step()  # it was asked for nothing, and has no table


def two_groups(**given):
    """Two parameters in groups of their own, after two steps."""
    p, q = linear(6, 6), linear(6, 6)
    groups = [{"params": [w], "neurons": [ROWS]} for w in (p, q)]
    opt = rotational.AdamW(groups, lr=1e-2, weight_decay=0.1, **given)
    opt.step()
    opt.step()
    return p, q, opt


@pytest.mark.parametrize("change", CHANGES)
def test_a_group_that_takes_the_place_of_another_is_measured_as_it_is(change):
    p, q, opt = two_groups()
    del opt.param_groups[0]
    opt.step()
    CHANGES[change](opt, q)
    opt.step()
    before, tables = q.detach().double(), opt.measure({p: ROWS, q: ROWS})
    assert list(tables) == ([q] if change in ("nothing", "rotational=False", "begun anew") else [])
    opt.step()
    for table in tables.values():
        assert_table(table, before, q.detach().double())


def test_what_has_left_is_asked_for_in_vain_and_forgotten():
    p, q, opt = two_groups()
    tables = opt.measure({p: ROWS, q: ROWS})
    opt.step()
    gone = weakref.ref(opt.state[q]["exp_avg"])
    del opt.param_groups[1], opt.state[q]
    opt.step()
    assert list(opt.measure(out=tables)) == [p]
    opt.step()
    assert gone() is None
    other = linear(6, 6)
    kept, other.grad = other.grad, None
    tables = opt.measure({p: ROWS, other: ROWS})
    opt.param_groups[0]["params"][0] = other  # without a gradient, so that no step of it is new
    opt.step()
    assert tables[p].isnan().all()
    other.grad = kept
    opt.step()
    assert list(opt.measure(out=tables)) == [other]


@pytest.mark.parametrize("shape", [(1, 8), (3, 8)])
def test_a_table_of_fewer_neurons_than_there_are_is_refused_before_anything_moves(shape):
    p, q, opt = two_groups()
    tables = opt.measure({p: ROWS, q: ROWS})
    q.grad, q.data = None, torch.randn(shape)
    tables[q].zero_()
    before, kept = p.detach().clone(), tables[q].clone()
    with pytest.raises(ValueError, match=rf"expected \[4, {shape[0]}\] float32"):
        opt.step()
    assert torch.equal(p, before)
    assert torch.equal(tables[q], kept)


@pytest.mark.parametrize("other", [lambda w: w.double(), lambda w: torch.stack((w, w), dim=-1)[..., 0]])
def test_weights_without_a_gradient_may_become_others_while_the_rest_is_measured(other):
    p, q, opt = two_groups()
    q.grad, q.data = None, other(q.data)
    opt.step()
    tables, before = opt.measure({p: ROWS, q: ROWS}), p.detach().double()
    assert list(tables) == [p]
    opt.step()
    assert_table(tables[p], before, p.detach().double())


def test_what_a_rung_cannot_take_is_refused_before_any_weight_is_centred():
    p, q = (nn.Parameter(torch.randn(4, 5, dtype=dtype)) for dtype in (torch.float32, torch.float64))
    group = {"params": [p], "neurons": [ROWS], "fused": "native"}
    opt = rotational.AdamW([group], lr=1e-2, weight_decay=0.1, center=False)
    for w in (p, q):
        w.grad = torch.randn_like(w)
    opt.param_groups[0].update(params=[p, q], neurons=[ROWS, ROWS], center=True)
    before = p.detach().clone()
    with pytest.raises(ValueError, match="float64 weights"):
        opt.step()
    assert torch.equal(p, before)


@pytest.mark.parametrize("fused", [None, False])
def test_weights_of_more_precision_than_their_lengths_are_refused_until_the_state_is_loaded(fused):
    p = linear(4, 5)
    opt = rotational.AdamW([p], lr=1e-2, weight_decay=0.1, fused=fused)
    opt.step()
    p.grad, p.data = None, p.data.double()
    p.grad = torch.randn_like(p)
    before = p.detach().clone()
    with pytest.raises(ValueError, match=r"norm of .* is torch.float32, and its weights have become torch.float64"):
        opt.step()
    assert torch.equal(p, before)
    assert opt.state[p]["step"] == 1
    opt.load_state_dict(opt.state_dict())
    opt.step()
    assert opt.state[p]["norm"].dtype is torch.float64
