"""Memory that moves, memory of two, and what torch's defaults would change of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import rotational
from compare import assert_same
from rotational.neurons import ROWS
from stepped import MISSING, every_rung, noise, stepped, weight

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
        torch.set_default_device(None)
    assert {x.device.type for x in opt.state[p].values()} == {"cpu"}
