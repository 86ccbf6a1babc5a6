"""What the tests of the monitor share: small models, noisy training, and a witness of every change."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from layouts import members
from rotational.neurons import Neurons


class Layers(nn.Module):
    """One layer for each way in which neurons lie in a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 5)
        self.conv = nn.Conv2d(3, 4, 3)
        self.up = nn.ConvTranspose1d(4, 6, 3, groups=2)
        self.attention = nn.MultiheadAttention(8, 2)
        self.embedding = nn.Embedding(11, 6)
        self.norm = nn.LayerNorm(6)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def noisy(model: nn.Module, scale: float = 1.0) -> None:
    for p in model.parameters():
        p.grad = scale * torch.randn_like(p)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        noisy(model)
        optimizer.step()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def is_unhooked(optimizer: torch.optim.Optimizer) -> bool:
    return not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


def witness(before: Tensor, after: Tensor, units: Neurons) -> dict[str, np.ndarray]:
    """Angle, norm, update and radial share of every neuron, entry by entry in float64."""
    rows = members(units, tuple(before.shape))
    w = [before.double().flatten()[row].numpy() for row in rows]
    v = [after.double().flatten()[row].numpy() for row in rows]

    def angle(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
        return 2 * math.atan2(float(np.linalg.norm(a - b)), float(np.linalg.norm(a + b)))

    update = np.array([np.linalg.norm(b - a) for a, b in zip(w, v, strict=True)])
    along = np.array([(b - a) @ a / np.linalg.norm(a) for a, b in zip(w, v, strict=True)])
    return {
        "rotation": np.array([angle(a, b) for a, b in zip(w, v, strict=True)]),
        "norm": np.array([np.linalg.norm(b) for b in v]),
        "update": update,
        "radial": along / np.where(update > 0, update, 1),  # bfloat16 can round a whole update away
    }
