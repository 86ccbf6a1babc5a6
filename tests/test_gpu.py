"""The step for GPUs where there is none: its laws in Triton's interpreter, and what Triton's compiler makes of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rotational.kernels import gpu
from rotational.kernels.gpu import Form, options_of

triton = pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
# Triton to 3.8 builds syntax trees with a field left out, of which Python 3.13 and later warn at whoever compiles.
pytestmark = pytest.mark.filterwarnings("ignore:AnnAssign.__init__ missing:DeprecationWarning")

HERE = Path(__file__).parent
TYPES = {
    **dict.fromkeys(("jobs", "grads", "outs"), "*i64"),
    **dict.fromkeys(("tasks", "fresh"), "*i32"),
    **dict.fromkeys(("own", "coefficients"), "*fp32"),
    **dict.fromkeys(("parts", "numbers"), "*fp64"),
    **dict.fromkeys(("slots", "count"), "i32"),
}
ROW = Form("tiles", True, 16384, 1, 1, True, True, 1, True, False, torch.float32, torch.float32, False)
COLUMN = ROW._replace(block=16, rows=4, axis=0, dense=False, vector=False, coupled=True)
ROUNDED = ROW._replace(block=32, weights=torch.bfloat16, moments=torch.bfloat16, dither=True)

compiles = pytest.mark.skipif(gpu.interpreted(), reason="Triton interprets in this process")


def test_laws_hold_in_the_interpreter():
    """In a process of its own: the interpreter has to be chosen before Triton is loaded."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "gpu_laws.py")]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=HERE.parent)
    assert done.returncode == 0, done.stdout + done.stderr


@compiles
def test_without_a_gpu_it_says_so():
    if not torch.cuda.is_available():
        assert "GPU" in str(gpu.available())


# What the compiler makes of it ----------------------------------------------------------------------------------


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """Compiles a kernel for an H100; no GPU is needed."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from rotational.kernels import gpu_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def compile_(name: str, form: Form, **constants):
        kernel = getattr(gpu_kernels, name)
        known = options_of(form) | constants
        names = [p.name for p in kernel.params]
        fixed = {n: known[n] for n in names if n in known}
        signature = {n: "constexpr" if n in fixed else TYPES[n] for n in names}
        aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n][0] == "*"}
        options = {key: known[key] for key in ("num_warps", "enable_fp_fusion")}
        source = ASTSource(kernel, signature, constexprs=fixed, attrs=aligned)
        return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)

    return compile_


def usage(program, folder: Path) -> dict[str, int]:
    """Registers of a thread, and bytes that did not fit them (STACK, LOCAL), as the driver's own tool reads them."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        pytest.skip("this build of Triton brings no cuobjdump")
    (folder / "program.cubin").write_bytes(program.asm["cubin"])
    said = subprocess.run([tool, "-res-usage", folder / "program.cubin"], capture_output=True, text=True, check=True)
    return {name: int(n) for name, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", said.stdout)}


KERNELS = {
    "prepare": ("prepare", ROW, {}),
    "tiles of columns": ("tiles", COLUMN, {"TURNS": True, "DITHER": False}),
    "tiles rounded at random": ("tiles", ROUNDED, {"TURNS": True, "DITHER": True}),
    "tiles that are only measured": ("tiles", ROUNDED._replace(scale=2), {"TURNS": False, "DITHER": False}),
    "sums": ("sums", COLUMN, {}),
    "between": ("between", COLUMN, {"TURNS": True}),
    "apply": ("apply", COLUMN, {"TURNS": True, "DITHER": False}),
    "apply of the plain rule": ("apply", ROW._replace(block=512), {"TURNS": False, "DITHER": False}),
}


@compiles
@pytest.mark.parametrize(("kernel", "form", "constants"), KERNELS.values(), ids=KERNELS)
def test_every_kernel_compiles(compiled, kernel, form, constants):
    assert "cubin" in compiled(kernel, form, **constants).asm


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("block", [1024, 4096, 8192, 16384])
def test_rows_fit_the_registers(compiled, tmp_path, block):
    program = compiled("tiles", ROW._replace(block=block), TURNS=True, DITHER=False)
    found = usage(program, tmp_path)
    assert (found["STACK"], found["LOCAL"]) == (0, 0), found
    assert found["REG"] * 32 * options_of(ROW._replace(block=block))["num_warps"] <= 65536
    # g, m, v and w are each read once, 16 bytes at a time.
    wide = len(re.findall(r"ld\.global\S*\.v4\.b32", program.asm["ptx"]))
    assert wide == 4 * block // (4 * 32 * options_of(ROW._replace(block=block))["num_warps"])
