"""How the update of a rule correlates with itself over time, when gradients are white noise.

    rho_k   correlation of the filtered gradient c with itself, k steps apart: rho_1 decay^(k-1)
    r_k     E<u_t, u_{t+k}> of the update, in units of the amplitude squared: sum_i w_i e_i^(k-1) rho_k^(n_i)
    H(d)    sum over k >= 1 of d^(k-1) r_k: what past updates, still in the weights, say of the next one
    tau     1 + 2 sum r_k/r_0

A linear rule has the one term rho_k. A sign or an orthogonal factor is an odd function of normal variables, so its
correlation is a series in odd powers of theirs. Each power of a geometric series is a geometric series, so all
rules are sums of a few poles, and that is what theory and forecasts are written in.
Only theory reads this: it is where a rule's memory and scale become numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from rotational.memory import Memory
from rotational.polar import polar
from rotational.rule import Rule
from rotational.scale import Max, Polar, Rms, Sign

Shape = tuple[int, int]


@dataclass(frozen=True)
class Correlation:
    """r_0 = `power`, r_k = sum_i weights[i] extras[i]^(k-1) rho_k^powers[i], in units of the amplitude squared.

    The amplitude is |c| for a raw step, |c|/sqrt(v) for one divided by its RMS, and for a sign or an orthogonal
    factor a constant: sqrt(C), or the RMS length of a row. `decay` is what the noise of the second moment multiplies
    a coupled decay by. `lift` and `spread` are of signs of scale-invariant gradients, to be divided by the size C of
    the neuron: what multiplies the sum that adds to H (`lifted`), and what adds to the relative square of the rotation.
    """

    power: float = 1.0
    weights: tuple[float, ...] = (1.0,)
    powers: tuple[int, ...] = (1,)
    extras: tuple[float, ...] = (1.0,)
    decay: float = 1.0
    lift: float = 0.0
    spread: float = 0.0

    @property
    def plain(self) -> bool:
        """Whether there is one pole only, that of the memory."""
        return len(self.weights) == 1

    def tail(self, memory: Memory, d: Any = 1.0) -> Any:
        """H(d) of a memory that is full; `d` may be an array.

        >>> from rotational.memory import ema
        >>> 1 + 2 * Correlation().tail(ema(0.9))       # tau = (1 + b1)/(1 - b1)
        19.000000000000004
        """
        r0, r1 = memory.autocovariance()
        rho, poles = r1 / r0, zip(self.weights, self.powers, self.extras, strict=True)
        return sum((w * rho**n / (1 - d * memory.decay**n * e) for w, n, e in poles), 0.0 * d)

    def lifted(self, memory: Memory, d: Any = 1.0) -> Any:
        """What the sign of a gradient that was orthogonal to w adds to H at rest, times C (see `_signs`).

        Each remembered gradient counts as far as w is still near what it was: <w_t, w_{t+j}>/W = d^j + repeated
        sum_{i<j} d^i decay^(j-1-i), where `repeated` = -lr E<w, u>/W.
        """
        if not self.lift:
            return 0.0 * d
        (r0, r1), beta, tail = memory.autocovariance(), memory.decay, self.tail(memory, d)
        repeated = (1 - d**2) * tail / (self.power + 2 * d * tail)
        near = (d + repeated / (1 - beta**4)) / (1 - d * beta**3)
        kept = (memory.old * memory.inflow) ** 2 * beta
        return self.lift * r1 / (r0 * (1 - d * beta)) * (memory.new**2 + kept * near) / r0


@lru_cache(maxsize=256)
def correlation(rule: Rule, shape: Shape | None = None) -> Correlation:
    """The correlation of `rule`'s update for white gradients; an orthogonal factor needs the matrix's `shape`."""
    match rule.scale:
        case Sign():
            return _signs(rule.memory)
        case Polar() as scale:
            rows, columns = shape or (1, 1)
            law = polar(rows, columns, steps=scale.steps)
            return Correlation(1.0, law.coefficients, law.exponents, (1.0,) * len(law.exponents))
        case Rms(kurtosis=float(kurtosis)) as scale:
            return _second_moment(rule.memory, scale, kurtosis)
        case _:
            return Correlation()


# Signs --------------------------------------------------------------------------------------------------------


def _signs(memory: Memory) -> Correlation:
    """Signs of two normals of correlation rho agree with correlation (2/pi) asin(rho).

    A scale-invariant gradient is orthogonal to w, but its sign is not. Two effects of order 1/C follow, both
    confirmed by simulation from C = 32 up. A remembered gradient was small where weights were large then, which
    pushes them outward: for normal w (`dynamics.avoided`) H grows by (2/pi) sum_j h_j^2/r_0 sum_{k>j} rho_k, h the
    impulse response. Weights are not normal beside the last few updates, and rho_k becomes rho_k/sqrt(1 - rho_k^2);
    `lift` is 2/pi times what that changes in the sum. And v = 1 - 2/pi of the sign's power is radial: it does not
    turn the neuron (-v), and makes norms scatter by its share f of the diffusion (+2f).
    """
    r0, r1 = memory.autocovariance()
    rho, v = r1 / r0, 1 - 2 / math.pi
    lags = 1 if memory.decay == 0 or rho == 0 else 1 + math.ceil(math.log(1e-15) / math.log(memory.decay))
    powers = memory.decay ** np.arange(lags)
    rhos = rho * powers  # rho_1, rho_2, ...
    share = 1 - 2 / math.pi * (1 + 2 * float(rhos.sum())) / (1 + 4 / math.pi * float(np.arcsin(rhos).sum()))
    response = np.concatenate(([memory.new], memory.old * memory.inflow * powers[:-1])) ** 2 / r0
    beyond, linear = (np.cumsum(x[::-1])[::-1] for x in (rhos / np.sqrt(1 - rhos**2), rhos))
    lift = 2 / math.pi * float(response @ beyond) / float(response @ linear) if rho else 0.0
    exponents, weights = arcsine()
    used = [i for i, n in enumerate(exponents) if i == 0 or weights[i] * rho**n > 1e-6]
    return Correlation(
        weights=tuple(2 / math.pi * weights[i] for i in used),
        powers=tuple(exponents[i] for i in used),
        extras=(1.0,) * len(used),
        lift=lift,
        spread=2 * share - v,
    )


@lru_cache(maxsize=1)
def arcsine() -> tuple[tuple[int, ...], tuple[float, ...]]:
    """asin(x) as a sum of 11 odd powers: (exponents, weights); sums over geometric series are 2e-4 off.

    The first five terms are Taylor's. Beyond, groups of terms that grow 2.5-fold are each put at their mean power,
    which keeps the value at 1 exact.
    """
    n = 2 * np.arange(200_000) + 1
    terms = np.concatenate(([1.0], np.cumprod((n[1:] - 2) / (n[1:] - 1)))) / n
    exponents, weights = [int(k) for k in n[:5]], [float(w) for w in terms[:5]]
    start, length = 5, 1.0
    while len(exponents) < 10:
        length *= 2.5
        group = slice(start, start + math.ceil(length))
        weights.append(float(terms[group].sum()))
        exponents.append(2 * round((float(terms[group] @ n[group]) / weights[-1] - 1) / 2) + 1)
        start = group.stop
    # What is left falls off as n^-1.5: no mean power, but its middle is at four times where it begins.
    return (*exponents, 4 * int(n[start]) + 1), (*weights, math.pi / 2 - sum(weights))


# The noise of the second moment -------------------------------------------------------------------------------


def _second_moment(memory: Memory, scale: Rms, kurtosis: float) -> Correlation:
    """Adam's direction, to first order in the noise of its second moment v = 1 + e.

    u = c/sqrt(v) = c (1 - e/2 + 3e^2/8): with E e_t e_{t+k} = V b2^k, and gradients that stand both in c and
    in e,  r_k = r_k^c (1 + 3V/4 + V b2^k/4) - N (1 + b2^k) S_k,  S_k = sum_j h_j h_{j+k} b2^j.
    Divided before it is remembered, the gradient stays white, of variance 1 + V - 2N.

    Where the decay runs through v too (L2), v counts (g + wd w)^2: 1/sqrt(v) exceeds its mean by 3V/8, and falls
    where g agrees with w. The decay is multiplied by 1 + 3V/8 - (1-b2) sum_j h_j b2^j / sum_j h_j.
    """
    b2 = scale.beta
    # V, the variance of e, and N, half of what one gradient adds to e
    v, noise = (kurtosis - 1) * (1 - b2) / (1 + b2), (kurtosis - 1) / 2 * (1 - b2)
    if scale.first:
        white = inverse_square(v - 2 * noise)
        return Correlation(white, (white,), decay=1 + 3 / 8 * v - (1 - b2))
    r0, r1 = memory.autocovariance()
    kept = memory.old * memory.inflow  # impulse response: h_0 = new, h_j = kept decay^(j-1)
    shared = b2 / (1 - memory.decay**2 * b2)
    s0 = memory.new**2 + kept**2 * shared
    s1 = kept * (memory.new + kept * memory.decay * shared)
    agreement = (memory.new + kept * b2 / (1 - memory.decay * b2)) / (memory.new + kept / (1 - memory.decay))
    both = s1 / r1 if r1 else 0.0
    return Correlation(
        power=inverse_square(v - 2 * noise * s0 / r0),
        weights=(inverse_root(v) * (inverse_root(v) - noise * both), b2 * (0.25 * v - noise * both)),
        powers=(1, 1),
        extras=(1.0, b2),
        decay=1 + 3 / 8 * v - (1 - b2) * agreement,
    )


def inverse_square(v: Any) -> Any:
    """E z^2/v for a v of mean 1, where `v` is its variance less the excess of z^2 that stands in it.

    To first order 1 + v; how it bends where v is a sum of few squares is measured (within 3% up to v = 1).
    """
    return 1 + v / (1 + 0.4 * v)


def inverse_root(v: Any) -> Any:
    """E 1/sqrt(v) for a v of mean 1 and variance `v`, to first order."""
    return 1 + v * 3 / 8


# The fading maximum -------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def fading_maximum(scale: Max) -> tuple[float, float]:
    """(E 1/v', E g^2/v^2) of Adamax's v = max(beta v, |g| + eps) for normal gradients of unit variance, at rest.

    P(v <= y) = prod_{k>=0} P(|g| <= y beta^-k), a product that ends where the maximum has faded below any gradient.
    A gradient either is the maximum or is below v', that of all others (see `dynamics.maximum`).
    """
    y = np.linspace(1e-3, 8.0, 4000)
    within = np.array([math.erf(x / math.sqrt(2)) for x in y])
    others = np.exp(log_within(y, scale.beta)) / within
    mass = np.diff(others, prepend=0.0)
    below = within - y * math.sqrt(2 / math.pi) * np.exp(-(y**2) / 2)  # E(g^2; |g| <= y)
    # without a memory of the maximum, v' is 0 and the gradient is it
    share = float(mass @ (1 - within + below / y**2)) + 1 - float(mass.sum())
    return float(mass @ (within / y)), share


def log_within(points: np.ndarray, beta: float) -> np.ndarray:
    """log P(v <= y) at each point, that product."""
    return np.array([_log_within(y, beta) for y in points.tolist()])


def _log_within(y: float, beta: float) -> float:
    """At one point; lags beyond which |g| is surely below are left out, long memories are integrated."""
    far = 1 + math.ceil(math.log(max(8.0 / y, 1.0)) / -math.log(beta)) if beta else 1
    step = max(1, far // 400)
    at = y * beta ** -(np.arange(0, far, step) + (step - 1) / 2)
    return step * float(np.interp(np.log(at), *_log_erf()).sum())


@lru_cache(maxsize=1)
def _log_erf() -> tuple[np.ndarray, np.ndarray]:
    """(log y, log P(|z| <= y)), for interpolation: a million values at once."""
    points = np.linspace(math.log(1e-7), math.log(9.0), 40_000)
    return points, np.array([math.log(math.erf(y / math.sqrt(2))) for y in np.exp(points).tolist()])
