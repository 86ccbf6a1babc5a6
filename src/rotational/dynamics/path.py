"""A whole run: every step of its beginning, blocks of steps of what follows, and what is kept of both."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rotational.dynamics.coarse import CHANGE, Slow, blocks, law_at
from rotational.dynamics.scatter import at_rest, turning
from rotational.dynamics.setting import Push, Setting
from rotational.dynamics.settled import rest, turn
from rotational.dynamics.transient import Transient
from rotational.scale import Max, Rms

Array = np.ndarray
Schedule = float | Array
"""One number, or one for each step."""

SHORT = 6000
"""A run of up to so many steps is followed step by step."""


class Path(NamedTuple):
    """What was kept, an entry for each kept step [T] and neuron [T, G].

    step          steps taken, this one included
    lr, decay     lr and weight decay of the step
    rotation      radians in this step, RMS
    square        E|w|^2 after it
    update        RMS length of the change
    static        rotation at the equilibrium of this lr and weight decay
    settled       E|w|^2 there; infinite without decay
    delta         share of w that decay takes off in this step
    outweighed    whether a coupled decay is larger than the gradient, before this step
    """

    step: Array
    lr: Array
    decay: Array
    rotation: Array
    square: Array
    update: Array
    static: Array
    settled: Array
    delta: Array
    outweighed: Array


class Told:
    """What the optimizer is told at each step: lr (times `scale`, for each neuron) and weight decay."""

    def __init__(self, setting: Setting, lr: Schedule, decay: Schedule, scale: Array, steps: int) -> None:
        self._rule, self._coupled, self.scale = setting.rule, setting.coupled, scale
        self.lr, self.decay, self.steps = lr, decay, steps
        self.top = float(np.max(lr))
        moving = [np.abs(np.diff(np.log(np.maximum(x, 1e-9 * np.max(x) + 1e-300)))) for x in (lr, decay) if np.ndim(x)]
        # how far lr and decay have gone, in relative terms, since the beginning
        self._gone = np.concatenate(([0.0], np.cumsum(sum(moving)))) if moving else None

    def at(self, t: int) -> Push:
        """Of the step after t steps."""
        lr, decay = (float(x[t]) if isinstance(x, np.ndarray) else x for x in (self.lr, self.decay))
        return self.push(lr * self.scale, decay)

    def push(self, lr: Array, decay: float | Array) -> Push:
        """As the rule takes them."""
        shrink = self._rule.shrink(lr, decay, self.top * self.scale if self.top else None)
        return Push(lr, shrink, decay if self._coupled else 0.0)

    def reach(self, t: int) -> int:
        """The step up to which lr and weight decay hardly change from t on, at least one step away."""
        if self._gone is None:
            return self.steps
        return max(t + 1, int(np.searchsorted(self._gone, self._gone[t] + CHANGE, side="right")))

    def kept(self, step: Array) -> tuple[Array, Array]:
        """(lr, weight decay) of kept steps, each [T, 1]."""
        columns = [x[step - 1] if isinstance(x, np.ndarray) else np.full(len(step), x) for x in (self.lr, self.decay)]
        return columns[0][:, None], columns[1][:, None]


def beginning(setting: Setting, told: Told) -> int:
    """How many steps are followed one by one: until the memory and the noise of v are as they stay.

    Where one memory is long enough for decay to take more than a hundredth, also until the norm has settled.
    """
    steps = told.steps
    scale, memory = setting.rule.scale, setting.rule.memory
    if steps <= SHORT or setting.drift:
        return steps
    remembers = 12 / (1 - memory.decay)
    if isinstance(scale, Rms | Max):
        remembers = max(remembers, 3 / (1 - scale.beta))
    lr = told.lr * float(np.max(told.scale))
    if setting.coupled:
        taken = float(np.max(lr * told.decay)) * (memory.new + memory.old * memory.inflow / (1 - memory.decay))
    else:
        taken = float(np.max(setting.rule.shrink(lr, told.decay)))
    if taken > 0.01 * (1 - memory.decay):
        remembers = max(remembers, 4 / taken)
    return int(min(steps, SHORT, 200 + remembers))


def follow(setting: Setting, told: Told, square: Array, every: int) -> Path:
    """The path of neurons that begin at E|w|^2 = `square` [G]; `every`-th steps are kept."""
    step = np.arange(every, told.steps + 1, every)
    if not len(step):
        step = np.array([told.steps])
    lr, decay = told.kept(step)
    shape = (len(step), len(square))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        setting = replace(setting, merged=_gentle(setting, told, square))
        parts = _step_by_step(setting, told, square, step)
        before, after, gain, moved, scatter = (np.broadcast_to(x, shape) for x in parts)
        rotation = turn(before, after, gain, moved) * turning(setting, scatter)
        static, settled, delta = _static(setting, told, lr, decay)
    q = setting.power(before)
    return Path(
        step=step,
        lr=lr * told.scale,
        decay=decay,
        rotation=np.where(moved == 0, 0.0, rotation),
        square=after,
        update=np.sqrt(np.maximum(moved, 0.0)),
        static=np.broadcast_to(static, shape),
        settled=np.broadcast_to(settled, shape),
        delta=np.broadcast_to(delta, shape),
        outweighed=(decay**2 * before > q)
        if setting.coupled and (setting.divides or setting.bounded)
        else np.zeros(shape, bool),
    )


def _gentle(setting: Setting, told: Told, square: Array) -> bool:
    """Whether a coupled decay is so far below the gradient, at the start and at rest, that one class will do."""
    if setting.nodes is None:
        return True
    memory, decay = setting.rule.memory, float(np.max(told.decay))
    heavy = decay**2 * (memory.new + memory.old * memory.inflow / (1 - memory.decay)) ** 2 / memory.autocovariance()[0]
    settled, _ = rest(setting, told.push(told.top * told.scale, decay))
    return bool(max(np.max(heavy * w / setting.power(w)) for w in (square, settled)) < 0.005)


def _step_by_step(setting: Setting, told: Told, square: Array, step: Array) -> list[Array]:
    """(before, after, gain, moved, scatter) of the kept steps."""
    alone = len(square) == 1
    one = setting.of_one() if alone else setting
    neuron = Transient(one, float(square[0]) if alone else square)
    count, keep = beginning(setting, told), set(step.tolist())
    rows: list[tuple[Array, ...]] = []
    for t in range(count):
        push = told.at(t)
        if alone:
            push = Push(float(push.lr[0]), float(np.ravel(push.shrink)[0]), push.coupled)
        taken = neuron.step(push)
        if t + 1 in keep:
            rows.append(tuple(taken))
    found = [np.array([np.broadcast_to(x, square.shape) for x in column]) for column in zip(*rows, strict=True)]
    late = step[step > count]
    if not len(late):
        return found
    setting = replace(setting, merged=neuron.setting.merged)
    square_now, second = (_column(x, setting, alone) for x in (neuron.square, neuron.divisor_second))
    start = Slow(count, square_now, second, np.broadcast_to(neuron.scatter, square.shape) + 0.0)
    then = _in_blocks(setting, told, start, late)
    return [np.concatenate([a, b]) if len(found) else b for a, b in zip(found or then, then, strict=True)]


def _column(x: Array | float, setting: Setting, alone: bool) -> Array:
    """The state of neurons as an array [G], or [classes, G]."""
    columns = setting.size.shape if setting.nodes is None else (len(setting.nodes[0]), *setting.size.shape)
    return np.broadcast_to(np.asarray(x)[..., None] if alone else x, columns) + 0.0


def _in_blocks(setting: Setting, told: Told, start: Slow, step: Array) -> list[Array]:
    """The same of late steps: the state between blocks is interpolated, and each kept step's law read off it."""
    states = [start, *blocks(setting, start, told.steps, told.at, told.reach)]
    times = np.array([state.t for state in states], dtype=np.float64)
    at = np.clip(np.searchsorted(times, step - 1, side="right") - 1, 0, len(times) - 2)
    part = ((step - 1 - times[at]) / (times[at + 1] - times[at]))[:, None]

    def between(values: list[Array]) -> Array:
        stacked = np.array(np.broadcast_arrays(*values))  # [states, (classes,) G]
        if stacked.ndim == 3:
            stacked = np.moveaxis(stacked, 1, 0)
            return stacked[:, at] ** (1 - part) * stacked[:, at + 1] ** part
        return stacked[at] ** (1 - part) * stacked[at + 1] ** part

    square = between([s.square for s in states])
    second = between([s.second for s in states])
    scatter = between([s.scatter + 1e-300 for s in states])
    lr, decay = told.kept(step)
    push = told.push(lr * told.scale, decay)
    law = law_at(setting, Slow(0, square, second, scatter), push, step[:, None])
    before = setting.total(square)
    gain = setting.total(law.gain - law.loss * square)
    return [before, before + gain, gain, setting.total(law.noise + law.pull * square), scatter]


def _static(setting: Setting, told: Told, lr: Array, decay: Array) -> tuple[Array, Array, Array]:
    """(rotation, E|w|^2, share of w taken off) at the equilibrium of each kept step, each [T, G]."""
    pairs, where = np.unique(np.concatenate([lr, decay], axis=1), axis=0, return_inverse=True)
    lr, decay = pairs[:, :1], pairs[:, 1:]
    push = told.push(lr * told.scale, decay)
    square, law = rest(setting, push)
    moved = law.noise + law.pull * square
    rotation = turn(square, square, 0.0 * square, moved) * turning(setting, at_rest(setting, law.delta))
    # a coupled decay of 0 is a tiny one in the law, which divides by it
    forms = np.isfinite(square) & (law.delta > 1e-100) & (lr > 0)
    rotation, square = np.where(forms, rotation, 0.0), np.where(forms, square, np.where(lr > 0, math.inf, np.nan))
    back = np.ravel(where)
    return rotation[back], square[back], np.broadcast_to(law.delta, square.shape)[back]
