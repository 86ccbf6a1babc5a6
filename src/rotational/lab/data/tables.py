"""Tables of Hugging Face `datasets`: Parquet as downloaded, Arrow as `save_to_disk` writes it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rotational.lab.data.found import needs

IMAGES = ("img", "image")
"""Column names of images: structs of encoded `bytes` and a `path`."""


def check(data: str, *, images: bool = False) -> None:
    """Raise MissingError if a package is not installed that reads tables, or the images in them."""
    needs(data, "pyarrow", *(["PIL"] if images else []))


def files(folder: Path, split: str) -> list[Path]:
    """The files of a split: its name starts theirs, or their folder's.

    >>> files(Path("/nowhere"), "train")
    []
    """
    found = (p for ext in ("parquet", "arrow") for p in folder.rglob(f"*.{ext}"))
    return sorted(p for p in found if p.name.startswith(split) or p.parent.name == split)


def columns(paths: Sequence[Path], names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Rows of some columns; each name may be one of several, in order of preference.

    Raises ValueError, naming the file, for one that cannot be read or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.ipc  # pyright: ignore[reportUnusedImport]
    import pyarrow.parquet  # pyright: ignore[reportUnusedImport]

    arrow: Any = pa
    for path in paths:
        try:
            if path.suffix == ".parquet":
                table = arrow.parquet.read_table(path)
            else:
                with arrow.memory_map(str(path)) as source:
                    table = arrow.ipc.open_stream(source).read_all()
        except (arrow.ArrowException, OSError) as error:
            raise ValueError(f"{path}: not a readable table ({type(error).__name__}).") from None
        there: list[str] = table.column_names
        taken = [next((n for n in wanted.split("|") if n in there), None) for wanted in names]
        if None in taken:
            raise ValueError(f"{path}: expected columns {' and '.join(names)}, found {', '.join(there)}.")
        for batch in table.select(taken).to_batches(max_chunksize=1024):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def pictures(paths: Sequence[Path], labels: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Pixels [n, channels, height, width], uint8, and labels; the images of one table have one size."""
    pixels: list[np.ndarray[Any, Any]] = []
    found: list[int] = []
    for image, label in columns(paths, ["|".join(IMAGES), "|".join(labels)]):
        pixels.append(decoded(image["bytes"]))
        found.append(int(label))
    if len({p.shape for p in pixels}) != 1:
        raise ValueError(f"{paths[0]}: expected images of one size, found {len({p.shape for p in pixels})} sizes.")
    stacked = torch.from_numpy(np.stack(pixels))
    return stacked.unsqueeze(1) if stacked.ndim == 3 else stacked.permute(0, 3, 1, 2).contiguous(), torch.tensor(found)


def decoded(data: bytes) -> np.ndarray[Any, Any]:
    """An image as [height, width] if it is grey, else [height, width, 3]."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image if image.mode in ("RGB", "L") else image.convert("RGB"))
