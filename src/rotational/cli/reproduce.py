"""`rotational reproduce`: the figures and tables of the paper, run and judged."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from rotational import _check
from rotational.cli.options import Commands

if TYPE_CHECKING:
    from rotational.lab.reproduce import Ended

OUT = Path("rotational-results")
SCALES = ("tiny", "laptop", "paper")


def add(commands: Commands) -> None:
    """Tell argparse of the command."""
    parser = commands.add_parser("reproduce", help="run the paper's figures and tables, and judge their claims")
    parser.set_defaults(run=run)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of figures, or all")
    parser.add_argument("--list", action="store_true", help="show every figure, its runs and what was last measured")
    parser.add_argument("--scale", choices=SCALES, default="tiny", help="tiny: seconds; laptop: minutes; paper: GPUs")
    parser.add_argument("--data", type=Path, help="folder with the data sets (default: $ROTATIONAL_DATA)")
    parser.add_argument("--seeds", type=int, help="seeds of every run (default: the figure's own)")
    parser.add_argument("--jobs", type=int, help="runs side by side, one thread each (default: one a core; 1 on a GPU)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of results and pages (default {OUT})")
    parser.add_argument("--device", default="cpu", help="torch's name of where to train (default cpu)")


def run(options: argparse.Namespace) -> int:
    """Run what is missing, write the pages, print the claims; exit code 130 where the user interrupted."""
    from rotational.lab import figures as declared
    from rotational.lab import reproduce
    from rotational.lab.shelf import Shelf
    from rotational.paper.figures import FIGURES

    console = Console()
    chosen = declared.named(FIGURES, options.names)
    shelf = Shelf(options.out)
    if options.seeds is not None:
        _check.whole("reproduce", "--seeds", options.seeds)
    if options.list:
        console.print(_listed(options, shelf))
        return 0
    if not options.names:
        names = ", ".join(f.name for f in FIGURES)
        raise ValueError(f"which figures? Give names, or all: {names}. --list says what each shows.")
    usual = reproduce.cores() if options.device == "cpu" else 1
    jobs = usual if options.jobs is None else _check.whole("reproduce", "--jobs", options.jobs)
    data = options.data or (Path(found) if (found := os.environ.get("ROTATIONAL_DATA")) else None)
    if data is not None and not data.is_dir():
        raise FileNotFoundError(f"--data {data}: no such folder. Give the one that holds cifar10, multi30k and so on.")

    from rotational.lab import tasks  # the commands above need no torch
    from rotational.paper.base import SUBSTITUTES

    if options.scale == "laptop" and data is None:
        console.print(
            "Without --data, digits of scikit-learn and the source of Python's library stand in for real data."
        )
        chosen = tuple(figure.with_data(SUBSTITUTES) for figure in chosen)
    able, left_out = reproduce.selected(chosen, options.scale, lambda r: tasks.available(r.data, data))
    for name, why in left_out.items():
        console.print(f"{name} is left out: {why}")
    ended = reproduce.run(
        able,
        options.scale,
        shelf,
        data=data,
        seeds=options.seeds,
        jobs=jobs,
        device=options.device,
        console=console,
        left_out=left_out,
    )
    return _told(ended, options.out, console)


def _told(ended: Ended, out: Path, console: Console) -> int:
    from rotational.lab import reproduce
    from rotational.report import figure_table

    for sentence in ended.failed:
        console.print(f"Not run: {sentence}")
    if ended.states:
        console.print(reproduce.table(ended.states))
        scale = ended.states[0].scale
        console.print(f"Pages: {figure_table.write_all(ended.states, out / 'pages' / scale, ended.left_out)}")
    if ended.interrupted:
        console.print("Interrupted: what ran is kept, and the same command goes on from there.")
        return 130
    return 2 if ended.failed or (ended.left_out and not ended.states) else 0


def _listed(options: argparse.Namespace, shelf: object) -> Table:
    from rotational.lab import reproduce
    from rotational.lab.declare import Run
    from rotational.lab.figures import SCALES as DECLARED
    from rotational.lab.figures import named
    from rotational.lab.shelf import Shelf
    from rotational.lab.verdicts import counted
    from rotational.paper.figures import FIGURES

    assert isinstance(shelf, Shelf)
    made = Table(title=f"Figures and tables, with what {options.out} holds of them", show_lines=True)
    for name in ("figure", "what it shows", "runs", "last measured"):
        made.add_column(name, no_wrap=name == "figure")
    for figure in named(FIGURES, options.names):
        costs: list[str] = []
        known: list[str] = []
        for scale in DECLARED:
            jobs = list(figure.jobs(scale))
            steps = sum(job.steps for job in jobs if isinstance(job, Run))
            costs.append(f"{scale}: {len(jobs)}" + (f", {_short(steps)} steps" if steps else ""))
            state = reproduce.state(figure, scale, shelf)
            if state.missing < len(jobs):
                known.append(f"{scale}: {counted(state.verdicts)}; one core took {reproduce.clock(state.seconds)}")
        made.add_row(
            figure.name,
            f"{figure.sentence} [dim]({figure.section})[/dim]",
            "\n".join(costs),
            "\n".join(known) or "nothing yet",
        )
    return made


def _short(steps: int) -> str:
    """A count of steps, as short as a table wants it.

    >>> _short(950), _short(13500), _short(2764734)
    ('950', '14k', '2.8M')
    """
    return str(steps) if steps < 1000 else f"{steps / 1000:.0f}k" if steps < 1e6 else f"{steps / 1e6:.1f}M"
