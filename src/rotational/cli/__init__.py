"""The command line: `rotational predict`, `plan`, `demo`, `report`, `reproduce`; a file for each."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from rotational import records
from rotational.cli import demo, plan, predict, report, reproduce


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for what was asked wrongly, 130 when interrupted.

    Raises SystemExit(2) for words that argparse cannot read, and SystemExit(0) after --help.

    >>> main(["predict", "--optimizer", "adamw", "--lr", "nan", "--weight-decay", "0.1"])
    2
    """
    options = _parser().parse_args(argv)
    try:
        return options.run(options)
    except BrokenPipeError:
        # `rotational plan ... | head` is no mistake; what is left in the buffer must not fail at exit again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError) as error:
        print(f"rotational {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"rotational {options.command}: interrupted.", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    """argparse, with one sentence for an error instead of the usage and a sentence, and options by their whole names:
    `--seed 1` must not be taken for `--seeds 1`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}. See {self.prog} --help.\n")


class _Versions(argparse.Action):
    """What shapes the answers of this installation; looked up only when asked for, since that takes a moment."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(", ".join(f"{name} {number}" for name, number in records.versions().items()))
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="rotational",
        description="Weight-decay dynamics: predict, measure and control how fast neurons rotate.",
        epilog="To begin: rotational demo; or rotational predict --optimizer adamw --lr 3e-4 --weight-decay 0.1. "
        "rotational COMMAND --help tells the options of a command.",
    )
    parser.add_argument("--version", action=_Versions, nargs=0, help="print versions, for a bug report, and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (predict, plan, demo, report, reproduce):
        command.add(commands)
    return parser
