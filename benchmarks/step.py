"""What a rotational step costs, beside torch's own and others': all step in turns in one process, several processes.

    python benchmarks/step.py [--shapes gpt2-30m resnet20] [--only "rotational AdamW"] [--rounds 16] [--processes 5]
                              [--threads 2] [--json FILE]

Times drift with whatever else a machine does, and by more from process to process. So every optimizer steps in every
round, in alternating order; a process reports the median over its rounds of the ratio to the fused optimizer of torch,
and what counts is the median over processes. A turn is ten milliseconds, and before it the caches are filled with
something else, as a backward pass does: what somebody finds there of its own depends on nobody's place in the order.
Packages that are not installed are left out, with the reason.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from machine import machine
from rivals import BASE, CONTENDERS, SAME, Gradients, MissingError, Step, measuring
from shapes import SHAPES

EVERYWHERE = ("torch AdamW fused", "rotational AdamW")
SLOW = ("torch AdamW for-loop", "torch AdamW compiled", "AdamP", "AdamW 8-bit")
"""Minutes for a process: they step in one of them only, and in every third round."""
OF = ("seconds", "first", "last")
"""Seconds of the steps of a turn, which are their mean, of its first and of its last."""
ELSEWHERE = 1 << 25
"""Numbers that are written before a turn: 128 MB, more than the caches of what is measured on hold."""


def contenders(shapes: str, first: bool) -> list[str]:
    """Who steps on these shapes, in the first process and in the others."""
    if shapes in ("rows of 9", "rows of 27", "whole tensors", "columns"):
        return [*EVERYWHERE, "plain AdamW, native"]
    if shapes == "gpt2-124m":  # as many copies as fit a small machine
        return [*EVERYWHERE, "rotational AdamW, bf16 moments", "copy of 28 bytes"]
    if shapes in ("vit", "moe"):
        return [*EVERYWHERE, "torch AdamW foreach", "rotational AdamW, bf16 moments", "rotational AdamW, measuring"]
    return [name for name in CONTENDERS if first or name not in SLOW]


def base(name: str) -> str:
    """What a contender is compared with."""
    kind = next((kind for kind in ("SGD", "Lion") if kind in name), "AdamW")
    return BASE[kind]


def one(shapes: str, names: list[str], rounds: int) -> dict[str, Any]:
    """Seconds of a step in every turn of this process, by contender."""
    # As any forward pass does: until something large has been freed, glibc returns every temporary to the system, and
    # its page faults are what would be measured.
    torch.empty(1 << 22)
    steps: dict[str, tuple[Gradients, Step]] = {}
    missing: dict[str, str] = {}
    for name in names:
        try:
            if SAME.get(name) in steps:
                gradients, step = steps[SAME[name]]
                step = measuring(step, gradients.params, SHAPES[shapes])
            else:
                gradients = Gradients(SHAPES[shapes])
                step = CONTENDERS[name](gradients.params, SHAPES[shapes])
            timed(gradients, step, 3)  # makes the state, and what is kept from step to step
            steps[name] = gradients, step
        except MissingError as reason:
            missing[name] = str(reason)
        except Exception as error:  # another package, on a machine that it does not know
            if name.startswith(("torch", "rotational", "plain", "copy")):
                raise
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    repeats = {name: max(1, round(0.02 / sum(timed(*step, 2)))) for name, step in steps.items()}
    taken: dict[str, dict[str, list[float]]] = {of: {name: [] for name in steps} for of in OF}
    elsewhere = torch.empty(ELSEWHERE)
    for i in range(rounds):
        for name in list(steps)[:: 1 if i % 2 else -1]:
            turn = [float("nan")]
            if i % 3 == 0 or name not in SLOW:
                elsewhere.fill_(i)
                turn = timed(*steps[name], repeats[name])
            for of, seconds in zip(OF, (statistics.fmean(turn), turn[0], turn[-1]), strict=True):
                taken[of][name].append(seconds)
    return {**taken, "missing": missing}


def timed(gradients: Gradients, step: Step, repeats: int) -> list[float]:
    """Seconds of each of so many steps; new gradients are not counted."""
    taken: list[float] = []
    for _ in range(repeats):
        gradients()
        start = time.perf_counter()
        step()
        taken.append(time.perf_counter() - start)
    return taken


def ratio(process: dict[str, Any], name: str, of: str = "seconds") -> float:
    """Median over rounds of the ratio within a round."""
    pairs = zip(process[of][name], process[of][base(name)], strict=True)
    return statistics.median(a / b for a, b in pairs if a == a)


def apart(shapes: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The same in processes of their own, one after the other."""
    found: list[dict[str, Any]] = []
    for number in range(options.processes):
        with tempfile.TemporaryDirectory() as folder:
            to = Path(folder, "one.json")
            command = [sys.executable, __file__, "--shapes", shapes, "--alone", str(to)]
            command += ["--rounds", str(options.rounds), "--threads", str(options.threads)]
            command += ["--only", *options.only] if options.only else []
            command += ["--first"] if number == 0 else []
            subprocess.run(command, check=True)
            found.append(json.loads(to.read_text()))
    return found


def show(shapes: str, processes: list[dict[str, Any]]) -> None:
    """A line for each contender."""
    count = sum(torch.Size(s).numel() for s, _ in SHAPES[shapes])
    print(f"{shapes}: {len(SHAPES[shapes])} tensors, {count / 1e6:.2f}M weights")
    for name in processes[0]["seconds"]:
        ratios = sorted(ratio(p, name) for p in processes if name in p["seconds"])
        ms = statistics.median(1e3 * s for p in processes for s in p["seconds"].get(name, ()) if s == s)
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        print(f"  {name:34} {ms:9.3f} ms   {statistics.median(ratios):6.3f} of {base(name)}   ({spread})")
    for name, why in processes[0]["missing"].items():
        print(f"  {name:34} left out: {why}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=[s for s in SHAPES if s != "gpt2-124m"])
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, help="these, and what they are compared with")
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the times of every round, and the machine, to this file")
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.alone:
        warnings.simplefilter("ignore")
        (shapes,) = options.shapes
        names = contenders(shapes, options.first)
        if options.only:
            wanted = {*options.only, *map(base, options.only)}
            names = [name for name in CONTENDERS if name in wanted]
        options.alone.write_text(json.dumps(one(shapes, names, options.rounds)))
        return
    record: dict[str, Any] = {"machine": machine(), "rounds": options.rounds, "results": {}}
    print(", ".join(f"{key} {value}" for key, value in record["machine"].items()))
    for shapes in options.shapes:
        processes = apart(shapes, options)
        show(shapes, processes)
        record["results"][shapes] = {
            "tensors": len(SHAPES[shapes]),
            "weights": sum(torch.Size(s).numel() for s, _ in SHAPES[shapes]),
            "processes": processes,
        }
        if options.json:  # after each, so that a run that is stopped keeps what it has
            options.json.write_text(json.dumps(record, indent=None))


if __name__ == "__main__":
    main()
