"""What the charts and the table of a report show: plain data, gathered from one log.

A curve longer than `POINTS` is averaged (RMS) over neighbouring logged steps, so that a page stays small however
long the run was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rotational import expected
from rotational.expected import Expected
from rotational.records import Layer, Records, Run, Series
from rotational.report import bins, strip, verdict
from rotational.report.verdict import History, Verdict

Array = np.ndarray[Any, Any]
POINTS = 400
"""Points of a curve, at most."""


@dataclass(frozen=True)
class LayerRow:
    """One layer: its verdict and numbers for the table, its curves for the charts."""

    layer: Layer
    verdict: Verdict
    spread: float | None
    norm: float
    notes: tuple[str, ...]
    curves: Mapping[str, Any]


@dataclass(frozen=True)
class Arm:
    """One log, read and judged. `overview` is the RMS over all neurons that weight decay acts on."""

    name: str
    run: Run
    rows: tuple[LayerRow, ...]
    overview: Mapping[str, Any]
    losses: Mapping[str, list[list[float]]]
    steps: int


def gather(records: Records, name: str) -> Arm:
    """Everything that the page shows of one log."""
    run = records.run
    series = [records.series(layer.name) for layer in records.layers]
    hopes = expected.of(run, series)
    curves = records.curves
    losses = {key: _pairs(*curves[key]) for key in ("loss", "val_loss") if key in curves}
    return Arm(
        name=name,
        run=run,
        rows=tuple(_row(run, s, e) for s, e in zip(series, hopes, strict=True)),
        overview=_overview(series, hopes),
        losses=losses,
        steps=max((int(s.step[-1]) for s in series), default=0),
    )


def _row(run: Run, s: Series, e: Expected) -> LayerRow:
    judged = verdict.judge(
        History(
            step=s.step,
            measured=s.rotation_rms,
            predicted=e.rotation,
            held=e.held,
            static=e.static if e.forecast else None,
            half_life=e.half_life,
            lr=s.lr,
            weight_decay=s.weight_decay,
            every=run.every,
            reason=e.reason,
        )
    )
    borders = bins.edges(len(s.step), POINTS)
    norms = np.quantile(s.norm, (0.05, 0.95), axis=1) if s.norm.shape[1] else np.full((2, len(s.step)), math.nan)
    curves = {
        "step": bins.last(s.step, borders),
        "rotation": bins.rms(s.rotation_rms, borders),
        "low": bins.rms(s.quantiles[:, 0], borders),
        "high": bins.rms(s.quantiles[:, -1], borders),
        "expected": bins.rms(e.rotation, borders),
        "norm": bins.rms(s.norm_rms, borders),
        "normLow": bins.rms(norms[0], borders),
        "normHigh": bins.rms(norms[1], borders),
        "normExpected": bins.rms(e.norm, borders),
        # At rest, where that is another line than the prediction.
        "static": bins.rms(e.static, borders) if e.forecast else [],
        "normStatic": bins.rms(e.static_norm, borders) if e.forecast else [],
        "held": bool(e.held.any()),
        "strip": strip.of(s, e),
    }
    return LayerRow(s.layer, judged, verdict.spread(s.rotation), float(s.norm_rms[-1]), _notes(s, e, judged), curves)


def _notes(s: Series, e: Expected, judged: Verdict) -> tuple[str, ...]:
    """What a reader of this layer's charts has to know."""
    together = math.ceil(len(s.step) / POINTS)
    notes = {
        judged.sentence: judged.word == "no prediction",
        e.instead: bool(e.instead) and bool(np.isfinite(e.rotation).any()),
        f"The log is long: each point of a curve is the RMS of up to {together} logged steps.": together > 1,
    }
    return tuple(note for note, holds in notes.items() if holds)


def _overview(series: Sequence[Series], hopes: Sequence[Expected]) -> dict[str, Any]:
    """RMS over all neurons, at each step: measured, and expected where all of them have a prediction.

    Layers that neither decay nor are held cannot be compared with anything and would blur the mean, so they
    are left out wherever there are others.
    """
    pairs = [(s, e) for s, e in zip(series, hopes, strict=True) if s.weight_decay.any() or e.held.any()]
    pairs = pairs or list(zip(series, hopes, strict=True))
    if not pairs:
        return {"step": [], "rotation": [], "expected": []}
    steps = np.unique(np.concatenate([s.step for s, _ in pairs]))
    weight, measured, hoped = (np.zeros(len(steps)) for _ in range(3))
    for s, e in pairs:
        at = np.searchsorted(steps, s.step)
        weight[at] += s.layer.neurons
        measured[at] += s.layer.neurons * np.square(s.rotation_rms)
        hoped[at] += s.layer.neurons * np.square(e.rotation)
    if len(steps) > 1 and weight[-1] < weight[-2]:  # a kill cut the last step short: it holds some layers only
        steps, weight, measured, hoped = steps[:-1], weight[:-1], measured[:-1], hoped[:-1]
    borders = bins.edges(len(steps), POINTS)
    return {
        "step": bins.last(steps, borders),
        "rotation": bins.rms(np.sqrt(measured / weight), borders),
        "expected": bins.rms(np.sqrt(hoped / weight), borders),
    }


def _pairs(steps: np.ndarray, values: np.ndarray) -> list[list[float]]:
    """A curve as [[step, value], ...], averaged over so many steps that few points are left."""
    borders = bins.edges(len(values), POINTS)
    means = [float(part.mean()) for part in np.split(values, borders[1:-1])]
    return [[float(t), y] for t, y in zip(bins.last(steps.astype(np.float64), borders), means, strict=True)]
