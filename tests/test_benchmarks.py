"""What benchmarks/ writes of its raw results: which targets are met, and pages that say what the results say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
NAMES = ("machine", "shapes", "rivals", "step", "targets", "table")


@pytest.fixture
def benchmarks(monkeypatch) -> Iterator[dict[str, ModuleType]]:
    """The scripts as modules: they see each other, and no other test sees them."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield {name: __import__(name) for name in NAMES}
    for name in NAMES:
        del sys.modules[name]


def record(shapes, processes=5, **seconds):
    each = {name.replace("_", " "): values for name, values in seconds.items()}
    return {"results": {shapes: {"processes": [{"seconds": each}] * processes}}}


def test_a_ratio_is_the_median_within_rounds_over_enough_processes(benchmarks):
    compared, nan = benchmarks["targets"].compared, float("nan")
    taken = {"ours": [2.0, 30.0, 9.0, nan], "theirs": [1.0, 10.0, 1.0, 5.0]}  # ratios 2, 3 and 9; means would say 2.6
    assert compared(record("vit", **taken), "vit", "ours", "theirs") == 3
    assert compared(record("vit", processes=4, **taken), "vit", "ours", "theirs") is None
    assert compared(record("vit", **taken), "moe", "ours", "theirs") is None
    assert compared(record("vit", **taken), "vit", "ours", "others") is None


@pytest.mark.parametrize(
    ("measured", "says"),
    [
        ([1.05, 0.8], "met"),
        ([1.051, 0.8], "missed"),
        ([0.8, 1.051], "missed"),
        ([0.9, 0.9], "moonshot"),
        ([None, 0.9], "moonshot"),
        ([None, 0.91], "met"),
        ([None, None], "not measured"),
    ],
)
def test_what_is_met_is_met_in_every_run(benchmarks, measured, says):
    assert benchmarks["targets"].verdict(measured, 1.05, 0.9) == says


def test_measuring_is_compared_with_the_same_step_and_what_is_missing_is_said(benchmarks):
    step = {name: [second] for name, second in [("torch AdamW fused", 1.0), ("rotational AdamW", 2.0)]}
    step["rotational AdamW, measuring"] = [2.04]
    run = {"results": {"gpt2-30m": {"processes": [{"seconds": step}] * 5}}}
    foot = {"shapes": "gpt2-30m", "weights": 1 << 20, "results": {"rotational AdamW": [{"extra": 3 << 20, "first": 1}]}}
    lines = benchmarks["targets"].table(None, run, foot)
    assert "| rotational AdamW / torch AdamW fused | gpt2-30m | 1.05 | 0.90 | - | 2.000 | missed |" in lines
    assert "| rotational AdamW, measuring / rotational AdamW | gpt2-30m | 1.03 | 1.00 | - | 1.020 | met |" in lines
    assert "| rotational SGD / torch SGD fused | gpt2-30m | 1.10 | 0.95 | - | - | not measured |" in lines
    assert sum("2.000 | missed" in line for line in lines) == 2  # the memory beyond what does not grow, too
    assert "no GPU was at hand" in lines[-1]


def test_the_page_says_what_the_results_say(benchmarks):
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    table = benchmarks["table"]
    assert table.written(page) == page, "write it anew: python benchmarks/table.py"
    assert table.picture(table.read("step"), "gpt2-30m") == (ROOT / "docs" / "benchmarks.svg").read_text("utf-8")
    for shapes, result in table.read("step")["results"].items():
        assert f"**{shapes}**: {result['tensors']} tensors" in page
    with pytest.raises(ValueError, match="monitor: begin"):
        table.written(page.replace("<!-- monitor: begin", ""))


def test_watching_is_a_row_for_each_case(benchmarks):
    seconds = {"without": [1.0, 2.0, 3.0], "not logged": [1.0, 2.0, 3.0], "every=10": [1.5, 2.2, 30.0]}
    seconds["logged step"] = [2.0, 4.0, 7.0]
    case = {"tensors": 2, "neurons": 1234, "parameters": 2_000_000, "seconds": seconds}
    lines = benchmarks["table"].watching({"results": [{"case": c, **case} for c in ("optimizer", "training")]})
    assert lines[2].endswith("(2000 ms; 2.0M weights, 1,234 neurons) | 1.00 | 1.50 | 2.00 |")
    assert len(lines) == 4


def test_the_machine_names_the_commit_where_there_is_one(benchmarks, monkeypatch):
    machine = benchmarks["machine"]
    made = machine.machine()
    json.dumps(made)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    if head.returncode:
        assert made["commit"] is None
    else:
        assert head.stdout.startswith(made["commit"].removesuffix("-dirty"))
    monkeypatch.setattr(machine, "__file__", "/machine.py")
    assert machine.commit() is None
    monkeypatch.setenv("PATH", "")
    assert machine.commit() is None
