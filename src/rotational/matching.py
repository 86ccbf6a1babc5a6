"""Where two optimizers turn alike: at rest by Newton's method, along a schedule by forecasts that correct lr."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rotational import theory
from rotational.correlation import Shape, correlation
from rotational.forecasts import forecast
from rotational.outlook import Forecast
from rotational.rule import Rule
from rotational.scale import Polar, Raw
from rotational.translation import Held, Side, shown

NEEDS = "size= and gradient_norm="
LARGE = 10**9
"""Weights of a neuron so large that nothing of order 1/size shows: norms are then told per entry."""


@dataclass(frozen=True)
class Rest:
    """A rule at rest: radians per step, 1/D in steps, and the RMS length of a neuron, in the units of `Told.given`."""

    rotation: float
    timescale: float | None
    norm: float | None


@dataclass(frozen=True, eq=False)
class Origin:
    """A source as it is read: a rule with its numbers, or angles that are held; `steps` where there is a schedule."""

    name: str
    rule: Rule | None
    lr: float | np.ndarray
    weight_decay: float
    angles: float | np.ndarray | None = None
    held: Held | None = None
    steps: int | None = None

    @property
    def top(self) -> float:
        """The highest lr."""
        return float(np.max(self.lr))

    def curve(self, given: dict[str, Any], norm: float | None) -> np.ndarray:
        """Radians in each step."""
        assert self.steps is not None
        if self.rule is None:
            assert self.angles is not None
            return np.broadcast_to(np.asarray(self.angles, dtype=np.float64), (self.steps,))
        run = {"lr": self.lr, "weight_decay": self.weight_decay, "steps": self.steps, "norm": norm}
        return forecast(self.rule, **run, **given).rotation

    def side(self, here: Rest, units: bool, rotation: Any) -> Side:
        """As it is shown; `rotation` over steps, where there are steps."""
        shown_lr = None if self.rule is None and self.held is None else self.lr
        turns = here.rotation if rotation is None else rotation
        return Side(self.name, shown_lr, self.weight_decay or None, turns, here.timescale, here.norm if units else None)


@dataclass(frozen=True)
class Told:
    """What is known of the neurons, and the equilibrium of any rule on them."""

    size: int | None
    gradient_norm: float | None
    scale_invariant: bool
    shape: Shape | None

    def given(self, rule: Rule) -> dict[str, Any]:
        """Arguments of theory; where no unit is known, norms come per entry, or in units of the gradient."""
        raw, depends = isinstance(rule.scale, Raw), rule.decay == "coupled"
        size = self.shape[1] if self.size is None and self.shape is not None else self.size
        if depends and not raw and (size is None or self.gradient_norm is None):
            raise ValueError(
                f"translate({rule.title}): with L2 regularisation its rotation depends on the size of the gradient; "
                f"give {NEEDS}, or name its decoupled form."
            )
        if isinstance(rule.scale, Polar) and self.shape is None:
            raise ValueError(
                f"translate({rule.title}): its rotation depends on the matrix; give shape=(rows, columns)."
            )
        return {
            "size": size or LARGE,
            "gradient_norm": self.gradient_norm or (1.0 if raw else None),
            "scale_invariant": self.scale_invariant,
            "shape": self.shape if isinstance(rule.scale, Polar) else None,
        }

    def units(self, rule: Rule | None) -> bool:
        """Whether norms are in the user's own."""
        sized = self.size is not None or self.shape is not None
        return rule is not None and (self.gradient_norm is not None if isinstance(rule.scale, Raw) else sized)

    def comparable(self, a: Rule | None, b: Rule) -> bool:
        """Whether norms under both are in the same units."""
        if a is None:  # a norm that the user told
            return self.units(b)
        raw = {isinstance(rule.scale, Raw) for rule in (a, b)}
        return len(raw) == 1 or (self.units(a) and self.units(b))

    def rest(self, rule: Rule, lr: float, weight_decay: float) -> Rest:
        """The rule's equilibrium."""
        state = theory.equilibrium(rule, lr, weight_decay, **self.given(rule))
        assert state.rotation is not None
        return Rest(state.rotation, state.timescale, state.norm)

    def at_rest(self, origin: Origin) -> Rest:
        """A source's, at its highest lr or angle."""
        if origin.rule is not None:
            return self.rest(origin.rule, origin.top, origin.weight_decay)
        assert origin.angles is not None
        angle = float(np.max(origin.angles))
        held = origin.held
        decay = None if held is None or held.rule is None else float(held.decay(angle, self.shape))
        return Rest(angle, None if decay is None else 1 / decay, None)

    def solve(self, origin: Origin, target: Rule, wanted: Rest, first: str) -> tuple[float, float]:
        """lr and weight decay at which the target rests as wanted: Newton's method on logarithms, nearly linear."""
        goal = getattr(wanted, first)
        self.given(target)  # refuses what is missing
        mix = {target.decay, None if origin.rule is None else origin.rule.decay}
        if wanted.norm is not None and self.comparable(origin.rule, target):
            second, aim = "norm", wanted.norm
        elif origin.rule is None and not origin.weight_decay:
            raise ValueError(
                f"translate({origin.name}): angles fix only lr*weight_decay; give norm=, the RMS length of the neurons"
                f" that {target.title} is to keep, and {NEEDS if isinstance(target.scale, Raw) else 'size='}."
            )
        elif "independent" in mix and origin.rule is not None:
            second, aim = "lr", origin.top
        else:
            second, aim = "weight_decay", origin.weight_decay
        law = correlation(target, self.shape if isinstance(target.scale, Polar) else None)
        tau = 1 + 2 * law.tail(target.memory) / law.power
        decay = min(0.3, (goal**2 * tau / 2 if first == "rotation" else 1 / goal) / theory.decay_gain(target))
        lr = aim if second == "lr" else decay / aim if second == "weight_decay" else 1e-3
        x = np.log([lr, decay if target.decay == "independent" else decay / lr])

        def off(x: np.ndarray) -> np.ndarray:
            lr, weight_decay = map(float, np.exp(x))
            state = self.rest(target, lr, weight_decay)
            found = {"lr": lr, "weight_decay": weight_decay, "norm": state.norm}[second]
            assert found is not None
            return np.log([getattr(state, first) / goal, found / aim])

        try:
            for _ in range(40):
                now = off(x)
                if np.max(np.abs(now)) < 1e-10:
                    break
                slopes = np.stack([(off(x - e) - now) / -1e-5 for e in 1e-5 * np.eye(2)], axis=1)
                x = x - np.clip(np.linalg.solve(slopes, now), -3, 3)
            else:
                raise ValueError("no solution")
        except (ValueError, np.linalg.LinAlgError):
            raise ValueError(
                f"translate({target.title}): no lr and weight decay give it a {first} of {shown(goal)}, which "
                f"{origin.name} has; it is out of reach of its memory."
            ) from None
        return float(np.exp(x[0])), float(np.exp(x[1]))


# Along a schedule --------------------------------------------------------------------------------------------


def along(
    curve: np.ndarray,
    target: Rule,
    lr: float,
    decay: float,
    norm: float | None,
    told: Told,
    origin: Origin,
    rounds: int,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """lr for each step under which the target's forecast is `curve`, that forecast, and what is said of it."""
    top = float(np.max(curve))
    lrs, lrs_best, best = lr * curve / top, lr * curve / top, (math.inf, curve)
    given, moves = told.given(target), curve > 0
    stuck = np.zeros(len(curve), dtype=bool)
    for _ in range(rounds):
        try:
            found = forecast(target, lr=lrs, weight_decay=decay, steps=len(curve), norm=norm, **given)
        except ValueError as error:
            raise ValueError(f"translate({target.title}): it cannot turn as the source does: {error}") from None
        # A step that no lr turns, such as RAdam's first five, has none to be corrected.
        stuck = moves & (found.rotation < 1e-6 * curve)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(moves & ~stuck, curve / found.rotation, 1.0)
        worst = float(np.max(np.abs(ratio - 1)))
        if worst < best[0]:
            lrs_best, best = lrs, (worst, found.rotation)
        if worst < 1e-4:
            break
        lrs = _corrected(found, lrs, ratio, norm, scale_invariant=told.scale_invariant)
    still = f" but for the first {np.flatnonzero(stuck)[-1] + 1}, which hardly turn it at any lr" if stuck.any() else ""
    said = [
        f"Along the schedule the forecast rotation of {target.title} is within {max(best[0], 1e-4):.2%} of that of "
        f"{origin.name} in every step{still}."
    ]
    if origin.rule is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = (lrs_best / lr) / (np.asarray(origin.lr) / origin.top)
        factor = factor[np.isfinite(factor) & (factor > 0)]
        if len(factor) and np.ptp(factor) > 0.02:
            said.append(
                "Its lr is no multiple of the source's schedule: relative to the peak it is "
                f"{factor.min():.3g} to {factor.max():.3g} times that, because norms and memories "
                "adapt at another pace."
            )
    return lrs_best, best[1], said


def _corrected(
    found: Forecast, lr: np.ndarray, ratio: np.ndarray, norm: float | None, *, scale_invariant: bool
) -> np.ndarray:
    """lr for rotations that are `ratio` times those found, with the norms that it leads to.

        rotation_t ~ lr_t/|w_t|^p        |w_t+1|^2/|w_t|^2 - 1 = growth - 2 D_t,  growth ~ rotation_t^2

    p = 2 for raw gradients that fall as 1/|w|, else 1. Norms that only follow would take a round for each halving.
    """
    assert found.norm is not None
    power = 2 if isinstance(found.rule.scale, Raw) and scale_invariant else 1
    follows = {"independent": 0, "adamc": 2}.get(found.rule.decay, 1)
    square = np.square(np.concatenate(([norm or found.norm[0]], found.norm)))
    decay = 2 / found.timescale
    growth = (square[1:] / square[:-1] - 1 + decay) * ratio**2
    log, new = 0.0, np.empty_like(lr)  # log of |w|^2 over what it was
    rows = np.stack([ratio, decay, growth, np.log(square[1:] / square[:-1])], axis=1).tolist()
    for t, (r, d, g, w) in enumerate(rows):
        new[t] = factor = min(max(r * math.exp(log * power / 2), 0.1), 10.0)
        log += math.log(max(1 + g - d * factor**follows, 0.1)) - w
    return lr * new
