"""What an expert would say of a run that has not begun: warnings and suggestions, with their numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from rotational.outlook import Forecast

BF16 = 2.0**-9
"""Relative changes below this are lost in most entries of a bfloat16 weight, under rounding to nearest."""
ENOUGH = 3.0
"""sum(lr*wd) from which on a run spends most of its time near equilibrium."""


@dataclass(frozen=True)
class Advice:
    """A sentence with the numbers that stand in it."""

    kind: Literal["warning", "suggestion"]
    topic: str
    sentence: str
    numbers: dict[str, float] = field(default_factory=dict[str, float])


def advise(
    forecast: Forecast,
    *,
    bf16: bool = False,
    without_warmup: Callable[[], Forecast] | None = None,
    with_decay: Callable[[float], Forecast] | None = None,
) -> list[Advice]:
    """Read a forecast of one neuron as an expert would.

    bf16            whether the weights themselves are bfloat16
    without_warmup  gives the forecast of the same run without its warm-up, where it has one
    with_decay      gives the forecast with the weight decay multiplied by a factor, to confirm a suggestion

    >>> from rotational import forecast, rules
    >>> f = forecast(rules.adamw(), lr=3e-4, weight_decay=0.1, steps=5000, norm=0.6, size=768, every=10)
    >>> [advice.topic for advice in advise(f)]
    ['short', 'short', 'overshoot', 'zero-shot', 'zero-shot']
    """
    if forecast.held:
        return []
    every = float(forecast.step[0])
    product = float(np.sum(np.where(np.isfinite(forecast.timescale), 1 / forecast.timescale, 0.0)) * every)
    if product == 0:
        return [Advice("warning", "no decay", "Without weight decay no equilibrium forms: norms grow, rotation falls.")]
    return [
        *_short(forecast, product, with_decay),
        *_overshoot(forecast, without_warmup),
        *_zero_shot(forecast, product),
        *_rounded(forecast, bf16),
        *_lag(forecast),
        *(Advice("warning", "law", note) for note in forecast.notes if "outweighs" in note),
    ]


def _short(f: Forecast, product: float, with_decay: Callable[[float], Forecast] | None) -> list[Advice]:
    steps = int(f.step[-1])
    if f.transient < 0.5 or product > ENOUGH:
        return []
    arrives = f.arrives
    when = (
        "never comes within 10% of"
        if arrives is None
        else f"first comes within 10% of the static formula at step {arrives:,}"
    )
    said = (
        f"Rotation {when}{' the static formula' if arrives is None else ''}: {f.transient:.0%} of the run is transient."
    )
    found = [Advice("warning", "short", said, {"transient": f.transient, "sum": product})]
    factor = 10 * ENOUGH / product / 2
    numbers = {"weight_decay": float(f.weight_decay[-1]) * factor, "factor": factor}
    confirmed = ""
    if with_decay is not None:
        then = with_decay(factor)
        numbers |= {"transient": then.transient, "rotation": float(np.max(then.static))}
        confirmed = (
            f", which leaves {then.transient:.0%} of the run in transient, at up to {np.max(then.static):.2e} rad/step"
        )
    found.append(
        Advice(
            "suggestion",
            "short",
            f"For most of {steps:,} steps to be in equilibrium, multiply weight decay by {factor:.3g}, to "
            f"{numbers['weight_decay']:.3g}{confirmed}.",
            numbers,
        )
    )
    return found


def _overshoot(f: Forecast, without_warmup: Callable[[], Forecast] | None) -> list[Advice]:
    settled = float(np.max(f.static))
    early = len(f.step) // 5 + 1
    peak = float(np.max(f.rotation[:early])) / settled
    if without_warmup is None:
        if peak < 2:
            return []
        return [
            Advice(
                "warning",
                "overshoot",
                f"Rotation starts at {peak:.1f} times what the highest learning rate settles at. A warm-up, or a "
                "rotational variant, takes that away.",
                {"times": peak},
            )
        ]
    bare = without_warmup()
    hidden = float(np.max(bare.rotation[:early])) / settled
    if hidden < 2:
        return []
    left = f"{peak:.1f} times are left with it" if peak >= 1.2 else "nothing of it is left with it"
    return [
        Advice(
            "warning",
            "overshoot",
            f"The warm-up hides an overshoot: without it rotation would start at {hidden:.1f} times what the highest "
            f"learning rate settles at; {left}.",
            {"times": hidden, "left": peak},
        )
    ]


def _zero_shot(f: Forecast, product: float) -> list[Advice]:
    if product >= 1:
        return []
    factor = ENOUGH / product
    return [
        Advice(
            "warning",
            "zero-shot",
            f"sum(lr*wd) over the run is {product:.2g}: this run never nears the equilibrium that a rotational variant "
            "would hold from its first step, so the same hyperparameters cannot be expected to work there.",
            {"sum": product},
        ),
        Advice(
            "suggestion",
            "zero-shot",
            f"Before a rotational variant takes over, raise weight decay {factor:.3g} times, to "
            f"{float(f.weight_decay[-1]) * factor:.3g}, so that sum(lr*wd) is {ENOUGH:g}.",
            {"weight_decay": float(f.weight_decay[-1]) * factor},
        ),
    ]


def _rounded(f: Forecast, bf16: bool) -> list[Advice]:
    taken = float(np.max(1 / f.timescale))
    if not bf16 or taken >= BF16:
        return []
    return [
        Advice(
            "warning",
            "bf16",
            f"Decay takes at most {taken:.1e} of a weight in one step, and a bfloat16 weight loses relative changes "
            f"below {BF16:.1e}: under rounding to nearest this decay does nothing by itself.",
            {"decay": taken, "resolution": BF16},
        ),
        Advice("suggestion", "bf16", "Keep float32 master weights, or round stochastically.", {}),
    ]


def _lag(f: Forecast) -> list[Advice]:
    i = int(np.searchsorted(f.step, 0.9 * f.step[-1]))
    ratio = float(f.ratio[min(i, len(f.step) - 1)])
    if not (math.isfinite(ratio) and ratio < 0.8 and f.lr[i] < 0.5 * np.max(f.lr)):
        return []
    return [
        Advice(
            "warning",
            "lag",
            f"The norm lags behind the falling learning rate: at 90% of the run rotation is {ratio:.2f} of what the "
            "static formula says.",
            {"ratio": ratio},
        )
    ]
