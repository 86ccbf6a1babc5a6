"""Rotational equilibrium: norm, rotation and time scale of a rule, before any training.

    w   a neuron's weights, C of them     g   its gradient           u   update direction, w' = (1-D) w - lr u
    W   E|w|^2                            D   decay of w per step     H, r_0   correlation.py

Decay shrinks |w|^2 by 2 D W a step, the update's random walk grows it by lr^2 (r_0 + 2H); where they balance
the norm stays and the direction turns by sqrt(2 D/tau) radians a step. The forms here are exact at finite
lr*wd. Derivation and simulation: docs/theory.md; Kosson, Messmer, Jaggi 2024 (arXiv 2305.17212).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rotational import _check
from rotational.correlation import Shape
from rotational.dynamics import scatter, settled
from rotational.dynamics.setting import Setting
from rotational.memory import sum_of_correlations
from rotational.rule import Rule, aimed
from rotational.scale import Max, Polar, Raw, Rms, Sign


@dataclass(frozen=True)
class Equilibrium:
    """The steady state of one neuron. A field is None where an input that it needs was not given.

    rotation     RMS angle between successive weight vectors, radians per step
    norm         root mean square of |w|
    update       RMS length of the change of w in one step, decay included
    half_life    steps in which the distance of the norm from its equilibrium halves
    timescale    1/D in steps, 1/(lr*weight_decay) where decay is decoupled: how far back the weights remember, D being
                 the share of w that a step takes off (SGDM's memory takes lr*weight_decay/(1 - momentum), and Adam
                 divides a coupled decay by the gradient's size)

    >>> from rotational import rules
    >>> print(equilibrium(rules.sgd(momentum=0.9), lr=0.1, weight_decay=1e-4).norm)  # needs gradient_norm=
    None
    """

    rotation: float | None
    norm: float | None
    update: float | None
    half_life: float | None
    timescale: float | None


def equilibrium(
    rule: Rule,
    lr: float,
    weight_decay: float,
    *,
    size: int | None = None,
    gradient_norm: float | None = None,
    scale_invariant: bool = True,
    shape: Shape | None = None,
    radial: float = 0.0,
    target_norm: float = 0.0,
) -> Equilibrium:
    """Rotational equilibrium of `rule` at constant lr and weight decay.

        decoupled:  W = lr^2 (r_0 + 2 d H)/(1 - d^2),   1 - cos = D (r_0 - D H)/(r_0 + 2 d H),   d = 1 - D
        coupled:    the stationary covariance of (w, m), solved exactly

    `size` is the neuron's number of weights C; `gradient_norm` the RMS norm of its gradient: at |w| = 1 when
    the gradient is `scale_invariant` (orthogonal to w, shrinking as 1/|w|), at any w when it is not
    (isotropic noise). Gradients have no mean (a random walk) and eps is small beside them. Adam's second moment is
    taken as exact unless the rule has a `kurtosis`, as `forecast` gives it one: at b2 = 0.95 that is 1% of the norm.
    With weight_decay = 0 there is nothing to balance: rotation 0 and norm infinity are the limits.

    `shape` is that of the matrix (rows, columns) whose update Muon orthogonalises; norm and update are those of
    one row. `radial` = <u, w>/|w|^2 of scale-sensitive weights acts as extra decay, D = lr (wd + radial). Decay
    towards a `target_norm` takes off D (1 - target_norm/|w|).

    Raises TypeError or ValueError for numbers out of range, lr*weight_decay of 1 or more, and for a rule
    whose law is not known (Muon with L2, Adamax with momentum and a b2 of 0).

    >>> from rotational import rules
    >>> e = equilibrium(rules.adamw(betas=(0.9, 0.95)), lr=6e-4, weight_decay=0.1, size=768)
    >>> f"{e.rotation:.2e} rad/step, norm {e.norm:.2f}, 1/(lr*wd) = {e.timescale:.0f} steps"
    '2.51e-03 rad/step, norm 1.52, 1/(lr*wd) = 16667 steps'

    Source: Kosson et al. 2024, table 1, for the leading order; docs/theory.md for the exact forms.
    """
    call = "equilibrium"
    lr = _check.number(call, "lr", lr, low=0)
    weight_decay = _check.number(call, "weight_decay", weight_decay, low=0)
    setting = described(
        call, rule, size, gradient_norm, scale_invariant, shape=shape, radial=radial, target_norm=target_norm
    )
    _product(call, lr, rule.shrink(lr, weight_decay) if rule.decay == "independent" else lr * weight_decay)
    push = settled.as_push(setting, lr, weight_decay)
    if lr == 0 or (push.shrink == 0 and push.coupled == 0 and not radial):
        still = 0.0 if lr == 0 else None
        return Equilibrium(0.0, math.inf if lr else None, still, math.inf, math.inf)
    if depends_on_gradient(setting) and not (setting.known and gradient_norm is not None):
        return Equilibrium(None, None, None, None, None)
    if isinstance(rule.scale, Sign) and rule.scale.linearised and not setting.coupled:
        # the paper's form, which is that of small lr*wd
        norm = None if size is None else lr * math.sqrt(size * _tau(rule) / (2 * push.shrink))
        rotation = rate(rule, lr, weight_decay)
        update = None if norm is None else norm * rotation
        return Equilibrium(rotation, norm, update, *_times(setting, push.shrink))
    if isinstance(rule.scale, Polar) and shape is None:
        return Equilibrium(None, None, None, *_times(setting, push.shrink))
    square, law = settled.rest(setting, push)
    if not (math.isfinite(square) and law.loss > 0):
        raise ValueError(f"{call}({rule.title}): decay this strong makes the step unstable; lower lr*weight_decay.")
    moved = law.noise + law.pull * square
    rotation = float(
        settled.turn(square, square, 0.0, moved)
        * scatter.turning(setting, scatter.turned(setting, law.scatter, law.radial))
    )
    known = gradient_norm is not None if isinstance(rule.scale, Raw) else setting.known
    norm, update = (math.sqrt(square), math.sqrt(moved)) if known else (None, None)
    half_life, timescale = _times(setting, float(law.delta))
    if setting.aims:
        half_life = math.log(2) / float(settled.returns(setting, push, square))
    return Equilibrium(rotation, norm, update, half_life, timescale)


def matrix(call: str, shape: Any) -> Shape:
    """Rows and columns, checked."""
    try:
        rows, columns = shape
    except (TypeError, ValueError):
        raise ValueError(
            f"{call}(shape={shape!r}): expected the rows and columns of a matrix, such as (32, 64)."
        ) from None
    return _check.whole(call, "shape", rows), _check.whole(call, "shape", columns)


def described(
    call: str,
    rule: Rule,
    size: int | None,
    gradient_norm: float | None,
    scale_invariant: bool,
    *,
    shape: Shape | None = None,
    radial: float = 0.0,
    target_norm: float = 0.0,
    drift: float = 0.0,
) -> Setting:
    """The setting that the user's words describe, checked; `call` is what errors name."""
    if not isinstance(rule, Rule):  # pyright: ignore[reportUnnecessaryIsInstance]  a name, say
        raise TypeError(f"{call}(rule={_other(rule)}): expected a Rule, such as rotational.rules.adamw().{_hint(rule)}")
    if isinstance(rule.scale, Polar) and rule.decay == "coupled":
        raise ValueError(f"{call}({rule.title}): no law is known for Muon with L2; its decay is decoupled.")
    _finite(call, rule)
    target = _check.number(call, "target_norm", target_norm, low=0)
    aimed(call, rule, target)
    if shape is not None:
        rows, columns = matrix(call, shape)
        if size is not None and size != columns:
            raise ValueError(
                f"{call}(size={size}, shape={(rows, columns)}): a row of this matrix has {columns} weights."
            )
        shape, size = (rows, columns), columns
    if size is not None:
        size = _check.whole(call, "size", size)
    if gradient_norm is not None:
        gradient_norm = _check.number(call, "gradient_norm", gradient_norm, low=0, above=True)
    return Setting(
        rule,
        size=1.0 if size is None else float(size),
        known=size is not None,
        gradient=1.0 if gradient_norm is None else gradient_norm,
        scale_invariant=scale_invariant,
        drift=_check.number(call, "drift", drift, low=0, high=1, below=True),
        radial=_check.number(call, "radial", radial),
        target=target,
        shape=shape,
        eps=getattr(rule.scale, "eps", 0.0) if gradient_norm is not None else 0.0,
    )


def _finite(call: str, rule: Rule) -> None:
    """Refuse updates whose mean square is infinite: what is remembered over |g| of the step."""
    scale = rule.scale
    if isinstance(scale, Rms | Max) and scale.beta == 0 and rule.memory.old != 0 and not getattr(scale, "first", False):
        raise ValueError(
            f"{call}({rule.title}): with a b2 of 0 remembered gradients are divided by |g| of the step alone, and "
            "their mean square is infinite; take b2 > 0, or b1 = 0."
        )


def _other(x: Any) -> str:
    """What stands in place of a rule, in a few words."""
    if hasattr(x, "__qualname__"):  # a class or a function
        return x.__qualname__
    return repr(x) if isinstance(x, str | int | float | None) else type(x).__name__


def _hint(x: Any) -> str:
    """What to call for an optimizer of torch's."""
    return " For an optimizer there is rotational.predict(optimizer)." if hasattr(x, "param_groups") else ""


def depends_on_gradient(setting: Setting) -> bool:
    """Whether the rotation at rest depends on the size of the gradient (Adam or a sign, with L2)."""
    return setting.coupled and not isinstance(setting.rule.scale, Raw)


def _times(setting: Setting, taken: float) -> tuple[float, float]:
    """Half-life and time scale, from the share of w that a step takes off."""
    return math.log(2) / (settled.relaxation(setting) * taken), 1 / taken


def arrival(half_life: float, power: int) -> float:
    """Steps from a norm far below equilibrium to within 5% of it; `power` is that of `relaxation`.

    From far below, |w|^p grows as 1 - 2^(-t/half-life), and |w| is within 5% once |w|^p is above 0.95^p.

    >>> [round(arrival(1.0, power), 1) for power in (2, 3, 4)]
    [3.4, 2.8, 2.4]
    """
    return -half_life * math.log2(1 - 0.95**power)


def rate(rule: Rule, lr: float, weight_decay: float) -> float:
    """The rotation that a rotational optimizer holds, in radians per step: sqrt(2 D/tau).

    For linear rules and Adam this is the paper's closed form, the small lr*wd limit of `equilibrium`:
    sqrt(2 lr wd (1-b1)/(1+b1)) for AdamW, sqrt(2 lr wd/(1+momentum)) for SGDM. For the sign of Lion the
    paper's form is up to 23% off, and the exact equilibrium is held instead.
    Raises ValueError for Adam+L2, whose rotation depends on the size of the gradient, and for Adamax with momentum and
    b2 = 0, whose update has no finite mean square.

    >>> from rotational import rules
    >>> round(rate(rules.sgd(momentum=0.9), lr=0.1, weight_decay=1e-4), 8)
    0.00324443
    """
    if rule.decay == "coupled" and not isinstance(rule.scale, Raw):
        raise ValueError(
            f"rate({rule.title}): with L2 regularisation the rotation depends on the size of the gradient, so "
            "the hyperparameters give none. Pass rotation=, a number or another rule such as rules.adamw()."
        )
    _finite("rate", rule)
    if _bends(rule):
        rotation = equilibrium(rule, lr, weight_decay).rotation
        assert rotation is not None  # the sign hides the size of the gradient
        return rotation
    if isinstance(rule.scale, Polar):
        raise ValueError(f"rate({rule.title}): the rotation depends on the matrix's shape; see equilibrium(shape=).")
    return float(_closed(rule, _product("rate", lr, _taken(rule, lr, weight_decay))))


def rate_of(rule: Rule, lr: Any, weight_decay: Any) -> Any:
    """`rate` in its closed form, sqrt(2 D/tau), of numbers, arrays or tensors, none of which is looked at.

    Raises ValueError for a rule whose `rate` has no closed form.
    """
    by_gradient = rule.decay == "coupled" and not isinstance(rule.scale, Raw)
    if _bends(rule) or by_gradient or isinstance(rule.scale, Polar):
        raise ValueError(f"rate_of({rule.title}): this rotation is no closed form of lr and weight_decay.")
    return _closed(rule, _taken(rule, lr, weight_decay))


def _bends(rule: Rule) -> bool:
    """Whether the rotation at rest is another function of lr and weight decay than the root of their product."""
    return (isinstance(rule.scale, Sign) and not rule.scale.linearised) or rule.decay == "cautious"


def _taken(rule: Rule, lr: Any, weight_decay: Any) -> Any:
    """The share of w that the decay of a step takes off, coupled or not."""
    return lr * weight_decay if rule.decay == "coupled" else rule.shrink(lr, weight_decay)


def _closed(rule: Rule, decay: Any) -> Any:
    return (2 * decay_gain(rule) * decay / _tau(rule)) ** 0.5


def _product(call: str, lr: float, decay: float) -> float:
    if decay >= 1:
        raise ValueError(
            f"{call}(lr={lr:g}): one step would remove the whole weight, for its decay is {decay:g}. lr*weight_decay "
            "must be below 1."
        )
    return decay


def relaxation(rule: Rule, scale_invariant: bool = True) -> int:
    """The power p for which the distance of |w|^p from its equilibrium falls as exp(-p D t).

    2 where the length of the update does not depend on |w|; 4 for SGD on scale-invariant gradients, which grow
    as the norm falls; 3 for Adam+L2 there, whose decay grows with it.

    >>> from rotational import rules
    >>> relaxation(rules.adamw()), relaxation(rules.sgd()), relaxation(rules.adam_l2())
    (2, 4, 3)
    """
    return settled.relaxation(Setting(rule, scale_invariant=scale_invariant))


def _tau(rule: Rule) -> float:
    """Tau to leading order: Adam's second moment taken as exact, Lion's sign as linear if asked for."""
    if isinstance(rule.scale, Sign):
        # sign(c) ~ sqrt(2/pi) c/|c|: the growth counts the filter's sum, the length of u counts all of it.
        return 2 / math.pi / rule.memory.autocovariance()[0]
    return sum_of_correlations(rule.memory)


def decay_gain(rule: Rule) -> float:
    """D/(lr wd): coupled decay runs through the memory, and comes out multiplied by its sum.

    >>> from rotational import rules
    >>> round(decay_gain(rules.sgd(momentum=0.9)), 6), decay_gain(rules.adamw())
    (10.0, 1.0)
    """
    return rule.memory.total if rule.decay == "coupled" else 1.0
