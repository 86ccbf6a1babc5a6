"""RandAugment: some changes in a row, drawn from 15 and of about one strength (Cubuk et al. 2020, arXiv 1909.13719).

Every change is applied with probability 1/2, so that an image gets 0 to 2 of them. A strength s between 0 and 1 means

    autocontrast, equalize, invert                                 whole
    rotate                                                         30 s degrees, either way
    posterize, solarize, add to what is dark                       4 - 4s bits kept; from 256 (1-s) on; 110 s
    colour, contrast, brightness, sharpness                        times 1 + 0.9 s or 1 - 0.9 s
    shear, translate                                               0.3 s; 0.45 s of the side; either way

which is the form that timm gives it ("rand-m9-mstd0.5-inc1") and that DeiT trains with: s is 0.9 with a standard
deviation of 0.05. What comes from beyond the border is of the mean colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

CHANGES, PROBABILITY, SCATTER = 2, 0.5, 0.05
FILL = (124, 116, 104)
"""ImageNet's mean colour."""

DRAWS = 4 * CHANGES
"""Uniform numbers that an image takes: of each change which, whether, how strong and which way."""


def varied(image: Image, strength: float, draws: Sequence[float]) -> Image:
    """An RGB image after what `DRAWS` uniform numbers decide; raises nothing for images of any size."""
    for which, whether, scatter, way in (draws[i : i + 4] for i in range(0, DRAWS, 4)):
        if whether < PROBABILITY:
            change = list(BY_NAME.values())[int(which * len(BY_NAME))]
            s = min(1.0, max(0.0, strength + SCATTER * _normal(scatter, way)))
            # The way is uniform within each half of its range; the angle of `_normal` comes from there.
            image = change(image, s, 1 if way < 0.5 else -1)
    return image


def _normal(u: float, v: float) -> float:
    """A number of mean 0 and variance 1 from two uniform ones, symmetric within each half of v (Box and Muller)."""
    return math.sqrt(-2 * math.log(max(1 - u, 1e-12))) * math.cos(4 * math.pi * v)


# The changes: an image, a strength between 0 and 1, and a sign ------------------------------------------------------


def _autocontrast(image: Image, s: float, way: int) -> Image:
    from PIL import ImageOps

    return ImageOps.autocontrast(image)


def _equalize(image: Image, s: float, way: int) -> Image:
    from PIL import ImageOps

    return ImageOps.equalize(image)


def _invert(image: Image, s: float, way: int) -> Image:
    from PIL import ImageOps

    return ImageOps.invert(image)


def _rotate(image: Image, s: float, way: int) -> Image:
    from PIL.Image import Resampling

    return image.rotate(30 * s * way, Resampling.BILINEAR, fillcolor=FILL)


def _posterize(image: Image, s: float, way: int) -> Image:
    bits = 4 - int(4 * s)
    return image.point([v & -(1 << 8 - bits) & 255 for v in range(256)] * 3)


def _solarize(image: Image, s: float, way: int) -> Image:
    from_ = 256 - int(256 * s)
    return image.point([v if v < from_ else 255 - v for v in range(256)] * 3)


def _add(image: Image, s: float, way: int) -> Image:
    return image.point([min(255, v + int(110 * s)) if v < 128 else v for v in range(256)] * 3)


def _enhanced(kind: str, image: Image, s: float, way: int) -> Image:
    from PIL import ImageEnhance

    return getattr(ImageEnhance, kind)(image).enhance(1 + 0.9 * s * way)


def _moved(across: tuple[float, float], down: tuple[float, float], image: Image, s: float, way: int) -> Image:
    """x + (shear y + move width), y + (shear x + move height), each times the strength."""
    from PIL.Image import Resampling, Transform

    s *= way
    matrix = (1, across[0] * s, across[1] * s * image.width, down[0] * s, 1, down[1] * s * image.height)
    return image.transform(image.size, Transform.AFFINE, matrix, Resampling.BILINEAR, fillcolor=FILL)


BY_NAME: Mapping[str, Callable[[Image, float, int], Image]] = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "invert": _invert,
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "add": _add,
    "colour": partial(_enhanced, "Color"),
    "contrast": partial(_enhanced, "Contrast"),
    "brightness": partial(_enhanced, "Brightness"),
    "sharpness": partial(_enhanced, "Sharpness"),
    "shear across": partial(_moved, (0.3, 0.0), (0.0, 0.0)),
    "shear down": partial(_moved, (0.0, 0.0), (0.3, 0.0)),
    "translate across": partial(_moved, (0.0, 0.45), (0.0, 0.0)),
    "translate down": partial(_moved, (0.0, 0.0), (0.0, 0.45)),
}
