"""The catalogue: every rule whole, in a few lines, with its source.

Each function checks its numbers, so that a `Rule` from here is sound; arguments have torch's names. `decay` is how
weight decay enters, one of `rule.DECAYS`; the default is the optimizer's own. Equations are written with that default:

    coupled      g is the gradient and wd w, both;   w <- w - lr u          (L2 regularisation)
    decoupled    g is the gradient alone;            w <- (1 - lr wd) w - lr u

    m, v   memories of g and g^2, 0 before the first step      u   update direction      b1, b2   betas
    ^      corrected for that beginning: m^ = m/(1 - b1^t), v^ = v/(1 - b2^t), in step t = 1, 2, ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from rotational import _check
from rotational import memory as memories
from rotational.memory import Memory
from rotational.rule import DECAYS, Decay, Rule
from rotational.scale import Max, Polar, Raw, Rms, Sign

Betas = Sequence[float]


def sgd(
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    decay: Decay = "coupled",
) -> Rule:
    """SGD, with heavy-ball or Nesterov momentum; `decay="coupled"` is torch's, "decoupled" is SGDW.

        m = momentum m + (1-dampening) g,  u = m, or g + momentum m with Nesterov,  w <- w - lr u,  g with wd w

    The first m is g itself. Raises ValueError for a momentum or dampening outside [0, 1), for Nesterov without momentum
    or with dampening, and for an unknown decay.

    >>> sgd(momentum=0.9).memory.decay
    0.9

    Source: Polyak 1964; Sutskever et al. 2013; torch.optim.SGD; Loshchilov and Hutter 2019 for SGDW.
    """
    momentum = _check.number("sgd", "momentum", momentum, low=0, high=1, below=True)
    dampening = _check.number("sgd", "dampening", dampening, low=0, high=1, below=True)
    if nesterov and (momentum == 0 or dampening != 0):
        raise ValueError(
            f"sgd(nesterov=True, momentum={momentum:g}, dampening={dampening:g}): Nesterov momentum needs "
            "momentum > 0 and dampening = 0."
        )
    # torch damps nothing when there is no momentum to damp.
    memory = (
        memories.NONE
        if momentum == 0
        else memories.nesterov(momentum)
        if nesterov
        else memories.heavy_ball(momentum, dampening)
    )
    return Rule(memory, Raw(), _decay("sgd", decay), "sgd")


def adamw(
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-8,
    *,
    kurtosis: float | None = None,
    decay: Decay = "decoupled",
) -> Rule:
    """AdamW: Adam's direction, decay beside it.

        m = b1 m + (1-b1) g,  v = b2 v + (1-b2) g^2,  u = m^/(sqrt(v^) + eps),  w <- (1 - lr wd) w - lr u

    Theory takes v as exact, as the paper does; `kurtosis` of the gradient's entries (3 for normal ones) makes it
    count the noise of v, which lowers the rotation by 0.5% at b2 = 0.95.
    Raises ValueError for betas outside [0, 1), a negative eps, a kurtosis below 1, and an unknown decay.

    >>> adamw(betas=(0.9, 0.95)).decay
    'decoupled'

    Source: Loshchilov and Hutter 2019 (arXiv 1711.05101).
    """
    return _adam("adamw", betas, eps, decay, kurtosis, memories.ema)


def adam_l2(betas: Betas = (0.9, 0.999), eps: float = 1e-8, *, kurtosis: float | None = 3.0) -> Rule:
    """Adam with L2 regularisation: wd w joins the gradient before both moments (torch.optim.Adam).

        h = g + wd w,  m = b1 m + (1-b1) h,  v = b2 v + (1-b2) h^2,  w <- w - lr m^/(sqrt(v^) + eps)

    `kurtosis` of the gradient's entries, 3 for normal ones, tells theory how noisy v is; None takes v as exact.
    Raises ValueError for betas outside [0, 1), a negative eps, and a kurtosis below 1.

    >>> adam_l2().decay
    'coupled'

    Source: Kingma and Ba 2015 (arXiv 1412.6980), algorithm 1; torch.optim.Adam for the decay.
    """
    return _adam("adam_l2", betas, eps, "coupled", kurtosis, memories.ema)


def nadamw(
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-8,
    *,
    momentum_decay: float = 0.0,
    kurtosis: float | None = None,
    decay: Decay = "decoupled",
) -> Rule:
    """NAdam with decoupled decay: Nesterov's look-ahead on Adam's first moment.

        mu_t = b1 (1 - 0.96^(t momentum_decay)/2),  M_t = mu_1 ... mu_t,  m and v as Adam's
        u = (mu_t+1 m/(1 - M_t+1) + (1 - mu_t) g/(1 - M_t))/(sqrt(v^) + eps),  w <- (1 - lr wd) w - lr u

    torch warms the look-ahead up over about 25/momentum_decay steps, with momentum_decay = 4e-3; 0 is the rule
    that it warms up to, mu = b1, with both terms corrected as m^ is.
    Raises ValueError as `adamw` does, and for a negative momentum_decay.

    >>> nadamw().memory.old
    0.81

    Source: Dozat 2016; torch.optim.NAdam(decoupled_weight_decay=True).
    """
    ramp = _check.number("nadamw", "momentum_decay", momentum_decay, low=0)
    return _adam("nadamw", betas, eps, decay, kurtosis, lambda b1: memories.nesterov_ema(b1, ramp))


def nadam_l2(
    betas: Betas = (0.9, 0.999), eps: float = 1e-8, *, momentum_decay: float = 0.0, kurtosis: float | None = 3.0
) -> Rule:
    """NAdam with L2 regularisation (torch.optim.NAdam as it comes).

        `nadamw`'s u, of h = g + wd w in place of g,  w <- w - lr u

    Raises ValueError as `nadamw` does.

    >>> nadam_l2().decay
    'coupled'

    Source: Dozat 2016; torch.optim.NAdam.
    """
    ramp = _check.number("nadam_l2", "momentum_decay", momentum_decay, low=0)
    return _adam("nadam_l2", betas, eps, "coupled", kurtosis, lambda b1: memories.nesterov_ema(b1, ramp))


def radam(
    betas: Betas = (0.9, 0.999), eps: float = 1e-8, *, kurtosis: float | None = 3.0, decay: Decay = "coupled"
) -> Rule:
    """RAdam: Adam times a factor that rises to 1 over about 1/(1-b2) steps; torch's has L2 unless told otherwise.

        R = 2/(1-b2) - 1,  R_t = R - 2t b2^t/(1 - b2^t),  f^2 = (R_t-4)(R_t-2) R/((R-4)(R-2) R_t)
        u = f m^/(sqrt(v^) + eps) where R_t > 5, m^ before,  w <- w - lr u,  g with wd w

    Steps before R_t passes 5 are not Adam's, and theory counts them as none.
    Raises ValueError for betas outside [0, 1), a second one of 2/3 or less, with which R_t never passes 5, a negative
    eps, a kurtosis below 1, and an unknown decay.

    >>> radam(decay="decoupled").scale.rectified
    True

    Source: Liu et al. 2020 (arXiv 1908.03265); torch.optim.RAdam.
    """
    rule = _adam("radam", betas, eps, decay, kurtosis, memories.ema)
    assert isinstance(rule.scale, Rms)
    if 2 / (1 - rule.scale.beta) - 1 <= 5:
        raise ValueError(
            f"radam(betas={betas}): a second beta of 2/3 or less never leaves its unrectified phase, and no law is "
            "known for it."
        )
    return replace(rule, scale=replace(rule.scale, rectified=True))


def adamax(betas: Betas = (0.9, 0.999), eps: float = 1e-8, *, decay: Decay = "coupled") -> Rule:
    """Adamax: Adam's first moment over the fading maximum of |g|; torch's has L2.

        m = b1 m + (1-b1) g,  v = max(b2 v, |g| + eps),  u = m^/v,  w <- w - lr u,  g with wd w

    With b1 > 0 and b2 = 0 the mean square of u is infinite: `equilibrium` and `forecast` refuse such a rule. Raises
    ValueError for betas outside [0, 1), a negative eps, and an unknown decay.

    >>> adamax().scale.beta
    0.999

    Source: Kingma and Ba 2015 (arXiv 1412.6980), section 7.1; torch.optim.Adamax.
    """
    b1, b2 = _check.pair("adamax", "betas", betas)
    scale = Max(b2, _check.number("adamax", "eps", eps, low=0))
    return Rule(memories.ema(b1), scale, _decay("adamax", decay), "adamax")


def laprop(
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-8,
    *,
    kurtosis: float | None = None,
    decay: Decay = "decoupled",
) -> Rule:
    """LaProp: the gradient is divided by its RMS before it is remembered.

        v = b2 v + (1-b2) g^2,  m = b1 m + (1-b1) g/(sqrt(v^) + eps),  u = m^,  w <- (1 - lr wd) w - lr u

    Raises ValueError for betas outside [0, 1), a negative eps, a kurtosis below 1, and an unknown decay.

    >>> laprop().scale.first
    True

    Source: Ziyin, Wang, Ueda 2020 (arXiv 2002.04839).
    """
    rule = _adam("laprop", betas, eps, decay, kurtosis, memories.ema)
    assert isinstance(rule.scale, Rms)
    return replace(rule, scale=replace(rule.scale, first=True))


def rmsprop(
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    centered: bool = False,
    *,
    kurtosis: float | None = 3.0,
) -> Rule:
    """RMSprop with L2 regularisation: divide by the running RMS, then remember (torch.optim.RMSprop).

        h = g + wd w,  v = alpha v + (1-alpha) h^2,  m = momentum m + h/(sqrt(v) + eps),  w <- w - lr m

    v is not corrected for its beginning; `centered` takes the square of an average of h (as slow as v) off it.
    `kurtosis` as in `adam_l2`. Raises ValueError for an alpha or momentum outside [0, 1), a negative eps, and a
    kurtosis below 1.

    >>> rmsprop(momentum=0.9).scale.first
    True

    Source: Tieleman and Hinton 2012; Graves 2013 for `centered`.
    """
    alpha = _check.number("rmsprop", "alpha", alpha, low=0, high=1, below=True)
    momentum = _check.number("rmsprop", "momentum", momentum, low=0, high=1, below=True)
    eps = _check.number("rmsprop", "eps", eps, low=0)
    memory = memories.heavy_ball(momentum) if momentum else memories.NONE
    scale = Rms(alpha, eps, unbiased=False, first=True, centered=centered, kurtosis=_kurtosis("rmsprop", kurtosis))
    return Rule(memory, scale, "coupled", "rmsprop")


def lion(betas: Betas = (0.9, 0.99), *, linearised: bool = False, decay: Decay = "decoupled") -> Rule:
    """Lion: the sign of a blend of gradient and memory, decay beside it.

        u = sign(b1 m + (1-b1) g),  m = b2 m + (1-b2) g,  w <- (1 - lr wd) w - lr u

    `linearised=True` makes theory use the paper's linear approximation of the sign instead of the exact
    correlation of signs; the step is the same.
    Raises ValueError for betas outside [0, 1), and for an unknown or a coupled decay.

    >>> lion(linearised=True).scale
    Sign(linearised=True)

    Source: Chen et al. 2023 (arXiv 2302.06675); Kosson et al. 2024, appendix on Lion.
    """
    blend, kept = _check.pair("lion", "betas", betas)
    if decay == "coupled":
        raise ValueError(
            "lion(decay='coupled'): Lion's decay stands beside its sign; rules.signum has the coupled form."
        )
    return Rule(memories.look_ahead(blend, kept), Sign(linearised), _decay("lion", decay), "lion")


def signum(momentum: float = 0.9, nesterov: bool = False, *, decay: Decay = "decoupled") -> Rule:
    """Signum: the sign of a moving average of gradients; momentum 0 is SignSGD.

        m = momentum m + (1-momentum) g,  w <- (1 - lr wd) w - lr u
        u = sign(m), or sign(momentum m + (1-momentum) g) with Nesterov

    Raises ValueError for a momentum outside [0, 1), for Nesterov without momentum, and for an unknown decay.

    >>> signum().memory == lion(betas=(0.9, 0.9)).memory
    True

    Source: Bernstein et al. 2018 (arXiv 1802.04434).
    """
    momentum = _check.number("signum", "momentum", momentum, low=0, high=1, below=True)
    if nesterov and momentum == 0:
        raise ValueError("signum(nesterov=True, momentum=0): Nesterov momentum needs momentum > 0.")
    return Rule(_plain_average(momentum, nesterov), Sign(), _decay("signum", decay), "signum")


def muon(
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_steps: int | None = 5,
    adjust_lr_fn: Literal["original", "match_rms_adamw"] | None = "original",
    *,
    decay: Decay = "decoupled",
) -> Rule:
    """Muon: the orthogonal factor of a moving average of a matrix's gradients, decay beside it.

        m = momentum m + (1-momentum) g,  w <- (1 - lr wd) w - lr s u
        u = O((1-momentum) g + momentum m) with Nesterov, O(m) without

    O is torch's Newton-Schulz iteration of `ns_steps`, or the exact polar factor where that is None. `adjust_lr_fn`
    says how s depends on the shape (see `scale.Polar`): the update is scaled, the decay is not.
    Raises ValueError for a momentum outside [0, 1), ns_steps below 1, an unknown adjust_lr_fn, and an unknown decay.

    >>> muon().scale
    Polar(steps=5, adjust='original')

    Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon); Liu et al. 2025 (arXiv 2502.16982) for
    "match_rms_adamw"; torch.optim.Muon.
    """
    momentum = _check.number("muon", "momentum", momentum, low=0, high=1, below=True)
    if ns_steps is not None:
        ns_steps = _check.whole("muon", "ns_steps", ns_steps)
    if adjust_lr_fn is not None:
        _check.choice("muon", "adjust_lr_fn", adjust_lr_fn, ("original", "match_rms_adamw"))
    return Rule(_plain_average(momentum, nesterov), Polar(ns_steps, adjust_lr_fn), _decay("muon", decay), "muon")


def _adam(
    name: str, betas: Betas, eps: float, decay: str, kurtosis: float | None, memory: Callable[[float], Memory]
) -> Rule:
    b1, b2 = _check.pair(name, "betas", betas)
    eps = _check.number(name, "eps", eps, low=0)
    return Rule(memory(b1), Rms(b2, eps, kurtosis=_kurtosis(name, kurtosis)), _decay(name, decay), name)


def _plain_average(momentum: float, nesterov: bool) -> Memory:
    """A moving average that is not corrected for its start: what follows has one length, whatever comes in."""
    if momentum == 0:
        return memories.NONE
    return memories.nesterov_ema(momentum, unbiased=False) if nesterov else memories.look_ahead(momentum, momentum)


def _kurtosis(call: str, kurtosis: float | None) -> float | None:
    return None if kurtosis is None else _check.number(call, "kurtosis", kurtosis, low=1)


def _decay(call: str, decay: str) -> Decay:
    _check.choice(call, "decay", decay, DECAYS)
    return decay  # pyright: ignore[reportReturnType]  it is one of them
