"""Translate hyperparameters from one optimizer to another, so that neurons turn alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rotational import _check, theory
from rotational.correlation import Shape
from rotational.forecasts import forecast
from rotational.replay import Angles
from rotational.retarget import Config
from rotational.rule import Rule
from rotational.scale import Polar, Raw

HELD = ("rotational", "fixed-norm")
"""Targets that are no rule: an angle for each step, held by a rotational or a fixed-norm optimizer (AdamH, MuonH)."""
MATCHES = ("rotation", "timescale", "norm")


@dataclass(frozen=True, eq=False)
class Translation:
    """What to write for the target, and what it will not match.

    rule            of the target; None where an angle is held
    lr              a number, or one for each step [T]; for "fixed-norm" the tangent of the angle, which is its lr
    weight_decay    of the target; 0 where an angle is held
    rotation        that both have, radians per step: a number, or one for each step
    timescale       1/D of the target, steps (at the highest lr)
    angles          the schedule to give as `rotation=`, where an angle is held
    said            what cannot be matched, in words
    """

    rule: Rule | None
    lr: Any
    weight_decay: float
    rotation: Any
    timescale: float
    angles: Angles | None
    said: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""

        def plain(x: Any) -> Any:
            return x.tolist() if isinstance(x, np.ndarray) else x

        return {
            "rule": None if self.rule is None else self.rule.as_dict(),
            "lr": plain(self.lr),
            "weight_decay": self.weight_decay,
            "rotation": plain(self.rotation),
            "timescale": self.timescale if math.isfinite(self.timescale) else None,
            "said": list(self.said),
        }

    def __str__(self) -> str:
        name = "held angle" if self.rule is None else self.rule.name
        lr = _range(self.lr)
        return "\n".join([f"{name}: lr {lr}, weight decay {self.weight_decay:.4g}, rotation {_range(self.rotation)}"
                          " rad/step", *(f"- {sentence}" for sentence in self.said)])  # fmt: skip


def translate(
    source: Config,
    target: Rule | str,
    match: Sequence[str] = ("rotation", "timescale"),
    *,
    schedule: Any = None,
    norm: float | None = None,
    size: int | None = None,
    gradient_norm: float | None = None,
    shape: Shape | None = None,
    rounds: int = 12,
) -> Translation:
    """lr and weight decay of `target` at which neurons turn as under `source`.

        rotation = sqrt(2 D/tau), timescale = 1/D:  one number D sets both, and tau is the target's own.

    So where the two taus differ, the first name in `match` is met, and the other's ratio is said. D leaves lr free
    (only lr*wd matters at rest): with `size` (and `gradient_norm`, for SGD) the equilibrium norm is kept, so that the
    source's weights are at rest under the target; else the target's weight decay is the source's.

    `target` is a rule, "rotational" (give `angles` as `rotation=` to `rotational.AdamW` and its kin), or "fixed-norm"
    (AdamH, MuonH: w <- R N(w - lr R N(u)); for an update orthogonal to w one step turns by atan(lr)).
    With `schedule` (lr of the source over its steps, in any form that `forecast` takes) the answer is a schedule: the
    source's forecast, its transient and its lag included, is reproduced step by step by the target's lr, found in
    `rounds` of lr_t <- lr_t rotation_source/rotation_target. It needs `norm`, the initial one, and what the norms of
    both rules need. `shape` is that of the matrix, for Muon.

    Raises ValueError for a target whose rotation depends on the gradient (Adam+L2)
    or on a shape that was not given, and an unknown match.

    >>> from rotational import Config, rules
    >>> adamw = Config(rules.adamw(), lr=1e-3, weight_decay=0.1, batch_size=256, steps=10_000)
    >>> lion = translate(adamw, rules.lion(), size=768)
    >>> f"{lion.lr:.2e} {lion.weight_decay:.3f} {lion.rotation:.2e}"
    '2.30e-04 1.035 3.24e-03'

    Source: Kosson et al. 2024 (arXiv 2305.17212); arXiv 2606.16899 for fixed-norm optimizers.
    """
    call = "translate"
    if isinstance(match, str) or not match or any(name not in MATCHES for name in match):
        raise ValueError(f"{call}(match={match!r}): expected names among {', '.join(MATCHES)}, the first to be met.")
    if isinstance(target, str):
        _check.choice(call, "target", target, HELD)
    given: dict[str, Any] = {"size": size, "gradient_norm": gradient_norm}
    here = _at_rest(call, source.rule, source.lr, source.weight_decay, shape, given)
    if isinstance(target, str):
        return _held(source, target, here, schedule, norm, given, shape)
    wanted, tau = here.rotation, _tau(call, target, shape, given)
    # D from rotation = sqrt(2 D/tau), exact at finite D by a few rounds; or from the timescale
    decay = wanted**2 * tau / 2
    if match[0] == "timescale":
        decay = 1 / here.timescale
    lr, wd = _split(call, source, target, decay, here, shape, given)
    if match[0] != "timescale":
        for _ in range(60):
            there = _at_rest(call, target, lr, wd, shape, given)
            decay *= (wanted / there.rotation) ** 2
            lr, wd = _split(call, source, target, decay, here, shape, given)
    there = _at_rest(call, target, lr, wd, shape, given)
    said = list(_unmatched(source, target, here, there, lr))
    if schedule is None:
        return Translation(target, lr, wd, there.rotation, there.timescale, None, tuple(said))
    curve = _curve(source, schedule, norm, given, shape)
    lrs = curve.lr * (lr / np.max(curve.lr))
    steps = len(curve.step)
    found = None
    for _ in range(rounds):
        found = forecast(target, lr=lrs, weight_decay=wd, steps=steps, norm=norm, shape=_for(target, shape), **given)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(found.rotation > 0, curve.rotation / found.rotation, 1.0)
        lrs = lrs * np.clip(ratio, 0.25, 4.0)
    assert found is not None
    off = np.abs(found.rotation / np.where(curve.rotation > 0, curve.rotation, np.nan) - 1)
    worst = float(np.nanmax(off[len(off) // 100 :]))
    said.append(
        f"Along the schedule the target's forecast rotation is within {worst:.1%} of the source's after the first 1%."
    )
    return Translation(target, lrs, wd, curve.rotation, there.timescale, None, tuple(said))


@dataclass(frozen=True)
class _Rest:
    rotation: float
    timescale: float
    norm: float | None


def _for(rule: Rule, shape: Shape | None) -> Shape | None:
    return shape if isinstance(rule.scale, Polar) else None


def _at_rest(
    call: str, rule: Rule, lr: float, weight_decay: float, shape: Shape | None, given: dict[str, Any]
) -> _Rest:
    state = theory.equilibrium(rule, lr, weight_decay, shape=_for(rule, shape), **given)
    if state.rotation is None or state.half_life is None:
        missing = "shape=" if isinstance(rule.scale, Polar) else "size= and gradient_norm="
        raise ValueError(
            f"{call}({rule.name}): the rotation of this rule depends on more than lr and decay: give {missing}."
        )
    # 1/D by whatever way the decay enters
    timescale = theory.relaxation(rule) * state.half_life / math.log(2)
    return _Rest(state.rotation, timescale, state.norm)


def _tau(call: str, rule: Rule, shape: Shape | None, given: dict[str, Any]) -> float:
    """2 D/rotation^2 where decay is small."""
    if rule.decay == "coupled" and not isinstance(rule.scale, Raw):
        raise ValueError(
            f"{call}(target={rule.name}): with L2 regularisation its rotation depends on the size of each gradient, so "
            "no lr and weight decay give all neurons the source's. Translate to its decoupled form."
        )
    small = 1e-7
    wd = small if rule.decay == "independent" else small / 1e-3
    state = _at_rest(call, rule, 1e-3, wd, shape, given)
    return 2 / state.timescale / state.rotation**2


def _split(
    call: str, source: Config, target: Rule, decay: float, here: _Rest, shape: Shape | None, given: dict[str, Any]
) -> tuple[float, float]:
    """lr and weight decay of the target whose decay per step is `decay`, at the source's norm where that is known."""
    decay = min(decay, 0.99) / theory.decay_gain(target)

    def pair(lr: float) -> tuple[float, float]:
        return lr, decay if target.decay == "independent" else decay / lr

    lr = source.lr if target.decay == "independent" else decay / source.weight_decay
    if here.norm is None:
        return pair(lr)
    for _ in range(4):  # the norm goes as a power of lr at a given decay: as lr itself, or as its root for raw steps
        norm = _at_rest(call, target, *pair(lr), shape, given).norm
        if norm is None:
            break
        lr *= (here.norm / norm) ** (2 if isinstance(target.scale, Raw) else 1)
    return pair(lr)


def _unmatched(source: Config, target: Rule, here: _Rest, there: _Rest, lr: float) -> list[str]:
    found: list[str] = []
    if abs(there.rotation / here.rotation - 1) > 0.01:
        found.append(f"Rotation is {there.rotation / here.rotation:.3g} times the source's, for their memories differ.")
    if abs(there.timescale / here.timescale - 1) > 0.01:
        found.append(
            f"The timescale is {there.timescale:,.0f} steps against {here.timescale:,.0f}: the same rotation takes "
            "another decay, because the target remembers gradients for another time."
        )
    if there.norm is None or here.norm is None:
        found.append("Norms are not matched: size= (and gradient_norm= for SGD) would choose lr so that they are.")
    elif abs(there.norm / here.norm - 1) > 0.01:
        found.append(f"The norm settles at {there.norm:.3g} against {here.norm:.3g}.")
    if isinstance(source.rule.scale, Raw) or isinstance(target.scale, Raw):
        found.append(
            "Gains and biases move by lr times the gradient under SGD and by lr itself elsewhere: give them an lr of "
            "their own."
        )
    elif isinstance(target.scale, Polar):
        found.append("Gains and biases are no matrices: Muon leaves them to another optimizer, with an lr of its own.")
    elif abs(lr / source.lr - 1) > 0.01:
        found.append(
            f"Gains and biases, which do not rotate, move {lr / source.lr:.3g} times as far per step: give "
            "them an lr of their own."
        )
    return found


def _curve(source: Config, schedule: Any, norm: float | None, given: dict[str, Any], shape: Shape | None) -> Any:
    return forecast(
        source.rule,
        lr=schedule,
        weight_decay=source.weight_decay,
        steps=source.steps,
        norm=norm,
        shape=_for(source.rule, shape),
        **given,
    )


def _held(
    source: Config,
    target: str,
    here: _Rest,
    schedule: Any,
    norm: float | None,
    given: dict[str, Any],
    shape: Shape | None,
) -> Translation:
    said = ["Norms stay where they start: the source's transient is in the angles only if a schedule is given."]
    said.append("Gains and biases take the plain rule, at an lr of their own.")
    if schedule is None:
        rotation: Any = here.rotation
        steps, radians = (0, max(1, source.steps - 1)), (here.rotation, here.rotation)
    else:
        curve = _curve(source, schedule, norm, given, shape)
        rotation = curve.rotation
        steps, radians = tuple((curve.step - 1).tolist()), tuple(curve.rotation.tolist())
        said[0] = "Norms stay where they start, and angles follow the source's forecast, its transient included."
    if target == "fixed-norm":
        said.append("Its step is not orthogonal to w: where <u, w> is not small, a step turns by less than atan(lr).")
    lr = np.tan(rotation) if target == "fixed-norm" else source.lr
    if isinstance(lr, np.floating):
        lr = float(lr)
    return Translation(None, lr, 0.0, rotation, math.inf, Angles(steps, radians, f"as {source.rule.name}"), tuple(said))


def _range(x: Any) -> str:
    return f"{float(np.max(x)):.3g} at most, over {len(x):,} steps" if isinstance(x, np.ndarray) else f"{x:.4g}"
