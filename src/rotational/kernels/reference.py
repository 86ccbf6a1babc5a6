"""The step as pure functions of one parameter, in the precision that it comes in: the measure of every other rung.

c  filtered gradient     u  direction     t  steps, this one included     turns  how often it turned, likewise
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rotational.kernels.foreach import store
from rotational.kernels.work import Part, Work, nowhere, wide
from rotational.neurons import Neurons
from rotational.rotate import rotate
from rotational.rule import Rule
from rotational.scale import Rms, Sign


class State(NamedTuple):
    """All of a parameter that a step changes; what it does not have is None."""

    w: Tensor
    m: Tensor | None
    v: Tensor | None
    norm: Tensor | None
    rms: Tensor | None


class Numbers(NamedTuple):
    """What may be another at every step, as tensors, so that compiled code need not be made anew."""

    lr: Tensor
    kept: Tensor
    coupled: Tensor
    rotation: Tensor
    t: Tensor
    turns: Tensor


class Fixed(NamedTuple):
    """What hardly changes."""

    rule: Rule
    units: Neurons | None
    ema: float
    center: bool
    sign: float
    fresh: bool


def advance(state: State, g: Tensor, numbers: Numbers, fixed: Fixed) -> State:
    """One step of one parameter."""
    w, m, v, norm, rms = state
    g = fixed.sign * g + numbers.coupled * w
    u, m, v = direction(fixed.rule, g, m, v, numbers.t, fixed.fresh)
    units = fixed.units
    if units is None:
        return State(numbers.kept * w - numbers.lr * u, m, v, norm, rms)
    assert norm is not None
    assert rms is not None
    norm = torch.where(norm > 0, norm, units.norm(w))
    turned, rms = rotate(
        w,
        u,
        units,
        rotation=numbers.rotation,  # pyright: ignore[reportArgumentType]  a tensor multiplies as a float does
        norm=norm,
        rms=rms,
        steps=numbers.turns,  # pyright: ignore[reportArgumentType]
        memory=fixed.ema,
        center=fixed.center,
    )
    return State(turned, m, v, norm, rms)


def direction(
    rule: Rule, g: Tensor, m: Tensor | None, v: Tensor | None, t: Tensor, fresh: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """u = scale(memory(g)), and what is remembered after it."""
    memory, scale, c = rule.memory, rule.scale, g
    if m is not None:
        new, inflow = memory.new, memory.inflow
        if fresh:  # the first gradient enters undamped
            new, inflow = new + memory.old * (1 - inflow) / memory.decay, 1.0
        c, m = new * g + memory.old * m, memory.decay * m + inflow * g
    if isinstance(scale, Sign):
        return torch.where(c.isnan(), c, torch.sign(c)), m, v  # torch's own sign of NaN is 0
    if not isinstance(scale, Rms):
        return c, m, v
    assert v is not None
    v = scale.beta * v + (1 - scale.beta) * g * g
    if m is not None and memory.unbiased:
        c = c / (1 - memory.decay**t)
    root = torch.sqrt(v / (1 - scale.beta**t)) if scale.unbiased else torch.sqrt(v)
    return c / (root + scale.eps), m, v


def available() -> str | None:
    """None: torch is all it needs."""
    return None


def refusal(part: Part) -> str | None:
    """None: it takes everything."""
    return None


class Reference:
    """The pure step, parameter by parameter."""

    advance: Callable[..., State] = staticmethod(advance)

    def step(self, works: Sequence[Work]) -> None:
        """Take one step of all groups (see `work.Kernel`)."""
        for work in works:
            for part, g in zip(work.parts, work.grads, strict=True):
                if g is not None:
                    self._take(work, part, g)

    def _take(self, work: Work, part: Part, g: Tensor) -> None:
        dtype, turns = wide(part.w.dtype), part.units is not None
        part.step += 1
        if part.turns is not None:
            part.turns += 1

        def number(value: Any) -> Tensor:
            if nowhere(part.w):  # nor has what they are multiplied with, which torch asks for
                return part.w.new_empty((), dtype=dtype)
            return torch.as_tensor(value, dtype=dtype, device=part.w.device)

        numbers = Numbers(
            number(work.lr),
            number(work.kept(turns)),
            number(work.coupled(turns)),
            number(work.rotation),
            number(part.step),
            number(0.0 if part.turns is None else part.turns),
        )
        fixed = Fixed(work.rule, part.units, work.ema, work.center, -1.0 if work.maximize else 1.0, part.fresh)
        held = State(part.w, part.m, part.v, part.norm, part.rms)
        before = State(*(None if x is None else x.to(dtype) for x in held))  # pyright: ignore[reportArgumentType]
        for to, x in zip(held, self.advance(before, g.to(part.w.dtype).to(dtype), numbers, fixed), strict=True):
            if to is not None and x is not None:
                store(to, x, work.dither and to is not part.w)
