"""The usual shapes of a learning rate over a run, as arrays: a warm-up, then one of the forms that the field uses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rotational import _check

SHAPES = ("constant", "linear", "cosine", "step", "wsd")


def shape(
    kind: str,
    lr: float,
    steps: int,
    *,
    warmup: int = 0,
    min_lr: float = 0.0,
    cooldown: float = 0.2,
    milestones: Sequence[int] = (),
    gamma: float = 0.1,
    first: int | None = None,
) -> np.ndarray:
    """lr at each of `steps` steps: up linearly over `warmup`, then constant, or down to `min_lr` by the end.

    linear and cosine fall from the end of the warm-up on; wsd (warm-up, stable, decay) stays, and falls linearly over
    the last share `cooldown` of the run; step is multiplied by `gamma` once it has taken as many steps as each of the
    `milestones` says, as torch's MultiStepLR is, and goes no lower than `min_lr`. `first` gives so many steps of it
    alone. Raises ValueError for an unknown shape, a warm-up longer than the run, and milestones that are missing, out
    of order or beyond the run.

    >>> shape("linear", 1.0, 4, warmup=2)
    array([0.5, 1. , 1. , 0.5])
    >>> shape("step", 1.0, 5, milestones=[2, 4])
    array([1.  , 1.  , 0.1 , 0.1 , 0.01])
    """
    _check.choice("plan", "schedule", kind, SHAPES)
    steps = _check.whole("plan", "steps", steps)
    warmup = _check.whole("plan", "warmup", warmup, low=0)
    lr = _check.number("plan", "lr", lr, low=0)
    min_lr = _check.number("plan", "min_lr", min_lr, low=0, high=lr)
    cooldown = _check.number("plan", "decay_share", cooldown, low=0, high=1)
    if warmup >= steps:
        raise ValueError(f"plan(warmup={warmup}, steps={steps}): expected a warm-up that is shorter than the run.")
    if kind == "step":
        _milestones(milestones, steps)
    gamma = _check.number("plan", "gamma", gamma, low=0, high=1, above=True)
    t = np.arange(steps if first is None else min(first, steps), dtype=np.float64)
    rest = np.clip((t - warmup) / (steps - warmup), 0.0, 1.0)
    match kind:
        case "linear":
            fall = 1 - rest
        case "cosine":
            fall = 0.5 + 0.5 * np.cos(np.pi * rest)
        case "wsd":
            fall = np.clip((steps - t) / max(1.0, cooldown * steps), 0.0, 1.0)
        case _:
            fall = np.ones(len(t))
    rise = np.minimum(1.0, (t + 1) / warmup) if warmup else np.ones(len(t))
    if kind == "step":
        return rise * np.maximum(min_lr, lr * gamma ** np.searchsorted(np.asarray(milestones), t, side="right"))
    return rise * (min_lr + (lr - min_lr) * fall)


def _milestones(milestones: Sequence[int], steps: int) -> None:
    if not len(milestones):
        raise ValueError("plan(schedule='step'): expected milestones, the steps at which lr falls.")
    for i, m in enumerate(milestones):
        _check.whole("plan", f"milestones[{i}]", m)
        if m >= steps:
            raise ValueError(f"plan(milestones[{i}]={m}): expected a step within the run, which has {steps:,}.")
        if i and m <= milestones[i - 1]:
            raise ValueError(f"plan(milestones[{i}]={m}): expected milestones in ascending order.")
