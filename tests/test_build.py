"""The build step: a package is built without a C compiler, and with one that fails, and says so."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "hatch_build.py"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is compiled on Windows")

COMPILER = """#!/bin/sh
echo "$@" >> {log}
case "$*" in *{fails}*) echo "cc: first" >&2; echo "cc: no {fails}" >&2; exit 1;; esac
while [ $# -gt 1 ]; do [ "$1" = -o ] && echo made > "$2"; shift; done
exit 0
"""


@pytest.fixture
def hook(monkeypatch):
    """The file as hatchling loads it; hatchling itself is there only while a package is built."""
    for name in ("hatchling", "hatchling.builders", "hatchling.builders.hooks", "hatchling.builders.hooks.plugin"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    interface = types.ModuleType("hatchling.builders.hooks.plugin.interface")
    interface.BuildHookInterface = type("BuildHookInterface", (), {"__class_getitem__": lambda cls, _: cls})
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    spec = importlib.util.spec_from_file_location("hatch_build_under_test", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def root(hook, tmp_path):
    """A project that holds a library of older sources."""
    (tmp_path / hook.KERNELS / "c").mkdir(parents=True)
    (tmp_path / hook.LIBRARY).write_text("old")
    return tmp_path


def initialized(hook, root):
    """What the hook tells hatchling, and warns of."""
    warnings, data = [], {"artifacts": []}
    instance = hook.CustomBuildHook()
    instance.root, instance.app = str(root), types.SimpleNamespace(display_warning=warnings.append)
    instance.initialize("standard", data)
    return data, warnings


def compiler(root, monkeypatch, fails="nothing"):
    file, log = root / "compiler", root / "log"
    log.touch()
    file.write_text(COMPILER.format(log=log, fails=fails))
    file.chmod(0o755)
    monkeypatch.setenv("CC", str(file))
    return log


def test_without_a_compiler_the_package_is_pure_and_says_so(hook, root, monkeypatch):
    monkeypatch.setattr(hook.shutil, "which", lambda name: None)
    data, warnings = initialized(hook, root)
    assert data == {"artifacts": []}
    assert warnings == ["rotational is built without its C step: no C compiler was found"]
    assert not (root / hook.LIBRARY).exists()  # one of older sources must not stay


@pytest.mark.parametrize("fails", ["rotational_step_base", "-shared"])
def test_with_a_compiler_that_fails_the_package_is_pure_and_says_why(hook, root, monkeypatch, fails):
    compiler(root, monkeypatch, fails)
    data, warnings = initialized(hook, root)
    assert data == {"artifacts": []}
    assert warnings == [f"rotational is built without its C step: {root}/compiler failed (cc: no {fails})"]
    assert [x.name for x in (root / hook.KERNELS).iterdir()] == ["c"]  # nothing half made either


def test_an_instruction_set_that_the_compiler_does_not_know_is_left_out(hook, root, monkeypatch):
    log = compiler(root, monkeypatch, "rotational_step_v4")
    data, warnings = initialized(hook, root)
    assert not warnings
    assert data["artifacts"] == [f"/{hook.LIBRARY}"]
    assert not data["pure_python"]
    assert data["tag"].startswith("py3-none-")
    assert (root / hook.LIBRARY).read_text() == "made\n"
    linked = log.read_text().splitlines()[-1]
    assert "-DROTATIONAL_V3" in linked
    assert "-DROTATIONAL_V4" not in linked


def test_windows_takes_the_other_rungs(hook, root, monkeypatch):
    monkeypatch.setattr(hook.sys, "platform", "win32")
    assert "Windows" in hook.build(root)
    assert not (root / hook.LIBRARY).exists()
