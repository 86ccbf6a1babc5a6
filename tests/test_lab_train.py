"""The one training loop: what comes of a run, how it ends, and how several processes take it together."""

from __future__ import annotations

import itertools
import math
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from laboratory import RULES, RUN, Points, assert_equal, files, weights
from rotational.lab import results, tasks, train
from rotational.lab.declare import Data, Model
from rotational.records import Records

# How a run ends -------------------------------------------------------------------------------------------------


def test_a_run_measures_evaluates_and_tells(tmp_path):
    task = Points(RUN)
    told: list[train.State] = []
    outcome = train.train(RUN, task, tmp_path / "log", tell=told.append)
    assert [s.step for s in told] == list(range(1, 25))
    assert told[-1].rotation > 0
    assert task.evaluated == ["validation"] * 3 + ["test"]
    result = outcome.result
    assert (result.steps, result.diverged, result.score, result.higher) == (24, False, "accuracy", True)
    assert result.curves["val_accuracy"].step.tolist() == [8, 16, 24]
    assert result.curves["val_loss"].value[-1] == result.metrics["validation"]["loss"]
    assert result.scored() == result.metrics["test"]["accuracy"]
    assert [x.name for x in result.layers] == ["0.weight", "4.weight"]
    series = Records(tmp_path / "log").series("4.weight")
    late = series.step > 18
    layer = result.layers[1]
    assert layer.rotation == pytest.approx(np.sqrt(np.mean(series.rotation_rms[late] ** 2)))
    assert layer.norm == pytest.approx(np.sqrt(np.mean(series.norm_rms[late] ** 2)))
    assert (layer.neurons, layer.size) == (3, 8)


@pytest.mark.parametrize(
    ("model", "data"),
    [(Model("mlp"), Data("blobs")), (Model("resnet20", width=0.5), Data("blobs"))],
    ids=["mlp", "resnet20"],
)
def test_a_task_of_the_laboratory_trains_and_goes_on(model, data, tmp_path):
    run = RUN.but(model=model, data=data, steps=9, optimizer__rotational=True, probes=("alignment", "radial"))
    whole, resumed = (tasks.build(run, None) for _ in range(2))
    result = train.train(run, whole, tmp_path / "whole").result
    assert result.metrics["test"].keys() == {"loss", "accuracy"}
    assert result.rotation.measured == pytest.approx(result.rotation.predicted, rel=0.5)
    count = itertools.count(1)
    train.train(run, tasks.build(run, None), tmp_path / "log", stop=lambda: next(count) == 4)
    train.train(run, resumed, tmp_path / "log")
    assert_equal(weights(whole.model), weights(resumed.model))
    assert files(tmp_path / "whole") == files(tmp_path / "log")


def test_curves_are_thinned_to_windows_and_keep_their_mean_square(tmp_path):
    run = RUN.but(steps=200, every=1)
    result = train.train(run, Points(run), tmp_path / "log").result
    assert len(result.rotation.step) == results.POINTS
    assert len(result.layers[0].curves["norm"].step) == results.LAYER_POINTS
    series = Records(tmp_path / "log").series("0.weight")
    thin = result.layers[0].curves["rotation"]
    assert thin.value[3] == pytest.approx(np.sqrt(np.mean(series.rotation_rms[30:40] ** 2)))
    assert thin.step[3] == np.mean(series.step[30:40])


@pytest.mark.parametrize("how", ["loss", "weights", "gradient"])
@pytest.mark.parametrize("name", ["adamw", "sgd", "adam", "rotational", "uneven"])
def test_a_run_that_diverges_ends_early_and_has_the_worst_score(how, name, tmp_path):
    run = RUN.but(optimizer=RULES[name], every=1, probes=("alignment", "radial"))
    task = Points(run)

    def loss(model, batch):
        usual = Points.loss(task, model, batch)
        seen.append(None)
        if len(seen) < 5:
            return usual
        if how == "gradient":  # finite, with an infinite slope: sqrt at 0
            return usual + (0 * usual).sqrt()
        if how == "weights":
            with torch.no_grad():
                model[0].weight[0, 0] = math.inf
            return (0 * model[-1].weight).sum()
        return usual * math.nan

    seen: list[None] = []
    task.loss = loss
    outcome = train.train(run, task, tmp_path / "log")
    assert outcome.done
    assert outcome.diverged
    assert outcome.step < run.steps
    assert (outcome.step == 4) == (how == "loss")
    result = outcome.result
    assert result.metrics["validation"] == result.metrics["test"] == {"accuracy": 0.0, "loss": math.inf}


def test_the_callers_random_numbers_stay_as_they_were(tmp_path):
    task = Points(RUN)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train.train(RUN, task, tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_bf16_trains_near_single_precision(tmp_path):
    losses = []
    for precision in ("float32", "bf16"):
        run = RUN.but(precision=precision, steps=60)
        outcome = train.train(run, Points(run), tmp_path / precision)
        losses.append(outcome.metrics["test"]["loss"])
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], abs=0.1)


def test_batches_that_are_made_ahead_are_those_that_are_made_when_asked_for(tmp_path, monkeypatch):
    one, two = Points(RUN), Points(RUN)
    train.train(RUN, one, tmp_path / "one")
    monkeypatch.setitem(train.AHEAD, "cpu", 3)
    asked = []
    stop = lambda: asked.append(1) or len(asked) == 10  # noqa: E731
    assert not train.train(RUN, Points(RUN), tmp_path / "two", stop=stop).done
    train.train(RUN, two, tmp_path / "two")  # from its checkpoint
    assert_equal(weights(one.model), weights(two.model))
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]


def test_a_run_that_was_compiled_in_part_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: None)
    asked = []
    stop = lambda: asked.append(1) or len(asked) == 5  # noqa: E731
    train.train(RUN, Points(RUN), tmp_path, stop=stop, compile=True)
    assert train.train(RUN, Points(RUN), tmp_path).result.versions["compile"] == "inductor"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # the compiler's own
def test_a_compiled_model_trains_to_the_same_weights_up_to_rounding(tmp_path):
    run = RUN.but(steps=6)
    plain, compiled = Points(run, plain=True), Points(run, plain=True)
    eager = train.train(run, plain, tmp_path / "plain").result
    result = train.train(run, compiled, tmp_path / "compiled", compile=True).result
    assert result.versions == {**eager.versions, "compile": "inductor"}
    assert "compile" not in eager.versions
    for name, value in weights(plain.model).items():
        assert torch.allclose(value, weights(compiled.model)[name], atol=1e-4)


# Several processes ----------------------------------------------------------------------------------------------

SPLIT = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from laboratory import RULES, RUN, Points, weights
from rotational.__main__ import leave
from rotational.lab import train
run = RUN.but(optimizer=RULES[{name!r}], steps=8)
task = Points(run, plain=True)
told = []
outcome = train.train(run, task, {folder!r}, tell=told.append)
torch.save((weights(task.model), outcome.metrics, len(told)), sys.argv[1])
leave(0)
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed part")
@pytest.mark.parametrize("name", ["rotational"])
def test_two_processes_train_as_one(name, tmp_path):
    run = RUN.but(optimizer=RULES[name], steps=8)
    alone = Points(run, plain=True)
    outcome = train.train(run, alone, tmp_path / "alone")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = SPLIT.format(tests=str(Path(__file__).parent), name=name, folder=str(tmp_path / "split"))
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / str(rank))],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    said = [p.communicate(timeout=120)[1].decode() for p in processes]
    assert [p.returncode for p in processes] == [0, 0], said
    (first, metrics, told), (second, same, none) = (torch.load(tmp_path / str(rank)) for rank in range(2))
    assert_equal(first, second)
    assert metrics == same
    assert (told, none) == (8, 0)
    for key, value in weights(alone.model).items():
        assert torch.allclose(value, first[key], rtol=1e-4, atol=1e-5)
    assert metrics["test"]["loss"] == pytest.approx(outcome.metrics["test"]["loss"], abs=1e-4)
    a, b = (Records(tmp_path / x).curves["loss"][1] for x in ("alone", "split"))
    assert a == pytest.approx(b, abs=1e-4)


def test_a_batch_that_does_not_divide_is_refused():
    from rotational.lab.ranks import Ranks

    with pytest.raises(ValueError, match="a multiple of the 2 processes"):
        Ranks(0, 2, torch.device("cpu")).divide([8, 9])
    task = Points(RUN.but(batch=9))
    parts = [task.part(3, Ranks(r, 3, torch.device("cpu")).rows) for r in range(3)]
    for k, x in enumerate(task.batch(3)):
        assert torch.equal(torch.stack([p[k] for p in parts], 1).flatten(0, 1), x)
