"""A forecast as a picture, and a plan as one HTML page that works offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.colors import qualitative, sample_colorscale
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from rotational.records import versions
from rotational.report import parts
from rotational.report.document import document, place, put

if TYPE_CHECKING:
    from rotational.outlook import Forecast

POINTS = 1500
"""Points of a curve, at most."""
DECADES = 3.2
"""The rotation panel shows so much below its highest: the last steps of a cosine would take all the room."""
MEASURED, EXPECTED = "#0b6aad", "#c04f00"
"""--measured and --expected of page.css, for figures that stand alone; on the page, THEME reads them from there."""
SEVERAL, SAFE = 10, qualitative.Safe
"""Neurons that have an entry in the legend each, and their colours."""
COLOURS = {"Warning": "bad", "Suggestion": "good"}
LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}

STYLE = """
.said { padding: 0; list-style: none; max-width: 84ch; } .said li { margin: .55rem 0; }
.said span { font-weight: 600; margin-right: .3em; } .good { color: var(--good); } .bad { color: var(--bad); }
"""
THEME = """
const theme = () => {
  const style = getComputedStyle(document.documentElement), v = (name) => style.getPropertyValue(name).trim();
  const axis = (a) =>
    ({[`${a}.gridcolor`]: v("--grid"), [`${a}.linecolor`]: v("--line"), [`${a}.zerolinecolor`]: v("--line")});
  for (const plot of document.querySelectorAll(".js-plotly-plot")) Plotly.update(plot,
    {"line.color": plot.data.map((trace) => trace.meta || v(trace.line.dash ? "--expected" : "--measured"))},
    {"font.color": v("--ink"), ...axis("xaxis"), ...axis("xaxis2"), ...axis("yaxis"), ...axis("yaxis2")});
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", theme);
theme();
"""


class Section(NamedTuple):
    """A further table of a page, under its heading, and what explains it."""

    heading: str
    table: parts.Table
    sentences: Sequence[str]


def figure(forecast: Forecast, *, title: str | None = None) -> Any:
    """A Plotly figure: rotation beside the static formula, and the norm beside that of its equilibrium.

    Where the norm has no units, its panel shows how near it is to equilibrium, the smaller of their ratio and its
    inverse; a norm begins at step 0, where it is initial. G neurons have a colour each: up to ten one of a palette that
    the colour-blind can tell apart, more a place on a scale from the first to the last. Curves are thinned, less so at
    the start, where they bend.

    >>> from rotational import forecast, rules
    >>> drawn = figure(forecast(rules.sgd(), lr=0.1, weight_decay=1e-2, steps=9000))
    >>> [trace.name for trace in drawn.data], len(drawn.data[0].x) <= 1500
    (['rotation', 'static formula', 'norm', 'equilibrium norm'], True)
    """
    fig = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08, row_heights=[0.6, 0.4])
    count = 1 if forecast.rotation.ndim == 1 else forecast.rotation.shape[1]
    at = _chosen(len(forecast.step), POINTS - 1)
    known = forecast.norm is not None and forecast.static_norm is not None
    names = forecast.names or [f"neuron {i}" for i in range(count)]
    colours = SAFE if count <= SEVERAL else sample_colorscale("Viridis", list(np.linspace(0, 0.95, count)))
    for i in range(count):
        one = forecast.neuron(i)
        norm = one.reached if one.norm is None else one.norm
        rest = np.ones(len(norm)) if one.static_norm is None else one.static_norm
        for y, name, row in (
            (one.rotation, "rotation", 1),
            (one.static, "static formula", 1),
            (norm, "norm", 2),
            (rest, "equilibrium norm", 2),
        ):
            dashed = name in ("static formula", "equilibrium norm")
            x, y = one.step[at], np.broadcast_to(y, forecast.step.shape)[at]
            if name == "norm" and known and one.initial is not None:
                x, y = np.concatenate(([0], x)), np.concatenate(([one.initial], y))
            colour = colours[i] if count > 1 else EXPECTED if dashed else MEASURED
            trace = go.Scatter(
                x=x,
                y=np.where(np.isfinite(y) & (y > 0), y, np.nan),
                name=f"{names[i]}: {name}" if count > 1 else name,
                mode="lines",
                line={"color": colour, "width": 2} | ({"dash": "dash"} if dashed else {}),
                meta=colour if count > 1 else None,  # which no theme changes
                legendgroup=names[i] if count > 1 else name,
                showlegend=count == 1 or (row == 1 and count <= SEVERAL),
                hovertemplate="%{y:.3g}",
                hoverlabel={"namelength": -1},
            )
            fig.add_trace(trace, row=row, col=1)
    turning = np.concatenate([forecast.rotation.ravel(), forecast.static.ravel()])
    turning = turning[np.isfinite(turning) & (turning > 0)]
    if turning.size:
        low, top = np.log10(turning.min()), np.log10(turning.max())
        fig.update_yaxes(range=[max(low, top - DECADES) - 0.1, top + 0.15], row=1, col=1)
    fig.update_yaxes(type="log", dtick=1, title_text="rotation, rad/step", exponentformat="power", row=1, col=1)
    fig.update_yaxes(title_text="norm" if known else "share of equilibrium", rangemode="tozero", row=2, col=1)
    fig.update_xaxes(title_text="step", row=2, col=1)
    fig.update_layout(
        title=title,
        template="plotly_white",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"size": 13},
        hovermode="x unified",
        margin={"l": 60, "r": 12, "t": 90 if title else 48, "b": 44},
        legend=LEGEND if count == 1 else {},
        height=480,
    )
    return fig


def _chosen(length: int, limit: int) -> np.ndarray:
    """At most `limit` indices: most evenly spaced, the others denser and denser towards the start."""
    if length <= limit:
        return np.arange(length)
    early = limit // 5
    even = np.linspace(0, length - 1, limit - early)
    return np.unique(np.concatenate([even, np.geomspace(1, length, early) - 1]).astype(int))


def write(
    path: str | Path,
    title: str,
    described: str,
    figures: Sequence[Any],
    table: parts.Table,
    sentences: Sequence[tuple[str, str]],
    *,
    legend: str = "",
    more: Sequence[Section] = (),
) -> Path:
    """Write a plan as one file, whole or not at all: what was asked, what to know, a table, and a figure of each kind.

    A figure's title becomes a heading of the page, where a narrow screen breaks it instead of cutting it off.
    `sentences` are pairs (Warning, Suggestion or Note; sentence), `legend` explains the table's columns, and `more` are
    further tables. Raises OSError with a sentence for a path that no file can have.
    """
    call = f"plan(html={str(path)!r})"
    at = place(call, path, "plan.html")
    return put(call, at, _page(title, described, figures, table, sentences, legend, more))


def _page(
    title: str,
    described: str,
    figures: Sequence[Any],
    table: parts.Table,
    sentences: Sequence[tuple[str, str]],
    legend: str,
    more: Sequence[Section],
) -> str:
    said = "".join(
        f'<li><span class="{COLOURS.get(kind, "soft")}">{parts.escape(kind)}</span> {parts.escape(text)}</li>'
        for kind, text in sentences
    )
    drawn = "".join(_drawn(fig, i) for i, fig in enumerate(figures))
    body = f"""<header><h1>{parts.escape(title)}</h1><p class="lead">{parts.escape(described)}</p></header>
<main>
<h2>What to know</h2>
<ul class="said">{said or "<li>Nothing to warn of.</li>"}</ul>
<h2>Neurons</h2>
{parts.summary(table)}
<p class="meta">{parts.escape(legend)}</p>
{"".join(map(_section, more))}
<script>{get_plotlyjs()}</script>
{drawn}
</main>
{parts.footer(versions()["rotational"])}
<script>{THEME}</script>"""
    return document(title, body, STYLE)


def _section(section: Section) -> str:
    said = "".join(f'<p class="meta">{parts.escape(sentence)}</p>\n' for sentence in section.sentences)
    return f"<h2>{parts.escape(section.heading)}</h2>\n{parts.summary(section.table)}\n{said}"


def _drawn(fig: Any, index: int) -> str:
    shown: Any = go.Figure(fig)
    heading = shown.layout.title.text or ""
    shown.update_layout(title=None, margin={"t": 48})
    div = shown.to_html(
        full_html=False,
        include_plotlyjs=False,
        config={"displayModeBar": False, "responsive": True},
        div_id=f"kind-{index}",
    )
    return f'<figure class="card"><h3>{parts.escape(heading)}</h3>{div}</figure>\n'
