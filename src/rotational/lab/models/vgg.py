"""VGG: convolutions and pooling in a line, no shortcuts; without norms its weights are scale-sensitive.

    x <- act(norm(conv(x)))      with a 2x2 maximum after each stage; then two wide layers, then the classes

VGG13 is configuration B of Simonyan and Zisserman 2014, arXiv 1409.1556.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from rotational.lab.models import layers

VGG13 = (64, 64, 0, 128, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0)
"""Channels of the convolutions; 0 is a pooling."""

SMALL = (32, 0, 64, 0, 128, 128, 0)


class VGG(nn.Module):
    """Images [batch, channels, height, width] -> logits [batch, classes].

    features   width of the two layers before the classes (4096 on ImageNet, 512 on CIFAR)
    window     height and width of the maps that they see (7 and 1); others are averaged down to it
    kind       of all layers: "plain", "ws", "gained" or "tracked"
    norm       "none" or "batch"

    >>> model = VGG(10, 3, features=512, window=1)
    >>> sum(p.numel() for p in model.parameters())
    9935434
    """

    def __init__(
        self,
        classes: int,
        channels: int,
        *,
        plan: Sequence[int] = VGG13,
        width: float = 1.0,
        features: int = 4096,
        window: int = 7,
        kind: str = "plain",
        norm: str = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.window = window
        parts: list[nn.Module] = []
        for entry in plan:
            if entry == 0:
                parts.append(nn.MaxPool2d(2))
                continue
            outputs = layers.scaled(entry, width)
            parts += [layers.conv(kind, channels, outputs, 3, padding=1)]
            parts += [layers.norm(norm, outputs)] if norm != "none" else []
            parts += [nn.ReLU()]
            channels = outputs
        self.maps = nn.Sequential(*parts)
        self.wide = nn.Sequential(
            *(layers.conv(kind, channels, features, window), nn.ReLU(), nn.Dropout(dropout)),
            *(layers.conv(kind, features, features, 1), nn.ReLU(), nn.Dropout(dropout)),
        )
        self.head = layers.linear(kind, features, classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        layers.kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.maps(x)
        if x.shape[-1] != self.window:
            x = F.adaptive_avg_pool2d(x, self.window)
        return self.head(self.wide(x).flatten(1))
