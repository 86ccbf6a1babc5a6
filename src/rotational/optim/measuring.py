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

    asked    all that the step is to measure with them
    epoch    of the optimizer when they were made: another object as soon as its steps could measure more or less
    shared   whether others hold some of them too
    """

    def __init__(self, neurons: Mapping[Tensor, Neurons], asked: Asked, epoch: object) -> None:
        super().__init__()
        self.neurons, self.asked, self.epoch = neurons, asked, epoch
        self.shared = False

    def serve(self, neurons: Mapping[Tensor, Neurons], epoch: object) -> bool:
        """Whether new ones for these neurons would be just like them."""
        if self.shared or self.epoch is not epoch:
            return False
        own = self.neurons
        return neurons is own or identical([*neurons, *neurons.values()], [*own, *own.values()])


def earlier(out: Any) -> Tables:
    """What an earlier call of `measure` returned; raises TypeError where it is anything else."""
    if out is None:
        raise TypeError("measure(): expected neurons, or in out= what an earlier call of measure returned.")
    if not isinstance(out, Tables):
        raise TypeError(f"measure(out={type(out).__name__}): expected what an earlier call of measure returned.")
    return out


def tables_for(
    neurons: Mapping[Tensor, Neurons], found: Sequence[Found], before: Tables | None, epoch: object
) -> Tables:
    """Tables for what was found of these neurons.

    `before` are those of whoever asked for the same step before. Where both ask for the same they see the same table.
    """
    tables = Tables(dict(neurons), {} if before is None else dict(before.asked), epoch)
    if before is not None:
        before.shared = tables.shared = True
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
    return tables


def parted(asked: Asked, params: Iterable[Tensor], anew: Iterable[Tensor]) -> tuple[Asked, Copies]:
    """What the rungs may write down, and copies of those, `anew`, that have become others since it was asked for.

    The table of what is not among the parameters any more is filled with NaN. Raises ValueError where one is not of a
    parameter's neurons any more.
    """
    there = {id(p): p for p in params if id(p) in asked}
    for key, p in there.items():
        units, table = asked[key]
        check_table(table, units.count(p.shape))
    apart = {id(p): p for p in anew if id(p) in there}
    copies = [(p, *asked[key], p.detach().clone()) for key, p in apart.items()]
    for key in asked.keys() - there.keys():
        asked[key][1].fill_(math.nan)
    return {key: asked[key] for key in there.keys() - apart.keys()}, copies


def compare(found: Copies) -> None:
    """Fill the tables of these, after the step."""
    for p, units, table, before in found:
        table.copy_(table_of(units, before, p.detach()))
