"""`rotational reproduce --dry-run`: what would run of each figure, what is there already, and how long it may take."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence

from rich import box
from rich.table import Table

from rotational.cli import listed
from rotational.lab import reproduce
from rotational.lab.declare import Data, Run
from rotational.lab.figures import Arm, Figure, Job, Scale
from rotational.lab.progress import Clock, clock
from rotational.lab.reproduce import State
from rotational.lab.shelf import Shelf

CAPTION = (
    "Time: on one core, from runs of the same kind in {root} where there are any, else from what the figure's runs "
    f"took when they were last measured; {listed.HOURS}. Runs that figures share stand in each, and once in the total."
)


def table(
    figures: Sequence[Figure],
    scale: Scale,
    shelf: Shelf,
    seeds: int | None,
    lacks: Mapping[Data, str],
    processes: int,
) -> Table:
    """A row for each figure and one for all, of runs with and without their data; nothing runs, nothing is written."""
    shipped = listed.came_with_it()
    states = [reproduce.state(f, scale, shelf, seeds, lacks) for f in figures]
    pace = Clock()
    for m in (m for s in states for points in s.found.arms.values() for p in points for m in p.seeds.values()):
        pace.learn(m.run, m.run.steps if isinstance(m.run, Run) else 1, m.seconds)
    made = Table(box=box.SIMPLE_HEAD, caption=CAPTION.format(root=shelf.store.root), caption_justify="left")
    for name in ("figure", "stored", "to run", "no data", "time"):
        made.add_column(name, justify="left" if name == "figure" else "right", no_wrap=True)
    times: dict[Hashable, float | None] = {}
    every: dict[Hashable, Job] = {}
    stored: set[str] = set()
    barred: set[Hashable] = set()
    for s in states:
        jobs, without = _open(s, shelf, seeds, lacks)
        entry = shipped.get(s.figure.name, {}).get(scale)
        each = entry.seconds / entry.ran if entry is not None and entry.ran else None
        own = {which: _or(pace.left(job), each) for which, job in jobs.items()}
        made.add_row(s.figure.name, str(s.ran), str(len(own)), str(len(without) or ""), _time(own, jobs, scale))
        times, every = times | own, every | jobs
        stored, barred = stored | s.each.keys(), barred | without.keys()
    made.add_section()
    made.add_row("all", str(len(stored)), str(len(times)), str(len(barred) or ""), _time(times, every, scale))
    if processes > 1 and times and scale != "paper":
        made.add_row(f"by {processes} at a time", "", "", "", _told(times.values(), processes))
    return made


def _open(
    s: State, shelf: Shelf, seeds: int | None, lacks: Mapping[Data, str]
) -> tuple[dict[Hashable, Job], dict[Hashable, Job]]:
    """The missing runs that have data, and those that have none; those of a later stage as they are declared."""
    jobs: dict[Hashable, Job] = {}
    barred: dict[Hashable, Job] = {}
    for declared in s.figure.arms(s.scale):
        arm = declared if seeds is None else declared.seeded(seeds)
        runs = shelf.resolved(arm, dict(s.found.arms), dict(s.found.missing))
        if isinstance(arm, Arm):
            assert runs is not None
            if len(runs) < arm.count:
                jobs |= {(arm.runs, seed): arm.runs[0].but(seed=seed) for seed in arm.more}
        elif runs is None:
            later = barred if arm.label in s.found.lacking else jobs
            later |= {(arm.field, arm.source, run): run for run in arm.runs}
        jobs |= {run.key: run for run in runs or () if shelf.get(run) is None}
    barred |= {which: job for which, job in jobs.items() if isinstance(job, Run) and job.data in lacks}
    return {which: job for which, job in jobs.items() if which not in barred}, barred


def _time(times: Mapping[Hashable, float | None], jobs: Mapping[Hashable, Job], scale: Scale) -> str:
    """How long runs take; at the paper's scale, where that is not known of all, what the others may take on a GPU."""
    others = [job for which, job in jobs.items() if times[which] is None and isinstance(job, Run)]
    return listed.expected(others) if scale == "paper" and others else _told(times.values())


def _or(seconds: float | None, each: float | None) -> float | None:
    return each if seconds is None else seconds


def _told(times: Iterable[float | None], processes: int = 1) -> str:
    """All of them, so many side by side; what is not known is left open.

    >>> _told([60.0, 180.0], 2), _told([600.0, None]), _told([0.1, None]), _told([None]), _told([])
    ('2 min', '>10 min', '>1 s', '?', '')
    """
    every = list(times)
    known = [t for t in every if t is not None]
    if not known:
        return "?" if every else ""
    return clock(sum(known) / processes, more=len(known) < len(every))
