"""Results of other data under the same name are not taken for those of the data at hand."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest

import rotational.paper.figures as paper
from rotational.cli import main
from rotational.lab import workers
from rotational.lab.data import load
from rotational.lab.data.identity import identity
from rotational.lab.declare import Data, Model, Optimizer, Run, grid
from rotational.lab.figures import Arm, Claim, Figure
from rotational.lab.quantities import Of
from rotational.lab.store import RESULT
from rotational.lab.workers import Machine

RUN = Run(Model("mlp", width=8), Data("mnist"), Optimizer("adamw", 0.02, 0.5), 4, 16, every=2, evaluations=2)
ARMS = (Arm("one", grid(RUN, seed=(0, 1))),)
FIGURE = Figure("one", "1", "One", "One.", ARMS, ARMS, ARMS, (), (Claim("It learns", Of("one", "accuracy"), low=0),))


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("ROTATIONAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(paper, "FIGURES", (FIGURE,))
    yield
    load.cache_clear()
    identity.cache_clear()


def idx(values: np.ndarray) -> bytes:
    head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    return gzip.compress(head + values.astype(np.uint8).tobytes())


def mnist(folder: Path, seed: int) -> Path:
    """A hundred digits of noise in the form of their authors."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for part, count in (("train", 100), ("t10k", 40)):
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(rng.integers(0, 256, (count, 28, 28))))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(count) % 10))
    return folder


def reproduced(capsys, out: Path, data: Path) -> tuple[int, str]:
    code = main(["reproduce", "one", "--jobs", "1", "--out", str(out), "--data", str(data)])
    said = capsys.readouterr()
    return code, " ".join((said.out + said.err).split())


def test_other_pictures_of_the_same_name_are_another_identity(tmp_path):
    first, other = mnist(tmp_path / "first", 0), mnist(tmp_path / "other", 1)
    assert identity(Data("mnist"), first) == identity(Data("mnist"), mnist(tmp_path / "copy", 0))
    assert identity(Data("mnist"), first) != identity(Data("mnist"), other)


def test_stored_results_of_other_data_stop_a_reproduction_before_anything_runs(capsys, tmp_path):
    first, other, out = mnist(tmp_path / "first", 0), mnist(tmp_path / "other", 1), tmp_path / "out"
    workers.perform(ARMS[0].runs[0], out, first, Machine(), lambda _: None, lambda: False)  # pyright: ignore
    stored = out / ARMS[0].runs[0].key / RESULT
    before = stored.read_bytes()
    code, said = reproduced(capsys, out, other)
    assert code == 2
    assert "results of runs on other data than those at hand, 1 of mnist. Nothing ran. Point --data to" in said
    assert stored.read_bytes() == before
    assert not (out / ARMS[0].runs[1].key).exists()


def test_results_that_do_not_say_which_data_they_had_are_gone_on_with(capsys, tmp_path, monkeypatch):
    first, other, out = mnist(tmp_path / "first", 0), mnist(tmp_path / "other", 1), tmp_path / "out"
    monkeypatch.setattr(workers, "_of", lambda run, where, result: result)
    for run in ARMS[0].runs:
        workers.perform(run, out, first, Machine(), lambda _: None, lambda: False)  # pyright: ignore
    assert "data" not in json.loads((out / ARMS[0].runs[0].key / RESULT).read_text())["versions"]
    code, said = reproduced(capsys, out, other)
    assert code == 0, said
