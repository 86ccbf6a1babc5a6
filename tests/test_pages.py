"""Moments in large pages: zeros all the same, that lie as their weights do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from compare import assert_same
from rotational.kernels import pages

LARGE = pages.LARGE // 4
"""Weights in a large page."""


@pytest.mark.parametrize("shape", [(0,), (3,), (LARGE - 1,), (3 * LARGE + 5,), (4, LARGE)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zeros_are_zeros(shape, dtype):
    x = torch.ones(shape)
    made = pages.zeros_like(x, dtype)
    assert_same(made, torch.zeros(shape, dtype=dtype))


def test_they_lie_as_the_weights_do():
    x = torch.ones(8, 64, 64, 64).to(memory_format=torch.channels_last)
    assert pages.zeros_like(x, torch.float32).stride() == x.stride()
    assert pages.zeros_like(torch.ones(LARGE, 4).T, torch.float32).stride() == (1, 4)


@pytest.mark.skipif(sys.platform != "linux", reason="large pages on request are Linux's")
def test_large_ones_lie_in_large_pages():
    if pages._advise() is None:
        pytest.skip(f"{pages.SETTING} is not madvise: nobody need ask, or nobody may")
    made = pages.zeros_like(torch.empty(64 * LARGE), torch.float32)
    lines = Path("/proc/self/smaps").read_text().splitlines()
    held = 0
    inside = False
    for line in lines:
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            start, end = (int(x, 16) for x in first.split("-"))
            inside = start < made.data_ptr() + made.nbytes and end > made.data_ptr()
        elif inside and first == "AnonHugePages:":
            held += 1024 * int(line.split()[1])
    if held == 0:
        pytest.skip("the system had no large pages left")
    assert held >= 0.5 * made.nbytes


def test_where_nobody_may_ask_zeros_are_those_of_torch(monkeypatch, tmp_path):
    monkeypatch.setattr(pages, "SETTING", tmp_path / "enabled")
    for said in (None, "always madvise [never]", "[always] madvise never"):
        pages._advise.cache_clear()
        if said is not None:
            (tmp_path / "enabled").write_text(said)
        assert pages._advise() is None
        assert_same(pages.zeros_like(torch.ones(4, LARGE), torch.float32), torch.zeros(4, LARGE))
    pages._advise.cache_clear()


def test_a_refusal_changes_nothing(monkeypatch):
    asked: list[tuple[int, int, int]] = []

    def refuse(start: int, length: int, advice: int) -> int:
        asked.append((start, length, advice))
        return -1

    monkeypatch.setattr(pages, "_advise", lambda: refuse)
    made = pages.zeros_like(torch.ones(4, LARGE), torch.float32)
    assert_same(made, torch.zeros(4, LARGE))
    ((start, length, advice),) = asked
    assert start % pages.LARGE == 0
    assert length % pages.LARGE == 0
    assert length > 0
    assert advice == pages.HUGEPAGE
    assert made.data_ptr() <= start
    assert start + length <= made.data_ptr() + made.nbytes
