"""Made-up data, what is said of data that is missing, the cache, and the real sets where they are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from rotational.lab.data import DATA, available, found, load, pairs, reading
from rotational.lab.declare import Data

SHARED = Path(os.environ.get("ROTATIONAL_DATA") or Path(__file__).parents[2] / "shared" / "data")
real = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no folder of real data at {SHARED}")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ROTATIONAL_CACHE", str(tmp_path / "cache"))
    yield
    load.cache_clear()


# Made-up --------------------------------------------------------------------------------------------------------


def test_the_chain_follows_its_table():
    from rotational.lab.data.made import transitions

    text = load(Data("chain", vocabulary=12, length=100_000), None)
    table, counts = transitions(12), np.zeros((12, 12))
    np.add.at(counts, (text.train[:-1], text.train[1:]), 1)
    counts /= counts.sum(1, keepdims=True)
    assert np.abs(counts - table).max() < 0.03
    assert ((table > 0).sum(1) == 4).all()


def test_reversals_are_reversed_and_renamed_one_to_one():
    pytest.importorskip("sacrebleu")
    data = load(Data("reversal"), None)
    known: dict[int, int] = {}
    for i in range(len(data.train.source)):
        source = data.train.source.padded(torch.tensor([i]))[0, :-1].tolist()
        target = data.train.target.padded(torch.tensor([i]))[0, 1:-1].tolist()
        assert all(known.setdefault(a, b) == b for a, b in zip(source, target[::-1], strict=True))
    assert len(set(known.values())) == len(known) == 20


def test_blobs_of_a_class_resemble_each_other():
    data = load(Data("blobs", noise=0.05), None)
    x, y = data.train.pixels.float().flatten(1), data.train.labels
    means = torch.stack([x[y == k].mean(0) for k in range(10)])
    near = torch.cdist(data.test.pixels.float().flatten(1), means).argmin(1)
    assert float((near == data.test.labels).float().mean()) > 0.8


def drawn(part: object) -> torch.Tensor:
    """What a part of any data set holds."""
    if isinstance(part, np.ndarray):
        return torch.from_numpy(part.astype(np.int64))
    return part.source.symbols if isinstance(part, pairs.Part) else part.pixels


@pytest.mark.parametrize("name", ["blobs", "chain", "reversal", "stdlib"])
def test_what_is_made_up_is_always_the_same(name):
    pytest.importorskip("sacrebleu")
    one = load(Data(name), None)
    load.cache_clear()
    two = load(Data(name), None)
    parts = [drawn(p) for d in (one, two) for p in (d.train, d.test)]
    assert torch.equal(parts[0], parts[2])
    assert torch.equal(parts[1], parts[3])


# What is said ---------------------------------------------------------------------------------------------------

ELSEWHERE = sorted(set(DATA) - {"blobs", "chain", "reversal", "stdlib", "digits"})


@pytest.mark.parametrize("name", ELSEWHERE)
def test_missing_data_says_what_is_expected_and_where_it_comes_from(tmp_path, name):
    data = Data(name)
    for package in ("PIL", "sacrebleu"):
        pytest.importorskip(package)
    assert (
        available(data, None)
        == f"Data({name!r}): no folder of data was given. Pass --data DIR, or set ROTATIONAL_DATA."
    )
    said = str(available(data, tmp_path))
    assert said.startswith(f"Data({name!r}): not in {tmp_path}, expected ")
    assert "https://" in said
    assert "there is no folder" in str(available(data, tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match="not in"):
        load(data, tmp_path)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(found, "find_spec", lambda name: None)
    assert available(Data("multi30k"), Path("/x")) == (
        "Data('multi30k'): needs sacrebleu. Run pip install 'rotational[reproduce]'."
    )


def test_mistyped_names_and_options_are_sentences():
    with pytest.raises(ValueError, match=r"Data\('cifar1'\): no such name; write 'cifar10"):
        available(Data("cifar1"), None)
    with pytest.raises(TypeError, match=r"sied=16.*no such option; write 'side'"):
        available(Data("cifar10", sied=16), None)
    with pytest.raises(ValueError, match="expected one of 'any', 'batches', 'tables'"):
        available(Data("cifar10", form="zip"), None)


# The cache ------------------------------------------------------------------------------------------------------


def test_what_was_decoded_is_decoded_again_only_when_the_files_change(tmp_path):
    path, calls = tmp_path / "source", []
    path.write_text("a")

    def make():
        calls.append(1)
        return {"x": torch.arange(len(calls))}

    assert len(found.cached("thing one", [path], make)["x"]) == 1
    assert len(found.cached("thing one", [path], make)["x"]) == 1
    assert len(found.cached("thing two", [path], make)["x"]) == 2
    path.write_text("abc")
    assert len(found.cached("thing one", [path], make)["x"]) == 3
    assert sorted(p.suffix for p in found.cache_folder().iterdir()) == [".pt"] * 3


def test_a_cache_that_is_damaged_or_cannot_be_written_is_a_sentence(tmp_path, monkeypatch):
    path = tmp_path / "source"
    path.write_text("a")
    found.cached("thing", [path], lambda: {"x": torch.zeros(3)})
    (kept,) = found.cache_folder().iterdir()
    kept.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"\.pt: damaged .*Delete it"):
        found.cached("thing", [path], lambda: {"x": torch.zeros(3)})
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ROTATIONAL_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(OSError, match="Set ROTATIONAL_CACHE to a folder"):
        found.cached("thing", [path], lambda: {"x": torch.zeros(3)})


# Real data ------------------------------------------------------------------------------------------------------


@real
def test_real_mnist():
    data = load(Data("mnist"), SHARED)
    assert [len(p.labels) for p in (data.train, data.validation, data.test)] == [54_000, 6_000, 10_000]
    assert float(data.train.pixels.float().mean()) / 255 == pytest.approx(0.1307, abs=1e-3)


@real
def test_real_cifar10_pixels():
    data = load(Data("cifar10", form="batches"), SHARED)
    assert [len(p.labels) for p in (data.train, data.validation, data.test)] == [6851, 761, 761]
    mean = data.train.pixels.float().mean((0, 2, 3)) / 255
    torch.testing.assert_close(mean, torch.tensor(data.statistics[0]), atol=0.01, rtol=0)


@real
@pytest.mark.slow
def test_real_cifar10_of_hugging_face():
    pytest.importorskip("pyarrow")
    pytest.importorskip("PIL")
    data = load(Data("cifar10", form="tables", side=16), SHARED)
    assert [len(p.labels) for p in (data.train, data.validation, data.test)] == [45_000, 5_000, 10_000]
    assert torch.bincount(data.test.labels).tolist() == [1_000] * 10


@real
def test_real_text():
    assert len(load(Data("shakespeare"), SHARED).train) == 1_115_394 - 2 * 55_770
    assert reading.plain(SHARED / "text" / "tinyshakespeare.txt").startswith("First Citizen:")


@real
def test_real_translations():
    pytest.importorskip("sacrebleu")
    data = load(Data("multi30k"), SHARED)
    assert [len(p.source) for p in (data.train, data.validation, data.test)] == [29_000, 1_014, 1_000]
    assert 5_000 < data.form.target < 8_000
    assert pairs.lower_words("A man in an orange hat.")[-2:] == ["hat", "."]


@real
def test_real_wikitext():
    text = load(Data("wikitext2"), SHARED)
    assert text.form.vocabulary == 33_278
    assert [len(text.train), len(text.validation), len(text.test)] == [2_088_628, 217_646, 245_569]
