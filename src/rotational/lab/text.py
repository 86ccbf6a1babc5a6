"""The corpus of the demo: real text that every machine has, as characters.

Without a file of the user's own, it is the source of Python's standard library: no network, some megabytes,
and structured enough that a small model has something to learn.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SYMBOLS = "\n\t" + "".join(map(chr, range(32, 127)))
"""The vocabulary: printable ASCII, tab and newline. One more symbol stands for every other character."""

VOCABULARY = len(SYMBOLS) + 1
UNKNOWN = VOCABULARY - 1
LIMIT = 2_000_000
"""Characters that are used at most."""

SHORTEST = 10_000
"""Characters that are needed at least: below, the last tenth is too short to measure a loss on."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """Symbols as int64 tensors; validation is the last tenth of the text, which training never sees."""

    name: str
    train: Tensor
    validation: Tensor

    def batch(self, size: int, context: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A random batch of inputs and targets (the next symbols), each [size, context]."""
        start = torch.randint(len(self.train) - context, (size, 1), generator=generator)
        windows = self.train[start + torch.arange(context + 1)]
        return windows[:, :-1], windows[:, 1:]

    def held_out(self, count: int, context: int) -> tuple[Tensor, Tensor]:
        """`count` windows at even distances over the validation text, the same at every call."""
        last = len(self.validation) - context - 1
        start = torch.linspace(0, last, count, dtype=torch.float64).long().unique()[:, None]
        windows = self.validation[start + torch.arange(context + 1)]
        return windows[:, :-1], windows[:, 1:]


def corpus(path: str | Path | None = None) -> Corpus:
    """The corpus from a text file, or from the standard library where no file is given.

    Of more than `LIMIT` characters, the first are used. Raises OSError for a file that is not there
    or cannot be read, ValueError for one that is empty, shorter than `SHORTEST`, not UTF-8 text, or mostly
    made of characters outside `SYMBOLS`.

    >>> c = corpus()
    >>> len(c.train) > 8 * len(c.validation) > 0
    True
    """
    if path is None:
        name, text = "Python standard library", _standard_library()
        hint = "This Python comes without the source of its standard library: give a text file instead."
    else:
        name, text = str(path), _read(Path(path))
        hint = "Give a longer text."
    if len(text) < SHORTEST:
        found = f"{len(text)} characters" if text else "nothing"
        raise ValueError(f"corpus: expected at least {SHORTEST} characters of text in {name}, found {found}. {hint}")
    symbols = encode(text)
    unknown = float((symbols == UNKNOWN).double().mean())
    if unknown > 0.5:
        raise ValueError(
            f"corpus: {unknown:.0%} of the characters in {name} are outside printable ASCII and would all become "
            "one symbol. Give a text that is mostly ASCII, such as English prose or source code."
        )
    cut = len(symbols) - len(symbols) // 10
    return Corpus(name, symbols[:cut], symbols[cut:])


def encode(text: str) -> Tensor:
    """The text as indices into `SYMBOLS`, int64; characters outside it become `UNKNOWN`.

    >>> encode("a~é").tolist()
    [67, 96, 97]
    """
    table = np.full(129, UNKNOWN, dtype=np.int64)
    table[[ord(c) for c in SYMBOLS]] = range(len(SYMBOLS))
    points = np.frombuffer(text.encode("utf-32-le", errors="replace"), dtype=np.uint32)
    return torch.from_numpy(table[np.minimum(points, 128)])


def _read(path: Path) -> str:
    not_text = f"corpus({str(path)!r}): not a text file in UTF-8. Give plain text."
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(LIMIT)
    except UnicodeDecodeError:
        raise ValueError(not_text) from None
    except OSError as error:
        raise type(error)(f"corpus({str(path)!r}): {error.strerror}. Give the path of a text file.") from None
    if "\0" in text:
        raise ValueError(not_text)
    return text


def _standard_library() -> str:
    parts: list[str] = []
    length = 0
    for file in _sources():
        parts.append(file.read_text(encoding="utf-8", errors="replace"))
        length += len(parts[-1])
        if length >= LIMIT:
            break
    return "".join(parts)[:LIMIT]


def _sources() -> Iterator[Path]:
    """The library's modules in a fixed order: packages first, then the modules of the top folder."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for package in ("asyncio", "collections", "email", "http", "importlib", "json", "logging", "unittest"):
        yield from sorted((root / package).glob("*.py"))
    # _sysconfigdata is written by the build and differs from machine to machine.
    yield from sorted(f for f in root.glob("*.py") if not f.name.startswith("_sysconfigdata"))
