"""The two halves of a step over lists of torch tensors, in place.

`directions` is the rule (gradient -> update direction), `rotate_` is `rotate.rotate` for many tensors; both
are generic over memory, scale and neurons, and are checked against the simulator and the pure reference.

    g  gradients     m  memory     v  second moments     u  directions     t  steps taken, this one included
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rotational.memory import Memory
from rotational.neurons import Neurons
from rotational.rotate import ROUNDING
from rotational.rule import Rule
from rotational.scale import Rms, Sign

# torch's own optimizers are written with these functions; only their names begin with an underscore.
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

Tensors = list[Tensor]


def directions(rule: Rule, g: Tensors, m: Tensors, v: Tensors, t: Sequence[int]) -> Tensors:
    """Update directions u = scale(memory(g)); `m` and `v` are brought up to date.

    The result may share storage with `m` or `g`, so that SGD copies nothing: callers only read it.
    """
    c = _remember(rule.memory, g, m)
    if isinstance(rule.scale, Sign):
        return list(torch._foreach_sign(c))
    if not isinstance(rule.scale, Rms):
        return c
    beta = rule.scale.beta
    torch._foreach_mul_(v, beta)
    torch._foreach_addcmul_(v, g, g, 1 - beta)
    root = list(torch._foreach_sqrt(v))
    if rule.scale.unbiased:
        torch._foreach_div_(root, [(1 - beta**k) ** 0.5 for k in t])
    torch._foreach_add_(root, rule.scale.eps)
    if rule.memory.unbiased:
        torch._foreach_mul_(root, [1 - rule.memory.decay**k for k in t])
    return list(torch._foreach_div(c, root))


def first_memory(memory: Memory, g: Tensor) -> Tensor:
    """The state before the first step: zero, or what makes a warm memory hold the first gradient undamped."""
    if memory.warm and memory.inflow != 1.0:
        return g * ((1 - memory.inflow) / memory.decay)
    return torch.zeros_like(g, memory_format=torch.preserve_format)


def _remember(memory: Memory, g: Tensors, m: Tensors) -> Tensors:
    """c = new g + old m, then m = decay m + inflow g."""
    if memory.old == 0:
        return g
    if memory.new == memory.inflow and memory.old == memory.decay:  # what is used is what is kept
        torch._foreach_mul_(m, memory.decay)
        torch._foreach_add_(m, g, alpha=memory.inflow)
        return m
    c = list(torch._foreach_mul(m, memory.old))
    torch._foreach_add_(c, g, alpha=memory.new)
    torch._foreach_mul_(m, memory.decay)
    torch._foreach_add_(m, g, alpha=memory.inflow)
    return c


TINY = 1e-30
"""Below any length in use, above the square root of the smallest float32: it only keeps 0/0 away."""


@torch.no_grad()
def rotate_(
    w: Tensor,
    u: Tensor,
    neurons: Neurons,
    *,
    rotation: float,
    norm: Tensor,
    mean_square: Tensor,
    steps: int,
    memory: float,
    center: bool,
) -> None:
    """`rotate.rotate` in place: `w` turns, `mean_square` is brought up to date, `u` is only read.

    A neuron whose `norm` is 0 stays as it is until it has a length, which then becomes its norm.
    Low-precision weights are turned in single precision and rounded once, at the end.
    """
    within = neurons.within(w.shape)
    held = neurons.view(w)
    wide = held if held.dtype in (torch.float32, torch.float64) else held.float()
    length = torch.linalg.vector_norm(wide, dim=within, keepdim=True)
    torch.where(norm > 0, norm, length, out=norm)
    along = wide / length.clamp_min(TINY)
    u = neurons.view(u).to(wide.dtype)
    noise = torch.linalg.vector_norm(u, dim=within, keepdim=True).mul_(ROUNDING * torch.finfo(wide.dtype).eps)
    u = u - u.mean(within, keepdim=True) if center else u.clone()
    u.addcmul_((u * along).sum(within, keepdim=True), along, value=-1)
    size = torch.linalg.vector_norm(u, dim=within, keepdim=True)
    size.masked_fill_(size <= noise, 0.0)
    mean_square.mul_(memory).addcmul_(size, size, value=1 - memory)
    if rotation == 0.0:
        return  # nothing turns, and nothing is rounded either
    # Where nothing may turn the step is 0, not 0/0; then the length is put right.
    turns = (size > 0) & (norm > 0)
    step = torch.where(turns, mean_square.div(1 - memory**steps).rsqrt_().mul_(rotation), 0.0)
    turned = along.addcmul_(u, step, value=-1)
    turned.mul_(norm / torch.linalg.vector_norm(turned, dim=within, keepdim=True).clamp_min_(TINY))
    held.copy_(torch.where(norm > 0, turned, wide))
