"""What an expert would say of a run that has not begun: warnings and suggestions, with their numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from rotational import remedies
from rotational.outlook import Forecast
from rotational.scale import Raw

BF16 = 2.0**-9
"""A bfloat16 loses every relative change below this, under rounding to nearest; above 2*BF16 it loses none."""
ENOUGH = 3.0
"""sum(lr*wd) from which on a run spends most of its time near equilibrium."""
PASSING = 0.5
"""sum(lr*wd) below which a run keeps more than a third of its squared initial norm, e^-1: it cannot have settled."""
FAR = 100.0
"""A factor of weight decay that nobody would try."""


@dataclass(frozen=True)
class Advice:
    """A sentence with the numbers that stand in it; `topic` is the same for a warning and its suggestion."""

    kind: Literal["warning", "suggestion"]
    topic: str
    sentence: str
    numbers: dict[str, float] = field(default_factory=dict[str, float])


def advise(
    forecast: Forecast,
    *,
    bf16: bool = False,
    beginning: Forecast | None = None,
    without_warmup: Callable[[], Forecast] | None = None,
    with_warmup: Callable[[int], Forecast] | None = None,
    with_decay: Callable[[float], Forecast] | None = None,
    with_lr: Callable[[float], Forecast] | None = None,
    traded: Callable[[float], Forecast] | None = None,
) -> list[Advice]:
    """Read a forecast of one neuron as an expert would.

    bf16            whether the weights themselves are bfloat16
    beginning       the first steps of the same run with every one kept, where `forecast` keeps few: an overshoot at
                    the start would pass unseen
    without_warmup  gives the beginning of the same run without its warm-up, where it has one
    with_warmup     gives the beginning with a warm-up of so many steps, to find one that is long enough
    with_decay      gives the forecast with the weight decay multiplied by a factor, to find and confirm one
    with_lr         the same for lr, which is the one to raise where weights begin too long
    traded          gives the beginning with lr divided and weight decay multiplied by a factor: the equilibrium turns
                    as fast, and is as much shorter

    A beginning goes on until the highest lr is reached, at least. Raises ValueError for a forecast of several neurons.

    >>> from rotational import forecast, rules
    >>> f = forecast(rules.adamw(), lr=3e-4, weight_decay=0.1, steps=5000, norm=0.6, size=768)
    >>> [advice.topic for advice in advise(f)]
    ['short', 'short', 'overshoot', 'zero-shot', 'zero-shot']
    """
    if forecast.rotation.ndim != 1:
        raise ValueError(
            f"advise: expected the forecast of one neuron, got {forecast.rotation.shape[1]}. Give forecast.neuron(i)."
        )
    if forecast.held or not np.any(forecast.rotation > 0):
        return []
    product = _product(forecast)
    if product == 0:
        return [_no_decay(forecast)]
    return [
        *_short(forecast, product, with_decay, with_lr),
        *_overshoot(beginning or forecast, int(forecast.step[-1]), without_warmup, with_warmup, traded),
        *_zero_shot(forecast, product),
        *_rounded(forecast, bf16),
        *_lag(forecast),
        *_coupled(forecast),
    ]


def _product(f: Forecast) -> float:
    """sum(lr*wd) over the run, or what stands for it where decay enters another way: the sum of D."""
    return float(np.sum(_decay(f)) * float(f.step[0]))


def _decay(f: Forecast) -> np.ndarray:
    return np.where(np.isfinite(f.timescale), 1 / f.timescale, 0.0)


def _no_decay(f: Forecast) -> Advice:
    first, last = float(np.max(f.rotation)), float(f.rotation[-1])
    return Advice(
        "warning",
        "no decay",
        "Without weight decay no equilibrium forms: norms grow, and rotation falls, here from "
        f"{first:.2g} at its highest to {last:.2g} rad/step at the end.",
        {"highest": first, "end": last},
    )


# Too short ------------------------------------------------------------------------------------------------------


def _short(
    f: Forecast,
    product: float,
    with_decay: Callable[[float], Forecast] | None,
    with_lr: Callable[[float], Forecast] | None,
) -> Iterator[Advice]:
    steps, arrives = int(f.step[-1]), f.settles
    share = 1.0 if arrives is None else arrives / steps
    if share <= 2.5 * remedies.EARLY:
        return
    numbers = {"steps": steps, "transient": share, "sum": product}
    if arrives is None:
        said = "Rotation never settles within 10% of the static formula in this run."
    elif product < PASSING:
        numbers["arrives"] = arrives
        said = (
            f"Rotation is within 10% of the static formula at step {arrives:,}, but in passing: sum(lr*wd) over the "
            f"run is {product:.2g}, so that the start decides how fast neurons turn, to the end."
        )
    else:
        numbers["arrives"] = arrives
        said = (
            f"Rotation settles within 10% of the static formula at step {arrives:,}, and until then, for {share:.0%} "
            "of the run, the start decides how fast neurons turn."
        )
    yield Advice("warning", "short", said, numbers)
    # The transient lasts in proportion to 1/(lr*wd); where it does not end, 15/sum is about as much as is needed.
    guess = share / remedies.EARLY if arrives is not None else max(2.0, 5 * ENOUGH / product)
    decay = float(np.max(f.weight_decay))
    if with_decay is None:
        yield Advice(
            "suggestion",
            "short",
            f"The transient lasts in proportion to 1/(lr*wd): a weight decay near {decay * guess:.2g} makes it a tenth "
            "of the run.",
            {"weight_decay": decay * guess, "factor": guess},
        )
        return
    # Weights that begin too long meet a higher lr's equilibrium on their way; more decay would move it away from them.
    by_lr = [("lr", with_lr, float(np.max(f.lr)))] if with_lr is not None and _begins_too_long(f) else []
    found: list[tuple[float, float, str, float, Forecast]] = []
    for name, again, now in (*by_lr, ("weight_decay", with_decay, decay)):
        if (best := remedies.factor(guess, again)) is not None:
            factor, left, then = best
            found.append((left, factor, name, factor * now, then))
            if left <= remedies.EARLY:
                break
    if found:
        left, factor, name, value, then = min(found, key=lambda way: way[0])
        turn = float(np.max(then.static))
        what = (
            f"{'a peak learning rate of' if name == 'lr' else 'weight decay'} {value:.2g} ({factor:.3g} times as much)"
        )
        leaves = f"{left:.0%} of the run to the transient; rotation then settles at up to {turn:.2g} rad/step."
        far = factor > 10  # what it takes, and hardly what to do
        yield Advice(
            "suggestion",
            "short",
            f"It would take {what} to leave {leaves}" if far else f"{what[0].upper()}{what[1:]} leaves {leaves}",
            {name: value, "factor": factor, "transient": left, "rotation": turn},
        )


def _begins_too_long(f: Forecast) -> bool:
    if f.initial is None or f.static_norm is None or f.rule.decay == "independent":
        return False  # an independent decay is not multiplied by lr
    return f.initial > 2 * float(f.static_norm[np.argmax(f.lr)])


# Too fast at the start --------------------------------------------------------------------------------------------


def _overshoot(
    f: Forecast,
    steps: int,
    without_warmup: Callable[[], Forecast] | None,
    with_warmup: Callable[[int], Forecast] | None,
    traded: Callable[[float], Forecast] | None,
) -> Iterator[Advice]:
    left, window = remedies.peak(f)
    times = left if without_warmup is None else remedies.peak(without_warmup())[0]
    if max(times, left) < remedies.TWICE:
        return
    over = f"averaged over {window} steps" if window > 1 else "in its first steps"
    if without_warmup is None:
        said = (
            f"At the start neurons turn up to {times:.1f} times as fast as the highest learning rate settles at "
            f"({over})."
        )
    else:
        rest = f"{left:.1f} times are left with it" if left > 1.2 else "none of it is left with it"
        said = (
            f"The warm-up hides an overshoot: without it neurons would turn up to {times:.1f} times as fast as the "
            f"highest learning rate settles at ({over}); {rest}."
        )
    yield Advice("warning", "overshoot", said, {"times": times, "left": left, "window": window})
    if left < remedies.TWICE or with_warmup is None:
        return
    found = remedies.warmup(window, steps // 2, with_warmup)
    if found is not None:
        warmup, then = found
        yield Advice(
            "suggestion",
            "overshoot",
            f"A warm-up of {warmup:,} steps keeps rotation below {then:.2g} times the equilibrium's.",
            {"warmup": warmup, "times": then},
        )
        return
    none = "No warm-up within half of the run keeps rotation below twice the equilibrium's"
    if traded is None or (better := remedies.trade(f, left, traded)) is None:
        does = "a lower learning rate with more weight decay, a larger initial norm, or a rotational variant does."
        yield Advice("suggestion", "overshoot", f"{none}: {does}")
        return
    factor, then = better
    lr, decay = float(np.max(f.lr)) / factor, float(np.max(f.weight_decay)) * factor
    yield Advice(
        "suggestion",
        "overshoot",
        f"{none}. A peak learning rate of {lr:.2g} with weight decay {decay:.2g}, which settles at the same rotation, "
        f"keeps it below {then:.2g} times that.",
        {"lr": lr, "weight_decay": decay, "times": then, "factor": factor},
    )


# The rest ---------------------------------------------------------------------------------------------------------


def _zero_shot(f: Forecast, product: float) -> Iterator[Advice]:
    if product >= 1 and f.arrives is not None:
        return
    yield Advice(
        "warning",
        "zero-shot",
        f"sum(lr*wd) over the run is {product:.2g}: this run never lives in the equilibrium that a rotational variant "
        "would hold from its first step, so the same hyperparameters cannot be expected to work there.",
        {"sum": product},
    )
    if product >= ENOUGH:
        return
    factor = ENOUGH / product
    decay = float(np.max(f.weight_decay)) * factor
    if factor <= FAR:
        said = f"tune the baseline at more decay: weight decay {decay:.2g} makes sum(lr*wd) {ENOUGH:g}."
    else:  # a fine-tuning run, say
        said = f"sum(lr*wd) has to come near {ENOUGH:g}, {factor:.1e} times as much: a matter of lr and steps too."
    yield Advice(
        "suggestion",
        "zero-shot",
        f"Before a rotational variant takes over, {said}",
        {"weight_decay": decay, "factor": factor},
    )


def _rounded(f: Forecast, bf16: bool) -> Iterator[Advice]:
    # Coupled decay joins the gradient, and is no change of its own to a weight.
    if not bf16 or f.rule.decay == "coupled":
        return
    decay = _decay(f)
    # x = m 2^e changes by less than half a unit in its last place where m < 2^-8/decay; mantissas are log-uniform.
    lost = np.clip(np.log2(2 * BF16 / np.maximum(decay, BF16 / 4)), 0, 1)
    share = float(np.sum(lost * decay) / np.sum(decay))
    largest = float(np.max(decay))
    if share < 0.5:
        return
    yield Advice(
        "warning",
        "bf16",
        f"Decay takes at most {largest:.1e} of a weight in one step, and bfloat16 weights lose relative changes below "
        f"{BF16:.1e} ({2 * BF16:.1e} for some) under rounding to nearest: {share:.0%} of this decay does nothing.",
        {"decay": largest, "resolution": BF16, "lost": share},
    )
    yield Advice("suggestion", "bf16", "Keep float32 master weights, or round stochastically.")


def _lag(f: Forecast) -> Iterator[Advice]:
    i = min(int(np.searchsorted(f.step, 0.9 * f.step[-1])), len(f.step) - 1)
    ratio = float(f.ratio[i])
    if not (math.isfinite(ratio) and ratio < 0.8 and f.lr[i] < 0.5 * np.max(f.lr)):
        return
    numbers, norm = {"ratio": ratio}, ""
    if f.norm is not None and f.static_norm is not None and math.isfinite(f.static_norm[i]):
        numbers["norm"] = float(f.norm[i] / f.static_norm[i])
        norm = f", and the norm {numbers['norm']:.2g} times its equilibrium's"
    yield Advice(
        "warning",
        "lag",
        f"The norm lags behind the falling learning rate: at 90% of the run rotation is {ratio:.2f} of what the "
        f"static formula says{norm}.",
        numbers,
    )


def _coupled(f: Forecast) -> Iterator[Advice]:
    if f.rule.decay == "coupled" and not isinstance(f.rule.scale, Raw):
        turn = float(np.max(f.static))
        yield Advice(
            "warning",
            "l2",
            f"Under {f.rule.name} weight decay joins the gradient and is divided by its size: the {turn:.2g} rad/step "
            "of this forecast hold for the gradient norm that was given, and another layer turns at another rate.",
            {"rotation": turn},
        )
    for note in f.notes:
        if "outweighs" in note:
            yield Advice("warning", "law", note)
