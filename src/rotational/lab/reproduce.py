"""From names to results: what is missing of some figures is run, stage by stage, and nothing twice.

selected    which figures can run with the data at hand, and a sentence for each that cannot
run         runs what is missing, with progress; Ctrl-C keeps everything
state       what is known of each figure: claims judged by what is stored
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rotational.lab import verdicts
from rotational.lab.declare import Run
from rotational.lab.figures import Figure, Job, Scale
from rotational.lab.measures import Found
from rotational.lab.progress import Shown
from rotational.lab.shelf import Shelf
from rotational.lab.verdicts import Verdict
from rotational.lab.workers import Crew, Word

SEEDS = 8
"""Seeds up to which `stored` looks for complete results."""


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
    def ran(self) -> int:
        """Runs that have ended."""
        return sum(len(p.seeds) for arm in self.found.arms.values() for p in arm)

    @property
    def judged(self) -> bool:
        """Whether the runs of any claim are all there."""
        return any(v.word != "not run" for v in self.verdicts)

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


def stored(figures: Sequence[Figure], scale: Scale, shelf: Shelf) -> State | None:
    """What is there of the first of some versions of a figure that can be judged; None where no claim can.

    It is of its declared seeds, or, where runs of these are missing, of as many seeds as are complete.
    """
    for figure in figures:
        known = state(figure, scale, shelf)
        if known.ran and known.missing:
            fewer = (state(figure, scale, shelf, n) for n in range(SEEDS, 0, -1))
            known = next((s for s in fewer if not s.missing), known)
        if known.judged:
            return known
    return None


def run(
    figures: Sequence[Figure],
    scale: Scale,
    shelf: Shelf,
    crew: Crew,
    *,
    data: Path | None = None,
    seeds: int | None = None,
    console: Console | None = None,
    left_out: Mapping[str, str] | None = None,
) -> Ended:
    """Let a crew run what is missing of the figures; runs that several share are run once.

    A figure's second stage begins when its first has ended, so there are as many rounds as there are stages. A run
    that another process works at is looked at once more when the others of its round have ended.
    """
    aside: dict[str, str] = {}  # why a run is not tried again
    taken: set[str] = set()
    with crew.stopping() as stop, Shown(console, figures, scale, shelf, seeds, crew.processes) as shown:
        while not stop.is_set():
            ready = [job for job in _ready(figures, scale, shelf, seeds) if job.key not in aside]
            if not ready:
                break
            shown.expect(ready)

            def hear(word: Word) -> None:
                shown.hear(word)
                if word.state == "failed":
                    aside[word.key] = word.said
                elif word.state == "taken":
                    if word.key in taken:
                        aside[word.key] = "another process is still at work; the same command goes on when it has ended"
                    taken.add(word.key)

            crew.work(ready, shelf.store.root, data, hear, stop)
        interrupted = stop.is_set()
    states = tuple(state(figure, scale, shelf, seeds) for figure in figures)
    missing = {job.key for job in _ready(figures, scale, shelf, seeds)}  # another process may have ended it by now
    failed = dict.fromkeys(why for key, why in aside.items() if key in missing)
    return Ended(states, interrupted, left_out or {}, tuple(failed))


def _ready(figures: Sequence[Figure], scale: Scale, shelf: Shelf, seeds: int | None) -> list[Job]:
    """What can begin now, the longest first within a figure, so that the last ones are short."""
    found: dict[str, Job] = {}
    for figure in figures:
        for job in sorted(shelf.found(figure, scale, seeds)[1], key=_size, reverse=True):
            found.setdefault(job.key, job)
    return list(found.values())


def _size(job: Job) -> int:
    return job.steps * job.batch if isinstance(job, Run) else 0


# For a terminal -----------------------------------------------------------------------------------------------


def table(states: Sequence[State]) -> Table:
    """The claims of all figures."""
    made = Table(title="Claims, each decided by its 95% interval over seeds", show_lines=False)
    made.add_column("figure", no_wrap=True)
    made.add_column("", no_wrap=True)
    made.add_column("claim; measured, and where it holds")
    for s in states:
        for i, v in enumerate(s.verdicts):
            said = f"{escape(v.claim.sentence)}\n[dim]{escape(f'{v.measured}; holds if {v.holds}')}[/dim]"
            made.add_row(s.figure.name if i == 0 else "", v.word, said, end_section=i == len(s.verdicts) - 1)
    return made
