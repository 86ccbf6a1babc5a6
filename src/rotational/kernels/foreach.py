"""A step over lists of torch tensors, in place, with torch's own operations.

The rule (gradient -> update direction) is `directions`, and where neurons turn `updates`, which for Adam on a CPU is
torch's fused kernel. What is done with it is either `descend_`, the plain rule, or `foreach_turn.rotate_`. All are
generic over memory, scale and neurons.

    w  weights     g  gradients     m  memory     v  second moments     c  filtered     u  directions
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from rotational.kernels.foreach_turn import rotate_
from rotational.kernels.pieces import Held, Piece, Scratch, batches
from rotational.kernels.work import Part, Work, nowhere, wide
from rotational.memory import Memory, ema
from rotational.rule import Rule
from rotational.scale import Rms, Sign

# torch's own optimizers are written with these functions; only their names begin with an underscore.
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

Tensors = list[Tensor]


class Directions(NamedTuple):
    """u = c/(root bias) of a batch, or c where root is None (and each bias 1); to be read only.

    It stays undivided, so that `descend_` divides and adds in one pass, to the same bits as torch.
    """

    c: Tensors
    root: Tensors | None
    bias: list[float]


def available() -> str | None:
    """None: torch is all it needs."""
    return None


def refusal(part: Part) -> str | None:
    """Why this parameter takes another rung; None where it takes this one."""
    return "weights without memory, whose sums nobody can ask for" if nowhere(part.w) else None


class Foreach:
    """The plain rung: torch's own operations, in batches that fit the cache. It takes all that has memory."""

    def __init__(self) -> None:
        self._scratch = Scratch()
        self._cuts: WeakKeyDictionary[Work, Cut] = WeakKeyDictionary()  # a work lasts for as long as its parts do

    def step(self, works: Sequence[Work]) -> None:
        """Take one step of all groups (see `work.Kernel`)."""
        self._scratch.returned(False)  # nothing is, of a step that was broken off
        for work in works:
            grads = work.in_line()
            together = [j for j, g in enumerate(grads) if g is not None]
            if not together:
                continue
            # A tensor, for a number would be made into one for each parameter.
            counters = [work.parts[j].step for j in together]
            counters += [t for j in together if (t := work.parts[j].turns) is not None]
            torch._foreach_add_(counters, torch.tensor(1.0, dtype=torch.float32, device="cpu"), alpha=1.0)
            cut = self._cuts.get(work)
            if cut is None or not cut.serves(work, together):
                cut = self._cuts[work] = Cut(work, together)
            cut.take(grads)
            try:
                for turns, batch in cut.batches:
                    _advance(work, batch, turns, self._scratch)
            finally:
                cut.release()


class Cut:
    """The pieces of some parameters of a group, in batches; they last for as long as these have the same parts."""

    def __init__(self, work: Work, together: list[int]) -> None:
        self._parts, self._of = work.parts, (together, torch.get_num_threads(), work.foreach)
        self.batches: list[tuple[bool, list[Piece]]] = []
        for turns in (True, False):
            pieces = [_piece(work.parts[i], i) for i in together if (work.parts[i].units is not None) == turns]
            # Neurons of one size turn in one go: keep them together.
            pieces.sort(key=lambda x: x.held.neurons.size(x.w.shape) if x.held else 0)
            cut = batches(pieces) if work.foreach else ([x] for x in pieces)
            self.batches += [(turns, batch) for batch in cut]

    def serves(self, work: Work, together: list[int]) -> bool:
        """Whether these are the pieces of this work."""
        return work.parts is self._parts and self._of == (together, torch.get_num_threads(), work.foreach)

    def take(self, grads: Sequence[Tensor | None]) -> None:
        """What there is in one step."""
        counts = [(int(x.step.item()), x.fresh, 0 if x.turns is None else int(x.turns.item())) for x in self._parts]
        for _, batch in self.batches:
            for piece in batch:
                piece.take(grads[piece.index], *counts[piece.index])

    def release(self) -> None:
        """Gradients do not outlive their step."""
        for _, batch in self.batches:
            for piece in batch:
                piece.g = None


def _piece(part: Part, index: int) -> Piece:
    held = None
    if part.units is not None:
        assert part.norm is not None
        assert part.rms is not None
        held = Held(part.units, part.norm, part.rms, 0)
    return Piece(part.w, None, part.m, part.v, held=held, index=index)


def _advance(work: Work, batch: list[Piece], turns: bool, scratch: Scratch) -> None:
    """One step of a batch that turns, or of one that takes the plain rule."""
    # Low precision turns in single; the plain rule has torch's own arithmetic where it has torch's own state.
    ready = [_widened(x) if not x.exact and (turns or not x.alike) else x for x in batch]
    g = [x.g for x in ready if x.g is not None]
    if work.maximize:
        g = list(torch._foreach_neg(g))
    if coupled := work.coupled(turns):
        g = list(torch._foreach_add(g, [x.w for x in batch], alpha=coupled))
    if turns:
        u = updates(work.rule, g, ready, scratch)
        numbers = rotate_(batch, u, rotation=work.rotation, memory=work.ema, center=work.center, scratch=scratch)
        scratch.returned(numbers)
    else:
        descend_(batch, directions(work.rule, g, ready), lr=work.lr, kept=work.kept(turns))
    for x, y in zip(batch, ready, strict=True):
        if x is not y:
            for to, moment in zip(x.moments, y.moments, strict=True):
                if to is not moment:
                    store(to, moment, work.dither)


def _widened(piece: Piece) -> Piece:
    """In the precision of the arithmetic, in copies where it is stored in another."""
    dtype = wide(piece.w.dtype)
    g, m, v = (None if x is None else x.to(dtype) for x in (piece.g, piece.m, piece.v))
    return replace(piece, g=g, m=m, v=v)


def store(to: Tensor, x: Tensor, dither: bool) -> None:
    """Round to how something is stored; at random, where asked for, so that small changes are not lost."""
    if dither and to.dtype is torch.bfloat16:
        bits = x.float().view(torch.int32)
        noise = torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32, device=bits.device)
        x = torch.where(x.isfinite(), ((bits + noise) & ~0xFFFF).view(torch.float32), x)
    to.copy_(x)


# The rule ---------------------------------------------------------------------------------------------------


def directions(rule: Rule, g: Tensors, batch: Sequence[Piece]) -> Directions:
    """Update directions u = scale(memory(g)) of a batch; its `m` and `v` are brought up to date.

    `g` is what the rule takes for the gradients. The result may share storage with `g` or the memory, so
    that SGD copies nothing.
    """
    c = _remember(rule.memory, g, batch)
    if isinstance(rule.scale, Sign):
        # torch's sign of NaN is 0: what lies at or below the sign changes nothing in it, but for NaN.
        signs = list(torch._foreach_sign(c))
        torch._foreach_maximum_(signs, torch._foreach_clamp_max(c, -1.0))
        c = signs
    if not isinstance(rule.scale, Rms):
        return Directions(c, None, [1.0] * len(c))
    beta, v = rule.scale.beta, [x.v for x in batch if x.v is not None]
    torch._foreach_mul_(v, beta)
    torch._foreach_addcmul_(v, g, g, 1 - beta)
    root = list(torch._foreach_sqrt(v))
    if rule.scale.unbiased:
        torch._foreach_div_(root, [(1 - beta**x.steps) ** 0.5 for x in batch])
    torch._foreach_add_(root, rule.scale.eps)
    decay = rule.memory.decay if rule.memory.unbiased else 0.0
    return Directions(c, root, [1 - decay**x.steps for x in batch])


def updates(rule: Rule, g: Tensors, batch: Sequence[Piece], scratch: Scratch) -> Tensors:
    """u = scale(memory(g)), in memory of its own, for `rotate_` to use up; `m` and `v` are brought up to date."""
    adam = _is_adam(rule)
    fused = [adam and x.together for x in batch]
    u: dict[int, Tensor] = {}
    # Each piece by itself decides how: the bits of its update are the same whatever stands beside it.
    for kind, made in ((True, _fused), (False, _divided)):
        if at := [i for i, x in enumerate(fused) if x is kind]:
            u.update(zip(at, made(rule, [g[i] for i in at], [batch[i] for i in at], scratch), strict=True))
    return [u[i] for i in range(len(batch))]


def _fused(rule: Rule, g: Tensors, batch: Sequence[Piece], scratch: Scratch) -> Tensors:
    """Adam's in one pass instead of seven: where all that was there decays, a step of lr = -1 arrives at u."""
    scale = rule.scale
    assert isinstance(scale, Rms)
    u = scratch.like("u", g, lend=True)
    torch._fused_adamw_(
        u,
        g,
        [x.m for x in batch if x.m is not None],
        [x.v for x in batch if x.v is not None],
        [],
        [_count(x.steps) for x in batch],
        lr=-1.0,
        beta1=rule.memory.decay,
        beta2=scale.beta,
        weight_decay=-1.0,
        eps=scale.eps,
        amsgrad=False,
        maximize=False,
    )
    return u


@lru_cache(maxsize=16)
def _count(steps: int) -> Tensor:
    return torch.tensor(steps, dtype=torch.float32, device="cpu")


def _divided(rule: Rule, g: Tensors, batch: Sequence[Piece], _: Scratch) -> Tensors:
    """That of any rule, by its formula."""
    c, root, bias = directions(rule, g, batch)
    if root is None:
        return [x.clone() for x in c]
    torch._foreach_mul_(root, bias)
    return list(torch._foreach_div(c, root))


def _is_adam(rule: Rule) -> bool:
    beta = rule.memory.decay
    return isinstance(rule.scale, Rms) and rule.scale.unbiased and beta != 0 and rule.memory == ema(beta)


def _remember(memory: Memory, g: Tensors, batch: Sequence[Piece]) -> Tensors:
    """c = new g + old m, then m = decay m + inflow g."""
    if memory.old == 0:
        return g
    m = [x.m for x in batch if x.m is not None]
    # What is used is most often what is kept (c = m), or looks ahead from it (Nesterov: c = inflow g + decay m).
    kept = memory.new == memory.inflow and memory.old == memory.decay
    ahead = memory.old == memory.decay**2 and math.isclose(memory.new, memory.inflow * (1 + memory.decay))
    c = m
    if not kept and not ahead:
        c = list(torch._foreach_mul(m, memory.old))
        torch._foreach_add_(c, g, alpha=memory.new)
    if memory.decay + memory.inflow == 1:
        torch._foreach_lerp_(m, g, memory.inflow)
    else:
        torch._foreach_mul_(m, memory.decay)
        torch._foreach_add_(m, g, alpha=memory.inflow)
    if memory.warm:  # the first gradient enters undamped
        for piece, state, gradient in zip(batch, m, g, strict=True):
            if piece.fresh:
                state.copy_(gradient)
    if ahead and not kept:
        c = list(torch._foreach_mul(g, memory.inflow))
        torch._foreach_add_(c, m, alpha=memory.decay)
    return c


def descend_(batch: Sequence[Piece], u: Directions, *, lr: float, kept: float) -> None:
    """The plain rule: w <- kept w - lr u."""
    w = [x.w for x in batch]
    if kept != 1:
        torch._foreach_mul_(w, kept)
    if u.root is None:
        torch._foreach_add_(w, u.c, alpha=-lr)
    else:
        torch._foreach_addcdiv_(w, u.c, u.root, [-(lr / bias) for bias in u.bias])
