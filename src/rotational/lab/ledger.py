"""What each figure took and how its claims came out when it was last run: a few numbers, for those who ran nothing.

    paper/measured.json     {"control": {"laptop": {"ran": 21, ..., "claims": {"held": 4}, "date": "2026-11-28"}}}

docs/reproduction.py writes it from the results that are stored there; `rotational reproduce --list` shows it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from rotational.lab.figures import Scale
from rotational.lab.reproduce import State
from rotational.lab.verdicts import WORDS, Word


@dataclass(frozen=True)
class Entry:
    """A figure at a scale.

    ran, missing   runs that have ended, and those that have not
    seconds        what the former took, one after the other; those of one process on one core
    claims         how many have each word
    date           of the day on which these numbers were written, year first; empty for what was not written
    """

    ran: int
    missing: int
    seconds: float
    claims: Mapping[Word, int]
    date: str = ""


Ledger: TypeAlias = Mapping[str, Mapping[Scale, Entry]]
"""Entries by figure and scale."""


def entry(state: State) -> Entry:
    """What a figure's state comes to."""
    counts = Counter(v.word for v in state.verdicts)
    return Entry(state.ran, state.missing, round(state.seconds, 1), {w: counts[w] for w in WORDS if counts[w]})


def dated(ledger: Ledger, before: Ledger, today: str) -> Ledger:
    """The ledger with dates: an entry that says what it said before keeps its date.

    >>> one = {"control": {"tiny": Entry(2, 0, 1.5, {"held": 1})}}
    >>> first = dated(one, {}, "2026-01-01")
    >>> dated(one, first, "2026-02-01")["control"]["tiny"].date
    '2026-01-01'
    """

    def date(name: str, scale: Scale, now: Entry) -> str:
        old = before.get(name, {}).get(scale)
        return old.date if old is not None and replace(old, date="") == now else today

    return {
        name: {scale: replace(e, date=date(name, scale, e)) for scale, e in entries.items()}
        for name, entries in ledger.items()
    }


def written(ledger: Ledger) -> str:
    """The ledger as JSON, an entry a line."""
    parts: list[str] = []
    for name, entries in ledger.items():
        lines = [f"    {json.dumps(scale)}: {json.dumps({**vars(e)})}" for scale, e in entries.items()]
        parts.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n  }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def read(text: str) -> Ledger:
    """The ledger from what `written` gave.

    >>> ledger = {"control": {"tiny": Entry(2, 0, 1.5, {"held": 1}, "2026-01-01")}}
    >>> read(written(ledger)) == ledger
    True
    """
    return {
        name: {scale: Entry(**fields) for scale, fields in entries.items()}
        for name, entries in json.loads(text).items()
    }
