"""Angles: the curve, its file, and a recorded run that a rotational optimizer runs again."""

from __future__ import annotations

import copy
import json
import math
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rotational
from compare import assert_same
from rotational.angles import Angles, replay, replay_groups
from rotational.records import STEPS_FILE, Records
from watching import net, noisy

STEPS = 48


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)


def curve(length: int = 40) -> Angles:
    return Angles(range(length), [0.01 + 0.05 * math.sin(0.1 * t) ** 2 for t in range(length)], "a layer")


def recorded(every: int = 1, steps: int = STEPS, model: nn.Module | None = None) -> Any:
    """The log of torch's AdamW through warm-up and decay."""
    model = model or net()
    opt = torch.optim.AdamW(rotational.groups(model, weight_decay=0.2), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(opt, 1e-2, total_steps=steps, cycle_momentum=False)
    with rotational.watch(model, opt, every=every) as log:
        for _ in range(steps):
            noisy(model)
            opt.step()
            scheduler.step()
    return log


# The curve --------------------------------------------------------------------------------------------------


def test_lines_between_measured_steps_and_constants_beyond() -> None:
    angles = Angles(steps=np.array([4, 9]), radians=torch.tensor([0.25, 0.5]))
    at = [angles(t) for t in (0, 4, 5, 8, 9, 10, 1000)]
    assert_same(at, [0.25, 0.25, 0.3, 0.45, 0.5, 0.5, 0.5], 1e-12)
    assert (angles.steps, angles.radians, angles.length) == ((4, 9), (0.25, 0.5), 10)
    assert Angles([3], [0.1])(0) == Angles([3], [0.1])(7) == 0.1


def test_a_value_as_values_are() -> None:
    angles = curve()
    assert angles == curve()
    assert angles != curve(39)
    assert hash(angles) == hash(curve())
    assert pickle.loads(pickle.dumps(angles)) == angles
    assert copy.deepcopy({"rotation": angles})["rotation"] == angles
    with pytest.raises(FrozenInstanceError):
        angles.steps = (0,)


WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "nothing": (lambda: Angles([], []), ValueError, "at least one step and an angle for each, got 0 and 0"),
    "lengths": (lambda: Angles([1, 2], [0.1]), ValueError, "an angle for each, got 2 and 1"),
    "falling": (lambda: Angles([1, 3, 3], [0.1] * 3), ValueError, r"Angles\(steps\[2\]=3\): expected a step after 3"),
    "negative": (lambda: Angles([0], [-0.1]), ValueError, r"Angles\(radians\[0\]=-0.1\): expected a finite number"),
    "nan": (lambda: Angles([0, 1], [0.1, math.nan]), ValueError, r"Angles\(radians\[1\]=nan\)"),
    "before": (lambda: Angles([-1], [0.1]), ValueError, r"Angles\(steps\[0\]=-1\): expected a finite number"),
    "strings": (lambda: Angles([0], "0"), TypeError, r"Angles\(radians='0'\): expected a sequence of numbers, got str"),
    "number": (lambda: Angles(0, 0.1), TypeError, r"Angles\(steps=0\): expected a sequence of numbers, got int"),
    "name": (lambda: Angles([0], [0.1], 5), TypeError, r"Angles\(name=5\): expected a string, got int"),
    "no length": (lambda: curve().resample(1), ValueError, r"resample\(steps=1\): .* steps >= 2"),
    "part": (lambda: curve().resample(2.5), ValueError, r"resample\(steps=2.5\): expected a whole number"),
    "keep": (lambda: curve().resample(9, keep="norm"), ValueError, "expected one of 'angle', 'distance'"),
    "window": (lambda: curve().smooth(0), ValueError, r"smooth\(window=0\): .* window > 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_curve_is_refused(case: str) -> None:
    make, kind, sentence = WRONG[case]
    with pytest.raises(kind, match=sentence):
        make()


def distance(angles: Angles, steps: int) -> float:
    return math.sqrt(sum(angles(t) ** 2 for t in range(steps)))


@pytest.mark.parametrize("steps", [7, 100, 400, 4001])
def test_resampling_stretches_the_curve(steps: int) -> None:
    angles = curve(400)
    for keep, factor in (("angle", 1.0), ("distance", math.sqrt(400 / steps))):
        new = angles.resample(steps, keep=keep)
        assert new.length == steps
        for share in (0, 0.25, 0.5, 1):
            assert_same(new(share * (steps - 1)), factor * angles(share * 399), 1e-3)
    if steps >= 100:
        assert_same(distance(angles.resample(steps, keep="distance"), steps), distance(angles, 400), 0.02)
    assert_same(np.array(angles.resample(steps).resample(400).steps), np.array(angles.steps), 1e-12)


def test_resampling_a_sparse_log_keeps_its_ends() -> None:
    angles = Angles([9, 19, 29], [0.3, 0.2, 0.1])
    assert angles.resample(30) == angles
    assert angles.resample(59).steps == (18, 38, 58)
    assert Angles([0], [0.1]).resample(5) == Angles([4], [0.1])


def test_smoothing_keeps_lines_of_squares_and_both_ends() -> None:
    line = Angles(range(50), [math.sqrt(1e-4 * (1 + t)) for t in range(50)])
    assert_same(line.smooth(9).radians, line.radians, 1e-12)
    rough = Angles(np.arange(0, 100, 0.1), 0.1 + 0.05 * torch.rand(1000))
    smooth = rough.smooth(10)
    assert (smooth.radians[0], smooth.radians[-1]) == pytest.approx((rough.radians[0], rough.radians[-1]))
    assert np.std(smooth.radians[50:-50]) < 0.2 * np.std(rough.radians)
    assert_same(distance(smooth, 100), distance(rough, 100), 0.02)
    assert_same(rough.smooth(0.05).radians, rough.radians, 1e-15)


# Files ------------------------------------------------------------------------------------------------------


def test_a_file_gives_every_digit_back(tmp_path: Path) -> None:
    angles = curve().resample(33)
    assert angles.save(tmp_path / "angles.json") == tmp_path / "angles.json"
    assert Angles.load("angles.json") == angles
    assert [x.name for x in tmp_path.iterdir()] == ["angles.json"]


def test_a_killed_save_leaves_the_old_file(tmp_path: Path) -> None:
    curve().save("angles.json")
    script = (
        "import os, signal\n"
        "from rotational.angles import Angles\n"
        "os.replace = lambda a, b: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Angles([0], [0.1]).save('angles.json')"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    assert Angles.load("angles.json") == curve()
    curve(9).save("angles.json")
    assert Angles.load("angles.json") == curve(9)


@pytest.mark.parametrize(("name", "says"), [(".", "this is a folder"), ("missing/a.json", "missing does not exist")])
def test_a_place_that_no_file_can_have_is_a_sentence(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(OSError, match=says) as error:
        curve().save(tmp_path / name)
    assert str(error.value).startswith(f"Angles.save({str(tmp_path / name)!r})")
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_fails_leaves_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curve().save("angles.json")

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        curve(9).save("angles.json")
    assert [x.name for x in tmp_path.iterdir()] == ["angles.json"]
    assert Angles.load("angles.json") == curve()


DAMAGE: dict[str, str] = {
    "cut short": '{"format": "rotational angles 1", "steps": [0, 1',
    "empty": "",
    "a list": "[1, 2]",
    "of others": '{"steps": [0], "radians": [0.1]}',
    "without angles": '{"format": "rotational angles 1", "name": "", "steps": [0]}',
    "not a number": '{"format": "rotational angles 1", "name": "", "steps": [0], "radians": [NaN]}',
    "no numbers": '{"format": "rotational angles 1", "name": "", "steps": [0], "radians": ["0.1"]}',
    "binary": "\udcff\udcfe",
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_file_that_is_none_of_ours_is_refused(case: str) -> None:
    Path("angles.json").write_bytes(DAMAGE[case].encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"^Angles\.load\('angles\.json'\): expected a file that .*\)\.$") as raised:
        Angles.load("angles.json")
    assert "\n" not in str(raised.value)


def test_no_file() -> None:
    for path in ("nothing.json", "."):
        with pytest.raises(FileNotFoundError, match="no such file"):
            Angles.load(path)


# From a log -------------------------------------------------------------------------------------------------


def test_one_layer_and_all_neurons_of_all_layers() -> None:
    log = recorded(every=4)
    records = log.read()
    first, second = records.series("0.weight"), records.series("2.weight")
    angles = replay(log, "2.weight")
    assert_same(np.array(angles.radians), second.rotation_rms)
    assert angles.steps == tuple(range(3, STEPS, 4))
    assert (angles.length, angles.name) == (STEPS, "2.weight")
    both = np.concatenate([first.rotation, second.rotation], axis=1)  # few neurons: all are kept
    assert_same(np.array(replay(records).radians), np.sqrt((both**2).mean(axis=1)), 1e-4)
    assert replay(str(log.path)) == replay(log.path) == replay(records) == replay(log)


def test_layers_count_from_when_they_join() -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with rotational.watch(model, opt, every=1) as log:
        for t in range(4):
            model[0].requires_grad_(t >= 2)
            noisy(model)
            if t < 2:
                model[0].weight.grad = None
            opt.step()
    assert replay(log, "0.weight").steps == (2, 3)
    assert_same(replay(log).radians[:2], replay(log, "2.weight").radians[:2], 1e-12)
    assert replay(log).radians[2] != replay(log, "2.weight").radians[2]


def test_what_was_not_finite_is_passed_over() -> None:
    log = recorded(steps=6)
    lines = [json.loads(x) for x in (log.path / STEPS_FILE).read_text().splitlines()]
    for line in lines:
        if line["step"] > 3 or (line["layer"], line["step"]) == ("0.weight", 2):
            line["rotation_rms"] = None
    (log.path / STEPS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert replay(log).steps == (0, 1, 2)
    assert replay(log, "0.weight").steps == (0, 2)
    assert replay(log).radians[1] == pytest.approx(replay(log, "2.weight").radians[1])
    for line in lines:
        line["rotation_rms"] = None
    (log.path / STEPS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match="no measurement of it was finite"):
        replay(log)


def test_logs_that_give_no_angles() -> None:
    log = recorded(steps=2)
    with pytest.raises(ValueError, match=r"^replay\(layer='0.wieght'\): the log has no such layer; .* 0\.weight"):
        replay(log, "0.wieght")
    with pytest.raises(ValueError, match=r"the log has no measurement. It measures every step that every=10 divides"):
        replay(recorded(every=10, steps=2))
    with pytest.raises(FileNotFoundError, match="expected a folder that watch"):
        replay("nowhere")
    with pytest.raises(TypeError, match=r"^replay\(int\): expected a log of rotational\.watch"):
        replay(5)


# The run again ----------------------------------------------------------------------------------------------


def again(groups: Any, model: nn.Module, steps: int = STEPS, **options: Any) -> Records:
    """Measured while a rotational optimizer runs over other gradients."""
    opt = rotational.AdamW(groups, lr=1e-3, **options)
    with rotational.watch(model, opt, every=1) as log:
        for _ in range(steps):
            noisy(model)
            opt.step()
    return log.read()


def test_a_recorded_run_is_replayed() -> None:
    angles = replay(recorded())
    assert max(angles.radians) > 4 * min(angles.radians)  # there is a curve to follow
    model = net()
    records = again(rotational.groups(model, weight_decay=0), model, rotation=angles, update_memory=0)
    measured = np.array(replay(records).radians)
    assert_same(measured, np.array(angles.radians), 0.01)
    assert_same(measured, np.arctan(angles.radians), 1e-4)
    assert replay(records, "0.weight").steps == tuple(range(STEPS))


def test_a_sparse_log_is_replayed_step_by_step() -> None:
    angles = replay(recorded(every=4))
    model = net()
    records = again(rotational.groups(model, weight_decay=0), model, rotation=angles, update_memory=0)
    assert_same(np.array(replay(records).radians), np.arctan([angles(t) for t in range(STEPS)]), 1e-4)
    assert_same(replay(records).radians[7], math.atan(angles.radians[1]), 1e-4)  # the log's step 8 is t = 7


def test_each_layer_follows_its_own_curve() -> None:
    log = recorded()
    model = net()
    records = again(replay_groups(model, log, weight_decay=0.1, update_memory=0), model)
    for name in ("0.weight", "2.weight"):
        assert_same(np.array(replay(records, name).radians), np.arctan(replay(log, name).radians), 1e-4)
    assert_same(replay(records, "0.weight").steps, replay(log, "0.weight").steps)


def test_parameters_that_were_not_recorded_go_as_in_groups() -> None:
    log = recorded()
    model = nn.Sequential(*net(), nn.Linear(3, 4))
    model[3].bias.requires_grad_(False)
    plain = rotational.groups(model, weight_decay=0.1, lr=0.3)
    groups = replay_groups(model, log, weight_decay=0.1, lr=0.3)
    assert [g["param_names"] for g in groups] == [["0.weight"], ["2.weight"], ["3.weight"], ["0.bias", "2.bias"]]
    assert [g.get("rotation") for g in groups] == [replay(log, "0.weight"), replay(log, "2.weight"), None, None]
    assert [len(g["params"]) for g in groups] == [1, 1, 1, 2]
    assert all(g["neurons"] == [plain[0]["neurons"][i]] for i, g in enumerate(groups[:3]))
    assert {k: v for k, v in groups[3].items() if k != "params"} == {k: v for k, v in plain[1].items() if k != "params"}
    assert all((g["weight_decay"], g["lr"]) == (0.1, 0.3) for g in groups[:3])
    assert groups[2]["params"][0] is model[3].weight
    rotational.AdamW(groups)


def test_groups_of_another_model_are_refused() -> None:
    log = recorded(steps=2)
    with pytest.raises(
        ValueError, match=r"^replay_groups\(Linear\): the log measured '0\.weight', .* nearest are weight"
    ):
        replay_groups(nn.Linear(2, 2), log, weight_decay=0.1)
    with pytest.raises(ValueError, match=r"^replay_groups\(rotation=\.\.\.\): the log gives the rotation"):
        replay_groups(net(), log, weight_decay=0.1, rotation=0.1)


# Checkpoints ------------------------------------------------------------------------------------------------


def steps(model: nn.Module, opt: torch.optim.Optimizer, start: int, end: int) -> None:
    for t in range(start, end):
        torch.manual_seed(t)
        noisy(model)
        opt.step()


def start(rotation: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = net()
    return model, rotational.AdamW(rotational.groups(model, weight_decay=0.1), lr=1e-2, rotation=rotation)


def test_a_replay_resumes_bit_for_bit() -> None:
    model, opt = start(curve())
    steps(model, opt, 0, 20)
    whole = copy.deepcopy((dict(model.state_dict()), opt.state_dict()))
    model, opt = start(curve())
    steps(model, opt, 0, 9)
    torch.save((model.state_dict(), opt.state_dict()), "half.pt")
    model, opt = start(curve())
    for each, state in zip((model, opt), torch.load("half.pt", weights_only=True), strict=True):
        each.load_state_dict(state)
    assert opt.param_groups[0]["rotation"] == curve()
    assert opt.param_groups[0]["steps"] == 9
    steps(model, opt, 9, 20)
    assert_same((dict(model.state_dict()), opt.state_dict()), whole)


def test_a_copied_optimizer_goes_on_with_its_curve() -> None:
    model, opt = start(curve())
    steps(model, opt, 0, 3)
    assert copy.deepcopy(opt).param_groups[0]["rotation"] == curve()


def test_a_replay_is_predicted() -> None:
    prediction = rotational.predict(start(curve())[1])[0]
    assert (prediction.rotation, prediction.held) == (curve()(0), True)


def test_a_checkpoint_asks_for_the_curve_again() -> None:
    _, opt = start(curve())
    with pytest.raises(ValueError, match=r"saved with rotation= a function, which no file holds\. Pass it to"):
        start(None)[1].load_state_dict(opt.state_dict())


def test_torch_is_not_loaded() -> None:
    check = "import sys; from rotational.angles import Angles; Angles([0], [1])(0); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)
