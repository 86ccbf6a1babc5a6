"""A vision transformer: an image as a sequence of patches, behind one more that answers for the class.

    x <- x + attention(norm(x)),   x <- x + mlp(norm(x))

Dosovitskiy et al. 2020, arXiv 2010.11929; at width 192, 12 blocks and 3 heads it is DeiT-tiny (Touvron et al.
2020, arXiv 2012.12877).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rotational.lab.models import layers
from rotational.layers import neurons


class Positions(nn.Module):
    """A learnable vector for each place, added to the sequence; it has no neurons, and so no decay (as in DeiT)."""

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(places, width))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, places, width] -> the same shape."""
        return x + self.weight


@neurons.register(Positions)
def _none(layer: Positions) -> Mapping[str, None]:
    return {"weight": None}


class Block(nn.Module):
    """Attention over all places and an MLP, each behind a norm and beside a residual path.

    In training each of the two is left out of an image with probability `drop`, and stands in for what was left out
    where it is not (stochastic depth, Huang et al. 2016, arXiv 1603.09382).
    """

    def __init__(self, width: int, heads: int, kind: str, drop: float = 0.0) -> None:
        super().__init__()
        self.heads, self.drop = heads, drop
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.out = layers.linear(kind, width, 3 * width), layers.linear(kind, width, width)
        self.up, self.down = layers.linear(kind, width, 4 * width), layers.linear(kind, 4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, places, width] -> the same shape."""
        batch, places, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, places, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self._some(self.out(y.transpose(1, 2).reshape(batch, places, width)))
        return x + self._some(self.down(F.gelu(self.up(self.norm2(x)))))

    def _some(self, y: Tensor) -> Tensor:
        if not (self.training and self.drop):
            return y
        kept = torch.rand(len(y), 1, 1, device=y.device) >= self.drop
        return y * kept / (1 - self.drop)


class ViT(nn.Module):
    """Images [batch, channels, side, side] -> logits [batch, classes].

    drop_path   probability with which parts of the last block are left out; that of the others rises to it from 0
    std         spread of the linear layers' initial weights: the usual 0.02 is made for wide models, and a rotational
                optimizer keeps their lengths

    >>> model = ViT(1000, 3, side=224, patch=16, width=192, blocks=12, heads=3)
    >>> sum(p.numel() for p in model.parameters())
    5717416
    """

    def __init__(
        self,
        classes: int,
        channels: int,
        *,
        side: int,
        patch: int,
        width: int,
        blocks: int,
        heads: int,
        kind: str = "plain",
        drop_path: float = 0.0,
        std: float = 0.02,
    ) -> None:
        super().__init__()
        if side % patch or width % heads:
            raise ValueError(
                f"Model('vit', patch={patch}, width={width}, heads={heads}): expected a patch that divides the "
                f"image's side, {side}, and heads that divide the width."
            )
        if drop_path >= 1:
            raise ValueError(f"Model('vit', drop_path={drop_path}): expected a probability below 1.")
        if std <= 0:
            raise ValueError(
                f"Model('vit', std={std}): expected a positive number, the spread of the weights at first."
            )
        self.patches = layers.conv(kind, channels, width, patch, stride=patch)
        self.answer = nn.Parameter(torch.zeros(width))
        self.positions = Positions((side // patch) ** 2 + 1, width)
        drops = [drop_path * i / max(1, blocks - 1) for i in range(blocks)]
        self.blocks = nn.Sequential(*(Block(width, heads, kind, drop) for drop in drops))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = layers.linear(kind, width, classes)
        nn.init.trunc_normal_(self.answer, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=std)
                nn.init.zeros_(module.bias)
        layers.settle(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits; raises RuntimeError for images of another side."""
        sequence = self.patches(x).flatten(2).transpose(1, 2)
        answer = self.answer.expand(len(x), 1, -1)
        x = self.blocks(self.positions(torch.cat([answer, sequence], 1)))
        return self.head(self.norm(x[:, 0]))
