"""Realistic logs without any training: what `watch` would write, from the recursions of the mathematics.

    W <- W (1 - x)^2 + lr^2 C,   rotation = lr sqrt(C s/W),   s = (1-b1)/(1+b1)      x = lr wd      (AdamW)

It imports nothing of the theory, so that a page built from these logs compares two independent things.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rotational import rules
from rotational.records import QUANTILES, Layer, Measurement, Run, Writer, versions

Kind = Literal["adamw", "adam_l2", "rotational"]
SMOOTH = (1 - 0.9) / (1 + 0.9)
KEPT = 128


def layers(blocks: int = 4, width: int = 96) -> tuple[Layer, ...]:
    """The weight matrices of a small GPT."""
    shapes: list[tuple[str, tuple[int, int], tuple[tuple[str, int], ...]]] = [
        (f"h.{b}.{name}.weight", shape, parts)
        for b in range(blocks)
        for name, shape, parts in (
            ("attn.qkv", (3 * width, width), (("q", width), ("k", width), ("v", width))),
            ("attn.proj", (width, width), ()),
            ("mlp.up", (4 * width, width), ()),
            ("mlp.down", (width, 4 * width), ()),
        )
    ]
    return tuple(
        Layer(
            name,
            "Linear",
            shape,
            neurons=shape[0],
            size=shape[1],
            group=0,
            kept=tuple(int(i) for i in np.unique(np.linspace(0, shape[0] - 1, min(KEPT, shape[0])).astype(int))),
            parts=parts,
        )
        for name, shape, parts in shapes
    )


def cosine(steps: int, warmup: int = 0) -> Callable[[int], float]:
    """Factor of the learning rate: linear warm-up, then a cosine down to zero."""
    return lambda t: t / warmup if t < warmup else 0.5 * (1 + math.cos(math.pi * (t - warmup) / max(steps - warmup, 1)))


@dataclass
class Walker:
    """The neurons of one layer, by their mean squares alone."""

    kind: Kind
    square: np.ndarray
    gradient: np.ndarray
    size: int

    def step(self, lr: float, wd: float, noise: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(rotation, update length) of every neuron in this step."""
        wobble = np.exp(0.08 * noise.standard_normal(self.square.shape))
        if self.kind == "rotational":
            rotation = math.sqrt(2 * lr * wd * SMOOTH) * wobble
            return rotation, rotation * np.sqrt(self.square)
        x = lr * wd
        if self.kind == "adam_l2":  # the decay is divided by the gradient's RMS, which falls as the neuron grows
            x = x * np.sqrt(self.square * self.size) / self.gradient
        rotation = lr * np.sqrt(self.size * SMOOTH / self.square) * wobble
        self.square = self.square * np.exp(-2 * x) + lr**2 * self.size
        return rotation, lr * math.sqrt(self.size * SMOOTH) * wobble


def write(
    path: Path,
    kind: Kind = "adamw",
    *,
    title: str | None = None,
    described: tuple[Layer, ...] | None = None,
    steps: int = 1500,
    every: int = 10,
    lr: float = 2e-3,
    weight_decay: float = 1.0,
    schedule: Callable[[int], float] = lambda t: 1.0,
    known: bool = True,
    notes: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Path:
    """Write one log folder and return its path; `known=False` leaves the rule unnamed."""
    noise = np.random.default_rng(seed)
    described = layers() if described is None else described
    rule = (rules.adam_l2 if kind == "adam_l2" else rules.adamw)()
    optimizer = {"adamw": "AdamW", "adam_l2": "Adam", "rotational": "rotational.AdamW"}[kind]
    hyper = {"lr": lr, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": weight_decay}
    run = Run(
        title=title or optimizer,
        optimizer=optimizer,
        groups=(hyper,),
        rules=(rule.as_dict() if known else None,),
        layers=described,
        versions=versions(),
        every=every,
        notes=notes or {},
    )
    losses = {name: dict(_loss(kind, steps, noise)[k::n]) for name, k, n in (("loss", 0, 1), ("val_loss", 4, 8))}
    walkers = {layer.name: _walker(kind, layer, noise) for layer in described}
    writer = Writer(path, run)
    for t in range(1, steps + 1):
        rate = lr * schedule(t)
        moved = {name: w.step(rate, weight_decay, noise) for name, w in walkers.items()}
        if t % every == 0 or t == 1:
            for name, curve in losses.items():
                if notes is None and t in curve:
                    writer.note(t, {name: curve[t]})
            writer.write([_measure(x, t, rate, weight_decay, kind, walkers[x.name], *moved[x.name]) for x in described])
    writer.close()
    return path


def renamed(name: str, like: Layer | None = None) -> Layer:
    """A layer of another name."""
    return replace(like or layers(1)[1], name=name)


def _walker(kind: Kind, layer: Layer, noise: np.random.Generator) -> Walker:
    spread = noise.standard_normal(layer.neurons)
    start = np.full(layer.neurons, 1 / 3.0) * noise.uniform(0.4, 2.5) * np.exp(0.1 * spread)  # torch's own init
    gradient = 10.0 ** (noise.uniform(0.2, 1.2) + 0.7 * spread)
    return Walker(kind, start, gradient, layer.size)


def _measure(
    layer: Layer, t: int, lr: float, wd: float, kind: Kind, walker: Walker, rotation: np.ndarray, update: np.ndarray
) -> Measurement:
    kept, norm = list(layer.kept), np.sqrt(walker.square)
    return Measurement(
        layer=layer.name,
        step=t,
        group=0,
        lr=lr,
        weight_decay=wd,
        held=math.sqrt(2 * lr * wd * SMOOTH) if kind == "rotational" else None,
        rotation_rms=_rms(rotation),
        norm_rms=_rms(norm),
        update_rms=_rms(update),
        quantiles=np.quantile(rotation, QUANTILES).tolist(),
        rotation=rotation[kept].tolist(),
        norm=norm[kept].tolist(),
        update=update[kept].tolist(),
        radial=(-lr * wd * norm / update)[kept].clip(-1, 1).tolist() if lr else [0.0] * len(kept),
    )


def _loss(kind: Kind, steps: int, noise: np.random.Generator) -> list[tuple[int, float]]:
    floor = {"adamw": 1.62, "adam_l2": 1.85, "rotational": 1.55}[kind]
    speed = {"adamw": 160, "adam_l2": 210, "rotational": 130}[kind]
    at = range(10, steps + 1, 10)
    return [(t, floor + 2.6 * math.exp(-t / speed) + 0.03 * float(noise.standard_normal())) for t in at]


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))
