"""MNIST in its idx files, and the digits of scikit-learn."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from rotational.lab.data.found import first, folders, missing, needs
from rotational.lab.data.images import Images, images, resized

PARTS = {"train": "train", "test": "t10k"}


def mnist(
    where: Path | None, *, side: int = 28, augment: bool = False, limit: int = 0, held: int = 0, smoothing: float = 0.0
) -> Callable[[], Images]:
    """Handwritten digits, 28x28: 60,000 for training, 10,000 for test (LeCun et al.)."""
    for folder in folders(where, "mnist", ("mnist", "MNIST/raw", "MNIST")):
        names = [f"{part}-{kind}" for part in PARTS.values() for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
        found = [first(folder, (n, f"{n}.gz", n.replace("-idx", ".idx"))) for n in names]
        if all(found):
            files = [f for f in found if f is not None]
            settings = {"flip": False, "shift": 2 if augment else 0, "limit": limit, "held": held}
            return partial(_mnist, files, side, {**settings, "smoothing": smoothing})
    raise missing("mnist", where, "mnist/train-images-idx3-ubyte.gz and the other three", "https://yann.lecun.com")


def digits(
    where: Path | None, *, augment: bool = False, limit: int = 0, held: int = 0, smoothing: float = 0.0
) -> Callable[[], Images]:
    """Handwritten digits, 8x8, that come with scikit-learn: 1,797, of which the last 300 are for test."""
    needs("digits", "sklearn")
    settings = {"flip": False, "shift": 1 if augment else 0, "limit": limit, "held": held}
    return partial(_digits, {**settings, "smoothing": smoothing})


def idx(path: Path) -> Tensor:
    """The bytes of an idx file, shaped as it says, gzipped or not.

    Raises ValueError, naming the file, for one that is not idx of bytes or is cut short.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read ({error}). Fetch it again.") from None
    # Two zeros, the type (8: bytes), the number of axes; then each axis' length.
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise ValueError(f"{path}: not an idx file of bytes: it starts with {data[:4]!r}.")
    axes = data[3]
    shape = struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes]) if len(data) >= 4 + 4 * axes else ()
    body = np.frombuffer(data, dtype=np.uint8, offset=min(len(data), 4 + 4 * axes))
    if len(body) != int(np.prod(shape)):
        raise ValueError(f"{path}: expected {int(np.prod(shape))} bytes of shape {shape}, found {len(body)}.")
    return torch.from_numpy(body.copy()).view(shape)


def _mnist(files: list[Path], side: int, settings: dict[str, Any]) -> Images:
    train_x, train_y, test_x, test_y = map(idx, files)
    train, test = ((resized(x.unsqueeze(1), side), y.long()) for x, y in ((train_x, train_y), (test_x, test_y)))
    return images(train, test, 10, ((0.1307,), (0.3081,)), **settings)


def _digits(settings: dict[str, Any]) -> Images:
    import sklearn.datasets  # pyright: ignore[reportMissingImports]

    held = cast(Any, sklearn.datasets.load_digits())  # pyright: ignore[reportUnknownMemberType]
    pixels = torch.from_numpy(np.asarray(held.images, dtype=np.float64) * (255 / 16)).round().byte().unsqueeze(1)
    labels = torch.from_numpy(np.asarray(held.target)).long()
    cut = len(labels) - 300
    return images(
        (pixels[:cut], labels[:cut]), (pixels[cut:], labels[cut:]), 10, ((0.305,), (0.376,)), **settings
    )  # fmt: skip
