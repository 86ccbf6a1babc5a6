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
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path("src/rotational/kernels")
SOURCES = ("step.c", "pool.c")
LIBRARY = KERNELS / "_native.so"
# Not -ffast-math: in a shared library that makes the whole process flush small numbers to zero, and it forgets NaN.
FLAGS = [
    *("-std=c11", "-O3", "-fPIC", "-shared", "-pthread", "-ffp-contract=fast", "-fno-math-errno"),
    *("-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros", "-freciprocal-math"),
]


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
    target = root / LIBRARY
    target.unlink(missing_ok=True)  # one of older sources must not stay
    if sys.platform == "win32":
        return "Windows is not supported by it"
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    command = compiler.split()
    if shutil.which(command[0]) is None:
        command = ["cc"]
    if shutil.which(command[0]) is None:
        return "no C compiler was found"
    sources = [str(root / KERNELS / "c" / name) for name in SOURCES]
    made = target.with_suffix(f".{os.getpid()}")
    said = ""
    # Copies of the loops for several instruction sets, where compiler and system can do that.
    for extra in (["-DROTATIONAL_CLONES"], []):
        done = subprocess.run(
            [*command, *FLAGS, *extra, "-o", str(made), *sources, "-lm"], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            made.replace(target)  # whole or not at all
            return None
        said = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
    made.unlink(missing_ok=True)
    return f"{command[0]} failed ({said})"
