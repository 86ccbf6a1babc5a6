"""Made-up data for runs of a few seconds: learnable, always the same, and without a file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rotational import _check
from rotational.lab.data.found import needs
from rotational.lab.data.images import Images, images
from rotational.lab.data.pairs import Pairs, pairs
from rotational.lab.data.texts import Text
from rotational.lab.models import TextForm


def blobs(
    where: Path | None,
    *,
    classes: int = 10,
    side: int = 8,
    channels: int = 3,
    count: int = 2000,
    noise: float = 0.35,
    augment: bool = False,
    limit: int = 0,
    held: int = 0,
    smoothing: float = 0.0,
) -> Callable[[], Images]:
    """Images of smooth patterns, one for each class, moved by up to a quarter of their side, with noise on top."""
    for name, value in (("classes", classes), ("side", side), ("channels", channels), ("count", count)):
        _check.whole("Data('blobs')", name, value)
    settings: dict[str, Any] = {
        "flip": augment,
        "shift": 1 if augment else 0,
        "limit": limit,
        "held": held,
        "smoothing": smoothing,
    }

    def load() -> Images:
        train, test = (_blobs(n, classes, side, channels, noise, seed) for seed, n in enumerate((count, count // 4), 1))
        return images(train, test, classes, ((0.5,) * channels, (0.25,) * channels), **settings)

    return load


def _blobs(count: int, classes: int, side: int, channels: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    patterns = torch.rand(classes, channels, 3, 3, generator=torch.Generator().manual_seed(0))
    patterns = F.interpolate(patterns, (2 * side, 2 * side), mode="bicubic", align_corners=True)
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=g)
    reach = max(1, side // 4)
    rows, columns = torch.randint(reach, (2, count), generator=g).tolist()
    taken = [patterns[y, :, r : r + side, c : c + side] for y, r, c in zip(labels, rows, columns, strict=True)]
    pixels = torch.stack(taken) + noise * torch.randn(count, channels, side, side, generator=g)
    return (pixels * 255).clamp(0, 255).round().byte(), labels


def chain(
    where: Path | None, *, context: int = 16, vocabulary: int = 32, length: int = 40_000, held: int = 128
) -> Callable[[], Text]:
    """A Markov chain: each symbol is followed by one of four, at odds of its own."""
    _check.whole("Data('chain')", "vocabulary", vocabulary, low=4)
    _check.whole("Data('chain')", "context", context)
    return partial(_chain, context, vocabulary, length, held)


def transitions(vocabulary: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Probability of each next symbol, for each symbol; the rows sum to 1.

    >>> bool((transitions(8).sum(1).round(9) == 1).all())
    True
    """
    rng = np.random.default_rng(0)
    table = np.zeros((vocabulary, vocabulary))
    for row in table:
        row[rng.choice(vocabulary, 4, replace=False)] = rng.dirichlet([1, 1, 1, 1])
    return table


def _chain(context: int, vocabulary: int, length: int, held: int) -> Text:
    # Many chains side by side, one step of all at a time; then one after the other.
    steps = 500
    bounds, rng = transitions(vocabulary).cumsum(1), np.random.default_rng(1)
    now = rng.integers(vocabulary, size=max(10, length // steps))
    said = np.empty((steps, len(now)), dtype=np.uint16)
    for step in range(steps):
        now = np.minimum((rng.random(len(now))[:, None] > bounds[now]).sum(1), vocabulary - 1)
        said[step] = now
    symbols = said.T.reshape(-1)
    a, b = (round(share * len(now)) * steps for share in (0.8, 0.9))
    return Text(symbols[:a], symbols[a:b], symbols[b:], TextForm(vocabulary, context), held)


def reversal(
    where: Path | None,
    *,
    words: int = 20,
    count: int = 2000,
    longest: int = 8,
    beam: int = 5,
    smoothing: float = 0.1,
    tokens: int = 0,
) -> Callable[[], Pairs]:
    """Sentences of made-up words; a translation says other words in the opposite order."""
    _check.whole("Data('reversal')", "words", words)
    _check.whole("Data('reversal')", "longest", longest, low=3)
    needs("reversal", "sacrebleu")

    def load() -> Pairs:
        rng = np.random.default_rng(0)
        other = rng.permutation(words)

        def said(n: int) -> list[tuple[list[str], list[str]]]:
            drawn = [rng.integers(words, size=rng.integers(3, longest + 1)) for _ in range(n)]
            return [([f"a{w}" for w in s], [f"b{other[w]}" for w in s[::-1]]) for s in drawn]

        train, validation, test = said(count), said(100), said(100)
        settings = {"longest": longest, "beam": beam, "tokens": tokens}
        return pairs(train, validation, test, least=1, most=0, smoothing=smoothing, **settings)

    return load
