"""`rotational plan`: a run that has not begun, forecast, drawn in the terminal, and judged."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from rotational import shapes
from rotational.cli import kinds
from rotational.cli import options as shared
from rotational.cli.drawing import Console, drawn
from rotational.cli.options import Commands
from rotational.cli.planned import FINE, Plan, made
from rotational.outlook import AtBatchSize, BatchSizes, counted

COARSE = 2000
"""Values of a series that are written as JSON."""
_ASKED = (
    *("lr", "weight_decay", "steps", "schedule", "warmup", "min_lr", "milestones", "gamma"),
    *("decay_share", "batch_size", "noise_scale", "gradient_norm", "scale_sensitive", "bf16"),
)
LEGEND = (
    "norm (of a neuron), and norm at end; rotation in rad/step at its peak, 50% and 90% of the run; ratio: of rotation "
    "at 90% to the static formula; settles: step from which rotation stays within 10% of that formula for a twentieth "
    "of the run; transient: share of all steps, before that and after, in which it is more than 10% off."
)

OTHERS = "The same lr, weight decay and data at other batch sizes"


def add(commands: Commands) -> None:
    """Tell argparse of the command."""
    plan = commands.add_parser(
        "plan", help="forecast a run that has not begun: rotation and norm along its schedule, warnings, suggestions"
    )
    plan.set_defaults(run=run)
    shared.add(plan)
    plan.add_argument("--steps", type=shared.whole, required=True)
    plan.add_argument("--schedule", choices=shapes.SHAPES, default="constant", help="of lr (default constant)")
    plan.add_argument(
        "--warmup", type=shared.whole, default=0, metavar="STEPS", help="steps of linear warm-up (default 0)"
    )
    plan.add_argument("--min-lr", type=float, default=0.0, help="where a falling schedule ends (default 0)")
    plan.add_argument("--decay-share", type=float, help="wsd: share of the run in which lr falls (default 0.2)")
    plan.add_argument(
        "--milestones",
        type=shared.whole,
        nargs="+",
        metavar="STEP",
        help="step: where lr falls, as in torch's MultiStepLR",
    )
    plan.add_argument("--gamma", type=float, help="step: what lr is multiplied by there (default 0.1)")
    plan.add_argument("--batch-size", type=shared.whole, help="to give the timescale in samples too")
    plan.add_argument(
        "--batch-sizes",
        type=shared.whole,
        nargs="+",
        metavar="B",
        help="others to compare (default: a quarter, four times)",
    )
    plan.add_argument(
        "--noise-scale",
        type=float,
        help="batch size at which a gradient is half mean, half noise: compares batch sizes",
    )
    plan.add_argument(
        "--fan-in", type=shared.whole, action="append", metavar="N", help="weights of a neuron; may be repeated"
    )
    plan.add_argument("--norm", type=float, help="initial length of a neuron (default: 0.577, that of torch.nn.Linear)")
    plan.add_argument(
        "--weights",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="safetensors or torch state dict (or all parts of one): real sizes and norms",
    )
    plan.add_argument("--gradient-norm", type=float, help="RMS norm of a neuron's gradient (at length 1)")
    plan.add_argument("--scale-sensitive", action="store_true", help="gradients do not shrink as weights grow")
    plan.add_argument("--bf16", action="store_true", help="the weights themselves are bfloat16")
    plan.add_argument("--json", action="store_true", help="print JSON")
    plan.add_argument("--html", type=Path, metavar="FILE", help="write the plan as a page")


def run(options: argparse.Namespace) -> int:
    """Print the plan (or its JSON), write its page if one is asked for; returns the exit code."""
    rule = shared.rule(options)
    with shared.named():
        plan = made(options, rule)
        if options.html is not None:  # before anything is printed: a page that cannot be written is all there is
            _page(plan)
    if options.json:
        print(json.dumps(as_json(plan), indent=2, allow_nan=False))
        return 0
    console = Console()
    console.print(f"[bold]{plan.rule.title}[/bold]  {described(plan)}\n")
    for line in drawn(plan.forecasts[0], min(console.width, 100), plan.kinds[0].name):
        console.print(line, markup=False, no_wrap=True)
    console.print()
    titles, rows = table(plan)
    shown = Table(box=None, pad_edge=False, padding=(0, 1), collapse_padding=True, header_style="bold")
    for i, title in enumerate(titles):
        shown.add_column(title, justify="right" if i else "left", overflow="fold", no_wrap=i > 0)
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
    console.print(LEGEND, style="dim")
    console.print()
    if plan.batches is not None:
        _compared(console, plan.batches, plan.kinds[0].name)
    colours = {"Warning": "yellow", "Suggestion": "green", "Note": "cyan"}
    for kind, sentence in sentences(plan):
        console.print(Text.assemble((f"{kind}:", colours[kind]), " ", sentence))
    if not plan.advice:
        console.print("Nothing to warn of.")
    if options.html is not None:
        console.print(f"Page: {options.html}", markup=False, soft_wrap=True)
    return 0


def _compared(console: Console, batches: BatchSizes, name: str) -> None:
    titles, *rows = batches.table()
    shown = Table(box=None, pad_edge=False, padding=(0, 1), collapse_padding=True, header_style="bold")
    for title in titles:
        shown.add_column(title, justify="right", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    console.print(Text.assemble((OTHERS, "bold"), f" ({name})"))
    console.print(shown)
    console.print(batches.legend, style="dim")
    for sentence in batches.sentences():
        console.print(sentence, style="dim")
    console.print()


# To read --------------------------------------------------------------------------------------------------------


def described(plan: Plan) -> str:
    """What was asked, in one line."""
    o = plan.options
    words = [f"lr {o.lr:g}", f"weight decay {o.weight_decay:g}", counted(o.steps), o.schedule]
    if o.warmup:
        words.append(f"warm-up {o.warmup:,}")
    timescale = float(np.min(plan.forecasts[0].timescale))
    if math.isfinite(timescale) and np.any(plan.forecasts[0].static > 0):
        samples = f" = {timescale * o.batch_size:.3g} samples" if o.batch_size else ""
        words.append(f"updates are forgotten over {shared.told(timescale)}{samples}")
    return ", ".join(words)


def table(plan: Plan) -> tuple[list[str], list[list[str]]]:
    """Titles, and a row for each kind of neurons: its norm, its rotation (rad/step) at its peak and on the way, what
    part of the static one that is at 90% of the run, when it settles there, and the share of steps more than 10% off.
    """
    titles = ["neurons", "norm", "at end", "peak", "at 50%", "at 90%", "ratio", "settles", "transient"]
    rows: list[list[str]] = []
    for kind, f in zip(plan.kinds, plan.forecasts, strict=True):
        middle, late = (f.at(max(int(f.step[0]), int(f.step[-1] * part))) for part in (0.5, 0.9))
        ratio = late["rotation"] / late["static"] if late["static"] > 0 else math.nan
        at = f.settles
        rows.append(
            [
                kind.name,
                "?" if f.norm is None or kind.norm is None else f"{kind.norm:.3g}",
                "?" if f.norm is None else f"{f.norm[-1]:.3g}" if np.any(f.lr > 0) else f"{kind.norm:.3g}",
                *(_turn(x) for x in (float(np.max(f.rotation)), middle["rotation"], late["rotation"])),
                f"{ratio:.2f}" if math.isfinite(ratio) else "-",
                f"{at:,}" if at is not None else "never" if np.any(f.static > 0) else "-",
                f"{f.transient:.0%}" if np.any(f.static > 0) else "-",
            ]
        )
    return titles, rows


def _turn(x: float) -> str:
    return f"{x:.1e}".replace("e-0", "e-")


def sentences(plan: Plan) -> list[tuple[str, str]]:
    """Warnings, suggestions and notes, each with its kind; with the neurons they are about where not all are meant."""
    found: list[tuple[str, str]] = []
    for a, names in plan.advice:
        about = ""
        if len(plan.kinds) > 1 and a.numbers:
            if a.kind == "suggestion":
                about = " (for all, at worst)"
            elif len(names) == len(plan.kinds):
                about = f" (numbers of {names[0]}; for all)"
            else:
                about = f" (for {names[0]}{'; also for ' if names[1:] else ''}{', '.join(names[1:])})"
        found.append((a.kind.capitalize(), a.sentence + about))
    of_forecasts = [note for f in plan.forecasts for note in f.notes]
    notes = dict.fromkeys([*kinds.notes(plan.options, plan.rule, plan.chosen), *of_forecasts])
    return found + [("Note", note) for note in notes if not any(note == a.sentence for a, _ in plan.advice)]


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain data, series thinned; null stands for infinity and for what is not known."""
    o = plan.options
    every = max(1, o.steps // COARSE) // max(1, o.steps // FINE)
    return {
        "rule": plan.rule.as_dict(),
        **{k: getattr(o, k) for k in _ASKED if getattr(o, k) is not None},
        "kinds": [
            {
                "name": kind.name,
                "size": kind.size,
                "norm": kind.norm,
                "arrives": f.arrives,
                "settles": f.settles,
                "transient": f.transient,
                "series": {k: plain(x) for k, x in f.thinned(every).series().items()},
                "notes": list(f.notes),
            }
            for kind, f in zip(plan.kinds, plan.forecasts, strict=True)
        ],
        "advice": [
            {
                "kind": a.kind,
                "topic": a.topic,
                "of": list(names),
                "sentence": a.sentence,
                "numbers": {k: plain(v) for k, v in a.numbers.items()},
            }
            for a, names in plan.advice
        ],
        "notes": [sentence for kind, sentence in sentences(plan) if kind == "Note"],
        **({} if plan.batches is None else {"batch_sizes": [_of(row, plan.kinds[0].norm) for row in plan.batches]}),
    }


def _of(row: AtBatchSize, norm: float | None) -> dict[str, Any]:
    """A batch size as plain data."""
    end = None if norm is None or row.forecast.norm is None else float(row.forecast.norm[-1])
    found = {k: getattr(row, k) for k in ("batch_size", "steps", "drift", "gradient", "rest", "rotation", "timescale")}
    found |= {"timescale_samples": row.timescale * row.batch_size, "transient": row.transient, "norm": end}
    return {k: plain(x) for k, x in found.items()}


def plain(x: Any) -> Any:
    """Numbers as JSON has them: null stands for infinity and NaN."""
    if isinstance(x, np.ndarray):
        return [plain(v) for v in x.tolist()]
    return None if isinstance(x, float) and not math.isfinite(x) else x


def _page(plan: Plan) -> None:
    from rotational.report import outlook  # plotly takes a moment to load

    more: list[outlook.Section] = []
    if plan.batches is not None:
        titles, *rows = plan.batches.table()
        said = [plan.batches.legend, *plan.batches.sentences()]
        more.append(outlook.Section(f"{OTHERS} ({plan.kinds[0].name})", (titles, rows), said))
    outlook.write(
        plan.options.html,
        f"Plan of a run under {plan.rule.title}",
        described(plan),
        [outlook.figure(f, title=kind.name) for kind, f in zip(plan.kinds, plan.forecasts, strict=True)],
        table(plan),
        sentences(plan),
        legend=LEGEND,
        more=more,
    )
