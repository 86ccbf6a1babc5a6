"""The processes that torchrun started, all at one run after the other.

    torchrun --nproc-per-node 4 -m rotational reproduce control --scale paper --data DIR --device cuda

The first of them does what `reproduce` does anywhere: it claims runs, keeps results, prints and writes pages. The
others wait for the runs that it begins, and take their share of each.
"""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rotational.lab import ranks, tasks, train, workers
from rotational.lab.figures import Job
from rotational.lab.workers import Crew, Event, Machine, Tell


@dataclass(frozen=True)
class End:
    """No run comes after it; the exit code of all."""

    code: int


@dataclass(frozen=True)
class Together:
    """The crew of the first process: itself and those that follow it."""

    machine: Machine
    processes: int = 1

    def stopping(self) -> AbstractContextManager[Event]:
        """A flag that Ctrl-C sets, and torchrun too, which passes signals on that came from the terminal already."""
        return _asked()

    def work(self, jobs: Sequence[Job], root: Path, data: Path | None, hear: Tell, stop: Event) -> None:
        """See `Crew`: one job after the other; what needs no training the first process does alone."""
        for job in jobs:
            if stop.is_set():
                return
            workers.perform(job, root, data, self.machine, hear, stop.is_set)


def run(machine: Machine, data: Path | None, lead: Callable[[Crew], int]) -> int:
    """The exit code that `lead` gives with this crew, on all processes; those that follow never call it.

    Raises ChildProcessError where a process ends in the middle of a run, ValueError where torchrun did not start it.
    """
    if lacking := [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise ValueError(
            f"WORLD_SIZE={os.environ.get('WORLD_SIZE')} speaks of several processes, but {' and '.join(lacking)} "
            "is not set: start it with torchrun, or unset WORLD_SIZE."
        )
    with ranks.joined(machine.device) as those:
        try:
            if not those.first:
                return _follow(those, machine, data)
            code = lead(Together(machine))
        except ranks.LostError as error:
            traceback.print_exception(error.__cause__)
            raise ChildProcessError(str(error)) from error
        except BaseException:
            those.agreed(End(2))
            raise
        those.agreed(End(code))
        return code


def _follow(those: ranks.Ranks, machine: Machine, data: Path | None) -> int:
    with _asked():  # the first process decides when to stop
        while not isinstance(word := those.agreed(None), End):
            run, log = word
            try:
                with those.together():
                    task = tasks.build(run, data)
                train.train(run, task, log, **vars(machine))
            except ranks.LostError:
                raise
            except Exception:
                pass  # all processes have refused it, and the first one says why
        return word.code


@contextmanager
def _asked() -> Generator[threading.Event]:
    asked = threading.Event()

    def ask(*_: object) -> None:
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
