"""Adamax's fading maximum, beside drawn gradients, its law at rest, and torch's own optimizer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rotational import forecast, rules
from rotational.correlation import fading_maximum, log_within
from rotational.dynamics import entry
from rotational.memory import ema
from rotational.scale import Max


def test_adamax_keeps_its_digits_where_v_may_be_tiny():
    x = np.exp(np.arange(-12, 3, 0.1, dtype=np.float32))[None]
    for apart in (0.0, 0.02):
        gradient = entry.Gradient.at(x, np.full((1, 1), apart, dtype=np.float32))
        others = np.minimum(np.log(x) - 1.5, 0.0)
        seen = gradient.over(others, np.array([x.size - 1]), since=entry.Since(0.1, 1.0, 0.6))
        assert 0 < seen.noise[0] < 1
        assert 0 < seen.mean[0] < seen.old_mean[0]
        assert seen.old_noise[0] > seen.noise[0]
        assert (gradient.square >= 0).all()
        assert (gradient.square <= gradient.within).all()  # E(g^2; |g| <= x)/x^2 is at most P(|g| <= x)


@pytest.mark.parametrize("beta", [0.9, 0.99, 0.999])
def test_cells_of_adamaxs_maximum_are_as_fine_as_its_law_at_rest(beta):
    """Whatever part of a cell the grid begins at."""
    inverse, share = fading_maximum(Max(beta=beta))
    for part in (0.0, 0.3, 0.6):
        y = np.exp(entry.CELL * (np.arange(100) - 60 + part))[None]
        gradient = entry.Gradient.at(y, np.zeros((1, 1)))
        found = gradient.over(log_within(y[0], beta) - np.log(gradient.within), np.array([99]))
        np.testing.assert_allclose([x[0] for x in found[:2]], [share, inverse], rtol=1.5e-3)


@pytest.mark.parametrize("apart", [0.3, 1.0, 5.0])
def test_adamaxs_maximum_of_gradients_with_a_mean_beside_drawn_ones(apart):
    beta, v, seen = 0.99, np.zeros(20_000), list[float]()
    rng = np.random.default_rng(0)
    for t in range(700):
        g = apart + rng.standard_normal(len(v))
        v = np.maximum(beta * v, np.abs(g))
        if t >= 500:
            seen.append(float(np.mean(g / v)) / apart)
    at_rest = fading_maximum(Max(beta=beta))[0]
    np.testing.assert_allclose(entry.steady(beta, np.array([apart])), at_rest / np.mean(seen), rtol=5e-3)


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.98])
@pytest.mark.parametrize("apart", [0.3, 1.0, 3.0])
def test_a_mean_in_the_memory_beside_drawn_gradients(beta, apart):
    """v has faded since: as if it had not, half of it was left out at a b2 of 0.5."""
    v, memory = np.zeros(20_000), np.zeros(20_000)
    seen, rng = list[float](), np.random.default_rng(0)
    for t in range(700):
        z = rng.standard_normal(len(v) // 2)
        g = apart + np.concatenate([z, -z])
        v, memory = np.maximum(beta * v, np.abs(g)), 0.9 * memory + 0.1 * g
        if t >= 400:
            seen.append(float(np.mean(memory / v)) / apart)
    found = fading_maximum(Max(beta=beta))[0] / entry.steady(beta, np.array([apart]))
    found = found * entry.mean_since(beta, ema(0.9), np.array([apart]))
    np.testing.assert_allclose(found, np.mean(seen), rtol=5e-3)


def adamax_by_torch(betas, *, lr, weight_decay, steps, norm, gradient_norm, scale_invariant=True, neurons=48, size=64):
    """RMS norm after each step of torch's own Adamax."""
    torch.manual_seed(0)
    w = torch.randn(neurons, size).double()
    w = torch.nn.Parameter(w * norm / w.norm(dim=1, keepdim=True))
    opt = torch.optim.Adamax([w], lr=lr, betas=betas, eps=1e-30, weight_decay=weight_decay, foreach=False)
    norms = []
    for _ in range(steps):
        g = torch.randn(neurons, size).double() * (gradient_norm / math.sqrt(size))
        if scale_invariant:
            old = w.detach()
            square = old.square().sum(1, keepdim=True)
            g = (g - (g * old).sum(1, keepdim=True) / square * old) / square.sqrt() * math.sqrt(size / (size - 1))
        w.grad = g
        opt.step()
        norms.append(float(w.detach().square().sum(1).mean().sqrt()))
    return np.array(norms)


@pytest.mark.parametrize(
    ("betas", "lr", "steps", "within"),
    [
        ((0.9, 0.95), 1e-3, 260, 0.01),
        ((0.9, 0.95), 3e-3, 1200, 0.015),
        ((0.9, 0.9), 1e-3, 260, 0.01),
        ((0.9, 0.5), 1e-3, 260, 0.02),
    ],
)
def test_adamax_of_a_short_maximum_beside_torch(betas, lr, steps, within):
    told = {"lr": lr, "weight_decay": 0.1, "steps": steps, "norm": 1.0, "gradient_norm": 0.3}
    found = forecast(rules.adamax(betas), size=64, **told)
    assert np.abs(found.norm / adamax_by_torch(betas, neurons=96, **told) - 1).max() < within


@pytest.mark.parametrize(("gradient_norm", "within"), [(1e-3, 0.07), (1e-6, 0.12)])
def test_adamax_of_gradients_far_below_the_decay_beside_torch(gradient_norm, within):
    """Once v was beyond a grid around the noise: of 1e-6 the norm came out nine times too large."""
    told = {"lr": 1e-3, "weight_decay": 0.1, "steps": 260, "norm": 1.0, "gradient_norm": gradient_norm}
    found = forecast(rules.adamax((0.9, 0.99)), size=64, **told)
    assert np.abs(found.norm / adamax_by_torch((0.9, 0.99), neurons=192, **told) - 1).max() < within


@pytest.mark.parametrize(("gradient_norm", "norm", "scale_invariant"), [(1.0, 10.0, False), (0.3, 6.0, True)])
def test_blocks_of_adamax_where_decay_outweighs_the_gradient(gradient_norm, norm, scale_invariant):
    """Beside torch's own optimizer: blocks began where single steps end, and were off by up to 110%."""
    told = {"lr": 1e-3, "weight_decay": 0.1 if scale_invariant else 0.3, "steps": 6400, "norm": norm}
    told |= {"gradient_norm": gradient_norm, "scale_invariant": scale_invariant}
    found = forecast(rules.adamax((0.9, 0.99)), size=64, **told)
    off = np.abs(found.norm / adamax_by_torch((0.9, 0.99), **told) - 1)
    assert off.max() < (0.025 if scale_invariant else 0.06)
    assert any("outweighs" in note for note in found.notes)
