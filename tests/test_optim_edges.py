"""The rotational optimizers at the edges: what keeps every bit, what cannot turn, what may be mixed or changed."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import reference
import rotational
from compare import assert_same
from optimizers import every_optimizer, give_gradients, layers, running, weight
from rotational.kernels import pieces
from rotational.neurons import ROWS, Neurons

# What changes nothing ---------------------------------------------------------------------------------------


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lr_zero_keeps_every_bit(make, dtype):
    model = layers(dtype)
    opt = make(rotational.groups(model, weight_decay=0.1), lr=0.0)
    before = copy.deepcopy(model.state_dict())
    for t in range(3):
        give_gradients(model.parameters(), t)
        opt.step()
    assert_same(dict(model.state_dict()), dict(before))


@every_optimizer
def test_no_gradient_no_step(make):
    model = layers()
    opt = make(rotational.groups(model, weight_decay=0.1), lr=0.1)
    before = copy.deepcopy(model.state_dict())
    opt.step()
    assert_same(dict(model.state_dict()), dict(before))
    assert not opt.state
    give_gradients([model["linear"].weight], 0)
    opt.step()
    changed = [n for n, p in model.state_dict().items() if (p != before[n]).any()]
    assert changed == ["linear.weight"]
    assert list(opt.state) == [model["linear"].weight]


def test_a_parameter_may_join_late():
    """Counters are each parameter's own, though rows of one size turn together."""
    together, alone = [weight(), weight()], [weight(), weight()]
    opts = [rotational.AdamW(together, lr=0.1), *(rotational.AdamW([p], lr=0.1) for p in alone)]
    for t in range(8):
        give_gradients(together, t)
        if t < 5:
            together[1].grad = None
        for p, q in zip(together, alone, strict=True):
            q.grad = p.grad
        for opt in opts:
            opt.step()
    assert_same(together, alone, 1e-13)


def test_centred_weights_are_centred_once():
    """A second optimizer finds nothing to do, and so keeps every bit."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        model = layers(dtype)
        rotational.AdamW(rotational.groups(model, weight_decay=0.1))
        before = copy.deepcopy(model.state_dict())
        rotational.AdamW(rotational.groups(model, weight_decay=0.1))
        assert_same(dict(model.state_dict()), dict(before))


def test_centring_is_at_construction_and_of_neurons_only():
    model = layers()
    before = copy.deepcopy(model.state_dict())
    partition = rotational.partition(model)
    rotational.AdamW(rotational.groups(model, weight_decay=0.1))
    for name, p in model.state_dict().items():
        assert_same(p, partition[name].center(before[name]) if name in partition else before[name], 1e-15)
    model.load_state_dict(before)
    rotational.AdamW(rotational.groups(model, weight_decay=0.1), center=False)
    assert_same(dict(model.state_dict()), dict(before))


def test_weights_loaded_after_construction_count():
    """Their mean is taken out, and their length held, at the first step."""
    p, loaded = weight(), torch.randn(5, 8, dtype=torch.float64) + 1
    opt = rotational.AdamW([p], weight_decay=0.1)
    p.data.copy_(loaded)
    give_gradients([p], 0)
    opt.step()
    centred = ROWS.center(loaded)
    assert_same(ROWS.norm(p.detach()), ROWS.norm(centred), 1e-12)
    assert_same(ROWS.angle(centred, p.detach()).mean().item(), reference.adamw_rotation(1e-3, 0.1), 1e-3)


# Neurons that cannot turn -----------------------------------------------------------------------------------


def test_all_zero_rows_wait_with_one_warning_that_names_them():
    model = nn.ModuleDict({"first": nn.Linear(4, 3), "second": nn.Linear(7, 3)}).double()
    with torch.no_grad():
        model["first"].weight[1] = 0
        model["second"].weight.zero_()
    opt = rotational.AdamW(rotational.groups(model, weight_decay=0.1), lr=0.1)
    w = model["first"].weight
    give_gradients(model.parameters(), 0)
    with pytest.warns(
        UserWarning, match="'first.weight' has 1 all-zero neurons .of 3.; parameter 'second.weight'"
    ) as got:
        opt.step()
    assert len(got) == 1
    assert got[0].filename == __file__
    for t in range(1, 4):  # warnings are errors: it does not come again
        give_gradients(model.parameters(), t)
        opt.step()
    assert (w[1] == 0).all()
    assert (model["second"].weight == 0).all()
    with torch.no_grad():
        w[1] = torch.tensor([3.0, 0, -3, 0])
    for t in range(5):
        before = w.detach().clone()
        give_gradients(model.parameters(), t)
        opt.step()
        assert_same(w[1].norm().item(), math.sqrt(18), 1e-12)
        assert ROWS.angle(before, w.detach())[1] > 1e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_constant_neurons_keep_their_mean_and_turn(dtype):
    """Nothing would be left of them without it: neither rounding of the mean nor of entries is a direction."""
    for size in range(3, 60):
        p = nn.Parameter(torch.randn(40, 1, generator=torch.Generator().manual_seed(size)).to(dtype).repeat(1, size))
        with torch.no_grad():
            p[:20, ::2] = torch.nextafter(p[:20, ::2], torch.tensor(math.inf, dtype=dtype))
        before = p.detach().clone()
        opt = rotational.AdamW([p], update_memory=0.0)
        assert (p == before).all()
    give_gradients([p], 0)
    opt.step()
    angle = math.atan(opt.param_groups[0]["held"])
    assert_same(ROWS.angle(before, p.detach()), torch.full((40, 1), angle, dtype=dtype), 1e-3)
    assert_same(ROWS.norm(p.detach()), ROWS.norm(before), 1e-5)


def test_a_warning_that_is_an_error_leaves_the_step_untaken():
    model = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])
    nn.init.zeros_(model[1].weight)
    opt = rotational.AdamW([{"params": layer.parameters()} for layer in model], weight_decay=0.1)
    give_gradients(model.parameters(), 0)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserWarning, match="parameter 0 of its group has 3 all-zero"):
        opt.step()
    assert_same(dict(model.state_dict()), dict(before))
    assert all("step" not in state for state in opt.state.values())


@pytest.mark.parametrize(
    ("shape", "center", "turns"),
    [((4, 1), True, False), ((4, 1), False, False), ((4, 2), True, False), ((4, 2), False, True), ((4, 3), True, True)],
)
def test_neurons_too_small_to_turn_take_the_plain_rule(shape, center, turns):
    p, q = (nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0))) for _ in "pq")
    opt = rotational.AdamW([p], lr=0.1, weight_decay=0.1, center=center)
    other = torch.optim.AdamW([q], lr=0.1, weight_decay=0.1)
    norm = ROWS.norm(p.detach())
    for t in range(3):
        give_gradients([p], t)
        q.grad = p.grad
        opt.step()
        other.step()
    if turns:
        assert_same(ROWS.norm(p.detach()), norm, 1e-6)
    else:
        assert_same(p, q, 1e-6)
    assert (opt.param_groups[0]["held"] is not None) == turns


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0,), ()])
def test_empty_parameters_and_scalars_are_welcome(shape):
    p, q = nn.Parameter(torch.ones(shape)), weight()
    opt = rotational.AdamW([p, q], weight_decay=0.1)
    for t in range(2):
        give_gradients([p, q], t)
        opt.step()
    assert p.shape == shape


def test_every_stride_turns_alike():
    def values(p):
        return p.detach().contiguous()

    shape = (4, 3, 5, 5)
    plain = nn.Parameter(torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    last = nn.Parameter(plain.detach().clone().to(memory_format=torch.channels_last))
    view = nn.Parameter(plain.detach().clone().permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0))
    opt = rotational.AdamW([plain, last, view], weight_decay=0.1)
    for t in range(5):
        for p in (plain, last, view):
            give_gradients([p], t)
        opt.step()
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert_same(values(last), values(plain), 1e-12)
    assert_same(values(view), values(plain), 1e-12)


def test_no_bit_depends_on_what_stands_beside():
    """A tensor with gaps, which torch's fused kernel does not take, leaves it to the others."""
    runs = []
    for beside in ([], [nn.Parameter(torch.ones(5, 16)[:, ::2])]):
        random = torch.Generator().manual_seed(0)
        plain = [nn.Parameter(torch.randn(40, 70, generator=random)) for _ in range(3)]
        params = [*plain[:1], *beside, *plain[1:]]
        opt = rotational.AdamW(params, lr=1e-2, weight_decay=0.1, fused=False)
        for _ in range(10):
            for p in params:
                p.grad = torch.ones_like(p)
            for p in plain:
                p.grad = torch.randn(p.shape, generator=random)
            opt.step()
        runs.append([p.detach() for p in plain])
    for p, q in zip(*runs, strict=True):
        assert_same(p, q)


def test_one_group_holds_every_dtype():
    """bfloat16 and float32 in one list: each as if alone."""
    dtypes = (torch.bfloat16, torch.float32, torch.float64)
    together, alone = ([weight(dtype=d) for d in dtypes] for _ in "ab")
    opt, opts = rotational.AdamW(together, weight_decay=0.1), [rotational.AdamW([p], weight_decay=0.1) for p in alone]
    for t in range(5):
        for p, q in zip(together, alone, strict=True):
            give_gradients([p], t)
            q.grad = p.grad.clone()
        for each in (opt, *opts):
            each.step()
    for p, q in zip(together, alone, strict=True):
        assert_same(p, q)
        assert opt.state[p]["norm"].dtype == (torch.float64 if p.dtype == torch.float64 else torch.float32)
        assert opt.state[p]["update_rms"].dtype == opt.state[p]["norm"].dtype


def test_a_group_that_was_plain_for_a_while_is_held_anew():
    p = weight()
    opt = rotational.AdamW([p], lr=0.1, weight_decay=0.5)
    group = opt.param_groups[0]
    for rotates in (True, False, True):
        group["rotational"] = rotates
        before = ROWS.norm(p.detach())
        for t in range(5):
            give_gradients([p], t)
            opt.step()
        change = (ROWS.norm(p.detach()) / ROWS.norm(ROWS.center(p.detach())) - 1).abs().max()
        assert (change < 1e-12) == rotates
        if rotates:
            assert_same(ROWS.norm(p.detach()), ROWS.norm(p.detach()), 1e-12)
        else:
            assert (ROWS.norm(p.detach()) / before - 1).abs().max() > 0.01


def test_units_may_be_changed_in_the_middle():
    p = weight()
    opt = rotational.AdamW([p], weight_decay=0.1)
    for units in ("neuron", "tensor", Neurons((1,))):
        opt.param_groups[0]["units"] = units
        for t in range(2):
            give_gradients([p], t)
            opt.step()
        assert opt.state[p]["norm"].numel() == {"neuron": 5, "tensor": 1}.get(str(units), 8)


def test_large_parameters_are_cut_to_the_same_numbers(monkeypatch):
    """Every batch limit gives the same run: the rule and the rotation know no batches."""
    results = []
    for limit in (1 << 17, 30, 1):
        monkeypatch.setattr(pieces, "CACHED", limit)
        _, parameters = running(maximize=True)
        results.append([p.detach().clone() for p in parameters])
    for got in results[1:]:
        assert_same(got, results[0], 1e-14)


def test_a_compiled_training_step_takes_the_steps_of_one_that_is_not():
    def trained(compiled):
        torch.manual_seed(0)
        model = nn.Linear(8, 4)
        opt = rotational.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)

        def train(x):
            opt.zero_grad()
            model(x).square().sum().backward()
            opt.step()

        step = torch.compile(train, backend="eager") if compiled else train
        for x in torch.randn(4, 5, 8):
            step(x)
        return model.weight.detach(), opt.state[model.weight]["turns"]

    assert_same(trained(True), trained(False))
