"""The simulator's whole steps, decay included, against torch.optim and against a few lines of our own.

The rule is the one that `recognise` reads off torch's optimizer, so a wrong reading shows here too.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rotational import rules, walk
from rotational.optim.recognise import recognise

STEPS, SHAPE, SEED, DECAY = 30, (6, 10), 3, 0.3
LRS = 0.05 * np.cos(np.linspace(0, 1.4, STEPS))
SERIES = ("norm", "rotation", "update")
T = torch.optim

# class, options, tolerance. torch keeps NAdam's product of momenta in float32, and adds RAdam's eps at another place.
TORCH = {
    "SGD, maximize": (T.SGD, {"momentum": 0.9, "dampening": 0.3, "maximize": True}, 1e-9),
    "SGD, Nesterov": (T.SGD, {"momentum": 0.9, "nesterov": True, "foreach": True}, 1e-9),
    "Adam": (T.Adam, {"betas": (0.8, 0.95)}, 1e-9),
    "AdamW": (T.AdamW, {"betas": (0.8, 0.95), "fused": True}, 1e-9),
    "NAdam": (T.NAdam, {}, 1e-6),
    "NAdam, decoupled": (T.NAdam, {"decoupled_weight_decay": True}, 1e-6),
    "NAdam, soon warm": (T.NAdam, {"decoupled_weight_decay": True, "momentum_decay": 3.0}, 1e-6),
    "RAdam": (T.RAdam, {"betas": (0.9, 0.9)}, 1e-6),
    "RAdam, decoupled": (T.RAdam, {"decoupled_weight_decay": True}, 1e-6),
    "Adamax": (T.Adamax, {"betas": (0.8, 0.9)}, 1e-9),
    "RMSprop": (T.RMSprop, {"alpha": 0.9}, 1e-9),
    "RMSprop, all options": (T.RMSprop, {"alpha": 0.9, "momentum": 0.9, "centered": True}, 1e-9),
    "Muon": (T.Muon, {}, 1e-9),
    "Muon, match_rms_adamw": (T.Muon, {"adjust_lr_fn": "match_rms_adamw", "nesterov": False}, 1e-9),
    "Muon, three iterations": (T.Muon, {"ns_steps": 3, "momentum": 0.8}, 1e-9),
}
UNRECTIFIED = 6
"""The first steps, which torch's RAdam takes along the moving average itself (5 at beta = 0.999): here without lr."""


def gradients(shape=SHAPE):
    """Where the walk starts, and the noise that it draws."""
    rng = np.random.default_rng(SEED)
    w = rng.standard_normal(shape)
    yield w / np.linalg.norm(w, axis=1, keepdims=True)
    while True:
        yield rng.standard_normal(shape) / np.sqrt(shape[1])


def walked(rule, lrs=LRS, shape=SHAPE, **options):
    trace = walk(
        rule, lr=lrs, weight_decay=DECAY, neurons=shape[0], size=shape[1], steps=STEPS, seed=SEED,
        scale_invariant=False, **options,
    )  # fmt: skip
    return {name: getattr(trace, name) for name in SERIES}


def measured(weights):
    """The same of weights [T + 1, neurons, size] that others stepped."""
    w = np.stack(weights)
    length = np.linalg.norm(w, axis=2)
    unit = w / length[..., None]
    return {
        "norm": length[1:],
        "rotation": 2 * np.arcsin(np.linalg.norm(unit[1:] - unit[:-1], axis=2) / 2),
        "update": np.linalg.norm(w[1:] - w[:-1], axis=2),
    }


def by_torch(make, options, lrs, shape):
    noise = gradients(shape)
    w = torch.nn.Parameter(torch.from_numpy(next(noise)))
    optimizer = make([w], weight_decay=DECAY, **({"lr": 0.0} | options))
    weights, sign = [w.detach().numpy().copy()], -1 if options.get("maximize") else 1
    for lr in lrs:
        optimizer.param_groups[0]["lr"] = float(lr)
        w.grad = torch.from_numpy(sign * next(noise))
        optimizer.step()
        weights.append(w.detach().numpy().copy())
    return recognise(optimizer)[0], measured(weights)


def assert_alike(ours, theirs, tolerance):
    for name in SERIES:
        # relative to the series' own size: a rotation near 0 has no relative accuracy
        assert np.abs(ours[name] - theirs[name]).max() <= tolerance * theirs[name].max(), name


@pytest.mark.parametrize("shape", [SHAPE, SHAPE[::-1]], ids=["wide", "tall"])
@pytest.mark.parametrize("name", TORCH)
def test_the_rule_that_is_recognised_steps_as_torch_does(name, shape, monkeypatch):
    # torch's Newton-Schulz, but for its rounding: below it is taken with that
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    make, options, tolerance = TORCH[name]
    lrs = LRS.copy()
    if make is T.RAdam:
        lrs[:UNRECTIFIED] = 0.0
    rule, theirs = by_torch(make, options, lrs, shape)
    assert_alike(walked(rule, lrs, shape), theirs, tolerance)


@pytest.mark.parametrize("shape", [SHAPE, SHAPE[::-1]], ids=["wide", "tall"])
@pytest.mark.parametrize("name", [name for name in TORCH if name.startswith("Muon")])
def test_muon_in_bfloat16_steps_alike_to_its_rounding(name, shape):
    make, options, _ = TORCH[name]
    rule, theirs = by_torch(make, options, LRS, shape)
    ours = walked(rule, LRS, shape)
    assert_alike(ours, theirs, 0.05)
    with pytest.raises(AssertionError):  # it is rounded: the patch above does something
        assert_alike(ours, theirs, 1e-9)


def test_a_look_ahead_that_is_not_warmed_up_stays_at_half():
    """momentum_decay=0 in torch; the very first steps divide by another bias."""
    make, options = T.NAdam, {"decoupled_weight_decay": True, "momentum_decay": 0.0, "betas": (0.8, 0.9)}
    lrs = np.where(np.arange(STEPS) < 20, 0.0, 0.05)
    rule, theirs = by_torch(make, options, lrs, SHAPE)
    assert rule.memory != rules.nadamw((0.8, 0.9)).memory
    assert_alike(walked(rule, lrs), theirs, 0.01)


# Rules and decays that torch does not have, in lines of our own -----------------------------------------------


def by_hand(direction, decay):
    noise = gradients()
    w, state, weights = next(noise), {}, []
    weights.append(w)
    for t, lr in enumerate(LRS, start=1):
        u = direction(state, next(noise), t)
        w = w - decay(lr, w, u) * w - lr * u
        weights.append(w)
    return measured(weights)


def signum(state, g, t):
    state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
    return np.sign(state["m"])


def lion(state, g, t):
    u = np.sign(0.9 * state.get("m", 0.0) + 0.1 * g)
    state["m"] = 0.99 * state.get("m", 0.0) + 0.01 * g
    return u


def adam(state, g, t):
    state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
    state["v"] = 0.95 * state.get("v", 0.0) + 0.05 * g**2
    return state["m"] / (1 - 0.9**t) / (np.sqrt(state["v"] / (1 - 0.95**t)) + 1e-8)


def laprop(state, g, t):
    state["v"] = 0.95 * state.get("v", 0.0) + 0.05 * g**2
    scaled = g / (np.sqrt(state["v"] / (1 - 0.95**t)) + 1e-8)
    state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * scaled
    return state["m"] / (1 - 0.9**t)


DIRECTIONS = {
    "signum": (signum, rules.signum),
    "lion": (lion, rules.lion),
    "adamw": (adam, lambda **decay: rules.adamw((0.9, 0.95), **decay)),
    "laprop": (laprop, lambda **decay: rules.laprop((0.9, 0.95), **decay)),
}
DECAYS = {
    "decoupled": lambda lr, w, u: lr * DECAY,
    "independent": lambda lr, w, u: DECAY,
    "adamc": lambda lr, w, u: lr**2 / LRS.max() * DECAY,
    "cautious": lambda lr, w, u: lr * DECAY * (u * w >= 0),
}


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("name", DIRECTIONS)
def test_rules_and_decays_step_as_written_out(name, decay):
    direction, make = DIRECTIONS[name]
    assert_alike(walked(make(decay=decay)), by_hand(direction, DECAYS[decay]), 1e-9)


def test_the_comparison_can_fail():
    with pytest.raises(AssertionError, match="norm"):
        assert_alike(walked(rules.signum()), by_hand(signum, DECAYS["adamc"]), 1e-3)
    with pytest.raises(AssertionError):
        assert_alike(walked(rules.adamw((0.9, 0.95))), by_hand(laprop, DECAYS["decoupled"]), 1e-2)
