"""Which neurons are measured, what is said of the rung that takes a step, and how much is allocated for it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import rotational
from compare import assert_same
from rotational.kernels import binary, choose, jit, native, tasks, work
from rotational.neurons import ROWS, WHOLE, Neurons
from rotational.optim import turning
from stepped import MAKE, MISSING, RUNGS, noise, weight

# Measuring -----------------------------------------------------------------------------------------------------

ODD = {
    "columns of long runs": ((2, 2, 40_000), Neurons(axes=(1,))),
    "outer axes of long runs": ((2, 2, 2, 40_000), Neurons(axes=(0, 2))),
    "as long as the scratch": ((2, 2, tasks.SCRATCH), Neurons(axes=(1,))),
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
    monkeypatch.setattr(binary, "library", lambda: None)
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
