"""The catalogue: every rule whole, in a few lines, with its source.

Each function checks its numbers, so that a `Rule` from here is sound; arguments have torch's names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

from rotational import _check
from rotational import memory as memories
from rotational.rule import Decay, Rule
from rotational.scale import Raw, Rms, Sign

Betas = Sequence[float]


def sgd(
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    decay: Literal["coupled", "decoupled"] = "coupled",
) -> Rule:
    """SGD, with heavy-ball or Nesterov momentum; `decay="coupled"` is torch's, "decoupled" is SGDW.

    m = momentum m + (1-dampening) g,  u = m, or g + momentum m with Nesterov.
    Raises ValueError for a momentum or dampening outside [0, 1), and for Nesterov without momentum.

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


def adamw(betas: Betas = (0.9, 0.999), eps: float = 1e-8, *, kurtosis: float | None = None) -> Rule:
    """AdamW: Adam's direction, decay beside it.

    m = b1 m + (1-b1) g,  v = b2 v + (1-b2) g^2,  u = m/(sqrt(v) + eps),  w <- (1 - lr wd) w - lr u.
    Theory takes v as exact, as the paper does; `kurtosis` of the gradient's entries (3 for normal ones) makes it
    count the noise of v, which lowers the rotation by 0.5% at b2 = 0.95.

    >>> adamw(betas=(0.9, 0.95)).decay
    'decoupled'

    Source: Loshchilov and Hutter 2019 (arXiv 1711.05101).
    """
    return _adam("adamw", betas, eps, "decoupled", kurtosis, nesterov=False)


def adam_l2(betas: Betas = (0.9, 0.999), eps: float = 1e-8, *, kurtosis: float | None = 3.0) -> Rule:
    """Adam with L2 regularisation: wd w joins the gradient before both moments (torch.optim.Adam).

    `kurtosis` of the gradient's entries, 3 for normal ones, tells theory how noisy v is; None takes v as exact.

    >>> adam_l2().decay
    'coupled'

    Source: Kingma and Ba 2015 (arXiv 1412.6980).
    """
    return _adam("adam_l2", betas, eps, "coupled", kurtosis, nesterov=False)


def nadamw(betas: Betas = (0.9, 0.999), eps: float = 1e-8, *, kurtosis: float | None = None) -> Rule:
    """NAdam with decoupled decay: Nesterov's look-ahead on Adam's first moment.

    torch's NAdam warms its momentum up over about 25/momentum_decay steps; this is the rule it warms up to.

    >>> nadamw().memory.old
    0.81

    Source: Dozat 2016; torch.optim.NAdam(decoupled_weight_decay=True).
    """
    return _adam("nadamw", betas, eps, "decoupled", kurtosis, nesterov=True)


def nadam_l2(betas: Betas = (0.9, 0.999), eps: float = 1e-8, *, kurtosis: float | None = 3.0) -> Rule:
    """NAdam with L2 regularisation (torch.optim.NAdam as it comes).

    >>> nadam_l2().decay
    'coupled'

    Source: Dozat 2016.
    """
    return _adam("nadam_l2", betas, eps, "coupled", kurtosis, nesterov=True)


def rmsprop(
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    centered: bool = False,
    *,
    kurtosis: float | None = 3.0,
) -> Rule:
    """RMSprop with L2 regularisation: divide by the running RMS, then remember (torch.optim.RMSprop).

    v = alpha v + (1-alpha) g^2,  m = momentum m + g/(sqrt(v) + eps),  u = m.  `kurtosis` as in `adam_l2`.

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


def lion(betas: Betas = (0.9, 0.99), *, linearised: bool = False) -> Rule:
    """Lion: the sign of a blend of gradient and memory, decay beside it.

    u = sign(b1 m + (1-b1) g),  m = b2 m + (1-b2) g,  w <- (1 - lr wd) w - lr u.
    `linearised=True` makes theory use the paper's linear approximation of the sign instead of the exact
    correlation of signs; the step is the same.

    >>> lion(linearised=True).scale
    Sign(linearised=True)

    Source: Chen et al. 2023 (arXiv 2302.06675); Kosson et al. 2024, appendix on Lion.
    """
    blend, decay = _check.pair("lion", "betas", betas)
    return Rule(memories.look_ahead(blend, decay), Sign(linearised), "decoupled", "lion")


def _adam(name: str, betas: Betas, eps: float, decay: Decay, kurtosis: float | None, *, nesterov: bool) -> Rule:
    b1, b2 = _check.pair(name, "betas", betas)
    eps = _check.number(name, "eps", eps, low=0)
    memory = memories.nesterov_ema(b1) if nesterov else memories.ema(b1)
    return Rule(memory, Rms(b2, eps, kurtosis=_kurtosis(name, kurtosis)), decay, name)


def _kurtosis(call: str, value: float | None) -> float | None:
    return None if value is None else _check.number(call, "kurtosis", value, low=1)


def _decay(call: str, decay: str) -> Decay:
    return cast(Decay, _check.choice(call, "decay", decay, ("coupled", "decoupled")))
