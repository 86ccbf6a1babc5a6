"""Muon as models are trained with it: torch's Muon for the hidden matrices, AdamW for all else, as one optimizer.

Muon makes sense of a matrix between two layers of features. Gains and biases are no matrices; an embedding's rows are
looked up one by one; a head is followed by a softmax; torch's Muon takes no convolutions. All of these take AdamW
(Jordan et al. 2024, kellerjordan.github.io/posts/muon). Muon's update is scaled to AdamW's RMS ("match_rms_adamw",
Liu et al. 2025, arXiv 2502.16982), so that one lr and one weight decay hold for both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer as TorchOptimizer

from rotational import rules
from rotational.lab.declare import Optimizer
from rotational.rule import Rule

HEAD = "head"
"""What the models here call their last layer."""


def split(model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups of `rotational.groups` with those weights in a group of their own, the first, that Muon takes.

    Raises ValueError where there is none, and for a torch without Muon.
    """
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(
            f"Optimizer('muon'): torch {torch.__version__} has no Muon; install torch>=2.9, or use another rule."
        )
    embedded = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    hidden = {m.weight for name, m in model.named_modules() if isinstance(m, nn.Linear) and name != HEAD} - embedded
    parts: list[dict[str, Any]] = []
    for group in groups:
        per_parameter = [key for key in ("params", "param_names", "neurons") if key in group]
        for chosen in (True, False):
            at = [i for i, p in enumerate(group["params"]) if (p in hidden and "neurons" in group) == chosen]
            if at:
                parts.append({**group, **{k: [group[k][i] for i in at] for k in per_parameter}, "muon": chosen})
    if not any(part["muon"] for part in parts):
        raise ValueError("Optimizer('muon'): this model has no matrices between its first and its last layer.")
    return sorted(parts, key=lambda part: not part["muon"])


class MuonAndAdamW(TorchOptimizer):
    """One optimizer over the groups of `split`; options of both as in `Optimizer`.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> groups = split(model, [{"params": [model[0].weight], "neurons": [None]}, {"params": [model[0].bias]}])
    >>> [g["muon"] for g in MuonAndAdamW(groups, Optimizer("muon", 1e-3, 0.1)).param_groups]
    [True, False]
    """

    def __init__(self, groups: list[dict[str, Any]], o: Optimizer) -> None:
        options: dict[bool, dict[str, Any]] = {
            True: {"momentum": o.momentum, "nesterov": o.nesterov, "adjust_lr_fn": "match_rms_adamw"},
            False: {"betas": o.betas, "eps": o.eps},
        }
        kinds: dict[bool, Callable[..., TorchOptimizer]] = {True: torch.optim.Muon, False: torch.optim.AdamW}
        self._parts = {
            muon: kind([g for g in groups if g["muon"] == muon], lr=o.lr, **options[muon])
            for muon, kind in kinds.items()
            if any(g["muon"] == muon for g in groups)
        }
        # The groups as the two have filled them in: what steps, schedules and checkpoints see is one list.
        super().__init__([g for part in self._parts.values() for g in part.param_groups], {})

    def step(self, closure: Any = None) -> Any:
        """Muon's step, then AdamW's, each over its own groups."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for muon, part in self._parts.items():
            # Loading a checkpoint exchanges groups and state, here and not there.
            part.param_groups = [g for g in self.param_groups if g["muon"] == muon]
            part.state = self.state
            part.step()
        return loss

    def rule(self, group: dict[str, Any]) -> Rule:
        """The rule of one of the groups, from which rotation is predicted."""
        if group["muon"]:
            return rules.muon(group["momentum"], group["nesterov"], group["ns_steps"], group["adjust_lr_fn"])
        return rules.adamw(tuple(group["betas"]), group["eps"])
