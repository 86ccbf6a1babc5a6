"""Many steps at once: the settled law integrated over blocks in which lr, decay and the norm hardly change.

Within a block the law is linear in |w|^p (p = 4 where the gradient goes as 1/|w|, 2 where the length of the update is
its own, 3 where that takes in the decay): it relaxes to a rest, which moves as lr and decay do. It is solved exactly
with its coefficients at the middle of the block, which half a block finds, and a rest that moves evenly, as it did up
to there. A long block is as stable as a short one, so the end of a transient costs nothing. The second moment v
follows in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from rotational.dynamics.setting import Number, Push, Setting, alike
from rotational.dynamics.settled import Balance, balance, second_at_rest
from rotational.memory import Memory
from rotational.scale import Max, Rms

CHANGE = 0.04
"""What |w|^2, v, lr and weight decay may change by in one block."""

NEAR = 0.01
"""How far |w|^2 may be from where it would rest without being on its way there."""


class Slow(NamedTuple):
    """What remembers long, after `t` steps: E|w|^2 (in classes, where there are), v before bias correction, scatter."""

    t: int
    square: Number
    second: Number
    scatter: Number


def entered(setting: Setting, state: Slow, push: Push) -> Slow:
    """What single steps end with, as blocks go on from it.

    That gradients which grow have left Adamax's maximum behind is in the law of blocks (`law_at`), and not in v again.
    """
    if not isinstance(setting.rule.scale, Max):
        return state
    return state._replace(second=np.maximum(state.second, _rest(setting, state.square, push)))


def law_at(setting: Setting, state: Slow, push: Push, t: Any) -> Balance:
    """The law of step t from this state; several steps where t is an array that broadcasts with the state."""
    scale, second = setting.rule.scale, state.second
    if isinstance(scale, Rms):
        if scale.unbiased:
            second = second / (1 - scale.beta**t)
        if scale.rectified:
            factors = np.array([scale.rectification(int(k)) for k in np.ravel(t)]).reshape(np.shape(t))
            push = push._replace(lr=push.lr * factors)
    q, memory = setting.power_of(state.square, setting.total(state.square)), setting.rule.memory.at(t)
    law = balance(setting, state.square, q, second, push, memory)
    if memory.decay == 0:
        return law
    # What is remembered is of gradients that were smaller by e^(-k grows), k steps ago, and so were the updates.
    grows, divided = _lags(setting, state.square, q, state.second, push, law)
    forgets = 1 - memory.decay
    if setting.coupled:  # where memory and norm move together, one does not say how the other goes
        light = np.maximum(0.0, 1 - 2 * setting.total(law.delta + 0.0 * state.square) / forgets)
        grows, divided = grows * light, divided * light
    # Each neuron for itself: a forecast does not depend on those beside it.
    lags = np.abs(grows) + np.abs(divided) >= 1e-3 * forgets
    if not np.any(lags):
        return _late(setting, law, memory, memory, push.rises) if setting.coupled else law
    grows, divided = (np.where(lags, np.clip(x, -0.3 * forgets, 0.3 * forgets), 0.0) for x in (grows, divided))
    if isinstance(scale, Max) and 0 < scale.beta < 1:
        # gradients that grow leave the maximum behind, as one that fades faster would be
        fades = grows / -math.log(scale.beta)
        second = second * (1 + np.clip(fades, -0.5, 1.0)) ** -setting.fades_faster
    rises = push.rises if setting.bounded else push.rises + grows - divided
    fades = np.exp(divided - grows if isinstance(scale, Rms) and scale.first else -grows)
    before = replace(memory, decay=memory.decay * fades, old=memory.old * fades)
    if setting.coupled:
        return _late(setting, law, memory, before, rises)
    return balance(setting, state.square, q, second, push._replace(rises=rises), before)


def _lags(
    setting: Setting, square: Number, q: Number, second: Number, push: Push, law: Balance
) -> tuple[Number, Number]:
    """By what share the size of gradients grows in a step, and what they are divided by."""
    total = setting.total(square)
    grows = setting.total(law.loss * square - law.gain) / total / 2 if setting.scale_invariant else 0.0 * total
    if isinstance(setting.rule.scale, Max):
        return grows, grows
    rest = second_at_rest(setting, square, q, push) + 0.0 * square
    return grows, _fresh(setting) / 2 * (setting.total(rest) / setting.total(second) - 1)


def _late(setting: Setting, law: Balance, memory: Memory, before: Memory, rises: Number) -> Balance:
    """The law of a coupled decay where past updates were smaller by e^(-k rises), of gradients as in the memory
    `before`: what it says of an lr that stays, in the proportion in which they add to E|w|^2.

    That the decay in the memory is of weights as they were is in the law already.
    """

    def grown(memory: Memory, rises: Number) -> Number:
        later = np.exp(-rises)
        return setting.law.power + 2 * later * setting.law.tail(memory, later)

    power = 1.0 if setting.bounded else before.autocovariance()[0] / memory.autocovariance()[0]
    part = power * grown(before, rises) / grown(memory, 0.0)
    pulled = law.gain * law.pull / (law.loss + 1e-300)  # what `pull` makes of E|w|^2 at rest
    return law._replace(gain=law.gain * part, noise=law.noise * power + pulled * (power - part))


def blocks(
    setting: Setting,
    start: Slow,
    end: int,
    push_at: Callable[[int], Push],
    reach: Callable[[int], int],
    change: Callable[[int, int], float],
) -> Iterator[Slow]:
    """States at the ends of blocks, from `start` to `end` steps.

    `push_at(t)` is what is pushed after t steps; `reach(t)` how far lr and decay hardly change from there, and
    `change(t, then)` by what share they do.
    """
    state, length, last = start, 1, None
    while state.t < end:
        push = push_at(state.t)
        law, rest = law_at(setting, state, push, state.t + 1), _rest(setting, state.square, push)
        apart = np.abs(law.gain / state.square - law.loss)
        rate = float(np.max(np.where(apart > NEAR * law.loss, apart, 0.0)))
        if fresh := _fresh(setting):
            rate = max(rate, fresh * float(np.max(np.abs(rest / np.maximum(state.second, 1e-300) - 1))))
        length = max(1, min(2 * length, reach(state.t) - state.t, end - state.t, int(CHANGE / max(rate, 1e-12))))
        # the law at the beginning of the block, and how its rest has moved of late, will do to find the middle
        level = _level(setting, law, state.square)
        # In a block that is long beside the time to rest, a rest that moved with |w|^2 comes to stand, a told one not.
        most = 2 * change(state.t, state.t + length) + 2 * CHANGE * np.exp(-_power(setting) / 2 * law.loss * length)
        moves = 0.0 if last is None or len(last[1]) != len(level) else (level - last[1]) / (state.t - last[0]) * length
        square, scatter = _advance(setting, state, state.square, law, length / 2, np.clip(moves, -most, most) / 2, 0.0)
        middle = state._replace(t=state.t + length // 2, square=square, scatter=scatter)
        push = push_at(middle.t)
        moved = _rest(setting, square, push) - rest
        middle = middle._replace(second=_second(setting, state.second, rest, moved, length / 2))
        law = law_at(setting, middle, push, middle.t + 1)
        last = middle.t, _level(setting, law, square)
        moves = np.clip(2 * (last[1] - level), -most, most)
        square, scatter = _advance(setting, state, square, law, length, moves, 0.5)
        moved = _rest(setting, square, push) - rest
        state = Slow(state.t + length, square, _second(setting, state.second, rest, moved, length), scatter)
        if setting.nodes is not None and len(state.square) > 1 and alike(state.square) and alike(state.second):
            one, second = (setting.total(x)[None] for x in (state.square, state.second))
            state = state._replace(square=one, second=second)
        yield state


def _level(setting: Setting, law: Balance, square: Number) -> Number:
    """log |w|^p where the law would rest; 0 where it would not."""
    rests = (law.gain > 0) & (law.loss > 0)
    level = np.log(np.where(rests, law.gain, 1.0) / np.where(rests, law.loss, 1.0))
    return np.where(rests, level + (_power(setting) / 2 - 1) * np.log(square), 0.0)


def _power(setting: Setting) -> int:
    """The p for which |w|^p is linear while v stays: with another, long blocks leap to and fro about the rest."""
    if not setting.scale_invariant:
        return 2
    if setting.bounded:
        return 3 if setting.coupled else 2  # the decay in a sign is as strong as the gradient is weak
    return 4


def _advance(
    setting: Setting, state: Slow, square: Number, law: Balance, length: float, moves: Number, at: float
) -> tuple[Number, Number]:
    """(E|w|^2, scatter) after `length` steps from `state`.

    `law` is that of E|w|^2 = `square`, at part `at` of the steps; its rest moves by the share `moves` in all of them.
    """
    power = _power(setting)
    rate = power / 2 * law.loss * length
    fading = _mean_fading(rate)
    gain = law.gain * (fading + moves * (_ramp(rate) - at * fading))
    raised = state.square ** (power / 2) * np.exp(-rate) + power / 2 * square ** (power / 2 - 1) * gain * length
    scatter = state.scatter
    if setting.scatters:
        rest = law.scatter.lengths
        changed = np.maximum(law.loss, law.gain / square)
        if setting.nodes is not None:
            changed = np.maximum(setting.total(law.loss * square), setting.total(law.gain)) / setting.total(square)
        scatter = rest + (scatter - rest) * np.exp(-2 * changed * length)
    return raised ** (2 / power), scatter


def _second(setting: Setting, second: Number, rest: Number, moved: Number, length: float) -> Number:
    """v after `length` steps in which its rest moves evenly from `rest` by `moved`."""
    fresh = _fresh(setting)
    if not fresh:
        return second
    moved = np.clip(moved, -2 * CHANGE * rest, 2 * CHANGE * rest)
    kept = np.exp(np.log1p(-fresh) * length)
    if isinstance(setting.rule.scale, Max):
        return np.maximum(kept**2 * second, rest + moved / 2)  # the largest of late, which it still remembers
    return rest + (second - rest) * kept + moved * fresh * length * _ramp(fresh * length)


def _rest(setting: Setting, square: Number, push: Push) -> Number:
    """Where v would rest, at this E|w|^2."""
    return second_at_rest(setting, square, setting.power_of(square, setting.total(square)), push)


def _mean_fading(rate: Number) -> Number:
    """The mean of e^(-rate (1 - tau)) over a block, tau from 0 to 1."""
    x = np.where(np.abs(rate) > 1e-12, rate, 1.0)
    return np.where(np.abs(rate) > 1e-12, -np.expm1(-x) / x, 1.0)


def _ramp(rate: Number) -> Number:
    """The mean of tau e^(-rate (1 - tau)) over a block: what a rest that moves evenly counts for at its end."""
    x = np.where(np.abs(rate) > 1e-3, rate, 1.0)
    return np.where(np.abs(rate) > 1e-3, (1 - _mean_fading(x)) / x, 0.5 - rate / 6)


def _fresh(setting: Setting) -> float:
    """Share of v that is new in each step; 0 where nothing is divided."""
    scale = setting.rule.scale
    return 1 - scale.beta if isinstance(scale, Rms | Max) else 0.0
