"""The rotation with torch's own operations: each neuron by sums or by projection, whatever lies beside it."""

from __future__ import annotations

import math
import weakref

import pytest
import torch
from torch import nn

import rotational
from compare import assert_same
from rotational.kernels import foreach_turn, jit, pieces
from rotational.kernels.foreach_turn import rotate_
from rotational.kernels.pieces import Held, Piece
from rotational.neurons import ROWS, Neurons
from rotational.rotate import rotate

ENTRIES = 300
SHARES = (1.0, 0.5, 0.21, 0.19, 0.01, 1e-3)
"""Of |u|, what leads to the side."""
SIZES = (1.0, 1e-25, 1e-12, 1e12, 1e25)
COLUMNS = Neurons(axes=(1,))


def _rows() -> tuple[torch.Tensor, torch.Tensor, list[float]]:
    """Weights, directions of all shares and sizes, and the share of each row."""
    noise = torch.Generator().manual_seed(0)
    cases = [(share, size) for share in SHARES for size in SIZES]
    w, side = torch.randn(2, len(cases), ENTRIES, generator=noise, dtype=torch.float64)
    share, size = torch.tensor(cases, dtype=torch.float64).T[:, :, None]
    w, u = _leaning(w - w.mean(1, keepdim=True), side - side.mean(1, keepdim=True), share)
    return w.float(), (size * u).float(), [one for one, _ in cases]


def _leaning(w, side, share):
    """Weights and directions of length 1, of which this share leads to the side."""
    w = w / w.norm(dim=1, keepdim=True)
    side = side - (side * w).sum(1, keepdim=True) * w
    return w, share * (side / side.norm(dim=1, keepdim=True)) + (1 - share**2).sqrt() * w


def _turned(w, u, neurons, center=True):
    """Weights and RMS after a turn by about 0.1."""
    w, norm = w.clone(), neurons.norm(w)
    rms = torch.zeros_like(norm)
    piece = Piece(w, u, None, None, 1, False, Held(neurons, norm, rms, 1))
    rotate_([piece], [u.clone()], rotation=0.1, memory=0.9, center=center)
    return w, rms


def _expected(w, u, center):
    """The same of rows in double precision."""
    w, norm = w.double(), ROWS.norm(w.double())
    options = {"rotation": 0.1, "norm": norm, "rms": 0 * norm, "steps": 1, "memory": 0.9, "center": center}
    return rotate(w, u.double(), ROWS, **options)


@pytest.mark.parametrize("size", [1000, 1025, 4097, 50_257])
def test_lengths_of_long_rows_lose_no_digits_where_sums_nearly_cancel(size):
    """Added up in one chain, single precision is 4e-7 off at 50,257; of the little that is left, 25 times as much."""
    noise = torch.Generator().manual_seed(size)
    share = torch.linspace(0.19, 0.75, 40, dtype=torch.float64)[:, None]
    w, u = (x.float() for x in _leaning(*torch.randn(2, 40, size, generator=noise, dtype=torch.float64), share))
    turned, rms = _turned(w, u, ROWS, center=False)
    expected, expected_rms = _expected(w, u, center=False)
    assert_same(rms / expected_rms, torch.ones_like(rms), 5e-6)
    assert ((turned.double() - expected).norm(dim=1) / w.double().norm(dim=1)).max() < 1e-6


@pytest.mark.parametrize("neurons", [ROWS, COLUMNS], ids=["rows", "columns"])
@pytest.mark.parametrize("center", [True, False])
def test_every_share_and_size_turns_as_in_double_precision(neurons, center):
    w, u, shares = _rows()
    lying = (lambda x: x) if neurons is ROWS else (lambda x: x.T.contiguous())
    turned, rms = (lying(x) for x in _turned(lying(w), lying(u), neurons, center))
    expected, expected_rms = _expected(w, u, center)
    change = (turned.double() - w).norm(dim=1)
    assert (change > 0.05).all()
    error = (turned.double() - expected).norm(dim=1) / change
    # Projecting leaves up to 8 roundings of |u| (`rotate.rounding`), and the change of a weight a few of the weight.
    limit = torch.tensor([8 * 2**-23 * (1 / share + 5) for share in shares])
    assert (error < limit).all(), (error / limit).max()
    assert_same(rms / expected_rms, torch.ones_like(rms), 1e-3)


def test_what_lies_beside_a_neuron_changes_none_of_its_bits():
    w, u, _ = _rows()
    w[1], u[2], u[3, 5], w[4, 7] = 0.0, 0.0, math.nan, math.inf
    turned, rms = _turned(w, u, ROWS)
    for i in range(len(w)):
        alone, alone_rms = _turned(w[i : i + 1], u[i : i + 1], ROWS)
        assert torch.equal(turned[i].nan_to_num(7.0), alone[0].nan_to_num(7.0)), i
        assert torch.equal(rms[i].nan_to_num(7.0), alone_rms[0].nan_to_num(7.0)), i
    assert torch.equal(turned[1], w[1])
    assert torch.equal(turned[2], w[2])
    assert not turned[3].isfinite().any()


def test_projection_is_only_of_those_who_need_it(monkeypatch):
    asked = []
    projected = foreach_turn._projected

    def seen(of, noise, center, taken, rest):
        asked.append(rest.flatten().tolist())
        return projected(of, noise, center, taken, rest)

    monkeypatch.setattr(foreach_turn, "_projected", seen)
    w, u, shares = _rows()
    easy = [share > 0.2 and 1e-15 < float(row.norm()) < 1e15 for share, row in zip(shares, u, strict=True)]
    _turned(w[easy], u[easy], ROWS)
    assert asked == []
    _turned(w, u, ROWS)
    assert asked == [[not one for one in easy]]


# What lasts from batch to batch and from step to step ---------------------------------------------------------


def _three(fused):
    """Three weights, of which no two fit a batch, and their optimizer."""
    noise = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(8, 6, generator=noise)) for _ in range(3)]
    return params, rotational.AdamW(params, lr=1e-2, weight_decay=0.1, fused=fused)


def _stepped(params, opt, t, without=()):
    noise = torch.Generator().manual_seed(1000 + t)
    for i, p in enumerate(params):
        g = torch.randn(p.shape, generator=noise)
        p.grad = None if i in without else g
    opt.step()


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(pieces, "CACHED", 48 // torch.get_num_threads())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_one_batch_leaves_behind_is_not_in_the_next(small, bad):
    params, opt = _three(fused=False)
    others, reference = _three(fused="reference")
    for t in range(3):
        for them, stepper in ((params, opt), (others, reference)):
            _stepped(them, stepper, t)
            them[0].grad[2, 3] = bad
            stepper.step()
    assert not params[0][2].isfinite().any()
    for p, q in zip(params, others, strict=True):
        finite = q.isfinite()
        assert torch.equal(p.isfinite(), finite)
        assert_same(p[finite], q[finite], 1e-5)


def test_pieces_follow_who_has_gradients(small):
    params, opt = _three(fused=False)
    others, reference = _three(fused="reference")
    for t, without in enumerate([(), (), (1,), (1, 2), (0,), ()]):
        for them, stepper in ((params, opt), (others, reference)):
            _stepped(them, stepper, t, without)
    for p, q in zip(params, others, strict=True):
        assert_same(p.detach(), q.detach(), 1e-5)
        assert_same(opt.state[p]["step"], reference.state[q]["step"])


def test_counters_that_are_set_are_read(small):
    params, opt = _three(fused=False)
    others, reference = _three(fused="reference")
    for t in range(3):
        for them, stepper in ((params, opt), (others, reference)):
            stepper.state[them[1]].get("step", torch.zeros(())).fill_(7.0)
            _stepped(them, stepper, t)
    assert_same([p.detach() for p in params], [q.detach() for q in others], 1e-5)


@pytest.mark.parametrize("fused", [None, False, "numba", "reference"])
def test_gradients_do_not_outlive_their_step(small, fused):
    if fused == "numba" and (why := jit.available()):
        pytest.skip(why)
    params, opt = _three(fused)
    for t in range(2):
        _stepped(params, opt, t)
        kept = [weakref.ref(p.grad) for p in params]
        opt.zero_grad(set_to_none=True)
        assert [x() for x in kept] == [None] * 3


@pytest.mark.parametrize("low", [torch.half, torch.float32])
def test_a_batch_may_be_of_several_precisions(low):
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(6, 5).to(dtype)) for dtype in (low, torch.float64, low)]
    expected = [nn.Parameter(p.detach().double()) for p in params]
    opt = rotational.AdamW(params, lr=1e-2, weight_decay=0.1, fused=False)
    reference = rotational.AdamW(expected, lr=1e-2, weight_decay=0.1, fused="reference")
    for t in range(3):
        noise = torch.Generator().manual_seed(t)
        for p, q in zip(params, expected, strict=True):
            p.grad = torch.randn(p.shape, generator=noise).to(p.dtype)
            q.grad = p.grad.double()
        opt.step()
        reference.step()
    for p, q in zip(params, expected, strict=True):
        tolerance = 3e-3 if p.dtype is torch.half else 1e-5
        torch.testing.assert_close(p.detach().double(), q.detach(), rtol=tolerance, atol=tolerance)


def test_what_is_no_longer_stepped_here_is_let_go():
    params, opt = _three(fused=False)
    for t in range(2):
        _stepped(params, opt, t)
    kept = weakref.ref(opt.state[params[0]]["exp_avg"])
    opt.param_groups[0]["fused"] = "reference"
    _stepped(params, opt, 2)
    state = opt.state[params[0]]
    state["exp_avg"] = state["exp_avg"].clone()
    _stepped(params, opt, 3)
    assert kept() is None
