"""What the laws of the step for GPUs are about: parameters of every layout, beside the plain rung in float64."""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from compare import assert_same
from rotational import rules
from rotational.kernels.foreach import Foreach
from rotational.kernels.work import Part, Work
from rotational.neurons import ROWS, WHOLE, Neurons
from rotational.scale import Rms

COLUMNS = Neurons(axes=(1,))
GROUPS = Neurons(axes=(0, 2), split=2)
LAST = torch.channels_last

F32, BF16 = torch.float32, torch.bfloat16
STORED = [(F32, F32), (F32, BF16), (BF16, F32), (BF16, BF16)]

RULES = {
    "AdamW": rules.adamw(betas=(0.9, 0.99), eps=1e-2),
    "Adam with L2": rules.adam_l2(eps=1e-2),
    "SGD": rules.sgd(),
    "SGD with momentum": rules.sgd(momentum=0.9, dampening=0.2),
    "SGD with Nesterov": rules.sgd(momentum=0.9, nesterov=True),
    "Lion": rules.lion(),
}
TURNING: dict[str, tuple[Neurons, tuple[int, ...]]] = {
    "rows of 33": (ROWS, (3, 33)),
    "rows of 31": (ROWS, (2, 31)),
    "rows of 32, which are loaded at a time": (ROWS, (5, 32)),
    "rows of 3": (ROWS, (7, 3)),
    "one row": (ROWS, (1, 6)),
    "rows of a convolution": (ROWS, (4, 3, 2, 2)),
    "columns": (COLUMNS, (9, 5)),
    "columns of a convolution": (COLUMNS, (3, 4, 2, 2)),
    "columns of groups": (GROUPS, (6, 2, 3, 3)),
    "whole tensor": (WHOLE, (4, 5)),
}
PLAIN: list[tuple[int, ...]] = [(7,), (3, 5)]
LONG = [(ROWS, (2, 33)), (COLUMNS, (20, 3)), (GROUPS, (6, 1, 3, 3)), (WHOLE, (4, 8))]


def noise(shape, seed: int, size: float = 1.0) -> Tensor:
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def part(rule, units: Neurons | None, shape, weights=F32, moments=F32, seed=0, center=True) -> Part:
    """A parameter as the optimizer has it before its first step."""
    w = noise(shape, 100 + seed)
    if units is not None and center:
        w = units.center(w)
    w = w.to(weights)
    m = torch.zeros_like(w, dtype=moments) if rule.memory.old else None
    v = torch.zeros_like(w, dtype=moments) if isinstance(rule.scale, Rms) else None
    norm = None if units is None else units.norm(w).float()
    turns = None if units is None else torch.zeros(())
    rms = None if norm is None else torch.zeros_like(norm)
    return Part(w, m, v, torch.zeros(()), rule.memory.warm, units, norm, rms, turns)


def parts(rule, turning=None, plain=tuple(PLAIN), **options) -> list[Part]:
    placed = [*(TURNING.values() if turning is None else turning), *((None, shape) for shape in plain)]
    return [part(rule, units, shape, seed=i, **options) for i, (units, shape) in enumerate(placed)]


def work(rule, of: list[Part], grads, **options) -> Work:
    given: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1, "rotation": 0.02, "ema": 0.9, "center": True}
    given |= {"maximize": False, "dither": False, "foreach": True} | options
    return Work(rule=rule, parts=of, grads=grads, **given)


def gradients(of: list[Part], t: int, size: float = 1.0) -> list[Tensor]:
    return [torch.empty_like(p.w).copy_(noise(p.w.shape, 1000 * t + i, size)) for i, p in enumerate(of)]


def double(of: list[Part]) -> list[Part]:
    """The same in float64."""
    wide = [replace(p, **{f.name: _wide(getattr(p, f.name)) for f in fields(p)}) for p in of]
    for p in wide:
        p.__post_init__()
    return wide


def _wide(x):
    return x.double() if isinstance(x, Tensor) and x.dim() else copy.copy(x) if not isinstance(x, Tensor) else x.clone()


def step(kernel, of: list[Part], rule, grads, **options) -> Work:
    done = work(rule, of, grads, **options)
    with torch.no_grad():
        kernel.step([done])
    for p, g in zip(of, grads, strict=True):
        p.fresh = p.fresh and g is None
    return done


def assert_alike(got: list[Part], expected: list[Part], tolerance: float = 1e-5) -> None:
    for i, (x, y) in enumerate(zip(got, expected, strict=True)):
        for name in ("w", "m", "v", "norm", "rms", "step", "turns"):
            a, b = getattr(x, name), getattr(y, name)
            if b is not None:
                assert_same(a, b.double(), tolerance, f"{name} of part {i}, {tuple(x.w.shape)}")


def run(kernel, rule, of: list[Part], steps: int, tolerance: float = 1e-5, **options) -> None:
    """Take steps beside the plain rung in float64."""
    reference, beside = double(of), Foreach()
    for t in range(steps):
        grads = gradients(of, t)
        step(kernel, of, rule, grads, **options)
        step(beside, reference, rule, [g.double() for g in grads], **options)
    assert_alike(of, reference, tolerance)
