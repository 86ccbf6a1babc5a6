"""A model whose weights, gradients and optimizer state are spread over the processes of a run: torch's FSDP2.

Every tensor is cut along its first axis, so that a shard of a linear layer or an embedding is whole neurons. Beside the
shards each process keeps the weights in one piece, which evaluate and go into checkpoints: what the first process does
with them needs no other one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.optim import Optimizer

from rotational.lab.declare import Run


class Shards:
    """A copy of the model `whole` in shards, `model`; all processes must call each method.

    Raises ValueError for one process, and for a run that reads single tensors in one piece.
    """

    def __init__(self, run: Run, whole: nn.Module, device: torch.device, world: int) -> None:
        if world == 1:
            raise ValueError("train(shard=True): there is one process. Start several with torchrun, or leave it out.")
        if run.probes or run.optimizer.imbalance is not None or run.optimizer.rule == "muon":
            has = "probes" if run.probes else "an imbalance" if run.optimizer.imbalance is not None else "Muon"
            raise ValueError(f"train(shard=True): a run with {has} is not sharded; leave it out.")
        self.whole, self.model, self._mesh = whole, copy.deepcopy(whole), init_device_mesh(device.type, (world,))
        for block in list(_blocks(self.model)):  # so that one at a time is in one piece
            fully_shard(block, mesh=self._mesh)
        fully_shard(self.model, mesh=self._mesh)

    @torch.no_grad()
    def gather(self) -> None:
        """Bring the weights in one piece up to date; buffers are those of the first process."""
        for p, q in zip(self.model.parameters(), self.whole.parameters(), strict=True):
            q.copy_(_whole(p))
        for b, c in zip(self.model.buffers(), self.whole.buffers(), strict=True):
            dist.broadcast(b, 0)
            c.copy_(b)

    @torch.no_grad()
    def scatter(self, optimizer: Optimizer) -> None:
        """Bring the shards to where the weights in one piece are, and cut the optimizer's state as they are cut."""
        for p, q in zip(self.model.parameters(), self.whole.parameters(), strict=True):
            p.copy_(distribute_tensor(q, self._mesh, [Shard(0)]))
        for b, c in zip(self.model.buffers(), self.whole.buffers(), strict=True):
            b.copy_(c)
        for p, state in optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.ndim == p.ndim:
                    along = Shard(0) if value.shape[0] == p.shape[0] else Replicate()
                    state[name] = distribute_tensor(value, self._mesh, [along])

    def state_dict(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state dict with tensors in one piece."""
        found = optimizer.state_dict()
        return {**found, "state": {i: {k: _whole(v) for k, v in s.items()} for i, s in found["state"].items()}}


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Members of the model's stacks; what stands inside of a member belongs to it."""
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else _blocks(child)


def _whole(value: Any) -> Any:
    return value.full_tensor() if isinstance(value, DTensor) else value
