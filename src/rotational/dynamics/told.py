"""What an optimizer is told along a run: learning rates and weight decay, and where they go smoothly."""

from __future__ import annotations

import math

import numpy as np

from rotational.dynamics.coarse import CHANGE
from rotational.dynamics.setting import Number, Push, Setting
from rotational.dynamics.settled import as_push

Array = np.ndarray
Schedule = float | Array
"""One number, or one for each step."""

JUMP = 0.03
"""A change of lr or weight decay in one step beyond which that is no smooth schedule."""

AT_ONCE = 4096
"""Steps whose lr of every neuron is computed at once."""


class Told:
    """lr and weight decay of every step, for each neuron.

    lr        a number, [T], or courses [K, T] of which each neuron has a mixture
    scale     [G] or [K, G], not negative: what each neuron's lr has of each course
    decay     a number or [T], times `decays` [G]; a number where there is more than one course
    """

    def __init__(
        self, setting: Setting, lr: Schedule, decay: Schedule, scale: Array, steps: int, decays: Array | None = None
    ) -> None:
        self._setting, self.scale = setting, np.atleast_2d(scale)
        self.decays = np.ones_like(self.scale[0]) if decays is None else decays
        self.lr = np.atleast_2d(lr) if isinstance(lr, np.ndarray) else lr
        self.decay, self.steps = decay, steps
        self.peaks = self._peaks()
        # A mixture changes by no larger a share than that of its courses which changes most.
        moving = [_logs(x) for x in (self.lr, self.decay) if isinstance(x, np.ndarray)]
        # what each step changes, and how far lr and decay have gone since the beginning, in relative terms
        self._change = _changes(moving) if moving else None
        # An lr below a thousandth of the highest moves nothing that a block would have to follow.
        self._gone = (
            np.cumsum(_changes([np.maximum(x, np.max(x, axis=-1, keepdims=True) - math.log(1e3)) for x in moving]))
            if moving
            else None
        )
        self._rises = None
        if isinstance(self.lr, np.ndarray):
            self._rises = np.array([_rises(x, setting.rule.memory.decay) for x in _logs(self.lr)])

    def _peaks(self) -> Array:
        """The highest lr of each neuron."""
        if not isinstance(self.lr, np.ndarray):
            return self.lr * self.scale[0]
        if len(self.lr) == 1:
            return np.max(self.lr) * self.scale[0]
        return np.max([self.lr_at(t) for t in outermost(self.lr)], axis=0)

    @property
    def highest(self) -> int:
        """The step of the highest lr."""
        return int(np.argmax(np.max(self.lr, axis=0))) if isinstance(self.lr, np.ndarray) else 0

    def most(self, weights: Array) -> Schedule:
        """The largest lr of any neuron, each times its weight: at each step, or, beside one decay, in the whole run."""
        return self.most_at_each(weights) if isinstance(self.decay, np.ndarray) else float(np.max(self.peaks * weights))

    def most_at_each(self, weights: Array) -> Schedule:
        """The same at each step, where lr goes with the step."""
        if not isinstance(self.lr, np.ndarray):
            return float(np.max(self.peaks * weights))
        shares = self.scale * weights
        shares = shares[:, outermost(shares)].T
        # a stretch at a time: as many rows as neurons would outgrow what is kept
        return np.concatenate(
            [np.max(shares @ self.lr[:, t : t + AT_ONCE], axis=0) for t in range(0, self.steps, AT_ONCE)]
        )

    def lr_at(self, t: int) -> Array:
        """lr of each neuron after t steps."""
        return self.lr[:, t] @ self.scale if isinstance(self.lr, np.ndarray) else self.lr * self.scale[0]

    def at(self, t: int) -> Push:
        """Of the step after t steps."""
        decay = float(self.decay[t]) if isinstance(self.decay, np.ndarray) else self.decay
        return self.push(self.lr_at(t), decay * self.decays)._replace(rises=self.rises(t))

    def push(self, lr: Array, decay: Array) -> Push:
        """As the rule takes lr and weight decay of each neuron."""
        return as_push(self._setting, lr, decay, np.maximum(self.peaks, 1e-300))

    def rises(self, t: Number) -> Number:
        """By what share lr has grown in a step of late, averaged over a memory; jumps are left out.

        A number or [G] for one step; [T, 1] or [T, G] for many.
        """
        if self._rises is None or not isinstance(self.lr, np.ndarray):
            return 0.0
        rises = self._rises[:, t].T
        if len(self.lr) == 1:
            return rises if np.ndim(t) else rises[0]
        shares = self.lr[:, t].T
        return (shares * rises) @ self.scale / np.maximum(shares @ self.scale, 1e-300)

    def reach(self, t: int) -> int:
        """The step up to which lr and weight decay hardly change from t on, at least one step away."""
        if self._gone is None:
            return self.steps
        return max(t + 1, int(np.searchsorted(self._gone, self._gone[t] + CHANGE, side="right")))

    def change(self, t: int, then: int) -> float:
        """By what share lr and weight decay change from t to a later step, there and back."""
        if self._gone is None:
            return 0.0
        return float(self._gone[min(then, len(self._gone) - 1)] - self._gone[t])

    def jumps(self, after: int) -> list[int]:
        """Steps from `after` on at which lr or weight decay jumps, the largest first."""
        if self._change is None:
            return []
        at = after + np.flatnonzero(self._change[after : self.steps] > JUMP)
        return at[np.argsort(-self._change[at], kind="stable")].tolist()

    def kept(self, step: Array) -> Array:
        """What is told at kept steps, a row for each: lr of each course, and weight decay."""
        columns = [*self.lr] if isinstance(self.lr, np.ndarray) else [self.lr]
        return np.stack(
            [x[step - 1] if isinstance(x, np.ndarray) else np.full(len(step), x) for x in (*columns, self.decay)],
            axis=1,
        )

    def of_each(self, kept: Array) -> tuple[Array, Array]:
        """(lr, weight decay) of each neuron, [T, G], from rows of `kept`."""
        return kept[:, :-1] @ self.scale, kept[:, -1:] * self.decays


def outermost(points: Array) -> list[int]:
    """Those of points [K, N], K one or two, among which is the largest of x @ points for any x that is not negative."""
    first = points[0]
    if len(points) == 1:
        return [int(np.argmax(first))]
    second = points[1]
    order = np.lexsort((-second, -first))
    beyond = np.maximum.accumulate(second[order])
    order = order[np.concatenate(([True], beyond[1:] > beyond[:-1]))]  # no other point is larger both ways
    found: list[int] = []
    for i in order.tolist():  # the upper hull: a point below the line of its neighbours is never the largest
        while len(found) > 1:
            a, b = found[-2:]
            if (first[a] - first[b]) * (second[i] - second[a]) < (first[a] - first[i]) * (second[b] - second[a]):
                break
            found.pop()
        found.append(i)
    return found


def _logs(x: Array) -> Array:
    """The logarithm, of numbers a billionth of the highest at least."""
    return np.log(np.maximum(x, 1e-9 * np.max(x, axis=-1, keepdims=True) + 1e-300))


def _changes(logs: list[Array]) -> Array:
    """What each step changes, in relative terms: of lr the course that changes most, and the decay."""
    moving = [np.max(np.abs(np.diff(np.atleast_2d(x), axis=-1)), axis=0) for x in logs]
    return np.concatenate(([0.0], sum(moving)))


def _rises(log: Array, remembers: float) -> Array:
    """The mean change of log lr over the last 1/(1 - remembers) steps, where it is smooth."""
    change = np.diff(log, prepend=log[:1])
    gone = np.cumsum(np.where(np.abs(change) > JUMP, 0.0, change))
    span = int(1 / (1 - remembers) + 0.5)
    before = np.concatenate((np.full(min(span, len(log)), gone[0]), gone[:-span]))[: len(log)]
    # where lr moves by more than a memory can follow the law is not that of blocks
    return np.clip((gone - before) / span, -0.3 * (1 - remembers), 0.3 * (1 - remembers))
