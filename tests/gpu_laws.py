"""Laws of the step for GPUs, through Triton's interpreter on CPU tensors.

`test_gpu.py` runs them, in a process of its own.

The interpreter has to be chosen before Triton is loaded:  TRITON_INTERPRET=1 python -m pytest tests/gpu_laws.py
"""

from __future__ import annotations

import copy

import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter

import rotational
from compare import assert_same
from gpu_parts import (
    BF16,
    COLUMNS,
    LAST,
    LONG,
    RULES,
    STORED,
    assert_alike,
    double,
    gradients,
    noise,
    part,
    parts,
    run,
    step,
    work,
)
from rotational import rules
from rotational.kernels import gpu
from rotational.kernels.foreach import Foreach
from rotational.kernels.gpu import Triton
from rotational.neurons import ROWS
from rotational.optim import bound


@pytest.fixture(scope="module", autouse=True)
def quick():
    """The interpreter patches the language anew in every call of a device function; once is enough, and five times as
    fast."""
    patch, done = interpreter._patch_lang, set()

    class Kept:
        @staticmethod
        def restore() -> None: ...

    def once(fn):
        used = frozenset(m.__name__ for m in (tl, tl.core) if any(x is m for x in fn.__globals__.values()))
        if used not in done:
            done.add(used)
            patch(fn)
        return Kept

    interpreter._patch_lang = once
    yield
    interpreter._patch_lang = patch


# Every rule, every layout ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_step_is_the_plain_one(rule):
    run(Triton(), rule, parts(rule), 20 if rule.name == "adamw" else 2)


def test_other_options_are_the_plain_ones():
    rule = RULES["SGD with Nesterov"]
    of = parts(rule, [(ROWS, (3, 2)), (COLUMNS, (9, 5))], [(7,)], center=False)
    run(Triton(), rule, of, 3, center=False, maximize=True, ema=0.0)
    run(Triton(), RULES["AdamW"], parts(RULES["AdamW"], [(ROWS, (3, 33))]), 2, rotation=0.0)


@pytest.mark.parametrize("rule", ["AdamW", "SGD with Nesterov", "Lion"])
def test_long_neurons_are_gone_over_twice_to_the_same_end(rule):
    run(Triton(longest=16), RULES[rule], parts(RULES[rule], LONG), 3 if rule == "AdamW" else 1)


@pytest.mark.parametrize(("weights", "moments"), STORED, ids=str)
def test_what_is_stored_is_the_exact_step_rounded_once(weights, moments):
    rule, kernel, beside = RULES["AdamW"], Triton(), Foreach()
    of = parts(rule, [(ROWS, (2, 33)), (ROWS, (2, 32)), (COLUMNS, (9, 5))], [(7,)], weights=weights, moments=moments)
    for t in range(3):
        exact, grads = double(of), gradients(of, t)
        step(beside, exact, rule, [g.double() for g in grads])
        step(kernel, of, rule, grads)
        for x, y in zip(of, exact, strict=True):
            for got, expected in ((x.w, y.w), (x.m, y.m), (x.v, y.v)):
                # Half a unit of the last place, and what single precision adds where two of them are equally near.
                slack = (2**-8 if got.dtype is BF16 else 0) * expected.abs() + 2e-6 * expected.abs().max()
                assert ((got.double() - expected).abs() <= slack).all()


def test_storage_may_lie_in_any_order():
    rule = RULES["AdamW"]
    of = parts(rule, [(ROWS, (4, 3, 2, 2)), (COLUMNS, (3, 4, 2, 2))], [(3, 4, 2, 2)])
    for p in of:
        p.w, p.m, p.v = (x.to(memory_format=LAST) for x in (p.w, p.m, p.v))
        p.__post_init__()
    wide = part(rule, None, (3, 8), seed=9)
    wide.w, wide.m, wide.v = (x[:, :5] for x in (wide.w, wide.m, wide.v))
    narrow = part(rule, ROWS, (3, 8), seed=9)
    narrow.w, narrow.m, narrow.v = (x[:, 2:7] for x in (narrow.w, narrow.m, narrow.v))
    narrow.norm = ROWS.norm(narrow.w)
    of += [wide, narrow]
    assert [gpu.refusal(p) for p in of] == [None] * 5
    run(Triton(), rule, of, 2)
    assert_same(wide.w._base[:, 5:], noise((3, 8), 109)[:, 5:])


# Gradients ------------------------------------------------------------------------------------------------------


def test_gradients_may_lie_anywhere():
    rule = RULES["SGD with momentum"]
    of, same = ([part(rule, ROWS, (3, 32)), part(rule, None, (3, 5))] for _ in range(2))
    g, h = noise((3, 32), 1), noise((3, 5), 2)
    odd = torch.empty(97)[1:].view(3, 32).copy_(g)  # as in a bucket: not at a multiple of 16 bytes
    turned = h.T.contiguous().T
    assert odd.data_ptr() % 16
    kernel = Triton()
    for _ in range(2):
        step(kernel, of, rule, [odd, turned])
        step(Triton(), same, rule, [g, h])
    assert_alike(of, same, 1e-6)


def test_without_a_gradient_nothing_changes():
    rule, kernel = RULES["SGD with momentum"], Triton()
    of = parts(rule, [(ROWS, (3, 33)), (ROWS, (3, 5))], [(7,)])
    before = copy.deepcopy(of)
    grads = gradients(of, 0)
    step(kernel, of, rule, [grads[0], None, None])
    for x, y in zip(of[1:], before[1:], strict=True):
        assert_same([x.w, x.m, x.step], [y.w, y.m, y.step])
    step(kernel, of, rule, [None, *grads[1:]])
    assert [p.step.item() for p in of] == [1, 1, 1]
    alone = parts(rule, [(ROWS, (3, 33)), (ROWS, (3, 5))], [(7,)])
    step(Triton(), alone, rule, grads)
    assert_alike(of, alone, 1e-6)


@pytest.mark.parametrize("longest", [64, 4])
@pytest.mark.parametrize("name", ["AdamW", "Lion"])
def test_nan_touches_its_own_row_only(name, longest):
    rule, kept = RULES[name], [0, 1, 3]
    of, sound = (parts(rule, [(ROWS, (4, 5))], []) for _ in range(2))
    grads = gradients(of, 0)
    bad = [grads[0].clone()]
    bad[0][2, 1] = torch.nan
    step(Triton(longest), of, rule, bad)
    step(Triton(longest), sound, rule, grads)
    assert of[0].w[2].isnan().all()
    assert_same(of[0].w[kept], sound[0].w[kept])


def test_an_infinite_gradient_has_a_sign():
    rule = RULES["Lion"]
    of = parts(rule, [(ROWS, (4, 5))], [(7,)])
    reference, grads = double(of), gradients(of, 0)
    grads[0][2, 1], grads[1][3] = torch.inf, -torch.inf
    step(Triton(), of, rule, grads)
    step(Foreach(), reference, rule, [g.double() for g in grads])
    assert of[0].w.isfinite().all()
    assert_same([p.w for p in of], [p.w.float() for p in reference], 1e-6)


def test_parameters_without_entries_take_steps():
    rule = RULES["AdamW"]
    of = parts(rule, [(ROWS, (0, 5))], [(0,)])
    assert [gpu.refusal(p) for p in of] == [None] * 2
    step(Triton(), of, rule, gradients(of, 0))
    step(Triton(), of, rule, [None, None])
    assert [p.step.item() for p in of] == [1, 1]


def test_gradients_at_ever_other_places_fill_no_memory():
    rule, kernel = RULES["SGD"], Triton()
    of = [part(rule, None, (4,), seed=i) for i in range(6)]
    for t in range(1 << 6):
        grads = [torch.empty(5)[odd : odd + 4].copy_(g) for i, g in enumerate(gradients(of, t)) for odd in [t >> i & 1]]
        step(kernel, of, rule, grads)
        assert len(kernel._tables) <= gpu.MOST
    assert [p.step.item() for p in of] == [64.0] * 6


def test_zero_rows_and_zero_gradients_stay_as_they_are():
    rule = RULES["SGD"]
    of = parts(rule, [(ROWS, (4, 5))], [])
    of[0].w[1] = 0
    of[0].norm[1] = 0
    before, grads = of[0].w.clone(), gradients(of, 0)
    grads[0][2] = 0
    grads[0][3] = 1  # nothing but a mean
    step(Triton(), of, rule, grads)
    assert_same(of[0].w[1:], before[1:])
    assert ROWS.angle(before, of[0].w)[0, 0] > 0.01


@pytest.mark.parametrize("longest", [64, 16])
@pytest.mark.parametrize("size", [1e-40, 1e-30, 1e-20, 1e20])
def test_the_size_of_gradients_does_not_matter(size, longest):
    rule = RULES["SGD"]
    of = parts(rule, [(ROWS, (2, 33))], [])
    reference, grads = double(of), gradients(of, 0, size)
    step(Triton(longest), of, rule, grads)
    step(Foreach(), reference, rule, [grads[0].double()])
    assert_same(of[0].w, reference[0].w, 1e-6)


@pytest.mark.parametrize("longest", [64, 16])
def test_of_a_nearly_radial_update_the_rest_counts(longest):
    rule = RULES["SGD"]
    of = parts(rule, [(ROWS, (2, 33))], [])
    reference = double(of)
    grads = [1000 * of[0].w + noise((2, 33), 5)]
    step(Triton(longest), of, rule, grads)
    step(Foreach(), reference, rule, [grads[0].double()])
    assert_same(of[0].w, reference[0].w, 1e-5)
    assert_same(ROWS.norm(of[0].w), of[0].norm, 1e-6)


# Beside the weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("longest", [64, 16])
def test_measured_is_what_happened(longest):
    rule = RULES["AdamW"]
    of = parts(rule, [(ROWS, (3, 33)), (COLUMNS, (20, 3))], [(3, 33), (6, 1), (4, 5)])
    neurons = [ROWS, COLUMNS, ROWS, ROWS]
    kernel, reference = Triton(longest), double(of)
    for t in range(2):
        before, grads = [p.w.clone() for p in reference], gradients(of, t)
        measured = {i: (n, torch.full((4, n.count(of[i].w.shape)), 7.0)) for i, n in enumerate(neurons)}
        step(kernel, of, rule, grads, measured=measured)
        step(Foreach(), reference, rule, [g.double() for g in grads])
        for i, n in enumerate(neurons):
            change = n.change(before[i], reference[i].w)
            expected = [change.angle, n.norm(reference[i].w), change.update, change.radial]
            assert_same(measured[i][1][:3], torch.stack([x.flatten() for x in expected[:3]]), 2e-6)
            # A length in single precision is known to 1e-7, and a step is a hundredth of it.
            assert (measured[i][1][3] - expected[3].flatten()).abs().max() < 1e-4
    assert_alike(of, reference)


def test_an_optimizer_has_it_measured():
    layer = torch.nn.Linear(33, 3, bias=False)
    opt = rotational.AdamW(layer.parameters(), lr=1e-2, weight_decay=0.1, fused="triton")
    for t in range(2):
        before = layer.weight.detach().clone()
        layer.weight.grad = noise((3, 33), t)
        tables = opt.measure({layer.weight: ROWS})
        opt.step()
    change = ROWS.change(before, layer.weight.detach())
    assert_same(tables[layer.weight][0], change.angle.flatten(), 1e-3)
    assert_same(tables[layer.weight][2], change.update.flatten(), 1e-3)


def test_an_optimizer_hands_tensors_on_while_a_step_is_captured(monkeypatch):
    rates = [1e-2, 1e-2, 5e-3, 1e-2, 2e-3]
    layers = [torch.nn.Linear(33, 3) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    plain, told = (rotational.AdamW(x.parameters(), lr=1e-2, weight_decay=0.1, fused="triton") for x in layers)
    lr = torch.tensor(0.0, dtype=torch.float64)
    for t, rate in enumerate(rates):
        captured = t in (1, 2)  # without and with a change of lr; then numbers again, which no table may remember
        monkeypatch.setattr(bound, "_replayed", lambda x, captured=captured: captured and isinstance(x, torch.Tensor))
        plain.param_groups[0]["lr"], told.param_groups[0]["lr"] = rate, lr.fill_(rate)
        for layer in layers:
            layer.weight.grad, layer.bias.grad = noise((3, 33), t), noise((3,), t)
        plain.step()
        told.step()
        assert isinstance(told.param_groups[0]["held"], float) is not captured
        assert_same([layers[0].weight, layers[0].bias], [layers[1].weight, layers[1].bias])


def test_tensors_give_no_rotation_without_a_closed_form(monkeypatch):
    layer = torch.nn.Linear(33, 3)
    opt = rotational.Lion(layer.parameters(), lr=torch.tensor(1e-3), weight_decay=0.1, fused="triton")
    monkeypatch.setattr(bound, "_replayed", lambda x: isinstance(x, torch.Tensor))
    layer.weight.grad = noise((3, 33), 0)
    before = layer.weight.detach().clone()
    with pytest.raises(ValueError, match="rotation of lion does not follow from tensors"):
        opt.step()
    assert torch.equal(layer.weight, before)


def test_numbers_may_be_tensors_and_may_be_renewed():
    rule = RULES["AdamW"]
    of, same = (parts(rule, [(ROWS, (3, 33))], [(7,)]) for _ in range(2))
    lr, decay, rotation = (torch.tensor(x, dtype=torch.float64) for x in (0.01, 0.1, 0.02))
    kernel, plain = Triton(), Triton()
    for t in range(3):
        grads = gradients(of, t)
        step(kernel, of, rule, grads, lr=lr, weight_decay=decay, rotation=rotation)
        step(plain, same, rule, grads, lr=0.01 / 2**t, rotation=0.02 / 2**t)
        lr /= 2
        rotation /= 2
    for x, y in zip(of, same, strict=True):
        assert_same([x.w, x.m], [y.w, y.m])
    other = work(rule, same, [None, None], lr=0.5)
    before = copy.deepcopy(same)
    plain.renew([other])
    assert_same([p.w for p in same], [p.w for p in before])
    (table,) = plain._tables.values()
    assert table._numbers[0, 0] == 0.5


def test_a_captured_step_needs_one_before_it(monkeypatch):
    rule, kernel = RULES["AdamW"], Triton()
    of = parts(rule, [(ROWS, (3, 33))], [])
    grads, other = gradients(of, 0), gradients(of, 1)
    monkeypatch.setattr(gpu, "_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="Take a few steps outside"):
        step(kernel, of, rule, grads)
    monkeypatch.setattr(gpu, "_capturing", lambda: False)
    step(kernel, of, rule, grads)
    monkeypatch.setattr(gpu, "_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="the numbers of a group changed"):
        step(kernel, of, rule, grads, lr=0.5)
    step(kernel, of, rule, other)
    with pytest.raises(RuntimeError, match="between one capture and the next"):
        step(kernel, of, rule, grads)
    # What replays copy from stays as it was, and stays at all when the parameters change.
    (table,) = kernel._tables.values()
    assert table.captured[0][0, 0] == other[0].data_ptr()
    monkeypatch.setattr(gpu, "_capturing", lambda: False)
    step(kernel, [part(rule, ROWS, (3, 33))], rule, grads)
    assert kernel._captured == [table]


def test_several_groups_take_one_step():
    of, grads = {}, {}
    for name in ("AdamW", "Lion"):
        of[name] = parts(RULES[name], [(ROWS, (3, 33))], [(7,)])
        grads[name] = gradients(of[name], 0)
    alone = copy.deepcopy(of)
    Triton().step([work(RULES[name], of[name], grads[name]) for name in of])
    for name, apart in alone.items():
        step(Triton(), apart, RULES[name], grads[name])
        for x, y in zip(of[name], apart, strict=True):
            assert_same([x.w, x.m, x.step], [y.w, y.m, y.step])


def test_launches_are_few_however_many_tensors(monkeypatch):
    rule, launched = RULES["AdamW"], []
    of = parts(rule, [(ROWS, (2, n)) for n in range(33, 49)], [(n,) for n in range(1, 9)])
    monkeypatch.setattr(gpu.Table, "_launch", lambda self, form, *_: launched.append(form))
    step(Triton(), of, rule, gradients(of, 0))
    assert len(launched) == 3  # rows of up to 64, those of 48 by wide loads, and the plain rule
    assert_same([p.step.item() for p in of], [1.0] * 24)


# Moments rounded at random --------------------------------------------------------------------------------------


def test_rounding_at_random_is_right_on_average_and_the_same_each_time():
    rule = rules.sgd(momentum=0.5)
    of, again = ([part(rule, None, (4096,), moments=BF16)] for _ in range(2))
    for p in (of[0], again[0]):
        p.fresh = False
        p.m.fill_(1.0)
    g = [torch.full((4096,), 0.501)]  # m = 1.001, between 1 and 1.0078
    step(Triton(), of, rule, g, dither=True, weight_decay=0.0)
    step(Triton(), again, rule, g, dither=True, weight_decay=0.0)
    assert_same(of[0].m, again[0].m)
    assert set(of[0].m.unique().tolist()) == {1.0, 1.0078125}
    share = (of[0].m > 1).double().mean().item()
    assert abs(share - 0.001 * 128) < 0.02
    g = [1.001 - 0.5 * of[0].m.float()]
    step(Triton(), again, rule, g, dither=True, weight_decay=0.0)
    assert ((again[0].m > 1) != (of[0].m > 1)).double().mean() > 0.1  # another step, another noise


# Who is served --------------------------------------------------------------------------------------------------


def test_what_is_not_served_is_said():
    rule = RULES["AdamW"]
    assert gpu.available() is None
    assert gpu.refusal(part(rule, ROWS, (3, 4))) is None
    assert "float64" in str(gpu.refusal(part(rule, ROWS, (3, 4), weights=torch.float64)))
    assert "moments" in str(gpu.refusal(part(rule, ROWS, (3, 4), moments=torch.float16)))
    mixed = part(rule, ROWS, (3, 4))
    mixed.v = mixed.v.to(BF16)
    assert "moments" in str(gpu.refusal(mixed))
    every_other = part(rule, ROWS, (3, 8))
    every_other.w, every_other.m, every_other.v = (x[:, ::2] for x in (every_other.w, every_other.m, every_other.v))
    assert "strides" in str(gpu.refusal(every_other))
