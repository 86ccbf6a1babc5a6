"""Residual networks: the narrow ones of CIFAR, ResNet-18 on small images, ResNet-50.

    x <- act(norm(conv(act(norm(conv(x))))) + shortcut(x))      a basic block; a bottleneck has three convolutions

The shortcut is x where shapes agree, else a 1x1 convolution and a norm (option B of He et al. 2016, arXiv
1512.03385, as in the paper's own code). A bottleneck strides in its 3x3 convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from rotational.lab.models import layers


@dataclass(frozen=True)
class Style:
    """What all blocks share; `gain` is of standardized layers, which are followed by a norm that has gains."""

    norm: str = "batch"
    layers: str = "plain"
    activation: str = "relu"
    gain: bool = False

    def unit(self, inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
        """A convolution and its norm."""
        conv = layers.conv(
            self.layers, inputs, outputs, size, stride=stride, padding=size // 2, bias=False, gain=self.gain
        )
        return nn.Sequential(conv, layers.norm(self.norm, outputs))


class Block(nn.Module):
    """Units with activations between them, beside a shortcut; `expansion` is the last unit's width."""

    def __init__(self, inputs: int, width: int, stride: int, style: Style, expansion: int) -> None:
        super().__init__()
        outputs = width * expansion
        act = layers.activation
        parts = (
            (style.unit(inputs, width, 3, stride), act(style.activation), style.unit(width, width, 3))
            if expansion == 1
            else (
                *(style.unit(inputs, width, 1), act(style.activation), style.unit(width, width, 3, stride)),
                *(act(style.activation), style.unit(width, outputs, 1)),
            )
        )
        self.residual = nn.Sequential(*parts)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else style.unit(inputs, outputs, 1, stride)
        self.act = act(style.activation)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in, height, width] -> [batch, out, height/stride, width/stride]."""
        return self.act(self.residual(x) + self.shortcut(x))


class ResNet(nn.Module):
    """Images [batch, channels, height, width] -> logits [batch, classes].

    blocks     of each stage; a stage has twice the width of the one before, at half the resolution
    width      of the first stage
    expansion  1 for basic blocks, 4 for bottlenecks
    stem       "small": a 3x3 convolution; "large": 7x7 of stride 2, then a pooling of stride 2

    >>> model = ResNet(10, 3, blocks=(3, 3, 3), width=16)
    >>> sum(p.numel() for p in model.parameters())
    272474
    """

    def __init__(
        self,
        classes: int,
        channels: int,
        *,
        blocks: Sequence[int],
        width: int,
        expansion: int = 1,
        stem: str = "small",
        style: Style = Style(),
    ) -> None:
        super().__init__()
        first = width
        act = layers.activation(style.activation)
        if stem == "small":
            self.stem = nn.Sequential(style.unit(channels, first, 3), act)
        else:
            self.stem = nn.Sequential(style.unit(channels, first, 7, 2), act, nn.MaxPool2d(3, 2, 1))
        stages: list[nn.Module] = []
        inputs = first
        for stage, count in enumerate(blocks):
            for i in range(count):
                stages.append(Block(inputs, width, 2 if stage and not i else 1, style, expansion))
                inputs = width * expansion
            width *= 2
        self.blocks = nn.Sequential(*stages)
        self.head = layers.linear(style.layers, inputs, classes, gain=style.gain)
        layers.kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))
