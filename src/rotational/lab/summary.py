"""What a log says about the rotation of the model as a whole, beside what the theory says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rotational import expected
from rotational.records import Layer, Records

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Rotation:
    """Rotation at T logged steps, in radians per step; RMS over the neurons of all layers.

    step        [T]
    measured    [T]
    predicted   [T] what the optimizer held, or the forecast along the run; NaN where neither is known
    neurons     [T, N] each neuron in the log
    """

    step: Array
    measured: Array
    predicted: Array
    neurons: Array

    def after(self, step: float) -> Rotation:
        """The part after a step."""
        late = self.step > step
        return Rotation(self.step[late], self.measured[late], self.predicted[late], self.neurons[late])

    def ratios(self, window: int = 50) -> Array:
        """Measured over predicted, each RMS over one window of steps after another; a part of one is left out.

        >>> steps = np.arange(1, 101)
        >>> flat = np.full(100, 2e-3)
        >>> Rotation(steps, flat, flat, flat[:, None]).ratios(window=50).tolist()
        [1.0, 1.0]
        """
        ends = range(window, int(self.step[-1]) + 1 if len(self.step) else 0, window)
        inside = [(self.step > end - window) & (self.step <= end) for end in ends]
        return np.array([rms(self.measured[i]) / rms(self.predicted[i]) for i in inside])

    def spread(self) -> float:
        """p95/p5 over neurons of each neuron's own RMS rotation."""
        return spread(self.neurons)


@dataclass(frozen=True, eq=False)
class LayerRotation:
    """One layer at T logged steps: RMS over its neurons of rotation (measured, predicted) and length, each [T].

    `neurons` [T, kept] is the rotation of the neurons whose own series are in the log.
    """

    layer: Layer
    step: Array
    rotation: Array
    predicted: Array
    norm: Array
    neurons: Array


def read(path: str | Path) -> Rotation | None:
    """The rotation in a log of `watch`; None where no step was logged.

    Where the log keeps some neurons of a layer only, the spread is that of those.
    """
    return together(found) if (found := layers(Records(path))) else None


def layers(records: Records) -> list[LayerRotation]:
    """What a log says of each layer, in the model's order."""
    series = [records.series(layer.name) for layer in records.layers]
    return [
        LayerRotation(s.layer, s.step, s.rotation_rms, e.rotation, s.norm_rms, s.rotation)
        for s, e in zip(series, expected.of(records.run, series), strict=True)
    ]


def together(layers: Sequence[LayerRotation]) -> Rotation:
    """One or more layers, logged at the same steps, as one."""
    weights = np.array([x.layer.neurons for x in layers])
    return Rotation(
        step=layers[0].step,
        measured=_together(np.stack([x.rotation for x in layers]), weights),
        predicted=_together(np.stack([x.predicted for x in layers]), weights),
        neurons=np.concatenate([x.neurons for x in layers], axis=1),
    )


def spread(neurons: Array) -> float:
    """p95/p5 over neurons of each one's RMS over time, from [T, neurons]; NaN of nothing."""
    if neurons.size == 0:
        return math.nan
    own = np.sqrt(np.mean(np.square(neurons), axis=0))
    low, high = np.quantile(own, (0.05, 0.95))
    return float(high / low) if low > 0 else math.inf


def rms(values: Array) -> float:
    """Root mean square; NaN of nothing."""
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else math.nan


def _together(layers: Array, weights: Array) -> Array:
    """RMS over all neurons, [T], from the RMS of each layer, [layers, T]."""
    return np.sqrt(np.average(np.square(layers), axis=0, weights=weights))
