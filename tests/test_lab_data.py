"""Loaders, each on small files in the form in which the data is published, and on the real sets where they are."""

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

from rotational.lab.data import DATA, available, found, load, pairs, reading, small, tables
from rotational.lab.data.images import augmented, images
from rotational.lab.declare import Data
from rotational.lab.models import ImageForm, PairForm, TextForm

SHARED = Path(os.environ.get("ROTATIONAL_DATA") or Path(__file__).parents[2] / "shared" / "data")
real = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no folder of real data at {SHARED}")


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
    moved = augmented(x, g, flip=True, shift=2)
    assert moved.shape == x.shape
    framed = torch.nn.functional.pad(x[0], (2,) * 4)
    allowed = [
        f[:, r : r + 8, c : c + 8] for f in (framed, framed.flip(2)) for r in range(5) for c in range(5)
    ]  # mirroring the frame mirrors the moved images
    kinds = {next(i for i, a in enumerate(allowed) if torch.equal(a, image)) for image in moved}
    assert len(kinds) > 40  # of 50
    again = [augmented(x, torch.Generator().manual_seed(5), True, 2) for _ in range(2)]
    assert torch.equal(*again)


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


# ImageNet -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder_of_images(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for split, count in (("train", 10), ("val", 3)):
        for label, name in enumerate(("n01", "n02")):
            folder = tmp_path / "imagenet" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.full((60 + i, 90, 3), 250 * label, dtype=np.uint8)
                pixels[:, :45, 1] = 100  # the left half, so that mirroring shows
                image.fromarray(pixels).save(folder / f"{i}.JPEG", quality=95)
    return tmp_path


def test_imagenet_as_an_image_folder(folder_of_images):
    data = load(Data("imagenet", side=32), folder_of_images)
    assert data.form == ImageForm(2, 3, 32)
    assert [len(p.labels) for p in (data.train, data.validation, data.test)] == [18, 2, 6]
    index = torch.arange(18)
    one, two = (data.train.take(index, torch.Generator().manual_seed(4)) for _ in range(2))
    assert one.shape == (18, 3, 32, 32)
    assert one.dtype == torch.uint8
    assert torch.equal(one, two)
    assert not torch.equal(one, data.train.take(index, torch.Generator().manual_seed(5)))
    red = one[:, 0].float().mean((1, 2))
    assert torch.equal(red > 125, data.train.labels == 1)
    shown = data.test.take(torch.arange(6), None)
    left, right = shown[..., 1:12].float(), shown[..., 20:].float()
    assert (left[:, 1].mean((1, 2)) - 100).abs().max() < 10
    assert ((right[:, 1].mean((1, 2)) - 250 * data.test.labels).abs() < 10).all()


def test_an_image_that_is_none_is_a_sentence(folder_of_images):
    for path in (folder_of_images / "imagenet" / "val" / "n01").iterdir():
        path.write_bytes(b"nothing")
    data = load(Data("imagenet", side=32), folder_of_images)
    with pytest.raises(ValueError, match=r"JPEG: not a readable image"):
        data.test.take(torch.arange(6), None)


# Text -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "ending"), [("text", ""), ("novels", ".gz"), (".", ".gz")])
def test_characters_of_plain_and_gzipped_text(tmp_path, folder, ending):
    said = "It was the best of times.\n" * 100
    (tmp_path / folder).mkdir(exist_ok=True)
    data = gzip.compress(said.encode()) if ending else said.encode()
    (tmp_path / folder / f"novels.txt{ending}").write_bytes(data)
    text = load(Data("novels", context=8), tmp_path)
    assert text.form == TextForm(98, 8)
    assert [len(p) for p in (text.train, text.validation, text.test)] == [2340, 130, 130]
    x, y = text.windows(text.train, torch.tensor([0, 5]))
    assert x.dtype == torch.int64
    assert torch.equal(x[:, 1:], y[:, :-1])
    from rotational.lab.text import encode

    assert torch.equal(x[0], encode(said[:8]))
    assert len(load(Data("novels", context=8, limit=1000), tmp_path).train) == 900


def test_text_that_is_none_and_too_short_is_a_sentence(tmp_path):
    path = tmp_path / "input.txt"
    path.write_bytes(b"\xff\xfe\xff" * 100)
    with pytest.raises(ValueError, match=r"input.txt: not text in UTF-8"):
        load(Data("shakespeare"), tmp_path)
    path.write_text("short")
    with pytest.raises(ValueError, match="fewer than one window takes"):
        load(Data("shakespeare"), tmp_path)


WIKI = {
    "train": " \n = Title = \n \n the cat sat on the mat \n the <unk> sat \n",
    "valid": " \n the dog sat \n",
    "test": " \n the cat sat on a mat \n",
}


def same_words(tmp_path: Path) -> None:
    text = load(Data("wikitext2", context=2, held=0), tmp_path)
    # <unk>, then by frequency (<eos> 5, the 3, = 2, sat 2), then by name
    assert text.form == TextForm(9, 2)
    names = ["<unk>", "<eos>", "the", "=", "sat", "Title", "cat", "mat", "on"]

    def said(part: np.ndarray) -> str:
        return " ".join(names[int(s)] for s in part)

    assert said(text.train) == "<eos> = Title = <eos> <eos> the cat sat on the mat <eos> the <unk> sat <eos>"
    assert said(text.validation) == "<eos> the <unk> sat <eos>"
    assert said(text.test) == "<eos> the cat sat on <unk> mat <eos>"
    rare = load(Data("wikitext2", context=2, least=2), tmp_path)
    assert rare.form.vocabulary == 5


def test_wikitext_as_published(tmp_path):
    (tmp_path / "wikitext-2").mkdir()
    for split, text in WIKI.items():
        (tmp_path / "wikitext-2" / f"wiki.{split}.tokens").write_text(text)
    same_words(tmp_path)


def test_wikitext_as_hugging_face_has_it(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "wikitext-2-v1").mkdir()
    for split, text in WIKI.items():
        name = "validation" if split == "valid" else split
        lines = [line + "\n" if line.strip() else "" for line in text.removesuffix("\n").split("\n")]
        pq.write_table(pa.table({"text": lines}), tmp_path / "wikitext-2-v1" / f"{name}-00000-of-00001.parquet")
    same_words(tmp_path)


@pytest.mark.parametrize("name", ["openwebtext", "wikitext103"])
def test_tokens_of_uint16(tmp_path, name):
    folder = tmp_path / {"wikitext103": "wikitext-103"}.get(name, name)
    folder.mkdir()
    tokens = np.arange(50_000, 50_257, dtype=np.uint16)
    tokens.tofile(folder / "train.bin")
    tokens[:100].tofile(folder / "val.bin")
    text = load(Data(name, context=16), tmp_path)
    assert text.form == TextForm(50_257, 16)
    assert [len(p) for p in (text.train, text.validation, text.test)] == [257, 50, 50]
    x, y = text.windows(text.train, torch.tensor([240]))
    assert x[0].tolist() == list(range(50_240, 50_256))
    assert int(y[0, -1]) == 50_256
    np.full(100, 60_000, np.uint16).tofile(folder / "val.bin")
    load.cache_clear()
    with pytest.raises(ValueError, match=r"GPT-2's tokens as uint16.*found 60000"):
        load(Data(name, context=16), tmp_path)


def test_held_out_windows_do_not_overlap_or_span_the_text_evenly():
    text = load(Data("chain", context=16, held=0), None)
    starts = text.held_out(text.test)
    assert torch.equal(starts, torch.arange(len(starts)) * 16)
    assert int(starts[-1]) + 17 <= len(text.test) < int(starts[-1]) + 33
    few = load(Data("chain", context=16, held=10), None).held_out(text.test)
    assert [len(few), int(few[0]), int(few[-1])] == [10, 0, len(text.test) - 17]


def test_the_standard_library_is_text_without_a_folder():
    text = load(Data("stdlib", context=32), None)
    assert len(text.train) > 16 * len(text.test) > 0


# Translation ----------------------------------------------------------------------------------------------------


def write_pairs(folder: Path, names: tuple[str, str, str], ending: str) -> None:
    folder.mkdir(parents=True)
    said = {
        "de": ["Ein Hund läuft.", "Zwei Hunde.", "Ein Kind läuft.", ""],
        "en": ["A dog runs.", "Two dogs.", "A child runs.", ""],
    }
    for name in names:
        for language, lines in said.items():
            lines = lines if name == names[0] else lines[:2]
            data = ("\n".join(lines) + "\n").encode()
            (folder / f"{name}.{language}{ending}").write_bytes(gzip.compress(data) if ending else data)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("names", [("train", "val", "test_2016_flickr"), ("train", "valid", "test")])
def test_multi30k(tmp_path, names, ending):
    pytest.importorskip("sacrebleu")
    write_pairs(tmp_path / "multi30k", names, ending)
    data = load(Data("multi30k"), tmp_path)
    assert len(data.train.source) == 3  # the empty pair is left out
    # twice or more: ein, läuft, "." and a, runs, "."; after four special symbols
    assert data.form == PairForm(7, 7)
    assert data.words == ("<pad>", "<s>", "</s>", "<unk>", ".", "a", "runs")
    x, y = (s.padded(torch.tensor([0, 1])) for s in (data.train.source, data.train.target))
    assert x.tolist() == [[5, 3, 6, 4, 2], [3, 3, 4, 2, 0]]
    assert y.tolist() == [[1, 5, 3, 6, 4, 2], [1, 3, 3, 4, 2, 0]]
    assert data.test.references == ["a dog runs .", "two dogs ."]
    assert data.written([5, 6, 4]) == "a runs ."
    assert load(Data("multi30k", most=1), tmp_path).form == PairForm(5, 5)
    few = load(Data("multi30k", held=1), tmp_path)
    assert [len(p.source) for p in (few.train, few.validation, few.test)] == [3, 1, 1]
    assert few.test.references == ["a dog runs ."]


def test_subwords_are_joined_for_bleu_only(tmp_path):
    pytest.importorskip("sacrebleu")
    folder = tmp_path / "iwslt14.tokenized.de-en"
    folder.mkdir()
    for split in ("train", "valid", "test"):
        for language in ("de", "en"):
            (folder / f"{split}.{language}").write_text(f"un@@ known {language}\nun@@ known {language}\n")
    data = load(Data("iwslt14"), tmp_path)
    assert data.words[4:] == ("en", "known", "un@@")
    assert data.test.references[0] == "unknown en"
    assert data.written([6, 5, 4]) == "unknown en"


def test_files_of_different_lengths_are_a_sentence(tmp_path):
    pytest.importorskip("sacrebleu")
    write_pairs(tmp_path / "multi30k", ("train", "val", "test"), "")
    (tmp_path / "multi30k" / "val.en").write_text("one\n")
    with pytest.raises(ValueError, match=r"val.de has 2 lines and .*val.en has 1"):
        load(Data("multi30k"), tmp_path)


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
