"""Moments in large pages of memory, where the system gives them to those who ask.

Four large arrays are gone through at once, and with pages of 4 KB addresses of pages alone cost some percent of a step.
"""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LARGE = 1 << 21
"""Bytes of a large page on the processors at hand; where they are larger, what is asked for here may be refused."""
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
HUGEPAGE = 14
"""MADV_HUGEPAGE of Linux: memory that nobody has written to yet comes in large pages, and in a fifth of the time."""


@lru_cache(maxsize=1)
def _advise() -> Any:
    """What asks; None where nobody may, or where large pages come without asking."""
    try:
        if sys.platform != "linux" or "[madvise]" not in SETTING.read_text():
            return None
        found = ctypes.CDLL(None).madvise
    except (AttributeError, OSError):
        return None
    found.restype, found.argtypes = ctypes.c_int, [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return found


def zeros_like(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Zeros that lie as `x` does, in large pages as far as they fill them."""
    made = torch.empty_like(x, dtype=dtype, memory_format=torch.preserve_format)
    if type(made) is Tensor and made.device.type == "cpu" and (advise := _advise()) is not None:
        start = -(-made.data_ptr() // LARGE) * LARGE
        end = (made.data_ptr() + made.numel() * made.element_size()) // LARGE * LARGE
        if start < end:
            advise(start, end - start, HUGEPAGE)  # where it is refused, all stays as it was
    return made.zero_()
