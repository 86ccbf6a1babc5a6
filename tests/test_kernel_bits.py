"""What every bit of a step may depend on: not on threads, not on neighbours' noise; and NaN is never lost."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import rotational
from compare import assert_same
from kernels import RULES, rungs
from rotational import rules
from rotational.kernels import foreach, gpu, jit, native, tasks
from rotational.kernels.choose import Kernels
from rotational.kernels.work import Part, Work
from rotational.neurons import ROWS, WHOLE, Neurons

RUNGS = [pytest.param(name, marks=pytest.mark.skipif(why is not None, reason=str(why))) for name, why in rungs()]
COLUMNS = Neurons(axes=(1,))
SHAPES: list[tuple[Neurons, tuple[int, ...]]] = [
    *((ROWS, (150_000 // n, n)) for n in (1, 2, 3, 5, 7, 8, 9, 27, 31, 100, 128, 5000)),
    (ROWS, (4, 40_000)),
    (ROWS, (2, 140_000)),
    *((COLUMNS, shape) for shape in ((150, 1001), (3000, 50), (20, 7507), (40, 421, 3, 3), (400, 41, 3, 3))),
    (WHOLE, (300, 501)),
    (Neurons(axes=(0, 2), split=2), (64, 150, 3, 3)),
]


# Threads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rung", RUNGS[:2])
def test_the_number_of_threads_changes_no_bit(rung, dtype):
    """Not that of threads that step, and not that of threads for which the work was cut up."""
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(1)  # torch adds up the lengths that it starts from in an order of its own
            params, opt = _many(rung, dtype)
            opt.step()
            opt.load_state_dict(opt.state_dict())  # tables are made anew
            torch.set_num_threads(threads)
            for _ in range(2):
                opt.step()
            found.append([p.detach() for p in params] + [x for state in opt.state.values() for x in state.values()])
    finally:
        torch.set_num_threads(before)
    assert sum(p.numel() for p in params) > 4 * tasks.LEAST * tasks.EACH  # tasks are of another size for each
    for other in found[1:]:
        assert_same(other, found[0])


def _many(rung, dtype):
    noise = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=noise).to(dtype)) for _, shape in SHAPES]
    for p in params:
        p.grad = torch.randn(p.shape, generator=noise).to(dtype)
    group = {"params": params, "neurons": [units for units, _ in SHAPES]}
    return params, rotational.AdamW([group], lr=1e-2, weight_decay=0.1, eps=1e-2, fused=rung)


# NaN ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rotational_", [True, False], ids=["turns", "plain"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("rung", [*RUNGS, "reference"])
def test_nan_stays_visible_where_it_is_and_nowhere_else(rung, rule, rotational_):
    noise = torch.Generator().manual_seed(3)
    weights, gradients = torch.randn(8, 70, generator=noise), torch.randn(8, 70, generator=noise)
    found = []
    for bad in (math.nan, 0.1):
        p = nn.Parameter(weights.clone())
        p.grad = gradients.clone()
        p.grad[3, 5] = bad
        fused = False if rung == "torch" else rung
        opt = RULES[rule]([p], lr=1e-2, weight_decay=0.1, fused=fused, rotational=rotational_)
        for _ in range(3):
            opt.step()
        found.append(p.detach())
    broken = torch.zeros(8, 70, dtype=torch.bool)
    broken[3, slice(None) if rotational_ else 5] = True
    assert_same(found[0].isnan(), broken)
    assert_same(found[0][~broken], found[1][~broken])


@pytest.mark.parametrize("rung", [*RUNGS, "reference"])
def test_the_sign_of_what_is_infinite_is_a_sign(rung):
    p = nn.Parameter(torch.ones(1, 4))
    p.grad = torch.tensor([[math.inf, -math.inf, 0.0, -1e-30]])
    fused = False if rung == "torch" else rung
    rotational.Lion([p], lr=0.5, weight_decay=0.0, fused=fused, rotational=False).step()
    assert p.tolist() == [[0.5, 1.5, 1.0, 1.5]]


# Rounding at random ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", [1.1, 1.3])
@pytest.mark.parametrize("rung", RUNGS[:2])
def test_neighbours_are_not_rounded_alike(rung, gradient):
    """Noise of all lags up to 128 knows nothing of itself, of the other moment's, nor of the next step's."""
    count = 1 << 19
    ups = [_rounded_up(rung, count, gradient, t) for t in (3, 4)]
    for up, share in ups[0]:
        mean = up.mean() + share
        assert abs(up.mean() / (share * (1 - share)) ** 0.5) * count**0.5 < 5, mean
    (m, _), (v, _), (later, _) = (*ups[0], ups[1][0])
    for x, y, least in ((m, m, 1), (v, v, 1), (m, v, 0), (m, later, 0)):
        size = float(x.norm() * y.norm())
        lags = [float(x[k:] @ y[: count - k]) / size * count**0.5 for k in range(least, 129)]
        assert max(map(abs, lags)) < 5
        assert sum(z * z for z in lags) / len(lags) < 1.6


def _rounded_up(rung, count, gradient, t):
    """For m and v: which weights were rounded up, less the share that should be, and that share."""
    w = torch.zeros(1, count)
    m, v = torch.zeros(1, count, dtype=torch.bfloat16), torch.ones(1, count, dtype=torch.bfloat16)
    part = Part(w, m, v, torch.tensor(float(t)), False, None, None, None, None)
    numbers = {"lr": 1e-3, "weight_decay": 0.0, "rotation": 0.0, "ema": 0.9, "center": True, "maximize": False}
    grads = [torch.full((1, count), gradient)]
    Kernels().step([(rung, Work(rules.adamw(), **numbers, dither=True, foreach=True, parts=[part], grads=grads))])
    made = []
    for moment, exact in ((m, 0.1 * gradient), (v, 0.999 + 0.001 * gradient**2)):
        low, high = moment.double().unique().tolist()
        share = (exact - low) / (high - low)
        made.append(((moment.double().flatten() > low).double() - share, share))
    return made


# What is made for a step that is interrupted -------------------------------------------------------------------


def _one_waits(fused, kernel, name, monkeypatch):
    """An optimizer whose first step was interrupted in this call, and whose second left out b; all have gradients."""
    a, b = (nn.Parameter(torch.randn(8, 8, generator=torch.Generator().manual_seed(i))) for i in range(2))
    opt = rotational.SGD([a, b], lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.1, fused=fused)
    a.grad, b.grad = torch.ones(8, 8), torch.eye(8)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kernel, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            opt.step()
    waiting, b.grad = b.grad, None
    opt.step()
    b.grad = waiting
    return opt, a, b


@pytest.mark.parametrize("eps", [1e-12, 1e-30, 1e-37, 0.0])
def test_an_eps_however_small_is_torchs(eps):
    if native.available():
        pytest.skip(str(native.available()))
    torch.manual_seed(0)
    p, g = torch.nn.Parameter(torch.randn(6, 5)), torch.randn(3, 6, 5)
    q = torch.nn.Parameter(p.detach().clone())
    if eps:
        g[:, 0] = 0.0
    options = {"lr": 1e-2, "weight_decay": 0.1, "eps": eps}
    opts = rotational.AdamW([p], rotational=False, fused="native", **options), torch.optim.AdamW([q], **options)
    for one in g:
        p.grad, q.grad = one.clone(), one.clone()
        for opt in opts:
            opt.step()
    assert_same(p.detach(), q.detach(), 1e-5)


CALLS = [("native", native.Table, "run"), (False, foreach.Foreach, "step")]


@pytest.mark.parametrize(("fused", "kernel", "name"), CALLS, ids=["native", "torch"])
def test_who_waits_after_an_interrupted_step_still_begins_with_its_gradient(fused, kernel, name, monkeypatch):
    if fused == "native" and native.available():
        pytest.skip(str(native.available()))
    opt, a, b = _one_waits(fused, kernel, name, monkeypatch)
    opt.step()
    assert_same(opt.state[b]["momentum_buffer"], b.grad)
    assert_same(opt.state[a]["momentum_buffer"], 0.9 * a.grad + 0.5 * a.grad, 1e-6)


@pytest.mark.parametrize("fused", ["native", "numba"])
def test_a_first_gradient_is_taken_undamped_once_whatever_is_measured(fused, monkeypatch):
    if why := dict(rungs())[fused]:
        pytest.skip(why)
    opt, a, b = _one_waits(fused, native.Table if fused == "native" else jit._Plan, "run", monkeypatch)
    # Steps that measure and steps that do not have tables of their own.
    assert opt.measure({a: ROWS})
    opt.step()
    opt.step()
    assert_same(opt.state[b]["momentum_buffer"], 0.9 * b.grad + 0.5 * b.grad, 1e-6)


# Triton ------------------------------------------------------------------------------------------------------


def test_a_broken_triton_is_a_reason_and_no_error(monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "triton":
                raise OSError("libtriton.so: no such file")

    monkeypatch.delitem(sys.modules, "triton", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert gpu.available() == "Triton cannot be imported (libtriton.so: no such file)"
    monkeypatch.setitem(sys.modules, "triton", None)
    assert "pip install triton" in str(gpu.available())


def test_the_oldest_triton_is_one_number():
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    asked = re.search(r'"triton>=(\d+)\.(\d+)', project)
    assert asked is not None
    assert (int(asked[1]), int(asked[2])) == gpu.OLDEST
