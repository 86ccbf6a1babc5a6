"""From names to results: what is missing of some figures is run, stage by stage, and nothing twice.

lacking     which data are not there, and a sentence for each
strange     whether what is stored is of other data
selected    which figures can run without them, in whole or in part, and a sentence for each that cannot
run         runs what is missing, with progress; Ctrl-C keeps everything
state       what is known of each figure: claims judged by what is stored
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rotational.lab import verdicts
from rotational.lab.declare import Data, Run
from rotational.lab.figures import Figure, Job, Scale, Then
from rotational.lab.measures import Found
from rotational.lab.progress import Shown
from rotational.lab.shelf import Shelf
from rotational.lab.statistics import total
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
    def each(self) -> dict[str, float]:
        """Seconds of each run that has ended, by its key: arms may share some."""
        points = (p for arm in self.found.arms.values() for p in arm)
        return {m.run.key: m.seconds for p in points for m in p.seeds.values()}

    @property
    def ran(self) -> int:
        """Runs that have ended."""
        return len(self.each)

    @property
    def judged(self) -> bool:
        """Whether the runs of any claim are all there."""
        return any(v.word != "not run" for v in self.verdicts)

    @property
    def seconds(self) -> float:
        """What the runs that are there took, one after the other."""
        return total(self.each.values())


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


def lacking(figures: Sequence[Figure], scale: Scale, available: Callable[[Data], str | None]) -> dict[Data, str]:
    """The data that runs of the figures need and that are not there, each with a sentence that says what is.

    `available` says it of one of them, or None; see `tasks.available`.
    """
    needed = dict.fromkeys(run.data for figure in figures for run in figure.jobs(scale) if isinstance(run, Run))
    return {data: said for data in needed if (said := available(data)) is not None}


def selected(
    figures: Sequence[Figure], scale: Scale, lacks: Mapping[Data, str]
) -> tuple[tuple[Figure, ...], dict[str, str]]:
    """The figures of which some runs have their data, and why each of the others is left out."""
    why: dict[str, str] = {}
    for figure in figures:
        said = [_lacks(job, lacks) for job in figure.jobs(scale)]
        if said and all(said):
            why[figure.name] = " ".join(dict.fromkeys(filter(None, said)))
    return tuple(f for f in figures if f.name not in why), why


def strange(
    figures: Sequence[Figure], scale: Scale, shelf: Shelf, seeds: int | None, identity: Callable[[Data], str]
) -> str | None:
    """A sentence where stored results are of other data than `identity` tells of; None where all may be gone on with.

    Of data that are not at hand it tells nothing, "".
    """
    other: dict[str, set[str]] = {}
    for figure in figures:
        found, _ = shelf.found(figure, scale, seeds)
        for m in (m for points in found.arms.values() for point in points for m in point.seeds.values()):
            if isinstance(m.run, Run) and m.data and (now := identity(m.run.data)) and m.data != now:
                other.setdefault(m.run.data.name, set()).add(m.run.key)
    if not other:
        return None
    told = " and ".join(f"{len(keys)} of {name}" for name, keys in other.items())
    return (
        f"{shelf.store.root}: results of runs on other data than those at hand, {told}. Nothing ran. Point --data to "
        "the folder that they had, or give these another folder with --out."
    )


def state(
    figure: Figure, scale: Scale, shelf: Shelf, seeds: int | None = None, lacks: Mapping[Data, str] | None = None
) -> State:
    """What is known of a figure, with the claims of this scale; those on runs that have no data say so."""
    figure = figure.seen(scale)
    found, _ = shelf.found(figure, scale, seeds)
    why: dict[str, str] = {}
    for arm in figure.arms(scale):
        said = [s for job in arm.runs if (s := _lacks(job, lacks or {}))]
        if isinstance(arm, Then) and arm.source in why:
            said.append(why[arm.source])
        if said and found.missing[arm.label]:
            why[arm.label] = said[0]
    found = replace(found, lacking=why)
    return State(figure, scale, found, verdicts.judged(figure, found))


def _lacks(job: Job, lacks: Mapping[Data, str]) -> str | None:
    return lacks.get(job.data) if isinstance(job, Run) else None


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
    lacks: Mapping[Data, str] | None = None,
) -> Ended:
    """Let a crew run what is missing of the figures; runs that several share are run once.

    Runs whose data `lacks` names are not begun, and claims on them say why; see `lacking`.

    A figure's second stage begins when its first has ended, so there are as many rounds as there are stages. A run
    that another process works at is looked at once more when the others of its round have ended.
    """
    aside: dict[str, str] = {}  # why a run is not tried again
    taken: set[str] = set()

    def missing() -> list[Job]:
        return [job for job in ready(figures, scale, shelf, seeds) if not _lacks(job, lacks or {})]

    with crew.stopping() as stop, Shown(console, figures, scale, shelf, seeds, crew.processes) as shown:
        while not stop.is_set():
            jobs = [job for job in missing() if job.key not in aside]
            if not jobs:
                break
            shown.expect(jobs)

            def hear(word: Word) -> None:
                shown.hear(word)
                if word.state == "failed":
                    aside[word.key] = word.said
                elif word.state == "taken":
                    if word.key in taken:
                        aside[word.key] = "another process is still at work; the same command goes on when it has ended"
                    taken.add(word.key)

            crew.work(jobs, shelf.store.root, data, hear, stop)
        interrupted = stop.is_set()
    states = tuple(state(figure, scale, shelf, seeds, lacks) for figure in figures)
    open_ = {job.key for job in missing()}  # another process may have ended it by now
    failed = dict.fromkeys(why for key, why in aside.items() if key in open_)
    return Ended(states, interrupted, left_out or {}, tuple(failed))


def ready(figures: Sequence[Figure], scale: Scale, shelf: Shelf, seeds: int | None) -> list[Job]:
    """What can begin now, each run once, the longest first within a figure, so that the last ones are short."""
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
            told = "; ".join((v.measured.removesuffix("."), f"holds if {v.holds}", *v.notes))
            said = f"{escape(v.claim.sentence)}\n[dim]{escape(told)}[/dim]"
            made.add_row(s.figure.name if i == 0 else "", v.word, said, end_section=i == len(s.verdicts) - 1)
    return made
