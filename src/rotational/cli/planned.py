"""A run that has not begun, as `rotational plan` describes it: its neurons, their forecasts and the advice."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from rotational import _check, shapes
from rotational.advice import Advice, advise
from rotational.cli import kinds
from rotational.cli.kinds import Kind
from rotational.forecasts import at_batch_sizes, forecast
from rotational.outlook import BatchSizes, Forecast
from rotational.remedies import peak
from rotational.rule import Rule

LONGEST = 100_000_000
"""Steps of a plan: what still fits in memory as an array."""
FINE = 20_000
"""Values of a series that are kept, so that the first steps are seen."""
FOLLOWED = 60_000
"""Steps through which the mean of gradients is followed, one by one, for all batch sizes together."""


@dataclass(frozen=True)
class Plan:
    """All that is said of a run: its kinds of neurons, the forecast and the advice of each.

    advice    with the names of the kinds of neurons that it is about
    batches   the first kind at other batch sizes, where the run's own is known
    """

    options: argparse.Namespace
    rule: Rule
    kinds: Sequence[Kind]
    forecasts: Sequence[Forecast]
    advice: Sequence[tuple[Advice, tuple[str, ...]]]
    batches: BatchSizes | None = None


def made(options: argparse.Namespace, rule: Rule) -> Plan:
    """The forecasts and the advice that the options ask for. Raises ValueError for what they say wrongly."""
    _checked(options)
    chosen = kinds.of(options, rule)
    run = _Run(options, rule, chosen)
    forecasts = run.whole()
    advice = _advice(run, forecasts)
    return Plan(options, rule, chosen, forecasts, advice, _batches(options, run))


def _checked(options: argparse.Namespace) -> None:
    if options.steps > LONGEST:
        raise ValueError(f"plan(steps={options.steps}): expected at most {LONGEST:,} steps.")
    if options.batch_size is not None and options.batch_size < 1:
        raise ValueError(f"plan(batch_size={options.batch_size}): expected a whole number of samples, 1 or more.")
    for name in ("norm", "gradient_norm"):
        if (value := getattr(options, name)) is not None:
            _check.number("plan", name, value, low=0, above=True)
    for size in options.fan_in or ():
        _check.whole("plan", "fan_in", size)
    for flag, value in (("--noise-scale", options.noise_scale), ("--batch-sizes", options.batch_sizes)):
        if value is not None and options.batch_size is None:
            raise ValueError(f"{flag} says something only beside the run's own --batch-size; give both.")
    for name, schedule in (("decay_share", "wsd"), ("milestones", "step"), ("gamma", "step")):
        if getattr(options, name) is not None and options.schedule != schedule:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} is for --schedule {schedule}, and this one is {options.schedule}.")


def _advice(run: _Run, forecasts: Sequence[Forecast]) -> list[tuple[Advice, tuple[str, ...]]]:
    """Warnings of each kind of neurons, those of one topic as one; suggestions that serve all kinds.

    lr, weight decay and warm-up are one setting. Each is sought for the kind that needs it most, and judged by the kind
    that it leaves worst.
    """
    warmup, beginnings = run.options.warmup, run.beginning(run.options.warmup)
    needy = {"short": _worst(forecasts, _transient), "overshoot": _worst(beginnings, _overshoot)}
    found: list[tuple[Advice, str]] = []
    for i, (kind, f, beginning) in enumerate(zip(run.kinds, forecasts, beginnings, strict=True)):
        tried = i in needy.values()
        told = advise(
            f,
            bf16=run.options.bf16,
            beginning=beginning,
            without_warmup=(lambda i=i: run.beginning(0)[i]) if warmup else None,
            with_warmup=run.with_warmup if tried else None,
            with_decay=run.with_decay if tried else None,
            with_lr=run.with_lr if tried else None,
            traded=run.traded if tried else None,
        )
        found += [(a, kind.name) for a in told if a.kind == "warning" or needy.get(a.topic, i) == i]
    advice: list[tuple[Advice, tuple[str, ...]]] = []
    for topic, word in product(dict.fromkeys(a.topic for a, _ in found), ("warning", "suggestion")):
        by_name = {name: a for a, name in found if (a.topic, a.kind) == (topic, word)}
        if by_name:
            first = run.kinds[needy.get(topic, 0)].name
            names = sorted(by_name, key=lambda name: name != first)
            every = [kind.name for kind in run.kinds]
            advice.append((by_name[names[0]], tuple(names if word == "warning" else every)))
    return advice


def _transient(f: Forecast) -> float:
    """Share of the run until rotation settles; more than all of it, the further it is from that at its end."""
    return f.settles / float(f.step[-1]) if f.settles is not None else 1.0 + f.transient


def _overshoot(f: Forecast) -> float:
    return peak(f)[0]


def _worst(forecasts: Sequence[Forecast], measure: Callable[[Forecast], float]) -> int:
    return int(np.argmax([measure(f) for f in forecasts]))


def _of_worst(forecasts: Sequence[Forecast], measure: Callable[[Forecast], float]) -> Forecast:
    return forecasts[_worst(forecasts, measure)]


class _Run:
    """The run and variations of it, each forecast once for all kinds of neurons that can go side by side."""

    def __init__(self, options: argparse.Namespace, rule: Rule, chosen: Sequence[Kind]) -> None:
        self.options, self.rule, self.kinds = options, rule, chosen
        self.told = self.lr(options.warmup)
        self.whole: Callable[..., list[Forecast]] = lru_cache(maxsize=64)(self._whole)
        self.beginning: Callable[..., list[Forecast]] = lru_cache(maxsize=64)(self._beginning)

    def lr(self, warmup: int, first: int | None = None) -> np.ndarray:
        """At each step, or at the first so many."""
        o = self.options
        return shapes.shape(
            o.schedule,
            o.lr,
            o.steps,
            warmup=warmup,
            min_lr=o.min_lr,
            cooldown=0.2 if o.decay_share is None else o.decay_share,
            milestones=o.milestones or (),
            gamma=0.1 if o.gamma is None else o.gamma,
            first=first,
        )

    def with_lr(self, factor: float) -> Forecast:
        """As the kind sees it that is worst off, like all that follow."""
        return _of_worst(self.whole(factor), _transient)

    def with_decay(self, factor: float) -> Forecast:
        return _of_worst(self.whole(1.0, factor), _transient)

    def with_warmup(self, steps: int) -> Forecast:
        return _of_worst(self.beginning(steps), _overshoot)

    def traded(self, factor: float) -> Forecast:
        return _of_worst(self.beginning(self.options.warmup, 1 / factor, factor), _overshoot)

    def _whole(self, lr: float = 1.0, decay: float = 1.0) -> list[Forecast]:
        return self._forecasts(lr * self.told, decay)

    def _beginning(self, warmup: int, lr: float = 1.0, decay: float = 1.0) -> list[Forecast]:
        """Through the warm-up and as long again, and at least through ten memories of the optimizer."""
        memories = int(50 / (1 - self.rule.memory.decay))
        return self._forecasts(lr * self.lr(warmup, max(2 * warmup, memories)), decay)

    def _forecasts(self, lr: np.ndarray, decay: float) -> list[Forecast]:
        found = dict[int, Forecast]()
        for shape in dict.fromkeys(kind.shape for kind in self.kinds):
            at = [i for i, kind in enumerate(self.kinds) if kind.shape == shape]
            norms = [self.kinds[i].norm for i in at]
            f = forecast(
                self.rule,
                lr=lr,
                weight_decay=self.options.weight_decay * decay,
                steps=len(lr),
                norm=None if None in norms else np.array(norms, dtype=np.float64),
                size=np.array([self.kinds[i].size for i in at]),
                gradient_norm=self.options.gradient_norm,
                scale_invariant=not self.options.scale_sensitive,
                shape=shape,
                every=max(1, len(lr) // FINE),
            )
            found |= {i: f.neuron(column) for column, i in enumerate(at)}
        return [found[i] for i in range(len(self.kinds))]


def _batches(options: argparse.Namespace, run: _Run) -> BatchSizes | None:
    """The first kind at the batch sizes that were asked for, or at a quarter and four times the run's own."""
    here, kind = options.batch_size, run.kinds[0]
    if here is None or (options.noise_scale is None and options.batch_sizes is None):
        return None
    sizes = sorted(
        {here, *(options.batch_sizes or [b for b in (here // 4, 4 * here) if 0 < b <= options.steps * here])}
    )
    return at_batch_sizes(
        run.rule,
        sizes,
        lr=run.told,
        weight_decay=options.weight_decay,
        steps=options.steps,
        batch_size=here,
        noise_scale=options.noise_scale,
        follow=sum(options.steps * here / max(size, 1) for size in sizes) <= FOLLOWED,
        gradient_norm=options.gradient_norm,
        unit="samples",
        every=max(1, options.steps // FINE),
        norm=kind.norm,
        size=kind.size,
        shape=kind.shape,
        scale_invariant=not options.scale_sensitive,
    )
