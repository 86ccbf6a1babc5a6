"""Batches of the steps to come, made by another thread while a GPU is at work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(make: Callable[[int], T], steps: range, count: int) -> Generator[T]:
    """`make(step)` for each step, in order, begun up to `count` steps before it is asked for; with 0 when it is.

    One thread makes them, one after the other; an error in one is raised where that one is asked for. To be closed,
    which waits for the one that is being made.

    >>> list(ahead(lambda step: step**2, range(4), 2))
    [0, 1, 4, 9]
    """
    if not count:
        yield from map(make, steps)
        return
    begun: deque[Future[T]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        try:
            for step in steps:
                begun.append(pool.submit(make, step))
                if len(begun) > count:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()
