"""How lengths scatter over neurons, Var|w|^2/W^2, and what that does to gradients and angles; an effect of order 1/C.

    eta   log |w|^2 of a neuron beside the mean      phi   the same of the memory's |m|^2      e   of a fresh |g|^2

|g|^2 scatters by 2/C, and beside that as 1/|w|^2 where gradients are scale-invariant. The memory keeps the share 1 - s
of what it has, and meets the fresh gradient at an angle that scatters by 4 s (1-s)/C; noise adds `grown` W to W:

    phi' = (1-s) phi + s (e - eta) + angle         eta' = (kept eta + grown phi')/(kept + grown)

As E 1/|w|^2 is (1 + Var eta)/W, so is E|g|^2 larger, and E|u|^2/|w|^2 by 1 + Var eta - Cov(eta, phi') again. What of
the memory runs along w does not turn it: what is beside it then is made of gradients that go as 1/|w|.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rotational.dynamics.setting import Number, Setting


class Scatter(NamedTuple):
    """Var eta, Cov(eta, phi) and Var phi; and the last Cov(eta, phi')."""

    lengths: Number
    both: Number
    memory: Number
    crossed: Number


def scattered(setting: Setting, now: Scatter, gain: Number, grown: Number, fresh: Number) -> Scatter:
    """The scatter after a step that changed W by the share `gain`, of which the noise of gradients made `grown`.

    `fresh` is the last gradient's share of |m|^2. Isotropic gradients have a radial part: |w|^2 is a walk of its own.
    """
    grown = (grown + abs(grown)) / 2
    v, both, u, _ = now
    if not setting.scale_invariant:
        return now._replace(lengths=v + grown * (4 * setting.small - 2 * v) / (1 + grown))
    old, after = 1 - fresh, 1 + gain
    kept = after - grown
    crossed = old * both - fresh * v
    u = old * (old * u - 2 * fresh * both) + fresh**2 * v + _noise(setting, fresh)
    v = (kept**2 * v + 2 * kept * grown * crossed + grown**2 * u) / after**2
    return Scatter(v, (kept * crossed + grown * u) / after, u, crossed)


def _noise(setting: Setting, fresh: Number) -> Number:
    """Var(s e + angle)."""
    return 2 * setting.small * fresh * (2 - fresh)


def at_rest(setting: Setting, grown: Number) -> Scatter:
    """The scatter at equilibrium, where noise adds the share `grown` to W in each step: what `scattered` leaves."""
    zero = 0.0 * grown
    if not setting.scatters:
        return Scatter(zero, zero, zero, zero)
    if not setting.scale_invariant:
        of_neurons = 2 * setting.small + 0.0 * setting.size  # and not of classes of their weights
        return Scatter(of_neurons, zero, zero, zero)
    grown = np.maximum(grown, 0.0)  # as in `scattered`
    fresh, kept = 1 - setting.rule.memory.decay**2, 1 - grown
    old = 1 - fresh
    turned = 1 - old * kept
    # all in units of Var phi
    v = grown * (1 + 2 * kept * old / turned) / (2 - grown + 2 * kept * fresh / turned)
    crossed = (old * grown - fresh * v) / turned
    both = kept * crossed + grown
    u = _noise(setting, fresh) / (1 - old**2 + 2 * fresh * old * both - fresh**2 * v)
    return Scatter(v * u, both * u, u, crossed * u)


def turned(setting: Setting, now: Scatter, radial: Number) -> Number:
    """What scatter adds to the relative square of the angle; `radial` is the share of |u|^2 that runs along w."""
    v = now.lengths
    if not setting.scale_invariant:
        return v
    return v - now.crossed * (1 - radial) + v * radial


def turning(setting: Setting, scatter: Number) -> Number:
    """What a neuron of finite size multiplies the RMS rotation by, `scatter` being `turned`.

    Isotropic: (C-1)/C of the update turns, and E 1/|w|^2 is larger than 1/W. The radial part of a sign is counted in
    `Correlation.spread`.
    """
    if not setting.scale_invariant:
        return ((1 - setting.small) / (1 - scatter)) ** 0.5
    if setting.scatters:
        return (1 + scatter) ** 0.5
    return (1 + setting.small * setting.law.spread) ** 0.5
