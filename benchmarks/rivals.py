"""Everything whose step is timed: ours in its forms, torch's own, and those of others where they are installed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

import rotational
from rotational.neurons import Neurons
from shapes import Weights

Step = Callable[[], Any]
Build = Callable[[list[nn.Parameter], Weights], Step]
LR, DECAY = 1e-4, 0.1


class MissingError(Exception):
    """What a rival needs is not installed."""


class Gradients:
    """Weights of these shapes, and normal noise as their gradients, which is another at every call.

    As in training: along gradients that are always the same, weights turn until nothing is left of them to the side,
    and then every step is the rare one whose sums cancel. Each gradient is a window on one stretch of noise.
    """

    SLACK, LINE = 1 << 16, 16

    def __init__(self, weights: Weights) -> None:
        noise = torch.Generator().manual_seed(0)
        self.params = [nn.Parameter(0.02 * torch.randn(shape, generator=noise)) for shape, _ in weights]
        self._sizes = [-(-p.numel() // self.LINE) * self.LINE for p in self.params]
        self._noise = 1e-3 * torch.randn(sum(self._sizes) + self.SLACK, generator=noise)
        self._random = random.Random(0)
        self()

    def __call__(self) -> None:
        at = self.LINE * self._random.randrange(self.SLACK // self.LINE)
        for p, size in zip(self.params, self._sizes, strict=True):
            p.grad = self._noise[at : at + p.numel()].view_as(p)
            at += size


def ours(kind: str, **options: Any) -> Build:
    """One of our optimizers."""

    def build(params: list[nn.Parameter], weights: Weights) -> Step:
        group = {"params": params, "neurons": [neurons for _, neurons in weights]}
        return getattr(rotational, kind)([group], lr=LR, weight_decay=DECAY, **options).step

    return build


def measuring(step: Any, params: list[nn.Parameter], weights: Weights) -> Step:
    """This step of one of our optimizers, which now writes down how every neuron turns."""
    units: dict[Tensor, Neurons] = {p: n for p, (shape, n) in zip(params, weights, strict=True) if len(shape) > 1}
    measure = step.__self__.measure
    tables: Mapping[Tensor, Tensor] | None = None

    def measured() -> None:
        nonlocal tables
        # Before the first step there is nothing to measure, and no table to be given back.
        tables = measure(out=tables) if tables else measure(units)
        step()

    return measured


def measured(params: list[nn.Parameter], weights: Weights) -> Step:
    """The step of an optimizer that always measures."""
    return measuring(ours("AdamW")(params, weights), params, weights)


def torchs(kind: str, **options: Any) -> Build:
    """One of torch's."""
    return lambda params, _: getattr(torch.optim, kind)(params, lr=LR, weight_decay=DECAY, **options).step


def compiled(params: list[nn.Parameter], _: Weights) -> Step:
    """torch.compile of torch's step."""
    optimizer = torch.optim.AdamW(params, lr=LR, weight_decay=DECAY, foreach=True)
    return torch.compile(optimizer.step, fullgraph=False)


def others(module: str, kind: str, **options: Any) -> Build:
    """One of another package."""

    def build(params: list[nn.Parameter], _: Weights) -> Step:
        try:
            made = getattr(import_module(module), kind)
        except ImportError as error:
            raise MissingError(f"{module} is not installed ({error})") from None
        return made(params, lr=LR, weight_decay=DECAY, **options).step

    return build


def copy(_: list[nn.Parameter], weights: Weights) -> Step:
    """The limit: 28 bytes a weight, 16 read and 12 written, with hardly any arithmetic.

    a += b and c += b move 12 each, and -b over a half of it another 4. What is copied lies in pieces that are larger
    than any cache, as the optimizers' do.
    """
    count = sum(torch.Size(shape).numel() for shape, _ in weights)
    a, b, c = (torch.zeros(count) for _ in range(3))
    half = b[: count // 2]

    def step() -> None:
        a.add_(b)
        c.add_(b)
        half.neg_()

    return step


BASE = {"AdamW": "torch AdamW fused", "SGD": "torch SGD fused", "Lion": "Lion foreach"}
"""What each of our optimizers is compared with."""

SAME = {"rotational AdamW, measuring": "rotational AdamW"}
"""Who steps with the optimizer of another, where that steps too: what it does is on or off.

Two of small models whose memory lies in other places take 0.95 to 1.05 of each other's time, whatever they do.
"""

CONTENDERS: dict[str, Build] = {
    "torch AdamW fused": torchs("AdamW", fused=True),
    "torch AdamW foreach": torchs("AdamW", foreach=True),
    "torch AdamW for-loop": torchs("AdamW", foreach=False),
    "torch AdamW compiled": compiled,
    "torch SGD fused": torchs("SGD", momentum=0.9, fused=True),
    "Lion foreach": others("pytorch_optimizer", "Lion", foreach=True),
    "AdamP": others("pytorch_optimizer", "AdamP"),
    "AdamW 8-bit": others("torchao.optim", "AdamW8bit"),
    "copy of 28 bytes": copy,
    "rotational AdamW": ours("AdamW"),
    "rotational AdamW, bf16 moments": ours("AdamW", moment_dtype=torch.bfloat16),
    "rotational AdamW, measuring": measured,
    "rotational AdamW, numba": ours("AdamW", fused="numba"),
    "rotational AdamW, torch": ours("AdamW", fused=False),
    "plain AdamW, native": ours("AdamW", rotational=False),
    "rotational SGD": ours("SGD", momentum=0.9),
    "rotational Lion": ours("Lion"),
}
