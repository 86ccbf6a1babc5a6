"""What is done to a batch of images as a whole, where transformers are trained on few of them.

    mixup      x <- s x + (1-s) x',  s from Beta(mixup, mixup), x' another image       Zhang et al. 2018, 1710.09412
    cutmix     a box of x' in x, 1-s of its area,  s from Beta(cutmix, cutmix)            Yun et al. 2019, 1905.04899
    erasing    the probability of a box of noise, 2 to 33% of the area, in an image     Zhong et al. 2020, 1708.04896

The loss is s times that of x's class and 1-s times that of x'. Where both are named, one of them is drawn for each
batch at even odds. DeiT has mixup 0.8, cutmix 1 and erasing 0.25 (Touvron et al. 2021, arXiv 2012.12877).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, of pixels between 0 and 1."""

Box = tuple[slice, slice]


@dataclass(frozen=True)
class Mixing:
    """How a batch is mixed; all 0 leaves it alone."""

    mixup: float = 0.0
    cutmix: float = 0.0
    erasing: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.mixup or self.cutmix or self.erasing)

    def erased(self, pixels: Tensor, seeds: Sequence[int], statistics: Statistics) -> Tensor:
        """Pixels [n, channels, side, side], uint8, with a box of noise in some; an image's seed decides about it.

        >>> x = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
        >>> bool(Mixing(erasing=1.0).erased(x, [3], ((0.5,), (0.1,))).any()), bool(x.any())
        (True, False)
        """
        if not self.erasing:
            return pixels
        pixels = pixels.clone()
        mean, std = (torch.tensor(s).view(-1, 1, 1) for s in statistics)
        for image, seed in zip(pixels, seeds, strict=True):
            rng = np.random.default_rng(seed)
            if rng.random() < self.erasing:
                rows, columns = _erased(rng, *image.shape[1:])
                part = image[:, rows, columns]
                noise = torch.from_numpy(rng.standard_normal(part.shape, dtype=np.float32)) * std + mean
                part.copy_((255 * noise).round().clamp(0, 255).to(torch.uint8))
        return pixels

    def mixed(self, pixels: Tensor, others: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
        """Pixels, uint8 as they come, each mixed with its other one, and the share that is its own: one for all.

        >>> x = torch.full((2, 1, 8, 8), 100, dtype=torch.uint8)
        >>> mixed, share = Mixing(mixup=1.0).mixed(x, 0 * x, torch.Generator().manual_seed(0))
        >>> bool((mixed == round(100 * share)).all())
        True
        """
        rng = np.random.default_rng(int(torch.randint(1 << 62, (), generator=generator)))
        if self.cutmix > 0 and (self.mixup == 0 or rng.random() < 0.5):
            rows, columns = _cut(rng, rng.beta(self.cutmix, self.cutmix), *pixels.shape[2:])
            pixels = pixels.clone()
            pixels[:, :, rows, columns] = others[:, :, rows, columns]
            return pixels, 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / pixels[0, 0].numel()
        if not self.mixup:
            return pixels, 1.0
        share = float(rng.beta(self.mixup, self.mixup))
        return torch.lerp(others.float(), pixels.float(), share).round().to(torch.uint8), share


NOTHING = Mixing()


def opposite(batch: Tensor) -> Tensor:
    """What each row of a batch is mixed with: the one half a batch further on.

    Processes that take every so many-th row thus mix their own rows with each other.

    >>> opposite(torch.arange(4)).tolist()
    [2, 3, 0, 1]
    """
    return batch.roll(-(len(batch) // 2), 0)


def _cut(rng: np.random.Generator, share: float, height: int, width: int) -> Box:
    """A box of a share 1 - `share` of the area around a random place, and what of it lies inside."""
    sides = [round(side * math.sqrt(1 - share)) for side in (height, width)]
    middles = [int(rng.integers(side)) for side in (height, width)]
    low = [max(0, middle - side // 2) for middle, side in zip(middles, sides, strict=True)]
    high = [min(n, middle + side - side // 2) for n, middle, side in zip((height, width), middles, sides, strict=True)]
    return slice(low[0], high[0]), slice(low[1], high[1])


def _erased(rng: np.random.Generator, height: int, width: int) -> Box:
    """A box of 2 to 33% of the area with sides between 3:10 and 10:3, drawn until one fits inside."""
    while True:
        area = rng.uniform(0.02, 1 / 3) * height * width
        ratio = math.exp(rng.uniform(math.log(0.3), -math.log(0.3)))
        down, across = max(1, round(math.sqrt(area * ratio))), max(1, round(math.sqrt(area / ratio)))
        if down < height and across < width:
            top, left = int(rng.integers(height - down + 1)), int(rng.integers(width - across + 1))
            return slice(top, top + down), slice(left, left + across)
