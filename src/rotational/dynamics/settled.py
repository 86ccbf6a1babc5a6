"""The law of |w|^2 when all that is fast has settled: memory, correlations, and what the decay left in them.

    W' - W = gain - loss W          E|w' - w|^2 = noise + pull W

Equilibrium is where gain = loss W (`rest`), a forecast of many steps is this equation integrated, and the rotation
of either follows from the two lines.

    D   decay beside the gradient      delta   share of w that one step removes, by whatever way the decay enters
    H   correlation.py                  k   W/E|g|^2 at rest of a linear rule with coupled decay
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from rotational.dynamics import centering
from rotational.dynamics.cautious import cautious, lasting
from rotational.dynamics.entry import mean_since, steady
from rotational.dynamics.scatter import Scatter, at_rest
from rotational.dynamics.setting import Number, Push, Setting, mean_sign
from rotational.memory import Memory, memory_tail, sum_of_correlations
from rotational.scale import Max, Rms, Sign


class Balance(NamedTuple):
    """What one step adds to W, and the share of it that it removes; `delta` the share of w.

    `scatter` is that of lengths at rest, and `radial` the share of |u|^2 that runs along w.
    """

    gain: Number
    loss: Number
    noise: Number
    pull: Number
    delta: Number
    scatter: Scatter
    radial: Number


def second_at_rest(setting: Setting, square: Number, q: Number, push: Push) -> Number:
    """v, summed over entries, after more steps than it remembers: q + wd^2 W; Adamax's as if of noise alone."""
    scale = setting.rule.scale
    if isinstance(scale, Rms) and scale.centered:
        return centering.second_at_rest(setting, scale.beta, q, push.lr, push.coupled, square)
    if isinstance(scale, Max) and setting.coupled:
        return q * steady(scale.beta, push.coupled * np.sqrt(square / q)) ** 2
    return q + push.coupled**2 * square


def balance(
    setting: Setting, square: Number, q: Number, second: Number, push: Push, memory: Memory | None = None
) -> Balance:
    """The law at E|w|^2 = `square`, E|g|^2 = `q` and second moment `second` (both summed over entries).

    `memory` stands for the rule's own while that changes (NAdam's warm-up).
    """
    rule, law, small = setting.rule, setting.law, setting.small
    memory = rule.memory if memory is None else memory
    r0 = memory.autocovariance()[0]
    shrink = setting.shrink(push, square)
    response, amplitude2 = 1.0, q * r0
    if isinstance(rule.scale, Rms | Max):
        divisor = (second / setting.size) ** 0.5 + setting.eps
        inverse, inverse2 = setting.fading if isinstance(rule.scale, Max) else (1.0, 1.0)
        response, amplitude2 = inverse / divisor, q * r0 * inverse2 / divisor**2
    elif setting.bounded:
        amplitude2 = setting.unit + 0.0 * square
    avoids = small if setting.scale_invariant else 0.0
    if not setting.coupled:
        lr = push.lr
        if rule.decay == "cautious":
            cross, rest, delta, along = 0.0 * square, 0.0 * square, shrink, lr
            lift = avoids * law.lifted(memory)  # a cautious decay is left out of it: see `avoided`
            for _ in range(12):  # the correlation of u and w, and what it makes of the decay
                delta, along, rest = cautious(setting, shrink, lr, square, cross, amplitude2 * law.power)
                before, cross = cross, -along * amplitude2 * (law.tail(memory, 1 - delta) + lift)
                if np.all(np.abs(cross - before) <= 1e-12 * np.abs(cross)):
                    break
            shrink, lr = delta, along
        else:
            rest, lift = 0.0, avoids * law.lifted(memory, 1 - shrink)
        # updates of k steps ago were smaller by e^(-k rises)
        tail = law.tail(memory, (1 - shrink) * np.exp(-push.rises)) * np.exp(-push.rises) + lift
        spread = at_rest(setting, shrink * (2 - shrink))
        if setting.scale_invariant:
            amplitude2 = amplitude2 * (1 + spread.lengths)
        growth = lr**2 * amplitude2
        return Balance(
            gain=growth * (law.power + 2 * (1 - shrink) * tail) + rest * lasting(memory_tail(memory)),
            loss=shrink * (2 - shrink),
            noise=growth * (law.power - 2 * shrink * tail) + rest,
            pull=shrink**2,
            delta=shrink,
            scatter=spread,
            radial=growth * tail**2 / (law.power * square + 1e-300),
        )
    coupled = push.coupled
    if isinstance(rule.scale, Sign):
        return _sign_of_both(setting, square, q, push, memory)
    coupled = coupled * law.decay
    if isinstance(rule.scale, Max):
        response = response * mean_since(rule.scale.beta, memory, push.coupled * np.sqrt(square / q))
    step = push.lr * response + 1e-200  # at an lr of 0 what W would come to in the end is still a number
    if isinstance(rule.scale, Rms) and rule.scale.kurtosis is not None:
        coupled = coupled * setting.favours(1 - rule.scale.beta, 2 * step * push.coupled * memory.total)
    coupled = coupled + _of_loss(setting, memory, response)
    k, turning = stationary(memory, step, coupled + 1e-200)
    delta = _delta(memory, step, coupled) + 1e-200 * step
    loss = delta * (2 - delta)
    growth = (law.power + 2 * law.tail(memory)) / sum_of_correlations(memory)
    goal = k * q * growth * (amplitude2 / (q * r0 * response**2))
    grown, radial = _grown(memory, step, coupled, k)
    spread = at_rest(setting, grown)
    if setting.scale_invariant:
        goal = goal * (1 + spread.lengths)
    noise = goal * (2 * turning * law.power / growth - delta**2)
    return Balance(loss * goal, loss, noise, delta**2, delta, spread, radial)


def rest(setting: Setting, push: Push, memory: Memory | None = None) -> tuple[Number, Balance]:
    """(W, balance) at equilibrium: where gain = loss W, and v is what it is there.

    Where there is none, for a decay of 0 or one so strong that the step is unstable, W is not finite.
    """
    power = relaxation(setting)
    square = 1.0 + 0.0 * (setting.gradient * setting.size * setting.target * push.lr * push.shrink * push.coupled)
    if setting.aims:
        square = square + np.square(setting.target)
    low, high = np.square(setting.target) + 0.0 * square, math.inf + 0.0 * square
    slope, step, before = -power / 2, np.nan, np.nan
    with np.errstate(all="ignore"):
        for _ in range(100):
            q = setting.power(square)
            law = balance(setting, square, q, second_at_rest(setting, square, q, push), push, memory)
            off = np.where(law.loss > 0, np.log(np.maximum(law.gain, 1e-300) / (law.loss * square)), 1.0)
            # how `off` goes with log W, which for one power is -power/2 throughout
            found = (off - before) / step
            slope = np.where((found < -power / 8) & (setting.aims | (found > -2 * power)), found, slope)
            step, before = np.clip(-off / slope, -60, 60), off
            if setting.aims:  # near the target decay has next to no effect, and `off` falls as steeply as it likes
                low, high = np.where(off > 0, square, low), np.where(off <= 0, square, high)
                step = _within(step, square, low, high)
            square = square * np.exp(step)
            if np.all(~(np.abs(off) > 1e-11)):
                break
        q = setting.power(square)
        law = balance(setting, square, q, second_at_rest(setting, square, q, push), push, memory)
    return square, law


def _within(step: Number, square: Number, low: Number, high: Number) -> Number:
    """The step of log W, or half the way to the bound that it oversteps; these close in on what lies between."""
    after = square * np.exp(step)
    bound = np.where(step < 0, low, high)
    half = np.where(np.isfinite(bound), np.log(np.maximum(bound, 1e-300) / square) / 2, math.log(2))
    return np.where((after > low) & (after < high), step, half)


def returns(setting: Setting, push: Push, square: Number) -> Number:
    """The share of its distance from rest, W = `square`, that W comes nearer in a step."""

    def change(w: Number) -> Number:
        q = setting.power(w)
        law = balance(setting, w, q, second_at_rest(setting, w, q, push), push)
        return law.gain - law.loss * w

    near = 1e-4
    return -(change(square * (1 + near)) - change(square * (1 - near))) / (2 * near * square)


def turn(before: Number, after: Number, gain: Number, moved: Number) -> Number:
    """The RMS angle between successive weights: 2 asin of half the chord, |w'/|w'| - w/|w||; radians.

    `gain` = |w'|^2 - |w|^2 and `moved` = E|w' - w|^2 come separately, so that nothing cancels at small angles.
    """
    lengths = np.sqrt(before * after)
    square = (moved - (gain / (np.sqrt(before) + np.sqrt(after))) ** 2) / lengths
    return 2 * np.arcsin(np.sqrt(np.clip(square, 0.0, 4.0)) / 2)


def relaxation(setting: Setting) -> int:
    """The power p for which |w|^p relaxes as exp(-p D t): see `theory.relaxation`."""
    if not setting.scale_invariant:
        return 2
    if setting.coupled:
        return 3 if setting.bounded or setting.divides else 4
    return 2 if setting.bounded or setting.divides else 4


def stationary(memory: Memory, step: Number, decay: Number) -> tuple[Number, Number]:
    """(W/E|g|^2, 1 - cos) of  w' = w - step c,  c = new h + old m,  m' = decay m + inflow h,  h = g + wd w.

    The covariances W = <w,w>, P = <w,m>, Q = <m,m> obey three linear equations; P and Q are eliminated so
    that only terms of one sign are added, and nothing cancels however small lr*wd is. NaN where the step is not
    stable.
    """
    m, faded = memory, 1 - memory.decay**2
    remembered = m.old * m.inflow
    crossed = m.inflow * m.new + remembered * m.inflow * m.decay / faded
    # w' = (1 - step own) w - step old m - step new g,  m' = feed w + decay m + inflow g
    # with own = new wd, feed = inflow wd
    # P = feed mixed/denominator W - step (...)/denominator q, with Q = (feed^2 W + 2 feed decay P + inflow^2 q)/faded
    a = step * decay
    mixed = 1 - a * (m.new + remembered * m.decay / faded)
    denominator = 1 - m.decay + a * (m.decay * m.new + remembered * (1 + 2 * m.decay**2 / faded))
    share = mixed / denominator
    # W (1 - (1 - step own)^2) = -2 (1 - step own) step old P + (step old)^2 Q + (step new)^2 q, over step
    loss = decay * (2 * m.new - a * (m.new**2 + remembered**2 / faded) + 2 * remembered * mixed * share)
    gain = step * (m.new**2 + remembered**2 / faded + 2 * m.old * crossed * share)
    k = np.where((loss > 0) & (gain > 0), gain / loss, np.nan)
    return k, step * (decay * (m.new + remembered * share) - m.old * crossed * step / (denominator * k))


def _of_loss(setting: Setting, memory: Memory, response: Number) -> Number:
    """The coupled decay that takes as much off w as the loss does, whose `radial` is a share of the update."""
    return setting.radial / (memory.total * response + 1e-200)


def _sign_of_both(setting: Setting, square: Number, q: Number, push: Push, memory: Memory) -> Balance:
    """The sign of a gradient that includes the decay: every step has the length lr sqrt(C).

    What runs along w passes as through a linear rule of step lr response; that rule's stationary covariance also says
    how much of c, beside what runs along w, there is: 2 k q (1 - cos)/step^2 is all of E|c|^2.
    """
    law, r0 = setting.law, memory.autocovariance()[0]
    decay, steady, noise, least = push.coupled, (push.coupled * memory.total) ** 2, q * r0, 0.2 * q * r0
    step, k, turning, off, moved = push.lr, noise, noise, noise, None
    for _ in range(8):  # secants: where decay outweighs the gradient, step and noise answer each other for long
        step = push.lr * mean_sign(setting, steady * square, noise) + 1e-200
        decay = push.coupled + _of_loss(setting, memory, step / (push.lr + 1e-200)) + 1e-200
        k, turning = stationary(memory, step, decay)
        before, off = off, np.maximum(q * k * (2 * turning / step**2 - steady), least) - noise
        if not np.any(np.abs(off) > 2e-4 * noise):
            break
        slope = 1.0 if moved is None else np.clip((before - off) / (moved + 1e-300), 0.3, 3.0)
        goal = np.maximum(noise + off / slope, least)
        moved, noise = goal - noise, goal
    delta = _delta(memory, step, decay)
    loss, change = delta * (2 - delta), push.lr**2 * setting.size
    growth = (law.power + 2 * law.tail(memory)) / sum_of_correlations(memory)
    grown = loss * growth * change / (2 * turning)
    return Balance(grown, loss, change + 0.0 * square, 0.0 * delta, delta, at_rest(setting, loss), 0.0 * delta)


def _grown(memory: Memory, step: Number, decay: Number, k: Number) -> tuple[Number, Number]:
    """(what noise adds to W in a step, the share of |u|^2 along w) at rest of a linear rule with coupled decay, W = 1.

    E<w, u> and E<s, u> of the noise u are what past updates left, as `transient` has it, unchanging.
    """
    m, (r0, r1) = memory, memory.autocovariance()
    a11, a12, a21 = 1 - step * m.new * decay, -step * m.old, m.inflow * decay
    pole = 1 - m.decay**2
    left = -step * r1 / k / ((1 - m.decay * a11) * pole - m.decay**2 * a12 * a21)
    xw, xs = left * pole, left * m.decay * a21
    return step**2 * r0 / k - 2 * step * (a11 * xw + a12 * xs), xw**2 * k / r0


def _delta(memory: Memory, step: Number, decay: Number) -> Number:
    """1 - the larger eigenvalue of (w, s) -> ((1 - a) w - b s, f w + decay s): what a coupled decay takes off w."""
    a, b, f = step * memory.new * decay, step * memory.old, memory.inflow * decay
    sides = 1 - memory.decay + a
    area = a * (1 - memory.decay) + b * f
    return 2 * area / (sides + np.sqrt(np.maximum(sides**2 - 4 * area, 0.0)))


def as_push(setting: Setting, lr: Any, weight_decay: Any, lr_max: Any = None) -> Push:
    """What the rule makes of lr and weight decay."""
    shrink = setting.rule.shrink(lr, weight_decay, lr_max)
    return Push(lr, shrink, weight_decay if setting.coupled else 0.0 * shrink)
