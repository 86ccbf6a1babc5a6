"""The step that numba compiles, against the same step of torch's own operations in float64."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from compare import assert_same
from rotational import rules
from rotational.kernels import jit, native
from rotational.kernels.foreach import Foreach
from rotational.kernels.jit import Numba
from rotational.kernels.work import Kernel, Part, Work
from rotational.neurons import ROWS, WHOLE, Neurons
from rotational.rule import Rule
from rotational.scale import Rms

MISSING = jit.available()
needs_numba = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
COLUMNS = Neurons(axes=(1,))
TURNS = {"lr": 1e-3, "weight_decay": 0.1, "rotation": 0.02, "ema": 0.9, "center": True}
RULES = {
    "adamw": rules.adamw(),
    "adam_l2": rules.adam_l2(),
    "sgd": rules.sgd(),
    "sgdm": rules.sgd(momentum=0.9),
    "nesterov": rules.sgd(momentum=0.9, nesterov=True),
    "lion": rules.lion(),
}
LAYOUTS: dict[str, tuple[tuple[int, ...], Neurons | None]] = {
    "rows": ((40, 130), ROWS),
    "many rows": ((350, 96), ROWS),
    "one row": ((1, 50), ROWS),
    "rows of 1": ((9, 1), ROWS),
    "rows of 2": ((9, 2), ROWS),
    "rows of 3": ((9, 3), ROWS),
    "rows of 31": ((9, 31), ROWS),
    "rows of 33": ((9, 33), ROWS),
    "long rows": ((2, 33_000), ROWS),
    "columns": ((60, 50), COLUMNS),
    "long columns": ((33_000, 2), COLUMNS),
    "convolution": ((16, 8, 3, 3), ROWS),
    "depthwise": ((64, 1, 3, 3), ROWS),
    "transposed convolution": ((8, 6, 3, 3), COLUMNS),
    "grouped": ((6, 5, 3, 3), Neurons(axes=(0, 2), split=2)),
    "whole": ((20, 30), WHOLE),
    "long whole": ((182, 182), WHOLE),
    "plain": ((77,), None),
    "long plain": ((260, 130), None),
}


def part_of(rule: Rule, w: Tensor, units: Neurons | None, moments: torch.dtype | None = None) -> Part:
    """A parameter in the midst of training: v is known, so that no first step makes all directions one."""
    remembers, divides = rule.memory.old != 0, isinstance(rule.scale, Rms)
    m = torch.zeros_like(w, dtype=moments) if remembers else None
    noise = torch.rand(w.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float32)
    v = torch.empty_like(w, dtype=moments).copy_(0.5 + noise) if divides else None
    norm = None if units is None else units.norm(w)
    turns = None if units is None else torch.tensor(0.0)
    rms = None if norm is None else torch.zeros_like(norm)
    return Part(w, m, v, torch.tensor(3.0), rule.memory.warm, units, norm, rms, turns)


def work_of(rule: Rule, parts: list[Part], **options: Any) -> Work:
    given = {**TURNS, "maximize": False, "dither": False, "foreach": True, **options}
    return Work(rule=rule, parts=parts, grads=[None] * len(parts), **given)


def weights_of(shape: Sequence[int], units: Neurons | None, seed: int = 0) -> Tensor:
    """Centred, and two weights to the last bit: then they can only stay, in any precision."""
    w = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if units is None or units.size(shape) == 1:
        return w
    return torch.stack([w[:, 0], -w[:, 0]], dim=1) if shape[1:] == (2,) and units == ROWS else units.center(w)


def gradient(w: Tensor, t: int, seed: int) -> Tensor:
    """Signs of its own for each weight and size of its own for each step: no sign hangs on the last digit."""
    return _gradient(w.shape, t, seed)


@lru_cache(maxsize=50 * 19)
def _gradient(shape: torch.Size, t: int, seed: int) -> Tensor:
    signs = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).sign()
    return signs * (0.5 + torch.rand(shape, generator=torch.Generator().manual_seed(1000 * t + seed)))


def stepped(kernel: Kernel, work: Work, steps: int, of: Callable[[Tensor, int, int], Tensor] = gradient) -> Work:
    """The work after some steps."""
    for t in range(steps):
        work = replace(work, grads=[of(p.w, t, i).to(p.w.dtype) for i, p in enumerate(work.parts)])
        kernel.step([work])
        for part in work.parts:
            part.fresh = False
    return work


def all_layouts(rule: Rule, dtype: torch.dtype) -> Work:
    parts = [
        part_of(rule, weights_of(*layout, seed=i).to(dtype), layout[1]) for i, layout in enumerate(LAYOUTS.values())
    ]
    return work_of(rule, parts)


@lru_cache(maxsize=1)
def reference(name: str) -> list[Tensor]:
    """Weights of all layouts after 50 steps in float64."""
    return [p.w for p in stepped(Foreach(), all_layouts(RULES[name], torch.float64), 50).parts]


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(native, "THREAD", 1)  # these small steps are worth threads too
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def bits(work: Work) -> list[Tensor]:
    held = [(p.w, p.m, p.v, p.norm, p.rms, p.step, p.turns) for p in work.parts]
    return [x for part in held for x in part if x is not None]


# The step ------------------------------------------------------------------------------------------------------


@needs_numba
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", RULES)
def test_every_rule_on_every_layout_is_the_step_in_float64(name: str, threads: int) -> None:
    expected = reference(name)
    torch.set_num_threads(threads)
    work = stepped(Numba(), all_layouts(RULES[name], torch.float32), 50)
    assert {p.step.item() for p in work.parts} == {53.0}
    for part, w, layout in zip(work.parts, expected, LAYOUTS, strict=True):
        assert_same(part.w, w, 1e-5, layout)


@needs_numba
def test_the_comparison_can_fail() -> None:
    work = stepped(Numba(), all_layouts(RULES["adamw"], torch.float32), 49)
    expected = [p.w for p in stepped(Foreach(), all_layouts(RULES["adamw"], torch.float64), 50).parts]
    for part, w, (layout, (shape, units)) in zip(work.parts, expected, LAYOUTS.items(), strict=True):
        if units is None or units.size(shape) > 2:  # two centred weights can only stay
            with pytest.raises(AssertionError):
                assert_same(part.w, w, 1e-5, layout)


@needs_numba
def test_the_number_of_threads_changes_no_bit() -> None:
    torch.set_num_threads(1)  # torch's own sums do depend on it
    works, found = [all_layouts(RULES["adamw"], torch.float32) for _ in range(3)], []
    for work, threads in zip(works, (1, 2, 7), strict=True):
        torch.set_num_threads(threads)
        found.append(bits(stepped(Numba(), work, 3)))
    assert_same(found[1], found[0])
    assert_same(found[2], found[0])


@needs_numba
def test_options_of_a_step() -> None:
    """maximize, no centre, no rotation, another lr in each group, parameters without a gradient."""
    options: list[dict[str, Any]] = [
        {"maximize": True},
        {"center": False},
        {"rotation": 0.0},
        {"lr": 0.5},
        {"ema": 0.0},
    ]

    def works(dtype: torch.dtype) -> list[Work]:
        layouts = [LAYOUTS[name] for name in ("rows", "columns", "plain")]
        made = [
            work_of(RULES["adamw"], [part_of(RULES["adamw"], weights_of(*at).to(dtype), at[1]) for at in layouts], **o)
            for o in options
        ]
        return [
            replace(x, grads=[gradient(p.w, 0, i).to(dtype) if i != k % 4 else None for i, p in enumerate(x.parts)])
            for k, x in enumerate(made)
        ]

    got, expected = works(torch.float32), works(torch.float64)
    for kernel, list_of in ((Numba(), got), (Foreach(), expected)):
        for _ in range(3):
            kernel.step(list_of)
    for a, b in zip(got, expected, strict=True):
        assert_same(bits(a), bits(b), 1e-5)


@needs_numba
def test_memory_that_lies_otherwise() -> None:
    """Channels last, a transposed matrix, an address that is no multiple of a vector, a gradient of other strides."""
    rule = RULES["sgd"]
    convolution, matrix = weights_of((16, 8, 3, 3), ROWS), weights_of((20, 30), ROWS)
    views = [convolution.to(memory_format=torch.channels_last), matrix.t().contiguous().t(), matrix]

    def work(dtype: torch.dtype) -> Work:
        kept = [torch.empty_strided(w.shape, w.stride(), dtype=dtype).copy_(w) for w in views]
        kept.append(torch.empty(601, dtype=dtype)[1:].view(20, 30).copy_(matrix))
        return work_of(rule, [part_of(rule, w, ROWS) for w in kept])

    def turned(w: Tensor, t: int, seed: int) -> Tensor:
        g = gradient(w, t, seed)
        return g.transpose(0, 1).contiguous().transpose(0, 1) if w.dim() == 2 else g

    got, expected = stepped(Numba(), work(torch.float32), 5, turned), stepped(Foreach(), work(torch.float64), 5, turned)
    assert all(jit.refusal(p) is None for p in got.parts)
    assert_same([p.w for p in got.parts], [p.w for p in expected.parts], 1e-5)


@needs_numba
@pytest.mark.parametrize("layout", ["rows", "many rows", "columns", "long rows", "long columns", "depthwise"])
def test_nan_stays_in_its_row(layout: str) -> None:
    shape, units = LAYOUTS[layout]
    assert units is not None

    def broken(w: Tensor, t: int, seed: int) -> Tensor:
        g = gradient(w, t, seed).clone()
        g.select(units.axes[0], 1)[-1:] = torch.nan
        return g

    rule = RULES["adamw"]
    got, clean = (
        stepped(Numba(), work_of(rule, [part_of(rule, weights_of(shape, units), units)]), 2, of).parts[0].w
        for of in (broken, gradient)
    )
    rows, others = units.matrix(got), [i for i in range(units.count(shape)) if i != 1]
    assert rows[1].isnan().all()
    assert_same(rows[others], units.matrix(clean)[others])


@needs_numba
def test_measured_changes_are_those_of_the_weights() -> None:
    rule, names = RULES["adamw"], ("rows", "columns", "long rows", "plain", "long plain")
    parts = [part_of(rule, weights_of(*LAYOUTS[name]), LAYOUTS[name][1]) for name in names]
    asked = {i: p.units or WHOLE for i, p in enumerate(parts)}
    out = {i: (n, torch.full((4, n.count(parts[i].shape)), -1.0)) for i, n in asked.items()}
    before = [p.w.clone() for p in parts]
    stepped(Numba(), replace(work_of(rule, parts), measured=out), 1)
    for i, n in asked.items():
        change = n.change(before[i].double(), parts[i].w.double())
        expected = [change.angle, n.norm(parts[i].w.double()), change.update, change.radial]
        assert_same(out[i][1], torch.stack([x.flatten() for x in expected]), 1e-4, names[i])


# Precision -----------------------------------------------------------------------------------------------------


@needs_numba
@pytest.mark.parametrize("layout", ["rows", "columns", "long rows", "depthwise", "plain"])
def test_bfloat16_is_single_precision_rounded_once(layout: str) -> None:
    rule, (shape, units) = RULES["adamw"], LAYOUTS[layout]
    w = weights_of(shape, units).bfloat16()
    narrow, mixed, wide = (
        part_of(rule, w.to(dtype), units, moments)
        for dtype, moments in ((torch.bfloat16,) * 2, (torch.float32, torch.bfloat16), (torch.float32,) * 2)
    )
    for part in (mixed, wide):
        part.norm = narrow.norm.clone() if narrow.norm is not None else None
    assert narrow.v is not None
    assert wide.v is not None
    wide.v.copy_(narrow.v)
    for part in (narrow, mixed, wide):
        stepped(Numba(), work_of(rule, [part]), 1, lambda w, t, i: gradient(w, t, i).bfloat16())
    assert mixed.m is not None
    assert wide.m is not None
    assert_same(mixed.w, wide.w)
    assert_same([narrow.w, mixed.m, narrow.v], [wide.w.bfloat16(), wide.m.bfloat16(), wide.v.bfloat16()])


@needs_numba
def test_moments_rounded_at_random_are_right_on_average() -> None:
    rule, w = RULES["adamw"], torch.ones(1, 100_000)
    part = part_of(rule, w, None, torch.bfloat16)
    assert part.m is not None
    assert part.v is not None
    part.v.fill_(1.0)
    stepped(Numba(), work_of(rule, [part], dither=True), 1, lambda w, t, i: torch.full_like(w, 1.1))
    # 0.11 lies between two numbers that are 5e-4 apart, and 1.00021 between two that are 8e-3 apart
    assert part.m.unique().numel() == part.v.unique().numel() == 2
    assert abs(part.m.double().mean().item() - 0.11) < 1e-5
    assert abs(part.v.double().mean().item() - 1.00021) < 1e-4


@needs_numba
def test_denormals_are_flushed_in_the_step_alone() -> None:
    rule, w = RULES["sgdm"], torch.ones(4, 8)
    part = part_of(rule, w, ROWS)
    part.fresh = False
    assert part.m is not None
    part.m.fill_(1e-39)
    stepped(Numba(), work_of(rule, [part]), 1, lambda w, t, i: torch.zeros_like(w))
    if os.uname().machine == "x86_64":
        assert not part.m.any()
    assert torch.tensor([1e-39]).mul(0.5).item() > 0


# What is refused, and what is missing ----------------------------------------------------------------------------


REFUSED = {
    "double precision": (torch.zeros(3, 4, dtype=torch.float64), ROWS),
    "every second weight": (torch.zeros(3, 8)[:, ::2], ROWS),
    "gaps": (torch.zeros(4, 2, 5)[:, 0], None),
}


@pytest.mark.parametrize(("w", "units"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(w: Tensor, units: Neurons | None) -> None:
    assert jit.refusal(part_of(rules.sgd(), w, units))
    assert jit.refusal(part_of(rules.sgd(), torch.zeros(3, 4), ROWS)) is None


def test_without_numba_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        monkeypatch.setitem(sys.modules, "numba.core", None)
        jit.available.cache_clear()
        assert "pip install 'rotational[numba]'" in (jit.available() or "")
    finally:
        monkeypatch.undo()
        jit.available.cache_clear()


# Threads and processes --------------------------------------------------------------------------------------------


@needs_numba
def test_optimizers_step_at_the_same_time() -> None:
    torch.set_num_threads(1)
    expected, *works = [all_layouts(RULES["adamw"], torch.float32) for _ in range(4)]
    torch.set_num_threads(2)
    stepped(Numba(), expected, 5)
    racing = [threading.Thread(target=stepped, args=(Numba(), work, 5)) for work in works]
    for thread in racing:
        thread.start()
    for thread in racing:
        thread.join()
    for work in works:
        assert_same(bits(work), bits(expected))
