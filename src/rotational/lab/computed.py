"""Numbers that need no training: random walks, the predictions of the paper's settings, the time of a step.

Each function takes its options and gives scalars and curves; `compute` finds it by the name of a `Computed`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rotational.forecasts import forecast
from rotational.lab.declare import Computed
from rotational.lab.measures import Curve, Measured
from rotational.lab.named import rule_of
from rotational.theory import equilibrium, rate
from rotational.walk import walk

POINTS = 60
"""Points of a curve, at most."""


def compute(what: Computed) -> Measured:
    """The numbers of a computation.

    >>> m = compute(Computed("prediction", rule="sgd", lr=0.1, weight_decay=1e-4))
    >>> round(m.scalar("rotation"), 5)
    0.00324
    """
    begun = time.perf_counter()
    scalars, curves = FUNCTIONS[what.name](**dict(what.options))
    return Measured(what, scalars, curves, seconds=time.perf_counter() - begun)


def _walk(
    rule: str,
    lr: float,
    weight_decay: float,
    size: int,
    steps: int,
    neurons: int,
    factor: float,
    seed: int = 0,
) -> tuple[dict[str, float], dict[str, Curve]]:
    """Scale-invariant neurons that start at `factor` times their length at rest, beside the forecast of their mean."""
    law = rule_of(rule, **({"momentum": 0.9} if rule == "sgd" else {}))
    rest = equilibrium(law, lr, weight_decay, size=size, gradient_norm=1.0)
    assert rest.norm is not None
    assert rest.rotation is not None
    start = factor * rest.norm
    trace = walk(law, lr=lr, weight_decay=weight_decay, size=size, steps=steps, neurons=neurons, norm=start, seed=seed)
    path = forecast(law, lr=lr, weight_decay=weight_decay, steps=steps, norm=start, size=size, gradient_norm=1.0)
    assert path.norm is not None
    late = 3 * steps // 4
    rotation, norm = trace.rms(after=late), trace.rms("norm", after=late)
    scalars = {
        "rotation": rotation,
        "predicted": rest.rotation,
        "norm": norm,
        "predicted norm": rest.norm,
        "ratio": rotation / rest.rotation,
    }
    curves = {
        "rotation / rest": _thinned(np.sqrt(np.mean(trace.rotation**2, axis=1)) / rest.rotation),
        "predicted rotation / rest": _thinned(path.rotation / rest.rotation),
        "norm / rest": _thinned(np.sqrt(np.mean(trace.norm**2, axis=1)) / rest.norm),
        "predicted norm / rest": _thinned(path.norm / rest.norm),
    }
    return scalars, curves


def _prediction(
    rule: str, lr: float, weight_decay: float, paper: float = math.nan, **options: Any
) -> tuple[dict[str, float], dict[str, Curve]]:
    """The rotation that the paper's form gives for a setting, 1/(lr wd), and how far what it prints is off, in %."""
    if "beta1" in options:
        options = {"betas": (options["beta1"], options["beta2"])}
    law = rule_of(rule, **({"momentum": 0.9} if rule == "sgd" else {}), **options)
    rotation = rate(law, lr, weight_decay)
    return {
        "rotation": rotation,
        "timescale": 1 / (lr * weight_decay),
        **({} if math.isnan(paper) else {"off paper": 100 * abs(rotation / paper - 1)}),
    }, {}


def _step(
    rule: str, rotational: bool, layers: int, width: int, steps: int, seed: int = 0
) -> tuple[dict[str, float], dict[str, Curve]]:
    """The median time of one optimizer step over `layers` matrices of `width` x `width`, forward and backward left out.

    `seed` counts repetitions: each is a fresh optimizer on fresh weights.
    """
    import torch

    from rotational.optim.named import SGD, AdamW

    torch.manual_seed(seed)
    params = [torch.nn.Parameter(torch.randn(width, width) / math.sqrt(width)) for _ in range(layers)]
    for p in params:
        p.grad = torch.randn_like(p)
    made: dict[tuple[str, bool], Callable[[], torch.optim.Optimizer]] = {
        ("adamw", False): lambda: torch.optim.AdamW(params, lr=1e-3, weight_decay=0.1),
        ("adamw", True): lambda: AdamW(params, lr=1e-3, weight_decay=0.1),
        ("sgd", False): lambda: torch.optim.SGD(params, lr=1e-2, momentum=0.9, weight_decay=1e-3),
        ("sgd", True): lambda: SGD(params, lr=1e-2, momentum=0.9, weight_decay=1e-3),
    }
    optimizer = made[rule, rotational]()
    taken: list[float] = []
    for _ in range(steps):
        begun = time.perf_counter()
        optimizer.step()
        taken.append(time.perf_counter() - begun)
    return {"seconds per step": float(np.median(taken[len(taken) // 4 :]))}, {}


FUNCTIONS: Mapping[str, Callable[..., tuple[dict[str, float], dict[str, Curve]]]] = {
    "walk": _walk,
    "prediction": _prediction,
    "step": _step,
}
"""Name of a `Computed` -> what gives its numbers."""


def _thinned(values: np.ndarray) -> Curve:
    """At most `POINTS` points, each the RMS of the steps since the one before."""
    ends = np.unique(np.linspace(1, len(values), min(POINTS, len(values))).astype(int))
    starts = np.concatenate([[0], ends[:-1]])
    rms = [float(np.sqrt(np.mean(values[a:b] ** 2))) for a, b in zip(starts, ends, strict=True)]
    return [int(e) for e in ends], [float(f"{x:.6g}") for x in rms]
