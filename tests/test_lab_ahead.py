"""Batches that are made ahead of time come in order, are no more than asked for, and fail where they are asked for."""

from __future__ import annotations

import threading
import time

import pytest

from rotational.lab.ahead import ahead


@pytest.mark.parametrize("count", [0, 1, 3])
def test_batches_come_in_order_and_errors_where_they_belong(count):
    def make(step: int) -> int:
        if step == 6:
            raise OSError("the disk is gone")
        return step**2

    made = ahead(make, range(2, 9), count)
    assert [next(made) for _ in range(4)] == [4, 9, 16, 25]
    with pytest.raises(OSError, match="the disk is gone"):
        next(made)
    assert list(made) == []


def test_no_more_are_made_than_asked_for_and_nothing_is_left():
    begun: list[int] = []
    made = ahead(lambda step: begun.append(step) or step, range(100), 3)
    assert next(made) == 0
    assert next(made) == 1
    deadline = time.monotonic() + 10
    while len(begun) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert begun == [0, 1, 2, 3, 4]
    made.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]


def test_the_next_one_is_made_while_one_is_used():
    second = threading.Event()
    made = ahead(lambda step: second.set() if step == 1 else None, range(2), 1)
    next(made)
    assert second.wait(10)
    made.close()
