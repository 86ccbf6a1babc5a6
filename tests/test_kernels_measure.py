"""What a step writes down of how neurons change: the numbers, whose tables they stand in, and when they do not."""

from __future__ import annotations

import math

import pytest
import torch

import rotational
from compare import assert_same
from kernels import linear, part_of
from rotational.kernels import native
from rotational.kernels.choose import MEASURING, refusal
from rotational.neurons import ROWS, Neurons

pytestmark = pytest.mark.skipif(native.available() is not None, reason=str(native.available()))


@pytest.fixture(autouse=True)
def every_step_is_worth_threads(monkeypatch):
    monkeypatch.setattr(native, "THREAD", 1)


@pytest.mark.parametrize("options", [{}, {"rotational": False}, {"update_memory": 0.0, "center": False}], ids=str)
@pytest.mark.parametrize("units", [ROWS, Neurons(axes=(1,))], ids=str)
@pytest.mark.parametrize("rung", MEASURING)
def test_the_step_writes_down_what_the_weights_show(rung, options, units):
    if why := refusal(rung, part_of(linear(), torch.float32)):
        pytest.skip(why)
    p = linear(60, 40)
    opt = rotational.AdamW([{"params": [p], "neurons": [units]}], lr=1e-2, weight_decay=0.1, fused=rung, **options)
    assert opt.measure({p: units}) == {}  # before its first step a parameter has no state
    opt.step()
    for t in range(5):
        before = p.detach().double()
        p.grad = linear(60, 40, t).grad
        (table,) = opt.measure({p: units}).values()
        opt.step()
        after = p.detach().double()
        change = units.change(before, after)
        assert_same(
            table[:3].double(),
            torch.stack(
                [x.reshape(-1) for x in change[:1]] + [units.norm(after).reshape(-1), change.update.reshape(-1)]
            ),
            2e-4,
        )
        assert_same(1 + table[3].double(), 1 + change.radial.reshape(-1), 2e-5)  # of the change, so that 1 is large
    assert opt.measure({p: Neurons(axes=(0, 1))}) == {} or options


@pytest.mark.parametrize("scale", [1e-25, 1e-20, 1e-10, 1.0, 1e3], ids=str)
@pytest.mark.parametrize("run", [3, 9, 64, 5000])
@pytest.mark.parametrize("turns", [True, False], ids=["turning", "plain"])
@pytest.mark.parametrize("rung", MEASURING)
def test_a_neuron_may_grow_or_shrink_by_any_factor_in_a_step(rung, turns, run, scale):
    """Weights that were made smaller turn at the length that they had; under the plain rule they are overrun."""
    if why := refusal(rung, part_of(linear(), torch.float32)):
        pytest.skip(why)
    p = linear(20, run)
    opt = rotational.SGD([p], lr=0.1, weight_decay=0.1, rotational=turns, rotation=0.01 if turns else None, fused=rung)
    opt.step()
    p.data *= scale
    before = p.detach().double()
    (table,) = opt.measure({p: ROWS}).values()
    opt.step()
    after = p.detach().double()
    change = ROWS.change(before, after)
    seen = torch.stack([change.angle, ROWS.norm(after), change.update, change.radial]).squeeze(2)
    assert_same(table[:3].double(), seen[:3], 1e-4)
    assert_same(2 + table[3].double(), 2 + seen[3], 2e-5)


def test_a_parameter_that_loses_its_gradient_is_measured_at_rest():
    p, q = linear(), linear()
    opt = rotational.AdamW([p, q], weight_decay=0.1, fused="native")
    opt.step()
    tables = opt.measure({p: ROWS, q: ROWS})

    def closure():
        q.grad = None

    opt.step(closure)
    assert (tables[p][0] > 0).all()
    assert_same(tables[q], torch.stack([0 * tables[q][0], ROWS.norm(q.detach())[:, 0], *(0 * tables[q][:2])]))


def test_what_a_refused_step_was_to_measure_is_measured_by_no_other():
    p = linear()
    opt = rotational.AdamW([p], lr=1e-2, weight_decay=0.1, fused="native")
    opt.step()
    (table,) = opt.measure({p: ROWS}).values()
    table.fill_(math.nan)
    opt.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match=r"lr=-1.0"):
        opt.step()
    opt.param_groups[0]["lr"] = 1e-2
    opt.step()
    assert table.isnan().all()


def test_tables_that_are_given_back_are_filled_again():
    p, q = linear(), linear()
    opt = rotational.AdamW([p, q], lr=1e-2, weight_decay=0.1, fused="native")
    opt.step()
    asked = {p: ROWS, q: ROWS}
    first = opt.measure(asked)
    opt.step()
    kept = {w: table.clone() for w, table in first.items()}
    again = opt.measure(dict(asked), out=first)
    assert again is first
    before = p.detach().clone()
    opt.step()
    cosine = torch.cosine_similarity(before.double(), p.detach().double(), dim=1)
    torch.testing.assert_close(first[p][0].double(), cosine.clamp(max=1).acos(), rtol=1e-3, atol=1e-5)
    assert not any(torch.equal(first[w], table) for w, table in kept.items())


def two_measured():
    """Two parameters, their optimizer after two steps, and the tables of the second."""
    p, q = linear(), linear()
    opt = rotational.AdamW([p, q], lr=1e-2, weight_decay=0.1, fused="native")
    opt.step()
    tables = opt.measure({p: ROWS, q: ROWS})
    opt.step()
    return p, q, opt, tables


def test_tables_that_no_longer_fit_are_made_anew():
    p, q, opt, first = two_measured()
    kept = {w: table.clone() for w, table in first.items()}
    only = opt.measure({p: ROWS}, out=first)  # others
    assert list(only) == [p]
    assert only[p] is not first[p]
    beside = opt.measure({p: ROWS, q: ROWS}, out=first)  # somebody else has asked for this step
    assert beside is not first
    assert beside[p] is only[p]
    opt.step()
    assert all(torch.equal(first[w], table) for w, table in kept.items())
    with pytest.raises(TypeError, match=r"measure\(out=dict\): expected what an earlier call"):
        opt.measure({p: ROWS}, out={p: torch.empty(4, len(p))})


def test_the_same_neurons_again_are_those_of_the_tables():
    p, q, opt, tables = two_measured()
    for table in tables.values():
        table.fill_(math.nan)
    assert opt.measure(out=tables) is tables
    opt.step()
    assert not any(table.isnan().any() for table in tables.values())
    opt.state[p]["exp_avg"] = opt.state[p]["exp_avg"].clone()  # the parameter is looked at anew
    opt.step()
    again = opt.measure(out=tables)
    assert list(again) == [p, q]
    opt.step()
    assert_same(again[p][1], ROWS.norm(p.detach())[:, 0], 1e-6)
    fewer = {p: ROWS}
    first = opt.measure(fewer)
    opt.step()
    fewer[q] = ROWS  # whose mapping it was may change it
    assert list(opt.measure(out=first)) == [p]
    opt.step()
    assert list(opt.measure(fewer, out=first)) == [p, q]
    with pytest.raises(TypeError, match=r"measure\(\): expected neurons, or in out= what an earlier call"):
        opt.measure()


def test_of_a_group_that_is_read_anew_too_what_has_no_gradient_is_said_to_stay():
    p, q, opt, _ = two_measured()
    q.grad = None
    opt.param_groups[0]["maximize"] = True
    tables = opt.measure({p: ROWS, q: ROWS})
    for table in tables.values():
        table.fill_(math.nan)
    opt.step()
    assert (tables[p][0] > 0).all()
    assert torch.equal(tables[q], torch.stack((0 * tables[q][0], ROWS.norm(q.detach())[:, 0], *0 * tables[q][:2])))


def test_tables_given_back_say_that_what_has_lost_its_gradient_stays():
    p, q, opt, tables = two_measured()
    gradient, q.grad = q.grad, None
    assert opt.measure({p: ROWS, q: ROWS}, out=tables) is tables
    opt.step()
    assert (tables[p][0] > 0).all()
    assert torch.equal(tables[q], torch.stack((0 * tables[q][0], ROWS.norm(q.detach())[:, 0], *0 * tables[q][:2])))
    again = opt.measure({p: ROWS, q: ROWS})
    assert list(again) == [p, q]  # whatever came before, and what comes after
    q.grad = gradient  # before the step, and so it is measured
    opt.step()
    assert (again[q][0] > 0).all()


def test_a_table_that_two_hold_is_filled_once():
    p = linear()
    opt = rotational.AdamW([p], lr=1e-2, weight_decay=0.1, fused="native")
    opt.step()
    first, second = opt.measure({p: ROWS}), opt.measure({p: ROWS})
    assert first[p] is second[p]
    opt.step()
    kept = first[p].clone()
    for tables in (first, second):
        assert opt.measure({p: ROWS}, out=tables)[p] is not first[p]
        opt.step()
    assert torch.equal(first[p], kept)


def test_what_two_hold_is_given_back_to_neither():
    p, q, opt, _ = two_measured()
    first, second = opt.measure({p: ROWS}), opt.measure({p: ROWS, q: ROWS})
    opt.step()
    kept = first[p].clone()
    for tables in (second, first):
        assert opt.measure(out=tables) is not tables
        opt.step()
    assert torch.equal(first[p], kept)


def test_tables_are_not_given_back_when_more_or_less_can_be_measured():
    p, q = linear(), linear()
    opt = rotational.AdamW([p, q], lr=1e-2, weight_decay=0.1)
    gradient, q.grad = q.grad, None
    opt.step()
    tables = opt.measure({p: ROWS, q: ROWS})
    assert list(tables) == [p]
    q.grad = gradient
    opt.step()
    more = opt.measure(out=tables)
    assert list(more) == [p, q]
    opt.param_groups[0]["fused"] = False
    opt.step()
    assert opt.measure(out=more) == {}
    opt.param_groups[0]["fused"] = None
    opt.step()
    again = opt.measure(out=more)
    opt.step()
    assert list(again) == [p, q]
    p.grad = q.grad = None
    opt.param_groups[0]["maximize"] = True  # all is to be made anew, and is not yet
    opt.step()
    assert opt.measure(out=again) == {}
    p.grad = q.grad = gradient
    opt.step()
    again = opt.measure(out=again)
    opt.step()
    opt.load_state_dict(opt.state_dict())
    assert opt.measure(out=again) == {}


def test_tables_of_another_state_are_not_taken():
    p, q = linear(), linear()
    opt = rotational.AdamW([p, q], lr=1e-2, weight_decay=0.1, fused="native")
    opt.step()
    q.grad = None
    tables = opt.measure({p: ROWS, q: ROWS})
    opt.step()
    opt.load_state_dict(opt.state_dict())
    assert opt.measure({p: ROWS, q: ROWS}, out=tables) == {}  # nothing is known of the state yet
    opt.step()


def test_tables_whose_memory_moves_are_followed():
    p, q, opt, tables = two_measured()
    tables[p].share_memory_()  # the memory of both: they are one stretch
    for table in tables.values():
        table.fill_(math.nan)
    assert opt.measure({p: ROWS, q: ROWS}, out=tables) is tables
    opt.step()
    assert not any(table.isnan().any() for table in tables.values())


def test_each_memory_of_tables_is_followed():
    p, q, opt, tables = two_measured()
    tables[q].data = torch.empty(4, len(q))
    for moved in (p, q):  # the first has both looked at anew, and from then on they are two
        tables[moved].share_memory_()
        for table in tables.values():
            table.fill_(math.nan)
        assert opt.measure(out=tables) is tables
        opt.step()
        assert not any(table.isnan().any() for table in tables.values())


@pytest.mark.parametrize("rung", MEASURING)
@pytest.mark.parametrize(
    "other",
    [torch.zeros(4, 5), torch.zeros(4, 60).double(), torch.zeros(60, 4).mT],
    ids=["short", "double", "columns"],
)
def test_a_table_that_is_given_other_memory_is_not_written_to(rung, other):
    if why := refusal(rung, part_of(linear(), torch.float32)):
        pytest.skip(why)
    p, q = linear(60, 40), linear(60, 40)
    opt = rotational.AdamW([p, q], lr=1e-2, weight_decay=0.1, fused=rung)
    opt.step()
    tables = opt.measure({p: ROWS, q: ROWS})
    kept, before = other.clone(), p.detach().clone()
    tables[q].data = other
    with pytest.raises(ValueError, match=r"step: a table of measure\(\) is .*expected \[4, 60\] float32"):
        opt.step()
    assert torch.equal(p, before)
    tables = opt.measure({p: ROWS, q: ROWS})
    opt.step()
    assert opt.measure({p: ROWS, q: ROWS}, out=tables) is tables
    tables[q].data = other
    if rung == "triton":
        with pytest.raises(ValueError, match="have become others"):
            opt.step()
    else:  # to where it lay before
        opt.step()
        assert_same(tables[p][1], ROWS.norm(p.detach())[:, 0], 1e-6)
    assert torch.equal(other, kept)
