"""Weights in a file, before any model is built: fan-in and norm of the neurons of every matrix. No torch is needed for
safetensors."""

from __future__ import annotations

import json
import math
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Matrix(NamedTuple):
    """One weight: its name, its neurons as rows [neurons, size], their RMS length, and whether it is in bfloat16."""

    name: str
    neurons: int
    size: int
    norm: float
    bf16: bool = False


def turns(size: Any) -> Any:
    """Whether a neuron of so many weights has a direction: one weight has a sign only, and nothing rotates.

    Of an array, an entry for each neuron.

    >>> [turns(size) for size in (0, 1, 2)]
    [False, False, True]
    """
    return size >= 2


_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_WRAPPED = ("state_dict", "model", "model_state_dict", "module")
"""What training programs call the weights in their checkpoints, where they save more than those."""


def read(path: str | Path) -> list[Matrix]:
    """The matrices of a safetensors file or a torch state dict; rows (the first axis) are taken for neurons.

    A state dict may lie inside another dict, as checkpoints of training programs have it, beside an optimizer's, which
    is passed over. So are vectors (biases, gains), integers, numbers of 8 bits and masks (of zeros and ones); leading
    axes of one entry do not count. One tensor is in memory at a time.

    Raises OSError for a missing file or a folder, and ValueError for a file that is no checkpoint, is damaged, or holds
    no matrix.
    """
    path = Path(path)
    call = f"plan(weights={str(path)!r})"
    if path.is_dir():
        raise IsADirectoryError(f"{call}: this is a folder; name the file.")
    if not path.is_file():
        raise FileNotFoundError(f"{call}: there is no such file.")
    with open(path, "rb") as file:
        start = file.read(9)
    safe = path.suffix == ".safetensors" or start[8:] == b"{"  # whatever it is called, its header begins so
    found = [_measured(name, x, bf16) for name, x, bf16 in (_safetensors if safe else _torch)(call, path)]
    matrices = [matrix for matrix in found if matrix is not None]
    if not matrices:
        raise ValueError(
            f"{call}: this checkpoint holds no matrix, no tensor of two axes or more in floating point of 16 bits or "
            "more."
        )
    return matrices


def _measured(name: str, x: np.ndarray, bf16: bool) -> Matrix | None:
    while x.ndim > 2 and x.shape[0] == 1:  # position embeddings [1, positions, size], masks [1, 1, n, n]
        x = x[0]
    size = math.prod(x.shape[1:])
    if x.ndim < 2 or x.size == 0 or not turns(size) or (x.flat[0] == 1 and np.array_equal(x, x != 0)):
        return None
    flat = x.reshape(-1)
    square = float(np.einsum("i,i->", flat, flat, dtype=np.float64))
    return Matrix(name, x.shape[0], size, math.sqrt(square / x.shape[0]), bf16)


def _safetensors(call: str, path: Path) -> Iterator[tuple[str, np.ndarray, bool]]:
    """Eight bytes with the length of a JSON header, the header, and the tensors one after another."""
    damaged = ValueError(f"{call}: this is no safetensors file, or a damaged one.")
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        room = size - 8 - length
        if room < 0:
            raise damaged
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            header.pop("__metadata__", None)
            for name, entry in header.items():
                kind, (begin, end) = entry["dtype"], entry["data_offsets"]
                if not 0 <= begin <= end <= room or min(entry["shape"], default=0) < 0:
                    raise damaged
                if kind not in _TYPES or len(entry["shape"]) < 2:
                    continue
                file.seek(8 + length + begin)
                raw = np.frombuffer(file.read(end - begin), dtype=_TYPES[kind])
                if kind == "BF16":  # the upper half of a float32
                    raw = (raw.astype(np.uint32) << 16).view(np.float32)
                yield name, raw.reshape(entry["shape"]), kind == "BF16"
        except (ValueError, KeyError, TypeError, AttributeError):
            raise damaged from None


def _torch(call: str, path: Path) -> Iterator[tuple[str, np.ndarray, bool]]:
    try:
        import torch
    except ImportError:
        raise ValueError(f"{call}: a file of torch's needs torch: pip install torch.") from None
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception:
        raise ValueError(
            f"{call}: this is no checkpoint of plain tensors. Give a safetensors file, or what "
            "torch.save(model.state_dict(), path) wrote."
        ) from None
    if not isinstance(state, dict):
        raise ValueError(f"{call}: expected a dict of tensors, got {type(state).__name__}.")

    def matrix(x: Any) -> bool:
        dense = isinstance(x, torch.Tensor) and x.layout == torch.strided and not x.is_meta
        return dense and x.is_floating_point() and x.element_size() > 1 and x.dim() >= 2

    def weights(state: dict[Any, Any]) -> dict[Any, Any] | None:
        """This dict if it holds matrices, else the first inside it that does, under the usual names before others."""
        if any(map(matrix, state.values())):
            return state
        names = [x for x in state if isinstance(x, str) and isinstance(state[x], dict) and x != "state"]
        names = [x for x in names if not x.startswith("optim")]  # its memories have the weights' shapes
        inner = (weights(state[x]) for x in sorted(names, key=lambda x: x not in _WRAPPED))
        return next((found for found in inner if found is not None), None)

    for name, x in (weights(state) or {}).items():
        if matrix(x):
            plain = x.detach().float().numpy() if x.element_size() < 4 else x.detach().numpy()
            yield str(name), plain, x.dtype == torch.bfloat16
