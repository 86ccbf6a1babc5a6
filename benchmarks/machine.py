"""The machine that a benchmark ran on, for the record beside its numbers."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch

import rotational


def machine() -> dict[str, object]:
    """What the numbers depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": named[0] if named else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "rotational": rotational.__version__,
        "commit": commit(),
    }


def commit() -> str | None:
    """The commit that was measured, with "-dirty" where what runs differs from it; None outside of a repository."""
    try:
        known = _git("describe", "--always", "--exclude=*")
        # Not what an earlier benchmark of the same series has written.
        changed = _git("status", "--porcelain", "--", ":/src", ":/hatch_build.py", ":/benchmarks/*.py")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{known}-dirty" if changed else known


def _git(*command: str) -> str:
    here = Path(__file__).parent
    return subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
