"""What an expert would say of a run that has not begun: warnings and suggestions, with their numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from rotational.outlook import Forecast
from rotational.scale import Raw

BF16 = 2.0**-9
"""A bfloat16 loses every relative change below this, under rounding to nearest; above 2*BF16 it loses none."""
ENOUGH = 3.0
"""sum(lr*wd) from which on a run spends most of its time near equilibrium."""
EARLY = 0.1
"""The share of a run that a suggestion leaves to the transient."""
TWICE = 2.0
"""Rotation above this many times the equilibrium's is an overshoot."""


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


def peak(f: Forecast) -> tuple[float, int]:
    """Rotation at its highest over the equilibrium's at the highest lr; and over how many steps it is averaged.

    An average (RMS) over 5/(1-momentum) steps: single first steps of any Adam turn 4 times as far, as its memory has
    nothing to average yet, and that is no overshoot.
    """
    every = int(f.step[0])
    window = math.ceil(round(5 / (1 - f.rule.memory.decay), 6))
    count = max(1, min(len(f.step), round(window / every)))
    mean = np.convolve(np.square(f.rotation), np.full(count, 1 / count), mode="valid")
    return float(np.sqrt(np.max(mean)) / np.max(f.static)), count * every


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
    if share <= 2.5 * EARLY:
        return
    numbers = {"steps": steps, "transient": share, "sum": product}
    if arrives is None:
        said = f"Rotation never settles within 10% of the static formula: all of the {steps:,} steps are transient."
    else:
        numbers["arrives"] = arrives
        said = (
            f"Rotation settles within 10% of the static formula at step {arrives:,}, and until then, for {share:.0%} "
            "of the run, the start decides how fast neurons turn."
        )
    yield Advice("warning", "short", said, numbers)
    # The transient lasts in proportion to 1/(lr*wd); where it does not end, 15/sum is about as much as is needed.
    guess = share / EARLY if arrives is not None else max(2.0, 5 * ENOUGH / product)
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
    by_lr = with_lr is not None and _begins_too_long(f)
    found = _search(guess, with_lr if with_lr is not None and by_lr else with_decay)
    if found is not None:
        factor, left, then = found
        turn, name = float(np.max(then.static)), "lr" if by_lr else "weight_decay"
        value = factor * (float(np.max(f.lr)) if by_lr else decay)
        yield Advice(
            "suggestion",
            "short",
            f"{'A peak learning rate of' if by_lr else 'Weight decay'} {value:.2g} ({factor:.3g} times as much) leaves "
            f"{left:.0%} of the run to the transient; rotation then settles at up to {turn:.2g} rad/step.",
            {name: value, "factor": factor, "transient": left, "rotation": turn},
        )


def _begins_too_long(f: Forecast) -> bool:
    if f.initial is None or f.static_norm is None or f.rule.decay == "independent":
        return False  # an independent decay is not multiplied by lr
    return f.initial > 2 * float(f.static_norm[np.argmax(f.lr)])


STEPS = (1.0, 1.2, 1.5, 1.8, 2.2, 2.7, 3.3, 3.9, 4.7, 5.6, 6.8, 8.2)
"""Factors that are tried, by decades: the same for every kind of neurons, so that one forecast serves them all."""


def _even(factor: float) -> float:
    """The factor of `STEPS` that is nearest in ratio, and at least 1.2."""
    steps = max(1, round(12 * math.log10(factor)))
    return float(f"{STEPS[steps % 12] * 10.0 ** (steps // 12):.2g}")


def _search(factor: float, again: Callable[[float], Forecast]) -> tuple[float, float, Forecast] | None:
    """The smallest factor found whose transient is a tenth of the run or less; else the one with the least of it."""
    low, high = 1.0, math.inf
    best: tuple[float, float, Forecast] | None = None
    tried = set[float]()
    for _ in range(7):
        factor = _even(factor)
        if factor in tried:
            break
        tried.add(factor)
        try:
            then = again(factor)
        except ValueError:  # so much decay removes the whole weight in a step
            high, factor = factor, math.sqrt(low * factor)
            continue
        arrives = then.settles
        share = 1.0 if arrives is None else arrives / int(then.step[-1])
        if best is None or share < best[1] > EARLY or (share <= EARLY and factor < best[0]):
            best = (factor, share, then)
        if 0.7 * EARLY < share <= EARLY:
            break
        low, high = (low, factor) if share <= EARLY else (factor, high)
        # In proportion where the transient was seen to end, within what is known already.
        guess = factor * share / (0.85 * EARLY) if arrives is not None else 3 * factor
        factor = guess if low < guess < high else math.sqrt(low * min(high, 9 * low))
    return best if best is not None and best[1] < 1 else None


# Too fast at the start --------------------------------------------------------------------------------------------


def _overshoot(
    f: Forecast,
    steps: int,
    without_warmup: Callable[[], Forecast] | None,
    with_warmup: Callable[[int], Forecast] | None,
    traded: Callable[[float], Forecast] | None,
) -> Iterator[Advice]:
    left, window = peak(f)
    times = left if without_warmup is None else peak(without_warmup())[0]
    if max(times, left) < TWICE:
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
    if left < TWICE or with_warmup is None:
        return
    found = _search_warmup(window, steps // 2, with_warmup)
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
    if traded is None or (better := _search_trade(f, left, traded)) is None:
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


def _search_warmup(low: int, most: int, with_warmup: Callable[[int], Forecast]) -> tuple[int, float] | None:
    """The shortest warm-up, to about a tenth, that keeps rotation below twice the equilibrium's.

    An overshoot falls as a power of the length, so that lengths are sought on logarithms of both.
    """
    length, short, found = max(2, low), (1, math.inf), None
    power = 0.5
    for _ in range(16):
        if length > most:
            length = most
        if length <= short[0] or (found is not None and length >= found[0]):
            break
        times = peak(with_warmup(length))[0]
        if times < TWICE:
            found = (length, times)
            if times > 0.93 * TWICE or length == max(2, low):
                break
        elif length == most:
            return None
        else:
            if short[0] > 1 and times < short[1]:
                power = min(2.0, max(0.2, math.log(short[1] / times) / math.log(length / short[0])))
            short = (length, times)
        aim = 0.97 * TWICE
        if found is not None:
            part = math.log(short[1] / aim) / math.log(short[1] / found[1])
            length = _up(short[0] * (found[0] / short[0]) ** min(0.9, max(0.1, part)))
        else:
            length = _up(short[0] * min(30.0, (short[1] / aim) ** (1 / power)))
    return found


def _up(steps: float) -> int:
    """A number of steps rounded up to two digits."""
    unit = 10 ** max(0, math.floor(math.log10(steps)) - 1)
    return math.ceil(steps / unit) * unit


def _search_trade(f: Forecast, times: float, traded: Callable[[float], Forecast]) -> tuple[float, float] | None:
    """A factor between lr and weight decay that is enough; the overshoot falls about in proportion to it."""
    if f.initial is not None and f.static_norm is not None:  # angles of a radian and more tell less of it
        times = max(times, float(f.static_norm[np.argmax(f.lr)]) / f.initial)
    factor = times / TWICE
    for _ in range(8):
        factor = _even(1.1 * factor)
        try:
            now = peak(traded(factor))[0]
        except ValueError:
            return None
        if now < TWICE:
            return factor, now
        factor *= now / TWICE
    return None


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
    yield Advice(
        "suggestion",
        "zero-shot",
        f"Before a rotational variant takes over, tune the baseline at more decay: weight decay {decay:.2g} makes "
        f"sum(lr*wd) {ENOUGH:g}.",
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
