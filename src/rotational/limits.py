"""Where a forecast is known to be off, and by how much.

Each sentence tells what the simulator measured beside the forecast (docs/theory.md, tests/test_forecast_walk.py); a
result says the ones that its inputs reach.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rotational.dynamics.path import Path
from rotational.dynamics.setting import Setting
from rotational.dynamics.settled import rest
from rotational.dynamics.told import Told
from rotational.scale import Max, Polar, Raw, Rms, Sign

FIRST = 5
"""Steps whose lr tells whether a run begins at once or warms up."""


class _Run(NamedTuple):
    """What limits are read from, an entry for each neuron.

    jump      length of the first updates over that of the weights
    apart     initial norm over that at the equilibrium of the highest lr; NaN where there is none
    taken     share of w that decay takes off in a step at the highest lr
    heavy     that over what the memory forgets in a step
    """

    setting: Setting
    jump: np.ndarray
    apart: np.ndarray
    heavy: np.ndarray
    taken: np.ndarray


def notes(setting: Setting, told: Told, square: np.ndarray, path: Path) -> list[str]:
    """What is to be said of a run that begins at E|w|^2 = `square`, one sentence for each limit that it reaches."""
    run, found = _read(setting, told, square), list[str]()
    if path.outweighed.any():
        found.append(_outweighed(setting, path))
    for sentence, mask in (_first_steps(run), _far(run), _at_rest(run), _mean(run)):
        reached = np.broadcast_to(mask, square.shape)
        if sentence and reached.any():
            some = "" if reached.all() else f" ({np.count_nonzero(reached)} of {len(square)} neurons)"
            found.append(f"{sentence}{some}.")
    return found


def _read(setting: Setting, told: Told, square: np.ndarray) -> _Run:
    rule, scale = setting.rule, setting.rule.scale
    with np.errstate(all="ignore"):
        push = told.at(told.highest)
        settled, law = rest(setting, push)
        apart = np.where(np.isfinite(settled) & (settled > 0), np.sqrt(square / settled), np.nan)
        # an update of entries of size one; RMSprop's first are larger, for v has only begun to fill
        unfilled = (1 - scale.beta) ** -0.5 if isinstance(scale, Rms) and not scale.unbiased else 1.0
        lr = np.max([told.lr_at(t) for t in range(min(FIRST, told.steps))], axis=0)
        jump = lr * unfilled * np.sqrt(setting.size / square)
        taken = np.nan_to_num(np.broadcast_to(law.delta, square.shape) + 0.0)
    return _Run(setting, jump, apart, taken / (1 - rule.memory.decay), taken)


Limit = tuple[str, np.ndarray | bool]
"""A sentence without its full stop, and the neurons that it is about."""


def _outweighed(setting: Setting, path: Path) -> str:
    """Decay that outweighs the gradient, and how far off that is: from norms ten times too large."""
    last, scale = int(path.step[path.outweighed.any(axis=1)].max()), setting.rule.scale
    off, where = "by up to 15%", "From norms ten times too large"
    if isinstance(scale, Max):
        with np.errstate(all="ignore"):
            heavy = float(np.nanmax(path.decay * np.sqrt(path.square / setting.power(path.square)), initial=0.0))
        off = "by up to 20%, the norm by 7%"
        if heavy > 30:
            off, where = "by up to 30%, the norm by 6%", "Where it is a hundred times as large"
        if heavy > 300:
            off, where = "by up to 60%, the norm by 10%", "Where it is a thousand times as large or more"
    elif isinstance(scale, Sign):
        off = "by up to 27%, the norm by 7%"
    elif isinstance(scale, Rms) and scale.centered:
        off = "by up to 20%"
    return (
        f"Up to step {last:,} decay outweighs the gradient: weights shrink by a fixed amount rather than in "
        f"proportion, which is followed class by class of their initial size. {where} rotation was found off {off}, "
        f"then and until the norm has settled."
    )


def _first_steps(run: _Run) -> Limit:
    """Weights that are thrown far at once."""
    setting, scale = run.setting, run.setting.rule.scale
    if not setting.scale_invariant:
        return "", False
    if isinstance(scale, Rms) and not scale.unbiased:
        return (
            "RMSprop's first steps, not corrected for bias, are longer than the weights: rotation was found off by up "
            "to 150% in the first 100 steps and 5% later, the norm by 7%; a warm-up avoids it",
            run.jump > 2.0,
        )
    if isinstance(scale, Rms) and scale.rectified:
        return (
            "RAdam's first steps, before its factor is defined (5 at a b2 of 0.99), are left out, and torch takes them "
            "along the momentum itself: where lr times the gradient was a quarter of the weights at first, their norm "
            "was found 25% larger after them and 7% later; from norms ten times too small, without warm-up, the norm "
            "forecast for step 100 was 35% too small, with L2 58%",
            True,
        )
    if isinstance(scale, Max):
        return (
            "Without warm-up weights outgrow their first gradients, whose maximum Adamax still remembers: in the first "
            "100 steps rotation was found off by up to 120%, the norm by 5%",
            run.jump > 0.7,
        )
    return "", False


def _far(run: _Run) -> Limit:
    """On the way from afar, at a decay that works as fast as a memory forgets."""
    rule = run.setting.rule
    signs = isinstance(rule.scale, Sign)
    with np.errstate(invalid="ignore"):
        below, above = run.apart < 0.5, run.apart > 3
    if rule.decay == "cautious" and signs:
        return (
            "A cautious decay is followed as if weights and updates were normal and linear: with a memory as long as "
            "the decay's, rotation was found off by up to 15% and the norm by 6% until the norm settles",
            (below | above) & (run.heavy > 0.1),
        )
    if signs and rule.decay != "coupled":
        return (
            "With a memory as long as the decay's, from a norm far too small, rotation and norm were found off by up "
            "to 5% until the norm settles",
            below & (run.heavy > 1),
        )
    if rule.decay == "cautious":
        return (
            "A cautious decay is followed as if weights and updates were normal and linear: from norms ten times too "
            "large, rotation was found off by up to 4% until the norm settles",
            above & (run.taken > 2e-3),
        )
    if isinstance(rule.scale, Rms) and rule.decay == "coupled":
        return (
            "From a norm far too small, at so strong an L2, rotation and norm were found off by up to 3.5%",
            below & (run.taken > 5e-3) & ~(run.jump > 2.0),
        )
    return "", False


def _at_rest(run: _Run) -> Limit:
    """At equilibrium, where some laws are less exact than the others."""
    scale, shape = run.setting.rule.scale, run.setting.shape
    if isinstance(scale, Polar) and shape is not None:
        return (
            "Newton-Schulz steps make singular values of one half smaller the larger they are, so that of four rows or "
            "columns some outgrow the others: the norm was found up to 10% larger and rotation 4% smaller",
            scale.steps == 5 and min(shape) == 4,
        )
    if isinstance(scale, Sign) and run.setting.coupled:
        return (
            "The sign of a gradient with its decay is followed as a linear rule: at rest, where decay takes 1, 3 "
            "and 11% of w in a step, rotation was found 1, 2 and 8% smaller and the norm 1, 2 and 9% larger",
            (run.taken > 0.01) & run.setting.scale_invariant,
        )
    if isinstance(scale, Rms) and scale.first and run.setting.rule.memory.decay > 0:
        return (
            "A second moment of few steps counts its own gradient much: at equilibrium, at a b2 of 0.8, 0.7 and 0.5, "
            "the norm was found 3%, 7% and 13% larger",
            scale.beta < 0.85,
        )
    if isinstance(scale, Rms):
        return (
            "A second moment of few steps counts its own gradient much: at equilibrium, at a b2 of 0.7 and 0.5, the "
            "norm was found 1% and 3.5% larger, at a b1 of 0.5 beside it 6%, and rotation up to 5%",
            scale.beta < 0.75,
        )
    if isinstance(scale, Max) and run.setting.rule.memory.decay > 0:
        if scale.beta < 0.8:
            return (
                "Adamax's updates are taken to share what they remember as under one maximum: at equilibrium, at a b2 "
                "of 0.7, 0.5 and 0.2, rotation was found 3%, 13% and 49% larger and the norm 3%, 13% and 30% smaller",
                True,
            )
        return (
            "Adamax's updates are taken to share what they remember as under one maximum: at equilibrium, at a b2 of "
            "0.98 and 0.95, rotation was found 1% and 1.5% smaller and the norm as much larger",
            scale.beta < 0.985,
        )
    return "", False


MEAN = "Gradients have a mean here, of whose course only what is linear is followed: at drift 0.1, 0.3 and 0.5"


def _mean(run: _Run) -> Limit:
    """Gradients with a mean: those kept orthogonal to the weights, and isotropic ones, of which most are within 5%."""
    setting, drift, scale = run.setting, run.setting.drift, run.setting.rule.scale
    if not setting.scale_invariant:
        if isinstance(scale, Sign) and setting.coupled:
            return f"{MEAN} signs with L2 were found off by up to 2%, 13% and 28% in the first 100 steps", drift > 0.15
        return f"{MEAN} Adamax was found off by up to 4%, 5% and 11%", isinstance(scale, Max) and drift > 0.3
    if isinstance(scale, Raw):
        return "", False
    if isinstance(scale, Polar):
        return f"{MEAN} Muon was found off by up to 7%, 31% and 47% until the norm settles", drift > 0.05
    if isinstance(scale, Sign):
        return f"{MEAN} signs were found off by up to 7%, 20% and 32% until the norm settles", drift > 0.05
    return f"{MEAN} Adam's kinds were found off by up to 2%, 6% and 16%", drift > 0.15
