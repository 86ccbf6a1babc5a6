"""Groups and parameters that change while they are watched, and the rules and options that are recorded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rotational
from rotational import rules
from rotational.monitor import watch
from rotational.neurons import Neurons
from watching import net, noisy, train, weights, witness


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)


# Groups and parameters --------------------------------------------------------------------------------


def test_frozen_layers_have_no_lines_until_they_are_trained() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model[0].requires_grad_(False)
    x = torch.randn(4, 6)
    with watch(model, optimizer, every=1) as log:
        for t in range(4):
            if t == 1:
                model[2].requires_grad_(False)  # nothing at all is trained in this step
            if t == 2:
                model.requires_grad_(True)
            optimizer.zero_grad()
            if t != 1:
                model(x).square().sum().backward()
            optimizer.step()
    read = log.read()
    assert [layer.name for layer in read.run.layers] == ["0.weight", "2.weight"]
    assert read.series("0.weight").step.tolist() == [3, 4]
    assert read.series("2.weight").step.tolist() == [1, 3, 4]


def test_groups_added_later_are_measured_from_then_on() -> None:
    model = net()
    optimizer = torch.optim.AdamW(model[0].parameters(), lr=1e-3)
    with watch(model, optimizer, every=2) as log:
        train(model, optimizer, 3)
        assert [layer.name for layer in log.read().run.layers] == ["0.weight"]
        optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 5e-3, "betas": (0.5, 0.9)})
        train(model, optimizer, 3)
    read = log.read()
    assert [layer.name for layer in read.layers] == ["0.weight", "2.weight"]
    assert read.series("0.weight").step.tolist() == [2, 4, 6]
    late = read.series("2.weight")
    assert (late.step.tolist(), late.group.tolist(), late.lr.tolist()) == ([4, 6], [1, 1], [5e-3] * 2)
    assert late.layer.group == 1
    assert read.run.groups[1]["betas"] == [0.5, 0.9]
    assert late.rule[0] == rules.adamw(betas=(0.5, 0.9)).as_dict()


def test_group_without_parameters_is_no_obstacle() -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with watch(model, optimizer, every=1) as log:
        optimizer.param_groups.append({**optimizer.param_groups[0], "params": [], "lr": 1.0})
        train(model, optimizer, 1)
    assert log.read().series("0.weight").lr.tolist() == [1e-3]


def test_loaded_hyperparameters_are_those_that_are_logged() -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    saved = torch.optim.AdamW(model.parameters(), lr=7e-3, weight_decay=0.7, betas=(0.5, 0.999)).state_dict()
    with watch(model, optimizer, every=1) as log:
        train(model, optimizer, 1)
        optimizer.load_state_dict(saved)  # torch exchanges the list of groups and every group in it
        train(model, optimizer, 1)
    series = log.read().series("0.weight")
    assert series.lr.tolist() == [1e-3, 7e-3]
    assert series.weight_decay.tolist() == [0.1, 0.7]
    assert [r and r["memory"]["decay"] for r in series.rule] == [0.9, 0.5]


def test_momentum_on_a_schedule_is_in_the_rule_of_every_step() -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=20)
    used: list[float] = []
    with watch(model, optimizer, every=5) as log:
        for t in range(20):
            train(model, optimizer, 1)
            if t % 5 == 4:
                used.append(optimizer.param_groups[0]["betas"][0])
            schedule.step()
    assert len(set(used)) > 2
    assert [r and r["memory"]["decay"] for r in log.read().series("0.weight").rule] == used


def test_rules_of_earlier_steps_stay_when_the_run_is_described_anew() -> None:
    model = net()
    optimizer = torch.optim.AdamW(model[0].parameters())
    with watch(model, optimizer, every=1) as log:
        train(model, optimizer, 1)
        optimizer.param_groups[0]["betas"] = (0.5, 0.999)
        optimizer.add_param_group({"params": list(model[2].parameters())})
        train(model, optimizer, 1)
    assert [r and r["memory"]["decay"] for r in log.read().series("0.weight").rule] == [0.9, 0.5]


def exchange(model: nn.Module, optimizer: torch.optim.Optimizer, new: Tensor) -> None:
    old = model[0].weight
    model[0].weight = nn.Parameter(new)
    params = optimizer.param_groups[0]["params"]
    params[next(i for i, p in enumerate(params) if p is old)] = model[0].weight


def test_exchanged_parameters_are_followed() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, every=1) as log:
        train(model, optimizer, 1)
        exchange(model, optimizer, torch.randn(5, 6))
        before = weights(model)["0.weight"]
        train(model, optimizer, 1)
    series, true = log.read().series("0.weight"), witness(before, weights(model)["0.weight"], Neurons())
    np.testing.assert_allclose(series.rotation[1], true["rotation"], rtol=1e-4)


@pytest.mark.parametrize("how", ["exchanged", "resized"])
def test_a_layer_of_another_shape_is_another_log(how: str) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, every=1) as log:
        train(model, optimizer, 1)
        if how == "exchanged":
            exchange(model, optimizer, torch.randn(9, 6))
        else:
            model[0].weight.data = torch.randn(9, 6)
        before = weights(model)
        noisy(model)
        with pytest.raises(ValueError, match=r"0\.weight had the shape \[5, 6\] .* has \[9, 6\] now\. Close this log"):
            optimizer.step()
        for name, p in model.named_parameters():
            assert torch.equal(p, before[name])
    assert len(log.read().series("2.weight").step) == 1


def test_parameters_that_left_the_optimizer_have_no_more_lines() -> None:
    model = net()
    optimizer = torch.optim.SGD([{"params": model[0].parameters()}, {"params": model[2].parameters()}], lr=0.1)
    with watch(model, optimizer, every=1) as log:
        train(model, optimizer, 1)
        del optimizer.param_groups[1]
        train(model, optimizer, 1)
    assert log.read().series("0.weight").step.tolist() == [1, 2]
    assert log.read().series("2.weight").step.tolist() == [1]


def test_options_of_any_kind_are_recorded_or_left_out() -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(1e-3, dtype=torch.float64), capturable=True)
    group = optimizer.param_groups[0]
    group.update(limit=math.inf, ratio=np.float32(0.5), mask=torch.ones(3), callback=print, names=["a", "b"])
    with watch(model, optimizer, every=1) as log:
        pass
    recorded = log.read().run.groups[0]
    assert {k: recorded[k] for k in ("lr", "limit", "ratio", "names", "betas")} == {
        "lr": 1e-3,
        "limit": None,
        "ratio": 0.5,
        "names": ["a", "b"],
        "betas": [0.9, 0.999],
    }
    assert not {"params", "mask", "callback"} & set(recorded)


def test_learning_rate_that_the_optimizer_leaves_open_is_not_a_number() -> None:
    class Own(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            pass

    model = net()
    optimizer = Own(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["lr"] = None
    with watch(model, optimizer, every=1) as log:
        train(model, optimizer, 1)
    assert np.isnan(log.read().series("0.weight").lr).all()


# Rules -----------------------------------------------------------------------------------------------------------


class Strange(torch.optim.SGD):
    """An optimizer that nobody knows."""

    def step(self, closure: Any = None) -> None:
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p.sub_(0.01 * p.grad.sign())


def test_rules_are_recorded_for_known_optimizers_and_named_for_others() -> None:
    model = net()
    for optimizer, rule, expected in (
        (torch.optim.AdamW(model.parameters()), None, rules.adamw()),
        (rotational.Lion(rotational.groups(model, weight_decay=0.1)), None, rules.lion()),
        (Strange(model.parameters()), None, None),
        (Strange(model.parameters()), rules.lion(betas=(0, 0)), rules.lion(betas=(0, 0))),
        (torch.optim.AdamW(model.parameters(), amsgrad=True), None, None),
    ):
        with watch(model, optimizer, every=1, rule=rule) as log:
            train(model, optimizer, 1)
        assert log.read().run.rules[0] == (expected and expected.as_dict())
        assert log.read().series("0.weight").rotation_rms[0] > 0
