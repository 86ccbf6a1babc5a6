"""The one training loop: what it takes from a run, how it ends, and how it goes on after a kill."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import rotational
from laboratory import RUN, Points
from rotational import rules
from rotational.lab import optimizers, results, resume, tasks, train
from rotational.lab.declare import Data, Imbalance, Model, Optimizer, Schedule
from rotational.lab.uneven import draw, turn
from rotational.neurons import ROWS, Neurons
from rotational.records import CURVES_FILE, RUN_FILE, STEPS_FILE, Records

RULES = {
    "adamw": Optimizer("adamw", 1e-2, 0.1),
    "adam": Optimizer("adam", 1e-2, 1e-3, betas=(0.9, 0.95)),
    "sgd": Optimizer("sgd", 0.1, 1e-2),
    "lion": Optimizer("lion", 5e-3, 0.2, betas=(0.9, 0.99)),
    "rotational": Optimizer("adamw", 1e-2, 0.1, rotational=True),
    "rotational sgd": Optimizer("sgd", 0.1, 1e-2, rotational=True, nesterov=True),
    "rotation of adamw": Optimizer("adam", 1e-2, 0.1, rotational=True, rotation_of="adamw"),
    "an angle": Optimizer("adam", 1e-2, 1e-3, rotational=True, rotation=0.02),
    "uneven": Optimizer("adamw", 1e-2, 0.1, rotational=True, imbalance=Imbalance(0.5, 4.0)),
    "frozen gains": Optimizer("adamw", 1e-2, 0.1, gains="freeze", decay="adamc"),
}


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (STEPS_FILE, CURVES_FILE, RUN_FILE)}


# From a run to its optimizer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_decay_is_on_neurons_only_and_every_rule_trains(name, tmp_path):
    run = RUN.but(optimizer=RULES[name], steps=60, batch=64)
    task = Points(run)
    outcome = train.train(run, task, tmp_path)
    assert outcome.done
    assert not outcome.diverged
    losses = outcome.result.curves["loss"].value
    assert losses[-1] < 0.85 * losses[0]
    for group in optimizers.build(run, Points(run).model).param_groups:
        assert (group["weight_decay"] > 0) == all(p.ndim > 1 for p in group["params"])


def test_a_run_is_torchs_own_loop(tmp_path):
    run = RUN.but(optimizer=RULES["sgd"], schedule=Schedule("linear", floor=0.1))
    task, ours = Points(run, plain=True), Points(run, plain=True)
    decayed = [p for p in task.model.parameters() if p.ndim > 1]
    others = [p for p in task.model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 1e-2}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    for step in range(run.steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - 0.9 * step / run.steps)
        optimizer.zero_grad()
        task.loss(task.model, task.batch(step)).backward()
        optimizer.step()
    train.train(run, ours, tmp_path)
    assert_equal(weights(task.model), weights(ours.model))


@pytest.mark.parametrize("shape", ["constant", "cosine", "cosine2", "linear"])
@pytest.mark.parametrize("floor", [0.0, 0.25])
def test_schedules_follow_their_formula(shape, floor):
    schedule, steps = Schedule(shape, warmup=0.1, floor=floor), 50
    x = (np.arange(50) - 5) / 45
    fall = {"constant": 1 + 0 * x, "cosine": np.cos(np.pi * x / 2) ** 2, "linear": 1 - x}
    fall["cosine2"] = fall["cosine"] ** 2
    expected = np.where(np.arange(50) < 5, (np.arange(50) + 1) / 5, floor + (1 - floor) * fall[shape])
    assert [schedule.multiple(t, steps) for t in range(50)] == pytest.approx(expected.tolist(), abs=1e-12)


def test_gains_and_biases_that_are_frozen_keep_every_bit(tmp_path):
    run = RUN.but(optimizer__gains="freeze")
    task = Points(run)
    before = weights(task.model)
    train.train(run, task, tmp_path)
    changed = {name for name, p in task.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"0.weight", "4.weight"}


def held(run, folder: Path) -> np.ndarray:
    train.train(run, Points(run), folder)
    return Records(folder).series("0.weight").held


def test_angles_come_from_the_rule_the_number_or_the_schedule(tmp_path):
    run = RUN.but(optimizer=RULES["rotation of adamw"], every=1)
    multiples = np.array([run.schedule.multiple(t, run.steps) for t in range(run.steps)])
    by_rule = held(run, tmp_path / "rule")
    full = math.sqrt(2 * 1e-2 * 0.1 * 0.1 / 1.9)
    assert by_rule == pytest.approx(full * np.sqrt(multiples), rel=1e-4)
    by_number = held(run.but(optimizer=RULES["an angle"]), tmp_path / "number")
    assert by_number == pytest.approx(0.02 * np.sqrt(multiples), rel=1e-4)
    falling = run.but(optimizer=RULES["an angle"], optimizer__decay="adamc")
    assert held(falling, tmp_path / "adamc") == pytest.approx(0.02 * multiples, rel=1e-4)
    told = ((0, 0.01), (10, 0.03), (20, 0.01))
    angles = Optimizer("adamw", 1e-2, 0.1, rotational=True, angles=told)
    by_schedule = held(run.but(optimizer=angles), tmp_path / "schedule")
    assert by_schedule == pytest.approx(np.interp(np.arange(24), *zip(*told, strict=True)), rel=1e-4)


def test_adamc_lets_the_decay_fall_with_lr(tmp_path):
    run = RUN.but(optimizer__decay="adamc", every=1)
    train.train(run, Points(run), tmp_path)
    series = Records(tmp_path).series("0.weight")
    assert series.weight_decay / series.lr == pytest.approx(np.full(24, 0.1 / 1e-2))
    assert series.lr == pytest.approx(np.array([1e-2 * run.schedule.multiple(t, 24) for t in range(24)]))


def test_options_of_the_control_reach_the_optimizer():
    run = RUN.but(optimizer=Optimizer("adamw", 1e-2, 0.1, rotational=True, units="tensor", center=False))
    group = optimizers.build(run.but(optimizer__update_memory=0.5), Points(run).model).param_groups[0]
    assert (group["units"], group["center"], group["update_memory"]) == ("tensor", False, 0.5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rule": "muon"}, "Muon holds matrices only"),
        ({"rule": "muon", "rotational": True}, "Muon holds matrices only"),
        ({"rotation": 0.01}, "only a rotational optimizer has this option; write rotational=True"),
        ({"update_memory": 0.0}, "only a rotational optimizer has this option"),
        ({"rotational": True, "rotation": 0.01, "rotation_of": "sgd"}, "expected one source of the angle"),
        ({"rotational": True, "rule": "adam"}, "Pass rotation="),
        ({"rotational": True, "imbalance": Imbalance(0.7, 2.0, 0.7)}, "1 at most together"),
        ({"rotational": True, "imbalance": Imbalance(0.5, 0.5)}, "a factor of 1 or above"),
        ({"rotational": True, "units": "tensor", "imbalance": Imbalance(0.5, 2.0)}, "no slower neurons"),
    ],
)
def test_an_optimizer_that_cannot_be_is_refused_before_anything_is_written(tmp_path, options, says):
    run = RUN.but(optimizer=Optimizer(**{"rule": "adamw", "lr": 1e-2, "weight_decay": 0.1, **options}))
    with pytest.raises(ValueError, match=says):
        train.train(run, Points(run), tmp_path / "log")
    assert not (tmp_path / "log").exists()


# Neurons that turn unevenly -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slow", "fast"), [(0.5, 0.0), (0.25, 0.25), (0.0, 0.5)])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(9, 8, bias=False),
        nn.Conv2d(3, 8, 3, bias=False),
        nn.ConvTranspose2d(4, 8, 3, bias=False),
        nn.ConvTranspose1d(4, 4, 5, groups=2, bias=False),
    ],
)
def test_uneven_neurons_turn_by_exactly_their_share(layer, slow, fast):
    imbalance = Imbalance(slow, 5.0, fast)

    def stepped(uneven: bool) -> tuple[torch.Tensor, list[torch.Tensor], Neurons]:
        torch.manual_seed(0)
        nn.init.normal_(layer.weight)
        opt = rotational.AdamW(rotational.groups(layer, weight_decay=0.5), lr=0.05)
        units = opt.param_groups[0]["neurons"][0]
        if uneven:
            turn(opt, imbalance, seed=3)
        layer.weight.grad = torch.randn_like(layer.weight)
        first = layer.weight.detach().clone()
        opt.step()
        return first, [layer.weight.detach().clone()], units

    first, (even,), units = stepped(False)
    again, (uneven,), _ = stepped(True)
    assert torch.equal(first, again)
    shares = draw(imbalance, units.count(first.shape), torch.Generator().manual_seed(3))
    was, now = (units.angle(first.double(), w.double()).flatten() for w in (even, uneven))
    assert (now / was).tolist() == pytest.approx(shares.tolist(), rel=2e-5)
    lengths = [units.norm(w.double()).flatten().tolist() for w in (even, uneven)]
    assert lengths[1] == pytest.approx(lengths[0], rel=2e-7)
    same = (shares == 1).nonzero().flatten()
    assert torch.equal(units.matrix(even)[same], units.matrix(uneven)[same])
    assert (shares != 1).any()
    # On the same great circle: what is turned lies in the plane of before and after.
    a, b, c = (units.matrix(w.double()) for w in (first, even, uneven))
    for x, y, z in zip(a, b, c, strict=True):
        plane = torch.linalg.qr(torch.stack([x, y - x], dim=1)).Q
        assert (z - plane @ (plane.T @ z)).norm() < 1e-6 * z.norm()


def test_the_log_sees_what_uneven_neurons_do(tmp_path):
    run = RUN.but(optimizer=RULES["uneven"], optimizer__update_memory=0.0, every=2)
    train.train(run, Points(run), tmp_path)
    for name in ("0.weight", "4.weight"):
        series = Records(tmp_path).series(name)
        shares = np.sort(series.rotation / series.held[:, None], axis=1)
        slow = round(0.5 * series.layer.neurons)
        assert shares[:, :slow] == pytest.approx(np.full_like(shares[:, :slow], 0.25), rel=1e-3)
        assert shares[:, slow:] == pytest.approx(np.ones_like(shares[:, slow:]), rel=1e-3)


def test_a_neuron_that_did_not_turn_stays_as_it_is():
    layer = nn.Linear(4, 6, bias=False)
    nn.init.zeros_(layer.weight[:3].detach())
    before = layer.weight.detach().clone()
    opt = torch.optim.SGD([{"params": [layer.weight], "neurons": [ROWS]}], lr=0.1)
    turn(opt, Imbalance(0.5, 2.0, 0.5), seed=0)
    layer.weight.grad = torch.zeros_like(layer.weight)
    opt.step()
    assert torch.equal(layer.weight, before)


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # the compiler's own
def test_a_compiled_model_trains_to_the_same_weights_up_to_rounding(tmp_path):
    run = RUN.but(steps=6)
    plain, compiled = Points(run, plain=True), Points(run, plain=True)
    train.train(run, plain, tmp_path / "plain")
    train.train(run, compiled, tmp_path / "compiled", compile=True)
    for name, value in weights(plain.model).items():
        assert torch.allclose(value, weights(compiled.model)[name], atol=1e-4)


# Going on after an interruption ---------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from laboratory import RUN, Points
from test_lab_train import RULES
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
    run = RUN.but(optimizer=RULES[name], probes=() if name == "lion" else ("radial",))
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


# Several processes ----------------------------------------------------------------------------------------------

SPLIT = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from laboratory import RUN, Points
from rotational.lab import train
from test_lab_train import RULES, weights
run = RUN.but(optimizer=RULES[{name!r}], steps=8)
task = Points(run, plain=True)
told = []
outcome = train.train(run, task, {folder!r}, tell=told.append)
torch.save((weights(task.model), outcome.metrics, len(told)), sys.argv[1])
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

    x = torch.arange(9)
    with pytest.raises(ValueError, match="a multiple of the 2 processes"):
        Ranks(0, 2, torch.device("cpu")).share((x,))
    parts = [Ranks(r, 3, torch.device("cpu")).share((x, -x)) for r in range(3)]
    assert sorted(torch.cat([p[0] for p in parts]).tolist()) == list(range(9))


def test_rules_are_those_of_the_declaration():
    o = Optimizer("sgd", 0.1, 1e-3, betas=(0.8, 0.9), momentum=0.7, nesterov=True)
    assert optimizers.rule_of(o, "sgd") == rules.sgd(0.7, nesterov=True)
    assert optimizers.rule_of(o, "adamw") == rules.adamw((0.8, 0.9))
    assert optimizers.rule_of(o, "lion") == rules.lion((0.8, 0.9))
