"""Hyperparameters carried from one optimizer to another, so that neurons turn alike.

D   share of w that decay takes off in a step     tau   how much remembering slows the rotation (theory.py)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rotational import _check, theory
from rotational import schedule as schedules
from rotational.angles import Angles
from rotational.control import Control
from rotational.correlation import Shape
from rotational.matching import NEEDS, Origin, Rest, Told, along
from rotational.optim.recognise import recognise
from rotational.rule import Rule
from rotational.scale import Polar, Raw
from rotational.translation import KINDS, Held, Side, Translation
from rotational.unmatched import Pair, plain, together

MATCHES = ("rotation", "timescale", "norm")


def translate(
    source: Any,
    target: Rule | Held | str,
    match: Sequence[str] = ("rotation", "timescale"),
    *,
    schedule: schedules.Schedule | None = None,
    steps: int | None = None,
    norm: float | None = None,
    size: int | None = None,
    gradient_norm: float | None = None,
    scale_invariant: bool = True,
    shape: Shape | None = None,
    group: int | None = None,
    rounds: int = 40,
) -> Translation:
    """lr and weight decay of `target` at which neurons turn as they do under `source`.

        rotation = sqrt(2 D/tau),  timescale = 1/D:  D sets both, and tau is the optimizer's own

    source      a `Config`, a `Hyper(rule, lr, weight_decay)`, an earlier `Translation`, a torch optimizer (`group` of
                it; the first with weight decay), or recorded `Angles`
    target      a rule; a `Held`, or its kind: "rotational" (give `angles` as `rotation=`), "fixed-norm" (AdamH, MuonH)
    match       "rotation" or "timescale", the first of them exactly: where the taus differ no D gives both, and `said`
                tells the other's ratio and the momentum at which both would match. "norm" demands that of norms
    schedule    lr of the source over `steps` (default: the Config's), in any form that `forecast` takes. The answer is
                then lr for each step: the source's forecast, transient and lag included, is what the target turns by
    norm        initial RMS length of a neuron (default: at rest at the highest lr), radians being independent of it
    size, gradient_norm, scale_invariant, shape    of the neurons, as `forecast` has them

    At rest only lr*weight_decay matters to rotation. The freedom left is used so that the weights of the source are at
    rest under the target too: their norms agree. Between SGD and the others that takes `size` and `gradient_norm`;
    without them weight_decay (or lr, where one decay is independent of it) is the source's. Angles that are held have
    no norm of their own, and as a source need `norm`.

    Along a schedule weight_decay stays, and lr is corrected by forecasts of the target until every step agrees within
    1e-4 (or `rounds` of them are done): rotation follows lr at once, and the norm that it leads to later. As a schedule
    of torch: LambdaLR(opt, lambda t: there.lr[min(t, steps - 1)] / lr) for an optimizer made with that lr.

    Raises TypeError or ValueError for a source without weight decay, what a rule needs and was not given (shape= of
    Muon, size= and gradient_norm= of Adam with L2), a rotation out of the target's reach, and an unknown match.

    >>> from rotational import rules
    >>> from rotational.translation import Hyper
    >>> lion = translate(Hyper(rules.adamw(), lr=1e-3, weight_decay=0.1), rules.lion())
    >>> f"{lion.lr:.2e} {lion.weight_decay:.3f} {lion.rotation:.2e}"
    '2.30e-04 1.033 3.24e-03'

    Source: Kosson et al. 2024 (arXiv 2305.17212); arXiv 2606.16899 for fixed norms; docs/theory.md.
    """
    first = _matched(match)
    if isinstance(target, str):
        _check.choice("translate", "target", target, KINDS)
        target = Held(target)
    if not isinstance(target, Rule | Held):  # pyright: ignore[reportUnnecessaryIsInstance]  an optimizer, say
        raise TypeError(
            f"translate(target={_told(target)}): expected a Rule such as rotational.rules.lion(), or one of "
            f"{', '.join(map(repr, KINDS))}."
        )
    norm = None if norm is None else _positive("norm", norm)
    size = None if size is None else _check.whole("translate", "size", size)
    gradient_norm = None if gradient_norm is None else _positive("gradient_norm", gradient_norm)
    rounds = _check.whole("translate", "rounds", rounds)
    scale_invariant = _check.flag("translate", "scale_invariant", scale_invariant)
    shape = None if shape is None else theory.matrix("translate", shape)
    told = Told(size, gradient_norm, scale_invariant, shape)
    origin = _origin(source, group, schedule, steps, told)
    here = told.at_rest(origin)
    if isinstance(target, Held):
        return _held(origin, target, here, norm, told)
    wanted = Rest(here.rotation, here.timescale, norm if origin.rule is None else here.norm)
    if first == "timescale" and here.timescale is None:
        raise ValueError("translate(match='timescale'): recorded angles tell of no timescale; match the rotation.")
    if "norm" in match and (wanted.norm is None or not told.comparable(origin.rule, target)):
        raise ValueError(f"translate(match='norm'): norms need {NEEDS} beside SGD, and norm= where angles are held.")
    lr, decay = told.solve(origin, target, wanted, first)
    there = told.rest(target, lr, decay)
    lrs: Any = lr
    rotation, extra = there.rotation, list[str]()
    if origin.steps is not None:
        curve = _curve(origin, told, norm)
        # as far from rest as the source's, whatever the units
        start = there.norm and there.norm * (norm / here.norm if norm and here.norm else 1.0)
        lrs, rotation, extra = along(curve, target, lr, decay, start, told, origin, rounds)
    at = int(np.argmax(lrs)) if np.ndim(lrs) else None
    then = [float(np.ravel(x)[(at or 0) % np.size(x)]) for x in (origin.lr, lrs)]
    pair = Pair(
        origin.name,
        origin.rule,
        then[0],
        here.timescale,
        here.rotation,
        target,
        then[1],
        told.shape,
        None if at is None else at + 1,
    )
    return Translation(
        rule=target,
        source=origin.side(here, told.units(origin.rule), rotation if origin.steps else None),
        target=Side(target.title, lrs, decay, rotation, there.timescale, there.norm if told.units(target) else None),
        angles=None,
        said=(
            *together(pair, there.timescale, there.rotation, first),
            *_norms(told, origin, target),
            *extra,
            *plain(pair),
        ),
    )


# The source ---------------------------------------------------------------------------------------------------


def _angles_of(source: Any) -> tuple[Angles | None, Held | None]:
    if isinstance(source, Translation):
        return source.angles, source.held
    return (source if isinstance(source, Angles) else None), None


def _origin(source: Any, group: int | None, schedule: Any, steps: int | None, told: Told) -> Origin:
    rate: Control | None = None
    angles, held = _angles_of(source)
    if angles is not None:
        count = angles.length if steps is None else _check.whole("translate", "steps", steps)
        turned = np.array([angles(t) for t in range(count)])
        if held is not None:  # what was written turns by this
            turned = np.asarray(held.angle(turned, told.shape))
        name = angles.name or "recorded angles" if held is None else held.name
        return Origin(name, None, 0.0, 0.0, turned, held, count if steps is not None or count > 1 else None)
    if hasattr(source, "param_groups"):
        rule, lr, weight_decay, rate = _of_optimizer(source, group)
    elif all(hasattr(source, name) for name in ("rule", "lr", "weight_decay")):
        rule, lr, weight_decay = source.rule, source.lr, source.weight_decay
        own = getattr(source, "steps", None)
        if steps is not None and schedule is None and own is None:
            raise ValueError(f"translate(steps={steps!r}): expected schedule= beside it; a constant lr needs no steps.")
        steps = own if steps is None else steps
    else:
        raise TypeError(
            f"translate(source={_told(source)}): expected a Config, a Hyper, a Translation, Angles or an optimizer of "
            "torch, an object of its class."
        )
    if schedule is None and isinstance(lr, np.ndarray):
        schedule, steps = lr, len(lr)
    decay = _positive("weight_decay", weight_decay, "Without it neurons have no rotation to keep.")
    if schedule is None:
        lr, count = _positive("lr", lr), None
    else:
        if steps is None:
            raise ValueError("translate(schedule=...): expected steps= too, the number of steps that it has.")
        count = _check.whole("translate", "steps", steps)
        name = "lr" if hasattr(schedule, "optimizer") else "schedule"  # that schedulers set is lr
        lr = schedules.values("translate", name, schedule, count)
        _positive("highest lr of the schedule", float(np.max(lr)))
    if rate is not None:  # a rotational optimizer turns by atan of what it is told
        at = np.broadcast_to(lr, (count or 1,))
        turned = np.arctan([rate.rotation(rule, float(x), decay, t) for t, x in enumerate(at)])
        return Origin(f"rotational {rule.title}", None, lr, decay, turned, Held("rotational", rule), count)
    return Origin(rule.title, rule, lr, decay, steps=count)


def _told(x: Any) -> str:
    """What came, in a word or two."""
    return f"{x.__name__}, a class" if isinstance(x, type) else type(x).__name__


def _positive(name: str, value: Any, hint: str = "") -> float:
    return _check.number("translate", name, value, low=0, above=True, hint=hint)


def _of_optimizer(optimizer: Any, group: int | None) -> tuple[Rule, float, float, Control | None]:
    """(rule, lr, weight decay) of a group, and what holds its rotation, if anything does."""
    found, groups = recognise(optimizer, call="translate"), optimizer.param_groups
    if group is None:
        group = next((i for i, g in enumerate(groups) if g.get("weight_decay")), 0)
    elif not (isinstance(group, int) and 0 <= group < len(groups)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"translate(group={group!r}): the optimizer has {len(groups)} param groups, counted from 0.")
    options = groups[group]
    control = Control(rate=options.get("rotation"), call="translate") if options.get("rotational") else None
    return found[group], float(options["lr"]), float(options["weight_decay"]), control


def _matched(match: Any) -> str:
    """The one that is met exactly."""
    names: Sequence[Any] = match if isinstance(match, Sequence) and not isinstance(match, str) else ()
    exact = [name for name in names if name != "norm"] if all(name in MATCHES for name in names) else []
    if not exact:
        raise ValueError(
            f"translate(match={match!r}): expected a tuple with 'rotation' or 'timescale', the one to be met first, "
            "and 'norm' where norms must match."
        )
    return exact[0]


def _curve(origin: Origin, told: Told, norm: float | None) -> np.ndarray:
    """Radians in each step of the source."""
    if origin.rule is None:
        return origin.curve({}, norm)
    if norm is not None and not told.units(origin.rule):
        needs = "gradient_norm=" if isinstance(origin.rule.scale, Raw) else "size="
        raise ValueError(f"translate(norm={norm:g}): how far that is from rest under {origin.name} takes {needs} too.")
    return origin.curve(told.given(origin.rule), norm)


# The answer ---------------------------------------------------------------------------------------------------


def _norms(told: Told, origin: Origin, target: Rule) -> list[str]:
    if origin.rule is None:
        return []
    if not told.comparable(origin.rule, target):
        return [
            f"Norms are not matched, and lr is fixed only as a part of lr*weight_decay: with {NEEDS} it would be "
            f"chosen so that weights at rest under {origin.name} are at rest under {target.title}."
        ]
    return [f"Weights at rest under {origin.name} are at rest under {target.title}: the norm is the same."]


def _held(origin: Origin, target: Held, here: Rest, norm: float | None, told: Told) -> Translation:
    """An angle for each step, for an optimizer that holds it."""
    angle: Any = here.rotation
    if origin.steps is not None:
        angle = _curve(origin, told, norm)
    if target.rule is not None and isinstance(target.rule.scale, Polar) and told.shape is None:
        raise ValueError(f"translate({target.name}): its step depends on the matrix; give shape=(rows, columns).")
    step = target.step(angle, told.shape)
    at, eta = (range(len(step)), step) if np.ndim(step) else ((0,), (step,))
    said = [
        "Norms stay where they start, and neurons turn by these angles from the first step"
        + (": the source's transient is in them." if np.ndim(step) else "; a schedule= puts the source's transient in.")
    ]
    if target.kind == "fixed-norm":
        said.append(
            "It holds the norm of the whole matrix: one row turns by this angle where its share of the update is its "
            "share of the norm."
        )
        excess = float(np.max(step / np.tan(np.maximum(angle, 1e-300)))) - 1
        if target.rule is not None and excess > 1e-4:
            said.append(
                f"lr is up to {excess:.2%} above the tangent of the angle, because an update with memory "
                "points a little against w."
            )
    said.append(
        "Gains, biases and a matrix that starts at 0 have no norm to hold: they take a plain group, and its lr."
    )
    side = Side(
        target.name,
        (step if np.ndim(step) else float(step)) if target.kind == "fixed-norm" else None,
        None,
        angle,
        None if target.rule is None else 1 / float(target.decay(float(np.max(angle)), told.shape)),
        norm,
    )
    source = origin.side(here, told.units(origin.rule), angle if origin.steps else None)
    return Translation(None, source, side, Angles(at, eta, f"as {origin.name}"), tuple(said), target)
