"""An encoder-decoder transformer for translation (Vaswani et al. 2017, arXiv 1706.03762).

    x <- norm(x + attention(x))      post-norm, as fairseq's `transformer_iwslt_de_en`
    x <- x + attention(norm(x))      pre-norm

The decoder's blocks look at the past of the target, then at the encoded source. Embeddings are multiplied by
sqrt(width), positions are sines (no parameters), and the decoder's embedding is its head too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rotational.lab.models import layers

PAD, BOS, EOS, UNK = 0, 1, 2, 3
"""Symbols that every vocabulary starts with: padding, begin and end of a sentence, an unknown word."""


@dataclass(frozen=True)
class Shape:
    """Sizes; the defaults are fairseq's for IWSLT14. `order` is "post" or "pre", `kind` is of the linear layers."""

    source: int
    target: int
    width: int = 512
    inner: int = 1024
    heads: int = 4
    blocks: int = 6
    dropout: float = 0.3
    order: str = "post"
    kind: str = "plain"


class Attention(nn.Module):
    """Multi-head attention of one sequence over another; `hidden` marks places [batch, over] that are padding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.q, self.k, self.v, self.out = (layers.linear(shape.kind, shape.width, shape.width) for _ in range(4))

    def forward(self, x: Tensor, over: Tensor, hidden: Tensor | None, causal: bool = False) -> Tensor:
        """[batch, time, width] -> the same shape."""
        q, k, v = self._split(self.q(x)), self._split(self.k(over)), self._split(self.v(over))
        seen = None if hidden is None else ~hidden[:, None, None, :]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=causal)
        return self.out(y.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Attention to its own sequence, to the source (decoder only), and an MLP."""

    def __init__(self, shape: Shape, decoder: bool) -> None:
        super().__init__()
        self.post = shape.order == "post"
        self.own = Attention(shape)
        self.other = Attention(shape) if decoder else None
        self.up, self.down = (
            layers.linear(shape.kind, shape.width, shape.inner),
            layers.linear(shape.kind, shape.inner, shape.width),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(shape.width) for _ in range(3 if decoder else 2))
        self.drop = nn.Dropout(shape.dropout)

    def forward(self, x: Tensor, hidden: Tensor | None, source: Tensor | None = None) -> Tensor:
        """[batch, time, width] -> the same; `hidden` is of the source's padding, in the decoder too."""
        y = self._before(x, 0)
        x = self._after(x, self.own(y, y, None, True) if self.other else self.own(y, y, hidden), 0)
        if self.other is not None:
            assert source is not None
            x = self._after(x, self.other(self._before(x, 1), source, hidden), 1)
        last = len(self.norms) - 1
        return self._after(x, self.down(F.relu(self.up(self._before(x, last)))), last)

    def _before(self, x: Tensor, i: int) -> Tensor:
        return x if self.post else self.norms[i](x)

    def _after(self, x: Tensor, y: Tensor, i: int) -> Tensor:
        x = x + self.drop(y)
        return self.norms[i](x) if self.post else x


class Seq2Seq(nn.Module):
    """Sentences [batch, time], the target without its last symbol -> logits [batch, time, target vocabulary].

    A source ends with EOS, a target starts with BOS; both are filled up with PAD.

    >>> model = Seq2Seq(Shape(source=8848, target=6632))
    >>> sum(p.numel() for p in model.parameters())
    39469056
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        if shape.width % (2 * shape.heads):
            raise ValueError(
                f"Seq2Seq(width={shape.width}, heads={shape.heads}): expected a width that twice the heads divide."
            )
        self.width = shape.width
        self.source = nn.Embedding(shape.source, shape.width)
        self.target = nn.Embedding(shape.target, shape.width)
        self.encoder = nn.ModuleList(Block(shape, False) for _ in range(shape.blocks))
        self.decoder = nn.ModuleList(Block(shape, True) for _ in range(shape.blocks))
        ends = shape.order == "pre"
        self.encoded = nn.LayerNorm(shape.width) if ends else nn.Identity()
        self.decoded = nn.LayerNorm(shape.width) if ends else nn.Identity()
        self.head = nn.Linear(shape.width, shape.target, bias=False)
        self.head.weight = self.target.weight
        self.drop = nn.Dropout(shape.dropout)
        self._draw()

    def _draw(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Embedding):
                # Padding's row too, which fairseq sets to 0: a zero vector has no direction that could be held, and
                # what stands at padded places reaches neither attention nor loss.
                nn.init.normal_(module.weight, std=self.width**-0.5)
            elif isinstance(module, nn.Linear) and name != "head":
                # q, k, v as parts of one projection: fairseq's choice.
                gain = 1 / math.sqrt(2) if name.endswith((".q", ".k", ".v")) else 1.0
                nn.init.xavier_uniform_(module.weight, gain=gain)
                nn.init.zeros_(module.bias)
        layers.settle(self)

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, time] -> [batch, time, width], and which of its places are padding."""
        hidden = source == PAD
        x = self.drop(self.source(source) * math.sqrt(self.width) + positions(source, self.width))
        for block in self.encoder:
            x = block(x, hidden)
        return self.encoded(x), hidden

    def decode(self, target: Tensor, encoded: Tensor, hidden: Tensor, last: bool = False) -> Tensor:
        """Logits at every place of the target, or at the last one only."""
        x = self.drop(self.target(target) * math.sqrt(self.width) + positions(target, self.width))
        for block in self.decoder:
            x = block(x, hidden, encoded)
        return self.head(self.decoded(x[:, -1:] if last else x))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits."""
        return self.decode(target, *self.encode(source))


def positions(symbols: Tensor, width: int) -> Tensor:
    """Sines, then cosines, of each place [time, width], at frequencies from 1 down to 1/10000.

    >>> positions(torch.zeros(1, 3, dtype=torch.long), 4)[0].tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    half = width // 2
    frequency = torch.exp(torch.arange(half, device=symbols.device) * (-math.log(10000) / max(1, half - 1)))
    angle = torch.arange(symbols.shape[1], device=symbols.device)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], 1)
