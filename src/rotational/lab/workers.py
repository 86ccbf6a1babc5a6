"""Processes that run jobs side by side, each on one thread, and tell how far they are.

The first Ctrl-C asks them to end after the step they are in: a run then leaves its checkpoint, and goes on from
there the next time. The second interrupts at once. So they end where the process that started them is killed.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from rotational.lab.declare import Computed, Run
from rotational.lab.figures import Job
from rotational.lab.interrupt import interruptible

if TYPE_CHECKING:
    from rotational.lab.results import Result

State: TypeAlias = Literal["running", "done", "stopped", "taken", "failed"]
OFTEN = 0.3
"""Seconds from one word of a process to the next."""

HOLD = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
"""Has glibc keep memory that tensors leave. It returns what exceeds some 100 KB at once, and fetching pages anew takes
longer than many a convolution does: the smallest residual network trains 9% faster so, and is evaluated in half the
time."""


@dataclass(frozen=True)
class Word:
    """How far a job is: steps taken in all, seconds this process spent on `taken` of them.

    A job is "taken" while another process works at it; what "failed" says why.
    """

    key: str
    state: State
    step: int = 0
    taken: int = 0
    seconds: float = 0.0
    loss: float | None = None
    said: str = ""


class Event(Protocol):
    """A flag that other processes see too."""

    def is_set(self) -> bool:
        """Whether it was set."""
        ...

    def set(self) -> None:
        """Set it."""
        ...


Tell: TypeAlias = Callable[[Word], None]


@dataclass(frozen=True)
class Machine:
    """What runs train on: a device by torch's name, in `shard`s, with a pass that is `compile`d; see `train.train`."""

    device: str = "cpu"
    shard: bool = False
    compile: bool = False


class Crew(Protocol):
    """Who runs jobs: so many at a time."""

    @property
    def processes(self) -> int:
        """Jobs at a time."""
        ...

    def stopping(self) -> AbstractContextManager[Event]:
        """A flag for `work` that the user sets by Ctrl-C."""
        ...

    def work(self, jobs: Sequence[Job], root: Path, data: Path | None, hear: Tell, stop: Event) -> None:
        """Run the jobs, or what of them is possible until `stop`; `hear` is called with every word of theirs."""
        ...


@dataclass(frozen=True)
class Pool:
    """Processes of one thread each, on this machine."""

    processes: int = 1
    machine: Machine = Machine()

    def stopping(self) -> AbstractContextManager[Event]:
        """The first Ctrl-C sets the flag; the second raises KeyboardInterrupt, as ever."""
        return interruptible(get_context("spawn").Event())

    def work(self, jobs: Sequence[Job], root: Path, data: Path | None, hear: Tell, stop: Event) -> None:
        """See `Crew`. Jobs whose time is measured (the Computed "step") run alone, after the others."""
        timed = [job for job in jobs if isinstance(job, Computed) and job.name == "step"]
        others = [job for job in jobs if job not in timed]
        for batch, count in ((others, self.processes), (timed, 1)):
            if batch and not stop.is_set():
                _side_by_side(batch, min(count, len(batch)), root, data, self.machine, hear, stop)


def _side_by_side(
    jobs: Sequence[Job], count: int, root: Path, data: Path | None, machine: Machine, hear: Tell, stop: Event
) -> None:
    context = get_context("spawn")
    words: Any = context.Queue()
    # A process inherits what it is started with; threads of torch and BLAS are read from there at import.
    with _environment(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", **HOLD):
        pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(words, stop))
        with pool:
            futures = [pool.submit(_do, job, root, data, machine) for job in jobs]
            while not all(f.done() for f in futures):
                _listen(words, hear, 0.2)
                if stop.is_set():
                    for future in futures:
                        future.cancel()
            while _listen(words, hear, 0.05):
                pass
    _raise(futures)


def _raise(futures: Sequence[Future[None]]) -> None:
    """What a job did not expect is an error of ours; what it did expect, it told in words.

    Raises ChildProcessError where a process was killed, for want of memory, say.
    """
    for future in futures:
        error = None if future.cancelled() else future.exception()
        if isinstance(error, BrokenProcessPool):
            raise ChildProcessError(
                "a process that trained was killed (by the system, for want of memory, or by a crash in a library). "
                "What has ended is kept; the same command goes on, with fewer --jobs where memory is short."
            ) from None
        if error is not None:
            raise error


def _listen(words: Any, hear: Tell, seconds: float) -> bool:
    try:
        hear(words.get(timeout=seconds))
    except queue.Empty:
        return False
    return True


# In the processes ---------------------------------------------------------------------------------------------

_words: Any = None
_stop: Event | None = None
_working = threading.Lock()
"""Held while a job runs."""


def _begin(words: Any, stop: Event) -> None:
    global _words, _stop
    _words, _stop = words, stop
    threading.Thread(target=_outlive, args=(stop,), daemon=True).start()
    # Ctrl-C reaches every process of the terminal; the one that started them decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(1)


def _outlive(stop: Event) -> None:
    """Wait for the end of the process that started this one, which otherwise would wait for jobs of it for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    stop.set()
    with _working:
        os._exit(1)


def _do(job: Job, root: Path, data: Path | None, machine: Machine) -> None:
    stop = _stop
    assert stop is not None
    with _working:
        if not stop.is_set():
            perform(job, root, data, machine, _words.put, stop.is_set)


def perform(job: Job, root: Path, data: Path | None, machine: Machine, tell: Tell, stop: Callable[[], bool]) -> None:
    """Run one job to its end, or until `stop`, and keep what came of it.

    An error ends this job alone. Raises LostError where processes that train together can go on no more.
    """
    from rotational.lab.ranks import LostError
    from rotational.lab.store import Taken

    try:
        if isinstance(job, Run):
            _train(job, root, data, machine, tell, stop)
        else:
            _compute(job, root, tell)
    except LostError:
        raise
    except Taken as error:
        tell(Word(job.key, "taken", said=str(error)))
    except (OSError, ValueError, TypeError) as error:  # sentences
        tell(Word(job.key, "failed", said=str(error)))
    except Exception as error:
        tell(Word(job.key, "failed", said=_unexpected(job, error, root)))


def _unexpected(job: Job, error: Exception, root: Path) -> str:
    """A sentence for an error of a library or of ours, whose traceback goes into the job's folder."""
    import torch

    from rotational.lab import store

    lines = traceback.format_exception(error)
    path = root / job.key / store.FAILED
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write(path, "".join(lines))
    of = f"{job.model.name} on {job.data.name}, batch {job.batch}" if isinstance(job, Run) else job.name
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        why = "out of memory; it takes a smaller batch or fewer --jobs"
    else:
        why = lines[-1].strip().splitlines()[-1].rstrip(".")
    return f"{of}: {why}. The whole traceback is in {path}."


def _compute(what: Computed, root: Path, tell: Tell) -> None:
    from rotational.lab.computed import compute
    from rotational.lab.shelf import Shelf

    shelf = Shelf(root)
    tell(Word(what.key, "running"))
    measured = compute(what)
    try:
        shelf.put(measured)
    except FileExistsError:
        measured = shelf.get(what) or measured  # another process computed it in the meantime
    tell(Word(what.key, "done", 1, 1, measured.seconds))


def _train(run: Run, root: Path, data: Path | None, machine: Machine, tell: Tell, stop: Callable[[], bool]) -> None:
    from rotational.lab import ranks, tasks, train
    from rotational.lab.store import Store

    store = Store(root)
    begun, spoken, first, loss = time.monotonic(), 0.0, -1, None

    def told(state: Any) -> None:
        nonlocal spoken, first, loss
        now, loss = time.monotonic(), state.loss
        if first < 0:
            first = state.step - 1
        if now - spoken >= OFTEN:
            spoken = now
            tell(Word(run.key, "running", state.step, state.step - first, now - begun, state.loss))

    with ranks.joined(machine.device) as those, store.claim(run) as log:
        if store.result(run) is not None:  # another process ended it in the meantime
            tell(Word(run.key, "done", run.steps))
            return
        those.agreed((run, log))  # the others wait for it in `together`
        with those.together():
            task = tasks.build(run, data)
        outcome = train.train(run, task, log, tell=told, stop=stop, **vars(machine))
        if outcome.result is None:
            tell(Word(run.key, "stopped", outcome.step, loss=loss))
            return
        store.keep(_of(run, data, outcome.result))
    tell(Word(run.key, "done", run.steps, run.steps - max(first, 0), time.monotonic() - begun, loss))


def _of(run: Run, where: Path | None, result: Result) -> Result:
    """The result, and of which data it is: see `reproduce.strange`."""
    from rotational.lab.data.identity import identity
    from rotational.lab.results import DATA

    return replace(result, versions={**result.versions, DATA: identity(run.data, where)})


@contextmanager
def _environment(**values: str) -> Generator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
