"""What gradients are divided by, step by step: Adam's running RMS with its noise, or Adamax's fading maximum.

    v   running mean square, summed over entries     V   its relative variance     S   share of a gradient in v

1/v of a noisy v is larger than 1/E v, but a gradient that stands in v itself is divided by more when it is large. To
the order of V and S, a product g_i g_i/(sqrt(v_t) sqrt(v_j)) is multiplied by

    a(V_t) a(V_j) - (kurtosis-1)/2 (S_t + S_j) + Cov(e_t, e_j)/4,     a(V) = E v^(-1/2) = 1 + 3V/8 + 25V^2/128

where e_j is the relative error of v_j. Both S_t and the covariance are what is left of their values at j, times
beta^(t-j) v_j/v_t: a second pole beside that of the memory. At rest this is `correlation._second_moment`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from rotational.correlation import inverse_root, inverse_square
from rotational.dynamics import centering
from rotational.dynamics.filling import NOISY, STRONG, Filling, lasts
from rotational.dynamics.maximum import FadingMaximum
from rotational.dynamics.setting import Divided, Number, Setting
from rotational.memory import Filter
from rotational.scale import Max, Rms

ALONE = Filter(1.0, 0.0, 0.0)
"""No memory: a gradient that is divided before it is remembered."""


class Divisor(Protocol):
    """The running size of the gradient.

    `second` is what is divided by, squared and summed over entries, before bias correction.
    """

    second: Number

    def step(
        self, t: int, now: Filter, kept: Number, gradient: Divided, mean2: Number, square: Number, lr: Number
    ) -> Divided:
        """Take in the gradient of step t; `kept` is E|m|^2, `mean2` the square of its mean, `square` E|w|^2."""
        ...

    def writes(self) -> tuple[Number, Number]:
        """What this update leaves in the two poles, for updates to come."""
        ...

    def reads(self) -> tuple[Number, Number]:
        """What this update makes of each pole."""
        ...

    def crossed(self) -> Number | None:
        """E<w, u> for a u of length 1, where it is known beside the poles."""
        ...

    def leave(self, kept: Number, lr: Number) -> None:
        """Take in that weights kept the share `kept`, and moved along -u by `lr`."""
        ...

    def hold(self, second: Number, q: Number) -> None:
        """Be as `second` is for long, with gradients of E|g|^2 = `q`."""
        ...

    def merge(self, mean: Callable[[Number], Number]) -> None:
        """Go on with one class of weights."""
        ...


class RunningRms:
    """Adam's v, RMSprop's (centred or not), LaProp's, RAdam's."""

    def __init__(self, setting: Setting, scale: Rms, zero: Number) -> None:
        self.second = self._v = self._inside = zero
        self._setting, self._scale, self._memory = setting, scale, setting.rule.memory
        self._squares = self._both = zero  # sums behind V and S
        self._averaged = self._along = self._share = zero  # see `centering`
        self._excess = 0.0 if scale.kurtosis is None else scale.kurtosis - 1
        self._variance: Number = 0.0
        self._lag: Number = 0.0  # (kurtosis-1)/2 times the mean share in v of what this update shares with the next
        plain = not (setting.coupled or setting.drift or scale.centered)
        self._exact = lasts(scale.beta) if plain and scale.kurtosis is not None else 0
        self._filling: Filling | None = None
        self._crossed: Number | None = None
        self._left, self._unit = zero, zero
        self._few: Any = True

    def step(
        self, t: int, now: Filter, kept: Number, gradient: Divided, mean2: Number, square: Number, lr: Number
    ) -> Divided:
        """Take in the gradient of step t (see `Divisor`)."""
        scale, setting, beta = self._scale, self._setting, self._scale.beta
        q, lam, fresh = gradient.power, gradient.coupled, 1 - beta
        self._inside = inside = lam**2 * square
        self._v = v = beta * self._v + fresh * (q + mean2 + inside)
        filled, self.second = 1 - beta**t, v
        if scale.centered:
            self._averaged = centering.mean_square(beta, q, inside, self._along, self._averaged)
            self.second = v - self._averaged
            self._share = centering.share(setting, self.second, lr, lam)
            self._along = centering.crossed(beta, q, inside, self._share, self._along)
        root = (self.second / ((filled if scale.unbiased else 1.0) * setting.size)) ** 0.5 + setting.eps
        bend = 1.0
        if setting.drift and not setting.scale_invariant:
            # A mean with normal entries, r of the noise's square: E b^2/(1 + r b^2) and E 1/(1 + r b^2), fitted to 2%.
            r = mean2 / q
            bend = ((1 + r) / (1 + 2.3 * r)) ** 0.5
            root = root * ((1 + 0.8 * r) / (1 + r)) ** 0.5
            bend = bend * ((1 + 0.8 * r) / (1 + r)) ** 0.5
        factor = scale.rectification(t) / root if not scale.first else scale.rectification(t)
        if t == 1 and self._exact:
            self._filling = Filling(self._memory.decay, beta, self._excess + 1, q)
        variance = 0.0
        if scale.kurtosis is not None:
            self._squares = beta**2 * self._squares + fresh**2 * q**2
            variance = self._excess * self._squares / v**2
        if self._filling is not None:
            # Each neuron for itself: a forecast does not depend on those beside it.
            self._few = self._few & (variance >= NOISY)
            if t > self._exact or not np.any(self._few):
                self._filling = self._crossed = None
        if scale.first:  # white still, and no second pole
            spread = first = inverse_square(variance - self._excess * fresh * q / v)
            if self._filling is not None:
                spread = np.where(self._few, self._filling.take(ALONE, q)[0] * v / q, first)
            q = q / root**2 * spread
            return Divided(q, self._decayed(lam, t, lr / root) / root, gradient.mean / root, factor, 1.0, factor, bend)
        spread = 1.0
        if scale.kurtosis is not None:
            # The bends are measured where v is a sum of one to ten squares; they keep the product within 3% there.
            self._variance = variance / (1 + variance / 4)
            decay, aged = self._memory.decay, beta * self._both
            sigma2 = now.new**2 * q + now.old**2 * kept
            share = (now.new**2 * fresh * q**2 + now.old**2 * aged) / (sigma2 * v)
            spread = inverse_square(variance - self._excess * share)
            shared = now.inflow * now.new * q + now.old * decay * kept
            if decay:
                lag = (now.inflow * now.new * fresh * q**2 + now.old * decay * aged) / (shared * v)
                self._lag = self._excess * lag / (2 + self._excess * lag / 2)
            self._both = decay**2 * aged + now.inflow**2 * fresh * q**2
            if self._filling is not None:
                self._unit = factor * v**0.5
                power, crossed, left = self._filling.take(now, q)
                spread = np.where(self._few, power * v / sigma2, spread)
                self._crossed = np.where(self._few, crossed * (v / sigma2) ** 0.5, np.nan)
                self._left = left * v**0.5 / shared
        return Divided(q, self._decayed(lam, t, lr / root), gradient.mean, factor, spread, factor, bend)

    def writes(self) -> tuple[Number, Number]:
        """For the poles of the memory alone, and of memory and v together."""
        plain = inverse_root(self._variance) - self._lag
        return (
            plain if self._crossed is None else np.where(self._few, self._left, plain),
            self._scale.beta * self._v * (self._variance / 4 - self._lag),
        )

    def reads(self) -> tuple[Number, Number]:
        """Of the same two."""
        return inverse_root(self._variance), 1 / self._v

    def crossed(self) -> Number | None:
        """<w, c>/(|c| sqrt v) while v holds few squares (see `filling`); NaN for a neuron where it does not."""
        return self._crossed

    def leave(self, kept: Number, lr: Number) -> None:
        """Take in what the update made of the weights (see `Divisor`)."""
        if self._filling is not None and self._crossed is not None:
            self._few = self._few & (1 - kept <= STRONG)
            self._filling.leave(kept, lr * self._unit)

    def hold(self, second: Number, q: Number) -> None:
        """Be as `second` is for long, with gradients of E|g|^2 = `q`."""
        fresh = (1 - self._scale.beta) / (1 + self._scale.beta)
        self.second = self._v = second
        if self._scale.centered:
            self._averaged, self._along = centering.at_rest(self._scale.beta, q, self._inside, self._share)
            self._v = second + self._averaged
        self._squares = fresh * self._v**2

    def merge(self, mean: Callable[[Number], Number]) -> None:
        """Go on with one class of weights."""
        self._setting = replace(self._setting, merged=True)
        self.second, self._v, self._inside = (mean(x) for x in (self.second, self._v, self._inside))
        self._squares, self._averaged = mean(self._squares), mean(self._averaged)
        self._along, self._share = mean(self._along), mean(self._share)
        self._both, self._variance, self._lag = (mean(x) for x in (self._both, self._variance, self._lag))

    def _decayed(self, lam: Number, t: int, step: Number) -> Number:
        """A coupled decay as a noisy v changes it (see `correlation._second_moment`)."""
        setting, scale = self._setting, self._scale
        if not setting.coupled or scale.kurtosis is None:
            return lam
        lam = lam * (1 + (setting.law.decay - 1) * (1 - scale.beta**t))
        return lam * setting.favours(1 - scale.beta, 2 * step * lam * self._memory.total)


def divisor_of(setting: Setting, zero: Number) -> Divisor | None:
    """The divisor of a rule that has one."""
    match setting.rule.scale:
        case Rms() as scale:
            return RunningRms(setting, scale, zero)
        case Max() as scale:
            return FadingMaximum(setting, scale, zero)
        case _:
            return None
