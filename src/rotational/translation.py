"""What a translation is made of: the hyperparameters on both sides, angles that are held, and the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rotational import _check
from rotational.angles import Angles
from rotational.correlation import Shape, correlation
from rotational.rule import Rule

KINDS = ("rotational", "fixed-norm")


def _ruled(call: str, rule: Any) -> None:
    if not isinstance(rule, Rule):
        raise TypeError(f"{call}(rule={rule!r}): expected a Rule, such as rotational.rules.adamw().")


@dataclass(frozen=True)
class Hyper:
    """An optimizer's rule with its lr and weight decay: what of a run is translated, where a `Config` says too much.

    >>> from rotational import rules
    >>> Hyper(rules.adamw(), lr=1e-3, weight_decay=0.1).rule.name
    'adamw'
    """

    rule: Rule
    lr: float
    weight_decay: float

    def __post_init__(self) -> None:
        _ruled("Hyper", self.rule)


@dataclass(frozen=True)
class Held:
    """A target whose norms stay where they start, and whose steps are angles.

        rotational    w <- R N(w - R eta u'/|u'|), u' orthogonal to w: neurons turn by atan(eta); eta is `rotation=`
        fixed-norm    W <- R N(W - lr R N(u)), per matrix and without projection (AdamH, MuonH): N divides by the norm

    `rule` makes the direction u. A remembered gradient has already moved the weights, so that u points a little
    against w: a fixed-norm step is a decoupled decay D whose step is (1-D) lr, with D what holds the norm,

        lr^2 (1-D)^2 (1 + 2 (1-D) h) = 1 - (1-D)^2        1 - cos(angle) = D (1 - D h)/(1 + 2 (1-D) h)

    h = H(1-D)/r_0 of the rule's correlations (correlation.py). Without a rule, or without memory, h = 0 and
    lr = tan(angle). Raises ValueError for an unknown kind.

    >>> from rotational import rules
    >>> held = Held("fixed-norm", rules.adamw())
    >>> round(float(held.step(0.02)), 5), round(float(held.angle(held.step(0.02))), 5)
    (0.0204, 0.02)

    Source: Kosson et al. 2024 (arXiv 2305.17212); arXiv 2606.16899 for fixed norms; docs/theory.md for h.
    """

    kind: str = "rotational"
    rule: Rule | None = None

    def __post_init__(self) -> None:
        _check.choice("Held", "kind", self.kind, KINDS)
        if self.rule is not None:
            _ruled("Held", self.rule)

    @property
    def name(self) -> str:
        """For people."""
        return self.kind if self.rule is None else f"{self.kind} {self.rule.title}"

    def step(self, angle: Any, shape: Shape | None = None) -> Any:
        """What to write (eta, or lr) for steps that turn by `angle`, in radians; arrays are welcome."""
        if self.kind == "rotational":
            return np.tan(angle)
        decay = self.decay(angle, shape)
        kept = 1 - decay
        return np.sqrt(decay * (2 - decay) / (kept**2 * (1 + 2 * kept * self._tail(kept, shape))))

    def angle(self, step: Any, shape: Shape | None = None) -> Any:
        """The angle that `step` (eta, or lr) turns by, in radians."""
        if self.kind == "rotational":
            return np.arctan(step)
        grown, decay = np.square(step), 0.0 * np.asarray(step)
        for _ in range(100):
            decay = 1 - 1 / np.sqrt(1 + grown * (1 + 2 * (1 - decay) * self._tail(1 - decay, shape)))
        h = self._tail(1 - decay, shape)
        return 2 * np.arcsin(np.sqrt(decay * (1 - decay * h) / (1 + 2 * (1 - decay) * h) / 2))

    def decay(self, angle: Any, shape: Shape | None = None) -> Any:
        """The D of a decoupled decay under which the rule turns by `angle` at rest: its inverse is the timescale."""
        chord = 2 * np.sin(np.asarray(angle) / 2) ** 2
        decay = chord
        for _ in range(100):
            h = self._tail(1 - decay, shape)
            decay = np.clip(chord * (1 + 2 * (1 - decay) * h) / (1 - decay * h), 0.0, 0.9)
        return decay

    def _tail(self, kept: Any, shape: Shape | None) -> Any:
        if self.rule is None:
            return 0.0 * kept
        law = correlation(self.rule, shape)
        return law.tail(self.rule.memory, kept) / law.power


@dataclass(frozen=True, eq=False)
class Side:
    """One side of a translation; None is what it does not have, or what was not told.

    lr             a number, or one for each step [T]; of a fixed-norm optimizer the length of its step over the norm
    rotation       radians per step at rest, or in each step [T]
    timescale      1/D at the highest lr: steps after which weights forget, however the decay enters
    norm           RMS length of a neuron at rest, at the highest lr
    """

    name: str
    lr: Any
    weight_decay: float | None
    rotation: Any
    timescale: float | None
    norm: float | None


@dataclass(frozen=True, eq=False)
class Translation:
    """What to write for the target, what it gives beside the source, and what will not match, in words.

    rule      of the target; None where an angle is held
    angles    where one is held, a curve to give as `rotation=` to a rotational optimizer
    said      sentences: what does not match, by how much, and what to do about it

    The numbers of the target are there by their names: lr, weight_decay, rotation, timescale, norm (see `Side`). A
    translation is a source too.

    >>> from rotational import Hyper, rules, translate
    >>> found = translate(Hyper(rules.adamw(), lr=1e-3, weight_decay=0.1), rules.laprop())
    >>> round(found.lr, 6), found.said[0]
    (0.001, 'Rotation and timescale both match.')
    """

    rule: Rule | None
    source: Side
    target: Side
    angles: Angles | None
    said: tuple[str, ...]
    held: Held | None = None

    @property
    def lr(self) -> Any:
        """A number, or one for each step."""
        return self.target.lr

    @property
    def weight_decay(self) -> float:
        """0 where an angle is held."""
        return self.target.weight_decay or 0.0

    @property
    def rotation(self) -> Any:
        """Radians per step: a number, or one for each step."""
        return self.target.rotation

    @property
    def timescale(self) -> float | None:
        """Steps."""
        return self.target.timescale

    @property
    def norm(self) -> float | None:
        """RMS length of a neuron at rest."""
        return self.target.norm

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        sides = {
            name: {k: x.tolist() if isinstance(x, np.ndarray | np.generic) else x for k, x in vars(side).items()}
            for name, side in (("source", self.source), ("target", self.target))
        }
        angles = self.angles and {"steps": list(self.angles.steps), "radians": list(self.angles.radians)}
        rule = None if self.rule is None else self.rule.as_dict()
        return {"rule": rule, **sides, "angles": angles, "said": list(self.said)}

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("", self.source.name, self.target.name)]
        for label, name in _ROWS:
            pair = getattr(self.source, name), getattr(self.target, name)
            if any(x is not None for x in pair):
                rows.append((label, *map(shown, pair)))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        table = [f"{a.ljust(widths[0])}  {b.rjust(widths[1])}  {c.rjust(widths[2])}" for a, b, c in rows]
        return "\n".join([*table, "", *(f"- {sentence}" for sentence in self.said)])


_ROWS = (
    ("lr", "lr"),
    ("weight decay", "weight_decay"),
    ("rotation, rad/step", "rotation"),
    ("timescale, steps", "timescale"),
    ("norm at rest", "norm"),
)


def shown(x: Any) -> str:
    """A number, or the highest of a schedule, for people."""
    if x is None:
        return "-"
    if isinstance(x, np.ndarray):
        return f"up to {shown(float(np.max(x)))}"
    return f"{x:,.0f}" if x >= 1000 else f"{x:.4g}"
