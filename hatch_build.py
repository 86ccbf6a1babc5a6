"""Builds the C step into the package: `src/rotational/kernels/c` -> `src/rotational/kernels/_native.so`.

Runs when a wheel is built or the project is installed from its sources. Without a C compiler, or on Windows, the
package is built all the same, and takes its steps with numba or with torch's own operations.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path("src/rotational/kernels")
LIBRARY = KERNELS / "_native.so"
# Not -ffast-math: in a shared library that makes the whole process flush small numbers to zero, and it forgets NaN.
FLAGS = [
    *("-std=c11", "-O3", "-fPIC", "-pthread", "-ffp-contract=fast", "-fno-math-errno"),
    *("-Wno-psabi", "-fno-trapping-math", "-fno-signed-zeros"),
]
# The step is compiled once for each, and `c/entry.c`, which asks for just these, chooses when it is called.
SETS = {"base": [], "v3": ["-mavx2", "-mfma"]}
SETS["v4"] = [*SETS["v3"], "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Compile before the files of the wheel are gathered."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the library; mark the wheel as one of this platform if that went well."""
        root = Path(self.root)
        why = build(root)
        if why is None:
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
            build_data["artifacts"].append(f"/{LIBRARY}")
        else:
            self.app.display_warning(f"rotational is built without its C step: {why}")


def build(root: Path) -> str | None:
    """Compile the library; returns why there is none, if there is none."""
    if why := _build(root, root / LIBRARY):
        (root / LIBRARY).unlink(missing_ok=True)  # one of older sources must not stay
    return why


def _build(root: Path, target: Path) -> str | None:
    if sys.platform == "win32":
        return "Windows is not supported by it"
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    command = compiler.split()
    if shutil.which(command[0]) is None:
        command = ["cc"]
    if shutil.which(command[0]) is None:
        return "no C compiler was found"
    sources = root / KERNELS / "c"
    with tempfile.TemporaryDirectory() as folder:
        objects: list[str] = []
        known: list[str] = []
        for name, flags in SETS.items():
            made = str(Path(folder, f"{name}.o"))
            step = [*FLAGS, *flags, f"-DROTATIONAL_STEP=rotational_step_{name}", "-c", str(sources / "step.c")]
            why = _run([*command, *step, "-o", made])
            if why and name == "base":
                return f"{command[0]} failed ({why})"
            if why is None:  # else a compiler for another processor, or one that is too old for this set
                objects.append(made)
                known += [f"-DROTATIONAL_{name.upper()}"] if name != "base" else []
        made = target.with_suffix(f".{os.getpid()}")
        once = [str(sources / f"{name}.c") for name in ("entry", "pool", "look")]
        rest = [*once, *objects, "-lm", "-o", str(made)]
        if why := _run([*command, *FLAGS, *known, "-shared", *rest]):
            made.unlink(missing_ok=True)
            return f"{command[0]} failed ({why})"
    made.replace(target)  # whole or not at all
    return None


def _run(command: list[str]) -> str | None:
    """What a compiler had to say where it failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
