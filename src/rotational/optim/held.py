"""What an optimizer holds, as it was in the step before: parameters, gradients and state are looked at all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from operator import is_
from typing import Any

import numpy as np
from torch import Tensor

from rotational.kernels.look import ADDRESS, HOW, ask, look


def identical(found: Sequence[Any], known: Sequence[Any]) -> bool:
    """Whether these are the very same objects."""
    return len(found) == len(known) and all(map(is_, found, known))


class Held:
    """Parameters and state of an optimizer as they were in the last step that was taken.

    Small models are stepped in less time than it takes to ask each of their tensors, so everything is looked at in one
    go, identity, place (`share_memory_` and `.data =` move what a tensor holds) and layout, and one by one only where
    something is another than before.
    """

    def __init__(self) -> None:
        self._values: list[Any] = []  # kept alive, so that no other object takes the identity of one
        self._starts: list[int] = []  # of each group among them
        self._found = np.zeros((3, 0), np.int64)
        self._known: tuple[list[int], bytes] | None = None
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
        self._values, self._found = values, ask(values, self._starts[-1]) if found is None else found
        return self._known == self._seen()

    def places(self, index: int, grads: list[Tensor | None]) -> np.ndarray | None:
        """Where the gradients of a group lie, if each lies as its weights do; else None."""
        if self._odd is not None or (found := look(grads)) is None:
            return None
        how = self._found[HOW, self._starts[index] : self._starts[index + 1]]
        fit = found[HOW].tobytes() == how.tobytes() or ((found[HOW] == how) | (found[ADDRESS] == 0)).all()
        return found[ADDRESS] if fit else None

    def settle(self) -> None:
        """The step was taken: what was looked at for it is what is known."""
        self._known = self._seen()

    def _seen(self) -> tuple[list[int], bytes]:
        return self._starts, self._found.tobytes()
