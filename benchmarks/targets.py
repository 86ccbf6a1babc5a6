"""What a step may cost, and whether it does not: the targets, beside two runs of benchmarks/step.py.

A ratio is the median over rounds of the ratio within a round, and then over processes. A target is met where every
run that measured it meets it, and its moonshot likewise.
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


def table(first: Record | None, second: Record, footprint: Record) -> list[str]:
    """The table, of an earlier run, if there is one, and a later one."""
    runs = (first, second)
    made = [
        "| target | shapes | must | moonshot | first run | second run | result |",
        "|---|---|---|---|---|---|---|",
    ]
    for t in TARGETS:
        for shapes in t.shapes:
            ratios = [None if run is None else compared(run, shapes, t.what, t.against) for run in runs]
            made.append(_row(f"{t.what} / {t.against}", shapes, t.must, t.moonshot, ratios, "{:.3f}".format))
    ours = footprint["results"][OURS]
    extra, start = (statistics.median(row[key] for row in ours) for key in ("extra", "first"))
    beyond = max(0.0, extra - SCRATCH) / footprint["weights"]
    what = f"{OURS}: memory during a step beyond {SCRATCH >> 20} MiB, bytes a weight"
    made.append(_row(what, footprint["shapes"], 0, None, [None, beyond], "{:.3f}".format))
    what = f"{OURS}: first step in a new process, s"
    made.append(_row(what, footprint["shapes"], 0.5, 0.1, [None, start], "{:.2f}".format))
    triton = "rotational AdamW, Triton / torch AdamW fused | gpt2-124m, 1B, rows to 8,192"
    made.append(f"| {triton} | 1.15 | 1.00 and 90% of a copy's bandwidth | - | - | not measured: no GPU was at hand |")
    return made


def _row(
    what: str,
    shapes: str,
    must: float,
    moonshot: float | None,
    measured: Sequence[float | None],
    text: Callable[[float], str],
) -> str:
    shown = ["-" if x is None else text(x) for x in measured]
    goal = "" if moonshot is None else f"{moonshot:.2f}"
    return f"| {what} | {shapes} | {must:.2f} | {goal} | {' | '.join(shown)} | {verdict(measured, must, moonshot)} |"
