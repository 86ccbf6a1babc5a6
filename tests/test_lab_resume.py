"""How a run goes on after a kill, an interruption or a stop: the same weights and the same log, bit for bit."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from laboratory import RULES, RUN, Points, assert_equal, files, weights
from rotational.lab import resume, tasks, train
from rotational.paper.base import tiny_net
from rotational.records import CURVES_FILE, STEPS_FILE

KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from laboratory import RULES, RUN, Points
from rotational.lab import train
run = RUN.but(optimizer=RULES[{name!r}], probes=("alignment",))
def tell(state):
    if state.step == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
train.train(run, Points(run), {folder!r}, tell=tell, save=0)
"""


def kill(name: str, step: int, folder: Path) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent), name=name, step=step, folder=str(folder))
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize("name", ["adamw", "rotational sgd"])
def test_a_killed_run_ends_with_the_weights_and_the_log_of_one_that_was_not(name, tmp_path):
    run = RUN.but(optimizer=RULES[name], probes=("alignment",))
    whole, resumed = Points(run), Points(run)
    uninterrupted = train.train(run, whole, tmp_path / "whole")
    # Killed in the step after a logged one, and again where a logged step is not in the checkpoint.
    kill(name, 10, tmp_path / "killed")
    kill(name, 15, tmp_path / "killed")
    steps: list[int] = []
    outcome = train.train(run, resumed, tmp_path / "killed", tell=lambda s: steps.append(s.step))
    assert steps == list(range(15, 25))
    assert_equal(weights(whole.model), weights(resumed.model))
    assert outcome.metrics == uninterrupted.metrics
    a, b = files(tmp_path / "whole"), files(tmp_path / "killed")
    if name == "rotational sgd":
        # Its step writes down what it turns, all but the first after loading: that is measured from outside.
        lines = [[json.loads(line) for line in x.pop(STEPS_FILE).splitlines()] for x in (a, b)]
        assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
        for key in ("rotation", "norm", "update", "radial", "rotation_rms", "lr"):
            assert np.array([x[key] for x in lines[0] if x["layer"] == "0.weight"]) == pytest.approx(
                np.array([x[key] for x in lines[1] if x["layer"] == "0.weight"]), rel=1e-3, abs=1e-4
            )
    assert a == b


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("at", [1, 7, 9])
def test_a_stopped_run_goes_on(name, at, tmp_path):
    run = RUN.but(optimizer=RULES[name], probes=("norms",) if name in ("lion", "muon") else ("radial", "norms"))
    whole, resumed = Points(run), Points(run)
    uninterrupted = train.train(run, whole, tmp_path / "whole")
    count = itertools.count(1)
    stopped = train.train(run, Points(run), tmp_path / "log", stop=lambda: next(count) == at)
    assert (stopped.step, stopped.done, stopped.result, stopped.metrics) == (at, False, None, {})
    outcome = train.train(run, resumed, tmp_path / "log")
    assert_equal(weights(whole.model), weights(resumed.model))
    assert outcome.metrics == uninterrupted.metrics
    assert files(tmp_path / "whole") == files(tmp_path / "log")
    assert outcome.seconds > stopped.seconds


@pytest.mark.parametrize("at", range(1, 9))
def test_a_log_is_cut_and_joined_whatever_file_a_kill_stops_at(at, tmp_path, monkeypatch):
    run = RUN
    train.train(run, Points(run), tmp_path / "whole")
    count = itertools.count(1)
    train.train(run, Points(run), tmp_path / "log", stop=lambda: next(count) == 14)
    left = itertools.count(1)

    def failing(real):
        def call(*arguments, **options):
            if next(left) == at:
                raise InterruptedError("killed here")
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(resume, "write", failing(resume.write))
        patch.setattr(resume.os, "replace", failing(os.replace))
        patch.setattr(Path, "unlink", failing(Path.unlink))
        try:
            train.train(run, Points(run), tmp_path / "log")
        except InterruptedError:
            assert next(left) > at
    if (tmp_path / "log" / resume.CHECKPOINT).is_file():
        train.train(run, Points(run), tmp_path / "log")
    assert files(tmp_path / "whole") == files(tmp_path / "log")


@pytest.mark.parametrize("name", ["sgd", "adamw", "rotational"])
def test_a_run_goes_on_from_moments_that_lie_otherwise(name, tmp_path):
    rule = RULES["sgd" if name == "sgd" else "adamw"]
    run = tiny_net().but(optimizer=rule, optimizer__rotational=name == "rotational")
    whole, stopped, resumed = (tasks.build(run, None) for _ in range(3))
    asked = itertools.count(1)
    train.train(run, whole, tmp_path / "whole")
    train.train(run, stopped, tmp_path / "parts", stop=lambda: next(asked) == 5)
    path = tmp_path / "parts" / resume.CHECKPOINT
    saved, changed = torch.load(path, weights_only=True), 0
    for state in saved["optimizer"]["state"].values():
        for key, x in state.items():
            if torch.is_tensor(x) and not x.is_contiguous():
                state[key], changed = x.contiguous(), changed + 1  # as a GPU or shards leave them
    assert changed
    torch.save(saved, path)
    train.train(run, resumed, tmp_path / "parts")
    assert_equal(weights(whole.model), weights(resumed.model))


def test_without_checkpoints_a_stopped_run_is_closed_where_it_is(tmp_path):
    count = itertools.count(1)
    task = Points(RUN)
    outcome = train.train(RUN, task, tmp_path, stop=lambda: next(count) == 5, save=math.inf, test=False)
    assert (outcome.step, outcome.done, outcome.diverged) == (5, False, False)
    assert task.evaluated == ["validation"]
    assert json.loads((tmp_path / CURVES_FILE).read_text().splitlines()[-1])["step"] == 5
    assert not (tmp_path / resume.CHECKPOINT).exists()


def test_a_log_that_is_not_this_runs_is_left_alone(tmp_path):
    train.train(RUN, Points(RUN), tmp_path, save=math.inf)
    before = files(tmp_path)
    for save in (math.inf, 60):
        with pytest.raises(FileExistsError, match="already holds a log"):
            train.train(RUN, Points(RUN), tmp_path, save=save)
    assert files(tmp_path) == before


def test_a_checkpoint_that_cannot_be_gone_on_with_is_a_sentence(tmp_path):
    count = itertools.count(1)
    train.train(RUN, Points(RUN), tmp_path, stop=lambda: next(count) == 4)
    before = files(tmp_path)
    other = RUN.but(seed=1)
    with pytest.raises(ValueError, match=f"checkpoint.pt: a checkpoint of the run {RUN.key}, not of {other.key}"):
        train.train(other, Points(other), tmp_path)
    path = tmp_path / resume.CHECKPOINT
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"checkpoint.pt is damaged .*remove it to begin the run anew"):
        train.train(RUN, Points(RUN), tmp_path)
    assert files(tmp_path) == before
