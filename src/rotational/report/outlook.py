"""A forecast as a picture, and a plan as one HTML page that works offline."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rotational.report import page, parts

if TYPE_CHECKING:
    from rotational.outlook import Forecast

POINTS = 1500
"""Points of a curve, at most."""
TURN, STATIC, NORM = "#2563eb", "#94a3b8", "#d97706"


def figure(forecast: Forecast, *, title: str | None = None) -> Any:
    """A Plotly figure: rotation beside the static formula, and the norm beside that of its equilibrium.

    Without units for the norm, the lower panel shows how near it is to equilibrium.
    """
    at = np.unique(np.linspace(0, len(forecast.step) - 1, POINTS).astype(int))
    fig = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08, row_heights=[0.6, 0.4])

    def line(y: np.ndarray, name: str, color: str, row: int, dash: str | None = None) -> None:
        y = np.where(np.isfinite(y) & (y > 0), y, np.nan)[at]
        style = {"color": color, "width": 2, "dash": dash} if dash else {"color": color, "width": 2}
        fig.add_trace(go.Scatter(x=forecast.step[at], y=y, name=name, mode="lines", line=style), row=row, col=1)

    line(forecast.rotation, "rotation", TURN, 1)
    line(forecast.static, "static formula", STATIC, 1, "dash")
    if forecast.norm is None or forecast.static_norm is None:
        line(forecast.reached, "share of equilibrium", NORM, 2)
    else:
        line(forecast.norm, "norm", NORM, 2)
        line(forecast.static_norm, "equilibrium norm", STATIC, 2, "dash")
    top = float(np.nanmax(np.concatenate([forecast.rotation, forecast.static])))
    low = float(np.nanmin(np.where(forecast.rotation > 0, forecast.rotation, np.nan)))
    if top > 0:  # the last steps of a cosine turn by next to nothing, and would take all the room
        fig.update_yaxes(range=[max(np.log10(low), np.log10(top) - 3.2) - 0.1, np.log10(top) + 0.15], row=1, col=1)
    fig.update_yaxes(type="log", title_text="rad/step", exponentformat="power", row=1, col=1)
    fig.update_yaxes(
        title_text="norm" if forecast.norm is not None else "of equilibrium", rangemode="tozero", row=2, col=1
    )
    fig.update_xaxes(title_text="step", row=2, col=1)
    fig.update_layout(
        title=title,
        template="plotly_white",
        margin={"l": 60, "r": 16, "t": 84 if title else 48, "b": 44},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        height=480,
    )
    return fig


def write(
    path: str | Path,
    title: str,
    described: str,
    figures: Sequence[Any],
    table: tuple[Sequence[str], Sequence[Sequence[str]]],
    sentences: Sequence[tuple[str, str]],
) -> Path:
    """Write a plan as one file, whole or not at all: what was asked, what to know, a table, and a figure of each kind.

    Raises FileNotFoundError or IsADirectoryError for a path that no file can have.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"plan(html={str(path)!r}): this is a folder. Give a file in it, such as plan.html.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"plan(html={str(path)!r}): the folder {path.parent} does not exist. Create it first.")
    css = resources.files("rotational.report").joinpath("page.css").read_text(encoding="utf-8")
    columns, rows = table
    head = "".join(f"<th>{parts.escape(c)}</th>" for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{parts.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    said = "".join(f"<li><b>{parts.escape(kind)}:</b> {parts.escape(text)}</li>" for kind, text in sentences)
    drawn = "".join(
        fig.to_html(
            full_html=False,
            include_plotlyjs="inline" if i == 0 else False,
            config={"displayModeBar": False, "responsive": True},
        )
        for i, fig in enumerate(figures)
    )
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{page.POLICY}"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><title>{parts.escape(title)}</title><style>{css}\n'
        "main{max-width:1100px;margin:0 auto;padding:16px}li{margin:.4em 0}</style></head><body><main>"
        f"<h1>{parts.escape(title)}</h1><p>{parts.escape(described)}</p><ul>{said}</ul>"
        + parts.scroll("Kinds of neurons", f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
        + f"{drawn}</main></body></html>"
    )
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path
