"""ImageNet, or any folder of images with a folder for each class: decoded when a batch asks for it.

train/CLASS/*.JPEG      a random part of 8 to 100% of the area, mirrored half of the time, at side x side; then, if
                        asked for, RandAugment
val/CLASS/*.JPEG        the middle, after the short side was made side*256/224
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rotational.lab.data import randaugment
from rotational.lab.data.found import folders, missing, needs
from rotational.lab.data.images import EVERY, Images
from rotational.lab.data.mixing import Mixing, Statistics
from rotational.lab.models import ImageForm

STATISTICS: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ENDINGS = (".jpeg", ".jpg", ".png", ".bmp", ".webp")
VALIDATION = 10_000
"""Training images that validation takes, or a tenth of them where that is less."""


@dataclass(frozen=True, eq=False)
class OnDisk:
    """Files of images, read and cropped by a few threads; with `varying`, by RandAugment of that strength, too."""

    paths: tuple[Path, ...]
    labels: Tensor
    side: int
    varying: float = 0.0

    def take(self, index: Tensor, generator: torch.Generator | None, rows: Tensor | slice = EVERY) -> Tensor:
        """See `images.Pictures`."""
        chosen = [self.paths[i] for i in index[rows].tolist()]
        draws: list[Any] = [None] * len(chosen)
        if generator is not None:
            # Drawn for all, and before the threads start: what an image gets depends on its place alone.
            count = 5 + (randaugment.DRAWS if self.varying else 0)
            draws = torch.rand(len(index), count, generator=generator)[rows].tolist()
        # Processes of one machine share its cores.
        threads = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        with ThreadPoolExecutor(min(16, max(1, threads))) as pool:
            read = pool.map(partial(_cropped, side=self.side, varying=self.varying), chosen, draws)
            return torch.stack(list(read))


def imagenet(
    where: Path | None,
    *,
    side: int = 224,
    limit: int = 0,
    held: int = 0,
    smoothing: float = 0.0,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    erasing: float = 0.0,
    randaugment: float = 0.0,
) -> Callable[[], Images]:
    """ImageNet-1k as an image folder; the real validation set is the test set here, as is usual.

    For mixup, cutmix and erasing see `mixing`; randaugment is its strength, from 0 to 10 as in the paper.
    """
    if randaugment > 10:
        raise ValueError(f"Data('imagenet', randaugment={randaugment}): expected a strength from 0 to 10.")
    needs("imagenet", "PIL")
    for folder in folders(where, "imagenet", ("imagenet", "ImageNet", "imagenet-1k", "ILSVRC2012")):
        train, test = folder / "train", next((t for n in ("val", "test") if (t := folder / n).is_dir()), None)
        if train.is_dir() and test is not None and any(p.is_dir() for p in train.iterdir()):
            mixing = Mixing(mixup, cutmix, erasing)
            return partial(_load, train, test, side, limit, held, smoothing, mixing, randaugment / 10)
    raise missing(
        "imagenet", where, "imagenet/train/CLASS/*.JPEG and imagenet/val/CLASS/*.JPEG", "https://image-net.org"
    )


def _load(
    train: Path, test: Path, side: int, limit: int, held: int, smoothing: float, mixing: Mixing, varying: float
) -> Images:
    classes = sorted(p.name for p in train.iterdir() if p.is_dir())
    paths, labels = _listed(train, classes)
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(0))
    cut = len(order) - min(VALIDATION, round(0.1 * len(order)))
    shown, truth = _listed(test, classes)
    tested = torch.randperm(len(shown), generator=torch.Generator().manual_seed(0))

    def part(chosen: Tensor, files: list[Path], kinds: list[int], most: int) -> OnDisk:
        kept = chosen[: most or None].tolist()
        return OnDisk(tuple(files[i] for i in kept), torch.tensor([kinds[i] for i in kept]), side, varying)

    return Images(
        part(order[:cut], paths, labels, limit),
        part(order[cut:], paths, labels, held),
        part(tested, shown, truth, held),
        ImageForm(len(classes), 3, side),
        STATISTICS,
        smoothing,
        mixing,
    )


def _listed(folder: Path, classes: list[str]) -> tuple[list[Path], list[int]]:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        inside = sorted(p for p in (folder / name).glob("*") if p.suffix.lower() in ENDINGS)
        paths += inside
        labels += [label] * len(inside)
    if (len(paths) < 10 and folder.name == "train") or not paths:
        raise ValueError(f"{folder}: found {len(paths)} images in {len(classes)} folders; more are needed.")
    return paths, labels


def _cropped(path: Path, draw: list[float] | None, side: int, varying: float) -> Tensor:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            # JPEG can be decoded at half or a quarter of its size at once, if that is still large enough.
            opened.draft("RGB", (2 * side, 2 * side))
            image = opened.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path}: not a readable image ({type(error).__name__}).") from None
    width, height = image.size
    box = _middle(width, height) if draw is None else _part(width, height, draw)
    taken = image.resize((side, side), Image.Resampling.BILINEAR, box=box)
    if draw is not None and draw[4] < 0.5:
        taken = taken.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if draw is not None and varying:
        taken = randaugment.varied(taken, varying, draw[5:])
    return torch.from_numpy(np.array(taken)).permute(2, 0, 1)


def _middle(width: int, height: int) -> tuple[float, float, float, float]:
    span = min(width, height) * 224 / 256
    left, top = (width - span) / 2, (height - span) / 2
    return left, top, left + span, top + span


def _part(width: int, height: int, draw: list[float]) -> tuple[float, float, float, float]:
    """A part of 8 to 100% of the area with sides between 3:4 and 4:3, or as much of it as the image has."""
    area = width * height * (0.08 + 0.92 * draw[0])
    ratio = math.exp((2 * draw[1] - 1) * math.log(4 / 3))
    across, down = min(width, math.sqrt(area * ratio)), min(height, math.sqrt(area / ratio))
    left, top = draw[2] * (width - across), draw[3] * (height - down)
    return left, top, left + across, top + down
