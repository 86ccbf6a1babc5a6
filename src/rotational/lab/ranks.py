"""One run on several processes, as torchrun starts them: the batch is split, gradients are averaged.

Every process draws the same batch and makes its own rows of it (`Task.part`), so that the run's batch is what it says,
on however many processes. The first of them measures, evaluates and writes. Batch norm takes the statistics of each
process's share, and a mean over words is one over the words of each share.

What can be refused, data that is missing or options that contradict each other, is refused by all of them or by none
(`Ranks.together`), and they go on to the next run. What fails later, inside a step, leaves the others waiting for sums
that never come: then all of them end, each with a sentence (`Ranks.bound`).
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class LostError(RuntimeError):
    """Processes that train together can go on no more."""


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

    @property
    def rows(self) -> slice:
        """This process's part of a batch."""
        return slice(self.rank, None, self.world)

    def divide(self, sizes: Iterable[int]) -> None:
        """Raise ValueError for a batch that does not divide."""
        for size in sizes:
            if size % self.world:
                raise ValueError(
                    f"train(batch={size}): expected a multiple of the {self.world} processes it is split over."
                )

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
    def together(self) -> Generator[None]:
        """A block that fails on all processes, by ValueError, where it fails on one; all of them must come here."""
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        if self.world == 1:
            if error is not None:
                raise error
            return
        said: list[str | None] = [None] * self.world
        dist.all_gather_object(said, None if error is None else str(error))
        if error is not None:
            raise error
        for rank, why in enumerate(said):
            if why is not None:
                raise ValueError(f"process {rank} of {self.world}: {why}")

    @contextmanager
    def bound(self, what: str) -> Generator[None]:
        """A block in which processes wait for each other: where one cannot go on, all raise LostError."""
        try:
            yield
        except Exception as error:
            if self.world == 1:
                raise
            me = f"process {self.rank} of {self.world}"
            if isinstance(error, dist.DistError) or "gloo" in str(error):
                said = f"{me} lost another one, which says why itself"
            else:
                said = f"{me} failed, {type(error).__name__}: {str(error).rstrip('.')}"
            raise LostError(
                f"{what}: {said}. What has ended is kept; the same command goes on from the last checkpoint."
            ) from error


@contextmanager
def joined(device: str | torch.device) -> Generator[Ranks]:
    """The processes that torchrun started, by the environment it gives them; one where there is none.

    On GPUs each process takes the one of its local rank. Inside of another `joined` they stay those that they are.
    """
    world, device = int(os.environ.get("WORLD_SIZE", "1")), torch.device(device)
    if world == 1:
        yield Ranks(0, 1, device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
        return
    # The others wait while the first one evaluates and searches; a process that dies ends the wait in any case.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=6))
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
