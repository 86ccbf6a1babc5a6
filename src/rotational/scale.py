"""The second field of a rule: what becomes of the remembered gradient.

c   filtered gradient (memory.py)       u   update direction       v   mean square of the gradient
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Raw:
    """u = c: the size of the gradient is the size of the step (SGD)."""


@dataclass(frozen=True)
class Rms:
    """u = c / (sqrt(v) + eps): each entry divided by its own running RMS (Adam, RMSprop).

    v = beta v + (1-beta) g^2. With `unbiased`, v is divided by 1 - beta^t. With `first`, the gradient is
    divided before it is remembered (RMSprop with momentum). With `centered`, v is the variance: the square
    of a moving average of g is taken off. `kurtosis` of the gradient's entries (3 for normal ones) makes
    theory count the noise of v, which matters for beta below about 0.98; None takes v as exact. Steps do
    not read it.
    """

    beta: float = 0.999
    eps: float = 1e-8
    unbiased: bool = True
    first: bool = False
    centered: bool = False
    kurtosis: float | None = None


@dataclass(frozen=True)
class Sign:
    """u = sign(c) (Lion, Signum).

    With `linearised`, theory treats the sign as a fixed multiple of c, as the paper does; steps do not
    change.
    """

    linearised: bool = False


Scale: TypeAlias = Raw | Rms | Sign
