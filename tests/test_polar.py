"""The law of orthogonal factors against sampled matrices, closed forms, and exact moments of random matrices."""

import math

import numpy as np
import pytest
import torch

from rotational.polar import NEWTON_SCHULZ, Polarised, _wishart, polar

SHAPES = [(1, 1), (1, 5), (2, 2), (3, 7), (8, 8), (9, 64), (63, 63), (64, 64), (65, 65), (768, 3072), (4096, 11008)]


def f(law: Polarised, rho: float) -> float:
    return sum(c * rho**n for c, n in zip(law.coefficients, law.exponents, strict=True))


def factor(g: np.ndarray, steps: int | None) -> np.ndarray:
    """The orthogonal factor, by matrix products as torch has it, or by SVD."""
    if steps is None:
        u, _, v = np.linalg.svd(g, full_matrices=False)
        return u @ v
    a, b, c = NEWTON_SCHULZ
    x = g / np.sqrt((g**2).sum((-1, -2), keepdims=True))
    for _ in range(steps):
        gram = x @ x.swapaxes(-1, -2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@pytest.mark.parametrize("steps", [5, None])
@pytest.mark.parametrize(("rows", "columns", "pairs"), [(1, 4, 4000), (8, 8, 4000), (16, 64, 300), (48, 24, 300)])
def test_it_is_the_law_of_sampled_matrices(rows, columns, pairs, steps):
    rng, law = np.random.default_rng(0), polar(rows, columns, steps=steps)
    g, n = rng.standard_normal((2, pairs, rows, columns))
    first = factor(g, steps)
    power = (first**2).mean((-1, -2))
    assert power.mean() == pytest.approx(law.power, rel=0.005)
    for rho in (0.3, 0.7, 0.95):
        c = math.sqrt(1 - rho**2)
        # the second pair takes away the noise that is left at rho = 0
        both = factor(rho * g + c * n, steps) - factor(c * n - rho * g, steps)
        products = (first * both).mean((-1, -2)) / (2 * law.power)
        error = products.std(ddof=1) / math.sqrt(pairs)
        assert products.mean() == pytest.approx(f(law, rho), rel=0.006, abs=4 * error)


@pytest.mark.parametrize("steps", [0, 1, 5, None])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_f_is_a_short_odd_series_that_reaches_one(shape, steps):
    law = polar(*shape, steps=steps)
    assert math.isclose(sum(law.coefficients), 1, rel_tol=1e-12)
    assert min(law.coefficients) > 0
    assert all(n % 2 for n in law.exponents)
    assert law.exponents == tuple(sorted(set(law.exponents)))
    assert len(law.exponents) == len(law.coefficients) <= 8
    assert law == polar(*shape[::-1], steps=steps)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_power_of_an_exact_factor_is_one_over_the_longer_side(shape):
    assert polar(*shape, steps=None).power == pytest.approx(1 / max(shape), rel=1e-9)


def test_without_steps_it_is_division_by_the_norm():
    assert polar(20, 30, steps=0).power == pytest.approx(1 / 600, rel=1e-3)
    assert f(polar(20, 30, steps=0), 0.5) == pytest.approx(0.5, rel=2e-3)


def test_the_slope_of_large_square_matrices_is_that_of_the_quarter_circle():
    assert polar(10**6, 10**6, steps=None).coefficients[0] == pytest.approx((8 / (3 * math.pi)) ** 2, rel=1e-4)


@pytest.mark.parametrize("steps", [5, None])
@pytest.mark.parametrize("rows", [1, 8, 200])
def test_long_matrices_are_made_orthogonal_by_a_linear_map(rows, steps):
    law = polar(rows, 10**6, steps=steps)
    assert law.coefficients[0] == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("columns", [2, 3, 10])
def test_a_vector_is_divided_by_its_length(columns):
    law = polar(1, columns, steps=None)
    slope = 2 / columns * (math.gamma((columns + 1) / 2) / math.gamma(columns / 2)) ** 2
    assert law.coefficients[0] == pytest.approx(slope, rel=1e-4)
    assert polar(1, columns).coefficients == pytest.approx(law.coefficients, rel=1e-6)
    assert polar(1, columns).power * columns == pytest.approx(float(factor(np.ones((1, 1)), 5)[0, 0]) ** 2)


def test_a_number_has_a_sign():
    for rho in (0.3, 0.7, 0.9):
        assert f(polar(1, 1, steps=None), rho) == pytest.approx(2 / math.pi * math.asin(rho), rel=2e-3)


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 2), (3, 5), (8, 8), (15, 19), (64, 64), (63, 11008)])
def test_the_density_has_the_moments_of_real_matrices(n, m):
    law = _wishart(n, m)
    x = m * law.s**2
    assert law.weights @ x == pytest.approx(m, rel=1e-4)
    assert law.weights @ x**2 == pytest.approx(m * (n + m + 1), rel=1e-4)
    assert law.weights @ x**3 == pytest.approx(m * (n * n + m * m + 3 * n * m + 3 * (n + m) + 4), rel=1e-4)


def test_torch_in_half_precision_is_close():
    g = torch.randn(32, 64, 96, generator=torch.Generator().manual_seed(0))
    muon = pytest.importorskip("torch.optim._muon")
    low = [muon._zeropower_via_newtonschulz(x, NEWTON_SCHULZ, 5, 1e-7).double() for x in g]
    assert float(torch.stack(low).pow(2).mean()) == pytest.approx(polar(64, 96).power, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((0, 4), r"polar\(rows=0\): expected .* rows >= 1"),
        ((4, 2.5), r"polar\(columns=2.5\): expected a whole number"),
    ],
)
def test_a_shape_that_is_none_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        polar(*arguments)


def test_steps_below_zero_are_refused():
    with pytest.raises(ValueError, match=r"polar\(steps=-1\): expected .* steps >= 0"):
        polar(4, 4, steps=-1)
