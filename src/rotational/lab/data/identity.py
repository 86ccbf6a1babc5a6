"""Which data a run had: a number that other pictures or another text under the same name do not have.

A declaration names its data; the folder that a user points to decides what stands behind the name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from rotational.lab.data import Images, Pairs, Text, load
from rotational.lab.declare import Data

PICTURES, SYMBOLS = 16, 4096
"""Of each part so many are looked at, evenly spaced, beside all labels and lengths."""


@lru_cache(maxsize=32)
def identity(data: Data, where: Path | None) -> str:
    """Twelve hexadecimal digits of what a data set holds, the same in whichever form it is stored.

    Raises what `load` raises.

    >>> identity(Data("blobs"), None) == identity(Data("blobs"), None) != identity(Data("chain"), None)
    True
    """
    found = hashlib.sha256()
    for part in _parts(data, where):
        found.update(f"{part.dtype.name} {part.shape};".encode())
        found.update(np.ascontiguousarray(part).tobytes())
    return found.hexdigest()[:12]


def _parts(data: Data, where: Path | None) -> Iterator[np.ndarray]:
    held = load(data, where)
    for part in (held.train, held.validation, held.test) if isinstance(held, Images) else ():
        yield part.labels.numpy()
        yield part.take(torch.linspace(0, len(part.labels) - 1, PICTURES).long(), None).numpy()
    for symbols in (held.train, held.validation, held.test) if isinstance(held, Text) else ():
        yield np.array([len(symbols)])
        yield np.asarray(symbols[:: max(1, len(symbols) // SYMBOLS)])
    for part in (held.train, held.validation, held.test) if isinstance(held, Pairs) else ():
        for side in (part.source, part.target):
            yield side.ends.numpy()
            yield side.symbols.numpy()
