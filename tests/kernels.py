"""What the laws of the kernels range over: rungs, rules, controls, and every layout of a parameter in one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

import rotational
from layouts import LAYOUTS
from rotational.kernels import jit, native
from rotational.kernels.work import Part
from rotational.neurons import ROWS, WHOLE, Neurons

COLUMNS = Neurons(axes=(1,))

RULES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    # eps is large: at the first step Adam's u is 1 - eps/|g|, which a row of equal signs, once centred, is made of;
    # with 1e-8 double precision takes it for a direction, and single for rounding.
    "AdamW": partial(rotational.AdamW, eps=1e-2),
    "AdamW without memory": partial(rotational.AdamW, betas=(0.0, 0.99), eps=0.5),
    "Adam with L2": partial(rotational.Adam, rotation=5e-3, eps=0.1),
    "SGD": rotational.SGD,
    "SGD with momentum": partial(rotational.SGD, momentum=0.9, dampening=0.2),
    "SGD with Nesterov": partial(rotational.SGD, momentum=0.9, nesterov=True),
    "Lion": rotational.Lion,
}
CONTROLS: dict[str, dict[str, Any]] = {
    "as in the paper": {},
    "every step, not centred": {"update_memory": 0.0, "center": False},
    "tensors": {"units": "tensor", "maximize": True},
    "plain": {"rotational": False},
}
SHAPES: dict[str, tuple[Neurons, tuple[int, ...]]] = {
    **LAYOUTS,
    **{f"rows of {n}": (ROWS, (3, n)) for n in (1, 2, 3, 31, 32, 33, 4097, 50257)},
    "a column of 50257": (COLUMNS, (50257, 2)),
    "wide columns": (COLUMNS, (700, 90)),
    "many rows of 9": (ROWS, (600, 1, 3, 3)),
    **{f"many rows of {n}": (ROWS, (37, n)) for n in (5, 6, 31, 49)},
    "no rows": (ROWS, (0, 5)),
    "gains": (WHOLE, (70,)),
    "scalar": (WHOLE, ()),
}
NOISE = torch.randn(1 << 19, generator=torch.Generator().manual_seed(5), dtype=torch.float32)


def linear(rows=40, size=70, seed=0, dtype=torch.float32):
    """One matrix, with a gradient."""
    noise = torch.Generator().manual_seed(seed)
    p = nn.Parameter(torch.randn(rows, size, generator=noise).to(dtype))
    p.grad = torch.randn(rows, size, generator=noise).to(dtype)
    return p


def part_of(w, moments, like=None):
    """A part whose neurons are rows; its state is new, or that of another."""
    zeros = torch.zeros(w.shape, dtype=moments)
    held = (ROWS.norm(w.detach().float()), torch.zeros(len(w), 1)) if like is None else (like.norm, like.rms)
    m, v = (zeros, zeros.clone()) if like is None else (like.m.to(moments), like.v.to(moments))
    counters = (torch.zeros(()), torch.zeros(())) if like is None else (like.step.clone(), like.turns.clone())
    norm, rms = (x.to(torch.promote_types(w.dtype, torch.float32)) for x in held)
    return Part(w, m, v, counters[0], False, ROWS, norm, rms, counters[1])


def parameters(dtype: torch.dtype) -> list[nn.Parameter]:
    """One of every shape; then some that lie in memory in other ways."""
    made = [NOISE[7 * i :][: torch.Size(s).numel()].reshape(s) for i, (_, s) in enumerate(SHAPES.values())]
    made += [NOISE[: 8 * 3 * 5 * 5].reshape(8, 3, 5, 5).contiguous(memory_format=torch.channels_last)]
    made += [NOISE[: 6 * 40].reshape(40, 6).T]
    made = [x.to(dtype, memory_format=torch.preserve_format, copy=True) for x in made]
    padded = torch.zeros(6, 48, dtype=dtype)
    padded[:, :40] = NOISE[:240].reshape(6, 40).to(dtype)
    askew = torch.zeros(8 * 40 + 1, dtype=dtype)[1:].view(8, 40)
    askew[:] = NOISE[:320].reshape(8, 40).to(dtype)
    strided = torch.zeros(6, 80, dtype=dtype)
    strided[:, ::2] = NOISE[:240].reshape(6, 40).to(dtype)
    made += [padded[:, :40], askew, strided[:, ::2]]
    return [nn.Parameter(x) for x in made]


def neurons() -> list[Neurons]:
    return [n for n, _ in SHAPES.values()] + [ROWS] * 5


def give_gradients(params: list[nn.Parameter], t: int) -> None:
    """The same float32 numbers in every precision; of another size for each parameter."""
    for i, p in enumerate(params):
        start = (t * 7919 + i * 104729) % (len(NOISE) - p.numel())
        g = NOISE[start : start + p.numel()].view(p.shape) * 2.0 ** (i % 9 - 4)
        p.grad = torch.empty_like(p).copy_(g)  # as autograd has it, a gradient lies as its weight does


def run(rule: str, control: str, dtype: torch.dtype, steps: int, **options: Any) -> list[Tensor]:
    params = parameters(dtype)
    group = {"params": params, "neurons": neurons()}
    # L2 that outweighs gradients makes u nearly radial, of which single precision knows the rest badly
    decay = 1e-4 if "L2" in rule else 0.1
    opt = RULES[rule]([group], **{"lr": 2e-3, "weight_decay": decay, **CONTROLS[control], **options})
    for t in range(steps):
        give_gradients(params, t)
        opt.step()
    return [p.detach() for p in params]


@cache
def expected(rule: str, control: str, steps: int) -> list[Tensor]:
    return run(rule, control, torch.float64, steps, fused="reference")


def rungs() -> Iterator[tuple[str, str | None]]:
    """Those that a CPU may have, each with the reason where it is not there."""
    yield "native", native.available()
    yield "numba", jit.available()
    yield "torch", None
