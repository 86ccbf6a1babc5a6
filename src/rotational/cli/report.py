"""`rotational report`: the page of one or more logs."""

from __future__ import annotations

import argparse
from pathlib import Path

from rotational.cli.options import Commands


def add(commands: Commands) -> None:
    """Tell argparse of the command."""
    report = commands.add_parser("report", help="write the HTML report of one or more logs of watch()")
    report.set_defaults(run=run)
    report.add_argument(
        "logs", nargs="+", type=Path, metavar="LOG", help="folder that watch() wrote; each is an arm of the page"
    )
    report.add_argument("--out", type=Path, default=Path("rotation.html"), help="the page (default rotation.html)")
    report.add_argument("--title", help="of the page")


def run(options: argparse.Namespace) -> int:
    """Write the page; returns the exit code."""
    from rotational.report import page  # plotly takes a moment to load

    print(f"Report: {page.write(options.logs, options.out, title=options.title)}")
    return 0
