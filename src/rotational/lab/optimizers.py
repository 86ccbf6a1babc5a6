"""From a run's declaration to its optimizer: param groups, angles, and the lr of every step.

Weight decay is on neurons only; gains, biases and the like have none and take the plain rule. With "muon" only hidden
matrices take Muon: gains, biases, embeddings, convolutions and the head take AdamW; see `muon`.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer as TorchOptimizer

from rotational.control import Rate
from rotational.lab import uneven
from rotational.lab.declare import Optimizer, Run
from rotational.lab.muon import MuonAndAdamW, split
from rotational.lab.named import declared
from rotational.layers import groups
from rotational.optim.named import SGD, Adam, AdamW, Lion


def set_step(optimizer: TorchOptimizer, run: Run, step: int) -> None:
    """Give every group the lr, and the neurons the weight decay, of a step counted from 0."""
    share = run.schedule.multiple(step, run.steps)
    for group in optimizer.param_groups:
        group["lr"] = run.optimizer.lr * share
        if run.optimizer.decay == "adamc" and group["weight_decay"]:
            group["weight_decay"] = run.optimizer.weight_decay * share


def build(run: Run, model: nn.Module) -> TorchOptimizer:
    """The optimizer of a run: torch's, or the rotational variant; `set_step` tells it the lr of each step.

    A rotation given as a number is the angle at the full lr, and follows the schedule as an equilibrium would
    that has time to follow: by the root of lr (times the root of the weight decay's multiple, where that falls too).
    Gains and biases that stay as they are are frozen here.

    Raises ValueError for options that contradict each other, for a rotational rule without an angle, and for Muon on a
    model without hidden matrices.

    >>> from rotational.lab.declare import Data, Model
    >>> run = Run(Model("mlp"), Data("digits"), Optimizer("adamw", 1e-3, 0.1, rotational=True), steps=10, batch=8)
    >>> type(build(run, nn.Linear(4, 3))).__module__
    'rotational.optim.named'
    """
    o = run.optimizer
    _consistent(o)
    params = groups(model, weight_decay=o.weight_decay)
    if o.gains == "freeze":
        for p in (p for group in params if "neurons" not in group for p in group["params"]):
            p.requires_grad_(False)
        params = [group for group in params if "neurons" in group]
    if o.rule == "muon":
        return MuonAndAdamW(split(model, params), o)
    if not o.rotational:
        return _plain(o, params)
    optimizer = _rotational(run, params)
    if o.imbalance is not None:
        uneven.turn(optimizer, o.imbalance, run.seed)
    return optimizer


def _plain(o: Optimizer, params: list[dict[str, Any]]) -> TorchOptimizer:
    # torch's own choice on a CPU, a loop over tensors, takes five times as long.
    match o.rule:
        case "sgd":
            return torch.optim.SGD(params, lr=o.lr, momentum=o.momentum, nesterov=o.nesterov, fused=True)
        case "adamw":
            return torch.optim.AdamW(params, lr=o.lr, betas=o.betas, eps=o.eps, fused=True)
        case "adam":
            return torch.optim.Adam(params, lr=o.lr, betas=o.betas, eps=o.eps, fused=True)
        case "lion":  # torch has none; without rotation it is the rule itself
            return Lion(params, lr=o.lr, betas=o.betas, rotational=False)
        case "muon":
            raise AssertionError("has an optimizer of its own")


def _rotational(run: Run, params: list[dict[str, Any]]) -> TorchOptimizer:
    o, rate = run.optimizer, _rate(run)
    control: dict[str, Any] = {
        "units": o.units,
        "center": o.center,
        "update_memory": o.update_memory,
        "rotation": rate,
    }
    match o.rule:
        case "sgd":
            return SGD(params, lr=o.lr, momentum=o.momentum, nesterov=o.nesterov, **control)
        case "adamw":
            return AdamW(params, lr=o.lr, betas=o.betas, eps=o.eps, **control)
        case "adam":
            return Adam(params, lr=o.lr, betas=o.betas, eps=o.eps, **control)
        case "lion":
            return Lion(params, lr=o.lr, betas=o.betas, **control)
        case "muon":
            raise AssertionError("was refused")


def _rate(run: Run) -> Rate | None:
    o = run.optimizer
    if o.angles:
        at, angles = zip(*o.angles, strict=True)
        return lambda step: float(np.interp(step, at, angles))
    if o.rotation is not None:
        full, power = o.rotation, 1.0 if o.decay == "adamc" else 0.5
        return lambda step: full * run.schedule.multiple(step, run.steps) ** power
    return None if o.rotation_of is None else declared(o, o.rotation_of)


def _consistent(o: Optimizer) -> None:
    if o.rule == "muon" and o.rotational:
        raise ValueError(
            "Optimizer('muon', rotational=True): there is no rotational Muon. Leave rotational out, or use 'sgd', "
            "'adamw', 'adam' or 'lion'."
        )
    sources = [name for name in ("rotation", "angles", "rotation_of") if getattr(o, name) not in (None, ())]
    if len(sources) > 1:
        raise ValueError(f"Optimizer({sources[0]}=..., {sources[1]}=...): expected one source of the angle; drop one.")
    of_it_alone = ("rotation", "rotation_of", "angles", "units", "center", "update_memory", "imbalance")
    given = [f.name for f in fields(o) if f.name in of_it_alone and getattr(o, f.name) != f.default]
    if given and not o.rotational:
        raise ValueError(
            f"Optimizer({o.rule!r}, {given[0]}={getattr(o, given[0])!r}): only a rotational optimizer has this option; "
            "write rotational=True, or leave it out."
        )
    if o.imbalance is not None and o.units == "tensor":
        raise ValueError("Optimizer(imbalance=..., units='tensor'): a tensor that turns as one has no slower neurons.")
