"""One run on several processes, as torchrun starts them: the batch is split, gradients are averaged.

Every process draws the same batch and takes its share, so that the run's batch is what it says, on however many
processes. The first of them measures, evaluates and writes. Batch norm takes the statistics of each process's share.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Ranks:
    """This process among `world` of them; the first has rank 0."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process measures and writes."""
        return self.rank == 0

    def share(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """This process's part of a batch; raises ValueError for one that does not divide."""
        if self.world == 1:
            return batch
        size = len(batch[0])
        if size % self.world:
            raise ValueError(
                f"train(batch={size}): expected a multiple of the {self.world} processes it is split over."
            )
        return tuple(x[self.rank :: self.world] for x in batch)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with gradients that are averaged over processes."""
        if self.world == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over processes."""
        if self.world > 1:
            dist.all_reduce(values)
            values = values / self.world
        return values

    def agreed(self, value: Any) -> Any:
        """The first process's value, on all of them."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, device=self.device)
        return box[0]


@contextmanager
def joined(device: str | torch.device) -> Generator[Ranks]:
    """The processes that torchrun started, by the environment it gives them; one where there is none.

    On GPUs each process takes the one of its local rank.
    """
    world, device = int(os.environ.get("WORLD_SIZE", "1")), torch.device(device)
    if world == 1:
        yield Ranks(0, 1, device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
