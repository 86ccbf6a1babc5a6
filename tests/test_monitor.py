"""What the monitor measures, against a float64 recomputation from clones; and that it leaves nothing behind."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import rotational
from layouts import LAYOUTS
from rotational import changes, records
from rotational.monitor import Log, watch
from rotational.neurons import Neurons
from rotational.records import QUANTILES
from watching import Layers, net, noisy, train, weights, witness


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)


# What is measured is what happened ------------------------------------------------------------------------


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "AdamW": lambda m: torch.optim.AdamW(m.parameters(), lr=1e-2, weight_decay=0.5),
    "AdamW fused": lambda m: torch.optim.AdamW(m.parameters(), lr=1e-2, weight_decay=0.5, fused=True),
    "Adam": lambda m: torch.optim.Adam(m.parameters(), lr=1e-2, weight_decay=0.5, foreach=False),
    "SGD": lambda m: torch.optim.SGD(m.parameters(), lr=1e-2, momentum=0.9, weight_decay=0.1, nesterov=True),
    "RMSprop": lambda m: torch.optim.RMSprop(m.parameters(), lr=1e-2, weight_decay=0.1),
    "Adagrad": lambda m: torch.optim.Adagrad(m.parameters(), lr=1e-2, weight_decay=0.1),
    "rotational.AdamW": lambda m: rotational.AdamW(rotational.groups(m, weight_decay=0.5), lr=1e-2),
    "rotational.Lion": lambda m: rotational.Lion(rotational.groups(m, weight_decay=0.5), lr=1e-3),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_measured_change_is_the_true_one_decay_included(
    make: Callable[[nn.Module], torch.optim.Optimizer], dtype: torch.dtype
) -> None:
    model = Layers().to(dtype)
    optimizer = make(model)
    held = rotational.partition(model)
    snapshots = [weights(model)]
    with watch(model, optimizer, every=1, keep=None) as log:
        for _ in range(3):
            train(model, optimizer, 1)
            snapshots.append(weights(model))
    assert [layer.name for layer in log.read().layers] == list(held)
    for name in held:
        series = log.read().series(name)
        for t in range(3):
            true = witness(snapshots[t][name], snapshots[t + 1][name], held[name])
            for k in records.SERIES:  # the log keeps five digits, and float32 keeps four of a small difference
                np.testing.assert_allclose(getattr(series, k)[t], true[k], rtol=2e-4, atol=2e-4 if k == "radial" else 0)
            np.testing.assert_allclose(series.quantiles[t], np.quantile(true["rotation"], QUANTILES), rtol=2e-4)
            for k, scalar in (("rotation", "rotation_rms"), ("norm", "norm_rms"), ("update", "update_rms")):
                rms = math.sqrt(float(np.mean(true[k] ** 2)))
                assert getattr(series, scalar)[t] == pytest.approx(rms, rel=2e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_adamw_without_gradients_shrinks_every_neuron_and_turns_none(dtype: torch.dtype) -> None:
    model, lr, wd = net().to(dtype), 1e-2, 0.3
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=wd)
    start = weights(model)["0.weight"].double().norm(dim=1)
    with watch(model, optimizer, every=1) as log:
        for _ in range(4):
            for p in model.parameters():
                p.grad = torch.zeros_like(p)
            optimizer.step()
    series, rounding = log.read().series("0.weight"), torch.finfo(dtype).eps
    shrunk = start.numpy() * (1 - lr * wd) ** np.arange(1, 5)[:, None]
    np.testing.assert_allclose(series.norm, shrunk, rtol=5e-5)
    norm_rms = np.sqrt(np.mean(shrunk**2, axis=1))
    np.testing.assert_allclose(series.norm_rms, norm_rms, rtol=20 * rounding)
    np.testing.assert_allclose(series.update_rms, norm_rms / (1 - lr * wd) * lr * wd, rtol=20 * rounding / (lr * wd))
    np.testing.assert_allclose(series.radial, -1, rtol=1e-5)
    assert series.rotation.max() < 2 * rounding
    assert (series.rotation >= 0).all()


@pytest.mark.parametrize(("units", "shape"), LAYOUTS.values(), ids=LAYOUTS)
def test_measuring_in_chunks_changes_nothing(
    units: Neurons, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.randn(shape, dtype=torch.float64)
    after = before + 0.1 * torch.randn_like(before)
    expected = np.stack(list(witness(before, after, units).values()))
    for chunk in (1, 7, 1 << 20):
        monkeypatch.setattr(changes, "CHUNK", chunk)
        np.testing.assert_allclose(changes.table_of(units, before, after), expected, rtol=1e-10, atol=1e-15)


def test_weights_whose_storage_was_moved_are_measured_where_they_are() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, every=1) as log:
        model.to(torch.float64)  # p.data is exchanged, the Parameter stays
        for p in model.parameters():
            p.data = p.data.clone().contiguous(memory_format=torch.contiguous_format)
        before = weights(model)
        train(model, optimizer, 1)
    true = witness(before["0.weight"], weights(model)["0.weight"], Neurons())
    np.testing.assert_allclose(log.read().series("0.weight").rotation[0], true["rotation"], rtol=1e-4)


def test_layers_of_different_dtypes_are_measured_each_in_its_own() -> None:
    model = net()
    model[0].double()
    model[2].bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = weights(model)
    with watch(model, optimizer, every=1) as log:
        train(model, optimizer, 1)
    for name in ("0.weight", "2.weight"):
        true = witness(before[name], weights(model)[name], Neurons())
        np.testing.assert_allclose(log.read().series(name).rotation[0], true["rotation"], rtol=1e-4)


def test_other_hooks_of_the_step_are_part_of_it_in_their_order() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def freeze(*_: Any) -> None:
        for p in model.parameters():
            p.data.copy_(kept[p])

    kept = {p: p.detach().clone() for p in model.parameters()}
    optimizer.register_step_post_hook(freeze)
    with watch(model, optimizer, every=1) as log:
        train(model, optimizer, 1)
    assert log.read().series("0.weight").update.max() == 0


def test_tied_weights_are_measured_once_under_their_first_name() -> None:
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False))
    model[1].weight = model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, every=1) as log:
        train(model, optimizer, 1)
    assert [layer.name for layer in log.read().run.layers] == ["0.weight"]
    assert log.read().series("0.weight").rotation_rms > 0


def test_overrides_say_what_a_neuron_is() -> None:
    model = net()
    parts = Neurons(parts=(("a", 2), ("b", 3)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, every=1, overrides={"0.weight": parts, "2.*": None}) as log:
        train(model, optimizer, 1)
    (layer,) = log.read().layers
    assert (layer.name, layer.parts, layer.neurons) == ("0.weight", (("a", 2), ("b", 3)), 5)


def test_zero_neurons_read_zero_and_cause_no_warning() -> None:
    model = net()
    nn.init.zeros_(model[0].weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with watch(model, optimizer, every=1) as log:
        train(model, optimizer, 1)
    series = log.read().series("0.weight")
    assert [float(getattr(series, k).max()) for k in records.SERIES] == [0, 0, 0, 0]


# Which steps and which neurons ------------------------------------------------------------------------------


def test_every_nth_step_is_logged_with_its_number_and_hyperparameters() -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.25)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5**t)
    with watch(model, optimizer, every=3) as log:
        assert (log.steps, log.latest) == (0, None)
        for _ in range(10):
            train(model, optimizer, 1)
            schedule.step()
    assert log.steps == 10
    series = log.read().series("2.weight")
    assert series.step.tolist() == [3, 6, 9]
    assert series.lr.tolist() == [0.5**2, 0.5**5, 0.5**8]  # the rate of the step, not of the one that follows
    assert series.weight_decay.tolist() == [0.25] * 3
    rms = [log.read().series(name).rotation[-1] ** 2 for name in ("0.weight", "2.weight")]
    assert log.latest == pytest.approx(math.sqrt(np.mean(np.concatenate(rms))), rel=1e-4)


@pytest.mark.parametrize("keep", [1, 2, 7, 10, 11, 100, None])
def test_kept_neurons_are_evenly_spaced_and_all_neurons_count(keep: int | None) -> None:
    logs: list[Log] = []
    for limit in (keep, None):
        torch.manual_seed(3)
        model = nn.Linear(4, 11)
        optimizer = torch.optim.AdamW(model.parameters())
        with watch(model, optimizer, every=1, keep=limit) as log:
            train(model, optimizer, 2)
        logs.append(log)
    some, every = (log.read().series("weight") for log in logs)
    kept = some.layer.kept
    assert len(kept) == min(keep or 11, 11)
    assert kept[0] == 0
    if len(kept) > 1:
        assert kept[-1] == 10
        assert np.ptp(np.diff(kept)) <= 1
    np.testing.assert_array_equal(some.rotation, every.rotation[:, list(kept)])
    np.testing.assert_array_equal(some.rotation_rms, every.rotation_rms)
    np.testing.assert_array_equal(some.quantiles, every.quantiles)
    np.testing.assert_allclose(every.quantiles, np.quantile(every.rotation, QUANTILES, axis=1).T, rtol=1e-4)


def test_rotation_that_was_held_stands_beside_the_measured_one() -> None:
    model = net()
    optimizer = rotational.AdamW(rotational.groups(model, weight_decay=0.1), lr=1e-2)
    with watch(model, optimizer, every=1) as log:
        train(model, optimizer, 400)
    series, predicted = log.read().series("0.weight"), rotational.predict(optimizer)[0].rotation
    np.testing.assert_allclose(series.held, predicted)
    assert math.sqrt(np.mean(series.rotation_rms**2)) == pytest.approx(predicted, rel=0.03)
    assert math.isclose(float(series.norm_rms[-1]), float(series.norm_rms[0]), rel_tol=1e-5)


# Nothing is added to a step that is not logged ----------------------------------------------------------------


class Operations(TorchDispatchMode):
    """All operations on tensors, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(op))
        return op(*args, **(kwargs or {}))


def operations(optimizer: torch.optim.Optimizer) -> list[str]:
    with Operations() as seen:
        optimizer.step()
    return seen.names


def test_a_step_that_is_not_logged_does_nothing_but_step() -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    noisy(model)
    optimizer.step()
    plain = operations(optimizer)
    with watch(model, optimizer, every=3):
        assert operations(optimizer) == plain
        assert operations(optimizer) == plain
        logged = operations(optimizer)
        assert logged.count("aten.clone.default") >= 2  # so the counting can see a clone
        assert len(logged) > len(plain)
        assert operations(optimizer) == plain
    assert operations(optimizer) == plain


def test_clones_are_freed_before_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clones: list[weakref.ref[Tensor]] = []
    clone = Tensor.clone

    def noted(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        made = clone(self, *args, **kwargs)
        clones.append(weakref.ref(made))
        return made

    noisy(model)
    monkeypatch.setattr(Tensor, "clone", noted)
    alive: list[int] = []
    write = records.Writer.write
    monkeypatch.setattr(
        records.Writer, "write", lambda *a: (alive.append(sum(c() is not None for c in clones)), write(*a))
    )
    gc.disable()  # references alone must do it
    try:
        with watch(model, optimizer, every=1):
            optimizer.step()  # which may load what torch loads when it is needed
            clones.clear()
            alive.clear()
            optimizer.step()
            assert len(clones) == 2
            assert alive == [0]
    finally:
        gc.enable()


def test_a_closed_log_lets_go_of_model_and_optimizer() -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    with watch(model, optimizer, every=1) as log:
        train(model, optimizer, 1)
    gone = [weakref.ref(x) for x in (model, optimizer, *model.parameters())]
    del model, optimizer
    gc.collect()
    assert [x() for x in gone] == [None] * len(gone)
    assert log.read().layers
