"""Learning rates of many param groups, read off a few of them.

torch's own schedulers compute the rate of a group from the numbers that they keep of that group (its first rate, its
present one, its highest, ...) by the same sum for all groups: a_t lr + b_t initial_lr + ..., and c_t where there is an
`eta_min`. Groups whose numbers are a mixture of those of two others therefore have that mixture of their rates at every
step, and multiples of one group are multiples of it. All groups are read in a few steps of every stretch, and have to
agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, NamedTuple

import numpy as np

from rotational import schedulers

EXACT, AGREE = 1e-13, 1e-9
"""How close numbers must be to a mixture, and rates to that of others, beside the largest."""

SAMPLE = 4
"""Steps of a stretch in which all groups are read."""


class Mixture(NamedTuple):
    """The rates of a group: `factor` times `course` [T], or the mixture `factor` [K] of the courses [K, T].

    Groups that are read off the same others share one array.
    """

    course: np.ndarray
    factor: float | np.ndarray


def mixtures(scheduler: Any, steps: int, *, call: str) -> list[Mixture] | None:
    """What a scheduler of torch is going to set in each group, to within 1e-9 of the highest rate.

    None where that takes as many groups as there are, for a scheduler that torch did not write, or where a group turns
    out to go another way: then `schedulers.stretches` reads all. Raises what that raises.

    >>> import torch
    >>> opt = torch.optim.SGD([{"params": [torch.ones(1)], "lr": 0.1 * (1 + i)} for i in range(9)])
    >>> found = mixtures(torch.optim.lr_scheduler.ExponentialLR(opt, 0.5), 3, call="predict")
    >>> (found[2].factor * found[2].course).round(6)
    array([0.3  , 0.15 , 0.075])
    """
    stand_in = schedulers.copied(scheduler, call)
    families = _families(stand_in)
    if families is None:
        return None
    kept = sorted(i for family in families for i in family.corners)
    if len(kept) == len(stand_in.optimizer.param_groups):
        return None
    everyone, where = schedulers.copied(scheduler, call), f"{call}({type(scheduler).__name__})"
    schedulers.keep(stand_in, kept)
    parts: list[list[np.ndarray]] = []
    reading = schedulers.reading(stand_in, steps, where, kept)
    sample = _sample(everyone, min(SAMPLE, steps), where)
    while part := next(reading, None):
        read = dict(zip(kept, part, strict=True))
        for family in families:
            course = np.array([read[i][: len(sample[0])] for i in family.corners])
            apart = family.shares @ course - [sample[i] for i in family.members]
            if np.max(np.abs(apart)) > AGREE * max(np.max(read[i]) for i in family.corners):
                return None
        parts.append(part)
        left = steps - sum(len(part[0]) for part in parts)
        if left:
            schedulers.put(everyone, stand_in, _mixed(families, {i: x[-1] for i, x in read.items()}))
            sample = [x[1:] for x in _sample(everyone, min(SAMPLE, left) + 1, where)]
    courses = {i: np.concatenate([part[k] for part in parts]) for k, i in enumerate(kept)}
    found: dict[int, Mixture] = {}
    for family in families:
        course = np.array([courses[i] for i in family.corners])
        course = course[0] if len(course) == 1 else course
        for i, share in zip(family.members, family.shares, strict=True):
            found[i] = Mixture(course, float(share[0]) if len(share) == 1 else share)
    return [found[i] for i in range(len(found))]


def of_lambdas(scheduler: Any, steps: int) -> list[Mixture] | None:
    """Of torch's own LambdaLR each group's mixture: each function is called once a step, whatever the groups.

    torch sets base_lr * f(step), which a course of f and a factor of base_lr are to the last bit. None where that is
    not all there is to it, or a number is one that the long way refuses, and then says why.
    """
    kind = type(scheduler)
    if (kind.__module__, kind.__name__) != ("torch.optim.lr_scheduler", "LambdaLR"):
        return None
    groups, start = scheduler.optimizer.param_groups, scheduler.last_epoch
    pairs = list(zip(scheduler.lr_lambdas, scheduler.base_lrs, strict=True))
    plain = (FunctionType, BuiltinFunctionType, MethodType, partial)
    if len(pairs) != len(groups) or not all(
        isinstance(f, plain) and type(base) is float and type(group["lr"]) is float and 0 < base < math.inf
        for (f, base), group in zip(pairs, groups, strict=True)
    ):
        return None
    courses: dict[int, np.ndarray] = {}
    for f, _ in pairs:
        if id(f) in courses:
            continue
        try:
            factors = [f(t) for t in range(start, start + steps)]
        except Exception:
            return None  # the long way names the step
        if not set(map(type, factors)) <= {float, int, np.float64}:
            return None
        x = np.array(factors, dtype=np.float64)
        if not np.all(np.isfinite(x) & (x >= 0)):
            return None
        courses[id(f)] = x
    whole = [Mixture(courses[id(f)], base) for f, base in pairs]
    # A rate that was set by hand stands until the scheduler's next step.
    now = all(float(x[0]) * base == group["lr"] for (x, base), group in zip(whole, groups, strict=True))
    return list(whole) if now else None


BLOCK = 1024
"""Steps whose highest rates bound those of their mixtures."""


def peaks(rates: Sequence[tuple[float | np.ndarray, float | np.ndarray]]) -> list[tuple[int, float]]:
    """(step, rate) of each group's highest rate, the first of several; groups are (course, factor), as in `Mixture`.

    A mixture is looked for in those blocks of steps alone where the highest rates of its courses, mixed, reach that
    of the step at which one of them is highest.

    >>> course = np.array([[0.0, 2.0, 1.0], [1.0, 1.0, 1.0]])
    >>> peaks([(course, np.array([2.0, 0.5])), (course[0], 3.0), (0.1, 1.0)])
    [(1, 4.5), (1, 6.0), (0, 0.1)]
    """
    tops, blocks = dict[int, tuple[int, float]](), dict[int, tuple[np.ndarray, np.ndarray]]()
    found: list[tuple[int, float]] = []
    for course, factor in rates:
        x, key = np.atleast_1d(course), id(course)
        if x.ndim == 1:
            if key not in tops:
                at = int(np.argmax(x))
                tops[key] = at, float(x[at])
            at, top = tops[key]
            found.append((at, top * float(factor)))
            continue
        if key not in blocks:
            starts = np.arange(0, x.shape[1], BLOCK)
            blocks[key] = x[:, np.argmax(x, axis=1)], np.maximum.reduceat(x, starts, axis=1)
        ends, highest = blocks[key]
        known = float(np.max(factor @ ends))
        near = np.flatnonzero(factor @ highest >= known * (1 - EXACT))
        steps = np.concatenate([np.arange(b * BLOCK, min((b + 1) * BLOCK, x.shape[1])) for b in near])
        mixed = factor @ x[:, steps]
        at = int(np.argmax(mixed))
        found.append((int(steps[at]), float(mixed[at])))
    return found


def _sample(scheduler: Any, steps: int, where: str) -> list[np.ndarray]:
    """The rates of all groups, the present ones first."""
    return next(schedulers.reading(scheduler, steps, where, list(range(len(scheduler.optimizer.param_groups)))))


def _mixed(families: list[_Family], rates: dict[int, float]) -> list[float]:
    """The rate of every group, from those of the corners."""
    found: dict[int, float] = {}
    for family in families:
        mixed = family.shares @ [rates[i] for i in family.corners]
        found |= dict(zip(family.members, mixed.tolist(), strict=True))
    return [found[i] for i in range(len(found))]


class _Family(NamedTuple):
    """Groups whose rates are mixtures of those at the corners; `shares` [member, corner]."""

    members: list[int]
    corners: list[int]
    shares: np.ndarray


def _families(scheduler: Any) -> list[_Family] | None:
    """Groups that share all that is no number, such as the function of a LambdaLR; None if any cannot be mixed."""
    marks = schedulers.marked(scheduler)
    if marks is None:
        return None
    members, rows = dict[Any, list[int]](), list[list[float]]()
    beside = any(getattr(part, "eta_min", 0) for part in schedulers.tree(scheduler))
    for i, mark in enumerate(marks):
        plain = [isinstance(x, tuple) and x[0] in (float, int) for x in mark]
        if any(isinstance(x, tuple) and isinstance(x[0], str) for x in mark):
            return None  # a tensor, whose rounding is its own
        rows.append([float(x[1]) for x, is_plain in zip(mark, plain, strict=True) if is_plain] + [1.0] * beside)
        key = tuple(None if is_plain else x for x, is_plain in zip(mark, plain, strict=True))
        members.setdefault(key, []).append(i)
    families = [_family(those, np.array([rows[i] for i in those])) for those in members.values()]
    found = [family for family in families if family is not None]
    return found if len(found) == len(families) else None


def _family(members: list[int], rows: np.ndarray) -> _Family | None:
    """Rows of numbers as mixtures of one or two of them; None where it takes more."""
    rows = rows / np.maximum(np.max(np.abs(rows), axis=0), 1e-300)
    left, sizes, _ = np.linalg.svd(rows, full_matrices=False)
    if len(sizes) > 2 and sizes[2] > EXACT * sizes[0]:
        return None
    at = left * sizes
    if len(sizes) < 2 or sizes[1] <= EXACT * sizes[0]:
        corners = [int(np.argmax(np.abs(at[:, 0])))]
        shares = at[:, :1] / at[corners[0], 0]
    else:
        # all lie in a plane, on one side of it: between the two that are farthest apart as seen from 0
        angle = np.arctan2(at[:, 1], at[:, 0] * np.sign(at[:, 0].sum()))
        corners = [int(np.argmin(angle)), int(np.argmax(angle))]
        shares = np.linalg.solve(at[corners, :2].T, at[:, :2].T).T
    shares = np.where(np.abs(shares) < EXACT, 0.0, shares)
    if np.any(shares < 0) or np.max(np.abs(shares @ rows[corners] - rows)) > 10 * EXACT:
        return None
    return _Family(members, [members[i] for i in corners], shares)
