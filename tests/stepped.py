"""Optimizers that have taken a step, on every rung, and how their next one is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import rotational
from compare import assert_same
from rotational.kernels import jit, native

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
