"""What a step asks of state, gradients and memory before it writes: kernels are given addresses, and ask no more."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import rotational
from compare import assert_same
from rotational.kernels import choose, jit, native, work
from rotational.neurons import ROWS, WHOLE, Neurons
from rotational.optim import turning

MISSING = {"native": native.available(), "numba": jit.available()}
RUNGS = [
    pytest.param(fused, marks=pytest.mark.skipif(MISSING.get(fused) is not None, reason=str(MISSING.get(fused))))
    for fused in ("native", "numba", False, "reference")
]
every_rung = pytest.mark.parametrize("fused", RUNGS)
MAKE = {
    "AdamW": lambda p, **o: rotational.AdamW(p, lr=1e-2, weight_decay=0.1, **o),
    "SGD": lambda p, **o: rotational.SGD(p, lr=1e-2, weight_decay=0.1, momentum=0.9, **o),
    "SGD without memory": lambda p, **o: rotational.SGD(p, lr=1e-2, weight_decay=0.1, **o),
    "plain": lambda p, **o: rotational.AdamW(p, lr=1e-2, weight_decay=0.1, rotational=False, **o),
}


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def weight(rows=10, size=64, seed=0):
    p = nn.Parameter(noise(rows, size, seed=seed))
    p.grad = noise(rows, size, seed=seed + 1)
    return p


def stepped(make="AdamW", rows=10, size=64, **options):
    p = weight(rows, size)
    opt = MAKE[make]([p], **options)
    opt.step()
    return p, opt


def refused(opt, p, says):
    """The next step is refused with these words, and changes nothing."""
    before, state = p.detach().clone(), copy.deepcopy(dict(opt.state[p]))
    with pytest.raises(ValueError, match=says):
        opt.step()
    assert_same(p.detach(), before)
    assert_same(dict(opt.state[p]), state)


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
    if fused == "reference":
        pytest.skip("torch broadcasts it, and reads nothing that is another's")
    p, opt = stepped(fused=fused)
    p.grad.data = noise(1)
    with pytest.raises((ValueError, RuntimeError), match="a gradient of shape"):
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


@pytest.mark.parametrize("fused", RUNGS[:2])
def test_the_memory_of_a_gradient_is_missed_at_every_step(fused):
    p, opt = stepped(fused=fused)
    p.grad = noise(10, 64)
    p.grad.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"step: the storage of a gradient of shape \[10, 64\] is gone"):
        opt.step()


# Memory that moves, and memory of two ---------------------------------------------------------------------------


def shared(p, opt):
    for x in opt.state[p].values():
        x.share_memory_()


def moved(p, opt):
    for x in opt.state[p].values():
        x.data = x.data.clone()


def begun_anew(p, opt):
    opt.state[p]["exp_avg"].data = torch.zeros_like(opt.state[p]["exp_avg"])


def put_in(p, opt):
    opt.state[p]["exp_avg_sq"].set_(opt.state[p]["exp_avg_sq"].clone())


def turned(p, opt):
    p.data = p.data.T.contiguous().T
    for key in ("exp_avg", "exp_avg_sq"):
        opt.state[p][key] = opt.state[p][key].T.contiguous().T


@pytest.mark.parametrize("change", [shared, moved, begun_anew, put_in, turned])
@every_rung
def test_state_that_moves_is_followed(fused, change):
    runs = []
    for each in (fused, False):
        p, opt = stepped(size=10, fused=each)
        change(p, opt)
        for t in range(3):
            p.grad = noise(10, 10, seed=t)
            opt.step()
        runs.append([p.detach(), *opt.state[p].values()])
    for x, y in zip(*runs, strict=True):
        assert_same(x, y, 1e-4)


@every_rung
def test_weights_that_are_transposed_where_they_lie_are_seen(fused):
    """Address and shape are as before; only the strides are others."""
    p, opt = stepped(size=10, fused=fused)
    q, other = stepped(size=10, fused="reference")
    for each, o in ((p, opt), (q, other)):
        each.data = each.data.T
        for key in ("exp_avg", "exp_avg_sq"):
            o.state[each][key].data = o.state[each][key].data.T
        each.grad = noise(10, 10, seed=7)
        o.step()
    assert_same(p.detach(), q.detach(), 2e-6)


def test_two_parameters_in_one_memory_are_refused():
    both = noise(10, 64)
    for x, y in ((both, both), (both[:6], both[5:]), (both[:, :40], both[:, 39:])):
        with pytest.raises(ValueError, match="parameter 0 of group 0 and parameter 1 of group 0 share memory"):
            rotational.AdamW([nn.Parameter(x), nn.Parameter(y)])
    opt = rotational.AdamW([nn.Parameter(both[:5])])
    before = both.clone()
    with pytest.raises(ValueError, match="share memory, so that every step would change it twice"):
        opt.add_param_group({"params": [nn.Parameter(both)]})
    assert len(opt.param_groups) == 1
    assert_same(both[5:], before[5:])
    with pytest.raises(ValueError, match=r"entries of parameter 0 .* share memory with each other \(strides \(0, 1\)"):
        rotational.AdamW([nn.Parameter(noise(1, 64).expand(4, 64))])
    p, q = weight(), weight()
    opt = rotational.AdamW([p, q])
    opt.step()
    q.data = p.data
    with pytest.raises(ValueError, match=r"AdamW.step: .* share memory"):
        opt.step()


def test_parts_of_one_memory_are_welcome():
    both = noise(10, 64)
    columns = [nn.Parameter(both[:, :20]), nn.Parameter(both[:, 20:40]), nn.Parameter(both[:, 40:])]
    rows = [nn.Parameter(both[:0]), nn.Parameter(torch.zeros(0, 3)), nn.Parameter(noise(9)[3:])]
    opt = rotational.AdamW([*columns, *rows])
    for p in (*columns, *rows):
        p.grad = torch.ones_like(p)
    opt.step()


# Numbers that torch's defaults would change -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@every_rung
def test_nothing_depends_on_the_default_dtype(fused, dtype):
    """In bfloat16 a counter stops at 256, and Adam's correction for its first steps with it."""
    runs = []
    for default in (torch.float32, dtype):
        try:
            torch.set_default_dtype(default)
            p, opt = stepped(fused=fused)
            for _ in range(300):
                tables = opt.measure({p: ROWS})
                opt.step()
            assert {x.dtype for x in opt.state[p].values()} == {torch.float32}
            assert opt.state[p]["step"] == opt.state[p]["turns"] == 301
            again, other = stepped(fused=fused)
            other.load_state_dict(opt.state_dict())
            assert other.state[again]["step"] == 301
            assert (fused in MISSING) == bool(tables)
            runs.append([p.detach(), *tables.values(), *opt.state[p].values()])
        finally:
            torch.set_default_dtype(torch.float32)
    assert_same(runs[1], runs[0])


def test_counters_are_on_the_cpu_whatever_the_default_device():
    try:
        torch.set_default_device("meta")
        p = nn.Parameter(torch.zeros(4, 5, device="cpu") + torch.arange(5.0, device="cpu"))
        p.grad = torch.ones(4, 5, device="cpu")
        opt = rotational.AdamW([p])
        opt.step()
    finally:
        torch.set_default_device("cpu")
    assert {x.device.type for x in opt.state[p].values()} == {"cpu"}


# Measuring -----------------------------------------------------------------------------------------------------

ODD = {
    "columns of long runs": ((2, 2, 40_000), Neurons(axes=(1,))),
    "outer axes of long runs": ((2, 2, 2, 40_000), Neurons(axes=(0, 2))),
    "as long as the scratch": ((2, 2, native.SCRATCH), Neurons(axes=(1,))),
    "many short runs": ((500, 3, 90), Neurons(axes=(1,))),
    "last axis": ((30, 40), Neurons(axes=(1,))),
    "whole": ((3, 70_000), WHOLE),
    "three kinds of axes": ((3, 4, 5, 6), Neurons(axes=(1, 3))),
}


@pytest.mark.parametrize("fused", RUNGS[:2])
@pytest.mark.parametrize(("shape", "units"), ODD.values(), ids=ODD)
def test_neurons_of_any_layout_are_measured_or_not_promised(fused, shape, units):
    """One function says what a thread's scratch holds, of parameters that turn and of those that are measured."""
    p = nn.Parameter(noise(*shape))
    p.grad = noise(*shape, seed=1)
    opt = MAKE["plain"]([p], fused=fused)
    opt.step()
    before = p.detach().double()
    tables = opt.measure({p: units})
    opt.step()
    served = native.serves(at) if (at := native.layout(units, shape, p.stride())) is not None else False
    assert bool(tables) == served
    for table in tables.values():
        change = units.change(before, p.detach().double())
        assert_same(table[0].double(), change.angle.reshape(-1), 2e-3)
        assert_same(table[2].double(), change.update.reshape(-1), 1e-4)


# What is said, and what is allocated ------------------------------------------------------------------------


@pytest.mark.skipif(MISSING["native"] is not None, reason=str(MISSING["native"]))
def test_moments_that_no_kernel_takes_are_known_before_the_first_step():
    for fused in (True, "native"):
        with pytest.raises(ValueError, match=r"fused=.*moments of another precision"):
            MAKE["AdamW"]([weight()], fused=fused, moment_dtype=torch.float16)
    opt = MAKE["AdamW"]([weight()], moment_dtype=torch.float16)
    assert opt.param_groups[0]["kernel"] == "torch"
    said = repr(opt)
    opt.step()
    assert "kernel_why: native, numba: moments of another precision" in said
    assert "kernel_why: native, numba: moments of another precision" in repr(opt)
    assert (
        rotational.SGD([weight()], weight_decay=0.1, moment_dtype=torch.float16).param_groups[0]["kernel"] == "native"
    )


def test_why_a_better_rung_is_not_taken_stands_in_the_optimizer_and_its_log(monkeypatch):
    monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr(jit, "available", lambda: "numba is not installed; pip install 'rotational[numba]'")
    opt = MAKE["AdamW"]([weight()])
    for _ in range(2):
        assert opt.param_groups[0]["kernel"] == "torch"
        assert "native: the compiled library is not there; install" in opt.param_groups[0]["kernel_why"]
        assert "numba: numba is not installed; pip install 'rotational[numba]'" in repr(opt)
        opt.step()
    for asked in ({"fused": False}, {"foreach": True}, {"fused": "reference"}):  # nothing better was wanted
        assert "kernel_why" not in repr(MAKE["AdamW"]([weight()], **asked))


def test_a_reason_that_no_longer_holds_goes(monkeypatch):
    p = weight()
    with monkeypatch.context() as patch:
        patch.setattr(choose, "BEST", {})
        opt = MAKE["AdamW"]([p])
    assert opt.param_groups[0]["kernel_why"] == "hand-written kernels: there is none for cpu"
    opt.step()
    assert ("kernel_why" in opt.param_groups[0]) == (MISSING["native"] is not None)


LAID = {
    "rows": (ROWS, (900, 70), (0, 1)),
    "few rows": (ROWS, (7, 9000), (0, 1)),
    "columns": (Neurons(axes=(1,)), (70, 900), (0, 1)),
    "rows that lie as columns": (ROWS, (900, 70), (1, 0)),
    "channels last": (ROWS, (300, 3, 5, 8), (0, 2, 3, 1)),
    "experts": (Neurons(axes=(0, 1)), (4, 300, 50), (0, 1, 2)),
    "groups": (Neurons(axes=(0, 2), split=2), (40, 300, 5), (0, 1, 2)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("units", "shape", "order"), LAID.values(), ids=LAID)
def test_centring_in_pieces_gives_the_same_bits(units, shape, order, dtype, monkeypatch):
    lying = [order.index(a) for a in range(len(order))]
    results = []
    for chunk in (1 << 30, 1 << 13, 1 << 11):
        monkeypatch.setattr(turning, "CHUNK", chunk)
        w = (noise(*[shape[a] for a in order]) + 0.3).to(dtype).permute(lying)
        assert w.shape == shape
        turning.center_(w, units)
        results.append([w, turning.lengths(w, units)])
    for other in results[1:]:
        assert_same(other, results[0])


def test_centring_takes_a_few_megabytes(monkeypatch):
    """The largest temporary is that of a piece."""
    monkeypatch.setattr(turning, "CHUNK", 1 << 10)
    sizes = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor) and made._base is None:
                sizes.append(made.untyped_storage().nbytes())
            return made

    w = noise(1000, 50)
    with Sizes():
        turning.center_(w, ROWS)
        turning.lengths(w, ROWS)
    assert max(size for size in sizes if size != w.untyped_storage().nbytes()) <= 4 * (1 << 10)
    assert math.isclose(ROWS.mean(w).abs().max().item(), 0.0, abs_tol=1e-6)


def test_autograd_is_told_by_a_torch_that_takes_one_tensor_at_a_time(monkeypatch):
    told = []
    monkeypatch.setattr(work, "_LISTS", False)
    monkeypatch.setattr(torch.autograd.graph, "increment_version", told.append)
    p, q = weight(), weight()
    work.changed([p, q])
    assert [id(x) for x in told] == [id(p), id(q)]

    def old(tensor):
        if not isinstance(tensor, torch.Tensor):
            raise RuntimeError("increment_version expect a Tensor as input")

    monkeypatch.setattr(torch.autograd.graph, "increment_version", old)
    assert not work._takes_lists()
