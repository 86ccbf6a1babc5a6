"""Laws of the rotational step: the pure function, the foreach kernel, and what rounding may not do to them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from compare import assert_same
from layouts import LAYOUTS, members
from rotational import control, rules, theory
from rotational.control import Control
from rotational.kernels import foreach, pieces
from rotational.kernels.pieces import Held, Piece
from rotational.neurons import ROWS, WHOLE, Neurons
from rotational.rotate import rotate

CAN_TURN = {name: layout for name, layout in LAYOUTS.items() if Control().can_turn(*layout)}
ROUNDING = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}

every_layout = pytest.mark.parametrize(("neurons", "shape"), CAN_TURN.values(), ids=CAN_TURN)
both_centers = pytest.mark.parametrize("center", [True, False], ids=["centred", "as it comes"])
every_dtype = pytest.mark.parametrize("dtype", ROUNDING, ids=str)
every_memory = pytest.mark.parametrize("memory", [0.0, 0.9])


def noise(shape, dtype=torch.float64, seed=0, mean=0.3):
    return (torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + mean).to(dtype)


def weights(shape, dtype=torch.float64, seed=0, neurons=ROWS):
    return neurons.center(noise(shape, torch.float64, seed)).to(dtype)


def piece(w, neurons=ROWS):
    """What the optimizer makes of a parameter before its first step."""
    norm = neurons.norm(w)
    return Piece(w, torch.zeros_like(w), None, None, 0, False, Held(neurons, norm, torch.zeros_like(norm), 0))


def again(piece, **fields):
    """A piece in its next step."""
    return replace(piece, held=replace(piece.held, turns=piece.held.turns + 1, **fields))


def step(batch, u, *, rotation=0.01, memory=0.9, center=True):
    """One step of the kernel; returns the pieces as they stand for the next."""
    batch = [again(p) for p in batch]
    foreach.rotate_(batch, [x.clone() for x in u], rotation=rotation, memory=memory, center=center)
    return batch


def turned(w, u, **options):
    """Rows of `w` after one step along `-u`, and the angle that each turned."""
    after = w.clone()
    step([piece(after)], [u], **options)
    return after, ROWS.angle(w.double(), after.double()).flatten()


def passes_on():
    g = yield np.zeros(())
    while True:
        g = yield g


# The helper -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("got", "expected", "tolerance"),
    [
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.001]), 1e-4),
        (torch.tensor([1.0, math.nan]), torch.tensor([1.0, 2.0]), 1.0),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, math.nan]), 1.0),
        (torch.tensor([1.0, math.inf]), torch.tensor([1.0, math.inf]), 1.0),
        (torch.tensor([1.0]), torch.tensor([1.0 + 2**-23]), 0.0),
        (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64), 0.0),
        (torch.ones(2), torch.ones(2, 1), 1.0),
        ({"a": torch.ones(1)}, {"b": torch.ones(1)}, 1.0),
        ({"a": 1.0}, {"a": 1.1}, 0.01),
        ([torch.ones(1)], [torch.ones(1)] * 2, 1.0),
        (torch.ones(1), None, 1.0),
        ("a", "b", 1.0),
    ],
)
def test_assert_same_can_fail(got, expected, tolerance):
    with pytest.raises(AssertionError):
        assert_same(got, expected, tolerance)


def test_assert_same_passes_what_is_the_same():
    assert_same({"a": [torch.ones(2), np.ones(2), 1.0, "b"]}, {"a": [torch.ones(2), np.ones(2), 1.0, "b"]})
    assert_same(np.array([1.0, 2.0]), torch.tensor([1.0, 2.001]), 1e-3)


# One step, three ways ---------------------------------------------------------------------------------------


@every_layout
@both_centers
@every_memory
def test_pure_step_is_the_papers_algorithm(neurons, shape, center, memory):
    w = noise(shape).numpy()
    directions = [noise(shape, seed=k + 1).numpy() * (k != 2) for k in range(6)]
    process = reference.rotational(w, members(neurons, shape), passes_on(), center, memory)
    expected = reference.run(process, [(u, 0.02) for u in directions])
    w = neurons.center(w) if center else w
    norm = neurons.norm(w)
    rms = 0 * norm
    for t, u in enumerate(directions, start=1):
        w, rms = rotate(w, u, neurons, rotation=0.02, norm=norm, rms=rms, steps=t, memory=memory, center=center)
    assert_same(w, expected, 1e-13)


@every_layout
@both_centers
@every_dtype
def test_kernel_is_the_pure_function(neurons, shape, center, dtype):
    state = [piece(weights(shape, dtype, neurons=neurons), neurons)]
    options = {"rotation": 0.3, "memory": 0.7, "center": center}
    for t in range(1, 5):
        u, before = noise(shape, dtype, seed=t), state[0]
        given = {"norm": before.held.norm, "rms": before.held.rms.clone(), "steps": t, **options}
        single = rotate(before.w.clone(), u, neurons, **given)
        arrays = {k: v.double().numpy() if isinstance(v, torch.Tensor) else v for k, v in given.items()}
        double = rotate(before.w.double().numpy(), u.double().numpy(), neurons, **arrays)
        state = step(state, [u], **options)
        assert state[0].w.dtype == dtype
        for w, rms in (single, double):
            assert_same(state[0].w, w, ROUNDING[dtype])
            assert_same(state[0].held.rms, rms, 1e-6)


@both_centers
@every_dtype
def test_batches_change_nothing(center, dtype, monkeypatch):
    """Small tensors turned as one matrix, and large ones cut along their first axis."""
    monkeypatch.setattr(pieces, "CACHED", 40)
    shapes = [*[(n, s) for n, s in CAN_TURN.values() if s != (7,)], (ROWS, (30, 4)), (Neurons((0, 1)), (9, 5, 4))]
    shapes += [(ROWS, (5, 4)), (ROWS, (6, 3, 2, 2))]
    alone = [piece(weights(shape, dtype, i, n), n) for i, (n, shape) in enumerate(shapes)]
    together = [piece(p.w.clone(), p.held.neurons) for p in alone]
    for t in range(3):
        u = [noise(p.w.shape, dtype, seed=9 * t + i) for i, p in enumerate(alone)]
        alone = [step([p], [x], center=center)[0] for p, x in zip(alone, u, strict=True)]
        together = [replace(again(p), g=x) for p, x in zip(together, u, strict=True)]
        sizes = []
        for batch in pieces.batches(together):
            foreach.rotate_(batch, [p.g.clone() for p in batch], rotation=0.01, memory=0.9, center=center)
            sizes.append(len(batch))
    assert max(sizes) > 1
    assert len(sizes) > len(shapes) / 2
    for x, y in zip(together, alone, strict=True):
        assert_same(x.w, y.w, ROUNDING[dtype])
        assert_same(x.held.rms, y.held.rms, 1e-6)


@pytest.mark.parametrize("make", [lambda w: w, lambda w: w.to(memory_format=torch.channels_last), lambda w: w.mT])
@pytest.mark.parametrize("neurons", [ROWS, Neurons((1,)), Neurons((0, 2), split=2), WHOLE], ids=str)
def test_strides_change_nothing(make, neurons):
    shape = (4, 3, 2, 2)
    w, u = weights(shape, neurons=neurons), noise(shape, seed=1)
    strided = make(torch.empty_like(make(w))).copy_(w)
    for x in (w, strided):
        step([piece(x, neurons)], [u.clone() if x is w else make(make(u).clone())])
    assert_same(strided.contiguous(), w, 1e-14)


# How far it turns -------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**31),
    st.floats(1e-6, 1.0),
    st.sampled_from([0.0, 0.5, 0.9, 0.999]),
    st.lists(st.floats(-30, 30), min_size=1, max_size=4),
)
def test_one_step_turns_no_further_than_its_bound(seed, rotation, memory, scales):
    """Whatever the sizes of the updates: atan(eta/sqrt(1-f)), and atan(eta) in the first step and for f = 0."""
    state = [piece(weights((5, 6), seed=seed))]
    for t, scale in enumerate(scales):
        before = state[0].w.clone()
        state = step(state, [noise((5, 6), seed=seed + 1 + t) * 10**scale], rotation=rotation, memory=memory)
        turned = ROWS.angle(before, state[0].w).flatten()
        assert_same(ROWS.norm(state[0].w), ROWS.norm(before), 1e-13)
        assert (turned <= math.atan(rotation / math.sqrt(1 - memory)) * (1 + 1e-9)).all()
        if t == 0 or memory == 0:
            assert_same(turned, torch.full((5,), math.atan(rotation), dtype=torch.float64), 1e-9)


@pytest.mark.parametrize(("memory", "tolerance"), [(0.0, 1e-3), (0.9, 1e-2), (0.99, 1e-2)])
def test_rms_rotation_over_time_is_the_rotation(memory, tolerance):
    rotation, angles, state = 0.05, [], [piece(weights((64, 48)))]
    for t in range(300):
        before = state[0].w.clone()
        state = step(state, [noise((64, 48), seed=t, mean=0)], rotation=rotation, memory=memory)
        angles.append(ROWS.angle(before, state[0].w))
    rms = torch.stack(angles[50:]).square().mean().sqrt().item()
    assert_same(rms, math.atan(rotation), tolerance)


# Rounding, and the ends of the number line ------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("size", [3, 4, 30, 1000])
@pytest.mark.parametrize(
    "u",
    [lambda w: 3.7 * w, lambda w: -1e-3 * w, lambda w: torch.full_like(w, 0.1), lambda w: 0.01 * w - 0.3],
    ids=["along w", "against w", "constant", "both"],
)
def test_rounding_noise_is_no_direction(u, size, dtype):
    """Were it one, the RMS that divides it would make a full rotation of it."""
    w = weights((50, size), dtype)
    after = w.clone()
    (state,) = step([piece(after)], [u(w)], rotation=0.1)
    if dtype in (torch.float32, torch.float64):
        assert_same(after, w)
        assert (state.held.rms == 0).all()
    else:  # low-precision weights are centred to their rounding only, and a constant has a part along them
        assert_same(after, w, 2 * ROUNDING[dtype])


@pytest.mark.parametrize("size", [10**5, 10**6])
def test_rounding_noise_of_a_long_neuron_is_no_direction(size):
    w = weights((size,), torch.float32, neurons=WHOLE)
    kept = w.clone()
    step([piece(w, WHOLE)], [kept * 0.37])
    assert_same(w, kept)


def test_a_long_neuron_keeps_its_length():
    """Sums of 10^6 squares in one chain of single precision would be 1e-5 off."""
    w = weights((10**6,), torch.float32, neurons=WHOLE)
    norm = WHOLE.norm(w.double())
    step([piece(w, WHOLE)], [noise((10**6,), torch.float32, seed=1)])
    assert_same(WHOLE.norm(w.double()), norm, 2e-7)


@pytest.mark.parametrize("share", [1e-3, 1e-4])
@pytest.mark.parametrize("main", [lambda w: w, torch.ones_like], ids=["along w", "constant"])
def test_a_small_tangent_part_is_a_direction(share, main):
    """Far above rounding, however small, it turns the neuron by the whole angle, along itself."""
    w = weights((50, 30))
    side = ROWS.center(noise(w.shape, seed=1))
    side -= ROWS.dot(side, w) / ROWS.dot(w, w) * w
    side *= share * ROWS.norm(w) / ROWS.norm(side)
    after, angles = turned(w.float(), (main(w) + side).float(), rotation=0.1)
    assert_same(angles, torch.full((50,), math.atan(0.1)).double(), 1e-3)
    assert (ROWS.angle(w - 0.1 / share * side, after.double()) < 1e-3).all()


@both_centers
@pytest.mark.parametrize("scale", [1e-36, 1e-30, 1e-20, 1.0, 1e18, 1e30])
def test_the_size_of_updates_does_not_matter(scale, center):
    """Squares of 1e-20 and 1e30 do not exist in single precision."""
    w = weights((20, 10), torch.float32)
    plain, scaled = [piece(w.clone())], [piece(w.clone())]
    for t in range(4):
        u = noise(w.shape, torch.float32, seed=t)
        plain, scaled = step(plain, [u], center=center), step(scaled, [u * scale], center=center)
    assert_same(scaled[0].w, plain[0].w, 2e-6)
    assert_same(scaled[0].held.rms.double() / scale, plain[0].held.rms.double(), 2e-6)


def test_after_a_burst_neurons_turn_again():
    state = [piece(weights((20, 10), torch.float32))]
    state = step(state, [noise((20, 10), torch.float32) * 1e30])
    for t in range(200):
        before = state[0].w.clone()
        state = step(state, [noise((20, 10), torch.float32, seed=t)], memory=0.5)
    assert (ROWS.angle(before.double(), state[0].w.double()) > 1e-3).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_seen_at_once_and_in_its_neuron_only(bad):
    w, u = weights((4, 5)), noise((4, 5), seed=1)
    u[1, 2] = bad
    after, _ = turned(w, u)
    assert after[1].isnan().all()
    assert after[[0, 2, 3]].isfinite().all()
    norm = ROWS.norm(w)
    pure, _ = rotate(w, u, ROWS, rotation=0.01, norm=norm, rms=0 * norm, steps=1)
    assert pure[1].isnan().all()
    assert_same(pure[[0, 2, 3]], after[[0, 2, 3]], 1e-14)


@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "pure"])
def test_a_zero_vector_stays_until_it_is_filled_and_then_keeps_its_length(kernel):
    w = weights((3, 5))
    w[1] = 0
    norm = ROWS.norm(w)
    rms = torch.zeros_like(norm)
    for t in range(1, 5):
        if t == 3:
            w[1] = torch.tensor([2.0, 0.0, -2.0, 1.0, -1.0])
            norm[1] = 0 if kernel else ROWS.norm(w)[1]  # the kernel takes the length for the norm, in place
        before, u = w.clone(), noise(w.shape, seed=t)
        if kernel:
            step([replace(piece(w), held=Held(ROWS, norm, rms, t - 1))], [u], rotation=0.1)
        else:
            w, rms = rotate(w, u, ROWS, rotation=0.1, norm=norm, rms=rms, steps=t)
        moved = (w != before).any(dim=1).tolist()
        assert moved == [True, t >= 3, True]
    assert_same(ROWS.norm(w)[1, 0].item(), math.sqrt(10), 1e-14)


def test_a_neuron_that_is_emptied_stays_empty():
    state = step([piece(weights((3, 5)))], [noise((3, 5))])
    state[0].w[1] = 0
    state = step(state, [noise((3, 5), seed=1)])
    assert_same(state[0].w[1], torch.zeros(5).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_neuron_without_update_keeps_every_bit(dtype):
    """It would else be rounded at every step: unused rows of an embedding are such neurons."""
    w = weights((4, 7), dtype) * 1.37
    kept, u = w.clone(), noise(w.shape, dtype, seed=1)
    u[[0, 2]] = 0
    state = [piece(w)]
    for _ in range(20):
        state = step(state, [u])
    assert_same(w[[0, 2]], kept[[0, 2]])
    assert (w[[1, 3]] != kept[[1, 3]]).any()


def test_no_rotation_keeps_every_bit_and_remembers():
    w = weights((4, 7), torch.float32) * 1.37
    state = step([piece(w.clone())], [noise(w.shape, torch.float32, seed=1)], rotation=0.0)
    assert_same(state[0].w, w)
    assert (state[0].held.rms > 0).all()


def test_the_rotation_of_a_sign_is_solved_for_once_and_for_each_lr_anew(monkeypatch):
    asked, lion = [], rules.lion()
    solve = theory.rate
    monkeypatch.setattr(theory, "rate", lambda rule, lr, decay: asked.append(lr) or solve(rule, lr, decay))
    control._rate.cache_clear()
    turned = [Control().rotation(lion, lr, 0.1) for lr in (1e-3, 1e-3, 2e-3, 1e-3)]
    assert asked == [1e-3, 2e-3]
    assert turned == [solve(lion, lr, 0.1) for lr in (1e-3, 1e-3, 2e-3, 1e-3)]
    for _ in range(2):  # what cannot be solved raises every time
        with pytest.raises(ValueError, match=r"Control\(lr=20, weight_decay=0.1\)"):
            Control().rotation(lion, 20.0, 0.1)
