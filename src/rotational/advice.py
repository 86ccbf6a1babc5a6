"""What an expert would say of a run that has not begun: warnings and suggestions, with their numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from rotational import remedies
from rotational.outlook import Forecast
from rotational.remedies import Again
from rotational.scale import Raw

BF16 = 2.0**-9
"""A bfloat16 loses every relative change below this, under rounding to nearest; above 2*BF16 it loses none."""
ENOUGH = 3.0
"""sum(lr*wd) from which on a run spends most of its time near equilibrium."""


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
    with_warmup: Callable[[int], Sequence[Forecast]] | None = None,
    with_decay: Again | None = None,
    with_lr: Again | None = None,
    traded: Callable[[float, float], Sequence[Forecast]] | None = None,
    decay_summed: Callable[[float], float] | None = None,
) -> list[Advice]:
    """Read a forecast of one neuron as an expert would.

    bf16            whether the weights themselves are bfloat16
    beginning       the first steps of the same run with every one kept, where `forecast` keeps few: an overshoot at
                    the start would pass unseen
    without_warmup  gives the beginning of the same run without its warm-up, where it has one
    with_warmup     gives the beginning with a warm-up of so many steps, to find one that is long enough
    with_decay      gives the forecast with the weight decay multiplied by a factor, to find and confirm one
    with_lr         the same for lr, which is the one to raise where weights begin too long
    traded          gives the beginning with lr and weight decay multiplied by factors: at one product the equilibrium
                    turns as fast, and is shorter as lr is lower
    decay_summed    gives sum(lr*wd), or what stands for it, with the weight decay multiplied by a factor; by default
                    it is in proportion, as it is where decay is not divided by the gradient

    `with_warmup`, `with_decay`, `with_lr` and `traded` give one forecast for each kind of neurons that shares the
    setting, and what is suggested holds for the worst of them. A beginning goes on until the highest lr is reached, at
    least. Numbers have the names of `Forecast`: `settles` is a step, `transient` the share of the run that rotation is
    more than 10% off the static one, before it settles and after. Raises ValueError for a forecast of several neurons.

    >>> from rotational import forecast, rules
    >>> f = forecast(rules.adamw(), lr=3e-4, weight_decay=0.1, steps=5000, norm=0.6, size=768)
    >>> [advice.topic for advice in advise(f)]
    ['short', 'short', 'overshoot', 'zero-shot', 'zero-shot']
    """
    if forecast.rotation.ndim != 1:
        raise ValueError(
            f"advise: expected the forecast of one neuron, got {forecast.rotation.shape[1]}. Give forecast.neuron(i)."
        )
    if forecast.held:
        return []
    product = remedies.summed(forecast)
    if product == 0 or forecast.without:
        return [_nowhere(forecast)]
    return [
        *_short(forecast, product, with_decay, with_lr),
        *_overshoot(beginning or forecast, int(forecast.step[-1]), without_warmup, with_warmup, traded),
        *_zero_shot(forecast, product, decay_summed or (lambda factor: product * factor)),
        *_rounded(forecast, bf16),
        *_lag(forecast),
        *_coupled(forecast),
    ]


def _product(f: Forecast) -> str:
    """What `remedies.summed` is, in words."""
    return "sum(lr*wd)" if f.rule.decay == "decoupled" else "the sum of what decay takes off in each step (1/timescale)"


def _nowhere(f: Forecast) -> Advice:
    """A run without an equilibrium to go to."""
    if not np.any(f.rotation > 0):
        return Advice("warning", "no lr", "The learning rate is 0 throughout: nothing moves, and nothing is learnt.")
    if np.any(f.lr * f.weight_decay > 0):
        return Advice("warning", "no equilibrium", f.without)
    first, last = float(np.max(f.rotation)), float(f.rotation[-1])
    return Advice(
        "warning",
        "no decay",
        "Without weight decay no equilibrium forms: norms grow, and rotation falls, here from "
        f"{first:.2g} at its highest to {last:.2g} rad/step at the end.",
        {"highest": first, "end": last},
    )


def _times(x: float) -> str:
    return f"{x:.2f}" if x < 10 else f"{x:,.0f}"


# Too short ------------------------------------------------------------------------------------------------------


def _short(f: Forecast, product: float, with_decay: Again | None, with_lr: Again | None) -> Iterator[Advice]:
    share = remedies.until_settled(f)
    if share <= 2.5 * remedies.EARLY:
        return
    numbers = {"steps": int(f.step[-1]), "transient": f.transient, "sum": product}
    if f.settles is not None:
        numbers["settles"] = f.settles
    off = f"more than 10% off the static formula in {f.transient:.0%} of the run"
    if f.settles is None:
        said = f"Rotation never settles within 10% of the static formula in this run: it is {off}."
    elif product < remedies.PASSING:
        said = (
            f"Rotation stays within 10% of the static formula from step {f.settles:,} for a while, but in passing: "
            f"over the run {_product(f)} is {product:.2g}, so that the start decides how fast neurons turn, to the "
            f"end. It is {off}."
        )
    else:
        said = (
            f"Rotation settles within 10% of the static formula at step {f.settles:,}, and until then, for {share:.0%} "
            f"of the run, the start decides how fast neurons turn. With what follows, it is {off}."
        )
    yield Advice("warning", "short", said, numbers)
    decay = float(np.max(f.weight_decay))
    if decay == 0:  # what decays here is in the loss
        return
    # Settling takes steps in proportion to 1/(lr*wd); where it does not happen, 15/sum is about as much as is needed.
    guess = share / remedies.EARLY if f.settles is not None else max(2.0, 5 * ENOUGH / product)
    if with_decay is None:
        yield Advice(
            "suggestion",
            "short",
            f"Steps to settle go as 1/(lr*wd): by that alone, a weight decay near {decay * guess:.2g} makes them a "
            "tenth of the run.",
            {"weight_decay": decay * guess, "factor": guess},
        )
        return
    # Weights that begin too long meet a higher lr's equilibrium on their way; more decay would move it away from them.
    by_lr = [("lr", with_lr, float(np.max(f.lr)))] if with_lr is not None and _begins_too_long(f) else []
    found: list[tuple[float, str, float, float, Sequence[Forecast]]] = []
    for name, again, now in (*by_lr, ("weight_decay", with_decay, decay)):
        if (best := remedies.factor(guess, now, again)) is not None:
            value, then = best
            left = max(map(remedies.off, then))
            # that it settles sooner and is away for longer is no remedy
            if max(x.transient for x in then) < f.transient:
                found.append((left, name, value, value / now, then))
            if left <= remedies.EARLY:
                break
    if found:
        yield _sooner(*min(found, key=lambda way: way[0])[1:])
    else:
        yield Advice(
            "suggestion",
            "short",
            f"No {'learning rate or ' if by_lr else ''}weight decay was found that mends this: it takes more steps, or "
            "norms that begin nearer to their equilibrium.",
        )


def _sooner(name: str, value: float, factor: float, then: Sequence[Forecast]) -> Advice:
    """What the value of a setting promises, of the worst kind of neurons: what a plan of it shows."""
    settles, turn = max(x.settles for x in then), max(float(np.max(x.static)) for x in then)
    share, transient = max(map(remedies.until_settled, then)), max(x.transient for x in then)
    what = f"{'a peak learning rate of' if name == 'lr' else 'weight decay'} {value:g} ({_times(factor)} times as much)"
    does = (
        f"rotation settle at step {settles:,}, {share:.0%} of the run, at up to {turn:.2g} rad/step; it is then more "
        f"than 10% off the static formula in {transient:.0%} of the run."
    )
    far = factor > 10  # what it takes, and hardly what to do
    return Advice(
        "suggestion",
        "short",
        f"It would take {what} to let {does}" if far else f"{what[0].upper()}{what[1:]} lets {does}",
        {name: value, "factor": factor, "settles": settles, "transient": transient, "rotation": turn},
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
    with_warmup: Callable[[int], Sequence[Forecast]] | None,
    traded: Callable[[float, float], Sequence[Forecast]] | None,
) -> Iterator[Advice]:
    left, window = remedies.peak(f)
    times = left if without_warmup is None else remedies.peak(without_warmup())[0]
    if max(times, left) < remedies.TWICE:
        return
    over = f"averaged over {window} steps" if window > 1 else "in its first steps"
    if without_warmup is None:
        said = (
            f"At the start neurons turn up to {_times(times)} times as fast as the highest learning rate settles at "
            f"({over})."
        )
    else:
        rest = f"{_times(left)} times are left with it" if left > 1.2 else "none of it is left with it"
        said = (
            f"The warm-up hides an overshoot: without it neurons would turn up to {_times(times)} times as fast as the "
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
            f"A warm-up of {warmup:,} steps keeps rotation below twice the equilibrium's, at {_times(then)} times.",
            {"warmup": warmup, "times": then},
        )
        return
    none = "No warm-up within half of the run keeps rotation below twice the equilibrium's"
    if traded is None or (better := remedies.trade(f, left, traded)) is None:
        does = "a lower learning rate with more weight decay, a larger initial norm, or a rotational variant does."
        yield Advice("suggestion", "overshoot", f"{none}: {does}")
        return
    lr, decay, then = better
    turn, now = (max(float(np.max(x.static)) for x in at) for at in (then, [f]))
    settles = f"settles at {turn:.2g} rad/step" + (
        ", as before" if math.isclose(turn, now, rel_tol=0.02) else f" in place of {now:.2g}"
    )
    yield Advice(
        "suggestion",
        "overshoot",
        f"{none}. A peak learning rate of {lr:g} with weight decay {decay:g}, which {settles}, "
        f"keeps it at {_times(remedies.highest(then))} times that.",
        {"lr": lr, "weight_decay": decay, "times": remedies.highest(then), "rotation": turn},
    )


# The rest ---------------------------------------------------------------------------------------------------------


def _zero_shot(f: Forecast, product: float, decay_summed: Callable[[float], float]) -> Iterator[Advice]:
    if product >= 1 and f.arrives is not None:
        return
    name = _product(f)
    yield Advice(
        "warning",
        "zero-shot",
        f"Over this run {name} is {product:.2g}: it never lives in the equilibrium that a rotational variant would "
        "hold from its first step, so the same hyperparameters cannot be expected to work there.",
        {"sum": product},
    )
    decay = float(np.max(f.weight_decay))
    if product >= ENOUGH or decay == 0:
        return
    factor = ENOUGH / product
    value, then = decay, product
    for _ in range(4):  # once will do where it is in proportion
        if then > 0.97 * ENOUGH or factor > remedies.FAR:
            break
        value = remedies.rounded(decay * factor)
        then = decay_summed(value / decay)
        factor *= ENOUGH / then if then > 0 else math.inf
    if then > 0.9 * ENOUGH:
        said = f"tune the baseline at more decay: weight decay {value:g} makes that {then:.2g}."
        numbers = {"weight_decay": value, "factor": value / decay, "sum": then}
    else:  # a fine-tuning run, say
        said = (
            f"that has to come near {ENOUGH:g}, {_times(ENOUGH / product)} times as much: a matter of lr and steps too."
        )
        numbers = {"sum": ENOUGH, "factor": ENOUGH / product}
    yield Advice("suggestion", "zero-shot", f"Before a rotational variant takes over, {said}", numbers)


def _rounded(f: Forecast, bf16: bool) -> Iterator[Advice]:
    # Coupled decay joins the gradient, and is no change of its own to a weight.
    if not bf16 or f.rule.decay == "coupled":
        return
    decay = remedies.taken(f)
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
    # weights that never came near began too far away, which is said elsewhere
    if f.arrives is None or not (math.isfinite(ratio) and ratio < 0.8 and f.lr[i] < 0.5 * np.max(f.lr)):
        return
    numbers, norm = {"ratio": ratio}, ""
    if f.norm is not None and f.static_norm is not None and math.isfinite(f.static_norm[i]):
        numbers["norm"] = float(f.norm[i] / f.static_norm[i])
        norm = f", and the norm {_times(numbers['norm'])} times its equilibrium's"
    yield Advice(
        "warning",
        "lag",
        f"The norm lags behind the falling learning rate: at 90% of the run rotation is {ratio:.2g} of what the "
        f"static formula says{norm}.",
        numbers,
    )


def _coupled(f: Forecast) -> Iterator[Advice]:
    if f.rule.decay == "coupled" and not isinstance(f.rule.scale, Raw):
        turn = float(np.max(f.static))
        yield Advice(
            "warning",
            "l2",
            f"Under {f.rule.title} weight decay joins the gradient and is divided by its size: the {turn:.2g} rad/step "
            "of this forecast hold for the gradient norm that was given, and another layer turns at another rate.",
            {"rotation": turn},
        )
    for note in f.notes:
        if "outweighs" in note:
            yield Advice("warning", "law", note)
