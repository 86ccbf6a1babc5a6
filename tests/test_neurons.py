"""Laws of `Neurons` over every layout, array library and dtype."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layouts import LAYOUTS, members
from rotational.neurons import ROWS, WHOLE, Neurons

every_layout = pytest.mark.parametrize(("neurons", "shape"), LAYOUTS.values(), ids=LAYOUTS)
METHODS = ("view", "matrix", "sum", "mean", "norm", "center")
PAIRS = ("dot", "angle")


def weights(shape, dtype=np.float64, seed=0):
    """Two tensors whose entries have a mean, so that centring has something to do."""
    rng = np.random.default_rng(seed)
    return tuple((rng.normal(size=shape) + 0.3).astype(dtype) for _ in "wv")


def true_angle(w, v):
    """Kahan's formula on unit vectors in double precision: 2 atan2(|a-b|, |a+b|)."""
    a, b = (np.asarray(x, dtype=np.float64) for x in (w, v))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return 2 * math.atan2(np.linalg.norm(a - b), np.linalg.norm(a + b))


def turned(w, neurons, angle, growth=1.0, seed=1):
    """`w` with every neuron turned by `angle` in a random plane and stretched by `growth`, in float64."""
    rng, v = np.random.default_rng(seed), np.array(w, dtype=np.float64)
    flat = v.reshape(-1)
    for at in members(neurons, w.shape):
        x, side = flat[at], rng.normal(size=len(at))
        side -= x * (side @ x) / (x @ x)
        side *= np.linalg.norm(x) / np.linalg.norm(side)
        flat[at] = growth * (math.cos(angle) * x + math.sin(angle) * side)
    return v


@st.composite
def layouts(draw, smallest=1):
    """Any layout whose neurons have at least `smallest` weights, and a shape that it fits."""
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    split = draw(st.sampled_from([1, 1, 2, 3]))
    shape[0] *= split
    axes = draw(st.sets(st.integers(0, len(shape) - (split == 1))))
    neurons = Neurons(tuple(sorted(axes)), split)
    if neurons.size(shape) < smallest:
        shape.append(smallest)
    return neurons, tuple(shape)


# Layout ---------------------------------------------------------------------------------------------------


@every_layout
def test_matrix_has_one_neuron_a_row(neurons, shape):
    positions = np.arange(math.prod(shape)).reshape(shape)
    assert neurons.matrix(positions).tolist() == members(neurons, shape)


@every_layout
def test_count_times_size_is_every_weight(neurons, shape):
    assert (neurons.count(shape), neurons.size(shape)) == np.shape(members(neurons, shape))
    assert neurons.count(shape) * neurons.size(shape) == math.prod(shape)
    neurons.check(shape)


@every_layout
def test_views_share_memory(neurons, shape):
    w = torch.zeros(shape)
    assert neurons.view(w).data_ptr() == w.data_ptr()
    leading = neurons.axes == tuple(range(len(neurons.axes)))
    assert (neurons.matrix(w).data_ptr() == w.data_ptr()) or not leading
    strided = torch.zeros(*shape[:-1], 2 * shape[-1])[..., ::2]
    assert neurons.view(strided).data_ptr() == strided.data_ptr()


@every_layout
def test_reductions_broadcast_against_the_view(neurons, shape):
    (w, _) = weights(shape)
    view = neurons.view(w)
    assert neurons.norm(w).shape == tuple(n if a in neurons.axes else 1 for a, n in enumerate(view.shape))
    unit = (view / neurons.norm(w)).reshape(shape)
    np.testing.assert_allclose(neurons.norm(unit), 1.0)


# Reductions -----------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(layouts(), st.integers(0, 2**16))
def test_reductions_are_those_of_each_neuron_alone(layout, seed):
    neurons, shape = layout
    w, v = weights(shape, seed=seed)
    groups = members(neurons, shape)
    a, b = w.reshape(-1)[groups], v.reshape(-1)[groups]
    expected = {
        "sum": a.sum(1),
        "mean": a.mean(1),
        "norm": np.linalg.norm(a, axis=1),
        "dot": np.einsum("ni,ni->n", a, b),
        "angle": [true_angle(x, y) for x, y in zip(a, b, strict=True)],
    }
    # A change is small beside the weights; of vectors that differ in length it loses as many digits as they do.
    longer = np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    rounding = {"angle": 1e-12 + 1e-15 * np.maximum(longer, 1 / longer)}
    for name, value in expected.items():
        found = getattr(neurons, name)(*((w, v) if name in PAIRS else (w,))).ravel()
        allowed = 1e-10 * np.abs(value) + rounding.get(name, 1e-12)
        assert (np.abs(found - value) <= allowed).all(), name
    centred = neurons.center(w).reshape(-1)[groups]
    np.testing.assert_allclose(centred, a - a.mean(1, keepdims=True), atol=1e-12)


@every_layout
def test_centring_twice_is_centring_once(neurons, shape):
    (w, _) = weights(shape)
    once = neurons.center(w)
    np.testing.assert_allclose(neurons.mean(once), 0, atol=1e-15)
    np.testing.assert_allclose(neurons.center(once), once, atol=1e-15)


@every_layout
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("method", [*METHODS, *PAIRS])
def test_numpy_and_torch_agree(neurons, shape, dtype, method):
    arguments = weights(shape, dtype)[: 1 + (method in PAIRS)]
    numpy = getattr(neurons, method)(*arguments)
    torchs = getattr(neurons, method)(*(torch.from_numpy(x) for x in arguments)).numpy()
    assert numpy.dtype == torchs.dtype
    tolerance = 1e-12 if dtype is np.float64 else 1e-5
    np.testing.assert_allclose(numpy, torchs, rtol=tolerance, atol=tolerance)


@every_layout
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_measured_in_single(neurons, shape, dtype):
    w, v = (torch.from_numpy(x).to(dtype) for x in weights(shape))
    for method in ("sum", "mean", "norm", "center"):
        torch.testing.assert_close(getattr(neurons, method)(w), getattr(neurons, method)(w.float()), rtol=0, atol=0)
    for method in PAIRS:
        torch.testing.assert_close(
            getattr(neurons, method)(w, v), getattr(neurons, method)(w.float(), v.float()), rtol=0, atol=0
        )


def test_empty_tensors_measure_as_nothing():
    for shape in ((0, 3), (3, 0)):
        w = torch.zeros(shape)
        assert ROWS.norm(w).sum() == 0
        assert ROWS.center(w).shape == w.shape
        assert ROWS.angle(w, w).sum() == 0


# Angles ---------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(
    layouts(smallest=2),  # a neuron of one weight cannot turn
    st.sampled_from([1e-6, 1e-5, 1e-3, 0.1, 1.5, 3.0, 3.1415]),
    st.sampled_from([1.0, 0.9999, 1.001, 0.99]),
    st.integers(0, 2**16),
)
def test_angles_in_single_precision_are_true_to_a_thousandth(layout, angle, growth, seed):
    neurons, shape = layout
    w = weights(shape, np.float32, seed)[0]
    v = turned(w, neurons, angle, growth, seed).astype(np.float32)
    # Rounding moves the angle itself; the measure is held to the float32 inputs as they are.
    at = members(neurons, shape)
    true = [true_angle(a, b) for a, b in zip(w.reshape(-1)[at], v.reshape(-1)[at], strict=True)]
    np.testing.assert_allclose(neurons.angle(w, v).ravel(), true, rtol=1e-3, atol=1e-10)
    tensor = neurons.angle(torch.from_numpy(w), torch.from_numpy(v))
    np.testing.assert_allclose(tensor.numpy().ravel(), true, rtol=1e-3, atol=1e-10)


@pytest.mark.parametrize("size", [32, 768, 20_000])
@pytest.mark.parametrize("angle", [1e-6, 3e-5, 1e-3])
def test_angles_of_real_layers_are_true_to_a_thousandth(size, angle):
    w = weights((16, size), np.float32)[0] / math.sqrt(size)
    v = turned(w, ROWS, angle, growth=1 - 1e-4).astype(np.float32)
    true = [true_angle(a, b) for a, b in zip(w, v, strict=True)]
    assert np.allclose(true, angle, rtol=0.05)  # the inputs do hold an angle of about this size
    np.testing.assert_allclose(ROWS.angle(torch.from_numpy(w), torch.from_numpy(v)).ravel(), true, rtol=1e-3)


def test_the_arc_cosine_would_not_pass():
    w = weights((64, 256), np.float32)[0]
    v = turned(w, ROWS, 1e-5).astype(np.float32)
    cosine = ROWS.dot(w, v) / (ROWS.norm(w) * ROWS.norm(v))
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(np.arccos(np.minimum(cosine, 1)), 1e-5, rtol=1e-2)
    np.testing.assert_allclose(ROWS.angle(w, v), 1e-5, rtol=1e-2)


@every_layout
def test_angle_is_symmetric_and_blind_to_length(neurons, shape):
    w, v = weights(shape)
    angle = neurons.angle(w, v)
    np.testing.assert_allclose(neurons.angle(v, w), angle, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(neurons.angle(3 * w, 0.2 * v), angle, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(neurons.angle(w, -v), math.pi - angle, rtol=1e-10, atol=1e-12)


@every_layout
@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy])
def test_angle_at_the_ends(neurons, shape, library):
    w = library(weights(shape, np.float32)[0])
    assert bool((neurons.angle(w, w) == 0).all())
    np.testing.assert_allclose(np.asarray(neurons.angle(w, -w)), np.float32(math.pi))
    # A neuron of length zero has no direction, before or after.
    for pair in ((0 * w, w), (w, 0 * w), (0 * w, 0 * w)):
        assert bool((neurons.angle(*pair) == 0).all())


def test_a_zero_neuron_leaves_its_neighbours_alone():
    w = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    v = torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    assert ROWS.angle(w, v).ravel().tolist() == pytest.approx([0, math.pi / 2])


def test_not_a_number_is_not_an_angle_of_zero():
    w = torch.tensor([[1.0, math.nan], [1.0, 0.0]])
    assert ROWS.angle(w, w).isnan().ravel().tolist() == [True, False]


# Errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "kind", "says"),
    [
        (lambda: Neurons(axes=(1, 0)), ValueError, "rising"),
        (lambda: Neurons(axes=(0, 0)), ValueError, "distinct"),
        (lambda: Neurons(axes=(-1,)), ValueError, "0 or above"),
        (lambda: Neurons(axes=0), TypeError, r"tuple of axis numbers, such as \(0,\)"),
        (lambda: Neurons(axes=[0]), TypeError, "tuple"),
        (lambda: Neurons(split=0), ValueError, "number of groups"),
        (lambda: Neurons(parts=(("q", 0),)), ValueError, "at least one neuron"),
        (lambda: Neurons(axes=(), parts=(("q", 1),)), ValueError, "one neuron has no parts"),
        (lambda: Neurons(axes=(2,)).check((3, 4), "w"), ValueError, "w has only 2 axes"),
        (lambda: Neurons(axes=(1,), split=2).check((3, 4), "w"), ValueError, "w, .* does not divide into 2"),
        (lambda: Neurons(split=2).check((), "w"), ValueError, "does not divide"),
        (lambda: Neurons(parts=(("q", 2),)).check((3, 4), "w"), ValueError, "parts of w do not add up to 3"),
    ],
)
def test_what_cannot_be_is_said(make, kind, says):
    with pytest.raises(kind, match=says):
        make()


def test_layouts_in_words():
    words = [str(n) for n in (ROWS, WHOLE, Neurons((0, 1)), Neurons((0, 2), split=4))]
    assert words == ["axis 0", "whole tensor", "axes 0, 1", "axes 0, 2 of 4 groups"]
