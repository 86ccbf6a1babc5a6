"""Numbers and curves of a result, by name: all that panels draw and claims ask for.

    scalar    "accuracy", "rotation" ...: see `MEASURES`; "validation accuracy" is that on validation data
    curve     "loss", "rotation", "norm" ... over steps, and of one layer: "rotation: layer name"

Rotation is in radians per step, RMS over neurons, and at rest: over the last quarter of a run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from rotational.lab.declare import Computed, Run, plain
from rotational.lab.statistics import mean, total

Curve: TypeAlias = tuple[Sequence[float], Sequence[float]]
"""Steps, and the value at each."""


@dataclass(frozen=True)
class Measure:
    """How a scalar is called on an axis, and which end of it is the better one."""

    title: str
    better: Literal["high", "low"] | None = None


MEASURES: Mapping[str, Measure] = {
    "accuracy": Measure("test accuracy (%)", "high"),
    "loss": Measure("test loss", "low"),
    "perplexity": Measure("test perplexity", "low"),
    "bleu": Measure("test BLEU", "high"),
    "training loss": Measure("training loss at the end", "low"),
    "rotation": Measure("rotation (rad per step)"),
    "predicted": Measure("predicted rotation (rad per step)"),
    "ratio": Measure("measured over predicted rotation"),
    "off": Measure("measured against predicted rotation, worst layer (%)"),
    "layer spread": Measure("rotation, fastest over slowest layer"),
    "norm spread": Measure("norm, longest over shortest layer"),
    "neuron spread": Measure("rotation of neurons, p95 over p5, median layer"),
    "neuron imbalance": Measure("that, less 1: 0 where all turn alike"),
    "overshoot": Measure("peak of rotation over that at rest at the full lr"),
    "norm drift": Measure("norm, largest over smallest in the second half"),
    "norm travel": Measure("that, less 1"),
    "lag at 75%": Measure("rotation over the static formula at 75% of the run"),
    "lag at 90%": Measure("rotation over the static formula at 90% of the run"),
    "forecast at 75%": Measure("rotation over the forecast at 75% of the run"),
    "forecast at 90%": Measure("rotation over the forecast at 90% of the run"),
    "ratio at rest": Measure("rotation over the formula, median layer"),
    "ratio radial": Measure("rotation over the formula, median layer"),
    "ratio moving": Measure("rotation over the formula, median layer"),
    "gradient_weight": Measure("cosine of gradient and weights, RMS over layers"),
    "gradient_momentum": Measure("cosine of gradient and momentum, RMS over layers"),
    "second_moment": Measure("second moment, standard deviation over mean, RMS over layers"),
    "scaled_size": Measure("RMS of an entry of the scaled gradient, RMS over layers"),
    "scaled_weight": Measure("cosine of scaled gradient and weights, RMS over layers"),
    "seconds per step": Measure("seconds per step", "low"),
    "norm": Measure("norm"),
    "predicted norm": Measure("predicted norm"),
    "off paper": Measure("off what the paper prints (%)"),
    "timescale": Measure("1/(lr wd) (steps)"),
}
"""Every scalar by name."""


FIELDS = {
    "optimizer__lr": "learning rate",
    "optimizer__weight_decay": "weight decay",
    "optimizer__update_memory": "EMA factor of the update norm",
    "optimizer__imbalance__factor": "factor f",
    "optimizer__imbalance__slow": "share of the neurons that is slowed",
    "model__width": "width",
    "size": "weights of a neuron",
}
"""What a swept field is called."""


CURVES: Mapping[str, str] = {
    "loss": "training loss",
    "validation loss": "validation loss",
    "validation accuracy": "validation accuracy (%)",
    "rotation": "RMS rotation (rad per step)",
    "norm": "RMS norm of a weight vector",
    "rotation / rest": "rotation over that at rest",
    "norm / rest": "norm over that at rest",
    "gradient_weight": "cosine",
    "gradient_momentum": "cosine",
    "scaled_weight": "cosine",
    "second_moment": "standard deviation over mean",
    "scaled_size": "RMS of an entry",
    "predicted": "RMS rotation (rad per step)",
    "at rest": "RMS rotation (rad per step)",
    "predicted rotation / rest": "rotation over that at rest",
    "predicted norm / rest": "norm over that at rest",
}
"""What a curve over steps is called on an axis."""


def named(path: str) -> str:
    """What a field is called, on an axis or in a sentence.

    >>> named("optimizer__lr"), named("model__patch_size")
    ('learning rate', 'patch size')
    """
    return FIELDS.get(path, path.rpartition("__")[2].replace("_", " "))


@dataclass(frozen=True, eq=False)
class Measured:
    """What one run, or one computation, gave; `data` tells which data the run had, where that was written down."""

    run: Run | Computed
    scalars: Mapping[str, float]
    curves: Mapping[str, Curve] = field(default_factory=dict[str, Curve])
    layers: tuple[str, ...] = ()
    seconds: float = math.nan
    data: str = ""

    def scalar(self, name: str) -> float:
        """A scalar by name; NaN where this result has none."""
        return self.scalars.get(name, math.nan)


@dataclass(frozen=True, eq=False)
class Point:
    """One point of an arm: its run, with seed 0, and what each seed gave."""

    run: Run | Computed
    seeds: Mapping[int, Measured]

    def mean(self, name: str) -> float:
        """Mean of a scalar over seeds; NaN where one of them diverged."""
        values = [m.scalar(name) for m in self.seeds.values()]
        return total(values) / len(values) if values else math.nan


@dataclass(frozen=True, eq=False)
class Found:
    """What is there of a figure's arms; `missing` counts the runs of each that are not, `lacking` says what of data.

    lacking    a sentence for each arm that has missing runs whose data is not there
    """

    arms: Mapping[str, tuple[Point, ...]]
    missing: Mapping[str, int]
    lacking: Mapping[str, str] = field(default_factory=dict[str, str])

    def points(self, arm: str) -> tuple[Point, ...]:
        """The points of an arm."""
        return self.arms[arm]


def gather(label: str, measured: Iterable[Measured]) -> tuple[Point, ...]:
    """Results as points: those that differ in nothing but the seed stand together."""
    points: dict[Any, dict[int, Measured]] = {}
    for m in measured:
        points.setdefault(_place(m.run), {})[m.run.seed] = m
    return tuple(Point(run, seeds) for run, seeds in points.items())


def best(points: Sequence[Point], name: str) -> Point:
    """The point whose mean is best: on validation data where the measure has a better end, or the only point.

    Means are over the seeds that all points have, so that more seeds at one of them do not change the choice.

    Raises ValueError where there are several and nothing to choose by.
    """
    better = MEASURES[name].better if name in MEASURES else None
    if len(points) == 1:
        return points[0]
    if better is None or not points:
        raise ValueError(f"best({len(points)} points, {name!r}): nothing says which point to take; give by= or at=.")
    sign, seeds = 1.0 if better == "high" else -1.0, common(points)

    def value(point: Point) -> float:
        # What exists on validation data is chosen there; a time, say, exists once.
        told = [point.seeds[s].scalars.get(f"validation {name}", point.seeds[s].scalar(name)) for s in seeds]
        middle = total(told) / len(told) if told else math.nan
        return sign * middle if math.isfinite(middle) else -math.inf

    return max(points, key=value)


def peaks(points: Sequence[Point], axis: str, name: str) -> list[Point]:
    """A point for each value of an axis, in its order: the best one where a sweep goes over another axis besides."""
    values = sorted({at(p.run, axis) for p in points})
    return [best([p for p in points if at(p.run, axis) == value], name) for value in values]


def swept(points: Sequence[Point]) -> dict[str, list[float]]:
    """The fields in whose number points differ, each with that of every point; of fields that go together, the first.

    >>> from rotational.lab.declare import Data, Model, Optimizer
    >>> run = Run(Model("mlp"), Data("digits"), Optimizer("adamw", 1e-3, 0.1), steps=10, batch=8)
    >>> others = run.but(optimizer__lr=1e-2, optimizer__weight_decay=0.01), run.but(optimizer__lr=0.1)
    >>> swept([Point(r, {}) for r in (run, others[0])])
    {'optimizer__lr': [0.001, 0.01]}
    >>> list(swept([Point(r, {}) for r in (run, *others)]))
    ['optimizer__lr', 'optimizer__weight_decay']
    """
    rows = [_numbers(plain(p.run)) for p in points]
    found: dict[str, list[float]] = {}
    orders: set[tuple[int, ...]] = set()
    for field_ in rows[0] if rows else ():
        if not all(field_ in row for row in rows):
            continue
        values = [row[field_] for row in rows]
        places = {value: i for i, value in enumerate(sorted(set(values)))}
        order = tuple(places[value] for value in values)
        if len(places) > 1 and order not in orders:
            found[field_] = values
            orders |= {order, tuple(len(places) - 1 - place for place in order)}
    return found


def edges(points: Sequence[Point], point: Point) -> list[str]:
    """The swept fields of which one of the points has the smallest number or the largest: a better one may lie beyond.

    >>> from rotational.lab.declare import Data, Model, Optimizer, grid
    >>> run = Run(Model("mlp"), Data("digits"), Optimizer("adamw", 1e-3, 0.1), steps=10, batch=8)
    >>> points = [Point(r, {}) for r in grid(run, optimizer__lr=(1e-3, 1e-2, 0.1))]
    >>> [edges(points, p) for p in points]
    [['optimizer__lr'], [], ['optimizer__lr']]
    """
    i = points.index(point)
    return [name for name, values in swept(points).items() if values[i] in (min(values), max(values))]


def common(points: Sequence[Point]) -> list[int]:
    """The seeds that all points have."""
    return [seed for seed in points[0].seeds if all(seed in p.seeds for p in points)] if points else []


def at(run: Run | Computed, path: str) -> Any:
    """The value of a field, `optimizer__lr`, or of an option, `model__width`; of a computation by its name alone.

    >>> at(Computed("walk", lr=0.1), "lr")
    0.1
    """
    value: Any = run
    for name in path.split("__"):
        value = dict(value.options)[name] if hasattr(value, "options") and name != "name" else getattr(value, name)
    return value


def middle(curves: Sequence[Curve]) -> tuple[list[float], list[float], list[float], list[float]]:
    """Several seeds' curves as one: steps, mean, smallest and largest, at the steps that all of them have."""
    common = [x for x in curves[0][0] if all(x in set(c[0]) for c in curves[1:])] if curves else []
    rows = [dict(zip(*c, strict=True)) for c in curves]
    values = [[row[x] for row in rows] for x in common]
    return common, [mean(v) for v in values], [min(v) for v in values], [max(v) for v in values]


def _numbers(value: Any, path: str = "") -> dict[str, float]:
    """The numbers of a declaration in JSON, by the fields that `at` knows."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {path: value}
    found: dict[str, float] = {}
    for name, inner in value.items() if isinstance(value, dict) else ():
        found |= _numbers(inner, path if name == "options" else f"{path}__{name}".removeprefix("__"))
    return found


def _place(run: Run | Computed) -> Any:
    """The run without its seed, and without the curve that a second stage measured for that seed."""
    run = run.but(seed=0)
    if isinstance(run, Run):
        if run.optimizer.angles:
            return run.but(optimizer__angles=())
        if run.optimizer.rotation is not None:
            return run.but(optimizer__rotation=None)
    return run
