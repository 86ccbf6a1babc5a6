"""Data sets by name: what a run's `Data` stands for.

    available(Data("mnist"), where)     None, or a sentence that says what is missing
    load(Data("mnist"), where)          an `Images`, a `Text` or a `Pairs`

Options and their defaults are the keyword parameters of the functions below and of those in `made`, `small`,
`folder` and `reading`. A function of the table finds the files, and returns what reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from rotational.lab.data import made as _made
from rotational.lab.data import pairs as _pairs
from rotational.lab.data import reading as _reading
from rotational.lab.data.cifar import cifar
from rotational.lab.data.folder import imagenet
from rotational.lab.data.found import MissingError
from rotational.lab.data.images import Images
from rotational.lab.data.pairs import Pairs
from rotational.lab.data.small import digits, mnist
from rotational.lab.data.texts import Text
from rotational.lab.declare import Data
from rotational.lab.named import made

DataSet = Images | Text | Pairs

__all__ = ["DATA", "DataSet", "Images", "MissingError", "Pairs", "Text", "available", "load"]


def cifar10(
    where: Path | None,
    *,
    side: int = 32,
    augment: bool = True,
    limit: int = 0,
    held: int = 0,
    smoothing: float = 0.0,
    form: str = "any",
) -> Callable[[], Images]:
    """CIFAR-10; side=16 averages 2x2 pixels, limit and held are the most images of training and of the others."""
    return cifar(
        "cifar10", where, side=side, augment=augment, limit=limit, held=held, smoothing=smoothing, form=form
    )  # fmt: skip


def cifar100(
    where: Path | None,
    *,
    side: int = 32,
    augment: bool = True,
    limit: int = 0,
    held: int = 0,
    smoothing: float = 0.0,
    form: str = "any",
) -> Callable[[], Images]:
    """CIFAR-100, the fine labels; options as of `cifar10`."""
    return cifar(
        "cifar100", where, side=side, augment=augment, limit=limit, held=held, smoothing=smoothing, form=form
    )  # fmt: skip


def shakespeare(where: Path | None, *, context: int = 64, held: int = 512, limit: int = 0) -> Callable[[], Text]:
    """Shakespeare as characters, 1.1 million of them."""
    files = ("tinyshakespeare.txt", "input.txt")
    source = "https://github.com/karpathy/char-rnn"
    return _reading.characters("shakespeare", files, source, where, context=context, held=held, limit=limit)


def novels(where: Path | None, *, context: int = 64, held: int = 512, limit: int = 0) -> Callable[[], Text]:
    """A hundred English novels as characters, 25 million of them."""
    files = ("novels.txt.gz", "novels.txt")
    source = "https://github.com/computationalstylistics/100_english_novels (joined into one file)"
    return _reading.characters("novels", files, source, where, context=context, held=held, limit=limit)


def wikitext2(where: Path | None, *, context: int = 64, held: int = 512, least: int = 1) -> Callable[[], Text]:
    """WikiText-2: 2.1 million words of 33,278 kinds; least=10 leaves some 10,000 kinds."""
    names = ("wikitext-2", "wikitext-2-v1", "wikitext-2-raw-v1", "wikitext2")
    return _reading.wikitext("wikitext2", names, where, context=context, held=held, least=least)


def wikitext103(where: Path | None, *, context: int = 512, held: int = 512, least: int = 1) -> Callable[[], Text]:
    """WikiText-103 as words, or as GPT-2's tokens in train.bin and val.bin."""
    names = ("wikitext-103", "wikitext-103-v1", "wikitext-103-raw-v1", "wikitext103")
    return _reading.wikitext("wikitext103", names, where, context=context, held=held, least=least)


def multi30k(
    where: Path | None,
    *,
    least: int = 2,
    most: int = 0,
    longest: int = 50,
    held: int = 0,
    beam: int = 5,
    smoothing: float = 0.1,
    tokens: int = 0,
) -> Callable[[], Pairs]:
    """Captions in German and English: 29,000 pairs; words in small letters, at most `most` of a language.

    With `tokens`, a batch is as many sentences as have so many (see `pairs.by_tokens`), and the run's batch their most.
    """
    parts = (("train",), ("val", "valid"), ("test_2016_flickr", "test2016", "test"))
    source = "https://github.com/multi30k/dataset"
    return _pairs.aligned(
        "multi30k", ("multi30k",), parts, source, _pairs.lower_words, where,
        least=least, most=most, longest=longest, held=held, beam=beam, smoothing=smoothing, tokens=tokens,
    )  # fmt: skip


def iwslt14(
    where: Path | None,
    *,
    least: int = 1,
    most: int = 0,
    longest: int = 175,
    held: int = 0,
    beam: int = 5,
    smoothing: float = 0.1,
    tokens: int = 0,
) -> Callable[[], Pairs]:
    """IWSLT14 German to English as fairseq's prepare-iwslt14.sh leaves it: words or subwords with spaces between.

    `tokens` as of `multi30k`; fairseq's recipe has 4096.
    """
    names = ("iwslt14", "iwslt14.tokenized.de-en", "iwslt14/iwslt14.tokenized.de-en")
    parts = (("train",), ("valid", "val", "dev"), ("test",))
    source = "fairseq's examples/translation/prepare-iwslt14.sh, https://github.com/facebookresearch/fairseq"
    return _pairs.aligned(
        "iwslt14", names, parts, source, str.split, where,
        least=least, most=most, longest=longest, held=held, beam=beam, smoothing=smoothing, tokens=tokens,
    )  # fmt: skip


DATA: dict[str, Callable[..., Callable[[], DataSet]]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "mnist": mnist,
    "digits": digits,
    "imagenet": imagenet,
    "blobs": _made.blobs,
    "stdlib": _reading.stdlib,
    "shakespeare": shakespeare,
    "novels": novels,
    "wikitext2": wikitext2,
    "wikitext103": wikitext103,
    "openwebtext": _reading.openwebtext,
    "chain": _made.chain,
    "multi30k": multi30k,
    "iwslt14": iwslt14,
    "reversal": _made.reversal,
}
"""Every data set by name: a function of the folder and the options."""


def available(data: Data, where: Path | None) -> str | None:
    """None if the data is there, and else a sentence that says what is missing and how to get it.

    Raises ValueError and TypeError for names and options that do not exist.

    >>> available(Data("blobs"), None)
    >>> available(Data("mnist"), None)
    "Data('mnist'): no folder of data was given. Pass --data DIR, or set ROTATIONAL_DATA."
    """
    try:
        made(data, DATA, where)
    except MissingError as error:
        return str(error)
    return None


@lru_cache(maxsize=2)
def load(data: Data, where: Path | None) -> DataSet:
    """The data set of a name, from the folder `where`; the last two are kept in memory.

    Raises MissingError (a FileNotFoundError) where it is not there, ValueError for a file that is damaged, and what
    `available` raises.

    >>> load(Data("chain", vocabulary=8), None).form
    TextForm(vocabulary=8, context=16)
    """
    return made(data, DATA, where)()
