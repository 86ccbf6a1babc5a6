"""The step for CPUs where the package has no compiled library: the same tables, and loops that numba compiles.

Threads are Python's own and hold no lock while they work. numba's layers do not serve a library: one ends the process
when two threads step at once, another when a process that has stepped forks, and whoever is first chooses for all.
A task gives the same bits on whichever thread, so the number of threads changes nothing.

numba is imported, and the loops compiled or loaded from numba's cache, at the first step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np

from rotational.kernels import native
from rotational.kernels.native import Native, Table, aligned
from rotational.kernels.tasks import APPLY, FLAT, SHARE, SUM, TASK_ROW
from rotational.kernels.work import Part, Work

FINISH, COUNT = FLAT + 1, FLAT + 2
"""Kinds of tasks that C has not: add up the sums of long neurons, and raise the counters of a job."""
INSTALL = "pip install 'rotational[numba]'"


@lru_cache(maxsize=1)
def available() -> str | None:
    """None where numba can be used; else what to do about it."""
    try:
        from numba.core import config
    except Exception as error:  # numba raises what it likes at versions of numpy that it does not know
        missing = isinstance(error, ModuleNotFoundError) and error.name == "numba"
        return f"{'numba is not installed' if missing else f'numba cannot be imported ({error})'}; {INSTALL}"
    if config.DISABLE_JIT:  # pyright: ignore[reportAttributeAccessIssue]
        return "numba is switched off by NUMBA_DISABLE_JIT; unset it"
    return None


def refusal(part: Part) -> str | None:
    """Why this parameter takes another rung; None where it takes this one."""
    return native.refusal(part)


class Numba(Native):
    """The step of one optimizer; its tables last for as long as its works have the same parts."""

    def __init__(self) -> None:
        super().__init__()
        self._scratch: list[np.ndarray] = []

    def _make(self, works: Sequence[Work]) -> Table:
        return _Plan(works, self._scratch)


class _Plan(Table):
    """The tables of the C library, with its tasks in the order in which threads have to meet."""

    run_share, most_kept = SHARE, 0  # what its scratch holds

    def __init__(self, works: Sequence[Work], scratch: list[np.ndarray]) -> None:
        super().__init__(works, np.empty(0, np.float32))
        self._scratch = scratch
        kind, part = self.tasks["kind"], self.tasks["part"]
        finish = self.tasks[(kind == SUM) & (part == 0)]
        finish["kind"] = FINISH
        count = np.zeros(len(self.jobs), TASK_ROW)
        count["job"], count["kind"] = np.arange(len(count)), COUNT
        self._begin, self._finish, self._apply = self.tasks[kind != APPLY], finish, self.tasks[kind == APPLY]
        self._count = count

    def run(self, threads: int) -> None:
        """Take the step."""
        from rotational.kernels import jit_memory, jit_tasks

        scratch = self._scratch
        threads = self.worth(threads)
        while len(scratch) < threads:
            scratch.append(aligned(jit_memory.BYTES, np.uint8))
        places = [x.ctypes.data for x in scratch]
        phases = ((self._begin, threads), (self._finish, 1), (self._apply, threads), (self._count, 1))
        for tasks, many in phases:
            if len(tasks):
                counter = np.zeros(1, jit_tasks.COUNTER)
                arguments = (self.groups, self.jobs, tasks, self.units, self.numbers, counter)
                together(jit_tasks.run, arguments, places[: min(many, len(tasks))])


def together(run: Callable[..., None], arguments: Sequence[Any], places: Sequence[int]) -> None:
    """Call `run(*arguments, place)` for each place, the first on this thread; where there are no others, for fewer."""
    helpers: list[Future[None]] = []
    try:
        for place in places[1:]:
            helpers.append(_pool().submit(run, *arguments, place))
    except RuntimeError:
        pass  # no further thread to be had, as when the interpreter is about to end
    run(*arguments, places[0])
    for helper in helpers:
        # Who has not begun by now would find nothing left to do.
        if not helper.cancel():
            helper.result()


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="rotational")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not come along
