"""The step that numba compiles in child processes, and what they share: threads and a cache on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rotational.kernels import jit

MISSING = jit.available()
needs_numba = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")

SCRIPT = """
import os, sys, threading, warnings
import torch
from torch.utils.data import DataLoader, Dataset
from rotational import rules
from rotational.kernels import native
from rotational.kernels.jit import Numba
from rotational.kernels.work import Part, Work
from rotational.neurons import ROWS

assert "numba" not in sys.modules, "imported before the first step"
native.THREAD = 1  # a small step is worth threads too

def turned():
    torch.set_num_threads(1)  # torch's own threads do not survive a fork
    w, rule = torch.arange(100_000.0).sin().view(100, 1000), rules.sgd()
    part = Part(w, None, None, torch.tensor(0.0), False, ROWS, ROWS.norm(w), torch.zeros(100, 1), torch.tensor(0.0))
    work = Work(rule, 0.1, 0.1, 0.01, 0.9, True, False, False, True, [part], [w.cos()])
    kernel = Numba()
    torch.set_num_threads(2)
    for _ in range(3):
        kernel.step([work])
    torch.set_num_threads(1)
    return w

class Steps(Dataset):
    def __len__(self):
        return 1
    def __getitem__(self, i):
        return turned()
"""

CHILDREN = """
if __name__ == "__main__":
    here = turned()
    assert any(t.name.startswith("rotational") for t in threading.enumerate()), "one thread took it all"
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(turned(), here) else 1)
    assert os.waitpid(child, 0)[1] == 0
    for context in ("fork", "spawn"):
        for there in DataLoader(Steps(), batch_size=None, num_workers=1, multiprocessing_context=context):
            assert torch.equal(there, here), context
    assert torch.equal(turned(), here)
"""

WARNED = """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    a, b = turned(), turned()
assert torch.equal(a, b)
found = [str(x.message) for x in caught if x.category is RuntimeWarning]
assert len(found) == 1 and "NUMBA_CACHE_DIR" in found[0] and "or delete " in found[0], found
"""


def script(path: Path, source: str, **environment: str) -> subprocess.Popen[bytes]:
    file = path / "steps.py"
    file.write_text(SCRIPT + source)
    return subprocess.Popen([sys.executable, str(file)], env={**os.environ, **environment}, stderr=subprocess.PIPE)


def finished(process: subprocess.Popen[bytes]) -> None:
    try:
        _, error = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    assert process.returncode == 0, error.decode()


@needs_numba
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forks_after_a_step_and_spawned_processes_step_too(tmp_path: Path) -> None:
    finished(script(tmp_path, CHILDREN))


@needs_numba
def test_a_cache_that_cannot_be_written_costs_one_warning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    finished(script(tmp_path, WARNED, NUMBA_CACHE_DIR=str(tmp_path / "file" / "missing")))


# Nothing is read-only for root: there, whoever writes into the cache is told so by Python.
READ_ONLY = """
import builtins, tempfile
def refuse(kind):
    def opened(*given, **options):
        if str(options.get("dir") or (given or [""])[0]).startswith(os.environ["NUMBA_CACHE_DIR"]):
            raise PermissionError(30, "Read-only file system")
        return kind(*given, **options)
    return opened
tempfile.TemporaryFile, builtins.open = refuse(tempfile.TemporaryFile), refuse(open)
"""


@needs_numba
def test_a_read_only_cache_costs_one_warning(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o555)
    told = READ_ONLY if hasattr(os, "geteuid") and os.geteuid() == 0 else ""
    finished(script(tmp_path, told + WARNED, NUMBA_CACHE_DIR=str(tmp_path / "cache")))
    assert not list((tmp_path / "cache").iterdir())


@needs_numba
@pytest.mark.slow
def test_a_damaged_cache_costs_one_warning_that_says_to_delete_it(tmp_path: Path) -> None:
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    finished(script(tmp_path, "turned()", **cache))
    for file in (tmp_path / "cache").rglob("*.nb[ci]"):
        file.write_bytes(b"")
    finished(script(tmp_path, WARNED + f"assert {cache['NUMBA_CACHE_DIR']!r} in found[0], found\n", **cache))


@needs_numba
@pytest.mark.slow
def test_processes_that_compile_at_once_leave_a_good_cache(tmp_path: Path) -> None:
    places = [tmp_path / str(i) for i in range(4)]
    for place in places:
        place.mkdir()
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    for process in [script(place, "turned()", **cache) for place in places[:3]]:
        finished(process)
    finished(script(places[3], "turned()", **cache))
    assert list((tmp_path / "cache").rglob("*.nbc"))
