"""What a step must not do: depend on threads, break in a child process, spread NaN, or lose small numbers."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import rotational
from compare import assert_same
from kernels import linear, neurons, parameters, part_of
from rotational import rules
from rotational.kernels import binary, jit, native, reference
from rotational.kernels.choose import Kernels, refusal
from rotational.kernels.layout import layout
from rotational.kernels.work import Work
from rotational.neurons import ROWS
from rotational.records import Records

pytestmark = pytest.mark.skipif(native.available() is not None, reason=str(native.available()))


@pytest.fixture(autouse=True)
def every_step_is_worth_threads(monkeypatch):
    monkeypatch.setattr(native, "THREAD", 1)


# Threads and processes ---------------------------------------------------------------------------------------


def _big():
    torch.set_num_threads(1)  # torch adds up the lengths that it starts from in an order of its own
    params = [linear(300, 500), linear(3, 200_000), linear(1000, 9)]
    opt = rotational.AdamW(params, lr=1e-2, weight_decay=0.1, fused="native")
    whole = linear(500, 400)
    opt.add_param_group({"params": [whole], "units": "tensor", "center": False, "weight_decay": 0.1})
    for _ in range(3):
        opt.step()
    return [p.detach() for p in (*params, whole)]


def test_optimizers_may_step_at_the_same_time():
    def train(seed):
        p = linear(400, 300, seed)
        opt = rotational.AdamW([p], lr=1e-2, weight_decay=0.1, fused="native")
        for _ in range(30):
            opt.step()
        return p.detach()

    alone = [train(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(train, range(6)))
    assert_same(together, alone)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_process_steps_on():
    """The threads of the parent do not exist in it."""
    torch.set_num_threads(max(2, torch.get_num_threads()))
    p, q = linear(400, 300), linear(400, 300)
    opts = [rotational.AdamW([x], lr=1e-2, weight_decay=0.1, fused="native") for x in (p, q)]
    for opt in opts:
        opt.step()
    child = os.fork()
    if child == 0:
        opts[0].step()
        # Not with torch, whose own threads have not come along.
        os._exit(0 if np.isfinite(p.detach().numpy()).all() else 1)
    opts[1].step()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


THREADS = """
import os, torch, rotational
from rotational.kernels import native
native.THREAD = 1  # a small step is worth threads too
torch.set_num_threads(3)
(torch.randn(600, 600) @ torch.randn(600, 600)).exp().sum().item()
p = torch.nn.Parameter(torch.randn(400, 300))
p.grad = torch.randn(400, 300)
opt = rotational.AdamW([p], lr=1e-2, weight_decay=0.1, fused="native")
before = len(os.listdir("/proc/self/task"))
for _ in range(3):
    opt.step()
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
@pytest.mark.skipif(None in binary._torch_threads(), reason="this torch's threads are not OpenMP's")
def test_a_step_runs_on_threads_that_torch_has_made():
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"]


class Stepping(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        return _big()[0].sum()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_of_a_data_loader_step(context):
    expected = _big()[0].sum()
    loader = DataLoader(Stepping(), batch_size=None, num_workers=2, multiprocessing_context=context)
    assert_same(list(loader), [expected] * 4)


# Numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-38, 1e-20, 1e-10, 1e10, 1e18])
def test_gradients_of_every_size_turn_as_far(size):
    p = linear()
    p.grad *= size
    opt = rotational.SGD([p], lr=1e-2, weight_decay=0.1, update_memory=0.0, fused="native")
    before = p.detach().clone()
    opt.step()
    assert_same(
        ROWS.angle(before.double(), p.detach().double()), torch.full((40, 1), 0.0447, dtype=torch.float64), 1e-3
    )


@pytest.mark.parametrize("rung", ["native", "numba", "torch", "reference"])
@pytest.mark.parametrize("rotation", [None, 0.0], ids=["turning", "still"])
@pytest.mark.parametrize("run", [3, 9, 40, 5000])
@pytest.mark.filterwarnings("ignore:.*all-zero neurons")
def test_nan_is_seen_in_all_of_its_neuron_even_where_nothing_turns(run, rotation, rung):
    if why := refusal(rung, part_of(linear(), torch.float32)):
        pytest.skip(why)
    p = linear(20, run)
    p.data[[1, 5]] = 0
    p.grad[[1, 3], 2] = torch.nan
    before = ROWS.center(p.detach().clone())
    opt = rotational.SGD([p], lr=1e-2, weight_decay=0.1, rotation=rotation, fused=rung)
    opt.step()
    lost = torch.zeros(20, dtype=torch.bool).index_fill_(0, torch.tensor([1, 3]), True)
    assert_same(p.isnan(), lost[:, None].expand_as(p))
    still = torch.tensor([i for i in range(20) if i == 5 or (not lost[i] and rotation == 0)])
    assert_same(p.detach()[still], before[still], 1e-6)


def test_small_numbers_are_flushed_inside_the_step_only():
    p = linear()
    p.grad *= 1e-40
    opt = rotational.AdamW([p], weight_decay=0.1, fused="native")
    opt.step()
    assert torch.isfinite(p).all()
    if platform.machine() in ("x86_64", "AMD64"):  # elsewhere they cost no more than others
        assert not opt.state[p]["exp_avg"].any()
    assert (torch.tensor([1e-40]) * 1.0).item() != 0.0


@pytest.mark.parametrize("moments", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rung", ["native", "numba"])
def test_low_precision_is_the_reference_rounded_once(rung, moments):
    if why := refusal(rung, part_of(linear(), moments)):
        pytest.skip(why)
    p = linear(dtype=torch.bfloat16)
    part, kernels = part_of(p, moments), Kernels()
    for t in range(8):
        g = linear(seed=t + 1, dtype=torch.bfloat16).grad
        work = _work(part, g)
        exact = part_of(p.double(), torch.float64, part)
        reference.Reference().step([_work(exact, g.double())])
        kernels.step([(rung, work)])
        for found, expected in ((part.w, exact.w), (part.m, exact.m), (part.v, exact.v)):
            # Half a step of bfloat16, and what cancels in single precision.
            small = 2e-7 * expected.abs().max()
            assert ((found.double() - expected).abs() <= 1.01 * 2**-8 * expected.abs() + small).all()
        assert_same(part.rms.double(), exact.rms, 1e-5)


def _work(part, g, **options):
    given = {"lr": 1e-3, "weight_decay": 0.1, "rotation": 0.02, "ema": 0.9, "center": True, "maximize": False}
    return Work(rules.adamw((0.9, 0.99)), **given, dither=False, foreach=True, parts=[part], grads=[g], **options)


@pytest.mark.parametrize("fused", ["native", "numba", False])
def test_moments_in_bfloat16_stall_unless_they_are_rounded_at_random(fused):
    if fused == "numba" and jit.available():
        pytest.skip(str(jit.available()))
    seen = {}
    for dither in (False, True):
        p = nn.Parameter(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)))
        opt = rotational.AdamW(
            [p], weight_decay=0.1, moment_dtype=torch.bfloat16, stochastic_rounding=dither, fused=fused
        )
        noise = torch.Generator().manual_seed(1)
        for _ in range(3000):
            p.grad = torch.randn(64, 64, generator=noise)
            opt.step()
        v = opt.state[p]["exp_avg_sq"]
        assert v.dtype is torch.bfloat16
        seen[dither] = (v.float().mean() / (1 - 0.999**3000)).item()
    assert abs(seen[True] - 1) < 0.02
    assert abs(seen[False] - 1) > 0.2


# Layouts and choice ------------------------------------------------------------------------------------------


def test_a_layout_finds_every_weight():
    for p, units in zip(parameters(torch.float32), neurons(), strict=True):
        at = layout(units, p.shape, p.stride())
        if at is None or not p.numel():
            continue
        flat = torch.as_strided(p.detach(), (p.untyped_storage().nbytes() // 4 - p.storage_offset(),), (1,))
        rows = units.matrix(p.detach())
        for n in {0, rows.shape[0] // 2, rows.shape[0] - 1}:
            start = n // at.lanes * at.outer_stride + n % at.lanes * at.run
            places = [start + s * at.segment_stride + i for s in range(at.segments) for i in range(at.run)]
            assert_same(flat[places].sort().values, rows[n].sort().values)


@pytest.mark.parametrize("rung", ["native", "numba", "torch", "reference"])
def test_parameters_without_rows_take_steps(rung):
    """As a process may hold them of a sharded parameter; counters are the same in all processes."""
    if why := refusal(rung, part_of(linear(), torch.float32)):
        pytest.skip(why)
    params = [linear(0, 5), linear(), linear(0, 40_000)]
    opt = rotational.AdamW(params, weight_decay=0.1, fused=rung)
    for _ in range(3):
        opt.step()
    assert [opt.state[p][key].item() for p in params for key in ("step", "turns") if key in opt.state[p]] == [3.0] * 4
    params[0].grad = None
    opt.step()
    assert [opt.state[p]["step"].item() for p in params] == [3.0, 4.0, 4.0]


def test_without_library_the_next_rung_is_taken_and_said(monkeypatch):
    monkeypatch.setattr(binary, "library", lambda: None)
    monkeypatch.setattr(jit, "available", lambda: "numba is not installed; pip install 'rotational[numba]'")
    p = linear()
    opt = rotational.AdamW([p], weight_decay=0.1)
    opt.step()
    assert "kernel: torch" in repr(opt)
    with pytest.raises(ValueError, match=r"AdamW\(fused=True\): no hand-written kernel takes .*pip install"):
        rotational.AdamW([linear()], weight_decay=0.1, fused=True)


def test_what_no_kernel_takes_says_why():
    with pytest.raises(ValueError, match=r"no hand-written kernel takes parameter 0 .*float64 weights"):
        rotational.AdamW([linear(dtype=torch.float64)], weight_decay=0.1, fused=True)
    opt = rotational.AdamW([linear(), linear(dtype=torch.float64)], weight_decay=0.1)
    opt.step()
    assert "kernel: native, torch" in repr(opt)


def test_a_library_of_other_sources_is_not_used(monkeypatch):
    binary.library.cache_clear()
    try:
        monkeypatch.setattr(binary, "ABI", binary.ABI + 1)
        assert native.available() is not None
    finally:
        binary.library.cache_clear()


def test_gradients_may_lie_otherwise_and_weights_may_move():
    p, q = linear(), linear()
    opts = [rotational.AdamW([x], weight_decay=0.1, fused=f) for x, f in ((p, "native"), (q, False))]
    for t in range(4):
        g = linear(seed=t).grad
        p.grad, q.grad = g.T.contiguous().T, g
        if t == 2:
            p.data = p.data.clone()
        for opt in opts:
            opt.step()
    assert_same(p, q, 1e-6)


@pytest.mark.skipif(not hasattr(torch.Tensor, "grad_dtype"), reason="this torch has no grad_dtype")
@pytest.mark.parametrize(("stored", "given"), [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])
@pytest.mark.parametrize("rung", ["native", "numba", "torch", "reference"])
def test_gradients_of_another_precision_are_taken_in_the_weights_own(rung, stored, given):
    p, q = linear(dtype=stored), linear(dtype=stored)
    if why := refusal(rung, part_of(p, stored)):
        pytest.skip(why)
    p.grad = None
    p.grad_dtype = given
    opts = [rotational.AdamW([x], weight_decay=0.1, fused=rung) for x in (p, q)]
    for t in range(3):
        p.grad = linear(seed=t, dtype=given).grad
        q.grad = p.grad.to(stored)
        for opt in opts:
            opt.step()
    assert_same(p, q)


@pytest.mark.parametrize("option", ["lr", "weight_decay", "rotation"])
@pytest.mark.parametrize("rung", ["native", "numba", "torch"])
def test_each_step_is_taken_with_its_own_numbers(rung, option):
    if why := refusal(rung, part_of(linear(), torch.float32)):
        pytest.skip(why)
    p, q = linear(), linear(dtype=torch.float64)
    given = {"lr": 1e-2, "weight_decay": 0.1, **({"rotation": 0.02} if option == "rotation" else {})}
    opts = [rotational.AdamW([x], fused=fused, **given) for x, fused in ((p, rung), (q, "reference"))]
    for _ in range(4):
        for opt in opts:
            opt.param_groups[0][option] *= 3
            opt.step()
    assert_same(p.double(), q, 1e-5)


def test_no_kernel_reads_a_gradient_of_another_shape_or_one_that_is_gone():
    """Whoever hands it on: an optimizer has asked before."""
    w, gone = linear().detach(), linear().grad
    gone.untyped_storage().resize_(0)
    for g, says in ((torch.ones(1), r"a gradient of shape \[1\]"), (gone, r"the storage of a gradient .* is gone")):
        with pytest.raises(ValueError, match=says):
            native.Native().step([_work(part_of(w, torch.float32), g)])


def test_autograd_sees_that_weights_have_changed():
    p = linear()
    loss = (p * p).sum()
    rotational.AdamW([p], weight_decay=0.1, fused="native").step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_autograd_sees_that_weights_without_a_gradient_have_not_changed():
    p, q = linear(), linear()
    opt = rotational.AdamW([p, q], weight_decay=0.1, fused="native")
    opt.step()
    q.grad = None
    before = p._version, q._version
    opt.step()
    assert (p._version, q._version) == (before[0] + 1, before[1])


def test_the_rung_stands_in_repr_and_in_the_log_from_the_start(tmp_path):
    layer = torch.nn.Linear(8, 4)
    opt = rotational.AdamW(layer.parameters(), weight_decay=0.1, fused="native")
    assert "kernel: native" in repr(opt)
    with rotational.watch(layer, opt, path=tmp_path / "log") as log:
        layer(torch.randn(2, 8)).sum().backward()
        opt.step()
    assert Records(log.path).run.groups[0]["kernel"] == "native"
