"""The usual shapes of a learning rate over a run, as arrays: a warm-up, then one of the forms that the field uses."""

from __future__ import annotations

import numpy as np

from rotational import _check

SHAPES = ("constant", "linear", "cosine", "wsd")


def shape(
    kind: str, lr: float, steps: int, *, warmup: int = 0, min_lr: float = 0.0, cooldown: float = 0.2
) -> np.ndarray:
    """lr at each of `steps` steps: up linearly over `warmup`, then constant, or down to `min_lr` by the end.

    linear and cosine fall from the end of the warm-up on; wsd (warm-up, stable, decay) stays, and falls linearly over
    the last share `cooldown` of the run. Raises ValueError for an unknown shape, and a warm-up longer than the run.

    >>> shape("linear", 1.0, 4, warmup=2)
    array([0.5, 1. , 1. , 0.5])
    """
    _check.choice("plan", "schedule", kind, SHAPES)
    steps = _check.whole("plan", "steps", steps)
    warmup = _check.whole("plan", "warmup", warmup, low=0)
    lr = _check.number("plan", "lr", lr, low=0)
    min_lr = _check.number("plan", "min_lr", min_lr, low=0, high=lr)
    cooldown = _check.number("plan", "decay_share", cooldown, low=0, high=1)
    if warmup >= steps:
        raise ValueError(f"plan(warmup={warmup}, steps={steps}): expected a warm-up that is shorter than the run.")
    t = np.arange(steps, dtype=np.float64)
    rest = np.clip((t - warmup) / (steps - warmup), 0.0, 1.0)
    match kind:
        case "linear":
            fall = 1 - rest
        case "cosine":
            fall = 0.5 + 0.5 * np.cos(np.pi * rest)
        case "wsd":
            fall = np.clip((steps - t) / max(1.0, cooldown * steps), 0.0, 1.0)
        case _:
            fall = np.ones(steps)
    rise = np.minimum(1.0, (t + 1) / warmup) if warmup else np.ones(steps)
    return rise * (min_lr + (lr - min_lr) * fall)
