"""Two corrections of the mean field: Adam's v while it holds few squares, and signs of gradients orthogonal to w."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rotational import equilibrium, forecast, rules
from rotational.correlation import correlation
from rotational.dynamics.filling import POINTS, Filling, half_integral
from rotational.memory import NONE, Filter
from rotational.rule import Rule
from rotational.scale import Rms

ALONE = Filter(1.0, 0.0, 0.0)


@pytest.mark.parametrize("a", [1.5, 2.0, 3.0])
def test_the_half_integral_of_a_power_is_that_of_a_beta_function(a: float) -> None:
    """int_0^oo r^(-1/2) (1 + s + r)^-a dr = B(1/2, a - 1/2) (1 + s)^(1/2 - a)."""
    s = np.exp(POINTS)
    found = s**0.5 * (half_integral() @ (1 + s) ** -a)
    expected = math.gamma(a - 0.5) / math.gamma(a) * (1 + s) ** (0.5 - a)
    np.testing.assert_allclose(found, expected, atol=1e-3 * expected[0])


@pytest.mark.parametrize("second", [0.01, 0.3, 1.0, 20.0])
def test_of_two_normals_the_share_of_one_is_its_share_of_lengths(second: float) -> None:
    """E b z2^2/(a z1^2 + b z2^2) = sqrt(b)/(sqrt(a) + sqrt(b))."""
    filling = Filling(NONE.decay, 0.999, 3.0, 1.0)
    assert filling.take(ALONE, 1.0)[0] * 1e-3 == pytest.approx(1.0, abs=1e-3)
    share = filling.take(ALONE, second)[0] * 1e-3
    a, b = math.sqrt(0.999), math.sqrt(second)
    assert share == pytest.approx(b / (a + b), rel=2e-3)


@pytest.mark.parametrize("kurtosis", [1.5, 3.0, 5.0])
@pytest.mark.parametrize("rule", [rules.adamw(), rules.nadamw()], ids=lambda rule: rule.name)
def test_first_updates_are_those_of_sampled_gradients(rule: Rule, kurtosis: float) -> None:
    """Gradients that shrink tenfold at once: updates, and what of them is in w, entry by entry."""
    assert isinstance(rule.scale, Rms)
    entries, rng, memory, beta = 400_000, np.random.default_rng(0), rule.memory, rule.scale.beta
    filling = Filling(memory.decay, beta, kurtosis, 9.0)
    m = v = w = np.zeros(entries)
    for size, now in zip([3.0, 0.3, 0.4, 0.3, 0.3, 0.2, 0.3, 0.3], memory.coefficients(), strict=False):
        # squares that are gamma variables of mean 1; of a kurtosis of 3, squares of normals
        squares = rng.gamma(1 / (kurtosis - 1), kurtosis - 1, entries)
        g = size * np.sqrt(squares) * rng.choice([-1.0, 1.0], entries)
        v = beta * v + (1 - beta) * g**2
        c, m = now.new * g + now.old * m, memory.decay * m + now.inflow * g
        u = c / np.sqrt(v)
        power, cross, left = filling.take(now, size**2)
        assert power == pytest.approx(np.mean(u**2), rel=0.01)
        assert cross == pytest.approx(np.mean(w * u), rel=0.01, abs=1e-9)
        assert left == pytest.approx(np.mean(m * u), rel=0.01)
        filling.leave(0.9, 0.1)
        w = 0.9 * w - 0.1 * u


@pytest.mark.parametrize("rule", [rules.lion(), rules.lion((0.95, 0.98)), rules.signum()])
@pytest.mark.parametrize("d", [1.0, 0.99, 0.9])
def test_the_push_of_remembered_signs_is_its_double_sum(rule: Rule, d: float) -> None:
    """(2/pi) sum_j h_j^2/r_0 <w_t, w_{t-j}>/W sum_{k>j} d^(k-j-1) rho_k, where rho_k/sqrt(1 - rho_k^2) is as rho_k."""
    memory, law = rule.memory, correlation(rule)
    r0, r1 = memory.autocovariance()
    lags = np.arange(1, 4000)
    rho = r1 / r0 * memory.decay ** (lags - 1)
    response = np.concatenate(([memory.new], memory.old * memory.inflow * memory.decay ** (lags - 1))) ** 2 / r0
    agree = 2 / math.pi * np.arcsin(rho)  # E<u_t, u_{t-k}>
    tail = float(np.sum(d ** (lags - 1) * agree))
    at_rest = math.inf if d == 1 else (1 + 2 * d * tail) / (1 - d**2)
    # <w_t, w_{t+j}>, w being the sum of updates, of which the memory's own pole is nearly all
    near, last, along = [1.0], 1.0, tail / at_rest
    for j in range(len(lags)):
        last = d * last + along * memory.decay**j
        near.append(last)

    def double(x: np.ndarray) -> float:
        inner, sums = 0.0, np.zeros(len(lags) + 1)
        for j in reversed(range(len(lags))):
            inner = x[j] + d * inner
            sums[j] = inner
        return 2 / math.pi * float(np.sum(response * np.array(near) * sums))

    linear, whole = double(rho), double(rho / np.sqrt(1 - rho**2))
    assert law.lifted(memory, d) == pytest.approx(whole if d == 1 else linear * law.lift * math.pi / 2, rel=5e-3)
    assert linear < whole


def test_decay_that_takes_most_of_the_weights_in_a_step_leaves_some() -> None:
    f = forecast(rules.adamw(), lr=1e-3, weight_decay=820.0, steps=300, norm=1.0, size=64)
    assert np.all(f.norm > 0)
    assert f.norm[-1] == pytest.approx(equilibrium(rules.adamw(), 1e-3, 820.0, size=64).norm, rel=0.1)


def test_neurons_leave_the_first_steps_each_by_itself() -> None:
    norms = np.array([0.05, 1.0, 20.0])
    together = forecast(rules.nadamw(), lr=1e-2, weight_decay=0.1, steps=600, norm=norms, size=64)
    for i, norm in enumerate(norms):
        alone = forecast(rules.nadamw(), lr=1e-2, weight_decay=0.1, steps=600, norm=float(norm), size=64)
        np.testing.assert_allclose(together.neuron(i).norm, alone.norm, rtol=1e-9)
