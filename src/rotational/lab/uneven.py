"""Neurons that turn slower or faster than the others, to see what imbalance costs (paper, appendix J.6).

w' = |v| (cos(s a) e + sin(s a) t)

w, v   a neuron before and after the optimizer's step    e = w/|w|    a  angle from w to v    s  share of it to turn
t      unit vector at right angles to w, in the plane of w and v
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rotational._hooks import StepHooks
from rotational.lab.declare import Imbalance
from rotational.neurons import Neurons


@dataclass(frozen=True, eq=False)
class _Drawn:
    """The neurons of one parameter: which rows of `Neurons.matrix` turn by another share, and by which."""

    p: Tensor
    units: Neurons
    rows: Tensor
    shares: Tensor


def draw(imbalance: Imbalance, count: int, generator: torch.Generator) -> Tensor:
    """The share of the angle that each of so many neurons turns, float64: 1/factor, factor, or 1.

    Raises ValueError for shares below 0 or above 1 together, and for a factor below 1.

    >>> draw(Imbalance(slow=0.5, factor=4, fast=0.25), 8, torch.Generator()).sort().values.tolist()
    [0.25, 0.25, 0.25, 0.25, 1.0, 1.0, 4.0, 4.0]
    """
    x = imbalance
    if not (x.slow >= 0 and x.fast >= 0 and x.slow + x.fast <= 1 and x.factor >= 1):
        raise ValueError(f"{x}: expected shares of 0 or above, 1 at most together, and a factor of 1 or above.")
    order = torch.randperm(count, generator=generator)
    slow = round(x.slow * count)
    fast = min(round(x.fast * count), count - slow)
    shares = torch.ones(count, dtype=torch.float64)
    shares[order[:slow]] = 1 / x.factor
    shares[order[slow : slow + fast]] = x.factor
    return shares


def turn(optimizer: Optimizer, imbalance: Imbalance, seed: int) -> StepHooks:
    """Let a share of each layer's neurons turn unevenly at every step from now on; the others keep every bit.

    Takes the neurons from the optimizer's groups, as `rotational.groups` wrote them; which ones is drawn from the
    seed, layer by layer. Hooks that are to see what the neurons do in the end come after this call.

    >>> import rotational
    >>> layer = torch.nn.Linear(6, 4, bias=False)
    >>> opt = rotational.AdamW(rotational.groups(layer, weight_decay=0.1), lr=1e-3, update_memory=0)
    >>> hooks = turn(opt, Imbalance(slow=0.5, factor=10), seed=0)
    >>> layer.weight.grad = torch.arange(24.0).view(4, 6).sin()
    >>> before = layer.weight.detach().clone()
    >>> opt.step()
    >>> angles = Neurons().angle(before, layer.weight.detach()).flatten()
    >>> round(float(angles.max() / angles.min()), 3)
    10.0
    """
    generator = torch.Generator().manual_seed(seed)
    drawn: list[_Drawn] = []
    for group in optimizer.param_groups:
        for p, units in zip(group["params"], group.get("neurons", ()), strict=False):
            shares = draw(imbalance, units.count(p.shape), generator)
            rows = (shares != 1).nonzero().flatten()
            drawn.append(_Drawn(p, units, rows.to(p.device), shares[rows, None].to(p.device)))
    # An optimizer that writes down its own step would write it down as it was before the hook.
    vars(optimizer)["measure"] = _none
    before: list[Tensor] = []

    @torch.no_grad()
    def clone(_: Optimizer) -> None:
        before[:] = [x.units.matrix(x.p)[x.rows].double() for x in drawn]

    @torch.no_grad()
    def correct(_: Optimizer) -> None:
        for x, w in zip(drawn, before, strict=True):
            after = x.units.matrix(x.p)  # a view where strides allow it
            after[x.rows] = _on_the_way(w, after[x.rows].double(), x.shares).to(after.dtype)
            if after.data_ptr() != x.p.data_ptr():
                x.units.view(x.p).copy_(_unmatrix(after, x))

    return StepHooks(optimizer, clone, correct)


def _none(_: Any, out: Any = None) -> dict[Tensor, Tensor]:
    return {}


def _on_the_way(w: Tensor, v: Tensor, share: Tensor) -> Tensor:
    """The vectors [n, C] at a share of the angle from w to v, of the length of v."""
    e = w / w.norm(dim=1, keepdim=True)
    along = (v * e).sum(1, keepdim=True)
    across = v - along * e
    across -= (across * e).sum(1, keepdim=True) * e  # small against v, so once more for its own accuracy
    size = across.norm(dim=1, keepdim=True)
    angle = share * torch.atan2(size, along)
    turned = v.norm(dim=1, keepdim=True) * (angle.cos() * e + angle.sin() * across / size)
    return torch.where((size > 0) & turned.isfinite(), turned, v)  # one that did not turn stays as it is


def _unmatrix(rows: Tensor, x: _Drawn) -> Tensor:
    """[neurons, C] in the shape of the parameter's view, neuron axes where they were."""
    shape = x.units.view_shape(x.p.shape)
    order = [*x.units.axes, *x.units.within(x.p.shape)]
    back = rows.view([shape[a] for a in order])
    return back.permute([order.index(a) for a in range(len(shape))])
