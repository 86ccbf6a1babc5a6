"""Sentences and their translations, word by word.

A vocabulary starts with padding, begin and end of a sentence, and the unknown word; then come the words, the most
frequent first. Text that was split into subwords by `@@ ` (as fairseq's scripts do) is taken as it is, and joined
again before BLEU is computed.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from rotational.lab.data.found import first, folders, missing, needs
from rotational.lab.data.reading import plain
from rotational.lab.models import PairForm
from rotational.lab.models.seq2seq import BOS, EOS, PAD, UNK

Pair = tuple[list[str], list[str]]
SPECIAL = 4


@dataclass(frozen=True, eq=False)
class Sentences:
    """Sentences as symbols, one after the other; `ends` has where each ends, [n + 1], from 0 on."""

    symbols: Tensor
    ends: Tensor

    def __len__(self) -> int:
        return len(self.ends) - 1

    @property
    def lengths(self) -> Tensor:
        """Symbols of each sentence."""
        return self.ends.diff()

    def padded(self, index: Tensor) -> Tensor:
        """Some sentences, [n, longest], filled up with padding."""
        start, length = self.ends[index], self.lengths[index]
        place = torch.arange(int(length.max()))
        taken = self.symbols[(start[:, None] + place).clamp_(max=len(self.symbols) - 1)]
        return taken.masked_fill_(place >= length[:, None], PAD)


@dataclass(frozen=True, eq=False)
class Part:
    """Pairs of sentences: sources end with EOS; targets start with BOS and end with EOS; `references` as text."""

    source: Sentences
    target: Sentences
    references: list[str]


@dataclass(frozen=True, eq=False)
class Pairs:
    """A data set of translations; `beam`, `smoothing` of labels and `tokens` of a batch are of its task."""

    train: Part
    validation: Part
    test: Part
    words: tuple[str, ...]
    form: PairForm
    beam: int = 5
    smoothing: float = 0.1
    tokens: int = 0

    def written(self, symbols: Sequence[int]) -> str:
        """A target as text: words with spaces between them, subwords joined."""
        return joined(self.words[s] for s in symbols)


def by_tokens(lengths: Tensor, order: Tensor, tokens: int, most: int) -> list[Tensor]:
    """All sentences in batches of at most so many tokens, padding counted, and of at most `most` sentences.

    Sentences of one length stand together, in the given order. Batches of 8 or more have a multiple of 8, as fairseq's
    have (Ott et al. 2019, arXiv 1904.01038), so that they divide over processes; what fills no batch is left out.

    Raises ValueError for a sentence of more than `tokens`.

    >>> [b.tolist() for b in by_tokens(torch.tensor([3, 2, 2, 3]), torch.arange(4), tokens=6, most=9)]
    [[1, 2], [0, 3]]
    """
    if int(lengths.max()) > tokens:
        raise ValueError(
            f"Data(tokens={tokens}): a sentence has {int(lengths.max())} tokens; give as many, or longest=."
        )
    order = order[lengths[order].argsort(stable=True)]
    sizes, batches, begun = lengths[order].tolist(), list[Tensor](), 0
    while begun < len(order):
        fits = begun
        while fits < len(order) and fits - begun < most and (fits + 1 - begun) * sizes[fits] <= tokens:
            fits += 1
        count = fits - begun
        full = fits < len(order) or count == most or (count + 1) * sizes[-1] > tokens
        count -= count % 8 if count > 8 else 0
        if full or count % 8 == 0 or not batches:
            batches.append(order[begun : begun + count])
        begun += count
    return batches


def joined(words: Iterable[str]) -> str:
    """Words with spaces between them, and subwords without.

    >>> joined(["un@@", "known", "words"])
    'unknown words'
    """
    return " ".join(words).replace("@@ ", "")


def pairs(
    train: list[Pair],
    validation: list[Pair],
    test: list[Pair],
    *,
    least: int,
    most: int,
    longest: int,
    held: int = 0,
    beam: int,
    smoothing: float,
    tokens: int = 0,
) -> Pairs:
    """A data set from its words.

    least     how often a word must occur in training to have a symbol of its own
    most      words of a language at most, 0 for all
    longest   words of a training sentence at most; longer pairs are left out
    held      sentences of validation and of test at most, the first ones; 0 for all
    """
    validation, test = validation[: held or None], test[: held or None]
    kept = [(s, t) for s, t in train if 0 < len(s) <= longest and 0 < len(t) <= longest]
    if not (kept and validation and test):
        raise ValueError(f"expected pairs of sentences in all parts; training has {len(kept)} after leaving out "
                         f"empty ones and those of more than {longest} words.")  # fmt: skip
    known = [_known((pair[side] for pair in kept), least, most) for side in (0, 1)]

    def part(held: list[Pair]) -> Part:
        sources = _coded((s for s, _ in held), known[0], begin=False)
        targets = _coded((t for _, t in held), known[1], begin=True)
        return Part(sources, targets, [joined(t) for _, t in held])

    words = ("<pad>", "<s>", "</s>", "<unk>", *known[1])
    form = PairForm(len(known[0]) + SPECIAL, len(known[1]) + SPECIAL)
    return Pairs(part(kept), part(validation), part(test), words, form, beam, smoothing, tokens)


def _known(sentences: Iterable[list[str]], least: int, most: int) -> dict[str, int]:
    counts = Counter(itertools.chain.from_iterable(sentences))
    kept = sorted((w for w, n in counts.items() if n >= least), key=lambda w: (-counts[w], w))
    return {w: i for i, w in enumerate(kept[: most or None], SPECIAL)}


def _coded(sentences: Iterable[list[str]], known: dict[str, int], begin: bool) -> Sentences:
    symbols: list[int] = []
    ends = [0]
    for words in sentences:
        symbols += [*([BOS] if begin else []), *(known.get(w, UNK) for w in words), EOS]
        ends.append(len(symbols))
    return Sentences(torch.tensor(symbols), torch.tensor(ends))


# Files ----------------------------------------------------------------------------------------------------------


def aligned(
    name: str,
    names: tuple[str, ...],
    parts: tuple[tuple[str, ...], ...],
    source: str,
    split: Callable[[str], list[str]],
    where: Path | None,
    **settings: float,
) -> Callable[[], Pairs]:
    """German to English from files of a sentence a line: train.de, train.en and so on, gzipped or not."""
    needs(name, "sacrebleu")
    for folder in folders(where, name, names):
        found = [
            [first(folder, (f"{stem}.{language}{ext}" for stem in stems for ext in ("", ".gz"))) for stems in parts]
            for language in ("de", "en")
        ]
        if all(p for files in found for p in files):
            german, english = ([p for p in files if p is not None] for files in found)
            return partial(_aligned, german, english, split, settings)
    expected = " and ".join(f"{stems[0]}.de/.en" for stems in parts)
    raise missing(name, where, f"{names[0]}/ with {expected} (or .gz)", source)


def _aligned(
    german: list[Path], english: list[Path], split: Callable[[str], list[str]], settings: dict[str, float]
) -> Pairs:
    read: list[list[Pair]] = []
    for a, b in zip(german, english, strict=True):
        left, right = (plain(p).rstrip("\n").split("\n") for p in (a, b))
        if len(left) != len(right):
            raise ValueError(f"{a} has {len(left)} lines and {b} has {len(right)}: expected a translation of each.")
        read.append([(split(s), split(t)) for s, t in zip(left, right, strict=True)])
    return pairs(*read, **settings)  # pyright: ignore[reportArgumentType] whole numbers but for the smoothing


def lower_words(line: str) -> list[str]:
    """Words and marks of a sentence in small letters.

    >>> lower_words("Zwei Hunde, drei Katzen.")
    ['zwei', 'hunde', ',', 'drei', 'katzen', '.']
    """
    return re.findall(r"\w+|[^\w\s]", line.lower())
