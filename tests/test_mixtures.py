"""Learning rates read off a few groups: against torch's own, group by group."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as lrs

import rotational
from compare import assert_same
from rotational import schedulers
from rotational.dynamics.told import outermost
from rotational.mixtures import mixtures, peaks

STEPS, GROUPS = 60, 7


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [{"params": [torch.ones(4, 8)], "lr": 0.1 * 0.7**i} for i in range(GROUPS)], weight_decay=0.1
    )


def falling(step: int) -> float:
    return 0.9**step


def sequence(opt: Any) -> lrs.LRScheduler:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of")
        return lrs.SequentialLR(opt, [lrs.LinearLR(opt, 0.1, 1.0, 10), lrs.CosineAnnealingLR(opt, 40, 1e-3)], [10])


SCHEDULERS: dict[str, tuple[Callable[[Any], lrs.LRScheduler], int]] = {  # and how many groups are read
    "StepLR": (lambda opt: lrs.StepLR(opt, 7, 0.5), 1),
    "LambdaLR of two": (lambda opt: lrs.LambdaLR(opt, [(falling, abs)[i % 2] for i in range(GROUPS)]), 2),
    "CosineAnnealingLR": (lambda opt: lrs.CosineAnnealingLR(opt, 25), 1),
    "CosineAnnealingLR, eta_min": (lambda opt: lrs.CosineAnnealingLR(opt, 25, 1e-3), 2),
    "CosineAnnealingWarmRestarts": (lambda opt: lrs.CosineAnnealingWarmRestarts(opt, 9, 2), 1),
    "OneCycleLR": (lambda opt: lrs.OneCycleLR(opt, [g["lr"] for g in opt.param_groups], 2 * STEPS), 1),
    "CyclicLR": (lambda opt: lrs.CyclicLR(opt, 0.01, [0.1 + 0.1 * i for i in range(GROUPS)], 8), 2),
    "SequentialLR": (sequence, 2),
    "ChainedScheduler": (
        lambda opt: lrs.ChainedScheduler([lrs.LinearLR(opt, 0.2, 1.0, 20), lrs.PolynomialLR(opt, 50)]),
        1,
    ),
}


def stepped(opt: torch.optim.Optimizer, scheduler: lrs.LRScheduler, steps: int) -> list[np.ndarray]:
    used: list[list[float]] = []
    for _ in range(steps):
        used.append([float(group["lr"]) for group in opt.param_groups])
        opt.step()
        scheduler.step()
    return list(np.array(used).T)


@pytest.mark.parametrize("stretch", [7, 16384])
@pytest.mark.parametrize("before", [0, 13])
@pytest.mark.parametrize("case", SCHEDULERS)
def test_mixtures_are_what_torch_does(case: str, before: int, stretch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedulers, "STRETCH", stretch)
    make, read = SCHEDULERS[case]
    opt = optimizer()
    scheduler = make(opt)
    stepped(opt, scheduler, before)
    found = mixtures(scheduler, STEPS, call="predict")
    assert found is not None
    courses = {id(m.course): m.course for m in found}
    assert sum(len(np.atleast_2d(x)) for x in courses.values()) == read
    for mixture, expected in zip(found, stepped(opt, scheduler, STEPS), strict=True):
        x = mixture.factor @ mixture.course if mixture.course.ndim == 2 else mixture.factor * mixture.course
        assert_same(x, expected, 1e-9)


def test_a_group_that_goes_another_way_is_seen_in_any_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes of torch are linear; one that, late in a run, is not must not be taken for it."""
    monkeypatch.setattr(schedulers, "STRETCH", 10)
    plain = lrs.ExponentialLR.get_lr

    def bent(self: Any) -> list[Any]:
        return [lr**1.01 if self.last_epoch > 30 else lr for lr in plain(self)]

    opt = optimizer()
    scheduler = lrs.ExponentialLR(opt, 0.99)
    assert mixtures(scheduler, STEPS, call="predict") is not None
    monkeypatch.setattr(lrs.ExponentialLR, "get_lr", bent)
    assert mixtures(scheduler, STEPS, call="predict") is None


def test_what_cannot_be_mixed_is_left_to_be_read_whole() -> None:
    few = torch.optim.AdamW([torch.ones(2)], lr=0.1)
    assert mixtures(lrs.StepLR(few, 5), STEPS, call="predict") is None
    tensors = torch.optim.AdamW([{"params": [torch.ones(2)], "lr": torch.tensor(0.1 * (1 + i))} for i in range(5)])
    assert mixtures(lrs.StepLR(tensors, 5), STEPS, call="predict") is None

    class Own(lrs.LRScheduler):
        def get_lr(self) -> list[Any]:
            return [group["lr"] for group in self.optimizer.param_groups]

    assert mixtures(Own(optimizer()), STEPS, call="predict") is None


@pytest.mark.parametrize("decay", ["decoupled", "adamc"])
def test_groups_between_two_courses_are_forecast_as_each_alone(decay: Any) -> None:
    rule = rotational.rules.adamw(decay=decay)
    opt = optimizer()
    scheduler = lrs.CosineAnnealingLR(opt, 8000, 1e-3)
    said = rotational.predict(opt, scheduler, steps=8000, rule=rule)
    rates = schedulers.read_scheduler(scheduler, 8000)
    for group, lr in zip(said, rates, strict=True):
        assert group.forecast is not None
        alone = rotational.forecast(rule, lr=lr, weight_decay=0.1, steps=8000, size=8, every=4)
        # Side by side blocks are as short as the neuron needs that changes most.
        assert_same(group.forecast.lr[:, 0], alone.lr, 1e-9)
        assert_same(group.forecast.static[:, 0], alone.static, 1e-6)
        assert_same(group.forecast.rotation[:, 0], alone.rotation, 3e-3)


def test_the_largest_of_all_mixtures_is_among_the_outermost() -> None:
    rng = np.random.default_rng(0)
    for shape in ("cloud", "grid", "line"):
        for count in (1, 2, 5, 40):
            points = rng.random((2, count))
            points = np.round(4 * points) if shape == "grid" else points
            if shape == "line":
                points[1] = 1 - points[0]
            found = outermost(points)
            for x in rng.random((50, 2)):
                assert (x @ points[:, found]).max() == pytest.approx((x @ points).max(), rel=1e-12)
            if shape == "line":
                assert len(found) <= 3  # its ends, and what rounding puts above it


@pytest.mark.parametrize("seed", range(4))
def test_peaks_are_those_of_whole_courses(seed):
    rng = np.random.default_rng(seed)
    course = np.cumsum(rng.normal(size=(2, 5000)), axis=1)
    course = np.round(course - course.min(), 1 if seed else 12)  # rounded, so that several steps are as high
    rates = [(course, share) for share in rng.uniform(0, 2, (50, 2))] + [(course[0], 3.0), (course[1], 0.5), (0.1, 1.0)]
    rates += [(np.zeros((2, 5000)), np.ones(2)), (course[:, :7], np.array([0.0, 1.0]))]
    for (at, top), (x, factor) in zip(peaks(rates), rates, strict=True):
        whole = np.atleast_1d(factor @ x if np.ndim(x) == 2 else np.multiply(x, factor))
        assert top == pytest.approx(whole.max(), rel=1e-12)
        assert at == np.argmax(whole) or whole[at] == pytest.approx(whole.max(), rel=1e-15)
