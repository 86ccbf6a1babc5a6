"""Whether torch.compile works here, found out before anything depends on it."""

from __future__ import annotations

import torch
from torch import Tensor


def check(device: str) -> None:
    """Compile a function of one line, forward and backward; raises ValueError, saying why, where that fails.

    It needs a C++ compiler on a CPU, Triton on a GPU, and a version of Python that torch's tracer knows.
    """

    def one(x: Tensor) -> Tensor:
        return (x * x.sin()).sum()

    try:
        x = torch.ones(8, device=device, requires_grad=True)
        torch.compile(one)(x).backward()
    except Exception as error:  # every part of it raises errors of its own
        why = next((line.strip() for line in str(error).splitlines() if line.strip()), "").rstrip(".")
        raise ValueError(
            f"--compile: torch.compile does not work here on {device} ({type(error).__name__}: {why}). Leave --compile "
            "out; results differ by rounding alone."
        ) from None
