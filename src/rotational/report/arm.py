"""One arm on the page: its verdicts, charts over all layers, the table of layers, one layer in detail."""

from __future__ import annotations

import math

import numpy as np

from rotational import expected
from rotational.report import bins, text
from rotational.report.charts import Arm, LayerRow
from rotational.report.parts import escape, figure, pill, ran, scroll, verdicts
from rotational.report.verdict import WITHIN

SPARK = 4.0
"""A sparkline runs from 1/SPARK to SPARK times the prediction."""

RELATIVE = '<button class="switch relative" aria-pressed="false">relative to the start</button>'
HEAD = "".join(
    f"<th{' class=n' if figures else ''}>{name}{f'<small>{unit}</small>' if unit else ''}</th>"
    for name, unit, figures in (
        ("layer", "", False),
        ("verdict", "", False),
        ("over time", "measured / predicted", False),
        ("measured", "rad per step", True),
        ("predicted", "rad per step", True),
        ("ratio", "", True),
        ("spread", "p95/p5", True),
        ("norm", "now", True),
        ("in words", "", False),
    )
)


def section(a: Arm, index: int, *, tabbed: bool) -> str:
    """All of one arm; `tabbed` where tabs choose between arms, of which the first is open."""
    role = f' role="tabpanel" aria-labelledby="tab-{index}"' if tabbed else ""
    start = f'<section class="arm{" tabbed" if tabbed else ""}" id="arm-{index}"{role}{" hidden" if index else ""}>'
    name = escape(a.name)
    if not a.rows:
        return f"{start}\n<h2>{name}: nothing was logged</h2>\n<p>{text.NOTHING_LOGGED}</p>\n{ran(a)}</section>"
    rules = ", ".join(dict.fromkeys(expected.rule_name(r) for r in a.run.rules))
    neurons = sum(r.layer.neurons for r in a.rows)
    options = "".join(f'<option value="{escape(r.layer.name)}">{escape(r.layer.name)}</option>' for r in a.rows)
    return f"""{start}
<h2>{f"{name}: every" if tabbed else "Every"} layer</h2>
<p class="soft">{escape(a.run.optimizer)}, rule {escape(rules)}. {len(a.rows)} layers with {neurons:,} neurons,
{a.steps:,} steps, {"each" if a.run.every == 1 else f"one in {a.run.every}"} logged.</p>
{verdicts([r.verdict.word for r in a.rows])}
{"".join(f"<p>{escape(note)}</p>" for note in dict.fromkeys(n for r in a.rows for n in r.notes))}
<div class="pair">
{figure("layers")}{figure("norms", RELATIVE)}</div>
{_table(a)}
<div class="tools"><h2>One layer</h2><button data-by="-1" aria-label="previous layer">←</button>
<select aria-label="Layer">{options}</select><button data-by="1" aria-label="next layer">→</button></div>
<p class="says"><span class="pill"></span> <span class="why"></span></p>
<div class="pair">
{figure("rotation")}{figure("norm")}</div>
{figure("strip", kind="strip")}
{ran(a)}
</section>"""


def number(x: float | None) -> str:
    """Three significant digits; a dash for what is not known.

    >>> number(0.01), number(7.26e-5), number(1.0), number(None)
    ('0.0100', '7.26e-05', '1.00', '—')
    """
    if x is None or math.isnan(x):
        return "—"
    return "∞" if math.isinf(x) else f"{x:#.3g}" if x < 100 else f"{x:,.0f}"


def _table(a: Arm) -> str:
    rows = "".join(_row(r) for r in a.rows)
    silent = [layer.name for layer in a.run.layers if layer.name not in {r.layer.name for r in a.rows}]
    note = (
        f"<p class=soft>Watched, but without a measurement in this log: {escape(', '.join(silent))}.</p>"
        if silent
        else ""
    )
    table = f"<table class=layers><thead><tr>{HEAD}</tr></thead><tbody>\n{rows}</tbody></table>"
    return scroll(f"Layers of {a.name}", table) + note


def _row(r: LayerRow) -> str:
    v, layer = r.verdict, r.layer
    # Why nothing is predicted is the same for whole groups of layers, and stands above the table.
    words = "" if v.word == "no prediction" else escape(v.sentence)
    figures = "".join(f"<td class=n>{number(x)}</td>" for x in (v.ratio, r.spread, r.norm))
    return (
        f'<tr data-layer="{escape(layer.name)}"><th scope="row"><button class="pick name">{escape(layer.name)}</button>'
        f"<small>{layer.neurons:,} &times; {layer.size:,} {escape(layer.module)}</small></th>"
        f"<td>{pill(v.word)}</td><td>{_spark(r)}</td>{_angle(v.measured)}{_angle(v.predicted)}{figures}"
        f"<td class=why>{words}</td></tr>\n"
    )


def _angle(x: float | None) -> str:
    degrees = "" if x is None or not math.isfinite(x) else f' title="{math.degrees(x):.3g}° per step"'
    return f"<td class=n{degrees}>{number(x)}</td>"


def _spark(r: LayerRow) -> str:
    """Measured over predicted as a small drawing on a log scale; a dash where nothing is predicted."""
    width, middle, reach = 104, 15, 14
    hoped = np.asarray(r.curves["expected"])
    y = np.asarray(r.curves["rotation"]) / np.where(hoped > 0, hoped, math.nan)
    x = np.asarray(r.curves["step"], dtype=np.float64)
    good = np.flatnonzero(np.isfinite(y) & (y > 0))
    if len(good) < 2:
        return '<span class="soft">—</span>'
    good = good[bins.pick(len(good), 60)]
    across = (x[good] - x[good[0]]) / (x[good[-1]] - x[good[0]]) * width
    down = middle - reach * np.clip(np.log(y[good]) / math.log(SPARK), -1, 1)
    points = " ".join(f"{u:.1f},{v:.1f}" for u, v in zip(across, down, strict=True))
    half = reach * math.log(WITHIN) / math.log(SPARK)
    return (
        f'<svg class="spark" viewBox="0 0 {width} {2 * middle}" aria-hidden="true">'
        f'<rect class="zone" x="0" y="{middle - half:.1f}" width="{width}" height="{2 * half:.1f}"/>'
        f'<line class="one" x1="0" y1="{middle}" x2="{width}" y2="{middle}"/>'
        f'<polyline class="line" points="{points}"/></svg>'
    )
