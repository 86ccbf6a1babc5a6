"""Schedules as arrays: every scheduler of torch against a real optimizer that it steps, and what is refused."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as lrs
from torch.optim.swa_utils import SWALR

from compare import assert_same
from rotational import schedulers
from rotational.schedule import read_scheduler

STEPS = 60


class Warmup:
    """A callable with a state of its own, which a scheduler's state dict would save."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, step: int) -> float:
        self.calls += 1
        return min(1.0, (1 + step) / 10)


class Halving(lrs.LRScheduler):
    """A scheduler of the user's own, which tells groups apart by what only it knows."""

    def get_lr(self) -> list[Any]:
        return [group["lr"] * group.get("factor", 0.5) for group in self.optimizer.param_groups]


def decay(step: int) -> float:
    return 0.95**step


def one(step: int) -> int:
    return 1


def single(step: int) -> Any:
    return np.float32(0.9) ** step


def sequence(opt: Any) -> lrs.LRScheduler:
    return lrs.SequentialLR(
        opt, [lrs.LinearLR(opt, 0.1, 1.0, 10), lrs.CosineAnnealingLR(opt, 40), lrs.StepLR(opt, 2)], [10, 50]
    )


def nested(opt: Any) -> lrs.LRScheduler:
    # Only the first may nest: torch cannot hand over to a SequentialLR or ChainedScheduler.
    inner = lrs.SequentialLR(opt, [lrs.LambdaLR(opt, Warmup()), lrs.ConstantLR(opt, 0.5, 3)], [7])
    return lrs.SequentialLR(
        opt, [inner, lrs.MultiplicativeLR(opt, decay), lrs.CosineAnnealingWarmRestarts(opt, 4)], [30, 31]
    )


def chained_first(opt: Any) -> lrs.LRScheduler:
    chained = lrs.ChainedScheduler([lrs.LinearLR(opt, 0.2, 1.0, 20), lrs.ExponentialLR(opt, 0.9)])
    return lrs.SequentialLR(opt, [chained, lrs.PolynomialLR(opt, 30)], [25])


def sequence_in_chain(opt: Any) -> lrs.LRScheduler:
    return lrs.ChainedScheduler([sequence(opt), lrs.MultiplicativeLR(opt, decay)])


SCHEDULERS: dict[str, Callable[[Any], lrs.LRScheduler]] = {
    "LambdaLR": lambda opt: lrs.LambdaLR(opt, decay),
    "LambdaLR of several": lambda opt: lrs.LambdaLR(opt, [(decay, Warmup(), one)[i % 3] for i in range(places(opt))]),
    "LambdaLR in single precision": lambda opt: lrs.LambdaLR(opt, single),
    "MultiplicativeLR": lambda opt: lrs.MultiplicativeLR(opt, lambda step: 0.9 + 0.1 * (step % 2)),
    "StepLR": lambda opt: lrs.StepLR(opt, 7, 0.5),
    "MultiStepLR": lambda opt: lrs.MultiStepLR(opt, [3, 20, 20, 41], 0.5),
    "ConstantLR": lambda opt: lrs.ConstantLR(opt, 0.25, 12),
    "LinearLR": lambda opt: lrs.LinearLR(opt, 0.1, 0.9, 30),
    "ExponentialLR": lambda opt: lrs.ExponentialLR(opt, 0.93),
    "CosineAnnealingLR": lambda opt: lrs.CosineAnnealingLR(opt, 25, 1e-3),
    "CosineAnnealingWarmRestarts": lambda opt: lrs.CosineAnnealingWarmRestarts(opt, 9, 2),
    "PolynomialLR": lambda opt: lrs.PolynomialLR(opt, 45, 2.0),
    "OneCycleLR": lambda opt: lrs.OneCycleLR(opt, 0.3, total_steps=2 * STEPS),
    "OneCycleLR of several": lambda opt: lrs.OneCycleLR(
        opt, [0.1 * (i + 1) for i in range(places(opt))], 2 * STEPS, three_phase=True, cycle_momentum=False
    ),
    "CyclicLR": lambda opt: lrs.CyclicLR(opt, 0.01, 0.2, 8),
    "CyclicLR of exponents": lambda opt: lrs.CyclicLR(opt, 0.01, 0.2, 8, 3, mode="exp_range", gamma=0.97),
    "CyclicLR with a function": lambda opt: lrs.CyclicLR(opt, 0.01, 0.2, 8, scale_fn=decay, scale_mode="iterations"),
    "SequentialLR": sequence,
    "SequentialLR, nested": nested,
    "SequentialLR, a chain first": chained_first,
    "ChainedScheduler of a sequence": sequence_in_chain,
    "ChainedScheduler": lambda opt: lrs.ChainedScheduler([lrs.ConstantLR(opt, 0.1, 5), lrs.ExponentialLR(opt, 0.9)]),
    "SWALR": lambda opt: SWALR(opt, 0.01, anneal_epochs=20),
    "a class of the user's": Halving,
}

SETUPS: dict[str, Callable[[], torch.optim.Optimizer]] = {
    "one group": lambda: torch.optim.SGD([torch.ones(2)], lr=0.1, momentum=0.9),
    "groups": lambda: torch.optim.AdamW(
        [{"params": [torch.ones(2)], "lr": lr, "factor": lr} for lr in (0.1, 0.1, 0.3, 0.1)]
    ),
    "a tensor": lambda: torch.optim.AdamW([{"params": [torch.ones(2)]} for _ in range(2)], lr=torch.tensor(0.1)),
}


def built(case: str, opt: torch.optim.Optimizer) -> lrs.LRScheduler:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of")  # by torch's own constructor of what is nested
        return SCHEDULERS[case](opt)


def places(opt: torch.optim.Optimizer) -> int:
    return len(opt.param_groups)


def rates(opt: torch.optim.Optimizer) -> list[float]:
    return [float(group["lr"]) for group in opt.param_groups]


def stepped(opt: torch.optim.Optimizer, scheduler: lrs.LRScheduler, steps: int) -> list[np.ndarray]:
    """The witness: learning rates as a real optimizer uses them."""
    used: list[list[float]] = []
    for _ in range(steps):
        used.append(rates(opt))
        opt.step()
        scheduler.step()
    return list(np.array(used).T)


# Against torch ----------------------------------------------------------------------------------------------


def test_every_scheduler_of_torch_is_among_the_cases() -> None:
    named = {case.split(",")[0].split(" ")[0] for case in SCHEDULERS}
    assert set(lrs.__all__) - named == {"LRScheduler", "ReduceLROnPlateau"}


@pytest.mark.parametrize("before", [0, 1, 13])
@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("case", SCHEDULERS)
def test_what_is_read_is_what_torch_does_bit_for_bit(case: str, setup: str, before: int) -> None:
    opt = SETUPS[setup]()
    scheduler = built(case, opt)
    stepped(opt, scheduler, before)
    read = read_scheduler(scheduler, STEPS)
    assert_same(read, stepped(opt, scheduler, STEPS))
    assert read_scheduler(scheduler, 1)[-1].tolist() == rates(opt)[-1:]


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("case", SCHEDULERS)
def test_a_long_run_is_read_in_stretches(case: str, setup: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedulers, "STRETCH", 7)
    opt = SETUPS[setup]()
    scheduler = built(case, opt)
    some = read_scheduler(scheduler, STEPS, every=11)
    expected = stepped(opt, scheduler, STEPS)
    assert_same(some, [x[10::11] for x in expected])


def test_a_rate_that_the_user_set_by_hand_is_where_it_goes_on_from() -> None:
    opt = SETUPS["groups"]()
    scheduler = lrs.CosineAnnealingLR(opt, 25)
    stepped(opt, scheduler, 5)
    opt.param_groups[1]["lr"] = 0.07
    read = read_scheduler(scheduler, STEPS)
    assert_same(read, stepped(opt, scheduler, STEPS))
    assert [x is read[0] for x in read] == [True, False, False, True]


def test_a_loaded_scheduler_goes_on() -> None:
    opt = SETUPS["groups"]()
    scheduler = sequence(opt)
    stepped(opt, scheduler, 20)
    opt2 = SETUPS["groups"]()
    scheduler2 = sequence(opt2)
    scheduler2.load_state_dict(copy.deepcopy(scheduler.state_dict()))
    opt2.load_state_dict(opt.state_dict())
    assert_same(read_scheduler(scheduler2, STEPS), stepped(opt, scheduler, STEPS))


def test_what_torch_itself_cannot_step_is_said() -> None:
    opt = SETUPS["one group"]()
    scheduler = lrs.SequentialLR(opt, [lrs.ConstantLR(opt), lrs.ChainedScheduler([lrs.ExponentialLR(opt, 0.9)])], [5])
    with pytest.raises(ValueError, match=r"no learning rate for step 5: NotImplementedError\."):
        read_scheduler(scheduler, STEPS)
    with pytest.raises(NotImplementedError):
        stepped(opt, scheduler, STEPS)


def test_milestones_out_of_order_are_read_as_torch_reads_them() -> None:
    opt = SETUPS["one group"]()
    scheduler = lrs.SequentialLR(
        opt, [lrs.ConstantLR(opt, 0.5, 4), lrs.ExponentialLR(opt, 0.9), lrs.StepLR(opt, 3)], [20, 10]
    )
    assert_same(read_scheduler(scheduler, STEPS), stepped(opt, scheduler, STEPS))


def test_groups_that_go_the_same_way_are_read_once() -> None:
    calls: list[int] = []

    def f(step: int) -> float:
        calls.append(step)
        return 1 / (1 + step)

    opt = torch.optim.SGD([{"params": [torch.ones(1)], "lr": 0.1 * (1 + i % 2)} for i in range(200)])
    scheduler = lrs.LambdaLR(opt, f)
    calls.clear()
    read = read_scheduler(scheduler, 100)
    assert calls == list(range(1, 100))
    assert len(set(map(id, read))) == 2
    assert read[0] is read[198]
    with pytest.raises(ValueError, match="read-only"):
        read[0][0] = 1.0


# The user's own stay as they are ----------------------------------------------------------------------------


def contents(opt: Any, scheduler: Any) -> Any:
    hooks = {k: list(v) for k, v in vars(opt).items() if "hooks" in k}
    state = {k: v for k, v in scheduler.state_dict().items() if k != "_scale_fn_ref"}
    groups = [{k: v for k, v in g.items() if k != "params"} for g in opt.param_groups]
    return copy.deepcopy((state, groups, scheduler.get_last_lr(), opt.state_dict(), hooks, sorted(vars(scheduler))))


def identities(opt: Any, scheduler: Any) -> list[int]:
    held = [x for group in opt.param_groups for x in group.values()]
    return [id(x) for x in (*held, *vars(scheduler).values(), vars(opt).get("step"))]


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("case", SCHEDULERS)
def test_scheduler_and_optimizer_stay_untouched(case: str, setup: str) -> None:
    opt = SETUPS[setup]()
    scheduler = built(case, opt)
    stepped(opt, scheduler, 3)
    before, same, filters = contents(opt, scheduler), identities(opt, scheduler), list(warnings.filters)
    generator = torch.get_rng_state()
    read_scheduler(scheduler, STEPS)
    assert contents(opt, scheduler) == before
    assert identities(opt, scheduler) == same
    assert scheduler.optimizer is opt
    assert warnings.filters == filters
    assert torch.equal(torch.get_rng_state(), generator)


def test_the_warning_about_the_order_of_steps_is_neither_given_nor_used_up() -> None:
    opt = SETUPS["one group"]()
    scheduler = lrs.StepLR(opt, 3)
    read_scheduler(scheduler, STEPS)  # warnings are errors here
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        scheduler.step()


def test_methods_are_not_copied_with_their_objects() -> None:
    class Trainer:
        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError("a whole trainer was copied")

        def rate(self, step: int) -> float:
            return 1 / (1 + step)

    opt = SETUPS["one group"]()
    assert_same(read_scheduler(lrs.LambdaLR(opt, Trainer().rate), 2), [np.array([0.1, 0.05])])


# Refused ----------------------------------------------------------------------------------------------------


def test_plateaus_wait_for_losses() -> None:
    with pytest.raises(ValueError, match=r"^read_scheduler\(ReduceLROnPlateau\): its learning rate waits for losses"):
        read_scheduler(lrs.ReduceLROnPlateau(SETUPS["one group"]()), 10)


def test_the_end_of_a_cycle_is_named() -> None:
    scheduler = lrs.OneCycleLR(SETUPS["one group"](), 0.1, total_steps=10)
    assert len(read_scheduler(scheduler, 11)[0]) == 11
    with pytest.raises(ValueError, match=r"^predict\(OneCycleLR\): no learning rate for step 11: ValueError: Tried"):
        read_scheduler(scheduler, 12, call="predict")


@pytest.mark.parametrize("count", [1, 3])
def test_a_function_that_raises_is_named_with_its_step(count: int) -> None:
    def f(step: int) -> float:
        return 1 / (7 - step)

    opt = torch.optim.SGD([{"params": [torch.ones(1)]} for _ in range(count)])
    scheduler = lrs.LambdaLR(opt, [decay] * (count - 1) + [f])
    with pytest.raises(ValueError, match=r"no learning rate for step 7: ZeroDivisionError") as raised:
        read_scheduler(scheduler, 10)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_what_cannot_be_copied_is_refused() -> None:
    opt = SETUPS["one group"]()
    scheduler = Halving(opt)
    scheduler.source = (x for x in ())
    with pytest.raises(ValueError, match=r"^read_scheduler\(Halving\): it cannot be copied"):
        read_scheduler(scheduler, 3)


def test_rates_that_no_optimizer_could_use_are_named() -> None:
    opt = torch.optim.SGD([{"params": [torch.ones(1)]} for _ in range(2)], lr=0.1)
    scheduler = lrs.LambdaLR(opt, [decay, lambda step: 1 - 0.5 * step])
    with pytest.raises(ValueError, match=r"^read_scheduler\(LambdaLR\): group 1 has lr=-0.05\d* at step 3; expected"):
        read_scheduler(scheduler, 5)


def test_what_is_no_scheduler() -> None:
    with pytest.raises(TypeError, match=r"expected a scheduler of torch\.optim\.lr_scheduler, got float"):
        read_scheduler(0.1, 5)
    with pytest.raises(TypeError, match="got type"):
        read_scheduler(lrs.StepLR, 5)
