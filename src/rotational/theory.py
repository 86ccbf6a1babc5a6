"""Rotational equilibrium: norm, rotation and time scale of a rule, before any training.

    w   a neuron's weights, C of them     g   its gradient           u   update direction, w' = (1-D) w - lr u
    W   E|w|^2                            D   decay of w per step     H, r_0   correlation.py

Decay shrinks |w|^2 by 2 D W a step, the update's random walk grows it by lr^2 (r_0 + 2H); where they balance
the norm stays and the direction turns by sqrt(2 D/tau) radians a step. The forms here are exact at finite
lr*wd. Derivation and simulation: docs/theory.md; Kosson, Messmer, Jaggi 2024 (arXiv 2305.17212).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rotational import _check
from rotational.correlation import autocovariance, noise_of_v
from rotational.memory import sum_of_correlations
from rotational.rule import Rule
from rotational.scale import Raw, Rms, Sign


@dataclass(frozen=True)
class Equilibrium:
    """The steady state of one neuron. A field is None where an input that it needs was not given.

    rotation     RMS angle between successive weight vectors, radians per step
    norm         root mean square of |w|
    update       RMS length of the change of w in one step, decay included
    half_life    steps in which the distance of the norm from its equilibrium halves
    timescale    1/(lr*weight_decay) in steps: how far back the weights remember

    >>> from rotational import rules
    >>> print(equilibrium(rules.sgd(momentum=0.9), lr=0.1, weight_decay=1e-4).norm)  # needs gradient_norm=
    None
    """

    rotation: float | None
    norm: float | None
    update: float | None
    half_life: float | None
    timescale: float | None


def equilibrium(
    rule: Rule,
    lr: float,
    weight_decay: float,
    *,
    size: int | None = None,
    gradient_norm: float | None = None,
    scale_invariant: bool = True,
) -> Equilibrium:
    """Rotational equilibrium of `rule` at constant lr and weight decay.

        decoupled:  W = lr^2 (r_0 + 2 d H)/(1 - d^2),   1 - cos = D (r_0 - D H)/(r_0 + 2 d H),   d = 1 - D
        coupled:    the stationary covariance of (w, m), solved exactly

    `size` is the neuron's number of weights C; `gradient_norm` the RMS norm of its gradient: at |w| = 1 when
    the gradient is `scale_invariant` (orthogonal to w, shrinking as 1/|w|), at any w when it is not
    (isotropic noise). Gradients have no mean (a random walk) and eps is small beside them. With weight_decay
    = 0 there is nothing to balance: rotation 0 and norm infinity are the limits.

    Raises TypeError or ValueError for numbers out of range, lr*weight_decay of 1 or more, and for a rule
    whose law is not known (sign of a gradient that includes the decay).

    >>> from rotational import rules
    >>> e = equilibrium(rules.adamw(betas=(0.9, 0.95)), lr=6e-4, weight_decay=0.1, size=768)
    >>> f"{e.rotation:.2e} rad/step, norm {e.norm:.2f}, 1/(lr*wd) = {e.timescale:.0f} steps"
    '2.51e-03 rad/step, norm 1.52, 1/(lr*wd) = 16667 steps'

    Source: Kosson et al. 2024, table 1, for the leading order; docs/theory.md for the exact forms.
    """
    call = "equilibrium"
    if not isinstance(rule, Rule):  # pyright: ignore[reportUnnecessaryIsInstance]  a name, say
        raise TypeError(f"{call}(rule={rule!r}): expected a Rule, such as rotational.rules.adamw().")
    lr = _check.number(call, "lr", lr, low=0)
    weight_decay = _check.number(call, "weight_decay", weight_decay, low=0)
    if size is not None:
        size = _check.whole(call, "size", size)
    if gradient_norm is not None:
        gradient_norm = _check.number(call, "gradient_norm", gradient_norm, low=0, above=True)
    if _product(call, lr, weight_decay) == 0:
        still = 0.0 if lr == 0 else None
        return Equilibrium(0.0, math.inf if lr else None, still, math.inf, math.inf)
    if isinstance(rule.scale, Sign) and rule.decay == "coupled":
        raise ValueError(f"{call}({rule.name}): no law is known for the sign of a gradient that includes the decay.")
    noise = _Noise(size, gradient_norm, scale_invariant)
    if rule.decay == "coupled":
        return _coupled(rule, lr, weight_decay, noise)
    return _decoupled(rule, lr, weight_decay, noise)


def rate(rule: Rule, lr: float, weight_decay: float) -> float:
    """The rotation that a rotational optimizer holds, in radians per step: sqrt(2 D/tau).

    For linear rules and Adam this is the paper's closed form, the small lr*wd limit of `equilibrium`:
    sqrt(2 lr wd (1-b1)/(1+b1)) for AdamW, sqrt(2 lr wd/(1+momentum)) for SGDM. For the sign of Lion the
    paper's form is up to 23% off, and the exact equilibrium is held instead.
    Raises ValueError for Adam+L2, whose rotation depends on the size of the gradient.

    >>> from rotational import rules
    >>> round(rate(rules.sgd(momentum=0.9), lr=0.1, weight_decay=1e-4), 8)
    0.00324443
    """
    match rule.scale:
        case Sign(linearised=False):
            rotation = equilibrium(rule, lr, weight_decay).rotation
            assert rotation is not None  # the sign hides the size of the gradient
            return rotation
        case Rms() if rule.decay == "coupled":
            raise ValueError(
                f"rate({rule.name}): with L2 regularisation the rotation depends on the size of the gradient, so "
                "the hyperparameters give none. Pass rotation=, a number or another rule such as rules.adamw()."
            )
        case _:
            return math.sqrt(2 * _decay_gain(rule) * _product("rate", lr, weight_decay) / _tau(rule))


def _product(call: str, lr: float, weight_decay: float) -> float:
    if lr * weight_decay >= 1:
        raise ValueError(
            f"{call}(lr={lr:g}, weight_decay={weight_decay:g}): lr*weight_decay must be below 1, or one step "
            "removes the whole weight."
        )
    return lr * weight_decay


def relaxation(rule: Rule, scale_invariant: bool = True) -> int:
    """The power p for which the distance of |w|^p from its equilibrium falls as exp(-p D t).

    2 where the length of the update does not depend on |w|; 4 for SGD on scale-invariant gradients, which grow
    as the norm falls; 3 for Adam+L2 there, whose decay grows with it.

    >>> from rotational import rules
    >>> relaxation(rules.adamw()), relaxation(rules.sgd()), relaxation(rules.adam_l2())
    (2, 4, 3)
    """
    if not scale_invariant or isinstance(rule.scale, Sign):
        return 2
    if isinstance(rule.scale, Raw):
        return 4
    return 3 if rule.decay == "coupled" else 2


def _tau(rule: Rule) -> float:
    """Tau to leading order: Adam's second moment taken as exact, Lion's sign as linear if asked for."""
    if isinstance(rule.scale, Sign):
        # sign(c) ~ sqrt(2/pi) c/|c|: the growth counts the filter's sum, the length of u counts all of it.
        return 2 / math.pi / rule.memory.autocovariance()[0]
    return sum_of_correlations(rule.memory)


def _decay_gain(rule: Rule) -> float:
    """D/(lr wd): coupled decay runs through the memory, and comes out multiplied by its sum."""
    m = rule.memory
    return 1.0 if rule.decay == "decoupled" else m.new + m.old * m.inflow / (1 - m.decay)


@dataclass(frozen=True)
class _Noise:
    """What is known of the gradient: E|g|^2 = norm^2/W (scale-invariant) or norm^2."""

    size: int | None
    norm: float | None
    scale_invariant: bool

    def settle(self, k: float) -> float | None:
        """W where W = k E|g|^2."""
        if self.norm is None:
            return None
        return math.sqrt(k) * self.norm if self.scale_invariant else k * self.norm**2

    def state(self, square: float | None, one_minus_cos: float, half_life: float, timescale: float) -> Equilibrium:
        """The equilibrium with these second moments.

        Isotropic gradients have a radial part, so norms scatter: (C-1)/C of the update turns the neuron,
        and E 1/|w|^2 exceeds 1/W by C/(C-2).
        """
        rotation = 2 * math.asin(math.sqrt(one_minus_cos / 2))
        if self.size is not None and not self.scale_invariant and self.size > 2:
            rotation *= math.sqrt((self.size - 1) / (self.size - 2))
        norm = None if square is None else math.sqrt(square)
        update = None if square is None else math.sqrt(2 * square * one_minus_cos)
        return Equilibrium(rotation, norm, update, half_life, timescale)


def _decoupled(rule: Rule, lr: float, weight_decay: float, noise: _Noise) -> Equilibrium:
    x, a = lr * weight_decay, autocovariance(rule)
    raw = isinstance(rule.scale, Raw)
    half_life = math.log(2) / (relaxation(rule, noise.scale_invariant) * x)
    if isinstance(rule.scale, Sign) and rule.scale.linearised:
        tau = _tau(rule)
        square = None if noise.size is None else lr**2 * noise.size * tau / (2 * x)
        return noise.state(square, x / tau, half_life, 1 / x)
    # 1/C is the weight of what only a finite neuron shows
    small = 1 / noise.size if noise.size is not None and noise.scale_invariant else 0.0
    d, tail = 1 - x, a.tail(1 - x) + small * a.lift
    growth = a.r0 + 2 * d * tail
    k = lr**2 * growth / (x * (2 - x))  # W for updates of unit variance
    square = noise.settle(k) if raw else None if noise.size is None else k * noise.size
    one_minus_cos = x * (a.r0 - x * tail) / growth * (1 + small * a.spread)
    return noise.state(square, one_minus_cos, half_life, 1 / x)


def _coupled(rule: Rule, lr: float, weight_decay: float, noise: _Noise) -> Equilibrium:
    step, decay, of_v = lr, weight_decay, noise_of_v(rule)
    if isinstance(rule.scale, Rms):
        if noise.size is None or noise.norm is None:
            return Equilibrium(None, None, None, None, None)
        step = lr / _consistent_rms(rule.scale, rule, lr, weight_decay, noise.size, noise.norm, noise)
        decay = weight_decay * of_v.decay
        if noise.scale_invariant:
            # Weights that are large get gradients that are small, and so are decayed a little more, as far as
            # v, a memory of 1/(1-b2) steps, follows the squares of weights that forget in 1/(2 D).
            forgets = 2 * step * weight_decay * _decay_gain(rule)
            decay *= 1 + (1 - rule.scale.beta) / (1 - rule.scale.beta + forgets) / noise.size
    k, one_minus_cos = _stationary(rule, step, decay)
    half_life = math.log(2) / (relaxation(rule, noise.scale_invariant) * step * weight_decay * _decay_gain(rule))
    square, turn = noise.settle(k * of_v.growth), one_minus_cos * of_v.power / of_v.growth
    return noise.state(square, turn, half_life, 1 / (step * weight_decay))


def _stationary(rule: Rule, step: float, weight_decay: float) -> tuple[float, float]:
    """(W/E|g|^2, 1 - cos) of  w' = w - step c,  c = new h + old m,  m' = decay m + inflow h,  h = g + wd w.

    The covariances W = <w,w>, P = <w,m>, Q = <m,m> obey three linear equations; P and Q are eliminated so
    that only terms of one sign are added, and nothing cancels however small lr*wd is.
    """
    m = rule.memory
    keep, kick = 1 - step * m.new * weight_decay, step * m.new  # w' = keep w - pull m - kick g
    pull, feed = step * m.old, m.inflow * weight_decay  # m' = feed w + decay m + inflow g
    faded = 1 - m.decay**2
    # P = pw W - pq q, with Q = (feed^2 W + 2 feed decay P + inflow^2 q)/faded put in
    denominator = 1 - keep * m.decay + pull * feed * (1 + 2 * m.decay**2 / faded)
    pw = feed * (keep - pull * m.decay * feed / faded) / denominator
    pq = m.inflow * (kick + pull * m.decay * m.inflow / faded) / denominator
    # W (1 - keep^2) = -2 keep pull P + pull^2 Q + kick^2 q
    cross = 2 * keep * pull - 2 * pull**2 * feed * m.decay / faded
    loss = step * m.new * weight_decay * (1 + keep) + cross * pw - (pull * feed) ** 2 / faded
    gain = kick**2 + (pull * m.inflow) ** 2 / faded + cross * pq
    if not (loss > 0 and gain > 0):
        raise ValueError(f"equilibrium({rule.name}): decay this strong makes the step unstable; lower lr*weight_decay.")
    k = gain / loss
    return k, step * m.new * weight_decay + pull * (pw - pq / k)


def _consistent_rms(
    scale: Rms, rule: Rule, lr: float, weight_decay: float, size: int, norm: float, noise: _Noise
) -> float:
    """RMS that divides each weight's gradient, the decay's own part counted: C rms^2 = E|g|^2 + wd^2 W."""
    # Centred RMSprop takes the square of a moving average off, and with it that average's share of noise.
    share = 2 * scale.beta / (1 + scale.beta) if scale.centered else 1.0

    def excess(rms: float) -> float:
        k, _ = _stationary(rule, lr / rms, weight_decay)
        gg = norm / math.sqrt(k) if noise.scale_invariant else norm**2
        return share * gg * (1 + weight_decay**2 * k) - size * rms**2

    # Below `low` one step would remove the whole weight; the excess falls from there on.
    low = lr * weight_decay * max(1.0, _decay_gain(rule))
    high = 2 * low
    while excess(high) > 0:
        low, high = high, 16 * high
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high
