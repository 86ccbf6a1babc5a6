"""What an optimizer holds, as it was in the step before: parameters, gradients and state are looked at all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, cast

import numpy as np
from torch import Tensor

from rotational.kernels.look import ADDRESS, HOW, ask, look
from rotational.kernels.work import identical


class Seen:
    """Parameters and state of an optimizer as they were in the last step, if it was taken.

    Small models are stepped in less time than it takes to ask each of their tensors, so everything is looked at in one
    go, identity, place (`share_memory_` and `.data =` move what a tensor holds) and layout, and one by one only where
    something is another than before, or the step before was refused.
    """

    def __init__(self) -> None:
        self._starts: list[int] = []  # of each group among the parameters
        self._owners: list[Any] = []  # whose the state is
        self._values: list[Any] = []  # kept alive, so that no other object takes the identity of one
        self._found = np.zeros((3, 0), np.int64)
        self._known: tuple[list[int], list[Any], bytes] | None = None
        self._odd: list[Any] | None = None  # those of the last time that one of them had to be asked

    def same(self, groups: Sequence[Mapping[str, Any]], states: Mapping[Tensor, dict[str, Any]]) -> bool:
        """Whether all of it is what it was in the step before, and lies where it did."""
        values: list[Any] = []
        self._starts = [0]
        for group in groups:
            values += group["params"]
            self._starts.append(len(values))
        values += chain.from_iterable(map(dict.values, states.values()))
        odd = self._odd is not None and identical(values, self._odd)
        found = None if odd else look(values)
        self._odd = None if found is not None else values
        # What was known is forgotten until this step is taken: where it is refused, others may have been decided on.
        known, self._known = self._known, None
        self._owners, self._values, self._found = list(states), values, ask(values) if found is None else found
        if known is None:
            return False
        starts, owners, all_found = known
        return self._starts == starts and identical(self._owners, owners) and self._found.tobytes() == all_found

    def places(self, index: int, grads: list[Tensor | None]) -> np.ndarray | None:
        """Where the gradients of a group lie, if each is stored and lies as its weights do; else None."""
        if self._odd is not None or (found := look(grads)) is None:
            return None
        how = self._found[HOW, self._starts[index] : self._starts[index + 1]]
        if found[HOW].tobytes() == how.tobytes():
            negated = any(map(Tensor.is_neg, cast("list[Tensor]", grads)))
        elif ((found[HOW] == how) | (found[ADDRESS] == 0)).all():
            negated = any(g is not None and g.is_neg() for g in grads)
        else:
            return None
        return None if negated else found[ADDRESS]  # what is stored of a negated view has the other sign

    def settle(self) -> None:
        """The step was taken: what was looked at for it is what is known."""
        self._known = self._starts, self._owners, self._found.tobytes()
