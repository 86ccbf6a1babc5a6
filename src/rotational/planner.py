"""`rotational plan`: a run that has not begun, forecast, drawn in the terminal, and judged."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from rotational import shapes, weights
from rotational.advice import Advice, advise
from rotational.forecasts import forecast
from rotational.outlook import Forecast
from rotational.rule import Rule
from rotational.scale import Polar, Raw

LINEAR = 1 / math.sqrt(3)
"""RMS length of a row of torch.nn.Linear as it is initialised: uniform within 1/sqrt(fan-in)."""
KINDS = 8


@dataclass(frozen=True)
class Kind:
    """Neurons that are forecast as one."""

    name: str
    size: int
    norm: float
    shape: tuple[int, int] | None


def run(options: argparse.Namespace, rule: Rule) -> int:
    """Print the plan (or its JSON), write its page if one is asked for; returns the exit code."""
    kinds = _kinds(options, rule)
    lr = shapes.shape(
        options.schedule,
        options.lr,
        options.steps,
        warmup=options.warmup,
        min_lr=options.min_lr,
        cooldown=options.decay_share,
    )
    forecasts = [_forecast(options, rule, kind, lr) for kind in kinds]
    main = forecasts[0]
    bare = shapes.shape(
        options.schedule, options.lr, options.steps, min_lr=options.min_lr, cooldown=options.decay_share
    )
    found = advise(
        main,
        bf16=options.bf16,
        without_warmup=(lambda: _forecast(options, rule, kinds[0], bare)) if options.warmup else None,
        with_decay=lambda factor: _forecast(options, rule, kinds[0], lr, factor),
    )
    if options.html is not None:
        _page(options, rule, kinds, forecasts, found)
    if options.json:
        print(json.dumps(_as_json(options, rule, kinds, forecasts, found), indent=2))
        return 0
    console = Console(highlight=False)
    console.print(f"[bold]{rule.name}[/bold]  {_described(options)}")
    console.print()
    for line in drawn(main, min(console.width, 100), kinds[0].name):
        console.print(line, markup=False)
    console.print()
    console.print(_table(*_rows(kinds, forecasts)))
    for advice in found:
        mark = "[yellow]Warning[/yellow]" if advice.kind == "warning" else "[green]Suggestion[/green]"
        console.print(f"{mark}: {advice.sentence}")
    if not found:
        console.print("Nothing to warn of.")
    if options.html is not None:
        console.print(f"Page: {options.html}")
    return 0


def _kinds(options: argparse.Namespace, rule: Rule) -> list[Kind]:
    """What is forecast: the kinds of neurons in a file, or the fan-ins given."""
    muon = isinstance(rule.scale, Polar)
    if options.weights is not None:
        if options.fan_in or options.shape or options.norm is not None:
            raise ValueError(
                "plan(weights=...): sizes and norms come from the file; leave --fan-in, --norm, --shape out."
            )
        groups: dict[tuple[Any, ...], list[weights.Matrix]] = {}
        for m in weights.read(options.weights):
            key = (m.size, m.neurons if muon else 0, round(math.log(max(m.norm, 1e-6)) / 0.2))
            groups.setdefault(key, []).append(m)
        largest = sorted(groups.values(), key=lambda ms: -sum(m.neurons * m.size for m in ms))[:KINDS]
        return [
            Kind(
                ms[0].name + (f" and {len(ms) - 1} more" if len(ms) > 1 else ""),
                ms[0].size,
                max(1e-6, math.sqrt(float(np.average([m.norm**2 for m in ms], weights=[m.neurons for m in ms])))),
                (ms[0].neurons, ms[0].size) if muon else None,
            )
            for ms in largest
        ]
    norm = LINEAR if options.norm is None else options.norm
    if muon:
        if options.shape is None:
            raise ValueError(
                "plan(muon): the update depends on the matrix: give --shape ROWS COLUMNS, or --weights FILE."
            )
        rows, columns = options.shape
        return [Kind(f"matrix {rows} x {columns}", columns, norm, (rows, columns))]
    sizes = options.fan_in or [768]
    return [Kind(f"fan-in {size}", size, norm, None) for size in sizes]


def _forecast(options: argparse.Namespace, rule: Rule, kind: Kind, lr: np.ndarray, factor: float = 1.0) -> Forecast:
    gradient = options.gradient_norm
    unknown = isinstance(rule.scale, Raw) and gradient is None
    return forecast(
        rule,
        lr=lr,
        weight_decay=options.weight_decay * factor,
        steps=options.steps,
        norm=None if unknown else kind.norm,
        size=kind.size,
        gradient_norm=gradient,
        scale_invariant=not options.scale_sensitive,
        shape=kind.shape,
        every=max(1, options.steps // 2000),
    )


# To read --------------------------------------------------------------------------------------------------------


def _described(options: argparse.Namespace) -> str:
    words = [
        f"lr {options.lr:g}",
        f"weight decay {options.weight_decay:g}",
        f"{options.steps:,} steps",
        options.schedule,
    ]
    if options.warmup:
        words.append(f"warm-up {options.warmup:,}")
    if options.batch_size:
        samples = options.batch_size / max(options.lr * options.weight_decay, 1e-300)
        words.append(f"batch {options.batch_size:,}: 1/(lr*wd) is {samples:.3g} samples")
    return ", ".join(words)


def drawn(f: Forecast, width: int, name: str, height: int = 12) -> list[str]:
    """Rotation over the run as lines of text, on a log scale: o the forecast, - the static formula, * both.

    >>> from rotational import rules
    >>> f = forecast(rules.adamw(), lr=1e-2, weight_decay=0.1, steps=400, norm=0.3, size=64)
    >>> len(drawn(f, 60, "a layer", height=8))
    11
    """
    columns = max(20, width - 12)
    at = np.linspace(0, len(f.step) - 1, columns).astype(int)
    series = [np.where(x[at] > 0, x[at], np.nan) for x in (f.rotation, f.static)]
    finite = np.concatenate([x[np.isfinite(x)] for x in series])
    if not len(finite):
        return ["nothing rotates"]
    top = float(np.log10(finite.max()))
    low = max(float(np.log10(finite.min())), top - 3)
    span = max(top - low, 0.3)
    grid = [[" "] * columns for _ in range(height)]
    for mark, values in (("-", series[1]), ("o", series[0])):
        for column, value in enumerate(values.tolist()):
            if math.isfinite(value) and math.log10(value) >= low - 1e-9:
                row = height - 1 - round((math.log10(value) - low) / span * (height - 1))
                row = min(height - 1, max(0, row))
                grid[row][column] = "*" if grid[row][column] == "-" and mark == "o" else mark
    lines = [f"rotation of {name}, radians per step: o forecast, - static formula, * both"]
    for i, cells in enumerate(grid):
        value = 10 ** (low + span * (height - 1 - i) / (height - 1))
        label = f"{value:.1e}" if i % 3 == 0 or i == height - 1 else ""
        lines.append(f"{label:>8} |" + "".join(cells).rstrip())
    lines.append(" " * 9 + "+" + "-" * columns)
    end = f"{int(f.step[-1]):,} steps"
    lines.append(" " * 10 + "0" + end.rjust(columns - 1))
    return lines


def _rows(kinds: Sequence[Kind], forecasts: Sequence[Forecast]) -> tuple[list[str], list[list[str]]]:
    titles = ["neurons", "norm", "at end", "peak turn", "at 50%", "at 90%", "arrives", "transient"]
    rows: list[list[str]] = []
    for kind, f in zip(kinds, forecasts, strict=True):
        middle, late = (f.at(max(int(f.step[0]), int(f.step[-1] * part))) for part in (0.5, 0.9))
        arrives = f.arrives
        rows.append(
            [
                kind.name,
                f"{kind.norm:.3g}" if f.norm is not None else "unknown",
                f"{f.norm[-1]:.3g}" if f.norm is not None else "unknown",
                f"{float(np.max(f.rotation)):.2e}",
                f"{middle['rotation']:.2e}",
                f"{late['rotation']:.2e}",
                "never" if arrives is None else f"{arrives:,}",
                f"{f.transient:.0%}",
            ]
        )
    return titles, rows


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for i, title in enumerate(titles):
        table.add_column(title, justify="left" if i == 0 else "right", no_wrap=i == 0)
    for row in rows:
        table.add_row(*row)
    return table


def _as_json(
    options: argparse.Namespace,
    rule: Rule,
    kinds: Sequence[Kind],
    forecasts: Sequence[Forecast],
    found: Sequence[Advice],
) -> dict[str, Any]:
    def plain(x: Any) -> Any:
        if isinstance(x, np.ndarray):
            return [plain(v) for v in x.tolist()]
        return None if isinstance(x, float) and not math.isfinite(x) else x

    return {
        "rule": rule.as_dict(),
        "lr": options.lr,
        "weight_decay": options.weight_decay,
        "steps": options.steps,
        "schedule": options.schedule,
        "warmup": options.warmup,
        "kinds": [
            {
                "name": kind.name,
                "size": kind.size,
                "arrives": f.arrives,
                "transient": f.transient,
                "series": {k: plain(x) for k, x in f.series().items()},
                "notes": list(f.notes),
            }
            for kind, f in zip(kinds, forecasts, strict=True)
        ],
        "advice": [
            {
                "kind": a.kind,
                "topic": a.topic,
                "sentence": a.sentence,
                "numbers": {k: plain(v) for k, v in a.numbers.items()},
            }
            for a in found
        ],
    }


def _page(
    options: argparse.Namespace,
    rule: Rule,
    kinds: Sequence[Kind],
    forecasts: Sequence[Forecast],
    found: Sequence[Advice],
) -> None:
    from rotational.report import outlook  # plotly takes a moment to load

    outlook.write(
        options.html,
        f"Plan of a run under {rule.name}",
        _described(options),
        [outlook.figure(f, title=kind.name) for kind, f in zip(kinds, forecasts, strict=True)],
        _rows(kinds, forecasts),
        [(a.kind.capitalize(), a.sentence) for a in found],
    )
