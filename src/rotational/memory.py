"""The first field of a rule: how past gradients are remembered.

Every memory in use is the same linear filter with one pole:

    c_t = new g_t + old m_{t-1}            what the step uses
    m_t = decay m_{t-1} + inflow g_t       what is kept

    g   gradient        m   kept state (momentum buffer)        c   filtered gradient
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import NamedTuple


@dataclass(frozen=True)
class Memory:
    """A one-pole linear filter of the gradient; four numbers describe every momentum in use.

    `warm` says that the first gradient enters undamped (torch's SGD), and `unbiased` that the filter is
    divided by 1 - decay^t (Adam); both matter in the first steps only. `ramp` is the rate at which torch's NAdam
    warms its look-ahead up (`momentum_decay`); 0 is the filter that it warms up to.

    >>> ema(0.9)
    Memory(decay=0.9, inflow=0.09999999999999998, new=0.09999999999999998, old=0.9, warm=False, unbiased=True, ramp=0.0)
    >>> round(sum_of_correlations(ema(0.9)), 6)     # tau = (1 + beta)/(1 - beta)
    19.0
    """

    decay: float = 0.0
    inflow: float = 1.0
    new: float = 1.0
    old: float = 0.0
    warm: bool = False
    unbiased: bool = False
    ramp: float = 0.0

    def autocovariance(self) -> tuple[float, float]:
        """(r_0, r_1) of c_t for white gradients of unit variance; r_k = r_1 decay^(k-1) beyond.

        r_0 = new^2 + old^2 inflow^2/(1 - decay^2),  r_1 = new old inflow + old^2 decay inflow^2/(1 - decay^2)
        """
        kept = self.inflow**2 / (1 - self.decay**2)  # variance of m
        r0 = self.new**2 + self.old**2 * kept
        r1 = self.old * (self.inflow * self.new + self.decay * kept * self.old)
        return r0, r1

    @property
    def total(self) -> float:
        """What a gradient that stays is multiplied by: new + old inflow/(1 - decay), the sum of the impulse response.

        >>> round(heavy_ball(0.9).total, 6), round(ema(0.9).total, 6)
        (10.0, 1.0)
        """
        return self.new + self.old * self.inflow / (1 - self.decay)

    def coefficients(self, after: int = 0) -> Iterator[Filter]:
        """What the filter does at each step, the first ones included, or from `after` steps on.

        That must be so late that no bias is left.

        >>> steps = heavy_ball(0.9, dampening=0.5).coefficients()
        >>> next(steps)                                      # torch damps nothing in its first step
        Filter(new=1.0, old=0.9, inflow=1.0)
        >>> next(steps)
        Filter(new=0.5, old=0.9, inflow=0.5)
        """
        product, blend = 0.0 if after else 1.0, self._blend(after + 1)
        for t in count(after + 1):
            if self.ramp:
                ahead, product = self._blend(t + 1), product * blend
                kept = ahead / (1 - product * ahead)
                yield Filter((1 - blend) / (1 - product) + kept * self.inflow, kept * self.decay, self.inflow)
                blend = ahead
            elif self.warm and t == 1 and self.decay > 0:
                # as if m had held what makes it equal to g after this step
                yield Filter(self.new + self.old * (1 - self.inflow) / self.decay, self.old, 1.0)
            else:
                bias = 1 - self.decay**t if self.unbiased else 1.0
                yield Filter(self.new / bias, self.old / bias, self.inflow)

    def at(self, t: int) -> Memory:
        """The filter at a step so late that no bias is left; only a `ramp` still changes it."""
        if not self.ramp:
            return self
        kept = self._blend(t + 1)
        return replace(self, new=1 - self._blend(t) + kept * self.inflow, old=kept * self.decay, ramp=0.0)

    def _blend(self, t: int) -> float:
        return self.decay * (1 - 0.5 * 0.96 ** (t * self.ramp))


class Filter(NamedTuple):
    """c = new g + old m and m' = decay m + inflow g, as they are at one step, bias correction included."""

    new: float
    old: float
    inflow: float


NONE = Memory()
"""No memory: the step uses the gradient as it comes."""


def ema(beta: float) -> Memory:
    """Exponential moving average (Adam): m = beta m + (1-beta) g, c = m."""
    return Memory(decay=beta, inflow=1 - beta, new=1 - beta, old=beta, unbiased=True)


def nesterov_ema(beta: float, ramp: float = 0.0, *, unbiased: bool = True) -> Memory:
    """Nesterov's look-ahead on a moving average (NAdam, Muon): c = (1-mu) g + mu m_t, with mu = beta.

    With `ramp`, mu_t = beta (1 - 0.96^(t ramp)/2), and both terms are divided by their own bias (Dozat 2016).
    """
    return Memory(decay=beta, inflow=1 - beta, new=1 - beta**2, old=beta**2, unbiased=unbiased, ramp=ramp)


def heavy_ball(momentum: float, dampening: float = 0.0) -> Memory:
    """Polyak's momentum (torch's SGD): m = momentum m + (1-dampening) g, c = m."""
    return Memory(decay=momentum, inflow=1 - dampening, new=1 - dampening, old=momentum, warm=True)


def nesterov(momentum: float) -> Memory:
    """Nesterov momentum as torch has it: m = momentum m + g, c = g + momentum m."""
    return Memory(decay=momentum, inflow=1.0, new=1 + momentum, old=momentum**2, warm=True)


def look_ahead(blend: float, decay: float) -> Memory:
    """Lion's two speeds: the step blends with one factor, the memory decays with another.

    c = (1-blend) g + blend m,  m = decay m + (1-decay) g    (Chen et al. 2023, algorithm 2)
    """
    return Memory(decay=decay, inflow=1 - decay, new=1 - blend, old=blend)


def sum_of_correlations(memory: Memory) -> float:
    """tau = 1 + 2 sum_k r_k/r_0, the factor by which remembering slows the rotation."""
    return 1 + 2 * memory_tail(memory)


def memory_tail(memory: Memory) -> float:
    """sum_k r_k/r_0 over k >= 1: what a filtered gradient says of all later ones.

    >>> round(memory_tail(ema(0.9)), 6)
    9.0
    """
    r0, r1 = memory.autocovariance()
    return r1 / (r0 * (1 - memory.decay))
