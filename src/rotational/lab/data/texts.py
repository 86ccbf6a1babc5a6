"""Text as one long sequence of symbols: characters, words or the tokens of a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from rotational.lab.models import TextForm

Symbols: TypeAlias = "np.ndarray[Any, Any]"
"""Integers of any type, [length], in memory or mapped from a file."""


@dataclass(frozen=True, eq=False)
class Text:
    """Three parts of a text; `held` windows of validation and test are looked at, 0 for all that do not overlap."""

    train: Symbols
    validation: Symbols
    test: Symbols
    form: TextForm
    held: int = 512

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            if len(getattr(self, name)) < self.form.context + 2:
                raise ValueError(
                    f"Data(context={self.form.context}): the {name} part has {len(getattr(self, name))} symbols, "
                    "fewer than one window takes. Give a longer text or a shorter context."
                )

    def windows(self, part: Symbols, start: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets, the next symbols, from some places on: each int64 [n, context]."""
        index = start.numpy()[:, None] + np.arange(self.form.context + 1)
        taken = torch.from_numpy(part[index].astype(np.int64))
        return taken[:, :-1], taken[:, 1:]

    def held_out(self, part: Symbols) -> Tensor:
        """Where the windows of validation or test start, at even distances and always the same."""
        last = len(part) - self.form.context - 1
        count = last // self.form.context + 1
        if self.held and self.held < count:
            return torch.linspace(0, last, self.held, dtype=torch.float64).long()
        return torch.arange(count) * self.form.context


def cut(symbols: Symbols, share: float = 0.05) -> tuple[Symbols, Symbols, Symbols]:
    """Training, validation and test from one text: the last two are its end, `share` of it each.

    >>> [len(part) for part in cut(np.zeros(100))]
    [90, 5, 5]
    """
    held = max(1, round(share * len(symbols)))
    return symbols[: -2 * held], symbols[-2 * held : -held], symbols[-held:]
