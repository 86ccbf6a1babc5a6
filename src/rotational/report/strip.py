"""The heat strip neuron x time of one layer, as the few bytes that the page needs of it."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np

from rotational.expected import Expected
from rotational.records import Layer, Series
from rotational.report import bins

ROWS, COLUMNS = 96, 120
NO_VALUE = 255


def of(s: Series, e: Expected) -> dict[str, Any]:
    """Rotation over prediction where there is one, else rotation, as logarithms to base 10.

    `data` holds one byte a cell, row by row from the slowest neuron up: value = low + byte/254 (high - low),
    255 for none. Time bins are RMS; of many neurons, evenly spaced ones of the sorted order are kept.
    """
    relative = bool(np.isfinite(e.rotation).any())
    borders = bins.edges(len(s.step), COLUMNS)
    # Only what can be compared is shown: steps without a prediction stay empty in a relative strip.
    base = np.where(e.rotation > 0, e.rotation, math.nan)[:, None] if relative else 1.0
    with np.errstate(divide="ignore"):
        z = np.log10(bins.rms(s.rotation / base, borders)).T
    filled = np.isfinite(z)
    means = np.where(filled, z, 0).sum(axis=1) / np.maximum(filled.sum(axis=1), 1)
    order = np.argsort(np.where(filled.any(axis=1), means, -math.inf), kind="stable")
    order = order[bins.pick(len(order), ROWS)]
    z = np.where(filled, z, math.nan)[order]
    low, high = (float(np.nanmin(z)), float(np.nanmax(z))) if np.isfinite(z).any() else (0.0, 0.0)
    level = np.nan_to_num((z - low) / max(high - low, 1e-12) * 254, nan=NO_VALUE)
    return {
        "data": base64.b64encode(level.round().astype(np.uint8).tobytes()).decode("ascii"),
        "low": low,
        "high": high,
        "step": bins.last(s.step, borders),
        "neurons": [_label(s.layer, int(s.layer.kept[i])) for i in order],
        "relative": relative,
    }


def _label(layer: Layer, index: int) -> str:
    """A neuron's index, and its part where the layer has parts (q, k, v)."""
    rows, at = sum(n for _, n in layer.parts), 0
    for part, n in layer.parts:
        at += n
        if index * rows // layer.neurons < at:
            return f"{index} ({part})"
    return str(index)
