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
    lines = benchmarks["targets"].table(None, run, foot, None)
    assert "| rotational AdamW / torch AdamW fused | gpt2-30m | 1.05 | 0.90 | - | - | 2.000 | 1e+03 | missed |" in lines
    own = "| rotational AdamW, measuring / rotational AdamW | gpt2-30m | 1.03 | 1.00 | - | - | 1.020 | 2e+03 | met |"
    assert own in lines
    assert "| rotational SGD / torch SGD fused | gpt2-30m | 1.10 | 0.95 | - | - | - | - | not measured |" in lines
    assert any("bytes a weight" in line and "| 2.000 | - | missed |" in line for line in lines)  # what does grow
    assert sum("on a GPU" in line and line.endswith("| not measured |") for line in lines) == 3


def test_measuring_is_on_and_off_in_one_optimizer(benchmarks, monkeypatch):
    step, names = benchmarks["step"], ["rotational AdamW", "rotational AdamW, measuring"]
    made = []
    monkeypatch.setattr(
        step, "Gradients", lambda weights: made.append(benchmarks["rivals"].Gradients(weights)) or made[-1]
    )
    monkeypatch.setitem(step.SHAPES, "one layer", benchmarks["shapes"].rows((4, 8)))
    found = step.one("one layer", names, 1)
    assert [*found["seconds"]] == names
    assert len(made) == 1
    step.one("one layer", names[1:], 1)  # by itself it has one of its own
    assert len(made) == 2

    stepped = benchmarks["rivals"].ours("AdamW")(made[0].params, benchmarks["shapes"].rows((4, 8)))
    measured, optimizer = (
        benchmarks["rivals"].measuring(stepped, made[0].params, step.SHAPES["one layer"]),
        stepped.__self__,
    )
    for count in (1, 2, 3):
        measured()
        assert [int(state["step"]) for state in optimizer.state.values()] == [count]


def test_a_step_on_a_gpu_is_met_by_its_ratio_and_its_moonshot_by_its_bandwidth_too(benchmarks):
    step = {name: [1.0] for name in ("torch AdamW fused", "rotational AdamW")}
    run = {"results": {"gpt2-30m": {"processes": [{"seconds": step}] * 5}}}
    foot = {"shapes": "gpt2-30m", "weights": 1, "results": {"rotational AdamW": [{"extra": 0, "first": 1}]}}

    def rows(ours, copy):
        times = {"torch fused AdamW": [1.0, 2.0, 8.0], "rotational AdamW": ours, "copy": [copy] * 3}
        result = {"shapes": "1b", "milliseconds": times, "bytes": {"rotational AdamW": 28, "copy": 28}}
        lines = benchmarks["targets"].table(None, run, foot, {"results": [result]})
        return [line for line in lines if "on a GPU" in line]

    one = rows([1.1, 1.9, 7.0], 1.8)  # within rounds 1.1, 0.95 and 0.875; of a copy 1.8/1.9
    assert [line.endswith("| not measured |") for line in one] == [True, False, True]
    assert "| - | - | 0.950 | 2 | moonshot, 95% of a copy |" in one[1]
    assert rows([1.1, 1.9, 7.0], 1.0)[1].endswith("| met, 53% of a copy |")
    assert rows([1.2, 2.4, 7.0], 2.3)[1].endswith("| 1.200 | 2 | missed, 96% of a copy |")


def test_a_page_names_each_commit_and_what_was_not_committed(benchmarks):
    table = benchmarks["table"]
    where = {"processor": "P", "cores": 2, "threads": 1, "load": [0.5], "python": "3", "torch": "2"}
    said = {c: table.machine({"machine": {**where, "commit": c}}) for c in ("abc", "abc-dirty", None)}
    assert said["abc"] == "P, 2 cores, 1 thread, torch 2, Python 3; load before the run 0.50; commit abc."
    assert said["abc-dirty"].endswith("commit abc, with changes that were not committed.")
    assert said[None].endswith("commit unknown.")
    gpu = table.machine({"machine": {**where, "commit": "abc", "gpu": "H200", "cuda": "12.8", "triton": "3.7"}})
    assert gpu.startswith("H200, CUDA 12.8, Triton 3.7; P, 2 cores")


def test_the_page_says_what_the_results_say(benchmarks):
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    table = benchmarks["table"]
    assert table.written(page) == page, "write it anew: python benchmarks/table.py"
    assert table.picture(table.read("step"), "gpt2-30m") == (ROOT / "docs" / "benchmarks.svg").read_text("utf-8")
    for name in ("step-1", "step", "footprint"):
        assert f"commit {table.read(name)['machine']['commit'].removesuffix('-dirty')}" in page
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
