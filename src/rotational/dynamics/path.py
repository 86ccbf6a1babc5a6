"""A whole run: every step of its beginning, blocks of steps of what follows, and what is kept of both."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rotational.dynamics.coarse import Slow, blocks, entered, law_at
from rotational.dynamics.scatter import turned, turning
from rotational.dynamics.setting import Push, Setting
from rotational.dynamics.settled import Balance, rest, turn
from rotational.dynamics.told import Told
from rotational.dynamics.transient import Transient, resumed
from rotational.scale import Max, Rms

Array = np.ndarray

SHORT = 6000
"""A run of up to so many steps is followed step by step."""


AT_ONCE = 20_000
"""Numbers that a law is read off for at once: few enough for what lies between to stay in the cache."""


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


def beginning(setting: Setting, told: Told) -> int:
    """How many steps are followed one by one: until the memory and the noise of v are as they stay."""
    steps, scale = told.steps, setting.rule.scale
    if steps <= SHORT or setting.drift:
        return steps
    fills = 12 / (1 - setting.rule.memory.decay)
    if isinstance(scale, Rms | Max):
        fills = max(fills, 3 / (1 - scale.beta))
    return int(min(steps, SHORT, 200 + max(fills, settles(setting, told))))


def settles(setting: Setting, told: Told) -> float:
    """Steps in which the norm settles, where decay takes more than a hundredth within one memory; else 0.

    Memory and norm then move together, which no block follows.
    """
    lr, decay = told.most(np.ones_like(told.decays)), told.decay * float(np.max(told.decays))
    memory = setting.rule.memory
    taken = (
        float(np.max(lr * decay)) * memory.total if setting.coupled else float(np.max(setting.rule.shrink(lr, decay)))
    )
    return 4 / taken if taken > 0.01 * (1 - memory.decay) else 0.0


def stretches(setting: Setting, told: Told) -> list[tuple[int, int]]:
    """The steps that are followed one by one, [from, to): the beginning, and what follows jumps of lr or decay.

    Within a memory of a jump a step meets updates of another size in the weights, which blocks do not know. The largest
    jumps go first; a run of many is followed for `SHORT` such steps in all. Where the norm settles slowly beside so
    strong a decay, they share these steps.
    """
    begun = beginning(setting, told)
    jumps = told.jumps(begun) if setting.rule.memory.decay > 0 else []
    share = SHORT / max(len(jumps), 1)
    follows = math.ceil(max(6 / (1 - setting.rule.memory.decay), min(settles(setting, told), share)))
    alone, left = np.zeros(told.steps + 1, dtype=bool), SHORT
    alone[:begun] = True
    for t in jumps:
        left -= follows - int(np.count_nonzero(alone[t : t + follows]))
        if left < 0:
            break
        alone[t : min(t + follows, told.steps)] = True
    edges = np.flatnonzero(np.diff(alone, prepend=False))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def follow(setting: Setting, told: Told, square: Array, every: int) -> Path:
    """The path of neurons that begin at E|w|^2 = `square` [G]; `every`-th steps are kept."""
    step = np.arange(every, told.steps + 1, every)
    if not len(step):
        step = np.array([told.steps])
    kept = told.kept(step)
    shape = (len(step), len(square))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        setting = replace(setting, merged=_gentle(setting, told, square))
        parts = _walked(setting, told, square, step)
        before, after, gain, moved, scatter = (np.broadcast_to(x, shape) for x in parts)
        rotation = turn(before, after, gain, moved) * turning(setting, scatter)
        static, settled, delta = _static(setting, told, kept)
        q = setting.power(before)
    lr, decay = told.of_each(kept)
    return Path(
        step=step,
        lr=lr,
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
    memory, decay = setting.rule.memory, np.max(told.decay) * told.decays
    heavy = decay**2 * memory.total**2 / memory.autocovariance()[0]
    settled, _ = rest(setting, told.push(told.peaks, decay))
    return bool(max(np.max(heavy * w / setting.power(w)) for w in (square, settled)) < 0.005)


def _walked(setting: Setting, told: Told, square: Array, step: Array) -> list[Array]:
    """(before, after, gain, moved, scatter) of the kept steps."""
    one_by_one, parts = stretches(setting, told), list[list[Array]]()
    state = Slow(0, square, square, square)
    for (start, stop), then in zip(one_by_one, [*(a for a, _ in one_by_one[1:]), told.steps], strict=True):
        merged, state, rows = _singly(setting, told, state, start, stop, step)
        setting = replace(setting, merged=merged)
        parts.append(rows)
        late = step[(step > stop) & (step <= then)]
        if len(late) or then < told.steps:
            state = entered(setting, state, told.at(state.t))
            states = [state, *blocks(setting, state, then, told.at, told.reach, told.change)]
            state = states[-1]
            parts.append(_in_blocks(setting, told, states, late))
    parts = [part for part in parts if len(part)]
    return [np.concatenate(columns) for columns in zip(*parts, strict=True)]


def _singly(
    setting: Setting, told: Told, state: Slow, start: int, stop: int, step: Array
) -> tuple[bool, Slow, list[Array]]:
    """Steps from `start` to `stop` one by one: whether classes have become one, the state then, and what is kept."""
    count = len(setting.size)
    one = setting.of_one() if count == 1 else setting

    def told_at(t: int) -> Push:
        push = told.at(t)
        return Push(*(float(np.ravel(x)[0]) for x in push)) if count == 1 else push

    if count == 1:
        state = state._replace(**{k: _alone(getattr(state, k)) for k in ("square", "second", "scatter")})
    neuron = Transient(one, state.square) if start == 0 else resumed(one, state, told_at(start - 1))
    keep = set(step[(step > start) & (step <= stop)].tolist())
    rows: list[tuple[Array | float, ...]] = []
    for t in range(start, stop):
        try:
            taken = tuple(neuron.step(told_at(t)))
        except (ZeroDivisionError, OverflowError):  # what arrays say in a number that is none
            lost = len([at for at in keep if at > t])
            rows += [(math.nan,) * 5] * lost
            neuron.square = math.nan
            break
        if t + 1 in keep:
            rows.append(taken)
    found = [np.empty((len(rows), count)) for _ in rows[0]] if rows else []
    for i, row in enumerate(rows):
        for column, x in zip(found, row, strict=True):
            column[i] = x
    setting = replace(setting, merged=neuron.setting.merged)
    square, second = (_column(x, setting, count == 1) for x in (neuron.square, neuron.divisor_second))
    scatter = np.broadcast_to(neuron.scatter, (count,)) + 0.0
    return neuron.setting.merged, Slow(stop, square, second, scatter), found


def _alone(x: Array) -> Array | float:
    """The state [1] or [classes, 1] of one neuron without the last axis."""
    return float(x[0]) if np.ndim(x) == 1 else x[..., 0]


def _column(x: Array | float, setting: Setting, alone: bool) -> Array:
    """The state of neurons as an array [G], or [classes, G]."""
    columns = setting.size.shape if setting.nodes is None else (len(setting.nodes[0]), *setting.size.shape)
    return np.broadcast_to(np.asarray(x)[..., None] if alone else x, columns) + 0.0


def _in_blocks(setting: Setting, told: Told, states: list[Slow], step: Array) -> list[Array]:
    """The same of steps in blocks: the state between blocks is interpolated, and each kept step's law read off it."""
    if not len(step):
        return []
    times = np.array([state.t for state in states], dtype=np.float64)
    columns = [
        np.array(np.broadcast_arrays(*values))  # [states, (classes,) G]
        for values in zip(*((s.square, s.second, s.scatter + 1e-300) for s in states), strict=True)
    ]
    parts = [_between(setting, told, times, columns, piece) for piece in _pieces(step, columns[0][0].size)]
    return [np.concatenate(x) for x in zip(*parts, strict=True)]


def _pieces(rows: Array, width: int) -> list[Array]:
    """Rows of so many numbers, as many at a time as fit."""
    return np.array_split(rows, math.ceil(len(rows) * width / AT_ONCE))


def _between(setting: Setting, told: Told, times: Array, columns: list[Array], step: Array) -> list[Array]:
    """What is kept of these steps, from the states at `times`."""
    at = np.clip(np.searchsorted(times, step - 1, side="right") - 1, 0, len(times) - 2)
    part = ((step - 1 - times[at]) / (times[at + 1] - times[at]))[:, None]

    def between(stacked: Array) -> Array:
        if stacked.ndim == 3:
            stacked = np.moveaxis(stacked, 1, 0)
            return stacked[:, at] ** (1 - part) * stacked[:, at + 1] ** part
        return stacked[at] ** (1 - part) * stacked[at + 1] ** part

    square, second, scatter = map(between, columns)
    push = told.push(*told.of_each(told.kept(step)))._replace(rises=told.rises(step - 1))
    law = law_at(setting, Slow(0, square, second, scatter), push, step[:, None])
    before = setting.total(square)
    gain = setting.total(law.gain - law.loss * square)
    return [before, before + gain, gain, setting.total(law.noise + law.pull * square), _turned(setting, law, scatter)]


def _turned(setting: Setting, law: Balance, lengths: Array) -> Array:
    """What scatter adds to the angle, where lengths scatter by this much for now."""
    if not setting.scatters:
        return lengths
    share = lengths / (law.scatter.lengths + 1e-300)
    return turned(setting, law.scatter._replace(lengths=lengths, crossed=law.scatter.crossed * share), law.radial)


def _static(setting: Setting, told: Told, kept: Array) -> tuple[Array, Array, Array]:
    """(rotation, E|w|^2, share of w taken off) at the equilibrium of each kept step, each [T, G]."""
    kept, where = np.unique(kept, axis=0, return_inverse=True)
    parts = [_resting(setting, told, piece) for piece in _pieces(kept, len(told.decays))]
    rotation, square, delta = (np.concatenate(x)[np.ravel(where)] for x in zip(*parts, strict=True))
    return rotation, square, delta


def _resting(setting: Setting, told: Told, kept: Array) -> tuple[Array, Array, Array]:
    """The same where these are told, each row once."""
    lr, decay = told.of_each(kept)
    square, law = rest(setting, told.push(lr, decay))
    moved = law.noise + law.pull * square
    rotation = turn(square, square, 0.0 * square, moved) * turning(setting, turned(setting, law.scatter, law.radial))
    # a coupled decay of 0 is a tiny one in the law, which divides by it
    forms = np.isfinite(square) & (law.delta > 1e-100) & (lr > 0)
    rotation, square = np.where(forms, rotation, 0.0), np.where(forms, square, np.where(lr > 0, math.inf, np.nan))
    return rotation, square, np.broadcast_to(law.delta, square.shape)
