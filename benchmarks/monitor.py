"""What watching costs: steps without watch, with it but not logged, and with one step in ten logged.

    python benchmarks/monitor.py [--cases optimizer training] [--blocks 7] [--threads 1] [--json FILE]

    optimizer   AdamW's step alone on tensors of GPT-2 small: the worst case, for no forward or backward pass
                shares the cost
    training    forward, backward and AdamW's step of a small GPT

The three stand in turns in one process, ten steps each, in an order that rotates; what is reported is the
median over blocks of the ratio within a block, so that a disturbance which outlasts a block cancels.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import rotational
from machine import machine
from rotational.lab.gpt import GPT, Shape

STEPS = 10
WATCHED = {"without": None, "not logged": 10**9, "every=10": 10}
"""The arms, by `every`."""
LOGGED = "logged step"
"""The tenth step of the last arm, by itself."""


@dataclass(frozen=True)
class Case:
    """A model, its optimizer, and a step that trains it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: Callable[[], Any]


@dataclass(frozen=True)
class Result:
    """Seconds per step of every block, by arm."""

    case: str
    tensors: int
    neurons: int
    parameters: int
    seconds: dict[str, list[float]]

    def ratios(self, arm: str) -> list[float]:
        return sorted(a / b for a, b in zip(self.seconds[arm], self.seconds["without"], strict=True))

    def __str__(self) -> str:
        head = f"{self.case}: {self.tensors} tensors, {self.neurons:,} neurons, {self.parameters:,} parameters"
        lines = [
            f"  {arm:12} {1e3 * statistics.median(seconds):9.2f} ms per step, {statistics.median(ratios):.3f} times "
            f"without ({ratios[len(ratios) // 4]:.3f} to {ratios[-1 - len(ratios) // 4]:.3f})"
            for arm, seconds in self.seconds.items()
            for ratios in [self.ratios(arm)]
        ]
        return "\n".join([head, *lines])


def gpt2_small() -> Case:
    """The tensors of GPT-2 small, q, k and v apart, with gradients that stay the same."""
    width, kinds = 768, {"q": (1, 1), "k": (1, 1), "v": (1, 1), "out": (1, 1), "up": (1, 4), "down": (4, 1)}
    model = nn.ModuleDict({"token": nn.Embedding(50257, width), "position": nn.Embedding(1024, width)})
    for block in range(12):
        for name, (inputs, outputs) in kinds.items():
            model[f"{name}{block}"] = nn.Linear(inputs * width, outputs * width, bias=False)
    for p in model.parameters():
        p.grad = 1e-3 * torch.randn_like(p)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1)
    return Case(model, optimizer, optimizer.step)


def small_gpt() -> Case:
    """A GPT of the demo's size on random symbols."""
    model = GPT(Shape(vocabulary=98))
    symbols = torch.randint(98, (16, 65))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)

    def step() -> None:
        loss = F.cross_entropy(model(symbols[:, :-1]).flatten(0, 1), symbols[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Case(model, optimizer, step)


CASES = {"optimizer": gpt2_small, "training": small_gpt}


def measure(name: str, blocks: int) -> Result:
    """Time all arms over `blocks` blocks, the first of which is thrown away."""
    torch.manual_seed(0)
    case, seconds = CASES[name](), {arm: list[float]() for arm in (*WATCHED, LOGGED)}
    arms = list(WATCHED)
    with tempfile.TemporaryDirectory() as folder:
        for block in range(blocks + 1):
            for arm in arms[block % 3 :] + arms[: block % 3]:
                every = WATCHED[arm]
                log = every and rotational.watch(
                    case.model, case.optimizer, every=every, path=Path(folder) / f"{block} {every}"
                )
                with log or nullcontext():
                    taken = [timed(case.step) for _ in range(STEPS)]
                seconds[arm].append(statistics.mean(taken))
                if every == STEPS:
                    seconds[LOGGED].append(taken[-1])
    held = rotational.partition(case.model)
    return Result(
        case=name,
        tensors=len(held),
        neurons=sum(units.count(held.shape(n)) for n, units in held.items()),
        parameters=sum(p.numel() for p in case.model.parameters()),
        seconds={arm: times[1:] for arm, times in seconds.items()},
    )


def timed(step: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write machine and all times here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(", ".join(f"{k} {v}" for k, v in machine().items()))
    results: list[Result] = []
    for name in options.cases:
        results.append(measure(name, options.blocks))
        print(results[-1], flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "results": [asdict(r) for r in results]}, indent=1))


if __name__ == "__main__":
    main()
