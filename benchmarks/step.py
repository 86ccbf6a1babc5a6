"""What a rotational step costs: rotational.AdamW beside torch.optim.AdamW, in one process, in turns.

    python benchmarks/step.py [--shapes small gpt2-30m] [--rounds 60] [--threads 1] [--json FILE]

Times drift with whatever else the machine does, and by more from process to process; so both optimizers step
within every round, in alternating order, and what is reported is the median over rounds of their ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import rotational
from machine import machine

Shape = tuple[int, ...]


def gpt(vocabulary: int, width: int, blocks: int, context: int) -> list[Shape]:
    """Shapes of a GPT with a tied head: projections without biases, norms with them."""
    norm: list[Shape] = [(width,), (width,)]
    block = [*norm, (3 * width, width), (width, width), *norm, (4 * width, width), (width, 4 * width)]
    return [(vocabulary, width), (context, width), *block * blocks, *norm]


SHAPES = {
    "small": gpt(vocabulary=100, width=104, blocks=4, context=64),
    "gpt2-30m": gpt(vocabulary=50304, width=384, blocks=6, context=1024),
}


@dataclass(frozen=True)
class Result:
    """Seconds per step of each round, and what follows from them."""

    shapes: str
    tensors: int
    parameters: int
    seconds: dict[str, list[float]]

    def milliseconds(self, name: str) -> float:
        return 1e3 * statistics.median(self.seconds[name])

    def ratio(self, name: str, to: str) -> float:
        """Median over rounds of the ratio within a round: disturbances that last longer than a round cancel."""
        return statistics.median(a / b for a, b in zip(self.seconds[name], self.seconds[to], strict=True))


def parameters(shapes: Sequence[Shape]) -> list[torch.nn.Parameter]:
    """Weights with gradients of normal noise, the same at every call."""
    noise = torch.Generator().manual_seed(0)
    made = [torch.nn.Parameter(0.02 * torch.randn(shape, generator=noise)) for shape in shapes]
    for p in made:
        p.grad = 1e-3 * torch.randn(p.shape, generator=noise)
    return made


def optimizers(shapes: Sequence[Shape]) -> dict[str, torch.optim.Optimizer]:
    """The two that are compared, each with weights of its own."""
    options = {"lr": 1e-3, "betas": (0.9, 0.95), "weight_decay": 0.1, "foreach": True}
    return {
        "torch.optim.AdamW": torch.optim.AdamW(parameters(shapes), **options),
        "rotational.AdamW": rotational.AdamW(parameters(shapes), **options),
    }


def measure(name: str, rounds: int, seconds: float = 0.05) -> Result:
    """Time both optimizers over `rounds` rounds of about `seconds` each."""
    shapes = SHAPES[name]
    steps = {kind: optimizer.step for kind, optimizer in optimizers(shapes).items()}
    repeats: dict[str, int] = {}
    for kind, step in steps.items():
        step()  # makes the state
        repeats[kind] = max(1, round(seconds / timed(step, 1)))
    taken: dict[str, list[float]] = {kind: [] for kind in steps}
    for i in range(rounds):
        for kind in list(steps)[:: 1 if i % 2 else -1]:
            taken[kind].append(timed(steps[kind], repeats[kind]))
    return Result(name, len(shapes), sum(torch.Size(s).numel() for s in shapes), taken)


def timed(step: Callable[[], object], repeats: int) -> float:
    """Seconds of one call, averaged over `repeats`."""
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - start) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write every round's times, and the machine, to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # As any forward pass does: until something large has been freed, glibc returns every temporary to the
    # system, and its page faults are what would be measured.
    torch.empty(1 << 22)

    where = machine()
    print(", ".join(f"{key} {value}" for key, value in where.items()))
    results = [measure(name, options.rounds) for name in options.shapes]
    for r in results:
        times = "   ".join(f"{kind} {r.milliseconds(kind):.3f} ms" for kind in r.seconds)
        print(
            f"{r.shapes} ({r.tensors} tensors, {r.parameters / 1e6:.2f}M):   {times}   "
            f"ratio {r.ratio('rotational.AdamW', 'torch.optim.AdamW'):.2f}"
        )
    if options.json:
        options.json.write_text(json.dumps({"machine": where, "results": [asdict(r) for r in results]}, indent=1))


if __name__ == "__main__":
    main()
