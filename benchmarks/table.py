"""Write the tables and the figure of docs/benchmarks.md from the raw results.

python benchmarks/table.py        reads benchmarks/results/{step,footprint}.json
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from rotational.report.figure_svg import Axes, bars, colour
from step import base, ratio

RESULTS = Path(__file__).with_name("results")
DOCS = Path(__file__).parent.parent / "docs"
BEGIN, END = "<!-- step: begin (benchmarks/table.py) -->", "<!-- step: end -->"
DRAWN = (
    "copy of 28 bytes",
    "rotational AdamW",
    "rotational AdamW, bf16 moments",
    "rotational AdamW, numba",
    "torch AdamW compiled",
    "torch AdamW for-loop",
    "torch AdamW foreach",
    "rotational AdamW, torch",
    "AdamP",
)


def summary(processes: list[dict[str, Any]], name: str) -> tuple[float, float, float, float]:
    """Median, lowest and highest ratio over processes, and the median time in milliseconds."""
    ratios = sorted(ratio(p, name) for p in processes if name in p["seconds"])
    ms = statistics.median(1e3 * s for p in processes for s in p["seconds"].get(name, ()) if s == s)
    return statistics.median(ratios), ratios[0], ratios[-1], ms


def steps(record: dict[str, Any]) -> list[str]:
    """A table for each set of shapes."""
    made: list[str] = []
    for shapes, result in record["results"].items():
        processes = result["processes"]
        made += [
            f"**{shapes}**: {result['tensors']} tensors, {result['weights'] / 1e6:.2f}M weights, "
            f"{len(processes)} processes",
            "",
            "| what steps | ms | ratio | range over processes | to |",
            "|---|---|---|---|---|",
        ]
        for name in processes[0]["seconds"]:
            middle, low, high, ms = summary(processes, name)
            many = sum(name in p["seconds"] for p in processes) > 1
            spread = f"{low:.2f} to {high:.2f}" if many else "one process"
            made.append(f"| {name} | {_short(ms)} | {middle:.2f} | {spread} | {base(name)} |")
        made += ["", *(f"{name} was left out: {why}." for name, why in processes[0]["missing"].items()), ""]
    return made


def _short(ms: float) -> str:
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.3g}"


def footprint(record: dict[str, Any]) -> list[str]:
    """Memory and first steps."""
    made = [
        f"On {record['shapes']} ({record['weights'] / 1e6:.1f}M weights), each in processes of its own, medians of "
        f"{len(next(iter(record['results'].values())))}:",
        "",
        "| what steps | first step, ms | second, ms | memory beyond what stays, MiB | bytes a weight |",
        "|---|---|---|---|---|",
    ]
    for name, rows in record["results"].items():
        first, second, extra = (statistics.median(row[key] for row in rows) for key in ("first", "second", "extra"))
        cells = (
            f"{1e3 * first:.0f}",
            f"{1e3 * second:.0f}",
            f"{extra / 2**20:.1f}",
            f"{extra / record['weights']:.3f}",
        )
        made.append(f"| {name} | {' | '.join(cells)} |")
    return made


def picture(record: dict[str, Any], shapes: str) -> str:
    """The ratios on one model as bars."""
    processes = record["results"][shapes]["processes"]
    drawn = [
        (name, *summary(processes, name)[:3], colour(0 if name.startswith("rotational") else 5))
        for name in DRAWN
        if name in processes[0]["seconds"]
    ]
    axes = Axes("", "time of a step, torch's fused AdamW = 1")
    return bars(f"Time of a step on {shapes}, beside torch's fused AdamW", axes, drawn)


def main() -> None:
    record = json.loads((RESULTS / "step.json").read_text())
    where = record["machine"]
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    (DOCS / "benchmarks.svg").write_text(picture(record, "gpt2-30m"), encoding="utf-8")
    inside = [
        "",
        f"{where['processor']}, {where['cores']} cores, {where['threads']} threads, torch {where['torch']}, "
        f"Python {where['python']}; load before the run {where['load']}.",
        "",
        "![Time of a step beside torch's fused AdamW](benchmarks.svg)",
        "",
        *steps(record),
        *footprint(json.loads((RESULTS / "footprint.json").read_text())),
        "",
    ]
    (DOCS / "benchmarks.md").write_text(before + BEGIN + "\n".join(inside) + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
