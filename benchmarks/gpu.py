"""What a rotational step costs on a GPU: the Triton step beside torch's fused AdamW, in one process, in turns.

    python benchmarks/gpu.py [--shapes gpt2-124m 1b rows-8192] [--rounds 30] [--moments bfloat16] [--json FILE]

Both step within every round, in alternating order, timed by CUDA events; what is reported is the median over rounds of
their ratio. Beside it stands the bandwidth of a plain copy: no step can be faster than the bytes that it moves, 28 a
weight in single precision. Without a GPU there is nothing to measure, and it says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from machine import machine
from rotational import rules
from rotational.kernels.gpu import Triton, available, refusal
from rotational.kernels.work import Part, Work
from rotational.neurons import ROWS
from shapes import gpt

SHAPES = {
    "gpt2-124m": gpt(vocabulary=50304, width=768, blocks=12, context=1024),
    "1b": gpt(vocabulary=50304, width=2048, blocks=18, context=2048),
    "rows-8192": [(8192, 8192)] * 4,
    "rows-16384": [(4096, 16384)] * 4,
    "rows-32768": [(2048, 32768)] * 4,
}
Step = Callable[[], object]


@dataclass(frozen=True)
class Result:
    """Milliseconds of each round, and the bytes that a step must move."""

    shapes: str
    tensors: int
    parameters: int
    bytes: dict[str, int]
    milliseconds: dict[str, list[float]]

    def ratio(self, name: str, to: str) -> tuple[float, float, float]:
        """Quartiles over rounds of the ratio within a round; the median stands between the others."""
        ratios = [a / b for a, b in zip(self.milliseconds[name], self.milliseconds[to], strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4)
        return low, median, high

    def bandwidth(self, name: str) -> float:
        """Bytes a second that are needed at least."""
        return self.bytes[name] / statistics.median(self.milliseconds[name]) * 1e3


def tensors(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, seed: int) -> list[Tensor]:
    noise = torch.Generator("cuda").manual_seed(seed)
    return [0.02 * torch.randn(shape, generator=noise, device="cuda", dtype=dtype) for shape in shapes]


def rotational_step(
    shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, moments: torch.dtype, measured: bool
) -> Step:
    """A step of AdamW that turns all matrices, as `rotational.AdamW` takes it."""
    kernel, rule, parts = Triton(), rules.adamw(betas=(0.9, 0.95)), list[Part]()
    for w in tensors(shapes, dtype, 0):
        units = ROWS if w.dim() > 1 else None
        norm = None if units is None else units.norm(w).float()
        m, v = (torch.zeros_like(w, dtype=moments) for _ in range(2))
        step, turns = (torch.zeros((), device="cuda") for _ in range(2))
        rms = None if norm is None else torch.zeros_like(norm)
        parts.append(Part(w, m, v, step, False, units, norm, rms, None if units is None else turns))
        assert refusal(parts[-1]) is None
    out = {
        i: (ROWS, torch.empty(4, len(p.w), device="cuda")) for i, p in enumerate(parts) if measured and p.w.dim() > 1
    }
    work = Work(
        rule=rule,
        lr=1e-3,
        weight_decay=0.1,
        rotation=3e-3,
        ema=0.9,
        center=True,
        maximize=False,
        dither=moments is torch.bfloat16,
        foreach=True,
        parts=parts,
        grads=tensors(shapes, dtype, 1),
        measured=out,
    )
    return lambda: kernel.step([work])


def torch_step(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> Step:
    parameters = [torch.nn.Parameter(w) for w in tensors(shapes, dtype, 0)]
    for p, g in zip(parameters, tensors(shapes, dtype, 1), strict=True):
        p.grad = g
    return torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True).step


def captured(step: Step) -> Step:
    """The same as a CUDA graph: what is left is what the GPU itself takes."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def copying(count: int) -> Step:
    """A copy that moves as many bytes as a step in single precision: half of them are read."""
    a, b = (torch.empty(28 * count // 2, dtype=torch.uint8, device="cuda") for _ in range(2))
    return lambda: b.copy_(a)


def timed(step: Step, repeats: int) -> float:
    """Milliseconds of one call, averaged over `repeats`."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / repeats


def measure(name: str, rounds: int, dtype: torch.dtype, moments: torch.dtype, seconds: float = 0.05) -> Result:
    shapes = SHAPES[name]
    count = sum(torch.Size(s).numel() for s in shapes)
    steps = {
        "torch fused AdamW": torch_step(shapes, dtype),
        "rotational AdamW": rotational_step(shapes, dtype, moments, measured=False),
        "rotational AdamW, measured": rotational_step(shapes, dtype, moments, measured=True),
        "copy": copying(count),
    }
    steps["rotational AdamW, as a graph"] = captured(steps["rotational AdamW"])
    repeats: dict[str, int] = {}
    for kind, step in steps.items():
        for _ in range(5):
            step()  # compiles, and makes the state
        torch.cuda.synchronize()
        repeats[kind] = max(1, round(1e3 * seconds / timed(step, 3)))
    taken: dict[str, list[float]] = {kind: [] for kind in steps}
    for i in range(rounds):
        for kind in list(steps)[:: 1 if i % 2 else -1]:
            taken[kind].append(timed(steps[kind], repeats[kind]))
    weight = 3 * dtype.itemsize  # read w and g, write w; both moments are read and written
    moved = {kind: count * (weight + 4 * (moments if "rotational" in kind else dtype).itemsize) for kind in steps}
    return Result(name, len(shapes), count, moved | {"copy": 28 * count // 2 * 2}, taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["gpt2-124m", "1b", "rows-8192"])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--weights", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--moments", choices=["float32", "bfloat16"], default=None, help="default: as the weights")
    parser.add_argument("--json", type=Path, help="write every round's times, and the machine, to this file")
    options = parser.parse_args()
    why = available() or (None if torch.cuda.is_available() else "torch sees no GPU")
    if why:
        sys.exit(f"Nothing was measured: {why}.")
    dtype, moments = (getattr(torch, name) for name in (options.weights, options.moments or options.weights))

    import triton

    device = torch.cuda.get_device_properties(0)
    where = machine() | {
        "gpu": device.name,
        "multiprocessors": device.multi_processor_count,
        "memory": device.total_memory,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "weights": options.weights,
        "moments": options.moments or options.weights,
    }
    print(", ".join(f"{key} {value}" for key, value in where.items()))
    results: list[Result] = []
    for name in options.shapes:
        results.append(measure(name, options.rounds, dtype, moments))
        r = results[-1]
        print(f"{r.shapes} ({r.tensors} tensors, {r.parameters / 1e6:.1f}M)")
        for kind, taken in r.milliseconds.items():
            low, median, high = r.ratio(kind, "torch fused AdamW")
            share = r.bandwidth(kind) / r.bandwidth("copy")
            print(
                f"  {kind:32} {statistics.median(taken):8.3f} ms   {r.bandwidth(kind) / 1e9:6.0f} GB/s "
                f"({share:4.0%} of copy)   {median:.3f} ({low:.3f}-{high:.3f}) of torch's"
            )
        torch.cuda.empty_cache()
    if options.json:
        options.json.write_text(json.dumps({"machine": where, "results": [asdict(r) for r in results]}, indent=1))


if __name__ == "__main__":
    main()
