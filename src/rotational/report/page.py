"""The report: one HTML file that works offline, written from log folders."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from plotly.offline import get_plotlyjs

from rotational.records import Records, versions
from rotational.report import arm, charts, parts
from rotational.report.charts import Arm
from rotational.report.document import document, place, put, read
from rotational.report.parts import Table

Log: TypeAlias = "Records | str | Path"


def write(logs: Log | Sequence[Log], out: str | Path, *, title: str | None = None, table: Table | None = None) -> Path:
    """Write a report of one log, or of several as the arms of one experiment, and return its path.

    For each layer the page shows the measured RMS rotation (radians per step) with its 5-95% band over
    neurons against the prediction, the norms, a heat strip neuron x time and a verdict in plain language.
    `table` is a summary to show first: column titles, and rows of as many cells. The file is written whole
    or not at all.

    Raises FileNotFoundError where a log or the folder of `out` does not exist, ValueError for a damaged log,
    no logs at all, or a table whose rows do not fit its columns.

    >>> import pathlib, tempfile
    >>> from rotational.records import Run, Writer
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> run = Run(title="AdamW", optimizer="AdamW", groups=(), rules=(), layers=(), versions={})
    >>> Writer(folder / "log", run).close()
    >>> write(folder / "log", folder / "report.html").name
    'report.html'
    """
    call = f"write(out={str(out)!r})"
    path = place(call, out, "rotation.html")
    several = [logs] if isinstance(logs, Records | str | Path) else list(logs)
    if not several:
        raise ValueError("write(logs=[]): expected one log or more, such as the folders that watch() wrote.")
    if table is not None:
        _check_table(table)
    found = [log if isinstance(log, Records) else Records(log) for log in several]
    arms = [charts.gather(r, name) for r, name in zip(found, _names(found), strict=True)]
    text = render(arms, title or (arms[0].name if len(arms) == 1 else f"Rotation in {len(arms)} runs"), table)
    return put(call, path, text)


def render(arms: Sequence[Arm], title: str, table: Table | None = None) -> str:
    """The page as text."""
    body = (
        parts.header(title, _when(), _versions(arms)),
        "<main>",
        parts.summary(table) if table else "",
        parts.together(arms),
        parts.tabs(arms) if len(arms) > 1 else "",
        *(arm.section(a, i, tabbed=len(arms) > 1) for i, a in enumerate(arms)),
        parts.glossary(),
        "</main>",
        parts.footer(versions()["rotational"]),
        f'<script type="application/json" id="data">{_json([_data(a) for a in arms])}</script>',
        f"<script>{get_plotlyjs()}</script>",
        f"<script>\n{read('page.js')}</script>",
    )
    return document(title, "\n".join(body))


def _data(a: Arm) -> dict[str, Any]:
    """What page.js draws of one arm."""
    layers = [
        {
            "name": row.layer.name,
            "word": row.verdict.word,
            "sentence": row.verdict.sentence,
            **row.curves,
        }
        for row in a.rows
    ]
    return {"name": a.name, "overview": a.overview, "losses": a.losses, "layers": layers}


def _json(value: Any) -> str:
    """JSON that stands safely inside a script element: four significant digits, no NaN, no "</script>"."""
    text = json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return _short(value) if math.isfinite(value) else None
    return value


def _short(x: float) -> float | int:
    return int(x) if x == int(x) and abs(x) < 1e15 else float(f"{x:.4g}")


def _names(read: Sequence[Records]) -> list[str]:
    """Titles of the runs, told apart by a number where two are the same."""
    titles = [r.run.title.strip() or r.path.name for r in read]
    seen: Counter[str] = Counter()
    names: list[str] = []
    for t in titles:
        seen[t] += 1
        names.append(t if titles.count(t) == 1 else f"{t} ({seen[t]})")
    return names


def _versions(arms: Sequence[Arm]) -> str:
    """Each library with its version, or all its versions where the runs differ."""
    found: dict[str, list[str]] = {}
    for a in arms:
        for library, number in a.run.versions.items():
            if number not in found.setdefault(library, []):
                found[library].append(number)
    return " · ".join(f"{library} {' and '.join(numbers)}" for library, numbers in found.items())


def _when() -> str:
    return datetime.now().astimezone().strftime("%d %B %Y, %H:%M %Z").lstrip("0")


def _check_table(table: Table) -> None:
    columns, rows = table
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(
                f"write(table=...): the row {list(row)} has {len(row)} cells for {len(columns)} columns. Give one each."
            )
