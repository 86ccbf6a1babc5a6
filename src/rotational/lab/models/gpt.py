"""A GPT of any size: from the demo's 208,128 parameters to GPT-2's 124 million.

    x <- x + attention(norm(x)),   x <- x + mlp(norm(x))      a block (pre-norm)

Radford et al. 2019; the initial weights follow Karpathy's nanoGPT where `residual` says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rotational.lab.models import layers


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; `context` is the longest sequence, `std` the spread of the initial weights.

    At std 0.1 the rows of 64 weights start at length 0.8, half of AdamW's equilibrium in the demo. A rotational
    optimizer keeps them there: at GPT-2's 0.02 logits and attention hardly grow, and its loss was 0.2 to 0.3
    higher.

    bias       of the linear layers (GPT-2 has them)
    kind       of the linear layers, see `layers`; the embedding, which is the head too, is always plain
    residual   whether layers that add to the residual path start smaller, by 1/sqrt(2*blocks)
    """

    vocabulary: int
    width: int = 64
    blocks: int = 4
    heads: int = 4
    context: int = 64
    std: float = 0.1
    bias: bool = False
    kind: str = "plain"
    residual: bool = False
    dropout: float = 0.0


class Attention(nn.Module):
    """Causal multi-head attention: q, k and v in one projection, then softmax over the past."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.dropout = shape.dropout
        self.qkv = layers.linear(shape.kind, shape.width, 3 * shape.width, bias=shape.bias)
        self.out = layers.linear(shape.kind, shape.width, shape.width, bias=shape.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, width] -> the same shape."""
        batch, time, width = x.shape
        q, k, v = self.qkv(x).view(batch, time, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        dropped = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropped, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, time, width))


class Block(nn.Module):
    """Attention and an MLP of four times the width, each behind a norm and beside a residual path."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.attention = Attention(shape)
        self.up = layers.linear(shape.kind, shape.width, 4 * shape.width, bias=shape.bias)
        self.down = layers.linear(shape.kind, 4 * shape.width, shape.width, bias=shape.bias)
        self.drop = nn.Dropout(shape.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, width] -> the same shape."""
        x = x + self.drop(self.attention(self.norm1(x)))
        return x + self.drop(self.down(F.gelu(self.up(self.norm2(x)))))


class GPT(nn.Module):
    """Symbols [batch, time] -> logits of the next symbol [batch, time, vocabulary].

    Weights are normal with spread `shape.std`, drawn from `generator`. Raises ValueError for heads that do not
    divide the width.

    >>> model = GPT(Shape(vocabulary=98))
    >>> sum(p.numel() for p in model.parameters())
    208128
    """

    def __init__(self, shape: Shape, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if shape.width % shape.heads:
            raise ValueError(f"GPT(width={shape.width}, heads={shape.heads}): expected heads that divide the width.")
        self.token = nn.Embedding(shape.vocabulary, shape.width)
        self.position = nn.Embedding(shape.context, shape.width)
        self.drop = nn.Dropout(shape.dropout)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.blocks))
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        # Tied: through the softmax every symbol's row has a gradient at every step, rare symbols too.
        self.head.weight = self.token.weight
        smaller = 1 / math.sqrt(2 * shape.blocks) if shape.residual else 1.0
        for name, p in self.named_parameters():
            if p.ndim > 1:
                ends = name.endswith(("attention.out.weight", "down.weight"))
                nn.init.normal_(p, std=shape.std * (smaller if ends else 1.0), generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(p)
        layers.settle(self)

    def forward(self, symbols: Tensor) -> Tensor:
        """Logits; raises IndexError for a sequence longer than the context."""
        x = self.drop(self.token(symbols) + self.position(torch.arange(symbols.shape[1], device=symbols.device)))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
