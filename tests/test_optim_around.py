"""Hooks and profilers see every step; without them none of torch's wrapper is entered."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import rotational
from rotational.optim import around

NAME = "Optimizer.step#AdamW.step"


def made() -> tuple[nn.Parameter, Any]:
    p = nn.Parameter(torch.randn(3, 4))
    p.grad = torch.randn(3, 4)
    return p, rotational.AdamW([p], lr=1e-2, weight_decay=0.1)


def names(profile: Any) -> list[str]:
    return [event.key for event in profile.key_averages()]


@pytest.mark.parametrize("stack", [True, False])
def test_a_profiler_finds_the_step_by_its_name(stack: bool) -> None:
    _, opt = made()
    opt.step()
    profiled = torch.profiler.profile
    # The first one loads modules of torch's while it records; names of what only they run are gone when it is read.
    with profiled(activities=[torch.profiler.ProfilerActivity.CPU], with_stack=stack):
        opt.step()
    with profiled(activities=[torch.profiler.ProfilerActivity.CPU], with_stack=stack) as profile:
        opt.step()
    assert NAME in names(profile)
    with torch.autograd.profiler.profile() as profile:
        opt.step()
    assert NAME in names(profile)


def test_without_hooks_and_profilers_nothing_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    _, opt = made()
    opened: list[str] = []
    record = torch.autograd.profiler.record_function

    def recorded(name: str, *args: Any) -> Any:
        opened.append(name)
        return record(name, *args)

    monkeypatch.setattr(torch.autograd.profiler, "record_function", recorded)
    opt.step()
    assert opened == []
    handle = opt.register_step_post_hook(lambda *_: None)
    opt.step()
    assert opened == [NAME]
    handle.remove()
    opt.step()
    assert opened == [NAME]


def test_hooks_of_one_and_of_all_optimizers_run_in_torchs_order_and_change_arguments() -> None:
    p, opt = made()
    seen: list[str] = []

    def closure() -> float:
        seen.append("closure")
        return 3.0

    def before(_opt: Any, args: Any, kwargs: Any) -> Any:
        seen.append("before")
        return (*args[:1], closure), kwargs

    def note(what: str) -> Any:
        return lambda *_: seen.append(what)

    handles = [
        opt.register_step_pre_hook(before),
        opt.register_step_post_hook(note("after")),
        register_optimizer_step_pre_hook(note("before all")),
        register_optimizer_step_post_hook(note("after all")),
    ]
    start = p.detach().clone()
    try:
        assert opt.step() == 3.0
    finally:
        for handle in handles:
            handle.remove()
    assert seen == ["before all", "before", "closure", "after", "after all"]
    assert not torch.equal(p, start)
    seen.clear()
    assert opt.step() is None
    assert seen == []


def test_a_hook_that_a_closure_registers_runs() -> None:
    _, opt = made()
    seen: list[str] = []

    def closure() -> float:
        opt.register_step_post_hook(lambda *_: seen.append("after"))
        return 1.0

    opt.step(closure)
    assert seen == ["after"]


def test_a_torch_that_does_not_say_whether_anybody_looks_is_taken_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[str] = []
    step = around.where_used(lambda _: "own", lambda _: entered.append("wrapped") or "wrapped")

    class Bare:
        """An optimizer whose hooks have other names."""

    assert step(Bare()) == "wrapped"
    known: Any = Bare()
    known._optimizer_step_pre_hooks = known._optimizer_step_post_hooks = {}
    assert step(known) == "own"
    monkeypatch.setattr(around, "_of_all", ())
    monkeypatch.setattr(around, "_profiled", lambda: True)
    assert step(known) == "wrapped"
