"""What a step is asked to measure, and the tables that it fills."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from rotational.changes import table_of
from rotational.kernels.work import check_table, identical
from rotational.neurons import Neurons

Found = list[tuple[Tensor, Neurons, int]]
"""Parameters whose step can write down how these neurons change, and how many each has (see `Bound.measured`)."""

Asked = dict[int, tuple[Neurons, Tensor]]
"""Parameters (each by its id) that the next step is to measure: by which neurons, and into which table."""

NONE: Asked = {}

Copies = list[tuple[Tensor, Neurons, Tensor, Tensor]]
"""Parameters whose change is measured by comparing, with their neurons, tables and weights before the step."""


class Tables(dict[Tensor, Tensor]):
    """The tables of some parameters, [4, neurons] each, for whoever asked for these `neurons` (a mapping of our own).

    `asked` is all that the step is to measure with them, and `found` what they were made for: None where others hold
    them too.
    """

    def __init__(self, neurons: Mapping[Tensor, Neurons], asked: Asked) -> None:
        super().__init__()
        self.neurons, self.asked = neurons, asked
        self.found: Sequence[Found] | None = None

    def serve(self, found: Sequence[Found | None]) -> bool:
        """Whether new ones would be just like these."""
        return self.found is not None and identical(found, self.found)


def earlier(out: Any) -> Tables:
    """What an earlier call of `measure` returned; raises TypeError where it is anything else."""
    if out is None:
        raise TypeError("measure(): expected neurons, or in out= what an earlier call of measure returned.")
    if not isinstance(out, Tables):
        raise TypeError(f"measure(out={type(out).__name__}): expected what an earlier call of measure returned.")
    return out


def tables_for(
    neurons: Mapping[Tensor, Neurons], found: Sequence[Found], before: Tables | None, out: Tables | None
) -> Tables:
    """Tables for what was found of these neurons: `out`, if new ones would be like these, else new ones.

    `before` are those of whoever asked for the same step before. Where both ask for the same they see the same table,
    which then belongs to neither.
    """
    if before is not None:
        before.found = None
    elif out is not None and out.serve(found):
        return out
    tables = Tables(dict(neurons), {} if before is None else dict(before.asked))
    # On each device one stretch of memory, so that there is one to ask where it lies.
    lengths: dict[torch.device, int] = {}
    for p, _, count in chain.from_iterable(found):
        lengths[p.device] = lengths.get(p.device, 0) + 4 * count
    rest = {device: torch.empty(length, dtype=torch.float32, device=device) for device, length in lengths.items()}
    for p, units, count in chain.from_iterable(found):
        table, rest[p.device] = rest[p.device].tensor_split([4 * count])
        table = table.view(4, count)
        known, table = tables.asked.setdefault(id(p), (units, table))
        if known is units or known == units:
            tables[p] = table
    if before is None:
        tables.found = found
    return tables


def parted(asked: Asked, anew: Iterable[Tensor]) -> tuple[Asked, Copies]:
    """What the rungs may write down, and copies of these parameters where something was asked for of them.

    They are others than when it was. Raises ValueError where a table is not one of their neurons any more.
    """
    apart = {id(p): p for p in anew if id(p) in asked}
    if not apart:
        return asked, []
    found = [(p, *asked[key]) for key, p in apart.items()]
    for p, units, table in found:
        check_table(table, units.count(p.shape))
    copies = [(p, units, table, p.detach().clone()) for p, units, table in found]
    return {key: one for key, one in asked.items() if key not in apart}, copies


def leave(asked: Asked, params: Iterable[Tensor]) -> None:
    """Write NaN into the tables of what is not among these parameters any more."""
    for key in asked.keys() - {id(p) for p in params}:
        asked[key][1].fill_(math.nan)


def compare(found: Copies) -> None:
    """Fill the tables of these, after the step."""
    for p, units, table, before in found:
        table.copy_(table_of(units, before, p.detach()))
