"""The second field of a rule: what becomes of the remembered gradient.

c   filtered gradient (memory.py)       u   update direction       v   mean square of the gradient
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias


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
    not read it. `rectified` multiplies by RAdam's factor, and takes no step while that is undefined (torch then
    steps along m itself, for 5 steps at beta = 0.999).
    """

    beta: float = 0.999
    eps: float = 1e-8
    unbiased: bool = True
    first: bool = False
    centered: bool = False
    kurtosis: float | None = None
    rectified: bool = False

    def rectification(self, t: int) -> float:
        """RAdam's factor at step t, which rises to 1 over about 1/(1 - beta) steps; 1 where it is not asked for.

        >>> Rms(beta=0.999, rectified=True).rectification(5), round(Rms(rectified=True).rectification(1000), 3)
        (0.0, 0.645)

        Source: Liu et al. 2020 (arXiv 1908.03265), algorithm 2.
        """
        if not self.rectified:
            return 1.0
        full = 2 / (1 - self.beta) - 1
        now = full - 2 * t * self.beta**t / (1 - self.beta**t)
        if now <= 5:
            return 0.0
        return ((now - 4) * (now - 2) * full / ((full - 4) * (full - 2) * now)) ** 0.5


@dataclass(frozen=True)
class Max:
    """u = c / v with v = max(beta v, |g| + eps): each entry divided by its fading maximum (Adamax)."""

    beta: float = 0.999
    eps: float = 1e-8


@dataclass(frozen=True)
class Sign:
    """u = sign(c) (Lion, Signum).

    With `linearised`, theory treats the sign as a fixed multiple of c, as the paper does; steps do not
    change.
    """

    linearised: bool = False


@dataclass(frozen=True)
class Polar:
    """u = multiplier * O(c), O the orthogonal factor of a whole matrix (Muon).

    `steps` of torch's Newton-Schulz iteration, or None for the exact factor. `adjust` is how the step depends
    on the shape, by torch's names: "original" multiplies by sqrt(max(1, rows/columns)), "match_rms_adamw" by
    0.2 sqrt(max(rows, columns)), None by nothing. Decay is not multiplied.
    """

    steps: int | None = 5
    adjust: Literal["original", "match_rms_adamw"] | None = "original"

    def multiplier(self, rows: int, columns: int) -> float:
        """What `adjust` multiplies the step of a matrix by.

        >>> Polar().multiplier(400, 100), Polar().multiplier(100, 400), Polar(adjust=None).multiplier(400, 100)
        (2.0, 1.0, 1.0)
        """
        if self.adjust is None:
            return 1.0
        return max(1.0, rows / columns) ** 0.5 if self.adjust == "original" else 0.2 * max(rows, columns) ** 0.5


Scale: TypeAlias = Raw | Rms | Max | Sign | Polar
