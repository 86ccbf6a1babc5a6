"""The drop-in optimizers: torch's signatures and defaults, and the rule that each one follows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rotational import rules
from rotational.control import Rate
from rotational.neurons import Neurons
from rotational.optim.base import Group, RotationalOptimizer
from rotational.rule import Rule


class SGD(RotationalOptimizer):
    """torch.optim.SGD with rotation held: the rotational variant of SGDM.

    With `rotational` (the default) every neuron keeps its length and turns by
    sqrt(2*lr*weight_decay/(1+momentum)) radians per step on average, or by `rotation`: an angle, a function
    of the steps taken, or a rule whose angle it is. `center` takes the mean out of each neuron
    and update, `update_memory` is the factor of the EMA that holds the average (0: exactly every step),
    `units` says what turns as one ("neuron" or "tensor"). Parameters without neurons (gains, biases) take
    the plain rule; `rotational=False` makes a group torch's own. `rotational.groups(model, weight_decay=...)`
    builds the groups.

    Raises ValueError or TypeError for options out of range, and for weight_decay=0 without `rotation`.

    >>> import torch
    >>> layer = torch.nn.Linear(8, 4)
    >>> opt = SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    >>> before = layer.weight.norm(dim=1)
    >>> layer(torch.randn(2, 8)).sum().backward()
    >>> opt.step()
    >>> torch.allclose(layer.weight.norm(dim=1), before)
    True

    Source: Kosson, Messmer, Jaggi 2024 (arXiv 2305.17212), algorithm 1 and table 1.
    """

    memory_key = "momentum_buffer"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | str | None = None,
        rotational: bool = True,
        center: bool = True,
        update_memory: float = 0.9,
        rotation: Rate | None = None,
        units: str | Neurons = "neuron",
        moment_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = True,
    ) -> None:
        defaults: Group = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
            "moment_dtype": moment_dtype,
            "stochastic_rounding": stochastic_rounding,
            "rotational": rotational,
            "center": center,
            "update_memory": update_memory,
            "rotation": rotation,
            "units": units,
        }
        refused = {"differentiable": differentiable}
        super().__init__(params, defaults, refused)

    def rule(self, group: Group) -> Rule:
        """SGD with this group's momentum, dampening and Nesterov flag; its decay is coupled."""
        return rules.sgd(group["momentum"], group["dampening"], group["nesterov"])


class AdamW(RotationalOptimizer):
    """torch.optim.AdamW with rotation held: the rotational variant of AdamW.

    With `rotational` (the default) every neuron keeps its length and turns by
    sqrt(2*lr*weight_decay*(1-b1)/(1+b1)) radians per step on average, or by `rotation`: an angle, a function
    of the steps taken, or a rule whose angle it is. `center` takes the mean out of each neuron
    and update, `update_memory` is the factor of the EMA that holds the average (0: exactly every step),
    `units` says what turns as one ("neuron" or "tensor"). Parameters without neurons (gains, biases) take
    the plain rule; `rotational=False` makes a group torch's own. `rotational.groups(model, weight_decay=...)`
    builds the groups.

    Raises ValueError or TypeError for options out of range, and for weight_decay=0 without `rotation`.

    >>> import torch
    >>> layer = torch.nn.Linear(8, 4)
    >>> opt = AdamW(layer.parameters(), lr=1e-3, weight_decay=0.1)
    >>> before = layer.weight.norm(dim=1)
    >>> layer(torch.randn(2, 8)).sum().backward()
    >>> opt.step()
    >>> torch.allclose(layer.weight.norm(dim=1), before)
    True

    Source: Kosson, Messmer, Jaggi 2024 (arXiv 2305.17212), algorithm 1 and table 1.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | str | None = None,
        rotational: bool = True,
        center: bool = True,
        update_memory: float = 0.9,
        rotation: Rate | None = None,
        units: str | Neurons = "neuron",
        moment_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = True,
    ) -> None:
        defaults: Group = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
            "moment_dtype": moment_dtype,
            "stochastic_rounding": stochastic_rounding,
            "rotational": rotational,
            "center": center,
            "update_memory": update_memory,
            "rotation": rotation,
            "units": units,
        }
        refused = {
            "amsgrad": amsgrad,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, refused)

    def rule(self, group: Group) -> Rule:
        """AdamW with this group's betas and eps."""
        return rules.adamw(group["betas"], group["eps"])


class Adam(RotationalOptimizer):
    """torch.optim.Adam's direction, L2 regularisation included, with rotation held.

    Adam+L2 has no rotation of its own (it depends on the gradient's size), so `rotation` is needed.

    With `rotational` (the default) every neuron keeps its length and turns by `rotation` radians
    per step on average: an angle, a function of the steps taken, or a rule whose angle it is.
    `center` takes the mean out of each neuron and update, `update_memory` is the factor of the EMA that
    holds the average (0: exactly every step),
    `units` says what turns as one ("neuron" or "tensor"). Parameters without neurons (gains, biases) take
    the plain rule; `rotational=False` makes a group torch's own. `rotational.groups(model, weight_decay=...)`
    builds the groups.

    Raises ValueError or TypeError for options out of range, and for weight_decay=0 without `rotation`.

    >>> import torch
    >>> layer = torch.nn.Linear(8, 4)
    >>> opt = Adam(layer.parameters(), weight_decay=1e-4, rotation=3e-3)
    >>> before = layer.weight.norm(dim=1)
    >>> layer(torch.randn(2, 8)).sum().backward()
    >>> opt.step()
    >>> torch.allclose(layer.weight.norm(dim=1), before)
    True

    Source: Kosson, Messmer, Jaggi 2024 (arXiv 2305.17212), section 5.3.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | str | None = None,
        rotational: bool = True,
        center: bool = True,
        update_memory: float = 0.9,
        rotation: Rate | None = None,
        units: str | Neurons = "neuron",
        moment_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = True,
    ) -> None:
        defaults: Group = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
            "moment_dtype": moment_dtype,
            "stochastic_rounding": stochastic_rounding,
            "rotational": rotational,
            "center": center,
            "update_memory": update_memory,
            "rotation": rotation,
            "units": units,
        }
        refused = {
            "amsgrad": amsgrad,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, refused)

    def rule(self, group: Group) -> Rule:
        """Adam with L2 regularisation, with this group's betas and eps."""
        return rules.adam_l2(group["betas"], group["eps"])


class Lion(RotationalOptimizer):
    """Lion (sign of a blend of gradient and memory) with rotation held.

    With `rotational` (the default) every neuron keeps its length and turns by the equilibrium
    angle of `rules.lion(betas)` per step on average, or by `rotation`: an angle in radians, a function of the
    steps taken, or a rule whose angle it is. `center` takes the mean out of each neuron
    and update, `update_memory` is the factor of the EMA that holds the average (0: exactly every step),
    `units` says what turns as one ("neuron" or "tensor"). Parameters without neurons (gains, biases) take
    the plain rule; `rotational=False` makes a group torch's own. `rotational.groups(model, weight_decay=...)`
    builds the groups.

    Raises ValueError or TypeError for options out of range, and for weight_decay=0 without `rotation`.

    >>> import torch
    >>> layer = torch.nn.Linear(8, 4)
    >>> opt = Lion(layer.parameters(), lr=1e-4, weight_decay=1.0)
    >>> before = layer.weight.norm(dim=1)
    >>> layer(torch.randn(2, 8)).sum().backward()
    >>> opt.step()
    >>> torch.allclose(layer.weight.norm(dim=1), before)
    True

    Source: Chen et al. 2023 (arXiv 2302.06675); Kosson, Messmer, Jaggi 2024 (arXiv 2305.17212).
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | str | None = None,
        rotational: bool = True,
        center: bool = True,
        update_memory: float = 0.9,
        rotation: Rate | None = None,
        units: str | Neurons = "neuron",
        moment_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = True,
    ) -> None:
        defaults: Group = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
            "moment_dtype": moment_dtype,
            "stochastic_rounding": stochastic_rounding,
            "rotational": rotational,
            "center": center,
            "update_memory": update_memory,
            "rotation": rotation,
            "units": units,
        }
        super().__init__(params, defaults, {})

    def rule(self, group: Group) -> Rule:
        """Lion with this group's betas."""
        return rules.lion(group["betas"])
