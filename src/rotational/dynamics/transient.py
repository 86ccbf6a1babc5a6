"""Every step of the optimizer, in second moments: first steps, bias corrections and all.

The weights and the decay's own part of the memory are a vector x = (w, s), linear in the noise:

    x' = A x - lr u e_w,     s_t = decay s_{t-1} + inflow wd w_t     (s only for a coupled decay)

so with M = E x x^T, X = E x_t u_t and P = E|u|^2,  M' = A M A^T - lr (A X e_w^T + e_w X^T A^T) + lr^2 P e_w e_w^T.
X collects what past updates left in the weights: u correlates with u_j as a sum of poles (correlation.py), and
each pole i is one vector Y_i' = pole_i A Y_i - lr amplitude rho^n_i e_w, X = amplitude sum w_i Y_i.

    q   E|g|^2     c   filtered gradient, sigma^2 = E|c|^2     m   memory     rho   correlation of c with the next c
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rotational.dynamics.avoided import Avoided
from rotational.dynamics.cautious import cautious, lasting
from rotational.dynamics.coarse import Slow
from rotational.dynamics.divisor import divisor_of
from rotational.dynamics.scatter import Scatter, scattered, turned
from rotational.dynamics.setting import Divided, Number, Push, Setting, alike, at_least, mean_sign
from rotational.memory import Filter, memory_tail
from rotational.scale import Sign


class Step(NamedTuple):
    """One step: E|w|^2 before and after, its change, E|w' - w|^2, and what scatter adds to the angle (`turned`)."""

    before: Number
    after: Number
    gain: Number
    moved: Number
    scatter: Number


class Transient:
    """Neurons on their way: `step` takes one step of the optimizer. `square` is their initial |w|^2.

    >>> from rotational import rules
    >>> neuron = Transient(Setting(rules.sgd(), size=64.0, known=True, gradient=0.5), square=1.0)
    >>> round(neuron.step(Push(lr=0.1, shrink=0.0, coupled=0.1)).after, 6)   # (1 - lr wd)^2 + lr^2 gradient^2
    0.9826
    """

    def __init__(self, setting: Setting, square: Number) -> None:
        memory, law = setting.rule.memory, setting.law
        self.setting, self.t = setting, 0
        self._filters, self._decay = memory.coefficients(), memory.decay
        self._lasts = lasting(memory_tail(memory))
        self._linear = setting.coupled or setting.drift > 0  # something runs along w through the memory
        zero = 0.0 * (setting.gradient * setting.size * square)
        self.mean = self._s_mean = self._m_mean = zero
        self._scatter = Scatter(zero, zero, zero, zero)
        if setting.nodes is not None:
            zero, square = zero + 0.0 * setting.nodes[0], square * setting.nodes[0]
        self.divisor = divisor_of(setting, zero)
        modes = zip(law.weights, law.powers, law.extras, strict=True)
        if self.divisor is not None:  # its noise adds the second pole, of a weight that it knows itself
            modes = iter([(1.0, 1, 1.0)] if law.plain else [(1.0, 1, 1.0), (1.0, 1, law.extras[1])])
        self._modes = list(modes) if memory.decay > 0 and memory.old > 0 else []
        self._avoided = Avoided(setting, zero) if law.lift and setting.scale_invariant and setting.known else None
        # E ww, ws, ss;  E wY, sY of each mode;  E|m|^2;  old/sigma of the step before
        self.square, self._ws, self._ss = square + zero, zero, zero
        self._wy, self._sy = [zero] * len(self._modes), [zero] * len(self._modes)
        self._kept, self._weight = zero, None

    @property
    def total(self) -> Number:
        """E|w|^2."""
        square = self.setting.total(self.square)
        return square + self.mean**2 if self.setting.drift else square

    @property
    def scatter(self) -> Number:
        """Var|w|^2/W^2 over neurons."""
        return self._scatter.lengths

    @property
    def divisor_second(self) -> Number:
        """What is divided by, squared, before bias correction, entries summed; 1 where nothing is divided."""
        return 1.0 + 0.0 * self.square if self.divisor is None else self.divisor.second

    def step(self, push: Push) -> Step:
        """Take one step; returns what happened."""
        setting, now, before = self.setting, next(self._filters), self.total
        self.t += 1
        got = self._gradient(now, before, push)
        sigma2 = now.new**2 * got.power + now.old**2 * self._kept
        c_mean = now.new * got.mean + now.old * got.late * self._m_mean if setting.drift else 0.0
        xw, xs, rho, lift = self._crossed(now, sigma2, got.power)
        amplitude, response = self._amplitude(now, sigma2, c_mean, got, xw, xs)
        xw, xs = amplitude * (xw - lift), amplitude * xs
        noise = amplitude**2 * got.spread
        lr, shrink, rest = push.lr, setting.shrink(push, before), 0.0
        if setting.rule.decay == "cautious":
            shrink, lr, rest = cautious(setting, shrink, lr, self.square, xw, noise)
        off = -shrink - lr * response * now.new * got.coupled if self._linear else -shrink  # a11 - 1
        a12, a21 = -lr * response * got.late * now.old, now.inflow * got.coupled
        gain, moved = self._move(off, a12, a21, lr, xw, xs, lr**2 * noise + rest, rest)
        if self._avoided is not None:
            self._avoided.step(now, got.power, -self._wy[0], before, 1 + off, lr * amplitude)
        if self.divisor is not None:
            self.divisor.leave(1 + off, lr)
        self._write(off, a12, a21, lr * amplitude, rho)
        if setting.drift:
            u_mean = self._mean_update(sigma2, c_mean, response * got.bend)
            old, self.mean = self.mean, self._one((1 + off) * self.mean + a12 * self._s_mean - lr * u_mean)
            self._s_mean = self._one(a21 * old + self._decay * self._s_mean)
            self._m_mean = self._decay * self._m_mean + now.inflow * got.mean
            gain, moved = gain + self.mean**2 - old**2, moved + (self.mean - old) ** 2
        self._kept = self._decay**2 * self._kept + now.inflow**2 * got.power
        scatter = self.scatter
        if setting.scatters:
            grown = self._one(lr**2 * noise - 2 * lr * ((1 + off) * xw + a12 * xs))
            fresh = now.inflow**2 * got.power / self._kept
            self._scatter = scattered(setting, self._scatter, gain / before, grown / before, fresh)
            seen = self._scatter._replace(lengths=scatter)  # what the step met
            scatter = turned(setting, seen, xw**2 / (before * noise + 1e-300))
        if (
            setting.nodes is not None
            and setting.divides
            and self.t % 32 == 0
            and alike(self.square)
            and alike(self.divisor_second)
        ):
            self._merge()
        return Step(before, before + gain, gain, moved, scatter)

    def resume(self, state: Slow) -> None:
        """Take no first steps: go on from here, where no bias is left, with what is fast still to be filled."""
        self._filters = self.setting.rule.memory.coefficients(state.t)
        self.hold(state)

    def hold(self, state: Slow) -> None:
        """Put what remembers long back to this, for another step from it."""
        self.t, self._scatter = state.t, self._scatter._replace(lengths=state.scatter)
        self.square = state.square if self.setting.nodes is None else state.square + 0.0 * self.setting.nodes[0]
        if self.divisor is not None:
            self.divisor.hold(state.second, self.setting.power(self.total))

    def _merge(self) -> None:
        """Go on with one class of weights."""
        mean = self.setting.mean
        self._m_mean = self._one(self._m_mean)
        self.square, self._ws, self._ss, self._kept = (mean(x) for x in (self.square, self._ws, self._ss, self._kept))
        self._wy, self._sy = [mean(x) for x in self._wy], [mean(x) for x in self._sy]
        self._weight = None if self._weight is None else mean(self._weight)
        for part in (self.divisor, self._avoided):
            if part is not None:
                part.merge(mean)
        self.setting = replace(self.setting, merged=True)

    def _one(self, x: Number) -> Number:
        """Of a mean in classes of weights, that of the neuron: it is one direction, whose length all classes share."""
        setting = self.setting
        classes = setting.nodes is not None and np.ndim(x) > np.ndim(setting.gradient * setting.size)
        return setting.mean(x) if classes else x

    def _gradient(self, now: Filter, before: Number, push: Push) -> Divided:
        """The gradient of this step, divided where the rule divides."""
        setting, mean, lam, mean2 = self.setting, 0.0, push.coupled, 0.0
        q = setting.power_of(self.square, before)
        if setting.scatters and setting.scale_invariant:
            q = q * (1 + self._scatter.lengths)
        if setting.drift:
            mean = setting.drift * (q if setting.nodes is None else setting.power(before)) ** 0.5
            mean2 = mean**2
            if setting.scale_invariant:  # the mean is made orthogonal to w, and what is taken off it runs along w
                mean2 = mean2 * (1 - self.mean**2 / before)
                lam = lam - mean * self.mean / before
            q = q * (1 - setting.drift**2)
        got = Divided(q, lam, mean)
        if self.divisor is None:
            return got if setting.law.power == 1.0 else got._replace(spread=setting.law.power)
        square = self.square + self.mean**2 if setting.drift else self.square
        if setting.drift and setting.coupled and not setting.scale_invariant:
            # decay of the mean weight stands against the gradient's mean, and at rest cancels it
            square, mean2 = self.square, (mean + lam * self.mean) ** 2
        return self.divisor.step(self.t, now, self._kept, got, mean2, square, push.lr)

    def _amplitude(
        self, now: Filter, sigma2: Number, c_mean: Number, got: Divided, xw: Number, xs: Number
    ) -> tuple[Number, Number]:
        """RMS length of the update's noise, and what is made of a part of c that hardly changes.

        What runs along w or the mean of the gradient is no noise, and is
        correlated with the noise by what past noise left in it.
        """
        setting = self.setting
        if not setting.bounded:
            return got.amplitude * sigma2**0.5, got.response
        length = setting.unit**0.5
        if not self._linear:
            return length, 0.0
        if not isinstance(setting.rule.scale, Sign):
            response = length * (setting.law.weights[0] / sigma2) ** 0.5
            if setting.drift and not setting.scale_invariant:
                length = (setting.unit - self._mean_update(sigma2, c_mean, 0.0) ** 2) ** 0.5
            return length, response
        new, old = now.new * got.coupled, now.old
        steady = new**2 * self.square + 2 * new * old * self._ws + old**2 * self._ss
        steady = steady + (new * self.mean + old * self._s_mean + c_mean) ** 2
        cross, amplitude, response = new * xw + old * xs, length, 1.0
        noise2 = sigma2
        for _ in range(3):
            response = mean_sign(setting, steady, noise2)
            left = setting.size - response**2 * steady
            if setting.drift and not (setting.scale_invariant or setting.coupled):
                left = setting.size - self._mean_update(sigma2, c_mean, 0.0) ** 2
            amplitude = ((response * cross) ** 2 + left) ** 0.5 - response * cross
            noise2 = at_least(sigma2 + 2 * amplitude * cross / response, 0.2 * sigma2)
        return amplitude, response

    def _mean_update(self, sigma2: Number, c_mean: Number, response: Number) -> Number:
        """Length of the update's mean. That of a sign or an orthogonal factor is not along the gradient's, but it is as
        constant.

        Where the gradient is kept orthogonal to w, only what is along the gradient's mean goes on for long, and where
        decay is in the sign too, weights come to where it cancels that mean.
        """
        setting = self.setting
        if not setting.bounded or setting.scale_invariant or setting.coupled:
            return response * c_mean
        # two updates of one mean agree as far as what they are made of does
        share, law = c_mean**2 / (sigma2 + c_mean**2), setting.law
        if isinstance(setting.rule.scale, Sign):
            return (2 / math.pi * setting.size * np.arcsin(share)) ** 0.5
        return (setting.unit * sum(w * share**n for w, n in zip(law.weights, law.powers, strict=True))) ** 0.5

    def _crossed(self, now: Filter, sigma2: Number, q: Number) -> tuple[Number, Number, Number, Number]:
        """(E w u, E s u) for a u of length 1, from what past updates left; rho, for those to come; and what of E w u a
        gradient that avoids w takes off (see `avoided`)."""
        xw, xs, rho, lift = 0.0, 0.0, 0.0, 0.0
        if self._modes:
            sigma = sigma2**0.5
            weight = now.old / sigma
            rho = (now.inflow * now.new * q + now.old * self._decay * self._kept) * weight / sigma
            ratio = 1.0 if self._weight is None else weight / self._weight
            self._weight = weight
            reads = None if self.divisor is None else self.divisor.reads()
            for i, (w, n, _) in enumerate(self._modes):
                stretch, part = (ratio if n == 1 else ratio**n), (w if reads is None else reads[i])
                self._wy[i] = self._wy[i] * stretch
                xw = xw + part * self._wy[i]
                if self._linear:
                    self._sy[i] = self._sy[i] * stretch
                    xs = xs + part * self._sy[i]
            exact = None if self.divisor is None else self.divisor.crossed()
            if exact is not None and reads is not None:  # what the memory's pole does not say is in the other
                xw = np.where(np.isnan(exact), xw, exact)
                self._wy[1] = (xw - reads[0] * self._wy[0]) / reads[1]
            if self._avoided is not None:
                lift = self._avoided.lift(now, q, sigma2, -self._wy[0], ratio)
        return xw, xs, rho, lift

    def _move(
        self, off: Number, a12: Number, a21: Number, lr: Number, xw: Number, xs: Number, noise: Number, rest: Number
    ) -> tuple[Number, Number]:
        """M' = A M A^T + ...; returns |w'|^2 - |w|^2 and |w' - w|^2, each summed so that nothing cancels."""
        w, s, t, decay = self.square, self._ws, self._ss, self._decay
        if not self._linear:
            gain = off * (2 + off) * w - 2 * lr * (1 + off) * xw + noise + rest * (self._lasts - 1)
            moved = off**2 * w - 2 * lr * off * xw + noise
        else:
            a11 = 1 + off
            gain = off * (2 + off) * w + 2 * a11 * a12 * s + a12**2 * t - 2 * lr * (a11 * xw + a12 * xs) + noise
            moved = off**2 * w + 2 * off * a12 * s + a12**2 * t - 2 * lr * (off * xw + a12 * xs) + noise
            self._ws = a11 * a21 * w + (a11 * decay + a12 * a21) * s + a12 * decay * t - lr * (a21 * xw + decay * xs)
            self._ss = a21**2 * w + 2 * a21 * decay * s + decay**2 * t
        self.square = w + gain
        return self.setting.total(gain), self.setting.total(moved)

    def _write(self, off: Number, a12: Number, a21: Number, size: Number, rho: Number) -> None:
        """What this update leaves for those to come."""
        writes = None if self.divisor is None else self.divisor.writes()
        for i, (_, n, e) in enumerate(self._modes):
            wy, pole = self._wy[i], self._decay**n * e
            new = size * (rho if n == 1 else rho**n)
            if writes is not None:
                new = new * writes[i]
            if self._linear:
                sy = self._sy[i]
                self._wy[i] = pole * ((1 + off) * wy + a12 * sy) - new
                self._sy[i] = pole * (a21 * wy + self._decay * sy)
            else:
                self._wy[i] = pole * (1 + off) * wy - new


def resumed(setting: Setting, state: Slow, push: Push) -> Transient:
    """Neurons that go on step by step from the end of a block, after steps like `push`.

    All that is fast, the memory and what past updates left, is as so many steps from the held state make it.
    """
    if setting.nodes is not None and len(state.square) == 1:  # classes that have become one
        setting = replace(setting, merged=True)
        state = state._replace(square=state.square[0], second=state.second[0])
    neuron = Transient(setting, 1.0)
    neuron.resume(state)  # the memory's bias is none, whatever step it takes to be the first
    for _ in range(math.ceil(5 / (1 - setting.rule.memory.decay))):
        neuron.hold(state)
        neuron.step(push)
    neuron.hold(state)
    return neuron
