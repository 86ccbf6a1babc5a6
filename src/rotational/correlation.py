"""How the update of a rule correlates with itself over time, when gradients are white noise.

    r_k    E[u_t u_{t+k}] per weight, for gradients of unit variance
    H(d)   sum over k >= 1 of d^(k-1) r_k: what past updates, still in the weights, say of the next one
    tau    1 + 2 sum r_k/r_0

Only theory reads this: it is where a rule's memory and scale become numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rotational.memory import Memory, sum_of_correlations
from rotational.rule import Rule
from rotational.scale import Rms, Sign


@dataclass(frozen=True)
class Autocovariance:
    """r_0, and beyond it r_k = sum_i weights[i] poles[i]^(k-1) + rest[k-1].

    `lift` and `spread` are what a sign adds for scale-invariant gradients, to be divided by the size C of
    the neuron: to the tail, and to the relative square of the rotation (see `_signs`).

    >>> from rotational import rules
    >>> a = autocovariance(rules.sgd(momentum=0.9))
    >>> round(a.tau, 6), round(a.r0, 4)
    (19.0, 5.2632)
    """

    r0: float
    weights: tuple[float, ...]
    poles: tuple[float, ...]
    rest: np.ndarray | None = None
    lift: float = 0.0
    spread: float = 0.0

    def tail(self, d: float = 1.0) -> float:
        """H(d) = sum over k >= 1 of d^(k-1) r_k."""
        total = sum(w / (1 - d * p) for w, p in zip(self.weights, self.poles, strict=True))
        if self.rest is not None:
            total += float(self.rest @ d ** np.arange(len(self.rest)))
        return total

    @property
    def tau(self) -> float:
        """1 + 2 sum r_k/r_0, the factor by which memory slows the rotation."""
        return 1 + 2 * self.tail() / self.r0


@dataclass(frozen=True)
class Noise:
    """What the noise of Adam's second moment multiplies: |u|^2, the growth of |w|^2, and the decay."""

    power: float = 1.0
    growth: float = 1.0
    decay: float = 1.0


@lru_cache(maxsize=256)
def noise_of_v(rule: Rule) -> Noise:
    """The corrections for decay that runs through a noisy second moment (L2), to first order in 1 - b2.

    v counts (g + wd w)^2, so 1/sqrt(v) exceeds its mean by 3V/8, and falls where g agrees with w: the decay is
    multiplied by 1 + 3V/8 - (1-b2) sum_j h_j b2^j / sum_j h_j. All ones for a rule without `kurtosis`.
    """
    m, scale = rule.memory, rule.scale
    if not isinstance(scale, Rms) or scale.kurtosis is None:
        return Noise()
    v, own = _noise(scale.beta, scale.kurtosis)
    if scale.first:  # divided before it is remembered: white still, of another variance
        return Noise(1 + v - 2 * own, 1 + v - 2 * own, 1 + 3 / 8 * v - (1 - scale.beta))
    kept, noisy, r0 = m.old * m.inflow, autocovariance(rule), m.autocovariance()[0]
    agreement = (m.new + kept * scale.beta / (1 - m.decay * scale.beta)) / (m.new + kept / (1 - m.decay))
    return Noise(
        power=noisy.r0 / r0,
        growth=noisy.r0 * noisy.tau / (r0 * sum_of_correlations(m)),
        decay=1 + 3 / 8 * v - (1 - scale.beta) * agreement,
    )


@lru_cache(maxsize=256)
def autocovariance(rule: Rule) -> Autocovariance:
    """The autocovariance of `rule`'s update direction, per weight, for white gradients of unit variance."""
    r0, r1 = rule.memory.autocovariance()
    match rule.scale:
        case Sign(linearised=False):
            return _signs(rule.memory, r0, r1)
        case Rms(first=False, kurtosis=float(kurtosis)) as scale:
            return _second_moment(rule.memory, scale.beta, kurtosis, r0, r1)
        case _:
            return Autocovariance(r0, (r1,), (rule.memory.decay,))


def _signs(memory: Memory, r0: float, r1: float) -> Autocovariance:
    """Signs of two normals of correlation rho_k agree with correlation (2/pi) asin(rho_k).

    The part linear in rho_k is summed in closed form; the rest falls off as rho_k^3.

    A scale-invariant gradient is orthogonal to w, but its sign is not. Two effects of order 1/C follow, both
    confirmed by simulation from C = 32 up. The weights moved since a remembered gradient was made, which
    pushes them outward: lift = (2/pi) sum_j h_j^2/r_0 sum_{k>j} rho_k/sqrt(1 - rho_k^2), h the impulse
    response. And v = 1 - 2/pi of the sign's power is radial: it does not turn the neuron (-v), and makes
    norms scatter by its share f of the diffusion (+2f).
    """
    rho = r1 / r0
    v = 1 - 2 / math.pi
    if rho == 0 or memory.decay == 0:
        turning = 2 / math.pi * math.asin(rho)
        share = 1 - 2 / math.pi * (1 + 2 * rho) / (1 + 2 * turning)
        lift = 2 / math.pi * memory.new**2 / r0 * rho / math.sqrt(1 - rho**2)
        return Autocovariance(1.0, (turning,), (0.0,), None, lift, 2 * share - v)
    lags = 1 + math.ceil(math.log(1e-15) / math.log(memory.decay))
    powers = memory.decay ** np.arange(lags)
    rhos = rho * powers  # rho_1, rho_2, ...
    linear, rest = 2 / math.pi * rho, 2 / math.pi * (np.arcsin(rhos) - rhos)
    turning = linear / (1 - memory.decay) + float(rest.sum())
    share = 1 - 2 / math.pi * (1 + 2 * rho / (1 - memory.decay)) / (1 + 2 * turning)
    response = np.concatenate(([memory.new], memory.old * memory.inflow * powers[:-1])) ** 2 / r0
    beyond = np.cumsum((rhos / np.sqrt(1 - rhos**2))[::-1])[::-1]
    lift = 2 / math.pi * float(response @ beyond)
    return Autocovariance(1.0, (linear,), (memory.decay,), rest, lift, 2 * share - v)


def _second_moment(memory: Memory, b2: float, kurtosis: float, r0: float, r1: float) -> Autocovariance:
    """Adam's direction, to first order in the noise of its second moment v = 1 + e.

    u = c/sqrt(v) = c (1 - e/2 + 3e^2/8): with E e_t e_{t+k} = V b2^k, and gradients that stand both in c and
    in e,  r_k = r_k^c (1 + 3V/4 + V b2^k/4) - N (1 + b2^k) S_k,  S_k = sum_j h_j h_{j+k} b2^j.
    """
    v, noise = _noise(b2, kurtosis)
    kept = memory.old * memory.inflow  # impulse response: h_0 = new, h_j = kept decay^(j-1)
    shared = b2 / (1 - memory.decay**2 * b2)
    s0 = memory.new**2 + kept**2 * shared
    s1 = kept * (memory.new + kept * memory.decay * shared)
    return Autocovariance(
        r0 * (1 + v) - 2 * noise * s0,
        (r1 * (1 + 0.75 * v) - noise * s1, b2 * (0.25 * v * r1 - noise * s1)),
        (memory.decay, memory.decay * b2),
    )


def _noise(b2: float, kurtosis: float) -> tuple[float, float]:
    """V, the variance of the second moment's relative error e, and N, half of what one gradient adds to e."""
    return (kurtosis - 1) * (1 - b2) / (1 + b2), (kurtosis - 1) / 2 * (1 - b2)
