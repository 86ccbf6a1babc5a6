"""The architecture, checked over the source: who may import whom, how long files are, what the public face shows."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator, Set
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import rotational
from rotational import _HOME

SRC = Path(rotational.__file__).parent

# Who may import whom: a file or package -> the files and packages of ours that it may import. Entries inside a
# package see each other; the entry with the longest name that fits a file is the one that holds for it. An import
# counts wherever it stands: in a function, and for type checkers alone.
ALLOWED: dict[str, set[str]] = {
    # the words
    "_array": set(),
    "_check": set(),
    "neurons": {"_array"},
    "memory": set(),
    "scale": set(),
    "rule": {"memory", "scale"},
    "rules": {"_check", "memory", "scale", "rule"},
    "layers": {"_check", "neurons"},
    # two independent witnesses
    "polar": {"_check"},
    "correlation": {"memory", "scale", "rule", "polar"},
    "dynamics": {"memory", "scale", "rule", "correlation", "polar"},
    "theory": {"_check", "memory", "scale", "rule", "correlation", "dynamics"},
    "walk": {"_check", "neurons", "scale", "rule"},
    # a run that has not begun
    "schedulers": {"_check"},
    "mixtures": {"schedulers"},
    "schedule": {"_check", "schedulers"},
    "outlook": {"rule", "report", "scale"},
    "limits": {"dynamics", "scale"},
    "forecasts": {
        "_check",
        "correlation",
        "dynamics",
        "given",
        "limits",
        "outlook",
        "rule",
        "scale",
        "scaling",
        "schedule",
        "theory",
    },
    "given": {"_check", "correlation", "dynamics", "rule", "scale", "scaling", "theory", "weights"},
    "scaling": {"memory", "rule", "scale"},
    "retargeting": {"_check", "rule", "scaling", "theory"},
    "angles": {"_check", "records", "layers"},
    "translation": {"_check", "angles", "correlation", "rule"},
    "unmatched": {"correlation", "memory", "rule", "scale", "translation"},
    "matching": {"correlation", "forecasts", "outlook", "rule", "scale", "theory", "translation"},
    "translating": {
        *("_check", "control", "correlation", "matching", "optim.recognise", "angles", "rule", "scale", "schedule"),
        *("theory", "translation", "unmatched"),
    },
    "advice": {"outlook", "remedies", "scale"},
    "remedies": {"outlook"},
    "shapes": {"_check"},
    "weights": set(),
    # control
    "rotate": {"_array", "neurons"},
    "control": {"_check", "neurons", "scale", "rule", "theory"},
    "kernels": {"neurons", "memory", "scale", "rule", "rotate"},
    "optim": {
        *("_check", "changes", "neurons", "layers", "scale", "rule", "rules", "control", "rotate", "kernels", "theory"),
    },
    "optim.recognise": {"rule", "rules"},
    "runs": {"control", "correlation", "forecasts", "outlook", "rule", "scale", "theory"},
    "prediction": {
        *("_check", "layers", "neurons", "rule", "scale", "theory", "control", "optim.recognise"),
        *("mixtures", "momenta", "predicted", "runs", "schedulers", "weights"),
    },
    "predicted": {"outlook", "rule", "theory"},
    "momenta": {"correlation", "memory", "rule", "runs", "scale", "schedulers"},
    # measuring; the monitor names the rule and never the prediction, but for one call: log.report()
    "_hooks": set(),
    "changes": {"neurons"},
    "records": set(),
    "monitor": {"_check", "_hooks", "changes", "neurons", "layers", "records", "rule", "optim.recognise", "report"},
    # the edges
    "expected": {"correlation", "forecasts", "outlook", "records", "rule", "scale", "theory"},
    "report": {
        *("expected", "outlook", "records"),
        *("lab.declare", "lab.figures", "lab.measures", "lab.reproduce", "lab.verdicts"),
    },
    "lab": {
        *("_check", "_hooks", "expected", "layers", "optim", "monitor", "neurons", "records"),
        # what runs are compared with, and what needs no training
        *("control", "forecasts", "rule", "rules", "theory", "walk"),
    },
    "paper": {"lab.declare", "lab.figures", "lab.quantities"},
    "cli": {
        *("_check", "rule", "rules", "theory", "prediction", "optim", "monitor", "records", "report", "lab"),
        *("advice", "forecasts", "outlook", "paper", "remedies", "runs", "scale", "shapes", "weights"),
    },
    "__main__": {"cli"},
    "__init__": {
        *("forecasts", "layers", "monitor", "neurons", "optim", "outlook", "prediction", "angles", "retargeting"),
        *("rule", "rules", "theory", "translating", "translation", "walk"),
    },
}

ON_CALL = {("monitor", "report"), ("outlook", "report"), ("angles", "layers"), ("prediction", "layers")}
"""Edges that may stand in a function only."""

WITHOUT_TORCH = (
    *("records", "memory", "scale", "rule", "rules", "correlation", "theory", "walk", "neurons", "rotate", "control"),
    *("optim.recognise", "prediction", "report.page", "cli"),
    *("advice", "remedies", "shapes", "weights", "runs", "report.outlook", "translating"),
    *("translation", "unmatched", "matching"),
    *("paper.figures", "lab.reproduce", "lab.reading", "report.figure_table"),
    *(
        "schedule",
        "schedulers",
        "mixtures",
        "outlook",
        "forecasts",
        "limits",
        "scaling",
        "retargeting",
        "angles",
        "polar",
        "expected",
    ),
)
"""What loads without torch."""


# Reading the source -----------------------------------------------------------------------------------------


def modules() -> dict[str, str]:
    """Module name within the package -> source."""
    found: dict[str, str] = {}
    for path in sorted(SRC.rglob("*.py")):
        parts = path.relative_to(SRC).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path.read_text()
    return found


def imported(tree: ast.AST, *, top_level: bool = False) -> set[str]:
    """Modules of ours that a file imports, anywhere or outside functions; the face itself is "__init__"."""
    found: set[str] = set()
    for node in _outside_functions(tree) if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "rotational"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rotational":
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {_module(full.removeprefix("rotational").removeprefix(".")) for full in found}


def _outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from _outside_functions(node)


def _module(name: str) -> str:
    """The module behind a dotted name: a name that is no module is an attribute, and a public one has a home."""
    if name in _HOME:
        return _HOME[name]
    while name and not _is_module(name):
        name = name.rpartition(".")[0]
    return name or "__init__"


def _is_module(name: str) -> bool:
    path = SRC.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def entry(module: str) -> str | None:
    """The entry of the table that holds for a module."""
    fitting = [key for key in ALLOWED if within(module, key)]
    return max(fitting, key=len, default=None)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def faults(name: str, source: str) -> list[str]:
    """What the table forbids in one file, in words."""
    own, tree = entry(name), ast.parse(source)
    if own is None:
        return [f"{name} is not in the table"]
    allowed = ALLOWED[own] | {own}
    found = [
        f"{name} imports {other}"
        for other in sorted(imported(tree))
        if entry(other) not in allowed and not any(within(other, a) for a in allowed)
    ]
    found += [
        f"{name} imports {other} outside a function"
        for other in sorted(imported(tree, top_level=True))
        if (own, entry(other)) in ON_CALL
    ]
    if any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree)):
        found.append(f"{name} imports relatively; write the full name")
    dynamic = {"import_module", "__import__"}
    called = {getattr(n.func, "id", getattr(n.func, "attr", None)) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    if called & dynamic and own != "__init__":
        found.append(f"{name} imports by name at run time")
    return found


def reachable(start: str, *, but: Set[tuple[str, str]] = frozenset()) -> set[str]:
    """All modules that a module leads to, by any path of imports."""
    sources, found, open_ends = modules(), set[str](), [start]
    while open_ends:
        name = open_ends.pop()
        for other in imported(ast.parse(sources[name])):
            if other not in found and (entry(name), entry(other)) not in but:
                found.add(other)
                open_ends.append(other)
    return found


# Who imports whom ---------------------------------------------------------------------------------------------


def test_every_import_is_one_that_the_table_allows() -> None:
    assert [fault for name, source in modules().items() for fault in faults(name, source)] == []


def test_the_table_names_only_what_exists() -> None:
    named = {*ALLOWED, *(other for allowed in ALLOWED.values() for other in allowed)}
    assert {name for name in named if not _is_module(name)} == set()


FORBIDDEN = {
    "the witness asks the prediction": ("monitor", "from rotational import theory"),
    "under another name": ("monitor", "import rotational.theory as records"),
    "by one of its names": ("monitor", "from rotational.theory import equilibrium"),
    "through the public face": ("monitor", "from rotational import equilibrium"),
    "in a function": ("monitor", "def f():\n    from rotational.prediction import predict"),
    "for types alone": ("walk", "import typing\nif typing.TYPE_CHECKING:\n    from rotational import theory"),
    "in a class, in an if": ("theory", "class A:\n    if True:\n        from rotational.walk import Trace"),
    "relatively": ("walk", "from . import theory"),
    "relatively, even if near": ("report.page", "from .charts import Arm"),
    "the whole face": ("walk", "import rotational"),
    "all of it": ("walk", "from rotational import *"),
    "at run time": ("walk", "import importlib\nimportlib.import_module('rotational.theory')"),
    "a package for its part": ("prediction", "from rotational.optim import base"),
    "a part for its package": ("optim.recognise", "from rotational.optim.base import RotationalOptimizer"),
    "on call only": ("monitor", "from rotational.report import page"),
    "a file that nobody placed": ("surprise", ""),
    "a file in no package": ("surprise.inner", "import os"),
}


@pytest.mark.parametrize(("name", "source"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_a_forbidden_import_is_seen(name: str, source: str) -> None:
    assert len(faults(name, source)) == 1


PERMITTED = {
    "words": ("monitor", "import os, torch\nfrom rotational import _check, records"),
    "a part of a package": ("monitor", "from rotational.optim.recognise import recognise"),
    "on call": ("monitor", "def report():\n    from rotational.report import page"),
    "neighbours": ("report.page", "from rotational.report import arm\nfrom rotational.report.charts import Arm"),
    "names by their homes": ("lab.demo", "from rotational import watch, groups, AdamW"),
    "all of a package": ("optim.named", "from rotational.optim import base, recognise, checkpoint"),
}


@pytest.mark.parametrize(("name", "source"), PERMITTED.values(), ids=PERMITTED)
def test_an_allowed_import_passes(name: str, source: str) -> None:
    assert faults(name, source) == []


def test_witnesses_do_not_know_each_other_by_any_path() -> None:
    assert "walk" not in reachable("theory")
    assert "theory" not in reachable("walk")
    assert not {"theory", "prediction", "walk"} & reachable("monitor", but=ON_CALL)
    assert "theory" in reachable("monitor")  # by way of the report: so the search does see paths
    assert {"memory", "scale", "rule", "correlation"} <= reachable("theory")


def test_reports_and_predictions_load_without_torch() -> None:
    names = ", ".join(f"rotational.{name}" for name in WITHOUT_TORCH)
    check = "assert 'torch' not in sys.modules, sorted(m for m in sys.modules if 'rotational' in m)"
    subprocess.run([sys.executable, "-c", f"import sys, rotational, {names}; {check}"], check=True)
    heavy = subprocess.run([sys.executable, "-c", f"import sys, rotational.monitor; {check}"], capture_output=True)
    assert heavy.returncode != 0  # so the check can fail
    assert b"AssertionError" in heavy.stderr


# How long files are -------------------------------------------------------------------------------------------


def test_files_are_short() -> None:
    lengths = {
        str(path.relative_to(SRC)): len(path.read_text().splitlines())
        for path in SRC.rglob("*")
        if path.suffix in (".py", ".js", ".css")
    }
    assert {name: n for name, n in lengths.items() if n > 400} == {}
    assert statistics.median(n for name, n in lengths.items() if name.endswith(".py")) <= 150


# The public face ------------------------------------------------------------------------------------------------


def explained(value: Any) -> bool:
    """A docstring with an example; a module may leave the examples to all its public functions."""
    if isinstance(value, ModuleType):
        own = [v for k, v in vars(value).items() if k[0] != "_" and getattr(v, "__module__", None) == value.__name__]
        return bool(value.__doc__ and own) and all(explained(v) for v in own if callable(v))
    return ">>> " in (value.__doc__ or "")


@pytest.mark.parametrize("name", rotational.__all__)
def test_every_public_name_is_there_and_explained(name: str) -> None:
    assert name in dir(rotational)
    assert explained(getattr(rotational, name))


def test_the_public_face_is_sorted_and_complete() -> None:
    assert sorted(rotational.__all__) == sorted({*_HOME, "rules", "walk"})
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rotational.nothing
