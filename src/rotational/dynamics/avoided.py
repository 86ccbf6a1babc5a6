"""How far the signs of remembered gradients push w outward because each was orthogonal to w; an effect of order 1/C.

Given the past, an entry of g_s has the variance (1 - w_s,i^2/W_s) q_s/C: what was large in w_s is small in what is
remembered. To first order in that, for normal w and c, E<w_t, sign c_t> is smaller by

    (2/pi)/C sum_s a_s^2 y_s <w_s, w_t>/W_s,        a_s^2 = h_{t-s}^2 q_s/sigma_t^2

where y_s = -E<w_s, c_t>/sigma_t is what updates before g_s, still in w_s, say of c_t: that of the memory's own pole at
step s, faded since. How near w_t is to w_s falls with decay, and rises with updates that repeat what is in w_s:

    <w_s, w_{t+1}> = (1 - D) <w_s, w_t> - lr <w_s, u_t>

`correlation.lifted` is the sum where nothing changes, and `Correlation.lift` the factor before it.
"""

from __future__ import annotations

from collections.abc import Callable

from rotational.dynamics.setting import Number, Setting
from rotational.memory import Filter


class Avoided:
    """Sums over the gradients g_s that are remembered, each with its share k_s of E|m|^2.

    along   k_s y_s <w_s, w_t>/W_s        near   k_s y_s^2/W_s
    """

    def __init__(self, setting: Setting, zero: Number) -> None:
        self._strength, self._response = setting.small * setting.law.lift, setting.law.weights[0]
        self._decay = setting.rule.memory.decay
        # A cautious decay, followed as linear, leaves more out than this adds: there, the push at rest fades in.
        self._settled = setting.small * setting.law.lifted(setting.rule.memory)
        self._cautious = setting.rule.decay == "cautious"
        self._along = self._near = zero

    def lift(self, now: Filter, q: Number, sigma2: Number, y: Number, ratio: Number) -> Number:
        """What is added to -E<w, u> of a u of length 1; `ratio` is by how much old/sigma has changed in this step."""
        if self._cautious:
            return self._along
        self._along, self._near = self._along * ratio, self._near * ratio**2
        return self._strength * (now.new**2 * q * y + now.old**2 * self._along) / sigma2

    def step(self, now: Filter, q: Number, y: Number, square: Number, kept: Number, size: Number) -> None:
        """Take in the gradient of a step of length `size` in which w kept the share `kept`, from E|w|^2 = `square`."""
        if self._cautious:
            self._along = self._along + (1 - self._decay**2) * (size * self._settled - self._along)
            return
        fresh, old, decay = now.inflow**2 * q * y, self._decay**2, self._decay
        along, near = old * self._along + fresh, old * self._near + fresh * y / square
        self._along, self._near = decay * (kept * along + size * self._response * near), decay**2 * near

    def merge(self, mean: Callable[[Number], Number]) -> None:
        """Go on with one class of weights."""
        self._along, self._near = mean(self._along), mean(self._near)
