"""How far runs are: bars in a terminal, a line for each run that ended elsewhere, and the time that is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from rotational.lab.declare import Run
from rotational.lab.figures import Figure, Job, Scale
from rotational.lab.shelf import Shelf
from rotational.lab.workers import Word


@dataclass
class Clock:
    """Time left, from the seconds per step of runs of the same kind: same model, data and batch."""

    pace: dict[Any, float] = field(default_factory=dict[Any, float])

    def learn(self, job: Job, steps: int, seconds: float) -> None:
        """A job took so many steps in so many seconds."""
        if steps > 0:
            self.pace[_kind(job)] = seconds / steps

    def left(self, job: Job, step: int = 0) -> float | None:
        """Seconds from a step to the end of a job; None while no run of its kind is known."""
        pace = self.pace.get(_kind(job))
        return None if pace is None else pace * max(0, _steps(job) - step)

    def total(self, steps: Mapping[Job, int], processes: int) -> float | None:
        """Seconds until all jobs have ended, each being at a step; kinds not known yet count as the others' mean."""
        known = [(job, self.left(job, step)) for job, step in steps.items()]
        told = [t for _, t in known if t is not None]
        if not told:
            return None
        unknown = len(known) - len(told)
        return (sum(told) + unknown * sum(told) / len(told)) / max(1, min(processes, len(known)))


def _kind(job: Job) -> Any:
    return (job.model, job.data, job.batch) if isinstance(job, Run) else job.name


def _steps(job: Job) -> int:
    return job.steps if isinstance(job, Run) else 1


def clock(seconds: float, *, more: bool = False) -> str:
    """A time as one reads it; `more` of one that is known in part.

    >>> clock(0.2), clock(42), clock(200), clock(8000), clock(42, more=True), clock(0.2, more=True)
    ('<1 s', '42 s', '3 min', '2 h 13 min', '>42 s', '>1 s')
    """
    if more:
        return f">{clock(seconds).lstrip('<')}"
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "<1 s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class Shown:
    """What a user sees while runs go on: bars, one for all and one for each that is running.

    A file or a pipe gets a line for each run that ended in their place, and no console gets nothing.
    """

    def __init__(
        self,
        console: Console | None,
        figures: Sequence[Figure],
        scale: Scale,
        shelf: Shelf,
        seeds: int | None,
        processes: int,
    ) -> None:
        self._lines = None if console is None or console.is_terminal else console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[said]}"),
            console=console,
            disable=console is None or not console.is_terminal,
        )
        self._processes, self._clock = processes, Clock()
        self._jobs: dict[str, Job] = {}
        self._names: dict[str, str] = {}
        for figure in figures:
            for arm in figure.arms(scale):
                runs = (arm if seeds is None else arm.seeded(seeds)).runs
                self._names |= {run.key: f"{figure.name}: {arm.label}" for run in runs}
                for job in runs:  # stored runs teach the clock
                    if (m := shelf.get(job)) is not None:
                        self._clock.learn(job, _steps(job), m.seconds)
        self._words: dict[str, Word] = {}
        self._done: set[str] = set()
        self._shown: dict[str, TaskID] = {}
        self._all = self._bars.add_task("all runs", total=None, said="")

    def __enter__(self) -> Shown:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def expect(self, jobs: Sequence[Job]) -> None:
        """These are to run now."""
        self._jobs |= {job.key: job for job in jobs}
        self._done -= {job.key for job in jobs}  # those that another process had
        self._update()

    def hear(self, word: Word) -> None:
        """A process said how far it is."""
        job = self._jobs[word.key]
        self._clock.learn(job, word.taken, word.seconds)
        self._words[word.key] = word
        if word.state == "running":
            if word.key not in self._shown:
                self._shown[word.key] = self._bars.add_task(f"  {self._name(job)}"[:44], total=_steps(job), said="")
            said = "" if word.loss is None else f"seed {job.seed}, loss {word.loss:.3f}"
            self._bars.update(self._shown[word.key], completed=word.step, said=said)
        else:
            if word.key in self._shown:
                self._bars.remove_task(self._shown.pop(word.key))
            self._done.add(word.key)
        self._update()
        if self._lines is not None and word.state != "running":
            self._line(self._lines, job, word)

    def _line(self, console: Console, job: Job, word: Word) -> None:
        loss = "" if word.loss is None else f", loss {word.loss:.3f}"
        how = {
            "done": f"in {clock(word.seconds)}",
            "stopped": f"stopped at step {word.step}",
            "taken": "another process works at it",
            "failed": "not run",
        }
        said = f"{self._name(job)}, seed {job.seed}: {how[word.state]}{loss}; {self._said()}"
        console.print(said, markup=False, highlight=False, soft_wrap=True)

    def _name(self, job: Job) -> str:
        return self._names.get(job.key, "second stage")

    def _open(self) -> dict[Job, int]:
        """Runs that have not ended, and the step that each is at."""
        at = {key: word.step for key, word in self._words.items()}
        return {job: at.get(key, 0) for key, job in self._jobs.items() if key not in self._done}

    def _said(self) -> str:
        left = self._clock.total(self._open(), self._processes)
        time_left = "" if left is None or not self._open() else f", about {clock(max(left, 1))} left"
        return f"{len(self._done)} of {len(self._jobs)} runs{time_left}"

    def _update(self) -> None:
        done = sum(_steps(self._jobs[k]) for k in self._done) + sum(self._open().values())
        total = sum(map(_steps, self._jobs.values()))
        self._bars.update(self._all, completed=done, total=total, said=self._said())
