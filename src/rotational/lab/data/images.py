"""Images with labels: three parts, and what is done to a batch of them.

x = (crop(flip(pixels))/255 - mean)/std      per channel; crop and flip in training only
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from rotational.lab.data.mixing import NOTHING, Mixing, Statistics
from rotational.lab.models import ImageForm

EVERY = slice(None)
"""All rows of a batch."""

HELD_OUT = 0.1
"""Share of the training images that validation takes."""


class Pictures(Protocol):
    """Images in memory or on disk."""

    @property
    def labels(self) -> Tensor:
        """Class of each image, int64."""
        ...

    def take(self, index: Tensor, generator: torch.Generator | None, rows: Tensor | slice = EVERY) -> Tensor:
        """Pixels [rows, channels, side, side], uint8, of some images; with a generator as in training.

        What is drawn for a row is the same whichever `rows` of the index are asked for.
        """
        ...


@dataclass(frozen=True, eq=False)
class Stored:
    """Images in memory, uint8; in training flipped at random (if `flip`) and moved by up to `shift` pixels."""

    pixels: Tensor
    labels: Tensor
    flip: bool = False
    shift: int = 0

    def take(self, index: Tensor, generator: torch.Generator | None, rows: Tensor | slice = EVERY) -> Tensor:
        """See `Pictures`."""
        if generator is None:
            return self.pixels[index[rows]]
        mirrored, moves = drawn(len(index), generator, self.flip, self.shift)
        return augmented(self.pixels[index[rows]], mirrored[rows], moves[:, rows], self.shift)


@dataclass(frozen=True, eq=False)
class Images:
    """A data set of images; `smoothing` of labels and `mixing` of batches are of its training loss."""

    train: Pictures
    validation: Pictures
    test: Pictures
    form: ImageForm
    statistics: Statistics
    smoothing: float = 0.0
    mixing: Mixing = NOTHING

    def floats(self, pixels: Tensor) -> Tensor:
        """Normalised pixels as the models take them, on the device where they are."""
        mean, std = (torch.tensor(s, device=pixels.device).view(-1, 1, 1) for s in self.statistics)
        x = (pixels.float() / 255 - mean) / std
        # Tensor cores want channels last. A CPU gains 10 to 15% from it, but torch 2.13's convolutions (oneDNN) then
        # write beyond their memory where a layer has fewer than 8 channels: the process aborts some steps later.
        return x.contiguous(memory_format=torch.channels_last) if x.is_cuda else x


def drawn(count: int, generator: torch.Generator, flip: bool, shift: int) -> tuple[Tensor, Tensor]:
    """Whether each of some images is mirrored [count], with probability 1/2 (if `flip`), and its moves [2, count].

    >>> mirrored, moves = drawn(3, torch.Generator().manual_seed(0), flip=False, shift=0)
    >>> mirrored.tolist(), moves.tolist()
    ([False, False, False], [[0, 0, 0], [0, 0, 0]])
    """
    mirrored = torch.rand(count, generator=generator) < 0.5 if flip else torch.zeros(count, dtype=torch.bool)
    moves = torch.randint(2 * shift + 1, (2, count), generator=generator) if shift else torch.zeros(2, count).long()
    return mirrored, moves


def augmented(pixels: Tensor, mirrored: Tensor, moves: Tensor, shift: int) -> Tensor:
    """Images, some `mirrored` [n], then each moved by `moves` [2, n] less `shift` pixels, with black behind it.

    >>> x = torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2)
    >>> augmented(x, torch.tensor([True]), torch.tensor([[1], [0]]), shift=1).flatten().tolist()
    [0, 1, 0, 3]
    """
    count, _, height, width = pixels.shape
    if mirrored.any():
        pixels = torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(3), pixels)
    if not shift:
        return pixels
    # All windows that there are, as a view, of which each image takes one.
    windows = F.pad(pixels, (shift,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(count), :, moves[0], moves[1]]


def resized(pixels: Tensor, side: int) -> Tensor:
    """Images of another side by averaging areas; the same where the side is theirs.

    >>> resized(torch.full((1, 3, 4, 4), 9, dtype=torch.uint8), 2).flatten().tolist()
    [9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]
    """
    if pixels.shape[-1] == side:
        return pixels
    parts = (F.interpolate(p.float(), (side, side), mode="area").round().byte() for p in pixels.split(4096))
    return torch.cat(list(parts))


def images(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    classes: int,
    statistics: Statistics,
    *,
    flip: bool,
    shift: int,
    limit: int,
    held: int,
    smoothing: float,
) -> Images:
    """A data set from its pixels and labels.

    Validation takes a tenth of the training images, always the same ones, whatever the seed. `limit` and `held`
    are the most images that training, and validation and test, use; 0 for all. Raises ValueError for labels
    that are not below `classes` and parts without images.
    """
    order = torch.randperm(len(train[1]), generator=torch.Generator().manual_seed(0))
    cut = len(order) - round(HELD_OUT * len(order))
    kept, out = order[:cut], order[cut:]
    shown = torch.randperm(len(test[1]), generator=torch.Generator().manual_seed(0))
    kept, out, shown = kept[: limit or None], out[: held or None], shown[: held or None].sort().values
    if min(len(kept), len(out), len(shown)) == 0:
        raise ValueError(f"expected 10 training images and a test image at least, got {len(order)} and {len(shown)}.")
    highest = int(max(train[1].max(), test[1].max()))
    if highest >= classes:
        raise ValueError(f"expected labels below {classes}, found {highest}.")
    x, y = train
    return Images(
        Stored(x[kept], y[kept], flip, shift),
        Stored(x[out], y[out]),
        Stored(test[0][shown], test[1][shown]),
        ImageForm(classes, x.shape[1], x.shape[-1]),
        statistics,
        smoothing,
    )
