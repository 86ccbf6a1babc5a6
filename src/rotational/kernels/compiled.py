"""torch.compile of the reference step: no mathematics of its own.

Every shape is compiled at its first step, which takes seconds, and on a CPU a C++ compiler; so it is for those who ask
for it (`fused="compiled"`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import lru_cache

import torch

from rotational.kernels import reference
from rotational.kernels.work import Part, nowhere


def available() -> str | None:
    """None where torch can compile; else what is missing."""
    if not hasattr(torch, "compile"):
        return "this torch has no compiler"
    if not torch.cuda.is_available() and not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        return "torch.compile needs a C++ compiler on a CPU; install one, or leave fused=None"
    return None


def refusal(part: Part) -> str | None:
    """Why this parameter takes another rung; None where it takes this one."""
    return "weights without memory, which torch.compile cannot step" if nowhere(part.w) else None


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., reference.State]:
    return torch.compile(reference.advance, dynamic=False)


class Compiled(reference.Reference):
    """The reference, compiled."""

    def __init__(self) -> None:
        self.advance = _compiled()
