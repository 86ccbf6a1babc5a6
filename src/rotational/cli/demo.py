"""`rotational demo`: a small GPT, trained four ways."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from rotational.cli.options import Commands


def add(commands: Commands) -> None:
    """Tell argparse of the command."""
    demo = commands.add_parser("demo", help="train a small GPT four ways and report how its neurons rotate")
    demo.set_defaults(run=run)
    demo.add_argument(
        "--arms", nargs="+", metavar="ARM", help="adamw-warmup, adamw, adam-l2, rotational (default: all)"
    )
    demo.add_argument("--steps", type=int, default=1000, help="steps of each arm (default 1000)")
    demo.add_argument("--out", type=Path, default=Path("rotational-demo"), help="folder for logs and the report")
    demo.add_argument("--text", type=Path, help="train on this file (default: the source of Python's standard library)")
    demo.add_argument("--seed", type=int, default=0, help="of weights and batches (default 0)")
    demo.add_argument("--every", type=int, default=5, help="steps from one measurement to the next (default 5)")


def run(options: argparse.Namespace) -> int:
    """Train the arms and write their report; returns the exit code, 130 where the user interrupted."""
    from rotational.lab import demo  # the one command that trains, and so the one that loads torch
    from rotational.report import page

    console = Console()
    results = demo.run(
        arms=options.arms,
        steps=options.steps,
        out=options.out,
        text=options.text,
        seed=options.seed,
        every=options.every,
        console=console,
    )
    console.print(demo.table(results))
    out = page.write(
        results.logs,
        options.out / "rotational-report.html",
        title="Four ways to train one small GPT",
        table=results.rows,
    )
    if results.interrupted:
        left = [name for name in options.arms or demo.ARMS if name not in {arm.name for arm in results.arms}]
        rest = f"; not begun: {', '.join(left)}" if left else ""
        console.print(f"Interrupted: the table is of what ran{rest}.")
    console.print(f"Report: {out}")
    return 130 if results.interrupted else 0
