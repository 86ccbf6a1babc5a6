"""What a step is asked to measure, and the tables that it fills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor

from rotational.kernels.work import identical
from rotational.neurons import Neurons

Found = list[tuple[Tensor, Neurons, int]]
"""Parameters whose step can write down how these neurons change, and how many each has (see `Bound.measured`)."""

Asked = dict[int, tuple[Neurons, Tensor]]
"""Parameters (each by its id) that the next step is to measure: by which neurons, and into which table."""


class Tables(dict[Tensor, Tensor]):
    """The tables of some parameters, [4, neurons] each.

    `asked` is all that the step is to measure with them, and `found` what they were made for: None where others hold
    them too.
    """

    def __init__(self, asked: Asked) -> None:
        super().__init__()
        self.asked = asked
        self.found: Sequence[Found] | None = None

    def serve(self, found: Sequence[Found]) -> bool:
        """Whether new ones would be just like these."""
        return self.found is not None and identical(found, self.found)


def tables_for(found: Sequence[Found], before: Tables | None, out: Mapping[Tensor, Tensor] | None) -> Tables:
    """Tables for what was found: `out`, if new ones would be like these, else new ones.

    `before` are those of whoever asked for the same step before. Where both ask for the same they see the same table,
    which then belongs to neither.
    """
    if out is not None and not isinstance(out, Tables):
        raise TypeError(f"measure(out={type(out).__name__}): expected what an earlier call of measure returned.")
    if before is not None:
        before.found = None
    elif out is not None and out.serve(found):
        return out
    tables = Tables({} if before is None else dict(before.asked))
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
