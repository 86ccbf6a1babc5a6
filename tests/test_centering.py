"""What centred RMSprop takes off its v: beside sums over impulse responses, and beside weights that were drawn."""

from __future__ import annotations

import numpy as np
import pytest

from rotational import equilibrium, rules, walk
from rotational.dynamics import centering
from rotational.dynamics.setting import Setting

BETA, SHARES = 0.99, (1e-4, 1e-2, 0.3, 0.9)


def responses(share, decay, steps, weight, noise):
    """The running mean and the next weight, step by step, after `weight` at first and `noise` in the first gradient."""
    w, e, found = weight, 0.0, []
    for t in range(steps):
        g = noise if t == 0 else 0.0
        e = BETA * e + (1 - BETA) * (g + decay * w)
        w = (1 - share) * w - share / decay * g
        found.append((e, w))
    return np.array(found).T


@pytest.mark.parametrize("share", SHARES)
def test_at_rest_it_is_the_sum_over_impulse_responses(share):
    decay, q, steps = 0.7, 1.3, 200_000 if share < 1e-3 else 5000
    e, w = responses(share, decay, steps, 0.0, 1.0)
    inside = decay**2 * q * np.sum(w**2)
    square, cross = centering.at_rest(BETA, q, inside, share)
    np.testing.assert_allclose(square, q * np.sum(e**2), rtol=1e-6)
    np.testing.assert_allclose(cross, decay * q * np.sum(e * w), rtol=1e-6)


@pytest.mark.parametrize("share", SHARES)
def test_step_by_step_it_is_so_too_from_weights_of_any_size(share):
    decay, q, steps, start = 0.7, 1.3, 300, 5.0
    noise, decays = responses(share, decay, steps, 0.0, 1.0), responses(share, decay, steps, start, 0.0)
    square = cross = 0.0
    for t in range(steps):
        e, w = decays[:, t - 1] if t else (0.0, start)
        inside = decay**2 * (w**2 + q * np.sum(noise[1, :t] ** 2))
        square = centering.mean_square(BETA, q, inside, cross, square)
        cross = centering.crossed(BETA, q, inside, share, cross)
        e, w = decays[:, t]
        np.testing.assert_allclose(square, e**2 + q * np.sum(noise[0, : t + 1] ** 2), rtol=1e-9)
        np.testing.assert_allclose(cross, decay * (e * w + q * np.sum(np.prod(noise[:, : t + 1], axis=0))), rtol=1e-9)


@pytest.mark.parametrize("weight_decay", [0.01, 0.1, 1.0])
def test_norms_at_rest_are_those_of_the_walk(weight_decay):
    """Of half-lives from a step to many times the memory of the mean."""
    rule, given = rules.rmsprop(momentum=0.9, centered=True), {"lr": 1e-3, "weight_decay": weight_decay}
    given |= {"size": 256, "gradient_norm": 1.0, "scale_invariant": False}
    rest = equilibrium(rule, **given)
    burn = 200 + int(4 * rest.half_life)
    trace = walk(rule, **given, norm=rest.norm, neurons=16, steps=burn + int(80 * rest.half_life) + 800, seed=2)
    assert trace.rms("norm", after=burn) == pytest.approx(rest.norm, rel=0.01)
    assert trace.rms("rotation", after=burn) == pytest.approx(rest.rotation, rel=0.01)


def test_what_is_divided_by_is_one_number_for_each_neuron_by_itself():
    setting = Setting(rules.rmsprop(momentum=0.9, centered=True), size=64.0, eps=1e-8)
    draw = np.random.default_rng(0)
    q, inside, lr = (10 ** draw.uniform(-4, 4, 300) for _ in range(3))
    found = centering.second_at_rest(setting, BETA, q, lr, 1.0, inside)
    share = centering.share(setting, found, lr, 1.0)
    np.testing.assert_allclose(q + inside - centering.at_rest(BETA, q, inside, share)[0], found, rtol=1e-6)
    alone = [centering.second_at_rest(setting, BETA, *of, 1.0, i) for *of, i in zip(q, lr, inside, strict=True)]
    np.testing.assert_array_equal(found, alone)
