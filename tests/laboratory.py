"""A task that trains in no time, for the tests of the laboratory: three kinds of points, told apart by a small net."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rotational.lab.declare import Data, Model, Optimizer, Run, Schedule
from rotational.lab.tasks import Task

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
