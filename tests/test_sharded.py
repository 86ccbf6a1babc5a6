"""Weights that several processes hold together: rows, as FSDP2 has them, step by themselves, and columns together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")

PROCESS = """
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

import rotational
from rotational.kernels import native
from rotational.records import Records

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))


def net():
    torch.manual_seed(0)  # seven rows and one are not the same number for both
    return nn.Sequential(nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 5, bias=False), nn.LayerNorm(5), nn.Linear(5, 1))


def by_rows(model):
    for layer in model:
        if list(layer.parameters()):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def by_columns(model):
    for layer in model:
        for name, p in list(layer.named_parameters()):
            setattr(layer, name, nn.Parameter(distribute_tensor(p.detach(), mesh, [Shard(p.dim() - 1)])))
    return model


def check(shard, kind, fused, expected):
    models = net(), shard(net())
    opts = [
        getattr(rotational, kind)(rotational.groups(m, weight_decay=0.1), lr=1e-2, fused=f)
        for m, f in zip(models, (None, fused))
    ]
    for t in range(6):
        torch.manual_seed(t)
        for p, q in zip(*(m.parameters() for m in models)):
            p.grad = torch.randn(p.shape)
            q.grad = distribute_tensor(p.grad, q.device_mesh, q.placements)
        for opt in opts:
            opt.step()
    for p, q in zip(*(m.parameters() for m in models)):
        torch.testing.assert_close(q.full_tensor(), p, rtol=1e-5, atol=1e-6)
    found = {name for group in opts[1].param_groups for name in group["kernel"].split(", ")}
    assert found == expected, (shard, kind, fused, found)
    for opt in opts:
        for state in opt.state.values():
            assert state["step"] == 6 and state.get("turns", 6) == 6
    saved = opts[1].state_dict()
    opts[1].load_state_dict(saved)
    opts[1].step()  # what was loaded is taken in


best = "torch" if native.available() else "native"
check(by_rows, "AdamW", None, {best})
check(by_rows, "SGD", False, {"torch"})
check(by_rows, "Lion", "reference", {"reference"})
check(by_columns, "AdamW", None, {best, "reference"})
check(by_columns, "Lion", False, {"torch", "reference"})

for name, model in (("whole", net()), ("sharded", by_rows(net()))):
    optimizer = rotational.AdamW(rotational.groups(model, weight_decay=0.1), lr=1e-2)
    with rotational.watch(model, optimizer, every=1, path=folder / f"{name}-{rank}"):
        for t in range(3):
            torch.manual_seed(t)
            optimizer.zero_grad()
            model(torch.randn(8, 9)).square().mean().backward()
            optimizer.step()
a, b = (Records(folder / f"{name}-{rank}").series("0.weight") for name in ("whole", "sharded"))
np.testing.assert_allclose(a.rotation, b.rotation, rtol=1e-3)
dist.destroy_process_group()
os._exit(0)  # torch's own threads may abort what ends in another way
"""


def test_sharded_weights_step_as_whole_ones(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", PROCESS]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True) for rank in range(2)
    ]
    said = [process.communicate(timeout=300)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(said)
