"""CIFAR-10 and CIFAR-100: the python batches of their authors, as a folder or a tar, and Parquet of Hugging Face."""

from __future__ import annotations

import pickle
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor

from rotational import _check
from rotational.lab.data import tables
from rotational.lab.data.found import MissingError, cached, folders, missing
from rotational.lab.data.images import Images, images, resized
from rotational.lab.data.mixing import Statistics

STATISTICS: dict[str, Statistics] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}
"""As in the paper's scripts."""

FOLDERS = {
    "cifar10": ("cifar10", "cifar-10", "cifar-10-batches-py"),
    "cifar100": ("cifar100", "cifar-100", "cifar-100-python"),
}
TRAIN = {
    "cifar10": ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"),
    "cifar100": ("train",),
}
TEST = {"cifar10": "test_batch", "cifar100": "test"}
SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"


def cifar(
    name: str, where: Path | None, *, side: int, augment: bool, limit: int, held: int, smoothing: float, form: str
) -> Callable[[], Images]:
    """Find the data set; what is returned reads it.

    form   "any"; "batches" for the python batches only, "tables" for Parquet or Arrow only
    """
    _check.choice(f"Data({name!r})", "form", form, ("any", "batches", "tables"))
    _check.whole(f"Data({name!r})", "side", side)
    files, read = _find(name, where, form)
    settings = {"flip": augment, "shift": max(1, side // 8) if augment else 0, "limit": limit, "held": held}
    return partial(_load, name, files, read, side, {**settings, "smoothing": smoothing})


Read = Callable[[], Mapping[str, Tensor]]


def _find(name: str, where: Path | None, form: str) -> tuple[list[Path], Read]:
    """The files of the data set, and how to read them: batches in a folder, else tables, else a tar."""
    fine = ("label", "fine_label")
    candidates = folders(where, name, FOLDERS[name])
    for folder in candidates:
        inner = [folder, *(folder / f for f in FOLDERS[name])]
        batches = next((f for f in inner if all((f / b).is_file() for b in (TRAIN[name][0], TEST[name]))), None)
        if form != "tables" and batches is not None:
            names = (*TRAIN[name], TEST[name])
            _whole(name, str(batches), {b for b in names if (batches / b).is_file()})
            return [batches / b for b in names], partial(_read_folder, name, batches, names)
        # `where` itself may hold the tables of other data sets.
        tabled = {s: tables.files(folder, s) for s in ("train", "test")} if folder != where else {}
        if form != "batches" and all(tabled.values()) and tabled:
            tables.check(name, images=True)
            return [*tabled["train"], *tabled["test"]], partial(_read_tables, tabled, fine)
        # In a folder of its own any name will do; beside other data it must be the upstream one.
        tar = next(iter(sorted(folder.glob("*.tar.*" if folder != where else f"{FOLDERS[name][1]}-*.tar.*"))), None)
        if form != "tables" and tar is not None:
            return [tar], partial(_read_tar, name, tar)
    expected = f"{FOLDERS[name][0]}/ with {TRAIN[name][0]} ... {TEST[name]}, their tar.gz, or train and test Parquet"
    raise missing(name, where, expected, SOURCE)


def _load(name: str, files: list[Path], read: Read, side: int, settings: dict[str, Any]) -> Images:
    def decoded() -> Mapping[str, Tensor]:
        found = read()
        return {k: resized(v, side) if k.endswith("pixels") else v for k, v in found.items()}

    found = cached(f"{name} side {side}", files, decoded)
    train, test = ((found[f"{part}_pixels"], found[f"{part}_labels"]) for part in ("train", "test"))
    classes = {"cifar10": 10, "cifar100": 100}[name]
    return images(train, test, classes, STATISTICS[name], **settings)


# The three forms ----------------------------------------------------------------------------------------------


def _read_folder(name: str, folder: Path, names: Sequence[str]) -> dict[str, Tensor]:
    def opened() -> Iterator[tuple[str, IO[bytes]]]:
        for batch in names:
            with open(folder / batch, "rb") as file:
                yield batch, file

    return _joined(name, str(folder), opened())


def _read_tar(name: str, path: Path) -> dict[str, Tensor]:
    def opened() -> Iterator[tuple[str, IO[bytes]]]:
        with tarfile.open(path) as tar:
            for member in tar:
                batch = Path(member.name).name
                file = tar.extractfile(member) if batch in (*TRAIN[name], TEST[name]) else None
                if file is not None:
                    yield batch, file

    try:
        return _joined(name, str(path), opened())
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{path}: damaged ({error}). Fetch it again from {SOURCE}.") from None


def _read_tables(tabled: Mapping[str, list[Path]], labels: tuple[str, ...]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for part, files in tabled.items():
        found[f"{part}_pixels"], found[f"{part}_labels"] = tables.pictures(files, labels)
    return found


def _whole(name: str, where: str, there: Iterable[str]) -> None:
    """Refuse what lacks a batch: training on the others would go by the name of the whole."""
    found = set(there)
    if absent := [b for b in (*TRAIN[name], TEST[name]) if b not in found]:
        raise MissingError(f"Data({name!r}): {', '.join(absent)} missing in {where}. Fetch all of it from {SOURCE}.")


def _joined(name: str, where: str, batches: Iterator[tuple[str, IO[bytes]]]) -> dict[str, Tensor]:
    parts: dict[str, list[tuple[str, Tensor, Tensor]]] = {"train": [], "test": []}
    for batch, file in batches:
        pixels, labels = _batch(batch, file)
        parts["test" if batch == TEST[name] else "train"].append((batch, pixels, labels))
    _whole(name, where, (batch for part in parts.values() for batch, _, _ in part))
    found: dict[str, Tensor] = {}
    for part, held in parts.items():
        held.sort(key=lambda b: b[0])  # a tar may hold them in any order
        found[f"{part}_pixels"] = torch.cat([p for _, p, _ in held])
        found[f"{part}_labels"] = torch.cat([y for _, _, y in held])
    return found


def _batch(name: str, file: IO[bytes]) -> tuple[Tensor, Tensor]:
    """Pixels [n, 3, 32, 32] and labels of one pickle, whose keys are text or bytes."""
    try:
        loaded = cast("dict[str | bytes, Any]", _Numbers(file, encoding="bytes").load())
        held = {k.decode() if isinstance(k, bytes) else k: v for k, v in loaded.items()}
        labels = held["labels"] if "labels" in held else held["fine_labels"]
        pixels = torch.from_numpy(np.array(held["data"], dtype=np.uint8).reshape(-1, 3, 32, 32))
        return pixels, torch.tensor([int(y) for y in labels])
    except (pickle.UnpicklingError, EOFError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{name}: not a python batch of CIFAR ({type(error).__name__}: {error}). Fetch it again from {SOURCE}."
        ) from None


class _Numbers(pickle.Unpickler):
    """Reads arrays and plain values only: a pickle from elsewhere could otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        safe: dict[str, Any] = {
            "_reconstruct": cast("tuple[Any, ...]", np.empty(0).__reduce__())[0],
            "ndarray": np.ndarray,
            "dtype": np.dtype,
            "encode": _encode,
        }
        if name not in safe or module.partition(".")[0] not in ("numpy", "_codecs"):
            raise pickle.UnpicklingError(f"{module}.{name} has no place in it")
        return safe[name]


def _encode(text: str, encoding: str) -> bytes:
    return text.encode(encoding)
