"""Where data lies, what is said when it is missing, and a cache for what takes long to decode."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

VERSION = 1
"""Of what is cached: raised when the same files are decoded differently than before."""


PACKAGES = {"PIL": "Pillow", "sklearn": "scikit-learn"}
"""What a module is called where one installs it, if not by its own name."""


class MissingError(FileNotFoundError):
    """Data, or a package that reads it, is not there; the message says how to get it."""


def folders(where: Path | None, data: str, names: Sequence[str]) -> list[Path]:
    """Folders below `where` that may hold a data set: those of its names, then `where` itself.

    Raises MissingError without a folder of data, or with one that does not exist.
    """
    if where is None:
        raise MissingError(f"Data({data!r}): no folder of data was given. Pass --data DIR, or set ROTATIONAL_DATA.")
    if not where.is_dir():
        raise MissingError(f"Data({data!r}): there is no folder {where}. Pass another --data DIR.")
    return [*(p for name in names if (p := where / name).is_dir()), where]


def missing(data: str, where: Path | None, expected: str, source: str) -> MissingError:
    """The error for data that is in none of the folders.

    >>> str(missing("mnist", Path("/d"), "mnist/train-images-idx3-ubyte.gz", "https://yann.lecun.com"))
    "Data('mnist'): not in /d, expected mnist/train-images-idx3-ubyte.gz. It comes from https://yann.lecun.com."
    """
    return MissingError(f"Data({data!r}): not in {where}, expected {expected}. It comes from {source}.")


def needs(data: str, *packages: str) -> None:
    """Raise MissingError if a module that reads this data is not installed; it names the package."""
    if lacking := [PACKAGES.get(name, name) for name in packages if find_spec(name) is None]:
        raise MissingError(f"Data({data!r}): needs {' and '.join(lacking)}. Run pip install 'rotational[reproduce]'.")


def first(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of some files that is there.

    >>> first(Path("/"), ["no such file"])
    """
    return next((p for name in names if (p := folder / name).is_file()), None)


def cache_folder() -> Path:
    """ROTATIONAL_CACHE, or `rotational` in the user's folder of caches."""
    if own := os.environ.get("ROTATIONAL_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rotational"


def cached(what: str, files: Sequence[Path], make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What `make` gives, decoded once: kept until one of the files changes in size or time.

    Written under another name and renamed, so that a file of the cache is always whole; processes that decode
    at the same time write the same. Raises OSError, with a remedy, where the cache cannot be written.
    """
    stamps = [(str(p.resolve()), s.st_size, s.st_mtime_ns) for p in files for s in (p.stat(),)]
    key = hashlib.sha256(json.dumps([VERSION, what, stamps]).encode()).hexdigest()[:16]
    folder = cache_folder()
    path = folder / f"{what.split()[0]}-{key}.pt"
    if not path.is_file():
        made = dict(make())
        partial = path.with_suffix(f".{os.getpid()}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(made, partial)
            os.replace(partial, path)
        except (OSError, RuntimeError) as error:  # torch's own writer raises RuntimeError
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise OSError(
                f"the cache of decoded data, {folder}, cannot be written ({error}). Set ROTATIONAL_CACHE to a "
                "folder with some hundred MB of room."
            ) from None
    try:
        return torch.load(path, weights_only=True, mmap=True)
    except Exception as error:
        raise ValueError(f"{path}: damaged ({type(error).__name__}). Delete it; it is made again.") from None
