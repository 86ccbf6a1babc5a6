"""Loaders of text: plain or gzipped files as characters, WikiText as words, files of uint16 tokens."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rotational import _check
from rotational.lab import text as _text
from rotational.lab.data import tables
from rotational.lab.data.found import cached, first, folders, missing
from rotational.lab.data.texts import Text, cut
from rotational.lab.models import TextForm

GPT2 = 50_257
"""Symbols of GPT-2's vocabulary, which nanoGPT's files of tokens use."""


def stdlib(where: Path | None, *, context: int = 64, held: int = 512) -> Callable[[], Text]:
    """The source of Python's standard library as characters: text that every machine has."""
    _check.whole("Data('stdlib')", "context", context)

    def load() -> Text:
        whole = _text.corpus()
        half = len(whole.validation) // 2
        train, validation, test = whole.train, whole.validation[:half], whole.validation[half:]
        return Text(train.numpy(), validation.numpy(), test.numpy(), TextForm(_text.VOCABULARY, context), held)

    return load


def characters(
    name: str, files: tuple[str, ...], source: str, where: Path | None, *, context: int, held: int, limit: int
) -> Callable[[], Text]:
    """One file of text, of which validation and test are the last 5% each; `limit` characters at most, 0 for all."""
    _check.whole(f"Data({name!r})", "context", context)
    for folder in folders(where, name, (name, "text")):
        if path := first(folder, files):
            return partial(_characters, name, path, context, held, limit)
    raise missing(name, where, f"text/{files[0]} or {name}/{files[0]}", source)


def _characters(name: str, path: Path, context: int, held: int, limit: int) -> Text:
    def encoded() -> dict[str, Tensor]:
        # 98 symbols fit a byte; 25 million characters would be 200 MB as int64.
        return {"symbols": _text.encode(plain(path)).byte()}

    symbols = cached(f"{name} characters", [path], encoded)["symbols"].numpy()
    return Text(*cut(symbols[: limit or None]), TextForm(_text.VOCABULARY, context), held)


def plain(path: Path) -> str:
    """The text of a file in UTF-8, gzipped or not; raises ValueError, naming it, for one that is neither."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return data.decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not text in UTF-8 ({type(error).__name__}). Give plain or gzipped text.") from None


def wikitext(
    name: str, names: tuple[str, ...], where: Path | None, *, context: int, held: int, least: int
) -> Callable[[], Text]:
    """WikiText as words: wiki.train.tokens and so on, Parquet of Hugging Face, or train.bin and val.bin of tokens.

    least   how often a word must occur in training to have a symbol of its own, else it is <unk>
    """
    _check.whole(f"Data({name!r})", "context", context)
    for folder in folders(where, name, names):
        lines = [first(folder, (f"wiki.{s}.tokens", f"wiki.{s}.raw")) for s in ("train", "valid", "test")]
        if all(lines):
            files = [[p] for p in lines if p is not None]
            return partial(_words, name, files, context, held, least)
        found = [tables.files(folder, s) for s in ("train", "validation", "test")] if folder != where else []
        if found and all(found):
            tables.check(name)
            return partial(_words, name, found, context, held, least)
        if folder != where and (folder / "train.bin").is_file() and (folder / "val.bin").is_file():
            return partial(_tokens, folder, context, held)
    raise missing(
        name,
        where,
        f"{names[0]}/wiki.train.tokens (.valid, .test), {names[0]}/train*.parquet (validation, test) or "
        f"{names[0]}/train.bin and val.bin",
        "https://huggingface.co/datasets/Salesforce/wikitext",
    )


def _words(name: str, files: list[list[Path]], context: int, held: int, least: int) -> Text:
    def lines(paths: list[Path]) -> Iterator[str]:
        for path in paths:
            if path.suffix in (".parquet", ".arrow"):
                yield from (row[0] for row in tables.columns([path], ["text"]))
            else:
                yield from plain(path).removesuffix("\n").split("\n")

    def encoded() -> dict[str, Tensor]:
        # Blank lines end with <eos> too: the usual count, 2,088,628 words of WikiText-2's training text.
        words = [[w for line in lines(paths) for w in (*line.split(), "<eos>")] for paths in files]
        known = vocabulary(words[0], least)
        parts = zip(("train", "validation", "test"), words, strict=True)
        coded = {part: torch.tensor([known.get(w, 0) for w in said], dtype=torch.int32) for part, said in parts}
        return {**coded, "vocabulary": torch.tensor(len(known))}

    found = cached(f"{name} words {least}", [p for paths in files for p in paths], encoded)
    train, validation, test = (found[part].numpy() for part in ("train", "validation", "test"))
    return Text(train, validation, test, TextForm(int(found["vocabulary"]), context), held)


def vocabulary(words: Iterable[str], least: int) -> dict[str, int]:
    """Symbols of the words that occur `least` times or more; 0 is <unk>, then the most frequent first.

    >>> vocabulary("b a b <unk> b a c".split(), 2)
    {'<unk>': 0, 'b': 1, 'a': 2}
    """
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    kept = sorted((w for w, n in counts.items() if n >= least and w != "<unk>"), key=lambda w: (-counts[w], w))
    return {"<unk>": 0, **{w: i for i, w in enumerate(kept, 1)}}


def openwebtext(where: Path | None, *, context: int = 1024, held: int = 512) -> Callable[[], Text]:
    """OpenWebText as nanoGPT prepares it: train.bin and val.bin, GPT-2's tokens as uint16."""
    _check.whole("Data('openwebtext')", "context", context)
    for folder in folders(where, "openwebtext", ("openwebtext", "owt")):
        if folder != where and (folder / "train.bin").is_file() and (folder / "val.bin").is_file():
            return partial(_tokens, folder, context, held)
    source = "nanoGPT's data/openwebtext/prepare.py, https://github.com/karpathy/nanoGPT"
    raise missing("openwebtext", where, "openwebtext/train.bin and val.bin", source)


def _tokens(folder: Path, context: int, held: int) -> Text:
    train, rest = (np.memmap(folder / f"{part}.bin", dtype=np.uint16, mode="r") for part in ("train", "val"))
    test = folder / "test.bin"
    if test.is_file():
        validation, last = rest, np.memmap(test, dtype=np.uint16, mode="r")
    else:  # the two halves of what was held out
        validation, last = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    highest = max(int(validation.max(initial=0)), int(last.max(initial=0)), int(train[:1_000_000].max(initial=0)))
    if highest >= GPT2:
        raise ValueError(f"{folder}: expected GPT-2's tokens as uint16, all below {GPT2}; found {highest}.")
    return Text(train, validation, last, TextForm(GPT2, context), held)
