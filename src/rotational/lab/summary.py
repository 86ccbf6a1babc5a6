"""What a log says about the rotation of the model as a whole, beside what the theory says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rotational import expected
from rotational.records import Records

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
        own = np.sqrt(np.mean(np.square(self.neurons), axis=0))
        low, high = np.quantile(own, (0.05, 0.95))
        return float(high / low) if low > 0 else math.inf


def read(path: str | Path) -> Rotation | None:
    """The rotation in a log of `watch(..., keep=None)`; None where no step was logged."""
    records = Records(path)
    series = [records.series(layer.name) for layer in records.layers]
    if not series:
        return None
    weights = np.array([s.layer.neurons for s in series])
    return Rotation(
        step=series[0].step,
        measured=_together(np.stack([s.rotation_rms for s in series]), weights),
        predicted=_together(np.stack([e.rotation for e in expected.of(records.run, series)]), weights),
        neurons=np.concatenate([s.rotation for s in series], axis=1),
    )


def rms(values: Array) -> float:
    """Root mean square; NaN of nothing."""
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else math.nan


def _together(layers: Array, weights: Array) -> Array:
    """RMS over all neurons, [T], from the RMS of each layer, [layers, T]."""
    return np.sqrt(np.average(np.square(layers), axis=0, weights=weights))
