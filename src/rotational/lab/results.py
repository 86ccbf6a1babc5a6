"""What one training run came to, small enough to stand in a repository: a few KB, whatever the run's length.

    loss curves     training loss, mean over windows; validation as often as it was taken
    rotation        of the whole model over time, RMS over neurons and over windows of the logged steps
    layers          the same of each layer, and its numbers over the last quarter of the run
    probes          what the run's probes measured, mean over windows

Everything is read from the log; nothing here needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from rotational import records
from rotational.lab import summary
from rotational.lab.declare import Run, plain
from rotational.records import Records

Array = np.ndarray[Any, Any]

POINTS, LAYER_POINTS = 60, 20
"""Points that are kept of a curve of the run as a whole, and of one layer's."""

LAWS = 1
"""Goes into every result: raised when the same log is predicted to turn otherwise than before, by more than 0.1%.

Results keep what was predicted when their run ended, because the log that it was predicted from is not kept. Those
without a number are older than the first.
"""

LATE = 0.75
"""The share of the run after which a layer's numbers are taken."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Values at steps, both [T]; a window of logged steps has one value, at its mean step."""

    step: Array
    value: Array


@dataclass(frozen=True, eq=False)
class Outline:
    """Rotation of the model over time, radians per step: each point is RMS over all neurons and its window.

    predicted   what the optimizer held, or the forecast along the run; NaN where neither is known
    spread      p95/p5 over neurons of each one's RMS rotation in the last quarter
    """

    step: Array
    measured: Array
    predicted: Array
    spread: float


@dataclass(frozen=True, eq=False)
class LayerResult:
    """One layer: neurons of `size` weights each.

    rotation, predicted, norm   RMS over its neurons and the last quarter of the run (radians per step; length)
    spread                      p95/p5 over its neurons of each one's RMS rotation there
    curves                      "rotation", "predicted" and "norm" over the run, thinned
    """

    name: str
    module: str
    neurons: int
    size: int
    rotation: float
    predicted: float
    norm: float
    spread: float
    curves: Mapping[str, Curve]


DATA = "data"
"""Among `versions`: which data the run had, see `data.identity`; results from before it was written down have none."""


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that shape a run, and of the laws that predict it."""
    return {**records.versions(), "laws": str(LAWS)}


@dataclass(frozen=True, eq=False)
class Result:
    """What came of a run.

    steps      taken: fewer than the run's where it diverged
    diverged   a loss or a weight was not finite; then losses are infinite and the score is the worst there is
    metrics    "validation" and "test", each a dict: "loss", and what else the task measures
    score      the metric by which runs are compared; `higher` whether more of it is better
    rotation   None where no step was logged; layers are then empty
    curves     "loss" of training, "val_loss", "val_accuracy" ...
    probes     "alignment/gradient_weight/blocks.0.up.weight" -> its curve; see `probes`
    """

    run: Run
    steps: int
    diverged: bool
    metrics: Mapping[str, Mapping[str, float]]
    score: str
    higher: bool
    seconds: float
    threads: int
    device: str
    rotation: Outline | None = None
    layers: tuple[LayerResult, ...] = ()
    curves: Mapping[str, Curve] = field(default_factory=dict[str, Curve])
    probes: Mapping[str, Curve] = field(default_factory=dict[str, Curve])
    versions: Mapping[str, str] = field(default_factory=versions)

    def scored(self, split: str = "test") -> float:
        """The score on "validation" or "test"."""
        return self.metrics[split][self.score]


def measured(log: str | Path) -> dict[str, Any]:
    """The fields of a `Result` that a log holds: rotation, layers, curves and probes.

    Raises what `Records` raises.
    """
    held = Records(log)
    lines = held.curves
    found: dict[str, Any] = {
        "curves": {k: _curve(*v, POINTS if k == "loss" else None) for k, v in lines.items() if "/" not in k},
        "probes": {k: _curve(*v, LAYER_POINTS) for k, v in lines.items() if "/" in k},
    }
    if layers := summary.layers(held):
        rotation = summary.together(layers)
        late = rotation.after(LATE * rotation.step[-1])
        step = _windows(rotation.step, POINTS)
        found["rotation"] = Outline(
            step=_means(rotation.step, step),
            measured=_rms(rotation.measured, step),
            predicted=_rms(rotation.predicted, step),
            spread=late.spread(),
        )
        found["layers"] = tuple(map(_layer, layers))
    return found


def _layer(x: summary.LayerRotation) -> LayerResult:
    late = x.step > LATE * x.step[-1]
    windows = _windows(x.step, LAYER_POINTS)
    step = _means(x.step, windows)
    series = {"rotation": x.rotation, "predicted": x.predicted, "norm": x.norm}
    numbers: dict[str, Any] = {k: float(_rms(v[late], [slice(None)])[0]) for k, v in series.items()}
    return LayerResult(
        name=x.layer.name,
        module=x.layer.module,
        neurons=x.layer.neurons,
        size=x.layer.size,
        spread=summary.spread(x.neurons[late]),
        curves={k: Curve(step, _rms(v, windows)) for k, v in series.items()},
        **numbers,
    )


# Thinning -----------------------------------------------------------------------------------------------------


def _windows(values: Array, points: int) -> list[slice]:
    """At most so many windows of consecutive values, as even as they can be."""
    cuts = np.linspace(0, len(values), min(points, len(values)) + 1).round().astype(int)
    return [slice(a, b) for a, b in pairwise(cuts.tolist())]


def _means(values: Array, windows: list[slice]) -> Array:
    return np.array([float(np.mean(values[w])) for w in windows])


def _rms(values: Array, windows: list[slice]) -> Array:
    return np.sqrt(_means(np.square(values), windows))


def _curve(step: Array, value: Array, points: int | None) -> Curve:
    windows = _windows(step, points or len(step))
    return Curve(_means(step, windows), _means(value, windows))


# As JSON ------------------------------------------------------------------------------------------------------


def to_json(result: Result) -> dict[str, Any]:
    """The result as plain data; four digits for curves, infinity as "inf", what is no number as None."""
    rotation = result.rotation
    return {
        "run": plain(result.run),
        **{k: getattr(result, k) for k in ("steps", "diverged", "score", "higher", "threads", "device")},
        "seconds": round(result.seconds, 2),
        "versions": dict(result.versions),
        "metrics": {split: {k: _number(v) for k, v in m.items()} for split, m in result.metrics.items()},
        "rotation": rotation
        and {
            **{k: _digits(getattr(rotation, k)) for k in ("step", "measured", "predicted")},
            "spread": _number(rotation.spread),
        },
        "layers": [_layer_to_json(x) for x in result.layers],
        "curves": _curves_to_json(result.curves),
        "probes": _curves_to_json(result.probes),
    }


def from_json(run: Run, data: Mapping[str, Any]) -> Result:
    """The result of a run from what `to_json` gave; raises KeyError, TypeError or ValueError for anything else."""
    rotation = data["rotation"]
    return Result(
        run=run,
        **{k: data[k] for k in ("steps", "diverged", "score", "higher", "seconds", "threads", "device", "versions")},
        metrics={split: {k: _float(v) for k, v in m.items()} for split, m in data["metrics"].items()},
        rotation=rotation
        and Outline(
            **{k: _array(rotation[k]) for k in ("step", "measured", "predicted")}, spread=_float(rotation["spread"])
        ),
        layers=tuple(_layer_from_json(x) for x in data["layers"]),
        curves=_curves_from_json(data["curves"]),
        probes=_curves_from_json(data["probes"]),
    )


_NUMBERS = ("rotation", "predicted", "norm", "spread")


def _layer_to_json(x: LayerResult) -> dict[str, Any]:
    step = next(iter(x.curves.values())).step
    return {
        **{k: getattr(x, k) for k in ("name", "module", "neurons", "size")},
        **{k: _number(getattr(x, k)) for k in _NUMBERS},
        "curves": {"step": _digits(step), **{k: _digits(c.value) for k, c in x.curves.items()}},
    }


def _layer_from_json(data: Mapping[str, Any]) -> LayerResult:
    curves = dict(data["curves"])
    step = _array(curves.pop("step"))
    fields: dict[str, Any] = {k: data[k] for k in ("name", "module", "neurons", "size")}
    fields.update({k: _float(data[k]) for k in _NUMBERS})
    return LayerResult(
        **fields,
        curves={k: Curve(step, _array(v)) for k, v in curves.items()},
    )


def _curves_to_json(curves: Mapping[str, Curve]) -> dict[str, Any]:
    return {k: {"step": _digits(c.step), "value": _digits(c.value)} for k, c in curves.items()}


def _curves_from_json(data: Mapping[str, Any]) -> dict[str, Curve]:
    return {k: Curve(_array(c["step"]), _array(c["value"])) for k, c in data.items()}


def _digits(values: Array) -> list[Any]:
    return [_number(_rounded(float(v))) for v in values]


def _rounded(value: float) -> float:
    # Steps keep their digits, for they are axes; 4 digits are finer than any difference between seeds.
    if not math.isfinite(value):
        return value
    return int(value) if value == int(value) else round(value, 1) if abs(value) >= 1e3 else float(f"{value:.4g}")


def _number(value: float) -> Any:
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _array(values: Any) -> Array:
    return np.array([_float(v) for v in values])
