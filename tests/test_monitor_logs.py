"""The log of a run: arguments that are refused, divergence, reports while it goes on, kills and other processes."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from rotational import records, rules
from rotational.monitor import watch
from rotational.neurons import Neurons
from rotational.records import RUN_FILE, STEPS_FILE, Records
from watching import is_unhooked, net, noisy, train


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)


# Logs ------------------------------------------------------------------------------------------


def test_training_that_diverges_is_logged_as_null() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, every=1, keep=2) as log:
        train(model, optimizer, 1)
        noisy(model)
        model[0].weight.grad[3] = math.nan
        model[2].weight.grad[:] = math.inf
        optimizer.step()
    lines = [
        json.loads(line, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
        for line in (log.path / STEPS_FILE).read_text().splitlines()
    ]
    assert [line["rotation_rms"] is None for line in lines] == [False, False, True, True]
    series = log.read().series("2.weight")
    assert np.isnan(series.rotation).tolist() == [[False] * 2, [True] * 2]
    assert np.isfinite(log.read().series("0.weight").rotation).all()  # neuron 3 is not among those kept
    assert np.isnan(log.read().series("0.weight").quantiles[1]).all()
    assert math.isnan(log.latest or 0)
    assert pd.read_json(log.path / STEPS_FILE, lines=True).rotation_rms.isna().tolist() == [False, False, True, True]


def test_lengths_beyond_the_range_of_floats_are_null_too() -> None:
    model = net().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model[0].weight.data[1] = 1e200
    with watch(model, optimizer, every=1) as log:
        train(model, optimizer, 1)
    series = log.read().series("0.weight")
    assert np.isnan(series.norm[0]).tolist() == [False, True, False, False, False]
    assert np.isnan(series.norm_rms[0])


def test_report_of_a_run_and_of_one_that_goes_on(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.5)
    with watch(model, optimizer, every=5, title="small <net>", notes={"seed": 0}) as log:
        assert log.report("empty.html") == Path("empty.html")
        train(model, optimizer, 10)
        assert log.read().series("0.weight").step.tolist() == [5, 10]
        halfway = log.report(title="halfway").read_text()
        train(model, optimizer, 10)
    page = log.report(tmp_path / "done.html").read_text()
    assert Path("rotation.html").exists()
    assert "<title>halfway</title>" in halfway
    assert "<title>small &lt;net&gt;</title>" in page
    assert log.read().run.notes == {"seed": 0}


# A killed run, and other processes --------------------------------------------------------------------------------

KILLED = """
import os, signal, torch
from rotational import watch
model = torch.nn.Linear(6, 4)
optimizer = torch.optim.AdamW(model.parameters())
log = watch(model, optimizer, every=2, path="killed")
for t in range(1, 100):
    model.weight.grad = torch.randn_like(model.weight)
    optimizer.step()
    if t == 7:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_all_that_it_logged() -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert Records("killed").series("weight").step.tolist() == [2, 4, 6]
    with open(Path("killed") / STEPS_FILE, "a") as file:
        file.write('{"layer": "weight", "step": 8')
    assert Records("killed").series("weight").step.tolist() == [2, 4, 6]


SHARDED = """
import os, sys, torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from rotational import watch

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + os.path.abspath("rendezvous"), rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
for axis in (0, 1):
    torch.manual_seed(0)
    whole = torch.nn.Linear(8, 6, bias=False)
    gradient = torch.randn(6, 8)
    sharded = torch.nn.Linear(8, 6, bias=False)
    sharded.weight = torch.nn.Parameter(distribute_tensor(whole.weight.detach().clone(), mesh, [Shard(axis)]))
    whole.weight.grad, sharded.weight.grad = gradient, distribute_tensor(gradient, mesh, [Shard(axis)])
    for name, model in (("whole", whole), ("sharded", sharded)):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.5)
        with watch(model, optimizer, every=1, path=f"{name}-{axis}-{rank}"):
            optimizer.step()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_sharded_weights_are_measured_whole() -> None:
    ranks = [subprocess.Popen([sys.executable, "-W", "ignore", "-c", SHARDED, str(rank)]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    for axis in (0, 1):
        for rank in (0, 1):
            whole, sharded = (Records(f"{name}-{axis}-{rank}").series("weight") for name in ("whole", "sharded"))
            for k in records.SERIES:
                np.testing.assert_allclose(getattr(sharded, k), getattr(whole, k), rtol=2e-4)


# Arguments ----------------------------------------------------------------------------------------------------------

MODEL = net()
OTHER = net()
DRIVES = torch.optim.AdamW(MODEL.parameters())

WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "another model": ({"model": OTHER}, ValueError, "the optimizer drives none of the model's neurons"),
    "no neurons": ({"model": nn.LayerNorm(3)}, ValueError, "drives none"),
    "all overridden": ({"overrides": {"*": None}}, ValueError, "drives none"),
    "swapped": ({"model": DRIVES, "optimizer": MODEL}, TypeError, "The model comes first"),
    "two optimizers": ({"optimizer": [DRIVES, DRIVES]}, TypeError, "one log for each"),
    "a wrapper of nothing": ({"optimizer": nn.Linear(1, 1)}, TypeError, r"expected a torch\.optim\.Optimizer"),
    "model of another kind": ({"model": "gpt"}, TypeError, r"expected a torch\.nn\.Module, got str"),
    "every 0": ({"every": 0}, ValueError, r"watch\(every=0\): expected a whole number with every >= 1"),
    "every negative": ({"every": -5}, ValueError, "every >= 1"),
    "every between": ({"every": 2.5}, ValueError, r"watch\(every=2.5\): expected a whole number"),
    "every a flag": ({"every": True}, TypeError, "expected a number, got bool"),
    "every a word": ({"every": "10"}, TypeError, "expected a number, got str"),
    "every nothing": ({"every": None}, TypeError, "expected a number"),
    "every infinite": ({"every": math.inf}, ValueError, "whole number"),
    "keep 0": ({"keep": 0}, ValueError, r"watch\(keep=0\)"),
    "keep between": ({"keep": 1.5}, ValueError, "whole number"),
    "rule by name": ({"rule": "adamw"}, TypeError, r"expected a Rule, such as rotational\.rules\.adamw"),
    "rule not made": ({"rule": rules.adamw}, TypeError, "expected a Rule"),
    "unknown override": ({"overrides": {"nothing": None}}, ValueError, "no parameter has such a name"),
    "override that does not fit": ({"overrides": {"0.weight": Neurons(axes=(4,))}}, ValueError, "has only 2 axes"),
    "notes that are no data": ({"notes": {"path": Path("x")}}, TypeError, r"watch\(notes=\.\.\.\)"),
    "notes that are no mapping": ({"notes": 3}, TypeError, r"watch\(notes=3\): expected a dict"),
    "title that is no text": ({"title": 3}, TypeError, r"watch\(title=3\): expected a string"),
    "path that is no path": ({"path": 3}, TypeError, r"watch\(path=3\): expected a path"),
    "path of a file": ({"path": "file"}, FileExistsError, "a file has this name"),
    "path of a log": ({"path": "log"}, FileExistsError, "already holds a log"),
}


@pytest.fixture
def occupied(tmp_path: Path) -> Iterator[Callable[[], dict[str, str]]]:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / RUN_FILE).write_text("precious")
    return lambda: {str(p): p.read_text() for p in tmp_path.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("wrong", "error", "sentence"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_sentences_and_leave_nothing_behind(
    wrong: dict[str, Any], error: type[Exception], sentence: str, occupied: Callable[[], dict[str, str]]
) -> None:
    before = occupied()
    with pytest.raises(error, match=sentence):
        watch(**{"model": MODEL, "optimizer": DRIVES, **wrong})
    assert occupied() == before
    assert {p.name for p in Path().iterdir()} == {"file", "log"}
    assert is_unhooked(DRIVES)


def test_whole_numbers_of_other_kinds_are_welcome() -> None:
    with watch(MODEL, DRIVES, every=np.int64(4), keep=2.0) as log:
        assert log.every == 4
    assert log.read().run.every == 4


def test_log_is_found_after_a_change_of_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    with watch(MODEL, DRIVES, every=1, path="here") as log:
        monkeypatch.chdir("/")
        train(MODEL, DRIVES, 1)
        assert log.read().series("0.weight").step.tolist() == [1]
