"""What an optimizer holds, as it was in the step before: parameters, gradients and state are looked at all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
from torch import Tensor

from rotational.kernels.look import HOW, Given, Gradients, Known, ask, look
from rotational.kernels.work import identical


class Seen:
    """Parameters and state of an optimizer as they were in the last step, if it was taken.

    Small models are stepped in less time than it takes to ask each of their tensors, so everything is looked at in one
    go, identity, place (`share_memory_` and `.data =` move what a tensor holds) and layout, and one by one only where
    something is another than before, or the step before was refused.
    """

    def __init__(self) -> None:
        self._known = Known([0], [], [], np.zeros((3, 0), np.int64))
        self._taken = False
        self._gradients: dict[int, Gradients] = {}
        self._odd: list[Any] | None = None  # those of the last time that one of them had to be asked

    def same(self, groups: Sequence[Mapping[str, Any]], states: Mapping[Any, Any]) -> bool:
        """Whether all of it is what it was in the step before, and lies where it did."""
        # Until this step is taken: where it is refused, others may have been decided on.
        taken, self._taken = self._taken, False
        lists: list[Sequence[Any]] = [group["params"] for group in groups]
        if taken and self._odd is None and self._known.lasts(lists, states):
            return True
        each: list[dict[Any, Any]] = [state if isinstance(state, dict) else {} for state in states.values()]
        values = [*chain.from_iterable(lists), *chain.from_iterable(map(dict.values, each))]
        odd = self._odd is not None and identical(values, self._odd)
        found = None if odd else look(values)
        self._odd = None if found is not None else values
        keys = [key for owner, state in zip(states, each, strict=True) for key in (owner, *state)]
        starts, found = [*accumulate(map(len, lists), initial=0)], ask(values) if found is None else found
        before, self._known, self._gradients = self._known, Known(starts, keys, values, found), {}
        return taken and self._known.same(before)

    def gradients(self, index: int, params: list[Tensor]) -> Given:
        """The gradients of a group in this step."""
        if self._odd is not None:
            return Given([p.grad for p in params])
        if index not in self._gradients:
            ways = self._known.found[HOW, self._known.starts[index] : self._known.starts[index + 1]]
            self._gradients[index] = Gradients(params, ways)
        return self._gradients[index].look(params)

    def settle(self) -> None:
        """The step was taken: what was looked at for it is what is known."""
        self._taken = True
