"""The model of the demo: a small GPT over characters.

    x <- x + attention(norm(x)),   x <- x + mlp(norm(x))      a block (pre-norm)

Nothing in it is special to rotation: it is the usual architecture at a size that a laptop trains in a minute.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; `context` is the longest sequence, `std` the spread of the initial weights.

    At std 0.1 the rows of 64 weights start at length 0.8, half of AdamW's equilibrium in the demo. A rotational
    optimizer keeps them there: at GPT-2's 0.02 logits and attention hardly grow, and its loss was 0.2 to 0.3
    higher.
    """

    vocabulary: int
    width: int = 64
    blocks: int = 4
    heads: int = 4
    context: int = 64
    std: float = 0.1


class Attention(nn.Module):
    """Causal multi-head attention: q, k and v in one projection, then softmax over the past."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, width] -> the same shape."""
        batch, time, width = x.shape
        q, k, v = self.qkv(x).view(batch, time, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, time, width))


class Block(nn.Module):
    """Attention and an MLP of four times the width, each behind a norm and beside a residual path."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.attention = Attention(shape)
        self.up = nn.Linear(shape.width, 4 * shape.width, bias=False)
        self.down = nn.Linear(4 * shape.width, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, width] -> the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Symbols [batch, time] -> logits of the next symbol [batch, time, vocabulary].

    Weights are normal with spread `shape.std`, drawn from `generator`.

    >>> model = GPT(Shape(vocabulary=98))
    >>> sum(p.numel() for p in model.parameters())
    208128
    """

    def __init__(self, shape: Shape, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.token = nn.Embedding(shape.vocabulary, shape.width)
        self.position = nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.blocks))
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        # Tied: through the softmax every symbol's row has a gradient at every step, rare symbols too.
        self.head.weight = self.token.weight
        for p in self.parameters():
            if p.ndim > 1:
                nn.init.normal_(p, std=shape.std, generator=generator)

    def forward(self, symbols: Tensor) -> Tensor:
        """Logits; raises IndexError for a sequence longer than the context."""
        x = self.token(symbols) + self.position(torch.arange(symbols.shape[1], device=symbols.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
