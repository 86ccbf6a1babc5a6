"""What a step takes beside time: memory while it runs, and how long a new process waits for its first one.

    python benchmarks/footprint.py [--shapes gpt2-30m] [--json FILE]

Memory is the highest resident set during ten steps over the one before them (Linux only); the first step is timed from
the end of the optimizer's constructor, and the constructor beside torch's own, in processes of their own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from machine import machine
from rivals import CONTENDERS, Gradients
from shapes import SHAPES

NAMES = (
    "torch AdamW fused",
    "torch AdamW foreach",
    "rotational AdamW",
    "rotational AdamW, bf16 moments",
    "rotational AdamW, numba",
    "rotational AdamW, torch",
)


def resident(what: str) -> int:
    """Bytes that the system has given this process: now (`VmRSS`), or at most since it was last asked (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024


def one(name: str, shapes: str) -> dict[str, float]:
    params = Gradients(SHAPES[shapes]).params
    start = time.perf_counter()
    step = CONTENDERS[name](params, SHAPES[shapes])
    built = time.perf_counter()
    step()
    first = time.perf_counter()
    step()
    second = time.perf_counter()
    for _ in range(3):
        step()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident("VmRSS")
    for _ in range(10):
        step()
    extra = max(0, resident("VmHWM") - before)
    return {"build": built - start, "first": first - built, "second": second - first, "extra": extra}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=SHAPES, default="gpt2-30m")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alone", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(one(options.alone, options.shapes)))
        return
    weights = sum(torch.Size(s).numel() for s, _ in SHAPES[options.shapes])
    results: dict[str, list[dict[str, float]]] = {}
    for name in NAMES:
        for _ in range(options.processes):
            command = [sys.executable, __file__, "--shapes", options.shapes, "--alone", name]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results.setdefault(name, []).append(json.loads(said.splitlines()[-1]))
        median = {key: statistics.median(r[key] for r in results[name]) for key in results[name][0]}
        print(
            f"{name:34} first step {1e3 * median['first']:8.1f} ms, second {1e3 * median['second']:8.1f} ms, "
            f"{median['extra'] / 2**20:7.1f} MiB beyond what stays ({median['extra'] / weights:.3f} bytes a weight)"
        )
    if options.json:
        record = {"machine": machine(), "shapes": options.shapes, "weights": weights, "results": results}
        options.json.write_text(json.dumps(record))


if __name__ == "__main__":
    main()
