"""Many steps at once: the settled law integrated over blocks in which lr, decay and the norm hardly change.

Within a block the law is linear in |w|^p (p = 4 where the gradient goes as 1/|w|, 2 where the length of the update is
its own), and is solved exactly with its coefficients at the middle of the block, which half a block finds. A long
block is as stable as a short one, so the end of a transient costs nothing. The second moment v follows in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from rotational.dynamics.setting import Number, Push, Setting, alike
from rotational.dynamics.settled import Balance, balance, second_at_rest
from rotational.scale import Max, Rms

CHANGE = 0.04
"""What |w|^2, v, lr and weight decay may change by in one block."""


class Slow(NamedTuple):
    """What remembers long, after `t` steps: E|w|^2 (in classes, where there are), v before bias correction, scatter."""

    t: int
    square: Number
    second: Number
    scatter: Number


def law_at(setting: Setting, state: Slow, push: Push, t: Any) -> Balance:
    """The law of step t from this state; several steps where t is an array that broadcasts with the state."""
    scale, second = setting.rule.scale, state.second
    if isinstance(scale, Rms):
        if scale.unbiased:
            second = second / (1 - scale.beta**t)
        if scale.rectified:
            factors = np.array([scale.rectification(int(k)) for k in np.ravel(t)]).reshape(np.shape(t))
            push = push._replace(lr=push.lr * factors)
    q, memory = setting.power(setting.total(state.square)), setting.rule.memory.at(t)
    law = balance(setting, state.square, q, second, push, memory)
    if setting.coupled or memory.decay == 0:
        return law
    # What is remembered is of gradients that were smaller by e^(-k grows), k steps ago, and so were the updates.
    grows = (law.loss - law.gain / state.square) / 2 if setting.scale_invariant else 0.0 * state.square
    divided = _fresh(setting) / 2 * (second_at_rest(setting, state.square, q, 0.0) / state.second - 1)
    if isinstance(scale, Max):
        divided = grows
    forgets = 1 - memory.decay
    if np.max(np.abs(grows) + np.abs(divided)) < 1e-3 * forgets:
        return law
    grows, divided = (np.clip(x, -0.3 * forgets, 0.3 * forgets) for x in (grows, divided))
    if not setting.bounded:
        push = push._replace(rises=push.rises + grows - divided)
    fades = np.exp(divided - grows if isinstance(scale, Rms) and scale.first else -grows)
    return balance(
        setting, state.square, q, second, push, replace(memory, decay=memory.decay * fades, old=memory.old * fades)
    )


def blocks(
    setting: Setting, start: Slow, end: int, push_at: Callable[[int], Push], reach: Callable[[int], int]
) -> Iterator[Slow]:
    """States at the ends of blocks, from `start` to `end` steps.

    `push_at(t)` is what is pushed after t steps; `reach(t)` how far lr and decay hardly change from there.
    """
    state, length = start, 1
    while state.t < end:
        push = push_at(state.t)
        law = law_at(setting, state, push, state.t + 1)
        rate = float(np.max(np.abs(law.gain / state.square - law.loss)))
        fresh = _fresh(setting)
        if fresh:
            q = setting.power(setting.total(state.square))
            rest = second_at_rest(setting, state.square, q, push.coupled)
            rate = max(rate, fresh * float(np.max(np.abs(rest / np.maximum(state.second, 1e-300) - 1))))
        length = max(1, min(2 * length, reach(state.t) - state.t, end - state.t, int(CHANGE / max(rate, 1e-12))))
        # the law at the beginning of the block will do to find its middle
        half = _advance(setting, state, state, push, law, length / 2)
        middle = half._replace(t=state.t + length // 2)
        push = push_at(middle.t)
        law = law_at(setting, middle, push, middle.t + 1)
        state = _advance(setting, state, middle, push, law, length)._replace(t=state.t + length)
        if setting.nodes is not None and len(state.square) > 1 and alike(state.square) and alike(state.second):
            one, second = (setting.total(x)[None] for x in (state.square, state.second))
            state = state._replace(square=one, second=second)
        yield state


def _advance(setting: Setting, state: Slow, middle: Slow, push: Push, law: Balance, length: float) -> Slow:
    """`length` steps from `state`, with the coefficients of `middle`, whose law is `law`."""
    power = 4 if setting.scale_invariant and not setting.bounded else 2
    rate = power / 2 * law.loss * length
    grow = np.where(np.abs(rate) > 1e-12, -np.expm1(-rate) / np.where(rate == 0, 1.0, rate), 1.0)
    level = middle.square ** (power / 2 - 1)
    raised = state.square ** (power / 2) * np.exp(-rate) + power / 2 * level * law.gain * length * grow
    square = raised ** (2 / power)
    second = state.second
    fresh = _fresh(setting)
    if fresh:
        q = setting.power(setting.total(middle.square))
        rest = second_at_rest(setting, middle.square, q, push.coupled)
        kept = np.exp(np.log1p(-fresh) * length)
        if isinstance(setting.rule.scale, Max):
            second = np.maximum(kept**2 * second, rest)
        else:
            second = rest + (second - rest) * kept
    scatter = state.scatter
    if setting.scatters:
        rest = law.scatter.lengths
        scatter = rest + (scatter - rest) * np.exp(-2 * np.maximum(law.loss, law.gain / middle.square) * length)
    return Slow(state.t, square, second, scatter)


def _fresh(setting: Setting) -> float:
    """Share of v that is new in each step; 0 where nothing is divided."""
    scale = setting.rule.scale
    return 1 - scale.beta if isinstance(scale, Rms | Max) else 0.0
