"""What the laws range over: layouts of neurons, and every kind of layer with its output units."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from rotational.layers import partition
from rotational.neurons import ROWS, WHOLE, Neurons

LAYOUTS = {
    "rows": (ROWS, (5, 4)),
    "one row": (ROWS, (1, 6)),
    "one column": (ROWS, (6, 1)),
    "rows of a convolution": (ROWS, (6, 3, 2, 2)),
    "rows with parts": (Neurons(parts=(("q", 2), ("k", 1), ("v", 3))), (6, 4)),
    "columns": (Neurons(axes=(1,)), (4, 5)),
    "columns of a convolution": (Neurons(axes=(1,)), (3, 4, 2, 1, 2)),
    "last axis": (Neurons(axes=(2,)), (2, 3, 4)),
    "experts": (Neurons(axes=(0, 1)), (3, 4, 5)),
    "outer axes": (Neurons(axes=(0, 2)), (3, 4, 5)),
    "groups": (Neurons(axes=(0, 2), split=3), (6, 4, 3)),
    "groups of a convolution": (Neurons(axes=(0, 2), split=2), (6, 2, 3, 3)),
    "heads": (Neurons(axes=(0,), split=2), (6, 5)),
    "whole tensor": (WHOLE, (4, 3)),
    "every entry": (Neurons(axes=(0, 1)), (4, 3)),
    "vector as one": (WHOLE, (7,)),
}


def members(neurons: Neurons, shape: tuple[int, ...]) -> list[list[int]]:
    """Flat positions of every neuron's weights, found entry by entry: the witness of all views."""
    found: dict[tuple[int, ...], list[int]] = {}
    for position, index in enumerate(np.ndindex(*shape)):
        at = index
        if neurons.split > 1:
            at = (*divmod(index[0], shape[0] // neurons.split), *index[1:])
        found.setdefault(tuple(at[a] for a in neurons.axes), []).append(position)
    return [found[key] for key in sorted(found)]


# Layers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A layer, the parameters in which it holds neurons, and its output units.

    `read(layer, parameter)` is [units, everything else]; neuron n feeds unit n modulo the number of units,
    which is n itself but for gates, where each unit has one neuron in every gate.
    """

    layer: Callable[[], nn.Module]
    read: Callable[[nn.Module, str], torch.Tensor]
    holds: tuple[str, ...] = ("weight",)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def features(y: torch.Tensor) -> torch.Tensor:
    return y.reshape(-1, y.shape[-1]).T


def channels(y: torch.Tensor) -> torch.Tensor:
    return y.transpose(0, 1).flatten(1)


class Conv1D(nn.Module):
    """The transposed linear layer of GPT-2, as transformers writes it."""

    __module__ = "transformers.pytorch_utils"

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


def convolution(make: Callable[..., nn.Module], *sizes: int, **options: int) -> Case:
    """A convolution over inputs of 7 pixels an axis, as many axes as its kernel has."""
    layer = make(*sizes, **options)
    x = noise(2, layer.in_channels, *[7] * len(layer.kernel_size))  # pyright: ignore
    return Case(lambda: make(*sizes, **options), lambda m, _: channels(m(x)))


def projections(layer: nn.MultiheadAttention, *inputs: torch.Tensor) -> torch.Tensor:
    """The q, k, v pre-activations [..., 3E] that the module itself computes, overheard at F.linear."""
    overheard: list[torch.Tensor] = []
    linear = F.linear

    def spy(*args: torch.Tensor) -> torch.Tensor:
        overheard.append(linear(*args))
        return overheard[-1]

    with mock.patch.object(F, "linear", spy):
        layer(*inputs)
    return torch.cat(overheard[:-1], dim=-1)  # the last call is out_proj


def attention(holds: tuple[str, ...], **options: int) -> Case:
    def read(layer: nn.Module, parameter: str) -> torch.Tensor:
        assert isinstance(layer, nn.MultiheadAttention)
        if parameter == "out_proj.weight":
            return features(layer.out_proj(noise(5, 4)))
        # Equal inputs must be one tensor for the packed weight, as in self-attention.
        inputs = {size: noise(5, 2, size) for size in (4, layer.kdim, layer.vdim)}
        seen = features(projections(layer, inputs[4], inputs[layer.kdim], inputs[layer.vdim]))
        return seen if parameter == "in_proj_weight" else seen["qkv".index(parameter[0]) * 4 :][:4]

    return Case(lambda: nn.MultiheadAttention(4, 2, **options), read, (*holds, "out_proj.weight"))


def recurrent(make: Callable[..., nn.RNNBase], holds: str, **options: int) -> Case:
    """One step from a random state; a weight is read at the hidden state of its own layer and direction."""

    def read(layer: nn.Module, parameter: str) -> torch.Tensor:
        assert isinstance(layer, nn.RNNBase)
        if layer.proj_size and "_hr_" not in parameter:
            # The projection mixes the hidden units: look at the gates before it.
            weight = layer.get_parameter(parameter)
            return features(F.linear(noise(3, weight.shape[1]), weight))
        slots = layer.num_layers * (2 if layer.bidirectional else 1)
        h, c = noise(slots, 3, layer.proj_size or 4), noise(slots, 3, 4) + 1
        _, state = layer(noise(1, 3, 5), (h, c) if isinstance(layer, nn.LSTM) else h)
        depth = int(parameter.removesuffix("_reverse")[-1])
        slot = depth * (2 if layer.bidirectional else 1) + parameter.endswith("_reverse")
        return features((state[0] if isinstance(layer, nn.LSTM) else state)[slot])

    return Case(lambda: make(5, 4, **options), read, tuple(f"weight_{name}" for name in holds.split()))


def cell(make: Callable[..., nn.RNNCellBase]) -> Case:
    def read(layer: nn.Module, _: str) -> torch.Tensor:
        h, c = noise(3, 4), noise(3, 4) + 1
        state = layer(noise(3, 5), (h, c)) if isinstance(layer, nn.LSTMCell) else (layer(noise(3, 5), h),)
        return features(state[0])

    return Case(lambda: make(5, 4), read, ("weight_ih", "weight_hh"))


DEEP = "ih_l0 hh_l0 ih_l0_reverse hh_l0_reverse ih_l1 hh_l1 ih_l1_reverse hh_l1_reverse"

LAYERS = {
    "Linear": Case(lambda: nn.Linear(4, 3), lambda m, _: features(m(noise(5, 4)))),
    "Linear without bias": Case(lambda: nn.Linear(4, 3, bias=False), lambda m, _: features(m(noise(5, 4)))),
    "Bilinear": Case(lambda: nn.Bilinear(4, 3, 5), lambda m, _: features(m(noise(6, 4), noise(6, 3)))),
    "Embedding": Case(lambda: nn.Embedding(6, 4), lambda m, _: m(torch.arange(6))),
    "Embedding with padding": Case(lambda: nn.Embedding(6, 4, padding_idx=2), lambda m, _: m(torch.arange(6))),
    "EmbeddingBag": Case(lambda: nn.EmbeddingBag(6, 4, mode="sum"), lambda m, _: m(torch.arange(6), torch.arange(6))),
    "EmbeddingBag of pairs": Case(
        lambda: nn.EmbeddingBag(6, 4), lambda m, _: m(torch.tensor([[i, i] for i in range(6)]))
    ),
    "Conv1d": convolution(nn.Conv1d, 4, 6, 3),
    "Conv2d": convolution(nn.Conv2d, 3, 5, 3, stride=2, padding=1),
    "Conv3d": convolution(nn.Conv3d, 2, 3, 2, dilation=2),
    "Conv1d grouped": convolution(nn.Conv1d, 4, 6, 3, groups=2),
    "Conv2d grouped": convolution(nn.Conv2d, 6, 9, 3, groups=3, dilation=2),
    "Conv3d grouped": convolution(nn.Conv3d, 4, 2, 2, groups=2),
    "Conv2d depthwise": convolution(nn.Conv2d, 4, 8, 3, groups=4),
    "ConvTranspose1d": convolution(nn.ConvTranspose1d, 4, 6, 3),
    "ConvTranspose2d": convolution(nn.ConvTranspose2d, 3, 5, 3, stride=2, output_padding=1),
    "ConvTranspose3d": convolution(nn.ConvTranspose3d, 2, 3, 2, dilation=2),
    "ConvTranspose1d grouped": convolution(nn.ConvTranspose1d, 4, 6, 3, groups=2),
    "ConvTranspose2d grouped": convolution(nn.ConvTranspose2d, 6, 9, 3, groups=3, stride=2, dilation=2),
    "ConvTranspose3d grouped": convolution(nn.ConvTranspose3d, 4, 2, 2, groups=2, padding=1),
    "ConvTranspose2d depthwise": convolution(nn.ConvTranspose2d, 4, 8, 3, groups=4),
    "MultiheadAttention": attention(("in_proj_weight",)),
    "MultiheadAttention with key bias": attention(("in_proj_weight",), add_bias_kv=True),
    "MultiheadAttention over others": attention(("q_proj_weight", "k_proj_weight", "v_proj_weight"), kdim=3, vdim=5),
    "RNN": recurrent(nn.RNN, "ih_l0 hh_l0"),
    "RNN deep, both ways": recurrent(nn.RNN, DEEP, num_layers=2, bidirectional=True),
    "LSTM": recurrent(nn.LSTM, "ih_l0 hh_l0"),
    "LSTM deep, both ways": recurrent(nn.LSTM, DEEP, num_layers=2, bidirectional=True),
    "LSTM projected": recurrent(
        nn.LSTM,
        "ih_l0 hh_l0 hr_l0 ih_l0_reverse hh_l0_reverse hr_l0_reverse",
        proj_size=2,
        bidirectional=True,
    ),
    "GRU": recurrent(nn.GRU, "ih_l0 hh_l0"),
    "GRU deep, both ways": recurrent(nn.GRU, DEEP, num_layers=2, bidirectional=True, bias=False),
    "RNNCell": cell(nn.RNNCell),
    "LSTMCell": cell(nn.LSTMCell),
    "GRUCell": cell(nn.GRUCell),
    "transformers' Conv1D": Case(lambda: Conv1D(3, 4), lambda m, _: features(m(noise(5, 4)))),
}


def moved(weight: torch.Tensor, neuron: list[int]) -> Iterator[torch.Tensor]:
    """Copies of a weight in which one neuron alone is scaled, or turned at its own length."""
    w = weight.flatten()
    for change in ("scale", "turn")[: 1 if len(neuron) == 1 else 2]:
        x = w[neuron]
        if change == "turn":
            y = x + noise(len(neuron))
            y *= x.norm() / y.norm()
        else:
            y = 1.5 * x
        copy = w.clone()
        copy[neuron] = y
        yield copy.reshape(weight.shape)


@torch.no_grad()
def assert_one_unit_each(case: Case, parameter: str, neurons: Neurons | None = None) -> None:
    """Scaling or turning a neuron changes exactly one output unit, and it is that neuron's own.

    `neurons` stands in for what the library says of the parameter.
    """
    torch.manual_seed(0)
    layer = case.layer().double()
    weight = nn.init.normal_(layer.get_parameter(parameter))  # no zeros, such as an embedding's padding
    before, kept = case.read(layer, parameter).clone(), weight.clone()
    neurons = neurons or partition(layer)[parameter]
    for n, neuron in enumerate(members(neurons, tuple(weight.shape))):
        for changed in moved(kept, neuron):
            weight.copy_(changed)
            difference = (case.read(layer, parameter) - before).abs().amax(dim=1)
            units = torch.nonzero(difference > 1e-9).flatten().tolist()
            assert units == [n % len(before)], f"neuron {n} of {parameter} changed the units {units}"
