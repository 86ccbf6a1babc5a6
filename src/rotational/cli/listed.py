"""`rotational reproduce --list`: every figure, what it takes at each scale, and how its claims came out last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from itertools import combinations

from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rotational.lab import costs, ledger, reproduce
from rotational.lab.declare import Run
from rotational.lab.figures import SCALES, Figure, Scale
from rotational.lab.ledger import Entry, Ledger
from rotational.lab.progress import clock
from rotational.lab.reproduce import State
from rotational.lab.shelf import Shelf
from rotational.lab.verdicts import Word
from rotational.paper.base import SUBSTITUTES

STYLES: Mapping[Word, str] = {"held": "green", "not held": "red", "undecided": "yellow", "not run": "dim"}

HOURS = f"GPU h: an estimate, within a factor of two, of hours on one {costs.GPU}"


def table(figures: Sequence[Figure], shelf: Shelf, tell: Callable[[str], None]) -> Table:
    """The figures, each with its section and its sentence; what the folder holds comes first.

    `tell` hears a sentence for each figure of which the folder holds something damaged.
    """
    shipped = came_with_it()
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=_caption(shipped, shelf), caption_justify="left")
    made.add_column("figure", ratio=1, min_width=22)
    for scale in SCALES:
        made.add_column(scale, justify="right", no_wrap=True)
    made.add_column("claims", no_wrap=True)
    for figure in figures:
        here, there = _here(figure, shelf, tell), shipped.get(figure.name, {})
        made.add_row(
            Group(
                Text.assemble((figure.name, "bold"), (f"  {figure.section}", "dim")),
                Padding(Text(figure.sentence, "dim"), (0, 0, 0, 2)),
            ),
            *(_cost(figure, scale, here.get(scale) or there.get(scale)) for scale in SCALES),
            Text("\n").join(_outcomes(here, there)),
        )
    return made


def came_with_it() -> Ledger:
    """What was measured when the package was made."""
    return ledger.read(resources.files("rotational.paper").joinpath("measured.json").read_text(encoding="utf-8"))


def versions(figure: Figure, scale: Scale) -> list[Figure]:
    """The figure with the data sets that it declares, and with every choice of them replaced by what stands in."""
    used = {run.data.name for run in figure.jobs(scale) if isinstance(run, Run)}
    names = [name for name in SUBSTITUTES if name in used and scale == "laptop"]
    chosen = (some for n in range(len(names) + 1) for some in combinations(names, n))
    return [figure.with_data({name: SUBSTITUTES[name] for name in some}) for some in chosen]


def stored(figure: Figure, scale: Scale, shelf: Shelf, tell: Callable[[str], None]) -> State | None:
    """What the folder holds of a figure, with whichever data; None where no claim can be judged.

    `tell` hears a sentence where something is damaged: the figure is left out then.
    """
    try:
        return reproduce.stored(versions(figure, scale), scale, shelf)
    except ValueError as error:
        tell(f"{figure.name} at {scale} scale is left out: {error}")
        return None


def _here(figure: Figure, shelf: Shelf, tell: Callable[[str], None]) -> dict[Scale, Entry]:
    found: dict[Scale, Entry] = {}
    for scale in SCALES:
        if (state := stored(figure, scale, shelf, tell)) is not None:
            found[scale] = ledger.entry(state)
    return found


def _cost(figure: Figure, scale: Scale, known: Entry | None) -> Text:
    """Time of all runs, or, where nobody took it, an estimate or their steps; and how many there are."""
    jobs = list(dict.fromkeys(figure.jobs(scale)))
    runs = [job for job in jobs if isinstance(job, Run)]
    if known is not None:
        first = clock(known.seconds, more=known.missing > 0)
    else:
        steps = f"{_short(sum(run.steps for run in runs))} steps" if runs else ""
        first = expected(runs) or steps if scale == "paper" else steps
    return Text.assemble(first, "\n", (f"{len(jobs)} runs", "dim"))


def expected(runs: Sequence[Run]) -> str:
    """Hours on a GPU; nothing where a run's cost cannot be told."""
    hours = [h for run in runs if (h := costs.hours(run)) is not None]
    return f"~{_short(max(1, round(sum(hours))))} GPU h" if hours and len(hours) == len(runs) else ""


def _outcomes(here: Mapping[Scale, Entry], there: Mapping[Scale, Entry]) -> Iterator[Text]:
    """Lines for each scale that is judged: tiny runs that came with the package are too short to say anything."""
    shipped = {scale: entry for scale, entry in there.items() if scale != "tiny"}
    shown = {scale: entry for scale in SCALES if (entry := here.get(scale) or shipped.get(scale)) is not None}
    for scale, entry in shown.items():
        if list(shown) != ["laptop"] or here:
            yield Text(f"{scale}{' here' if scale in here else ''}:", "dim")
        yield from (Text(f"{n:>2} {word}", STYLES[word]) for word, n in entry.claims.items())


def _caption(shipped: Ledger, shelf: Shelf) -> str:
    dates = sorted(e.date for entries in shipped.values() for e in entries.values())
    when = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "nowhere yet"
    return (
        f"Times: all runs on one core, or their steps; {HOURS}. Claims: at laptop scale, measured {when}; "
        f"here: in {shelf.store.root}."
    )


def _short(steps: int) -> str:
    """A count of steps or hours, as short as a table wants it.

    >>> _short(950), _short(13500), _short(2764734)
    ('950', '14k', '2.8M')
    """
    return str(steps) if steps < 1000 else f"{steps / 1000:.0f}k" if steps < 1e6 else f"{steps / 1e6:.1f}M"
