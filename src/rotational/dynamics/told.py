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


class Told:
    """lr (times `scale`, for each neuron) and weight decay (times `decays`, for each neuron) of every step."""

    def __init__(
        self, setting: Setting, lr: Schedule, decay: Schedule, scale: Array, steps: int, decays: Array | None = None
    ) -> None:
        self._setting, self.scale = setting, scale
        self.decays = np.ones_like(scale) if decays is None else decays
        self.lr, self.decay, self.steps = lr, decay, steps
        self.top = float(np.max(lr))
        logs = [np.log(np.maximum(x, 1e-9 * np.max(x) + 1e-300)) for x in (lr, decay) if np.ndim(x)]
        moving = [np.abs(np.diff(x)) for x in logs]
        # what each step changes, and how far lr and decay have gone since the beginning, in relative terms
        self._change = np.concatenate(([0.0], sum(moving))) if moving else None
        # An lr below a thousandth of the highest moves nothing that a block would have to follow.
        logs = [np.maximum(x, np.max(x) - math.log(1e3)) for x in logs]
        self._gone = np.cumsum(np.concatenate(([0.0], sum(np.abs(np.diff(x)) for x in logs)))) if moving else None
        self._rises = (
            _rises(np.log(np.maximum(lr, 1e-9 * np.max(lr) + 1e-300)), setting.rule.memory.decay)
            if np.ndim(lr)
            else None
        )

    def at(self, t: int) -> Push:
        """Of the step after t steps."""
        lr, decay = (float(x[t]) if isinstance(x, np.ndarray) else x for x in (self.lr, self.decay))
        return self.push(lr * self.scale, decay * self.decays)._replace(rises=self.rises(t))

    def push(self, lr: Array, decay: Array) -> Push:
        """As the rule takes lr and weight decay of each neuron."""
        return as_push(self._setting, lr, decay, self.top * self.scale if self.top else None)

    def rises(self, t: Number) -> Number:
        """By what share lr has grown in a step of late, averaged over a memory; jumps are left out."""
        return 0.0 if self._rises is None else self._rises[t]

    def reach(self, t: int) -> int:
        """The step up to which lr and weight decay hardly change from t on, at least one step away."""
        if self._gone is None:
            return self.steps
        return max(t + 1, int(np.searchsorted(self._gone, self._gone[t] + CHANGE, side="right")))

    def jumps(self, after: int) -> list[int]:
        """Steps from `after` on at which lr or weight decay jumps, the largest first."""
        if self._change is None:
            return []
        at = after + np.flatnonzero(self._change[after : self.steps] > JUMP)
        return at[np.argsort(-self._change[at], kind="stable")].tolist()

    def kept(self, step: Array) -> tuple[Array, Array]:
        """(lr, weight decay) of kept steps, each [T, 1], to be multiplied by `scale` and `decays`."""
        columns = [x[step - 1] if isinstance(x, np.ndarray) else np.full(len(step), x) for x in (self.lr, self.decay)]
        return columns[0][:, None], columns[1][:, None]


def _rises(log: Array, remembers: float) -> Array:
    """The mean change of log lr over the last 1/(1 - remembers) steps, where it is smooth."""
    change = np.diff(log, prepend=log[:1])
    gone = np.cumsum(np.where(np.abs(change) > JUMP, 0.0, change))
    span = int(1 / (1 - remembers) + 0.5)
    before = np.concatenate((np.full(min(span, len(log)), gone[0]), gone[:-span]))[: len(log)]
    # where lr moves by more than a memory can follow the law is not that of blocks
    return np.clip((gone - before) / span, -0.3 * (1 - remembers), 0.3 * (1 - remembers))
