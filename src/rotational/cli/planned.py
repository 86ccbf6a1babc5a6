"""A run that has not begun, as `rotational plan` describes it: its neurons, their forecasts and the advice."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rotational import shapes
from rotational.advice import Advice, advise
from rotational.cli import kinds
from rotational.cli.kinds import Kind
from rotational.forecasts import forecast
from rotational.outlook import Forecast
from rotational.rule import Rule

LONGEST = 100_000_000
"""Steps of a plan: what still fits in memory as an array."""
FINE = 20_000
"""Values of a series that are kept, so that the first steps are seen."""


@dataclass(frozen=True)
class Plan:
    """All that is said of a run: its kinds of neurons, the forecast and the advice of each."""

    options: argparse.Namespace
    rule: Rule
    kinds: Sequence[Kind]
    forecasts: Sequence[Forecast]
    advice: Sequence[tuple[Advice, tuple[str, ...]]]
    """With the names of the kinds of neurons that it is about."""


def made(options: argparse.Namespace, rule: Rule) -> Plan:
    """The forecasts and the advice that the options ask for. Raises ValueError for what they say wrongly."""
    if options.steps > LONGEST:
        raise ValueError(f"plan(steps={options.steps}): expected at most {LONGEST:,} steps.")
    if options.batch_size is not None and options.batch_size < 1:
        raise ValueError(f"plan(batch_size={options.batch_size}): expected a whole number of samples, 1 or more.")
    if options.decay_share is not None and options.schedule != "wsd":
        raise ValueError(f"--decay-share is for --schedule wsd, and this one is {options.schedule}.")
    lr = _lr(options, options.warmup)
    chosen = kinds.of(options, rule)
    forecasts = [_forecast(options, rule, kind, lr) for kind in chosen]
    main, f = chosen[0], forecasts[0]
    advice = advise(
        f,
        bf16=options.bf16,
        without_warmup=(lambda: _forecast(options, rule, main, _lr(options, 0))) if options.warmup else None,
        with_warmup=lambda warmup: _forecast(options, rule, main, _lr(options, warmup)),
        with_decay=lambda factor: _forecast(options, rule, main, lr, factor),
    )
    # What is suggested is computed for the first kind, which has the most weights; the others are only warned of.
    about = {(a.topic, a.kind): (a, [main.name]) for a in advice}
    for kind, other in zip(chosen[1:], forecasts[1:], strict=True):
        for a in advise(other, bf16=options.bf16):
            if a.kind == "warning":
                about.setdefault((a.topic, a.kind), (a, []))[1].append(kind.name)
    return Plan(options, rule, chosen, forecasts, [(a, tuple(names)) for a, names in about.values()])


def _lr(options: argparse.Namespace, warmup: int) -> np.ndarray:
    share = 0.2 if options.decay_share is None else options.decay_share
    return shapes.shape(
        options.schedule, options.lr, options.steps, warmup=warmup, min_lr=options.min_lr, cooldown=share
    )


def _forecast(options: argparse.Namespace, rule: Rule, kind: Kind, lr: np.ndarray, factor: float = 1.0) -> Forecast:
    return forecast(
        rule,
        lr=lr,
        weight_decay=options.weight_decay * factor,
        steps=options.steps,
        norm=kind.norm,
        size=kind.size,
        gradient_norm=options.gradient_norm,
        scale_invariant=not options.scale_sensitive,
        shape=kind.shape,
        every=max(1, options.steps // FINE),
    )
