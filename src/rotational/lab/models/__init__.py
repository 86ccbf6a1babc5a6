"""Models by name, in plain PyTorch: what a run's `Model` stands for.

    build(Model("resnet20", width=0.5), images)       the data says how many classes, channels, symbols

Options and their defaults are the keyword parameters of the functions below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from rotational import _check
from rotational.lab.declare import Model
from rotational.lab.models import gpt as _gpt
from rotational.lab.models import layers, seq2seq
from rotational.lab.models.mlp import MLP
from rotational.lab.models.resnet import ResNet, Style
from rotational.lab.models.vgg import SMALL, VGG
from rotational.lab.models.vit import ViT
from rotational.lab.named import entry, made


@dataclass(frozen=True)
class ImageForm:
    """What an image model must know of its data: images [channels, side, side] of `classes` kinds."""

    classes: int
    channels: int
    side: int


@dataclass(frozen=True)
class TextForm:
    """What a language model must know: how many symbols there are, and how many it sees at once."""

    vocabulary: int
    context: int


@dataclass(frozen=True)
class PairForm:
    """What a translation model must know: symbols of both languages."""

    source: int
    target: int


Form = ImageForm | TextForm | PairForm


def resnet20(
    data: ImageForm,
    *,
    width: float = 1.0,
    norm: str = "batch",
    layers: str = "plain",
    activation: str = "relu",
    gain: bool = False,
    blocks: int = 3,
) -> nn.Module:
    """The network of He et al. for CIFAR: three stages of `blocks` blocks from 16 channels on (0.27M parameters).

    blocks=2 is ResNet-14 and blocks=1 ResNet-8. norm is "batch", "layer" or "none"; layers "plain", "ws",
    "gained" or "tracked".
    """
    style = Style(norm, layers, activation, gain)
    return ResNet(data.classes, data.channels, blocks=(blocks,) * 3, width=_scaled(16, width), style=style)


def resnet18(
    data: ImageForm,
    *,
    width: float = 1.0,
    norm: str = "batch",
    layers: str = "plain",
    activation: str = "relu",
    gain: bool = False,
    blocks: int = 2,
) -> nn.Module:
    """ResNet-18 for small images: four stages of `blocks` basic blocks from 64 channels on (11.17M parameters)."""
    style = Style(norm, layers, activation, gain)
    return ResNet(data.classes, data.channels, blocks=(blocks,) * 4, width=_scaled(64, width), style=style)


def resnet50(data: ImageForm, *, norm: str = "batch", layers: str = "plain", gain: bool = False) -> nn.Module:
    """ResNet-50 for large images (25.56M parameters)."""
    style = Style(norm, layers, "relu", gain)
    return ResNet(
        data.classes, data.channels, blocks=(3, 4, 6, 3), width=64, expansion=4, stem="large", style=style
    )  # fmt: skip


def vgg13(
    data: ImageForm,
    *,
    width: float = 1.0,
    layers: str = "plain",
    norm: str = "none",
    features: int = 512,
    window: int = 1,
    dropout: float = 0.0,
) -> nn.Module:
    """VGG13; its defaults are the paper's for CIFAR, features=4096 and window=7 are ImageNet's."""
    return VGG(
        data.classes, data.channels, width=width, kind=layers, norm=norm, features=features, window=window,
        dropout=dropout,
    )  # fmt: skip


def vgg_small(data: ImageForm, *, width: float = 1.0, layers: str = "plain", norm: str = "none") -> nn.Module:
    """Four convolutions from 32 channels on, and two layers of 128: VGG13 for a laptop."""
    features = _scaled(128, width)
    return VGG(
        data.classes, data.channels, plan=SMALL, width=width, kind=layers, norm=norm, features=features, window=1
    )  # fmt: skip


def vit(
    data: ImageForm,
    *,
    patch: int = 4,
    width: int = 64,
    blocks: int = 4,
    heads: int = 4,
    layers: str = "plain",
    drop_path: float = 0.0,
    std: float = 0.02,
) -> nn.Module:
    """A vision transformer of any size; the defaults are for a laptop. drop_path is of its last block, std the spread
    of its initial weights.
    """
    sizes = {"patch": patch, "width": width, "blocks": blocks, "heads": heads}
    return ViT(data.classes, data.channels, side=data.side, kind=layers, drop_path=drop_path, std=std, **sizes)


def deit_tiny(data: ImageForm, *, layers: str = "plain", drop_path: float = 0.0) -> nn.Module:
    """DeiT-tiny: patches of 16, width 192, 12 blocks of 3 heads (5.72M parameters at 224x224)."""
    return vit(data, patch=16, width=192, blocks=12, heads=3, layers=layers, drop_path=drop_path)


def mlp(
    data: ImageForm, *, width: int = 64, hidden: int = 2, norm: str = "none", layers: str = "plain"
) -> nn.Module:  # fmt: skip
    """Layers in a line: `hidden` of the same width; norm is "none", "layer" or "batch"."""
    _check.choice("Model('mlp')", "norm", norm, ("none", "layer", "batch"))
    inputs = data.channels * data.side**2
    return MLP(inputs, data.classes, width=width, hidden=hidden, norm=norm, kind=layers)


def gpt(
    data: TextForm,
    *,
    width: int = 64,
    blocks: int = 4,
    heads: int = 4,
    std: float = 0.1,
    bias: bool = False,
    layers: str = "plain",
    residual: bool = False,
    dropout: float = 0.0,
) -> nn.Module:
    """A GPT; `layers` of its linears, `residual` for GPT-2's smaller start of what adds to the residual path."""
    return _gpt.GPT(
        _gpt.Shape(data.vocabulary, width, blocks, heads, data.context, std, bias, layers, residual, dropout)
    )


def gpt2(data: TextForm, *, layers: str = "plain", bias: bool = True, dropout: float = 0.0) -> nn.Module:
    """GPT-2's smallest: width 768, 12 blocks of 12 heads (124.4M parameters at 50,257 symbols and context 1024)."""
    return gpt(
        data, width=768, blocks=12, heads=12, std=0.02, bias=bias, layers=layers, residual=True, dropout=dropout
    )  # fmt: skip


def transformer(
    data: PairForm,
    *,
    width: int = 512,
    inner: int = 1024,
    heads: int = 4,
    blocks: int = 6,
    dropout: float = 0.3,
    order: str = "post",
    layers: str = "plain",
) -> nn.Module:
    """An encoder-decoder transformer; the defaults are fairseq's for IWSLT14. order is "post" or "pre" (norms)."""
    _check.choice("Model('transformer')", "order", order, ("post", "pre"))
    return seq2seq.Seq2Seq(
        seq2seq.Shape(data.source, data.target, width, inner, heads, blocks, dropout, order, layers)
    )  # fmt: skip


IMAGES: dict[str, Callable[..., nn.Module]] = {
    "resnet20": resnet20,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "vgg13": vgg13,
    "vgg_small": vgg_small,
    "vit": vit,
    "deit_tiny": deit_tiny,
    "mlp": mlp,
}
TEXT: dict[str, Callable[..., nn.Module]] = {"gpt": gpt, "gpt2": gpt2}
PAIRS: dict[str, Callable[..., nn.Module]] = {"transformer": transformer}

MODELS = {**IMAGES, **TEXT, **PAIRS}
"""Every model by name."""


def build(model: Model, data: Form, seed: int = 0) -> nn.Module:
    """The model of a name, with weights drawn from the seed; torch's own random state stays as it was.

    Raises ValueError for a name that does not exist or does not fit the data, and sizes that do not fit each
    other; TypeError for an option that does not exist.

    >>> sum(p.numel() for p in build(Model("resnet20"), ImageForm(10, 3, 32)).parameters())
    272474
    """
    entry("Model", model.name, MODELS)
    table = IMAGES if isinstance(data, ImageForm) else TEXT if isinstance(data, TextForm) else PAIRS
    if model.name not in table:
        kind = {ImageForm: "images", TextForm: "text", PairForm: "translation"}[type(data)]
        raise ValueError(f"{model!r}: the data is {kind}; expected one of {', '.join(table)}.")
    # Only the CPU's generator draws: every model is made there.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return made(model, table, data)


_scaled = layers.scaled
