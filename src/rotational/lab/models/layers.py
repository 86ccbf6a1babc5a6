"""Linear layers and convolutions that use another matrix than the one that is trained.

    standardized   s g (w - mean w)/std w             each neuron has zero mean and a length of its own: scale-invariant
    gained         g w                                 a learnable gain for each neuron, so that lengths may be held
    tracked        g (w - m) sqrt(v0/v)                m, v: running mean and variance of the whole tensor, no gradient
                                                       through them: close to standardized in value, yet not invariant

w is the trained weight, g a learnable gain (optional but for `gained`), s the spread with which w was drawn.
All are subclasses of torch's layers, so that what knows the neurons of those knows the neurons of these.
Standardization: Qiao et al. 2019, arXiv 1903.10520; gained and tracked: Kosson et al. 2024, arXiv 2305.17212,
whose code (epfml/REQ, `SLinear`, `TWSConv2d`) is what "tracked" follows: rate 0.01, per tensor.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rotational import _check

KINDS = ("plain", "ws", "gained", "tracked")

EPS = 1e-5
RATE = 0.01
"""Share of the current moments in the tracked ones, per training step."""


class _Other(nn.Module):
    """What the layers below share: a gain for each neuron, and the weight that is used."""

    weight: nn.Parameter
    gain: nn.Parameter | None
    spread: Tensor

    def _prepare(self, gain: bool) -> None:
        rows = self.weight.shape[0]
        self.gain = nn.Parameter(torch.ones(rows)) if gain else None
        self.register_buffer("spread", self.weight.detach().std())

    def settle(self) -> None:
        """Take the spread of the weights as they are now; called after they were drawn anew."""
        self.spread.copy_(self.weight.detach().std())

    def used(self) -> Tensor:
        """The weight that multiplies the input, shaped like the trained one."""
        raise NotImplementedError

    def _gained(self, weight: Tensor) -> Tensor:
        return weight if self.gain is None else weight * self.gain.view(-1, *[1] * (weight.ndim - 1))


class _Standardized(_Other):
    def used(self) -> Tensor:
        axes = tuple(range(1, self.weight.ndim))
        centered = self.weight - self.weight.mean(axes, keepdim=True)
        # The mean square of a centered row; one reduction less than var().
        rms = centered.square().mean(axes, keepdim=True).sqrt()
        return self._gained(centered * (self.spread / (rms + EPS * self.spread)))


class _Gained(_Other):
    def used(self) -> Tensor:
        return self._gained(self.weight)


class _Tracked(_Other):
    mean: Tensor
    variance: Tensor

    def _prepare(self, gain: bool) -> None:
        super()._prepare(gain)
        self.register_buffer("mean", self.weight.detach().mean())
        self.register_buffer("variance", self.weight.detach().var())

    def settle(self) -> None:
        super().settle()
        self.mean.copy_(self.weight.detach().mean())
        self.variance.copy_(self.weight.detach().var())

    def used(self) -> Tensor:
        used = self._gained((self.weight - self.mean) * (self.spread / (self.variance.sqrt() + EPS * self.spread)))
        if self.training:  # after use: the weights of this step count from the next one on
            with torch.no_grad():
                # New tensors, because backward still needs the old ones.
                self.mean = torch.lerp(self.mean, self.weight.mean(), RATE)
                self.variance = torch.lerp(self.variance, self.weight.var(), RATE)
        return used


class _Linear(nn.Linear, _Other):  # pyright: ignore[reportIncompatibleVariableOverride]
    def __init__(self, inputs: int, outputs: int, bias: bool = True, gain: bool = True) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self._prepare(gain)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 torch's name
        return F.linear(input, self.used(), self.bias)


class _Conv2d(nn.Conv2d, _Other):  # pyright: ignore[reportIncompatibleVariableOverride]
    def __init__(self, inputs: int, outputs: int, size: int, *, gain: bool = True, **options: Any) -> None:
        super().__init__(inputs, outputs, size, **options)
        self._prepare(gain)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 torch's name
        return F.conv2d(input, self.used(), self.bias, self.stride, self.padding, self.dilation, self.groups)


class StandardizedLinear(_Standardized, _Linear):
    """A linear layer whose rows are standardized before use; `gain=False` for none."""


class GainedLinear(_Gained, _Linear):
    """A linear layer with a learnable gain for each output, 1 at first."""


class TrackedLinear(_Tracked, _Linear):
    """A linear layer rescaled by running moments of its weight."""


class StandardizedConv2d(_Standardized, _Conv2d):
    """A convolution whose filters are standardized before use; `gain=False` for none."""


class GainedConv2d(_Gained, _Conv2d):
    """A convolution with a learnable gain for each output channel, 1 at first."""


class TrackedConv2d(_Tracked, _Conv2d):
    """A convolution rescaled by running moments of its weight."""


LINEAR: dict[str, type[_Linear]] = {"ws": StandardizedLinear, "gained": GainedLinear, "tracked": TrackedLinear}
CONV: dict[str, type[_Conv2d]] = {"ws": StandardizedConv2d, "gained": GainedConv2d, "tracked": TrackedConv2d}


def linear(kind: str, inputs: int, outputs: int, *, bias: bool = True, gain: bool = True) -> nn.Linear:
    """A linear layer of a kind: "plain", "ws", "gained" or "tracked".

    >>> sum(p.numel() for p in linear("ws", 4, 3).parameters())  # weight, bias, gain
    18
    """
    _check.choice("linear", "linears", kind, KINDS)
    return nn.Linear(inputs, outputs, bias=bias) if kind == "plain" else LINEAR[kind](inputs, outputs, bias, gain)


def conv(kind: str, inputs: int, outputs: int, size: int, *, gain: bool = True, **options: Any) -> nn.Conv2d:
    """A convolution of a kind; `options` are those of `torch.nn.Conv2d`.

    >>> conv("plain", 3, 8, 3, padding=1).weight.shape
    torch.Size([8, 3, 3, 3])
    """
    _check.choice("conv", "convs", kind, KINDS)
    if kind == "plain":
        return nn.Conv2d(inputs, outputs, size, **options)
    return CONV[kind](inputs, outputs, size, gain=gain, **options)


def settle(model: nn.Module) -> None:
    """Let every layer of a model remember the spread of its weights as drawn; the last line of an initialisation."""
    for module in model.modules():
        if isinstance(module, _Other):
            module.settle()


def kaiming(model: nn.Module) -> None:
    """Convolutions normal with variance 2/fan_out and zero biases (He et al. 2015); other layers keep torch's own."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    settle(model)


def norm(kind: str, channels: int) -> nn.Module:
    """What normalises feature maps: "batch", "layer" (GroupNorm of one group), or "none".

    >>> norm("layer", 8).num_groups
    1
    """
    _check.choice("norm", "norm", kind, ("batch", "layer", "none"))
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(1, channels) if kind == "layer" else nn.Identity()


def activation(kind: str) -> nn.Module:
    """ "relu", "leaky_relu" (slope 0.01), "leaky_relu_0.1" (slope 0.1) or "gelu".

    >>> activation("leaky_relu_0.1").negative_slope
    0.1
    """
    made = {"relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(), "leaky_relu_0.1": nn.LeakyReLU(0.1), "gelu": nn.GELU()}
    _check.choice("activation", "activation", kind, tuple(made))
    return made[kind]


def scaled(channels: int, width: float) -> int:
    """A number of channels times a width factor, 1 at least.

    >>> scaled(64, 0.9)
    58
    """
    return max(1, math.floor(channels * width + 0.5))
