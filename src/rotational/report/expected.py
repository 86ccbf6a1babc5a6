"""What a layer was expected to do at each logged step: held by its optimizer, or the theory's equilibrium."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from rotational import rule, theory
from rotational.records import Series
from rotational.rule import Rule
from rotational.scale import Rms

Array = np.ndarray[Any, Any]

UNKNOWN_RULE = (
    "Nothing is predicted, because the rule of this optimizer is not known. Name it: "
    "watch(model, optimizer, rule=rotational.rules.adamw())."
)
NEEDS_GRADIENT = (
    "With Adam and L2 regularisation the rotation depends on the size of each neuron's gradient, which a log "
    "does not hold. Each neuron has its own equilibrium."
)


@dataclass(frozen=True)
class Expected:
    """Expectations of one layer, each [T], NaN where there is none (half-life: infinity).

    `rotation` in radians per step, `norm` RMS length of a weight vector, `half_life` in steps; `held` where
    the rotation was held by the optimizer. `reason` says why a rotation is missing; `moving` that lr or
    weight decay changed, so that an equilibrium is the static one of the moment.
    """

    rotation: Array
    norm: Array
    half_life: Array
    held: Array
    reason: str
    moving: bool


def of(series: Series) -> Expected:
    """Expectations for one layer, at every step of its series.

    A step that was held expects what was held; another, the equilibrium of its group's rule at the lr and
    weight decay of that step, and none where either is 0.
    """
    rules = [None if r is None else rule.from_dict(r) for r in series.rule]
    rows = [
        _ask(known, lr, wd, series.layer.size)
        for known, lr, wd in zip(rules, series.lr.tolist(), series.weight_decay.tolist(), strict=True)
    ]
    held = np.isfinite(series.held)
    rotation = np.where(held, series.held, [r[0] for r in rows])
    # A rotational optimizer keeps the norm where it began; the equilibrium's norm is not what it aims at.
    norm = np.where(held, math.nan, [r[1] for r in rows])
    reasons = [r[3] for r, holds in zip(rows, held.tolist(), strict=True) if r[3] and not holds]
    moving = bool(np.ptp(series.lr) > 0 or np.ptp(series.weight_decay) > 0) if len(series.lr) else False
    return Expected(
        rotation=rotation,
        norm=norm,
        half_life=np.array([r[2] for r in rows], dtype=np.float64),
        held=held,
        reason=reasons[-1] if reasons else "",
        moving=moving and not held.all() and bool(np.isfinite(rotation).any()),
    )


@lru_cache(maxsize=1 << 16)  # layers of one size share their answers, and so do steps of one lr
def _ask(known: Rule | None, lr: float, weight_decay: float, size: int) -> tuple[float, float, float, str]:
    """(rotation, norm, half-life, reason) from the theory."""

    def none(reason: str) -> tuple[float, float, float, str]:
        return math.nan, math.nan, math.inf, reason

    if not (lr > 0 and weight_decay > 0):
        return none("No equilibrium exists without a learning rate and weight decay.")
    if known is None:
        return none(UNKNOWN_RULE)
    try:
        e = theory.equilibrium(known, lr, weight_decay, size=size)
    except ValueError as error:  # no law for this rule, or a step that is not stable: the page says which
        return none(str(error))
    if e.rotation is None:
        return none(NEEDS_GRADIENT if isinstance(known.scale, Rms) else "The hyperparameters alone do not give it.")
    return e.rotation, math.nan if e.norm is None else e.norm, e.half_life or math.inf, ""


def rule_name(data: Mapping[str, Any] | None) -> str:
    """A group's rule as the page names it."""
    return "unknown" if data is None else str(data["name"])
