"""Layers in a line for small images: the smallest network that has something to say about its neurons."""

from __future__ import annotations

from torch import Tensor, nn

from rotational.lab.models import layers


class MLP(nn.Module):
    """Images of any shape, [batch, ...] of `inputs` numbers each -> logits [batch, classes].

    norm   "none", or "layer" after each hidden layer, which makes its neurons' lengths nearly immaterial;
           "batch" makes them so exactly

    >>> sum(p.numel() for p in MLP(64, 10, width=32, hidden=1).parameters())
    2410
    """

    def __init__(
        self, inputs: int, classes: int, *, width: int, hidden: int, norm: str = "none", kind: str = "plain"
    ) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        norms = {"none": nn.Identity, "layer": nn.LayerNorm, "batch": nn.BatchNorm1d}
        for _ in range(hidden):
            parts += [layers.linear(kind, inputs, width), norms[norm](width), nn.ReLU()]
            inputs = width
        self.hidden = nn.Sequential(*parts)
        self.head = layers.linear(kind, inputs, classes)
        for module in self.hidden:
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        layers.settle(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.hidden(x.flatten(1)))
