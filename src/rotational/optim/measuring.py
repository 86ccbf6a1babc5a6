"""What a step is asked to measure, and the tables that it fills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rotational.kernels.work import identical
from rotational.neurons import Neurons

Found = list[tuple[Tensor, Neurons, int]]
"""Parameters whose step can write down how these neurons change, and how many each has (see `Bound.measured`)."""

Asked = dict[int, tuple[Neurons, Tensor]]
"""Parameters (each by its id) that the next step is to measure: by which neurons, and into which table."""


class Tables(dict[Tensor, Tensor]):
    """The tables of some parameters, [4, neurons] each, and what they were made for."""

    def __init__(self, asked: Asked) -> None:
        super().__init__()
        self.asked = asked
        self.found: Sequence[Found] = ()  # where there is one for each

    def serve(self, found: Sequence[Found]) -> bool:
        """Whether new ones would be just like these."""
        return identical(found, self.found) and all(p.grad is not None for p in self)


def tables_for(found: Sequence[Found], asked: Asked, out: Mapping[Tensor, Tensor] | None) -> Tables:
    """Tables for what was found: `out`, if nobody has `asked` for others and new ones would be like these, else new."""
    if out is not None and not isinstance(out, Tables):
        raise TypeError(f"measure(out={type(out).__name__}): expected what an earlier call of measure returned.")
    if out is not None and not asked and out.serve(found):
        return out
    tables = Tables(dict(asked))
    for p, units, count in (x for one in found for x in one if x[0].grad is not None):
        # Of two who ask for the same in one step, both see the same table.
        known, table = tables.asked.setdefault(id(p), (units, torch.empty(4, count, device=p.device)))
        if known is units or known == units:
            tables[p] = table
    if len(tables) == len(tables.asked) == sum(map(len, found)):
        tables.found = found
    return tables
