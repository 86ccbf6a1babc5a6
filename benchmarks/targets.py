"""What a step may cost, and whether it does not: the targets, beside two runs of benchmarks/step.py.

A ratio is the median over rounds of the ratio within a round, and then over processes. A target is met where every
run that measured it meets it, and its moonshot likewise. Beside each ratio stand the milliseconds of what it is
compared with: where memory has two speeds, they say at which a run was.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]

PROCESSES = 5
"""A ratio over fewer of them is no measurement."""
SCRATCH = 1 << 20
"""Bytes of memory during a step that do not grow with the model."""

OURS, FUSED = "rotational AdamW", "torch AdamW fused"
LARGE = ("gpt2-30m", "resnet50")


@dataclass(frozen=True)
class Target:
    """Time of a step over another's, on each of some shapes: at most `must`, and at best `moonshot`."""

    what: str
    against: str
    shapes: Sequence[str]
    must: float
    moonshot: float


GPU = ("gpt2-124m", "1b", "rows-8192")
"""Shapes of benchmarks/gpu.py; its target is 1.15, its moonshot 1.00 and this share of a copy's bandwidth."""
BANDWIDTH = 0.90

TARGETS = (
    Target(OURS, FUSED, LARGE, 1.05, 0.90),
    Target(OURS, FUSED, ("resnet20",), 0.35, 0.20),
    Target(f"{OURS}, bf16 moments", FUSED, (*LARGE, "resnet20"), 0.80, 0.70),
    Target(OURS, FUSED, ("rows of 9", "rows of 27", "whole tensors"), 1.5, 1.1),
    Target("rotational SGD", "torch SGD fused", (*LARGE, "resnet20"), 1.10, 0.95),
    Target("rotational Lion", "Lion foreach", (*LARGE, "resnet20"), 0.50, 0.30),
    Target(f"{OURS}, measuring", OURS, (*LARGE, "resnet20", "vit", "moe"), 1.03, 1.00),
    Target(f"{OURS}, torch", FUSED, LARGE, 3.5, 2.5),
)


def compared(record: Record, shapes: str, name: str, against: str) -> float | None:
    """How many times as long a step of `name` takes as one of `against`; None where too little was measured."""
    processes = record["results"].get(shapes, {"processes": ()})["processes"]
    both = [p["seconds"] for p in processes if name in p["seconds"] and against in p["seconds"]]
    if len(both) < PROCESSES:
        return None
    return statistics.median(
        statistics.median(a / b for a, b in zip(p[name], p[against], strict=True) if a == a and b == b) for p in both
    )


def milliseconds(record: Record, shapes: str, name: str) -> float | None:
    """How long a step of `name` takes: median over rounds, and then over processes."""
    processes = record["results"].get(shapes, {"processes": ()})["processes"]
    taken = [[1e3 * s for s in p["seconds"][name] if s == s] for p in processes if name in p["seconds"]]
    return statistics.median(map(statistics.median, taken)) if taken else None


def verdict(measured: Iterable[float | None], must: float, moonshot: float | None) -> str:
    """What all runs that measured it say.

    >>> verdict([0.95, 1.02], 1.05, 0.90), verdict([0.8, None], 1.05, 0.90), verdict([0.8, 1.06], 1.05, 0.90)
    ('met', 'moonshot', 'missed')
    """
    known = [x for x in measured if x is not None]
    if not known:
        return "not measured"
    if max(known) > must:
        return "missed"
    return "moonshot" if moonshot is not None and max(known) <= moonshot else "met"


def table(first: Record | None, second: Record, footprint: Record, gpu: Record | None) -> list[str]:
    """The table, of an earlier run, if there is one, and a later one; what else there is was measured once."""
    runs = (first, second)
    made = [
        "| target | shapes | must | moonshot | first run | against, ms | second run | against, ms | result |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for t in TARGETS:
        for shapes in t.shapes:
            found = [None if run is None else compared(run, shapes, t.what, t.against) for run in runs]
            beside = [None if run is None else milliseconds(run, shapes, t.against) for run in runs]
            made.append(_row(f"{t.what} / {t.against}", shapes, t.must, t.moonshot, found, "{:.3f}".format, beside))
    ours = footprint["results"][OURS]
    extra, start = (statistics.median(row[key] for row in ours) for key in ("extra", "first"))
    beyond = max(0.0, extra - SCRATCH) / footprint["weights"]
    what = f"{OURS}: memory during a step beyond {SCRATCH >> 20} MiB, bytes a weight"
    made.append(_row(what, footprint["shapes"], 0, None, [None, beyond], "{:.3f}".format))
    what = f"{OURS}: first step in a new process, s"
    made.append(_row(what, footprint["shapes"], 0.5, 0.1, [None, start], "{:.2f}".format))
    return [*made, *(_on_gpu(gpu, shapes) for shapes in GPU)]


def _on_gpu(record: Record | None, shapes: str) -> str:
    """A row of what benchmarks/gpu.py measured, or that nothing was."""
    must, moonshot = 1.15, 1.00
    ratio = of = None
    said = "not measured"
    result = next((r for r in record["results"] if r["shapes"] == shapes), None) if record else None
    if result is not None:
        times, moved = result["milliseconds"], result["bytes"]
        middle = {name: statistics.median(taken) for name, taken in times.items()}
        ours, of = "rotational AdamW", middle["torch fused AdamW"]
        pairs = zip(times[ours], times["torch fused AdamW"], strict=True)
        ratio = statistics.median(a / b for a, b in pairs)
        share = moved[ours] / middle[ours] / (moved["copy"] / middle["copy"])
        said = verdict([ratio], must, moonshot if share >= BANDWIDTH else None) + f", {share:.0%} of a copy"
    what = "rotational AdamW, Triton / torch AdamW fused, on a GPU"
    goal = f"{moonshot:.2f} and {BANDWIDTH:.0%} of a copy's bandwidth"
    cells = ["-" if ratio is None else f"{ratio:.3f}", "-" if of is None else f"{of:.3g}"]
    return f"| {what} | {shapes} | {must:.2f} | {goal} | - | - | {' | '.join(cells)} | {said} |"


def _row(
    what: str,
    shapes: str,
    must: float,
    moonshot: float | None,
    measured: Sequence[float | None],
    text: Callable[[float], str],
    beside: Sequence[float | None] = (None, None),
) -> str:
    pairs = zip(measured, beside, strict=True)
    shown = [cell for x, ms in pairs for cell in ("-" if x is None else text(x), "-" if ms is None else f"{ms:.3g}")]
    goal = "" if moonshot is None else f"{moonshot:.2f}"
    return f"| {what} | {shapes} | {must:.2f} | {goal} | {' | '.join(shown)} | {verdict(measured, must, moonshot)} |"
