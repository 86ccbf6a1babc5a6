"""From names to results: what is missing of some figures is run, stage by stage, and nothing twice.

selected    which figures can run with the data at hand, and a sentence for each that cannot
run         runs what is missing, with progress; Ctrl-C keeps everything
state       what is known of each figure: claims judged by what is stored
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from rotational.lab import verdicts, workers
from rotational.lab.declare import Run
from rotational.lab.figures import Figure, Job, Scale
from rotational.lab.measures import Found
from rotational.lab.shelf import Shelf
from rotational.lab.verdicts import Verdict
from rotational.lab.workers import Word


@dataclass(frozen=True, eq=False)
class State:
    """What is there of a figure at a scale."""

    figure: Figure
    scale: Scale
    found: Found
    verdicts: tuple[Verdict, ...]

    @property
    def missing(self) -> int:
        """Runs that have not ended."""
        return sum(self.found.missing.values())

    @property
    def seconds(self) -> float:
        """What the runs that are there took, one after the other."""
        points = (p for arm in self.found.arms.values() for p in arm)
        return sum(m.seconds for p in points for m in p.seeds.values())


@dataclass(frozen=True, eq=False)
class Ended:
    """What `run` came to: the figures' states, whether Ctrl-C ended it, and sentences about what did not run."""

    states: tuple[State, ...]
    interrupted: bool
    left_out: Mapping[str, str]
    failed: tuple[str, ...] = ()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def selected(
    figures: Sequence[Figure], scale: Scale, available: Callable[[Run], str | None]
) -> tuple[tuple[Figure, ...], dict[str, str]]:
    """The figures whose data is there, and why each of the others is left out.

    `available` says in a sentence what a run's data lacks, or None; see `tasks.available`.
    """
    able: list[Figure] = []
    why: dict[str, str] = {}
    for figure in figures:
        runs = {run.data: run for run in figure.jobs(scale) if isinstance(run, Run)}
        lacking = next((said for run in runs.values() if (said := available(run)) is not None), None)
        if lacking is None:
            able.append(figure)
        else:
            why[figure.name] = lacking
    return tuple(able), why


def state(figure: Figure, scale: Scale, shelf: Shelf, seeds: int | None = None) -> State:
    """What is known of a figure."""
    found, _ = shelf.found(figure, scale, seeds)
    return State(figure, scale, found, verdicts.judged(figure, found))


def run(
    figures: Sequence[Figure],
    scale: Scale,
    shelf: Shelf,
    *,
    data: Path | None = None,
    seeds: int | None = None,
    jobs: int = 1,
    device: str = "cpu",
    console: Console | None = None,
    left_out: Mapping[str, str] | None = None,
) -> Ended:
    """Run what is missing of the figures; runs that several share are run once.

    A figure's second stage begins when its first has ended, so there are as many rounds as there are stages.
    """
    failed: dict[str, str] = {}
    with workers.stopping() as stop, _Shown(console, figures, scale, shelf, seeds, jobs) as shown:
        while not stop.is_set():
            ready = [job for job in _ready(figures, scale, shelf, seeds) if job.key not in failed]
            if not ready:
                break
            shown.expect(ready)

            def hear(word: Word) -> None:
                shown.hear(word)
                if word.state == "failed":
                    failed[word.key] = word.said

            workers.work(ready, processes=jobs, root=shelf.store.root, data=data, device=device, hear=hear, stop=stop)
        interrupted = stop.is_set()
    states = tuple(state(figure, scale, shelf, seeds) for figure in figures)
    return Ended(states, interrupted, left_out or {}, tuple(dict.fromkeys(failed.values())))


def _ready(figures: Sequence[Figure], scale: Scale, shelf: Shelf, seeds: int | None) -> list[Job]:
    """What can begin now, the longest first within a figure, so that the last ones are short."""
    found: dict[str, Job] = {}
    for figure in figures:
        for job in sorted(shelf.found(figure, scale, seeds)[1], key=_size, reverse=True):
            found.setdefault(job.key, job)
    return list(found.values())


def _size(job: Job) -> int:
    return job.steps * job.batch if isinstance(job, Run) else 0


# Progress -----------------------------------------------------------------------------------------------------


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


class _Shown:
    """Bars: one for all runs, one for each that is running."""

    def __init__(
        self,
        console: Console | None,
        figures: Sequence[Figure],
        scale: Scale,
        shelf: Shelf,
        seeds: int | None,
        processes: int,
    ) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[said]}"),
            console=console,
            disable=console is None,
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
        self._step: dict[str, int] = {}
        self._done: set[str] = set()
        self._shown: dict[str, TaskID] = {}
        self._all = self._bars.add_task("all runs", total=None, said="")

    def __enter__(self) -> _Shown:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def expect(self, jobs: Sequence[Job]) -> None:
        """These are to run now."""
        self._jobs |= {job.key: job for job in jobs}
        self._update()

    def hear(self, word: Word) -> None:
        """A process said how far it is."""
        job = self._jobs[word.key]
        self._clock.learn(job, word.taken, word.seconds)
        self._step[word.key] = word.step
        if word.state == "running":
            if word.key not in self._shown:
                name = self._names.get(word.key, "second stage")
                self._shown[word.key] = self._bars.add_task(f"  {name}"[:44], total=_steps(job), said="")
            said = "" if word.loss is None else f"seed {job.seed}, loss {word.loss:.3f}"
            self._bars.update(self._shown[word.key], completed=word.step, said=said)
        else:
            if word.key in self._shown:
                self._bars.remove_task(self._shown.pop(word.key))
            self._done.add(word.key)
        self._update()

    def _update(self) -> None:
        open_ends = {job: self._step.get(key, 0) for key, job in self._jobs.items() if key not in self._done}
        left = self._clock.total(open_ends, self._processes)
        time_left = "" if left is None or not open_ends else f", about {clock(left)} left"
        said = f"{len(self._done)} of {len(self._jobs)} runs{time_left}"
        done = sum(_steps(self._jobs[k]) for k in self._done) + sum(open_ends.values())
        total = sum(map(_steps, self._jobs.values()))
        self._bars.update(self._all, completed=done, total=total, said=said)


def clock(seconds: float) -> str:
    """A time as one reads it.

    >>> clock(42), clock(200), clock(8000)
    ('42 s', '3 min', '2 h 13 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


# For a terminal -----------------------------------------------------------------------------------------------


def table(states: Sequence[State]) -> Table:
    """The claims of all figures."""
    made = Table(title="Claims, each decided by its 95% interval over seeds", show_lines=False)
    made.add_column("figure", no_wrap=True)
    made.add_column("", no_wrap=True)
    made.add_column("claim; measured, and where it holds")
    for s in states:
        for i, v in enumerate(s.verdicts):
            said = f"{v.claim.sentence}\n[dim]{escape(v.measured)}; holds if {v.holds}[/dim]"
            made.add_row(s.figure.name if i == 0 else "", v.word, said, end_section=i == len(s.verdicts) - 1)
    return made
