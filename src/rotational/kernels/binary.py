"""The compiled library, which is built when the package is (`hatch_build.py`, at the root of the project)."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import Any

LIBRARY = Path(__file__).with_name("_native.so")
ABI = 10
"""Of c/table.h; a library of another number was built from other sources."""


@lru_cache(maxsize=1)
def library() -> Any:
    """The compiled step; None where it was not built, or was built from other sources."""
    if not LIBRARY.exists():
        return None
    try:
        found = ctypes.CDLL(str(LIBRARY))
    except OSError:
        return None
    if found.rotational_abi() != ABI:
        return None
    found.rotational_step.restype = found.rotational_borrow.restype = None
    found.rotational_borrow.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    found.rotational_borrow(*_torch_threads())
    found.rotational_step.argtypes = [ctypes.c_void_p]
    return found


def _torch_threads() -> tuple[int | None, int | None]:
    """The addresses of what starts a step on the threads that torch itself uses, and of what tells which one a thread
    is; None where those are not OpenMP's.

    torch loads its OpenMP for the whole process to see.
    """
    try:
        known = ctypes.CDLL(None)
        names = (known.GOMP_parallel, known.omp_get_thread_num)
    except (AttributeError, OSError, TypeError):
        return None, None
    parallel, number = (ctypes.cast(name, ctypes.c_void_p).value for name in names)
    return parallel, number
