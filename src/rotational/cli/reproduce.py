"""`rotational reproduce`: the figures and tables of the paper, run and judged."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from rich.console import Console

from rotational.cli.options import Commands

if TYPE_CHECKING:
    from rotational.lab.figures import Figure, Scale
    from rotational.lab.reproduce import Ended, State
    from rotational.lab.shelf import Shelf
    from rotational.lab.workers import Crew

OUT = Path("rotational-results")
SCALES: tuple[Scale, ...] = ("tiny", "laptop", "paper")


def add(commands: Commands) -> None:
    """Tell argparse of the command."""
    several = "torchrun --nproc-per-node N -m rotational reproduce NAME --scale paper --device cuda --data DIR"
    parser = commands.add_parser(
        "reproduce",
        help="run the paper's figures and tables, and judge their claims",
        epilog=f"Each run on N GPUs: {several}",
    )
    parser.set_defaults(run=run)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of figures, or all")
    parser.add_argument(
        "--list", action="store_true", help="show every figure, what it takes, and how its claims came out last"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would run, what is there already, and how long it may take"
    )
    parser.add_argument("--scale", choices=SCALES, default="tiny", help="tiny: seconds; laptop: minutes; paper: GPUs")
    parser.add_argument("--data", type=Path, help="folder with the data sets (default: $ROTATIONAL_DATA)")
    parser.add_argument("--seeds", type=int, help="seeds of every run (default: the figure's own)")
    parser.add_argument("--jobs", type=int, help="runs side by side, one thread each (default: one a core; 1 on a GPU)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of results and pages (default {OUT})")
    parser.add_argument(
        "--shard", action="store_true", help="under torchrun: spread weights over the processes (FSDP2)"
    )
    parser.add_argument(
        "--compile", action="store_true", help="train through torch.compile: faster per step, a minute before the first"
    )
    parser.add_argument("--device", default="cpu", help="torch's name of where to train (default cpu)")


def run(options: argparse.Namespace) -> int:
    """Run what is missing, write the pages, print the claims; exit code 130 where the user interrupted."""
    for name, value in (("--seeds", options.seeds), ("--jobs", options.jobs)):
        if value is not None and value < 1:
            raise ValueError(f"{name} {value}: expected 1 or more.")
    data = options.data or (Path(found) if (found := os.environ.get("ROTATIONAL_DATA")) else None)
    from rotational.lab.workers import Machine, Pool

    machine = Machine(options.device, options.shard, options.compile)
    if not (options.list or options.dry_run):
        if options.device != "cpu":
            _there(options.device)
        if options.compile:
            from rotational.lab.compiling import check

            check(machine.device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from rotational.lab import together

        return together.run(machine, data, partial(_run, options, data))
    if options.shard:
        raise ValueError("--shard: there is one process. Start several: torchrun --nproc-per-node N -m rotational ...")
    from rotational.lab import reproduce

    usual = reproduce.cores() if options.device == "cpu" else 1
    jobs = usual if options.jobs is None else options.jobs
    return _run(options, data, Pool(jobs, machine))


def _there(device: str) -> None:
    """Refuse a device before anything runs on it, not once for each run."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a CPU build of torch asserts
        why = str(error).strip().splitlines()[0].rstrip(".")
        raise ValueError(f"--device {device}: {why}. Give one that this torch has, or leave it out: cpu.") from None


def _run(options: argparse.Namespace, data: Path | None, crew: Crew) -> int:
    from rotational.lab import figures as declared
    from rotational.lab import reproduce
    from rotational.lab.shelf import Shelf
    from rotational.paper.figures import FIGURES

    console = Console()
    chosen = declared.named(FIGURES, options.names)
    shelf = Shelf(options.out)
    if options.jobs not in (None, crew.processes):
        raise ValueError(f"--jobs {options.jobs}: processes of torchrun are all at one run; leave --jobs out.")
    if options.list:
        from rotational.cli.listed import table

        console.print(table(chosen, shelf, partial(_say, console)))
        return 0
    if not options.names:
        names = ", ".join(f.name for f in FIGURES)
        raise ValueError(f"which figures? Give names, or all: {names}. --list says what each shows.")
    if data is not None and not data.is_dir():
        raise FileNotFoundError(f"--data {data}: no such folder. Give the one that holds cifar10, multi30k and so on.")

    from rotational.lab import tasks  # the commands above need no torch

    if options.scale == "laptop":
        chosen = _substituted(chosen, data, console)
    lacks = reproduce.lacking(chosen, options.scale, lambda needed: tasks.available(needed, data))
    able, left_out = reproduce.selected(chosen, options.scale, lacks)
    for name, why in left_out.items():
        _say(console, f"{name} is left out: {why}")
    for figure in able if lacks else ():
        parts: dict[str, list[str]] = {}
        for label, why in reproduce.state(figure, options.scale, shelf, options.seeds, lacks).found.lacking.items():
            parts.setdefault(why, []).append(f"“{label}”")
        for why, labels in parts.items():
            _say(console, f"{figure.name} runs without {', '.join(labels)}: {why}")
    if options.dry_run:
        if not able:
            _say(console, "Nothing would run: all that was asked for is left out.")
            return 2
        from rotational.cli.dry import table

        console.print(table(able, options.scale, shelf, options.seeds, lacks, crew.processes))
        return 0
    from rotational.lab.data.identity import identity

    if said := reproduce.strange(
        able, options.scale, shelf, options.seeds, lambda of: "" if of in lacks else identity(of, data)
    ):
        raise ValueError(said)
    _writable(options.out)
    ended = reproduce.run(
        able,
        options.scale,
        shelf,
        crew,
        data=data,
        seeds=options.seeds,
        console=console,
        left_out=left_out,
        lacks=lacks,
    )
    return _told(ended, shelf, options.scale, console)


def _substituted(figures: tuple[Figure, ...], data: Path | None, console: Console) -> tuple[Figure, ...]:
    """The figures at laptop scale, with something that comes with packages for each data set that is missing."""
    from rotational.lab import tasks
    from rotational.lab.declare import Run
    from rotational.paper.base import SUBSTITUTES

    asked = {run.data: run.data.name for f in figures for run in f.jobs("laptop") if isinstance(run, Run)}
    missing = {name for which, name in asked.items() if name in SUBSTITUTES and tasks.available(which, data)}
    chosen = {name: other for name, other in SUBSTITUTES.items() if name in missing}
    if chosen:
        pairs = ", ".join(f"{other.name} for {name}" for name, other in chosen.items())
        where = "without --data" if data is None else f"not in {data}"
        _say(console, f"What comes with scikit-learn and Python stands in for data that is missing ({where}): {pairs}.")
    return tuple(figure.with_data(chosen) for figure in figures)


def _writable(folder: Path) -> None:
    """Make the folder of results; raises OSError, with a sentence, where it cannot be or cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(f"--out {folder}: a file has this name. Give a folder.") from None
    except OSError as error:
        raise OSError(f"--out {folder}: cannot be written ({error.strerror}). Give another folder.") from None


def _say(console: Console, sentence: str) -> None:
    """Print as it stands: names, paths and what libraries say may look like markup."""
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def _told(ended: Ended, shelf: Shelf, scale: Scale, console: Console) -> int:
    """Print the claims and write the pages; returns the exit code."""
    from rotational.lab import reproduce
    from rotational.report import figure_table

    for sentence in ended.failed:
        _say(console, f"Not run: {sentence}")
    if ended.states:
        console.print(reproduce.table(ended.states))
        pages = figure_table.write_all(
            _all(ended, shelf, scale, console), shelf.store.root / "pages" / scale, ended.left_out
        )
        _say(console, f"Pages: {pages}")
    if ended.interrupted:
        _say(console, "Interrupted: what ran is kept, and the same command goes on from there.")
        return 130
    return 2 if ended.failed or (ended.left_out and not ended.states) else 0


def _all(ended: Ended, shelf: Shelf, scale: Scale, console: Console) -> list[State]:
    """The states of what was asked for, and of every other figure that the folder holds results of."""
    from rotational.cli.listed import stored
    from rotational.paper.figures import FIGURES

    now = {state.figure.name: state for state in ended.states}
    states = (now.get(f.name) or stored(f, scale, shelf, partial(_say, console)) for f in FIGURES)
    return [state for state in states if state is not None]
