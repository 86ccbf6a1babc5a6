"""Where tensors lie and how, of many at once: small models are stepped in less time than it takes to ask each one.

torch tells it to C (`c/look.c`) through DLPack's table of functions, which torch 2.10 and later have. Where that or the
compiled library is missing, and of tensors that several processes share, each one is asked in Python.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rotational.kernels.native import EMPTY, LIBRARY, library
from rotational.kernels.work import own

OBJECT, ADDRESS, HOW = range(3)
"""Rows of what is found: which object it is; where it lies, `EMPTY` if it has no entries; and a number that is the same
for two of one shape, precision and device that lie alike. Of None the last two are 0."""

VERSION = (1, 3)
"""Of DLPack, at the least; a later major one has other tables."""
NAME = b"dlpack_exchange_api"
_HEADER, _TELL = 16, 3
"""Bytes of the table before its functions, and which of those tells of a tensor."""


@lru_cache(maxsize=1)
def _call() -> Callable[[list[Any], int, int], int] | None:
    """What looks, given a list, its length and where to write; None where there is none."""
    capsule: Any = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None or library() is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    # A function of its own: to give the one of `ctypes.pythonapi` types would give them to the whole process.
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    try:
        table: Any = pointer(("PyCapsule_GetPointer", ctypes.pythonapi))(capsule, NAME)
    except ValueError:  # a capsule of another name
        return None
    major, minor = (ctypes.c_uint32 * 2).from_address(table)
    if major != VERSION[0] or minor < VERSION[1]:
        return None
    tell = (ctypes.c_void_p * 5).from_address(table + _HEADER)[_TELL]
    if tell is None:  # which it need not have
        return None
    get = ctypes.cast(ctypes.pythonapi.PyList_GetItem, ctypes.c_void_p).value
    look = ctypes.PyDLL(str(LIBRARY)).rotational_look  # which, unlike CDLL, keeps Python's lock
    address, count = ctypes.c_void_p, ctypes.c_int64
    look.restype, look.argtypes = count, [address, address, ctypes.py_object, count, address, address]
    none = id(None)

    def call(values: list[Any], n: int, found: int) -> int:
        return look(tell, get, values, n, none, found)

    return call


def look(values: list[Any]) -> np.ndarray | None:
    """What there is to know of these tensors, [3, n]; None where one of them has to be asked in Python."""
    call, n = _call(), len(values)
    if call is None:
        return None
    found = np.empty((3, n), np.int64)
    try:
        return found if call(values, n, found.ctypes.data) == n else None
    except (RuntimeError, TypeError, ValueError, BufferError):  # sparse, no tensor at all, of a type DLPack has not
        return None


def ask(values: list[Any]) -> np.ndarray:
    """The same, asked of each one; of what is no tensor, or has no memory as strides give it, as of None."""
    tensors = [own(x) if isinstance(x, Tensor) and x.layout is torch.strided else None for x in values]
    places = [0 if x is None else x.data_ptr() or (0 if x.numel() else EMPTY) for x in tensors]
    ways = [0 if x is None else hash((x.dtype, x.device, x.shape, _strides(x))) | 1 for x in tensors]
    return np.array([[*map(id, values)], places, ways], np.int64)


def _strides(x: Tensor) -> tuple[int, ...]:
    """Nobody goes along an axis of one entry."""
    return tuple(0 if n == 1 else s for n, s in zip(x.shape, x.stride(), strict=True))
