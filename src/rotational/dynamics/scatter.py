"""How lengths scatter over neurons, Var|w|^2/W^2, and what that does to the rotation; an effect of order 1/C."""

from __future__ import annotations

from rotational.dynamics.setting import Number, Setting, at_least


def scattered(setting: Setting, scatter: Number, gain: Number, delta: Number) -> Number:
    """The scatter after a step that changed W by the share `gain`, of which decay took about 2 `delta`.

    Isotropic gradients have a radial part, and |w|^2 is a walk of its own. Scale-invariant ones do not: |w|^2 grows
    by the length of the update alone, which scatters by 2/C, and stays what it is for as long as the memory lasts, or
    until the neuron's own balance (long ones get small gradients) has taken it back. That duration is fitted to
    simulations, not derived.
    """
    taken = _taken(setting, delta)
    grown = gain + taken
    grown = (grown + abs(grown)) / 2
    if not setting.scale_invariant:
        return scatter + grown * (4 * setting.small - 2 * scatter) / (1 + grown)
    steers = 1 - taken - grown / (1 + grown)
    after = (scatter * steers**2 + 2 * setting.small * grown**2 * _lasts(setting, grown)) / (1 + gain) ** 2
    # No more than one gradient scatters; with memory |w| follows a few of them (0.55 is fitted).
    return -at_least(-after, -2 * setting.small * (1 - 0.55 * setting.rule.memory.decay))


def _lasts(setting: Setting, grown: Number) -> Number:
    decay = setting.rule.memory.decay
    return 1 / (1 - decay + decay * 2 * grown / (1 + 2 * grown))


def _taken(setting: Setting, delta: Number) -> Number:
    """What decay takes off |w|^2, no faster than the memory turns over."""
    taken, decay = delta * (2 - delta), setting.rule.memory.decay
    return taken / (1 + decay * taken / (1 - decay)) if setting.scale_invariant else taken


def at_rest(setting: Setting, delta: Number) -> Number:
    """The scatter at equilibrium, where each step takes `delta` off w."""
    if not setting.scatters:
        return 0.0 * delta
    if not setting.scale_invariant:
        return 2 * setting.small + 0.0 * delta
    grown = _taken(setting, delta)
    steers = 1 - grown - grown / (1 + grown)
    return 2 * setting.small * grown**2 * _lasts(setting, grown) / (1 - steers**2)


def turning(setting: Setting, scatter: Number) -> Number:
    """What a neuron of finite size multiplies the RMS rotation by.

    Isotropic: (C-1)/C of the update turns, and E 1/|w|^2 is larger than 1/W. Scale-invariant without a division: the
    square of the angle goes as 1/|w|^4. The radial part of a sign is counted in `Correlation.spread`.
    """
    if not setting.scale_invariant:
        return ((1 - setting.small) / (1 - scatter)) ** 0.5
    if setting.scatters:
        return (1 - scatter) ** -1.5
    return (1 + setting.small * setting.law.spread) ** 0.5
