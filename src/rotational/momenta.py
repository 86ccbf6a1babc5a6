"""A momentum on a schedule (torch's OneCycleLR and CyclicLR): a run with one memory that goes as far in each step.

With A the mean square of an update, in units of its amplitude and of lr, and G = A (1 + 2 sum r_k/r_0) what it adds to
|w|^2 in the long run (correlation.py), one memory, A_0 and G_0, does what the memory of step t does at

    lr' = lr sqrt(G/G_0)      wd' = wd lr/lr' (decoupled; see `Moving.of`)      rotation = rotation' sqrt(A/A_0) lr/lr'

A and G are those of a memory settled at the momentum of the step; of Adam's, a moving average, they are summed over
the betas that it meets. Beside random walks under torch's own optimizers: docs/theory.md, tests/test_momenta.py.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rotational import memory as memories
from rotational import schedulers
from rotational.correlation import Shape, correlation
from rotational.memory import Memory
from rotational.rule import Rule
from rotational.runs import Outcome, Planned
from rotational.scale import Polar, Sign

POINTS = 65
"""Momenta at which the law is asked; between them logarithms are interpolated, which is 1e-4 off."""


def momentum_of(group: Any) -> float | None:
    """What schedulers cycle in a param group: its momentum, or the first of its betas; None where it has neither."""
    value = group["betas"][0] if "betas" in group else group.get("momentum")
    return None if value is None else float(value)


def with_momentum(group: dict[str, Any], value: float) -> dict[str, Any]:
    """A param group at another momentum, as schedulers of torch set it."""
    return group | ({"betas": (value, *group["betas"][1:])} if "betas" in group else {"momentum": value})


def read(scheduler: Any, steps: int, *, call: str) -> list[np.ndarray | None]:
    """The momentum that a scheduler of torch is going to set in each group, [T]; None where it stays as it is.

    A copy is stepped. Groups that go the same way share one array. Raises what `schedulers.read_scheduler` raises.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.ones(1)], lr=0.1, momentum=0.9)
    >>> read(torch.optim.lr_scheduler.CyclicLR(opt, 0.1, 0.3, step_size_up=2), 3, call="predict")
    [array([0.9 , 0.85, 0.8 ])]
    """
    groups = scheduler.optimizer.param_groups
    if not any(map(schedulers.moves_momentum, schedulers.tree(scheduler))):
        return [None] * len(groups)
    stand_in = schedulers.copied(scheduler, call, momentum=True)
    marks = schedulers.marked(stand_in, momentum=True)
    first = {mark: i for i, mark in reversed(list(enumerate(marks or range(len(groups)))))}
    kept = sorted(first.values())
    schedulers.keep(stand_in, kept) if marks else None
    if _as_rates(stand_in):
        reading = schedulers.reading(stand_in, steps, f"{call}({type(scheduler).__name__})", kept)
        found = [np.concatenate(parts) for parts in zip(*reading, strict=True)]
    else:
        found = _stepped(stand_in, steps)
    courses = {i: x if np.ptp(x) > 0 else None for i, x in zip(kept, found, strict=True)}
    return [courses[first[mark]] for mark in (marks or range(len(groups)))]


def _as_rates(scheduler: Any) -> bool:
    """Make a copy of OneCycleLR or CyclicLR set the momentum as the lr, which is read at once; False for all else.

    Both compute momentum and lr by one sum, from other ends.
    """
    if not schedulers.cycles(scheduler):
        return False
    groups = scheduler.optimizer.param_groups
    if type(scheduler).__name__ == "CyclicLR":
        ends = list(zip(scheduler.max_momentums, scheduler.base_momentums, strict=True))
    else:
        ends = [(group["max_momentum"], group["base_momentum"]) for group in groups]
    now = [momentum_of(group) for group in groups]
    if not all(isinstance(x, float | int) and x >= 0 for x in (*now, *(end for pair in ends for end in pair))):
        return False
    for group, momentum, (first, last) in zip(groups, now, ends, strict=True):
        group |= {"lr": momentum, "initial_lr": first, "max_lr": last, "min_lr": first}
    scheduler.base_lrs, scheduler.max_lrs = map(list, zip(*ends, strict=True))
    scheduler.cycle_momentum = False
    return True


def _stepped(scheduler: Any, steps: int) -> np.ndarray:
    """The momentum of each group, [groups, steps], as the scheduler sets it step by step; NaN where there is none."""
    groups = scheduler.optimizer.param_groups
    found = np.full((len(groups), steps), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about the order of steps: no optimizer steps here
        for t in range(steps):
            found[:, t] = [np.nan if (m := momentum_of(group)) is None else m for group in groups]
            if t + 1 < steps:
                scheduler.step()
    return found


@dataclass(frozen=True, eq=False)
class Moving:
    """What a momentum on a schedule makes of a run: a rule with one momentum, and an lr [T] under which it goes as far.

    decay      what weight decay is multiplied by for that, [T]
    turn       rotation over that of the equal run, [T]; `static` the same at rest
    held       rotation at rest over that of the first memory at the same lr, [T]
    forgets    D over that of the first memory at the same lr, [T]
    """

    rule: Rule
    momentum: np.ndarray
    lr: np.ndarray
    decay: np.ndarray
    turn: np.ndarray
    static: np.ndarray
    held: np.ndarray
    forgets: np.ndarray

    @classmethod
    def of(
        cls, rule_at: Callable[[float], Rule], momentum: np.ndarray, lr: np.ndarray, shape: Shape | None = None
    ) -> Moving:
        """`rule_at(m)` is the rule at a momentum; `lr` [T] that of the run; an orthogonal factor has a `shape`."""
        low, high = float(np.min(momentum)), float(np.max(momentum))
        points = 1 - np.geomspace(1 - low, 1 - high, POINTS)
        rules = [rule_at(float(m)) for m in points]
        bounded, coupled = isinstance(rules[0].scale, Sign | Polar), rules[0].decay == "coupled"
        # The shortest memory lags least; one that fills without a correction has to begin as the run does.
        rule = rules[0] if bounded or rules[0].memory.unbiased else rule_at(float(momentum[0]))
        laws = [np.interp(momentum, points, y) for y in zip(*(_law(r, shape) for r in rules), strict=True)]
        square, grown, through = (y / base for y, base in zip(laws, _law(rule, shape), strict=True))
        rest = np.sqrt(square / grown)
        if rule.memory.ramp:
            square = square * _ramped(rule.memory, momentum)
        elif rule.memory.unbiased:
            square, grown = _averaged(momentum, low)
        equal = lr * np.sqrt(grown)
        ratio = np.divide(lr, equal, out=np.zeros_like(equal), where=equal > 0)
        if coupled and not bounded:  # the decay goes the way of the gradient
            decay, static = np.ones_like(ratio), rest * np.sqrt(ratio * through)
        else:
            decay, static = ratio * (through if coupled else 1.0), rest
        if rule.decay == "adamc":
            decay = ratio**2 * np.max(equal) / max(float(np.max(lr)), 1e-300)
        elif rule.decay == "independent":
            decay = np.ones_like(ratio)
        forgets = through if coupled else np.ones_like(ratio)
        held, forgets = (x / x[0] for x in (rest * np.sqrt(forgets), forgets))
        return cls(rule, momentum, equal, decay, np.sqrt(square) * ratio, static, held, forgets)

    def plan(self, group: Planned) -> Planned:
        """The run that goes as far with one memory."""
        if group.control is not None:  # holds an angle, whatever its lr
            return group
        mixed = isinstance(group.lr, np.ndarray) and group.lr.ndim == 2
        return replace(group, rule=self.rule, lr=self.lr, scale=1.0 if mixed else group.scale, decay=self.decay)

    def result(self, group: Planned, outcome: Outcome) -> Outcome:
        """What the forecast of that run says of the group itself."""
        f = outcome.forecast
        if f is None or (f.held and not (group.control and group.control.rate is None)):
            return outcome  # an angle or a rule of the user's own is held at any momentum
        at = f.step - 1
        turn, static, held, forgets = (x[at, None] for x in (self.turn, self.static, self.held, self.forgets))
        if f.held:
            rotation = f.rotation * held
            update = None if f.norm is None else 2 * np.sin(rotation / 2) * f.norm
            note = f"{said(self.momentum)}, and what is held is the equilibrium of each step."
            changed = replace(
                f, rotation=rotation, static=rotation, update=update, timescale=f.timescale / forgets,
                notes=(*f.notes, note),
            )  # fmt: skip
            return outcome._replace(forecast=changed)
        changed = replace(
            f,
            rule=group.rule,
            lr=np.broadcast_to(group.at(f.step)[:, None], f.lr.shape),
            weight_decay=np.full_like(f.lr, group.weight_decay),
            rotation=f.rotation * turn,
            static=f.static * static,
            update=None if f.update is None else f.update * turn,
            notes=(*f.notes, _followed(group.rule, self.momentum)),
        )
        return outcome._replace(forecast=changed)


def said(momentum: np.ndarray) -> str:
    """How far a momentum moves, as the beginning of a sentence."""
    return f"The scheduler moves the momentum too, between {np.min(momentum):.4g} and {np.max(momentum):.4g}"


def _followed(rule: Rule, momentum: np.ndarray) -> str:
    """What was assumed, and what simulated OneCycleLR runs measured beside it."""
    memory = "summed over the betas it meets"
    off = "within 1% of that, in the first 100 steps within 2%"
    if isinstance(rule.scale, Sign | Polar):
        memory, off = _SETTLED, "within 3% of that"
    elif not rule.memory.unbiased:
        memory, off = _SETTLED, "within 1.5% of that in 4,000 steps, 3.5% in 1,000 and 16% in 300, where memories lag"
    return (
        f"{said(momentum)}: each step is forecast as that of a memory {memory}. Simulated OneCycleLR runs turned {off}."
    )


_SETTLED = "settled at its own momentum"


def not_followed(momentum: np.ndarray) -> str:
    """Of a rule that was named for an optimizer: how it goes with the momentum is not known."""
    return (
        f"{said(momentum)}, but rule= names one memory for every step, and that is what is forecast. Without rule=, an "
        "optimizer that is known is followed along its momentum."
    )


def read_off(group: Planned, outcome: Outcome, moving: Moving | None, momentum: np.ndarray | None) -> Outcome:
    """What the forecast of an equal run says of a group, its momentum counted in or spoken of."""
    if moving is not None:
        return moving.result(group, outcome)
    f = outcome.forecast
    if momentum is None or f is None or f.held:
        return outcome
    return outcome._replace(forecast=replace(f, notes=(*f.notes, not_followed(momentum))))


def _law(rule: Rule, shape: Shape | None) -> tuple[float, float, float]:
    """(A, G, what a coupled decay is multiplied by in the memory) of a rule."""
    law, memory = correlation(rule, shape if isinstance(rule.scale, Polar) else None), rule.memory
    bounded, kept = isinstance(rule.scale, Sign | Polar), memory.autocovariance()[0]
    own = 1.0 if bounded else kept
    through = memory.total / (kept**0.5 if bounded else 1.0)  # a sign divides by the size of what comes out
    return own * law.power, own * (law.power + 2 * float(law.tail(memory))), through


def _averaged(betas: np.ndarray, base: float) -> tuple[np.ndarray, np.ndarray]:
    """(A, G) of a moving average along its betas, from the first step on, over those of one beta.

    A gradient of step s moves the weights by T_s in all, and late = beta/(1-beta) steps later; B_t is what step t makes
    of a steady gradient. As T ds = B dt, noise adds T^2 ds = T B dt to |w|^2.
    """
    square, steady = _past(betas)
    gone = base ** np.arange(1, len(betas) + 1)
    of_base = (1 - base) / (1 + base) * (1 + gone) / (1 - gone)  # of one beta, whose steady gradient is 1 throughout
    steps, last = np.arange(len(betas)), float(betas[-1] / (1 - betas[-1]))
    left = recurrence(betas[::-1], betas[::-1], last)[::-1]  # left_t = beta_t (1 + left_(t+1))
    whole = (1 - betas) * (1 + np.append(left[1:], last))
    return square / of_base, np.interp(steps - betas / (1 - betas), steps, whole) * steady


def _past(betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(E c^2 of gradients of unit variance, c of a steady gradient of 1), corrected for the beginning as by Adam."""
    bias = 1 - betas ** np.arange(1, len(betas) + 1)
    square, steady = recurrence(betas**2, (1 - betas) ** 2), recurrence(betas, 1 - betas)
    return square / bias**2, steady / bias


def recurrence(factor: np.ndarray, term: np.ndarray, first: float = 0.0) -> np.ndarray:
    """y_t = factor_t y_(t-1) + term_t from y before the first step on, for factors between 0 and 1; all are [T].

    Blocks of sqrt(T) steps go side by side from 0, then what each hands to the next is added.

    >>> recurrence(np.array([0.5, 0.5, 0.0]), np.array([1.0, 1.0, 3.0]), 2.0)
    array([2., 2., 3.])
    """
    count = len(factor)
    length = math.isqrt(count - 1) + 1 if count else 1
    blocks = -(-count // length)
    a, y = (np.zeros(blocks * length) for _ in range(2))
    a[:count], y[:count] = factor, term
    a, y = (np.ascontiguousarray(x.reshape(blocks, length).T) for x in (a, y))
    for i in range(1, length):
        y[i] += a[i] * y[i - 1]
        a[i] *= a[i - 1]
    carried = np.empty(blocks)
    for k, (through, end) in enumerate(zip(a[-1].tolist(), y[-1].tolist(), strict=True)):
        carried[k] = first
        first = end + through * first
    return (y + a * carried).T.ravel()[:count]


def _ramped(memory: Memory, momentum: np.ndarray) -> np.ndarray:
    """What NAdam's warm-up of its look-ahead makes of A, over what it makes of it at the momentum of `memory`."""
    steps = np.arange(1, len(momentum) + 1)

    def share(beta: Any) -> Any:
        warming = Memory(decay=beta, inflow=1 - beta, ramp=memory.ramp).at(steps)  # pyright: ignore[reportArgumentType]
        return warming.autocovariance()[0] / memories.nesterov_ema(beta).autocovariance()[0]

    return share(momentum) / share(memory.decay)
