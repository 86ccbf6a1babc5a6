"""The random walk that theory describes, simulated: an independent witness that never imports theory.

Each of `neurons` weight vectors of `size` entries receives normal noise as its gradient and takes the rule's
own steps, first steps, bias corrections and all.

    w  weights [neurons, size]     g  gradient     m  memory     v  second moment     c  filtered     u  direction
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rotational import _check
from rotational.neurons import ROWS
from rotational.rule import Rule, aimed
from rotational.scale import Max, Polar, Raw, Rms, Sign

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Trace:
    """What the walk measured, one row for each recorded step.

    step       [T] steps taken
    rotation   [T, neurons] angle turned in that one step, radians
    norm       [T, neurons] length after the step
    update     [T, neurons] length of the change of the weights, decay included
    """

    step: NDArray[np.int64]
    rotation: Floats
    norm: Floats
    update: Floats

    def rms(self, name: str = "rotation", after: int = 0) -> float:
        """Root mean square of one of the series over all neurons and all steps beyond `after`."""
        rows = getattr(self, name)[self.step > after]
        return float(np.sqrt(np.mean(rows**2)))


def walk(
    rule: Rule,
    *,
    lr: float | Sequence[float],
    weight_decay: float | Sequence[float],
    size: int,
    steps: int,
    neurons: int = 64,
    norm: ArrayLike = 1.0,
    gradient_norm: ArrayLike = 1.0,
    scale_invariant: bool = True,
    drift: float = 0.0,
    radial: float = 0.0,
    target_norm: float = 0.0,
    every: int = 1,
    seed: int = 0,
) -> Trace:
    """Simulate `neurons` random walks under `rule`, measured every `every` steps.

        scale-invariant:  g = (gradient_norm/|w|) * unit noise orthogonal to w        E|g|^2 = gradient_norm^2/|w|^2
        isotropic:        g = gradient_norm * unit noise                              E|g|^2 = gradient_norm^2

    With `drift` the gradient has a mean: unit noise becomes sqrt(1 - drift^2) noise + drift b, with one unit vector
    b for each neuron (orthogonalised where the noise is). `radial` adds -lr radial w to each step, beside the rule;
    decay pulls towards `target_norm` instead of 0, D becoming D (1 - target_norm/|w|).

    `lr` and `weight_decay` are numbers or one number per step; `norm` (the initial length) and
    `gradient_norm` are numbers or one per neuron. Muon orthogonalises its gradients as one matrix
    [neurons, size]. Deterministic for a seed.
    Raises TypeError or ValueError for sizes and counts below 1 and for schedules of another length, and for a
    `target_norm` under a decay that is not decoupled.

    >>> from rotational import rules
    >>> t = walk(rules.sgd(), lr=0.1, weight_decay=0.1, size=64, steps=400, neurons=8)
    >>> t.rotation.shape, round(t.rms(after=300), 2)          # sqrt(2 * 0.1 * 0.1) = 0.14
    ((400, 8), 0.14)
    """
    for name, value, low in (
        ("size", size, 2),
        ("steps", steps, 1),
        ("neurons", neurons, 1),
        ("every", every, 1),
    ):
        _check.number("walk", name, value, low=low)
    _check.number("walk", "drift", drift, low=0, high=1)
    aimed("walk", rule, _check.number("walk", "target_norm", target_norm, low=0))
    lrs, decays = _schedule("lr", lr, steps), _schedule("weight_decay", weight_decay, steps)
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((neurons, size))
    w *= _column("norm", norm, neurons) / ROWS.norm(w)
    mean = np.zeros_like(w)
    if drift:
        mean = rng.standard_normal((neurons, size))
        mean *= drift / ROWS.norm(mean)
    directions = _directions(rule, w.shape)
    next(directions)
    strength = _column("gradient_norm", gradient_norm, neurons)

    kept: list[tuple[int, Floats, Floats, Floats]] = []
    for t in range(steps):
        ww = ROWS.dot(w, w)
        g = rng.standard_normal(w.shape)
        if scale_invariant:
            g = np.sqrt((1 - drift**2) / (size - 1)) * g + mean
            g -= ROWS.dot(g, w) / ww * w
            g *= strength / np.sqrt(ww)
        else:
            g = strength * (np.sqrt((1 - drift**2) / size) * g + mean)
        if rule.decay == "coupled":
            g += decays[t] * w
        u = directions.send(g)
        shrink = rule.shrink(lrs[t], decays[t], lrs.max())
        if target_norm:
            shrink = shrink * (1 - target_norm / np.sqrt(ww))
        if rule.decay == "cautious":
            shrink = shrink * (u * w >= 0)
        after = (1 - shrink - lrs[t] * radial) * w - lrs[t] * u
        if (t + 1) % every == 0:
            kept.append((t + 1, ROWS.angle(w, after)[:, 0], ROWS.norm(after)[:, 0], ROWS.norm(after - w)[:, 0]))
        w = after
    step, rotation, length, update = zip(*kept, strict=True) if kept else ((), (), (), ())
    empty = np.empty((0, neurons))
    return Trace(
        np.array(step, dtype=np.int64),
        *(np.stack(rows) if rows else empty for rows in (rotation, length, update)),
    )


def _directions(rule: Rule, shape: tuple[int, int]) -> Generator[Floats, Floats, None]:
    """A coroutine that holds the rule's state: send a gradient, receive the update direction."""
    memory, scale = rule.memory, rule.scale
    m, v, mean = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    u = m
    for t, now in enumerate(memory.coefficients(), start=1):
        g = yield u
        root = np.ones(())
        if isinstance(scale, Rms):
            v = scale.beta * v + (1 - scale.beta) * g**2
            mean = scale.beta * mean + (1 - scale.beta) * g
            variance = v - mean**2 if scale.centered else v
            root = np.sqrt(variance / (1 - scale.beta**t if scale.unbiased else 1.0)) + scale.eps
            if scale.first:
                g = g / root
        elif isinstance(scale, Max):
            v = np.maximum(scale.beta * v, np.abs(g) + scale.eps)
        c = now.new * g + now.old * m
        m = memory.decay * m + now.inflow * g
        match scale:
            case Sign():
                u = np.sign(c)
            case Polar():
                u = scale.multiplier(*shape) * _orthogonal(c, scale.steps)
            case Rms(first=False):
                u = c / root * scale.rectification(t)
            case Rms():
                u = c * scale.rectification(t)
            case Max():
                u = c / v
            case Raw():
                u = c


def _orthogonal(c: Floats, steps: int | None) -> Floats:
    """The polar factor of a matrix, or torch's Newton-Schulz iteration towards it, in float64."""
    if steps is None:
        left, _, right = np.linalg.svd(c, full_matrices=False)
        return left @ right
    x = c if c.shape[0] <= c.shape[1] else c.T
    x = x / max(float(np.linalg.norm(x)), 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x if c.shape[0] <= c.shape[1] else x.T


def _schedule(name: str, value: float | Sequence[float], steps: int) -> Floats:
    values = np.asarray(value, dtype=np.float64)
    if values.ndim and len(values) != steps:
        raise ValueError(
            f"walk({name}=[{len(values)} values]): expected a number, or one value for each of {steps} steps."
        )
    if not np.all(np.isfinite(values)) or np.any(values < 0):
        raise ValueError(f"walk({name}=...): expected finite values, 0 or above.")
    return np.broadcast_to(values, (steps,))


def _column(name: str, value: ArrayLike, neurons: int) -> Floats:
    values = np.asarray(value, dtype=np.float64).reshape(-1, 1)
    if len(values) not in (1, neurons):
        raise ValueError(
            f"walk({name}=[{len(values)} values]): expected a number, or one for each of {neurons} neurons."
        )
    if not np.all(np.isfinite(values) & (values > 0)):
        raise ValueError(f"walk({name}=...): expected finite values above 0.")
    return np.broadcast_to(values, (neurons, 1))
