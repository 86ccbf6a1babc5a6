"""A stored result as measures: what `measures` names, from what `results` keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from rotational.lab import results
from rotational.lab.declare import Run
from rotational.lab.measures import Curve, Measured
from rotational.lab.named import declared
from rotational.lab.results import DATA, LayerResult, Result
from rotational.theory import rate

SECOND_HALF, PEAK = 0.5, 0.5
"""Norms drift over the second half of a run; rotation peaks in its first half."""


def read(result: Result) -> Measured:
    """All scalars and curves of a result."""
    scalars = {
        **_metrics(result),
        "seconds per step": result.seconds / max(1, result.steps),
        **_rotation(result),
        **_at_rest(result),
        **_aligned(result),
    }
    curves = _curves(result)
    return Measured(
        run=result.run,
        scalars={**scalars, **_along(result.run, curves)},
        curves={**curves, **_layer_curves(result)},
        layers=tuple(layer.name for layer in result.layers),
        seconds=result.seconds,
        data=result.versions.get(DATA, ""),
    )


def inner(layers: Sequence[LayerResult]) -> list[LayerResult]:
    """The layers that normalisation follows, as the theory takes them: all but embeddings and the head.

    Rows of an embedding get a gradient when their token is there, and nothing normalises what the head gives.
    """
    return [x for x in layers if "Embedding" not in x.module and not x.name.startswith("head.") and x.rotation > 0]


def _metrics(result: Result) -> dict[str, float]:
    found = dict(result.metrics.get("test", {}))
    found |= {f"validation {name}": value for name, value in result.metrics.get("validation", {}).items()}
    if (loss := result.curves.get("loss")) is not None and len(loss.value):
        found["training loss"] = float(np.mean(loss.value[-max(1, len(loss.value) // 10) :]))
    return found


def _rotation(result: Result) -> dict[str, float]:
    layers = inner(result.layers)
    if not layers:
        return {}
    weights = np.array([x.neurons for x in layers], dtype=np.float64)
    rotation = np.array([x.rotation for x in layers])
    predicted = np.array([x.predicted for x in layers])
    norm = np.array([x.norm for x in layers])
    total, told = (math.sqrt(float(np.average(v**2, weights=weights))) for v in (rotation, predicted))
    spread = float(np.median([x.spread for x in layers]))
    return {
        "rotation": total,
        "predicted": told,
        "ratio": total / told if told else math.nan,
        "off": 100 * float(np.max(np.abs(rotation / predicted - 1))) if told else math.nan,
        "layer spread": float(rotation.max() / rotation.min()),
        "norm spread": float(norm.max() / norm.min()),
        "neuron spread": spread,
        "neuron imbalance": spread - 1,
        "norm": math.sqrt(float(np.average(norm**2, weights=weights))),
    }


def _at_rest(result: Result) -> dict[str, float]:
    """Rotation of the median layer over the formula, and over that with the layer's own radial part k as extra decay.

    sqrt((wd + k)/wd) times the formula; NaN where k outweighs the decay, and nothing is at rest. Where norms change,
    at the rate r of ln|w| per step, what turns neurons also lengthens them: r/(lr/(1 - momentum)) stands beside wd + k.
    """
    static = _static(result.run, 0.75 * result.run.steps)
    decay = result.run.optimizer.weight_decay
    layers = inner(result.layers)
    if not layers or not static > 0:
        return {}
    found = {"ratio at rest": float(np.median([x.rotation for x in layers])) / static}
    radial, moving = list[float](), list[float]()
    for x in layers:
        k, r = (result.probes.get(f"{name}/{x.name}") for name in ("radial/decay", "norms/rate"))
        if k is not None:
            extra = _late(k)
            radial.append(_over(x.rotation, static, 1 + extra / decay))
            if r is not None:
                moving.append(_over(x.rotation, static, 1 + (extra + _late(r) / _stride(result.run)) / decay))
    told = {"ratio radial": radial, "ratio moving": moving}
    return found | {name: float(np.median(ratios)) for name, ratios in told.items() if ratios}


def _over(rotation: float, static: float, share: float) -> float:
    return rotation / (static * math.sqrt(share)) if share > 0 else math.nan


def _stride(run: Run) -> float:
    """By how much one step with a gradient moves weights in all, over the gradient: what wd is multiplied with."""
    o = run.optimizer
    lr = o.lr * run.schedule.multiple(int(0.75 * run.steps), run.steps)
    return lr / (1 - o.momentum) if o.rule == "sgd" else lr


def _aligned(result: Result) -> dict[str, float]:
    """What the probe "alignment" measured in the last quarter, RMS over the normalised layers."""
    found: dict[str, list[float]] = {}
    names = {x.name for x in inner(result.layers)}
    for name, curve in result.probes.items():
        kind, quantity, layer = name.split("/", 2) if name.count("/") > 1 else ("", name, "")
        if kind == "alignment" and layer in names:
            found.setdefault(quantity, []).append(_late(curve))
    return {quantity: float(np.sqrt(np.mean(np.square(values)))) for quantity, values in found.items()}


def _late(curve: results.Curve) -> float:
    """Mean over the last quarter."""
    return float(np.mean(curve.value[curve.step > results.LATE * curve.step[-1]]))


def _curves(result: Result) -> dict[str, Curve]:
    found = {_name(k): _pair(c) for k, c in result.curves.items()}
    if result.rotation is not None:
        step = [float(t) for t in result.rotation.step]
        found["rotation"] = step, [float(v) for v in result.rotation.measured]
        found["predicted"] = step, [float(v) for v in result.rotation.predicted]
        found["at rest"] = step, [_static(result.run, t) for t in step]
    if result.layers:
        weights = [x.neurons for x in result.layers]
        rows = np.stack([x.curves["norm"].value for x in result.layers])
        together = np.sqrt(np.average(np.square(rows), axis=0, weights=weights))
        found["norm"] = [float(t) for t in result.layers[0].curves["norm"].step], [float(v) for v in together]
    return found


def _layer_curves(result: Result) -> dict[str, Curve]:
    """Of each layer under "what: layer", what its probes measured too."""
    found = {f"{kind}: {x.name}": _pair(c) for x in result.layers for kind, c in x.curves.items()}
    for name, curve in result.probes.items():
        _, quantity, layer = name.split("/", 2) if name.count("/") > 1 else ("", name, "")
        found[f"{quantity}: {layer}"] = _pair(curve)
    return found


def _along(run: Run, curves: Mapping[str, Curve]) -> dict[str, float]:
    """What the course of rotation and norm says: overshoot, lag behind the formula, drift."""
    found: dict[str, float] = {}
    if "norm" in curves:
        step, norm = (np.array(v) for v in curves["norm"])
        late = norm[step >= SECOND_HALF * run.steps]
        if len(late):
            found["norm drift"] = float(late.max() / late.min())
            found["norm travel"] = found["norm drift"] - 1
    if "rotation" in curves:
        step, rotation = (np.array(v) for v in curves["rotation"])
        static, told = np.array(curves["at rest"][1]), np.array(curves["predicted"][1])
        early = step <= PEAK * run.steps
        if early.any():
            # Over that at the full lr: a warm-up lowers what is at rest, too.
            found["overshoot"] = float(np.max(rotation[early])) / _full(run)
        for share in (0.75, 0.9):
            i = int(np.argmin(np.abs(step - share * run.steps)))
            found[f"lag at {share:.0%}"] = float(rotation[i] / static[i]) if static[i] else math.nan
            found[f"forecast at {share:.0%}"] = float(rotation[i] / told[i]) if told[i] else math.nan
    return found


def _static(run: Run, step: float) -> float:
    """The formula of equilibrium at the lr and weight decay of a step; NaN where the gradient decides."""
    o, multiple = run.optimizer, run.schedule.multiple(int(step), run.steps)
    return _full(run) * (multiple if o.decay == "adamc" else math.sqrt(multiple))


def _full(run: Run) -> float:
    """The same at the full lr; NaN, too, where one step takes the whole weight away, as at the corner of a grid."""
    o = run.optimizer
    if o.weight_decay == 0 or o.rule in ("adam", "muon") or o.lr * o.weight_decay >= 1:
        return math.nan
    return rate(declared(o), o.lr, o.weight_decay)


def _name(curve: str) -> str:
    return curve.replace("val_", "validation ")


def _pair(curve: results.Curve) -> Curve:
    return [float(t) for t in curve.step], [float(v) for v in curve.value]
