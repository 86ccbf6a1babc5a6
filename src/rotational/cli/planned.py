"""A run that has not begun, as `rotational plan` describes it: its neurons, their forecasts and the advice."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np

from rotational import _check, shapes
from rotational.advice import Advice, advise
from rotational.cli import kinds
from rotational.cli.kinds import Chosen, Kind
from rotational.forecasts import at_batch_sizes, forecast
from rotational.outlook import BatchSizes, Forecast
from rotational.remedies import peak, summed, until_settled
from rotational.rule import Rule

LONGEST = 100_000_000
"""Steps of a plan: what still fits in memory as an array."""
FINE = 20_000
"""Values of a series that are kept, so that the first steps are seen."""
BRIEF = 200
"""Steps of a schedule that tell its sum of decay."""
MOST = 1000
"""Batch sizes that are compared, at most: more than anybody reads."""
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
    chosen: Chosen
    forecasts: Sequence[Forecast]
    advice: Sequence[tuple[Advice, tuple[str, ...]]]
    batches: BatchSizes | None = None

    @property
    def kinds(self) -> Sequence[Kind]:
        """Those of the neurons, in the order of `forecasts`."""
        return self.chosen.kinds


def made(options: argparse.Namespace, rule: Rule) -> Plan:
    """The forecasts and the advice that the options ask for. Raises ValueError for what they say wrongly."""
    _checked(options)
    chosen = kinds.of(options, rule)
    run = _Run(options, rule, chosen.kinds)
    forecasts = run.whole()
    advice = [(_with_count(a, chosen), names) for a, names in _advice(run, forecasts)]
    return Plan(options, rule, chosen, forecasts, advice, _batches(options, run))


def _checked(options: argparse.Namespace) -> None:
    """Refuse what no plan can be made of; `shapes.shape` does so for the schedule."""
    _check.number("plan", "lr", options.lr, low=0)
    _check.number("plan", "weight_decay", options.weight_decay, low=0)
    _check.whole("plan", "steps", options.steps)
    if options.steps > LONGEST:
        raise ValueError(f"--steps {options.steps}: expected at most {LONGEST:,}.")
    for name in ("norm", "gradient_norm"):
        if (value := getattr(options, name)) is not None:
            _check.number("plan", name, value, low=kinds.TINY, high=kinds.HUGE)
    if options.batch_size is not None:
        _check.whole("plan", "batch_size", options.batch_size)
    for flag, sizes in (("--fan-in", options.fan_in or ()), ("--shape", (options.shape or ())[1:])):
        for size in sizes:
            if size == 1:
                raise ValueError(f"{flag} 1: a neuron of one weight has no direction to turn; expected 2 or more.")
    for name in ("fan_in", "shape", "batch_sizes"):
        for value in getattr(options, name) or ():
            _check.whole("plan", name, value)
    for flag, value in (("--noise-scale", options.noise_scale), ("--batch-sizes", options.batch_sizes)):
        if value is not None and options.batch_size is None:
            raise ValueError(f"{flag} says something only beside the run's own --batch-size; give both.")
    if options.noise_scale is not None and options.batch_size is not None:
        # a smaller share of noise than that is lost in the digits of a number
        _check.number("plan", "noise_scale", options.noise_scale, low=1e-12 * options.batch_size)
    _comparable(options)
    for name, schedule in (("decay_share", "wsd"), ("milestones", "step"), ("gamma", "step")):
        if getattr(options, name) is not None and options.schedule != schedule:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} is for --schedule {schedule}, and this one is {options.schedule}.")
    if options.min_lr and options.schedule == "constant":
        raise ValueError(
            f"--min-lr {options.min_lr:g} is where a falling schedule ends, and this one is constant; leave it out, or "
            "give --schedule."
        )


def _comparable(options: argparse.Namespace) -> None:
    """Refuse batch sizes that are too many, or whose runs are too long or have no step."""
    sizes, samples = options.batch_sizes or (), options.steps * (options.batch_size or 0)
    if len(sizes) > MOST:
        raise ValueError(f"--batch-sizes: expected at most {MOST:,} of them, got {len(sizes):,}.")
    for size in sizes:
        if round(samples / size) < 1:
            raise ValueError(f"--batch-sizes {size}: one step would take more than the run's {samples:,} samples.")
        if samples / size > LONGEST:
            raise ValueError(
                f"--batch-sizes {size}: the run's {samples:,} samples would make {samples / size:.2g} steps; expected "
                f"at most {LONGEST:,}."
            )
    if (steps := sum(samples / size for size in sizes)) > LONGEST:
        raise ValueError(
            f"--batch-sizes: the run's {samples:,} samples would make {steps:.2g} steps in all; expected at most "
            f"{LONGEST:,}."
        )


def _advice(run: _Run, forecasts: Sequence[Forecast]) -> list[tuple[Advice, tuple[str, ...]]]:
    """Warnings of each kind of neurons, those of one topic as one; suggestions that serve all kinds.

    lr, weight decay and warm-up are one setting. Each is sought for the kind that needs it most, and judged by the kind
    that it leaves worst.
    """
    warmup, beginnings = run.options.warmup, run.beginning(run.options.warmup)
    # Weights that begin at zero have no direction to lose: that they turn fast at first is no overshoot.
    some = [i for i, kind in enumerate(run.kinds) if kind.norm != 0]

    def begun(found: list[Forecast]) -> list[Forecast]:
        return [found[i] for i in some]

    needy = {
        "short": _worst(forecasts, _unsettled),
        "overshoot": some[_worst(begun(beginnings), lambda f: peak(f)[0])] if some else -1,
        "zero-shot": _worst(forecasts, lambda f: -summed(f)),
    }
    found: list[tuple[Advice, str]] = []
    for i, (kind, f, beginning) in enumerate(zip(run.kinds, forecasts, beginnings, strict=True)):
        settling, bounding = i == needy["short"], i == needy["overshoot"]
        told = advise(
            f,
            bf16=run.options.bf16 or kind.bf16 > 0,
            beginning=beginning,
            without_warmup=(lambda i=i: run.beginning(0)[i]) if warmup else None,
            with_warmup=(lambda steps: begun(run.beginning(steps))) if bounding else None,
            with_decay=(lambda factor: run.whole(1.0, factor)) if settling else None,
            with_lr=run.whole if settling else None,
            traded=(lambda lr, decay: begun(run.beginning(warmup, lr, decay))) if bounding else None,
            decay_summed=run.summed,
        )
        told = [a for a in told if i in some or a.topic != "overshoot"]
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


def _with_count(a: Advice, chosen: Chosen) -> Advice:
    """How much of a file is in bfloat16, beside what that does."""
    if (a.topic, a.kind) != ("bf16", "warning") or not chosen.bf16:
        return a
    said = f"{a.sentence} {chosen.bf16} of the {chosen.matrices} matrices in the file are bfloat16."
    return replace(a, sentence=said, numbers=a.numbers | {"matrices": chosen.bf16})


def _unsettled(f: Forecast) -> float:
    """Share of the run until rotation settles; more than all of it where it does not, by how much it is off."""
    return until_settled(f) + (f.transient if f.settles is None else 0.0)


def _worst(forecasts: Sequence[Forecast], measure: Callable[[Forecast], float]) -> int:
    return int(np.argmax([measure(f) for f in forecasts]))


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

    def summed(self, decay: float) -> float:
        """sum(lr*wd), or what stands for it, of the kind where it is least, at a factor of weight decay.

        It is that of the equilibrium of each lr, so that few steps of the schedule tell it.
        """
        every = -(-len(self.told) // BRIEF)
        some = self._forecasts(self.told[every // 2 :: every], decay)
        return min(map(summed, some)) * len(self.told) / len(some[0].step)

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
            norms = [self.start(self.kinds[i], float(np.max(lr))) for i in at]
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

    def start(self, kind: Kind, lr: float) -> float | None:
        o = self.options
        return kind.start(self.rule, lr, o.gradient_norm, scale_invariant=not o.scale_sensitive)


def _batches(options: argparse.Namespace, run: _Run) -> BatchSizes | None:
    """The first kind at the batch sizes that were asked for, or at a quarter and four times the run's own."""
    here, kind = options.batch_size, run.kinds[0]
    if here is None or (options.noise_scale is None and options.batch_sizes is None):
        return None
    samples = options.steps * here
    usual = [b for b in (here // 4, 4 * here) if 0 < b <= samples <= LONGEST * b]
    sizes = sorted({here, *(options.batch_sizes or usual)})
    steps = sum(samples // size for size in sizes)
    return at_batch_sizes(
        run.rule,
        sizes,
        lr=run.told,
        weight_decay=options.weight_decay,
        steps=options.steps,
        batch_size=here,
        noise_scale=options.noise_scale,
        follow=steps <= FOLLOWED,
        gradient_norm=options.gradient_norm,
        unit="samples",
        every=max(1, options.steps // FINE, steps // (50 * FINE)),
        norm=run.start(kind, float(np.max(run.told))),
        size=kind.size,
        shape=kind.shape,
        scale_invariant=not options.scale_sensitive,
    )
