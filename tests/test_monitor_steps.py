"""Steps of every kind under watch: hooks, closures, nested, compiled, skipped and failing ones."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import rotational
from rotational import rules
from rotational.monitor import Log, watch
from rotational.neurons import Neurons
from watching import is_unhooked, net, noisy, train, weights, witness


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)


# Hooks come and go, and nothing is patched ---------------------------------------------------------------------


def test_only_the_optimizers_own_hooks_are_used() -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    own, of_class, modules = dict(vars(optimizer)), type(optimizer).step, [dict(vars(m)) for m in model.modules()]
    with watch(model, optimizer):
        assert type(optimizer).step is of_class
        assert vars(optimizer) == own
        assert [len(optimizer._optimizer_step_pre_hooks), len(optimizer._optimizer_step_post_hooks)] == [1, 1]
        assert [dict(vars(m)) for m in model.modules()] == modules
    assert is_unhooked(optimizer)
    assert vars(optimizer) == own


def test_body_that_raises_leaves_no_hook_and_a_readable_log() -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(KeyboardInterrupt), watch(model, optimizer, every=1) as log:  # noqa: PT012 the loop is the point
        train(model, optimizer, 2)
        raise KeyboardInterrupt
    assert is_unhooked(optimizer)
    assert log.read().series("0.weight").step.tolist() == [1, 2]


def test_closing_twice_is_closing_once_and_a_closed_log_stays_closed() -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    log = watch(model, optimizer, every=1)
    log.close()
    log.close()
    train(model, optimizer, 1)
    assert log.steps == 0
    with pytest.raises(ValueError, match=r"is closed\. Call watch\(\) again"), log:
        pass


@pytest.mark.parametrize("failing", ["register_step_pre_hook", "register_step_post_hook"])
def test_hooking_that_fails_half_way_leaves_nothing(failing: str, tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())

    def refuse(_: Any) -> Any:
        raise RuntimeError("no hooks today")

    setattr(optimizer, failing, refuse)
    with pytest.raises(RuntimeError, match="no hooks today"):
        watch(model, optimizer)
    assert is_unhooked(optimizer)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [torch.optim.AdamW, rotational.AdamW])
def test_two_logs_of_one_optimizer_measure_alike_and_close_apart(kind: Any) -> None:
    model = net()
    optimizer = kind(model.parameters())
    with watch(model, optimizer, every=2) as first:
        with watch(model, optimizer, every=2) as second:
            train(model, optimizer, 4)
        train(model, optimizer, 2)
    assert [log.path.name for log in (first, second)] == ["rotation-log", "rotation-log-2"]
    a, b = (log.read().series("0.weight") for log in (first, second))
    assert (a.step.tolist(), b.step.tolist()) == ([2, 4, 6], [2, 4])
    np.testing.assert_array_equal(a.rotation[:2], b.rotation)
    assert is_unhooked(optimizer)


def test_copies_and_pickles_of_a_watched_optimizer_are_not_watched() -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    with watch(model, optimizer, every=1) as log:
        train(model, optimizer, 1)
        twin_model, twin = copy.deepcopy((model, optimizer))
        train(twin_model, twin, 3)
        pickle.loads(pickle.dumps(optimizer))
    assert log.steps == 1


# What training loops do -----------------------------------------------------------------------------------------


def test_steps_that_gradscaler_skips_are_not_counted() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with watch(model, optimizer, every=1) as log:
        for bad in (False, True, False):
            optimizer.zero_grad()
            scaler.scale(model(torch.randn(4, 6)).square().sum()).backward()
            if bad:
                model[0].weight.grad[0, 0] = math.inf
            scaler.step(optimizer)
            scaler.update()
    assert log.steps == 2
    assert log.read().series("0.weight").rotation_rms.min() > 0


def test_closures_are_called_as_ever_and_the_whole_step_is_measured() -> None:
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    x, calls = torch.randn(8, 6), list[float]()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        calls.append(loss.item())
        return loss

    with watch(model, optimizer, every=1) as log:
        before = weights(model)["0.weight"]
        loss = optimizer.step(closure)
    assert loss.item() == calls[0]
    assert len(calls) > 1
    assert log.steps == 1
    true = witness(before, weights(model)["0.weight"], Neurons())
    np.testing.assert_allclose(log.read().series("0.weight").rotation[0], true["rotation"], rtol=1e-4)


def test_a_step_that_raised_is_no_step() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def broken() -> float:
        with torch.no_grad():
            model[0].weight.add_(1)
        raise RuntimeError("out of memory")

    with watch(model, optimizer, every=2) as log:
        train(model, optimizer, 1)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="out of memory"):
                optimizer.step(broken)
        before = weights(model)["0.weight"]
        train(model, optimizer, 1)
        true = witness(before, weights(model)["0.weight"], Neurons())
        with pytest.raises(RuntimeError, match="out of memory"):
            optimizer.step(broken)
        train(model, optimizer, 1)
        assert log.steps == 3
    series = log.read().series("0.weight")
    assert series.step.tolist() == [2]
    np.testing.assert_allclose(series.rotation[0], true["rotation"], rtol=1e-4)


def test_clones_of_a_step_that_raised_are_forgotten() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, every=1) as log:
        with pytest.raises(ZeroDivisionError):
            optimizer.step(lambda: 1 / 0)
        model[2].requires_grad_(False)
        model(torch.randn(4, 6)).square().sum().backward()
        optimizer.step()
    assert [layer.name for layer in log.read().layers] == ["0.weight"]


class Doubled(torch.optim.SGD):
    """A step around another's: torch hooks both."""

    def step(self, closure: Any = None) -> Any:
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.mul_(0.5)
        return super().step(closure)


def test_a_step_inside_a_step_is_part_of_it() -> None:
    torch.optim.SGD([torch.zeros(1)])  # from here on, torch has hooked SGD.step itself too
    model = net()
    optimizer = Doubled(model.parameters(), lr=0.1)
    before = weights(model)["0.weight"]
    with watch(model, optimizer, every=1) as log:
        train(model, optimizer, 1)
        true = witness(before, weights(model)["0.weight"], Neurons())
        train(model, optimizer, 2)
    assert log.steps == 3
    series = log.read().series("0.weight")
    assert series.step.tolist() == [1, 2, 3]
    np.testing.assert_allclose(series.update[0], true["update"], rtol=1e-4)
    np.testing.assert_allclose(series.radial[0], true["radial"], rtol=1e-4)
    assert log.read().run.rules == (None,)  # a step of its own is a rule of its own


def test_compiled_steps_are_measured() -> None:
    torch.optim.SGD([torch.zeros(1)])
    for make in (torch.optim.SGD, Doubled):
        torch.compiler.reset()
        model = net()
        optimizer = make(model.parameters(), lr=0.1)
        with warnings.catch_warnings(), watch(model, optimizer, every=2) as log:
            warnings.simplefilter("ignore")  # dynamo's own
            step = torch.compile(optimizer.step, backend="eager")
            for _ in range(3):
                noisy(model)
                step()
            noisy(model)
            before = weights(model)["0.weight"]
            step()
        true = witness(before, weights(model)["0.weight"], Neurons())
        assert log.steps == 4
        series = log.read().series("0.weight")
        assert series.step.tolist() == [2, 4]
        np.testing.assert_allclose(series.update[1], true["update"], rtol=1e-4)


def test_a_log_opened_inside_a_step_begins_with_the_next() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    logs: list[Log] = []

    def closure() -> float:
        if not logs:
            logs.append(watch(model, optimizer, every=1))
        return 0.0

    noisy(model)
    optimizer.step(closure)
    optimizer.step(closure)
    logs[0].close()
    assert logs[0].steps == 1
    assert logs[0].read().series("0.weight").step.tolist() == [1]


def test_wrapper_without_hooks_of_its_own_is_looked_through() -> None:
    class Wrapper:
        def __init__(self, optimizer: Any) -> None:
            self.optimizer = optimizer

        def step(self) -> None:
            self.optimizer.step()

    model = net()
    optimizer = Wrapper(Wrapper(torch.optim.AdamW(model.parameters())))
    with watch(model, optimizer, every=1) as log:
        noisy(model)
        optimizer.step()
    assert log.read().run.optimizer.endswith("AdamW")
    assert log.read().run.rules[0] == rules.adamw().as_dict()
    assert len(log.read().series("0.weight").step) == 1
