"""What a translation cannot match, in words and numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from rotational import memory as memories
from rotational.correlation import Shape, correlation
from rotational.memory import Memory
from rotational.rule import Rule
from rotational.scale import Polar, Raw
from rotational.translation import shown


class Pair(NamedTuple):
    """The two sides, as far as sentences need them.

    `lr` and `new_lr` are those of one step: along a schedule step `at` (from 1), where the target's is highest.
    """

    source: str
    rule: Rule | None
    lr: float
    timescale: float | None
    rotation: float
    target: Rule
    new_lr: float
    shape: Shape | None
    at: int | None = None


def together(pair: Pair, timescale: float | None, rotation: float, first: str) -> list[str]:
    """On rotation and timescale, of which one momentum rarely gives both."""
    source, target = pair.source, pair.target
    if pair.timescale is None or timescale is None:
        return []
    if abs(timescale / pair.timescale - 1) < 1e-3 and abs(rotation / pair.rotation - 1) < 1e-3:
        return ["Rotation and timescale both match."]
    if first == "rotation":
        said = (
            f"The timescale is {shown(timescale)} steps against {shown(pair.timescale)}, "
            f"{timescale / pair.timescale:.3g} times that of {source}: at the same rotation, weights forget as their "
            "optimizer's memory has it."
        )
    else:
        said = f"The rotation is {rotation / pair.rotation:.3g} times that of {source}: {rotation:.3g} rad/step."
    # With D the source's, rotation = sqrt(2 D/tau) is too where tau = 2 D/rotation^2.
    return [said, _advice(target, 2 / (pair.timescale * pair.rotation**2), pair.shape)]


def plain(pair: Pair) -> list[str]:
    """Gains and biases, which no norm balances: what moves them is lr alone."""
    rule, target = pair.rule, pair.target
    when = "" if pair.at is None else f" at step {pair.at:,}, where lr is highest"
    if rule is None:
        return [
            f"Gains and biases move by the lr of {target.title}, {pair.new_lr:.3g}{when}: the angles say nothing of "
            "them."
        ]
    polar = [r.title for r in (rule, target) if isinstance(r.scale, Polar)]
    if polar:
        return [
            f"Gains and biases are not matched: {' and '.join(dict.fromkeys(polar))} takes matrices only, and leaves "
            "them to another optimizer with an lr of its own."
        ]
    raw = [isinstance(r.scale, Raw) for r in (rule, target)]
    reach = [r.memory.total for r in (rule, target)]
    if raw[0] != raw[1]:
        names = (pair.source, target.title) if raw[0] else (target.title, pair.source)
        lrs = (pair.lr * reach[0], pair.new_lr) if raw[0] else (pair.new_lr * reach[1], pair.lr)
        return [
            f"Gains and biases are not matched: under a steady gradient they move by {lrs[0]:.3g} times that gradient "
            f"a step with {names[0]}, by {lrs[1]:.3g} whatever its size with {names[1]}{when}. Give them a group and "
            "an lr of their own."
        ]
    steps = pair.lr * reach[0], pair.new_lr * reach[1]
    if abs(steps[1] - steps[0]) < 0.01 * steps[0]:
        return []
    unit, times = " times the gradient" if raw[0] else "", reach[0] / reach[1]
    along = "the source's schedule" if times == 1 else f"{times:.3g} times the source's schedule"
    group = f"lr={steps[0] / reach[1]:.3g}" if pair.at is None else f"{along} as its lr"
    more = f"{steps[1] / steps[0]:.3g} times as far" if steps[0] > 0 else "which does not move them then"
    return [
        f"Gains and biases are not matched: under a steady gradient they move by {steps[1]:.3g}{unit} a step against "
        f"{steps[0]:.3g} with {pair.source}{when}, {more}. Give them a group with {group}."
    ]


# The momentum that would match both ---------------------------------------------------------------------------


def _advice(target: Rule, tau: float, shape: Shape | None) -> str:
    """Which memory of the target has this tau."""
    found = next(((name, make) for name, make, fits in _FAMILIES if fits(target)), None)
    if found is None:
        return f"No one number of {target.title} would match both."
    name, make = found
    low, high = 0.0, 1 - 1e-6

    def slowed(beta: float) -> float:
        rule = replace(target, memory=make(target.memory, beta))
        law = correlation(rule, shape if isinstance(rule.scale, Polar) else None)
        return 1 + 2 * law.tail(rule.memory) / law.power

    if not slowed(low) <= tau <= slowed(1 - 1e-3):
        return f"No {name} of {target.title} would match both."
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if slowed(middle) < tau else (low, middle)
    return f"At {name}={low:.3g} {target.title} would match both."


def _is(make: Callable[[Memory, float], Memory], name: str = "") -> Callable[[Rule], bool]:
    return lambda rule: make(rule.memory, rule.memory.decay) == rule.memory and rule.name.startswith(name)


def _ema(m: Memory, beta: float) -> Memory:
    return replace(memories.ema(beta), unbiased=m.unbiased)


def _nesterov_ema(m: Memory, beta: float) -> Memory:
    return memories.nesterov_ema(beta, m.ramp, unbiased=m.unbiased)


def _heavy_ball(m: Memory, beta: float) -> Memory:
    return replace(memories.heavy_ball(beta), inflow=m.inflow, new=m.new, warm=m.warm)


def _nesterov(m: Memory, beta: float) -> Memory:
    return memories.nesterov(beta)


def _blend(m: Memory, beta: float) -> Memory:
    return memories.look_ahead(beta, m.decay)


_FAMILIES: tuple[tuple[str, Callable[[Memory, float], Memory], Callable[[Rule], bool]], ...] = (
    # Lion's two speeds: the blend moves, the memory stays
    ("betas[0]", _blend, lambda rule: rule.name == "lion"),
    ("momentum", _nesterov_ema, _is(_nesterov_ema, "muon")),
    ("momentum", _ema, _is(_ema, "muon")),
    ("momentum", _ema, _is(_ema, "signum")),
    ("momentum", _nesterov_ema, _is(_nesterov_ema, "signum")),
    ("momentum", _nesterov, _is(_nesterov, "sgd")),
    ("momentum", _heavy_ball, _is(_heavy_ball, "sgd")),
    ("momentum", _heavy_ball, _is(_heavy_ball, "rmsprop")),
    ("betas[0]", _ema, _is(_ema)),
    ("betas[0]", _nesterov_ema, _is(_nesterov_ema)),
)
"""(what torch calls it, the memory at another value of it, whether a rule's memory is of this kind)."""
