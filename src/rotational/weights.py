"""Weights in a file, before any model is built: fan-in and norm of the neurons of every matrix. No torch is needed for
safetensors."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Matrix(NamedTuple):
    """One weight: its name, its neurons as rows [neurons, size], and their RMS length."""

    name: str
    neurons: int
    size: int
    norm: float


_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def read(path: str | Path) -> list[Matrix]:
    """The matrices of a safetensors file or a torch state dict; rows (the first axis) are taken for neurons.

    Vectors (biases, gains) and integers are passed over. Raises OSError for a missing file or a folder, and ValueError
    for a file that is no checkpoint, is damaged, or holds no tensor of two axes or more.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"plan(weights={str(path)!r}): this is a folder; name the file.")
    if not path.is_file():
        raise FileNotFoundError(f"plan(weights={str(path)!r}): there is no such file.")
    found = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    matrices = [
        Matrix(name, x.shape[0], math.prod(x.shape[1:]), float(np.sqrt(np.mean(np.sum(np.square(_flat(x)), axis=1)))))
        for name, x in found.items()
        if x.ndim >= 2 and x.size > 0 and math.prod(x.shape[1:]) >= 2
    ]
    if not matrices:
        raise ValueError(
            f"plan(weights={str(path)!r}): this checkpoint holds no matrix, no tensor of two axes or more."
        )
    return matrices


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(x.shape[0], -1).astype(np.float64)


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    """Eight bytes with the length of a JSON header, the header, and the tensors one after another."""
    damaged = ValueError(f"plan(weights={str(path)!r}): this is no safetensors file, or a damaged one.")
    size = path.stat().st_size
    found: dict[str, np.ndarray] = {}
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8:
            raise damaged
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            for name, entry in header.items():
                if name == "__metadata__" or entry["dtype"] not in _TYPES or len(entry["shape"]) < 2:
                    continue
                begin, end = entry["data_offsets"]
                file.seek(8 + length + begin)
                raw = np.frombuffer(file.read(end - begin), dtype=_TYPES[entry["dtype"]])
                if entry["dtype"] == "BF16":  # the upper half of a float32
                    raw = (raw.astype(np.uint32) << 16).view(np.float32)
                found[name] = raw.reshape(entry["shape"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise damaged from None
    return found


def _torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise ValueError(f"plan(weights={str(path)!r}): a file of torch's needs torch: pip install torch.") from None
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        raise ValueError(
            f"plan(weights={str(path)!r}): this is no checkpoint of plain tensors. Give a safetensors file, or what "
            "torch.save(model.state_dict(), path) wrote."
        ) from None
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise ValueError(f"plan(weights={str(path)!r}): expected a dict of tensors, got {type(state).__name__}.")
    return {
        str(name): x.detach().float().numpy()
        for name, x in state.items()
        if isinstance(x, torch.Tensor) and x.is_floating_point() and x.dim() >= 2
    }
