"""For the tests of the laboratory: a task that trains in no time (three kinds of points), rules, files and weights."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rotational.lab.declare import Data, Imbalance, Model, Optimizer, Run, Schedule
from rotational.lab.tasks import Task
from rotational.records import CURVES_FILE, RUN_FILE, STEPS_FILE

RUN = Run(
    Model("small"),
    Data("points"),
    Optimizer("adamw", 1e-2, 0.1),
    steps=24,
    batch=16,
    schedule=Schedule("cosine", warmup=0.2),
    every=3,
    evaluations=3,
)


class Points(Task):
    """With dropout and batch norm, unless `plain`: what draws, and what remembers."""

    score, higher = "accuracy", True

    def __init__(self, run: Run, *, plain: bool = False) -> None:
        generator = torch.Generator().manual_seed(run.seed)
        between = [] if plain else [nn.BatchNorm1d(8), nn.Dropout(0.2)]
        model = nn.Sequential(nn.Linear(6, 8), *between, nn.ReLU(), nn.Linear(8, 3))
        for p in model.parameters():
            if p.ndim > 1:
                nn.init.normal_(p, std=0.4, generator=generator)
            elif plain:
                nn.init.zeros_(p)
        if not plain:
            for layer in (model[0], model[-1]):
                nn.init.zeros_(layer.bias)
        super().__init__(run, model)
        self.evaluated: list[str] = []

    def batch(self, step: int, seed: int | None = None) -> tuple[Tensor, ...]:
        seed = self.run.seed * 1000 + step if seed is None else seed
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(self.run.batch, 6, generator=generator)
        return x, x[:, :3].argmax(1)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def measured(self, model: nn.Module, split: str) -> dict[str, float]:
        assert not model.training
        self.evaluated.append(split)
        x, y = self.batch(0, seed=10**6 + len(split))
        out = model(x)
        hits = (out.argmax(1) == y).double().mean()
        return {"loss": F.cross_entropy(out.float(), y).item(), "accuracy": 100 * hits.item()}


RULES = {
    "adamw": Optimizer("adamw", 1e-2, 0.1),
    "adam": Optimizer("adam", 1e-2, 1e-3, betas=(0.9, 0.95)),
    "sgd": Optimizer("sgd", 0.1, 1e-2),
    "lion": Optimizer("lion", 5e-3, 0.2, betas=(0.9, 0.99)),
    "rotational": Optimizer("adamw", 1e-2, 0.1, rotational=True),
    "rotational sgd": Optimizer("sgd", 0.1, 1e-2, rotational=True, nesterov=True),
    "rotation of adamw": Optimizer("adam", 1e-2, 0.1, rotational=True, rotation_of="adamw"),
    "an angle": Optimizer("adam", 1e-2, 1e-3, rotational=True, rotation=0.02),
    "uneven": Optimizer("adamw", 1e-2, 0.1, rotational=True, imbalance=Imbalance(0.5, 4.0)),
    "muon": Optimizer("muon", 1e-2, 0.1, momentum=0.95, nesterov=True),
    "frozen gains": Optimizer("adamw", 1e-2, 0.1, gains="freeze", decay="adamc"),
}


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (STEPS_FILE, CURVES_FILE, RUN_FILE)}
