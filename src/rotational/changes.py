"""How the neurons of a parameter changed, measured between two copies of its weights."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from rotational.neurons import Neurons

CHUNK = 1 << 18
"""Entries measured at a time on a CPU: a megabyte, so that all passes but the first find them in its cache."""


def table_of(units: Neurons, before: Tensor, after: Tensor) -> Tensor:
    """[4, neurons] of one parameter: angle (radians), norm, length of the change, its signed radial share.

    >>> from rotational.neurons import ROWS
    >>> table_of(ROWS, torch.tensor([[3.0, 0.0]]), torch.tensor([[3.0, 4.0]])).flatten().tolist()
    [0.9272952079772949, 5.0, 4.0, 0.0]
    """
    w, v, flat = units.view(before), units.view(after), Neurons(units.axes)
    along = units.axes[0] if units.axes else 0
    sharded = hasattr(w, "full_tensor")  # a DTensor of FSDP2 or tensor parallelism
    whole = sharded or w.device.type != "cpu" or not units.axes
    chunk = w.shape[along] if whole else max(1, CHUNK * w.shape[along] // max(1, w.numel()))
    tables: list[Tensor] = []
    # The first neuron axis is the slowest in the flat order of neurons, so chunks along it follow one another.
    for x, y in zip(w.split(chunk, along), v.split(chunk, along), strict=True):
        change = flat.change(x, y)
        tables.append(torch.stack([q.reshape(-1) for q in (change.angle, flat.norm(y), change.update, change.radial)]))
    table = torch.cat(tables, dim=1)
    return cast(Any, table).full_tensor() if sharded else table
