"""Write the tables and the figure of docs/benchmarks.md from the raw results.

python benchmarks/table.py        reads benchmarks/results/{step-1,step,footprint,monitor}.json, and gpu.json if any
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import targets
from rotational.report.figure_svg import Axes, bars, colour
from step import base, ratio

RESULTS = Path(__file__).with_name("results")
DOCS = Path(__file__).parent.parent / "docs"
CASES = {
    "training": "whole training step of the demo's GPT",
    "optimizer": "AdamW's step alone, GPT-2 small shapes",
}
"""What benchmarks/monitor.py measures."""
DRAWN = (
    "torch AdamW fused",
    "copy of 28 bytes",
    "rotational AdamW",
    "rotational AdamW, bf16 moments",
    "rotational AdamW, numba",
    "torch AdamW compiled",
    "torch AdamW for-loop",
    "torch AdamW foreach",
    "rotational AdamW, torch",
    "AdamP",
    "AdamW 8-bit",
)


def summary(processes: list[dict[str, Any]], name: str, of: str = "seconds") -> tuple[float, float, float, float]:
    """Median, lowest and highest ratio over processes, and the median time in milliseconds."""
    ratios = sorted(ratio(p, name, of) for p in processes if name in p["seconds"])
    ms = statistics.median(1e3 * s for p in processes for s in p[of].get(name, ()) if s == s)
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
            "| what steps | ms | ratio | range over processes | first, last of a turn | to |",
            "|---|---|---|---|---|---|",
        ]
        for name in processes[0]["seconds"]:
            middle, low, high, ms = summary(processes, name)
            many = sum(name in p["seconds"] for p in processes) > 1
            spread = f"{low:.2f} to {high:.2f}" if many else "one process"
            ends = ", ".join(f"{summary(processes, name, of)[0]:.2f}" for of in ("first", "last"))
            made.append(f"| {name} | {_short(ms)} | {middle:.2f} | {spread} | {ends} | {base(name)} |")
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
    """The ratios on one model, the quickest first; on a logarithmic axis, for the slowest takes fifty times as long."""
    processes = record["results"][shapes]["processes"]
    drawn: list[tuple[str, float, float, float, str]] = []
    for name in DRAWN:
        if name in processes[0]["seconds"]:
            middle, low, high = (float(f"{x:.3g}") for x in summary(processes, name)[:3])
            drawn.append((name, middle, low, high, colour(0 if name.startswith("rotational") else 5)))
    axes = Axes("", "time of a step, torch's fused AdamW = 1", log_y=True)
    return bars(f"Time of a step on {shapes}, beside torch's fused AdamW", axes, sorted(drawn, key=lambda row: row[1]))


def watching(record: dict[str, Any]) -> list[str]:
    """What watching costs: medians over blocks of the ratio within a block."""
    made = [
        "| what steps | steps that are not logged | `every=10`, all steps | the logged step itself |",
        "|---|---|---|---|",
    ]
    results = {result["case"]: result for result in record["results"]}
    for case, what in CASES.items():
        result = results[case]
        seconds, without = result["seconds"], result["seconds"]["without"]
        cells = [
            f"{statistics.median(a / b for a, b in zip(seconds[arm], without, strict=True)):.2f}"
            for arm in ("not logged", "every=10", "logged step")
        ]
        size = f"{result['parameters'] / 1e6:.1f}M weights, {result['neurons']:,} neurons"
        made.append(f"| {what} ({_short(1e3 * statistics.median(without))} ms; {size}) | {' | '.join(cells)} |")
    return made


def machine(record: dict[str, Any]) -> str:
    """What the numbers depend on, in a line."""
    where = record["machine"]
    threads = f"{where['threads']} thread{'s' if where['threads'] != 1 else ''}"
    load = ", ".join(f"{x:.2f}" for x in where["load"] or ()) or "unknown"
    gpu = f"{where['gpu']}, CUDA {where['cuda']}, Triton {where['triton']}; " if where.get("gpu") else ""
    return (
        f"{gpu}{where['processor']}, {where['cores']} cores, {threads}, torch {where['torch']}, "
        f"Python {where['python']}; load before the run {load}; {version(record)}."
    )


def version(record: dict[str, Any]) -> str:
    """The code that was measured, and whether it was just what that commit holds."""
    commit = record["machine"].get("commit")
    if not commit:
        return "commit unknown"
    clean = commit.removesuffix("-dirty")
    return f"commit {clean}" + (", with changes that were not committed" if clean != commit else "")


def read(name: str) -> dict[str, Any]:
    """A raw result."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def found(name: str) -> dict[str, Any] | None:
    """A raw result, where there is one."""
    return read(name) if (RESULTS / f"{name}.json").exists() else None


def written(page: str) -> str:
    """The page with what stands between its markers made anew."""
    step, first, foot, gpu = read("step"), found("step-1"), read("footprint"), found("gpu")
    runs = [("first run", first), ("second run", step), ("memory and first steps", foot), ("GPU", gpu)]
    beside = [
        *(f"- {what}: {machine(record)}" for what, record in runs if record is not None),
        "",
        "![Time of a step beside torch's fused AdamW](benchmarks.svg)",
        "",
        *steps(step),
        *footprint(foot),
    ]
    monitor = read("monitor")
    goals = [
        "",
        "The most that a step may cost, as a ratio of times where nothing else is said, and beside each ratio the",
        "milliseconds of what it is compared with. The first run is `step-1.json`, the second `step.json`: a ratio",
        "that is met is met in both. Memory, first steps (`footprint.json`) and GPUs (`gpu.json`) are measured once.",
        "",
        *targets.table(first, step, foot, gpu),
        "",
    ]
    page = _between(page, "step", [*goals, *beside, ""])
    return _between(page, "monitor", ["", machine(monitor), "", *watching(monitor), ""])


def _between(page: str, name: str, lines: list[str]) -> str:
    begin, end = f"<!-- {name}: begin (benchmarks/table.py) -->", f"<!-- {name}: end -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"docs/benchmarks.md: expected {begin} and {end}.")
    return "\n".join([before + begin, *lines, end + after])


def main() -> None:
    page = DOCS / "benchmarks.md"
    page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")
    (DOCS / "benchmarks.svg").write_text(picture(read("step"), "gpt2-30m"), encoding="utf-8")


if __name__ == "__main__":
    main()
