"""Loaders of images, each on small files in the form in which the data is published."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import sys
import tarfile
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from rotational.lab.data import available, found, load, small, tables
from rotational.lab.data.images import Stored, augmented, drawn, images
from rotational.lab.declare import Data
from rotational.lab.models import ImageForm


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ROTATIONAL_CACHE", str(tmp_path / "cache"))
    yield
    load.cache_clear()


def colours(count: int, side: int = 32) -> np.ndarray:
    """Images of one colour each, which tell their number."""
    pixels = np.zeros((count, 3, side, side), dtype=np.uint8)
    pixels[:, 0] = np.arange(count)[:, None, None]
    pixels[:, 1] = 200
    return pixels


# CIFAR: python batches ------------------------------------------------------------------------------------------


def batch(first: int, count: int, labels: str, keys: type = bytes) -> bytes:
    held = {
        "data": colours(first + count)[first:].reshape(count, -1),
        labels: [(first + i) % 10 for i in range(count)],
        "filenames": [b"x.png"] * count,
    }
    return pickle.dumps({(k.encode() if keys is bytes else k): v for k, v in held.items()}, protocol=2)


def cifar10_files() -> dict[str, bytes]:
    train = {f"data_batch_{i}": batch(8 * (i - 1), 8, "labels") for i in range(1, 6)}
    return {**train, "test_batch": batch(40, 10, "labels", str), "batches.meta": b"ignored"}


def cifar100_files() -> dict[str, bytes]:
    return {"train": batch(0, 40, "fine_labels"), "test": batch(40, 10, "fine_labels"), "meta": b"ignored"}


def write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def write_tar(path: Path, inside: str, files: dict[str, bytes], mode: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in reversed(files.items()):  # any order
            info = tarfile.TarInfo(f"{inside}/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


FORMS = {
    "folder": lambda w: write(w / "cifar-10-batches-py", cifar10_files()),
    "folder in folder": lambda w: write(w / "cifar10" / "cifar-10-batches-py", cifar10_files()),
    "the folder itself": lambda w: write(w / "x", {}) or [(w / n).write_bytes(d) for n, d in cifar10_files().items()],
    "tar.gz": lambda w: write_tar(w / "cifar-10-python.tar.gz", "cifar-10-batches-py", cifar10_files(), "w:gz"),
    "tar.xz": lambda w: write_tar(w / "cifar10" / "part.tar.xz", "cifar-10-batches-py", cifar10_files(), "w:xz"),
}


@pytest.mark.parametrize("form", FORMS)
def test_cifar10_in_every_form_of_its_authors(tmp_path, form):
    where = tmp_path / "data"
    where.mkdir()
    FORMS[form](where)
    data = load(Data("cifar10"), where)
    assert data.form == ImageForm(10, 3, 32)
    assert [len(p.labels) for p in (data.train, data.validation, data.test)] == [36, 4, 10]
    everything = torch.cat([data.train.pixels, data.validation.pixels, data.test.pixels])
    labels = torch.cat([data.train.labels, data.validation.labels, data.test.labels])
    numbers = everything[:, 0, 0, 0].long()
    assert sorted(numbers.tolist()) == list(range(50))
    assert torch.equal(labels, numbers % 10)  # each image still has its own label
    assert sorted(data.test.pixels[:, 0, 0, 0].tolist()) == list(range(40, 50))
    assert int(everything[3, 1, 5, 6]) == 200


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_a_batch_that_is_not_there_is_missed(tmp_path, form):
    kept = {name: data for name, data in cifar10_files().items() if name not in ("data_batch_2", "data_batch_5")}
    if form == "folder":
        write(tmp_path / "cifar-10-batches-py", kept)
    else:
        write_tar(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", kept, "w:gz")
    with pytest.raises(found.MissingError, match=r"data_batch_2, data_batch_5 missing in .*cifar-10-"):
        load(Data("cifar10"), tmp_path)


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_cifar100(tmp_path, form):
    where = tmp_path / "data"
    if form == "folder":
        write(where / "cifar-100-python", cifar100_files())
    else:
        write_tar(where / "cifar-100-python.tar.gz", "cifar-100-python", cifar100_files(), "w:gz")
    data = load(Data("cifar100"), where)
    assert data.form.classes == 100
    assert len(data.train.labels) == 36


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    write(tmp_path / "data" / "cifar-10-batches-py", {**cifar10_files(), "test_batch": pickle.dumps(Evil())})
    with pytest.raises(ValueError, match="test_batch: not a python batch of CIFAR"):
        load(Data("cifar10"), tmp_path / "data")
    assert not (tmp_path / "ran").exists()


def test_a_damaged_tar_is_a_sentence(tmp_path):
    path = tmp_path / "data" / "cifar-10-python.tar.gz"
    write_tar(path, "cifar-10-batches-py", cifar10_files(), "w:gz")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="cifar"):
        load(Data("cifar10"), tmp_path / "data")


# Tables of Hugging Face -----------------------------------------------------------------------------------------


def rows(first: int, count: int, kind: str = "PNG") -> list[dict[str, object]]:
    image = pytest.importorskip("PIL.Image")
    made = []
    for i, pixels in enumerate(colours(first + count)[first:], first):
        file = io.BytesIO()
        image.fromarray(pixels.transpose(1, 2, 0)).save(file, kind, **({"quality": 95} if kind == "JPEG" else {}))
        made.append({"img": {"bytes": file.getvalue(), "path": None}, "label": i % 10})
    return made


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_cifar10_as_hugging_face_has_it(tmp_path, form, kind):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    where = tmp_path / "data"
    folder = where / "cifar10" / "plain_text"
    for split, first, count in (("train", 0, 40), ("test", 40, 10)):
        table = pa.Table.from_pylist(rows(first, count, kind))
        if form == "parquet":
            folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
        else:  # save_to_disk
            (where / "cifar10" / split).mkdir(parents=True)
            path = str(where / "cifar10" / split / "data-00000-of-00001.arrow")
            with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
    data = load(Data("cifar10", augment=False), where)
    assert [len(p.labels) for p in (data.train, data.validation, data.test)] == [36, 4, 10]
    red = data.train.pixels[:, 0, 9, 9].long()
    assert (red % 10 - data.train.labels).abs().max() <= (0 if kind == "PNG" else 9)
    assert sorted(red.tolist() + data.validation.pixels[:, 0, 9, 9].tolist()) == list(range(40)) or kind == "JPEG"
    assert available(Data("cifar10", form="batches"), where) is not None


def test_tables_that_are_none_and_lack_columns_are_sentences(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "train.parquet"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"train.parquet: not a readable table"):
        list(tables.columns([path], ["a"]))
    pq.write_table(pa.table({"b": [1]}), path)
    with pytest.raises(ValueError, match="expected columns a, found b"):
        list(tables.columns([path], ["a"]))


# Images: what is done with them ---------------------------------------------------------------------------------


def test_images_are_moved_and_mirrored_within_their_frame():
    g = torch.Generator().manual_seed(0)
    x = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8).expand(200, 3, 8, 8)
    moved = augmented(x, *drawn(200, g, flip=True, shift=2), shift=2)
    assert moved.shape == x.shape
    framed = torch.nn.functional.pad(x[0], (2,) * 4)
    allowed = [
        f[:, r : r + 8, c : c + 8] for f in (framed, framed.flip(2)) for r in range(5) for c in range(5)
    ]  # mirroring the frame mirrors the moved images
    kinds = {next(i for i, a in enumerate(allowed) if torch.equal(a, image)) for image in moved}
    assert len(kinds) > 40  # of 50
    held = Stored(x, torch.zeros(200), flip=True, shift=2)
    index, rows = torch.arange(100).flip(0), torch.tensor([5, 97, 6])
    whole, part = (held.take(index, torch.Generator().manual_seed(5), r) for r in (slice(None), rows))
    assert torch.equal(whole[rows], part)


def test_validation_does_not_depend_on_limits_and_shares_nothing_with_training():
    x = torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1)
    y = torch.zeros(100, dtype=torch.long)

    def made(limit: int, held: int):
        return images((x, y), (x, y), 2, ((0.5,), (0.5,)), flip=False, shift=0, limit=limit, held=held, smoothing=0.0)

    whole, part = made(0, 0), made(20, 4)
    assert [len(p.labels) for p in (whole.train, whole.validation, whole.test)] == [90, 10, 100]
    assert [len(p.labels) for p in (part.train, part.validation, part.test)] == [20, 4, 4]
    kept, out = (set(p.pixels.flatten().tolist()) for p in (whole.train, whole.validation))
    assert kept.isdisjoint(out)
    assert set(part.train.pixels.flatten().tolist()) <= kept
    assert set(part.validation.pixels.flatten().tolist()) <= out


def test_wrong_labels_are_a_sentence():
    x, y = torch.zeros(20, 1, 2, 2, dtype=torch.uint8), torch.full((20,), 7)
    with pytest.raises(ValueError, match="expected labels below 5, found 7"):
        images((x, y), (x, y), 5, ((0.5,), (0.5,)), flip=False, shift=0, limit=0, held=0, smoothing=0.0)


def test_smaller_images_are_averages(tmp_path):
    write(tmp_path / "data" / "cifar-10-batches-py", cifar10_files())
    data = load(Data("cifar10", side=16), tmp_path / "data")
    assert data.form.side == 16
    assert data.train.pixels.shape[1:] == (3, 16, 16)
    assert torch.equal(data.train.pixels[:, 0, 0, 0].long() % 10, data.train.labels)


def test_pixels_are_normalised_by_channel(tmp_path):
    write(tmp_path / "data" / "cifar-10-batches-py", cifar10_files())
    data = load(Data("cifar10"), tmp_path / "data")
    x = data.floats(torch.full((2, 3, 32, 32), 255, dtype=torch.uint8))
    torch.testing.assert_close(
        x[0, :, 0, 0], torch.tensor([(1 - m) / s for m, s in zip(*data.statistics, strict=True)])
    )
    assert x.is_contiguous()  # channels last corrupts memory on a CPU, see `Images.floats`


# MNIST ----------------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw", "."])
def test_mnist_as_idx(tmp_path, ending, folder):
    where = tmp_path / folder
    where.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 30), ("t10k", 5)):
        labels = np.arange(count, dtype=np.uint8) % 10
        pixels = np.tile(labels[:, None, None], (1, 28, 28))
        for name, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            raw = idx(array)
            (where / f"{part}-{name}-ubyte{ending}").write_bytes(gzip.compress(raw) if ending else raw)
    data = load(Data("mnist"), tmp_path)
    assert data.form == ImageForm(10, 1, 28)
    assert [len(p.labels) for p in (data.train, data.validation, data.test)] == [27, 3, 5]
    assert torch.equal(data.train.pixels[:, 0, 3, 4].long(), data.train.labels)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not an idx file"),
        (b"\0\0\x0d\x01" + b"\0" * 9, "not an idx file of bytes"),
        (idx(np.zeros((3, 2), np.uint8))[:-1], r"expected 6 bytes of shape \(3, 2\), found 5"),
        (idx(np.zeros((3, 2), np.uint8))[:6], "expected"),
    ],
)
def test_a_damaged_idx_is_a_sentence(tmp_path, content, says):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says):
        small.idx(path)
    packed = tmp_path / "x.gz"
    packed.write_bytes(gzip.compress(content)[:-6])
    with pytest.raises(ValueError, match=r"x\.gz: cannot be read"):
        small.idx(packed)


def test_digits_of_scikit_learn(monkeypatch):
    parts = {name: types.ModuleType(name) for name in ("sklearn", "sklearn.datasets")}
    labels = np.arange(400) % 10
    held = types.SimpleNamespace(images=np.tile(labels[:, None, None] * 1.6, (1, 8, 8)), target=labels)
    parts["sklearn.datasets"].load_digits = lambda: held
    parts["sklearn"].datasets = parts["sklearn.datasets"]
    for name, module in parts.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(found, "find_spec", lambda name: name)
    data = load(Data("digits"), None)
    assert data.form == ImageForm(10, 1, 8)
    assert [len(p.labels) for p in (data.train, data.validation, data.test)] == [90, 10, 300]
    assert torch.equal((data.train.pixels[:, 0, 2, 3].double() / 25.5).round().long(), data.train.labels)


def test_two_data_sets_in_one_folder_are_told_apart(tmp_path):
    write_tar(tmp_path / "cifar-100-python.tar.gz", "cifar-100-python", cifar100_files(), "w:gz")
    assert available(Data("cifar100"), tmp_path) is None
    assert "not in" in str(available(Data("cifar10"), tmp_path))
    write_tar(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", cifar10_files(), "w:gz")
    assert load(Data("cifar10"), tmp_path).form.classes == 10
