"""Laws of the rotational optimizers: against the paper's algorithm, and at the edges of what users do."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn

import reference
import rotational
from compare import assert_same
from layouts import members
from rotational import rules
from rotational.kernels import pieces
from rotational.neurons import ROWS, Neurons

# The rules: how to make one, the reference's direction and rotation, and whether decay is coupled ------------


def lion_rotation(lr, weight_decay):
    return rotational.equilibrium(rules.lion((0.9, 0.99)), lr, weight_decay).rotation


def sgd(**options):
    return (
        partial(rotational.SGD, **options),
        partial(reference.sgd, **options),
        partial(reference.sgd_rotation, **options),
        True,
    )


RULES = {
    "AdamW": (rotational.AdamW, reference.adam, reference.adamw_rotation, False),
    "AdamW with short memory": (
        partial(rotational.AdamW, betas=(0.5, 0.8), eps=1e-3),
        partial(reference.adam, 0.5, 0.8, 1e-3),
        partial(reference.adamw_rotation, beta1=0.5),
        False,
    ),
    "SGD": sgd(),
    "SGD with momentum": sgd(momentum=0.9),
    "SGD with dampening": sgd(momentum=0.8, dampening=0.3),
    "SGD with Nesterov": sgd(momentum=0.9, nesterov=True),
    "Lion": (rotational.Lion, reference.lion, lion_rotation, False),
}
LR, DECAY = 0.01, 0.1

every_rule = pytest.mark.parametrize("rule", RULES)
every_optimizer = pytest.mark.parametrize(
    "make", [RULES[r][0] for r in ("AdamW", "SGD", "SGD with momentum", "Lion")], ids=["AdamW", "SGD", "SGDM", "Lion"]
)


def layers(dtype=torch.float64):
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(7, 5),
            "convolution": nn.Conv2d(3, 4, 2),
            "embedding": nn.Embedding(6, 4),
            "transposed": nn.ConvTranspose2d(4, 3, 2),
            "grouped": nn.ConvTranspose2d(4, 6, 3, groups=2),
            "norm": nn.LayerNorm(5),
        }
    )
    return model.to(dtype)


def give_gradients(parameters, t, zero=()):
    """White noise of its own size for every parameter and row, or nothing but zeros."""
    generator = torch.Generator().manual_seed(1000 + t)
    for i, p in enumerate(parameters):
        g = torch.randn(p.shape, generator=generator, dtype=torch.float64) * 10.0 ** (i % 5 - 2)
        p.grad = (g * (0 if t in zero else 1)).to(p.dtype)


# The law ----------------------------------------------------------------------------------------------------


@every_rule
@pytest.mark.parametrize(
    ("center", "units", "memory", "for_each"),
    [
        (True, "neuron", 0.9, None),
        (False, "neuron", 0.9, None),
        (True, "tensor", 0.9, None),
        (False, "tensor", 0.9, None),
        (True, "neuron", 0.99, False),
        (False, "tensor", 0.0, False),
    ],
)
def test_two_hundred_steps_are_the_papers_algorithm(rule, center, units, memory, for_each):
    make, direction, rotation, coupled = RULES[rule]
    model, zero = layers(), {0, 30, 31, 32, 120}
    partition = rotational.partition(model)
    runs = {}
    for name, p in model.named_parameters():
        w = p.detach().numpy()
        if name in partition:
            every = [list(range(p.numel()))]
            positions = every if units == "tensor" else members(partition[name], tuple(p.shape))
            runs[name] = reference.rotational(w, positions, direction(), center, memory)
        else:
            runs[name] = reference.plain(w, direction(), coupled)
        next(runs[name])

    groups = rotational.groups(model, weight_decay=DECAY)
    opt = make(groups, lr=LR, center=center, units=units, update_memory=memory, foreach=for_each)
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda t: min(1, t / 20) * (1 + math.cos(math.pi * t / 200)) / 2)
    expected = {}
    for t in range(200):
        lr = opt.param_groups[0]["lr"]
        give_gradients(model.parameters(), t, zero)
        for name, p in model.named_parameters():
            numbers = (rotation(lr, DECAY),) if name in partition else (lr, 0.0)
            expected[name] = runs[name].send((p.grad.numpy(), *numbers))
        opt.step()
        schedule.step()
    for name, p in model.named_parameters():
        # A first gradient of one sign makes Adam's direction nearly constant, and amplifies rounding.
        assert_same(p, expected[name], 1e-7, name)


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lengths_do_not_drift(make, dtype):
    p = nn.Parameter(torch.randn(12, 40, generator=torch.Generator().manual_seed(0)).to(dtype))
    opt = make([p], lr=0.1, weight_decay=0.1)
    before = ROWS.norm(p.detach().double())
    for t in range(500):
        give_gradients([p], t)
        opt.step()
    after = ROWS.norm(p.detach().double())
    assert ((after / before - 1).abs() < (2**-8 if dtype == torch.bfloat16 else 1e-6)).all()


def test_held_rotation_is_what_neurons_turn_by():
    p = nn.Parameter(torch.randn(50, 64, dtype=torch.float64))
    opt = rotational.AdamW([p], lr=1e-2, weight_decay=0.1)
    squares = []
    for t in range(400):
        give_gradients([p], t)
        before = p.detach().clone()
        opt.step()
        squares.append(ROWS.angle(before, p.detach()).square().mean().item())
    held = opt.param_groups[0]["held"]
    assert_same(held, reference.adamw_rotation(1e-2, 0.1), 1e-12)
    assert_same(math.sqrt(sum(squares[50:]) / 350), math.atan(held), 1e-2)


@pytest.mark.parametrize("scale", [1e-20, 1e18])
@every_optimizer
def test_gradients_of_any_size_keep_weights_finite(make, scale):
    p, bias = (nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0))) for shape in ((6, 9), (6,)))
    opt = make([p, bias], lr=1e-3, weight_decay=0.1)
    norm = ROWS.norm(p.detach())
    for _ in range(20):
        p.grad, bias.grad = torch.randn(p.shape) * scale, torch.randn(6)
        opt.step()
    assert p.isfinite().all()
    assert_same(ROWS.norm(p.detach()), norm, 1e-6)
    assert (p.detach() != p.detach()[0, 0]).any()


# What rotation is held --------------------------------------------------------------------------------------


def turned_by(opt, p, t=0):
    give_gradients([p], t)
    before = p.detach().clone()
    opt.step()
    return torch.tan(ROWS.angle(before, p.detach())).mean().item()


def weight(rows=5, size=8, dtype=torch.float64):
    return nn.Parameter(torch.randn(rows, size, generator=torch.Generator().manual_seed(0)).to(dtype))


def test_rotation_is_a_number_a_function_of_the_steps_or_a_rule():
    p = weight()
    opt = rotational.Adam([p], lr=0.1, weight_decay=0.01, rotation=0.02, update_memory=0)
    group = opt.param_groups[0]
    assert_same(turned_by(opt, p), 0.02, 1e-9)
    group["rotation"] = lambda step: 0.01 * (1 + step)  # one step has been taken
    assert_same(turned_by(opt, p), 0.02, 1e-9)
    assert_same(turned_by(opt, p), 0.03, 1e-9)
    group["rotation"] = rules.adamw()
    assert_same(turned_by(opt, p), reference.adamw_rotation(0.1, 0.01), 1e-9)
    group["rotation"] = rules.lion(linearised=True)
    assert_same(turned_by(opt, p), rotational.theory.rate(rules.lion(linearised=True), 0.1, 0.01), 1e-9)
    assert_same(group["held"], rotational.theory.rate(rules.lion(linearised=True), 0.1, 0.01), 1e-12)
    assert group["steps"] == 5


def test_a_rotation_of_its_own_needs_no_weight_decay():
    p = weight()
    opt = rotational.AdamW([p], weight_decay=0.0, rotation=0.02, update_memory=0)
    assert_same(turned_by(opt, p), 0.02, 1e-9)


def test_adam_includes_its_decay_in_the_direction():
    """L2 regularisation is not separable from Adam's direction: it stays in it."""
    (a, b), decay = (weight(), weight()), 0.5
    held = rotational.Adam([a], weight_decay=decay, rotation=0.01, center=False)
    free = rotational.Adam([b], weight_decay=0.0, rotation=0.01, center=False)
    for t in range(3):
        give_gradients([a], t)
        b.grad = a.grad + decay * b.detach()
        held.step()
        free.step()
    assert_same(a, b, 1e-12)


def test_sgds_decay_is_not_in_the_direction():
    """Coupled decay of a linear rule is radial: rotation stands in its place."""
    a, b = weight(), weight()
    opts = [rotational.SGD([p], momentum=0.9, weight_decay=d, rotation=0.1) for p, d in ((a, 0.5), (b, 0.0))]
    for t in range(3):
        give_gradients([a, b], t)
        b.grad = a.grad
        for opt in opts:
            opt.step()
    assert_same(a, b)


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


# What is refused, and changes nothing -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        (
            rotational.AdamW,
            {"weight_decay": 0.0},
            r"AdamW\(weight_decay=0.0\): a rotational group needs weight_decay > 0",
        ),
        (rotational.SGD, {}, r"SGD\(weight_decay=0.0\): a rotational group needs"),
        (rotational.Lion, {}, r"Lion\(weight_decay=0.0\): a rotational group needs"),
        (rotational.Adam, {"weight_decay": 0.1}, r"Adam: with L2 .* Pass rotation="),
        (rotational.Adam, {}, r"Adam: with L2 .* Pass rotation="),
        (rotational.AdamW, {"rotation": rules.adam_l2()}, r"AdamW: with L2 .* Pass rotation="),
        (rotational.AdamW, {"lr": -1.0}, r"AdamW\(lr=-1.0\): expected a finite number"),
        (rotational.AdamW, {"lr": math.nan}, r"AdamW\(lr=nan\)"),
        (rotational.AdamW, {"lr": math.inf}, r"AdamW\(lr=inf\)"),
        (rotational.AdamW, {"lr": torch.tensor(-1.0)}, r"AdamW\(lr=tensor"),
        (rotational.AdamW, {"weight_decay": -0.1}, r"AdamW\(weight_decay=-0.1\)"),
        (rotational.AdamW, {"weight_decay": math.nan}, r"AdamW\(weight_decay=nan\)"),
        (rotational.AdamW, {"betas": (0.9, 1.0)}, r"betas\[1\]=1.0"),
        (rotational.AdamW, {"betas": (-0.1, 0.9)}, r"betas\[0\]=-0.1"),
        (rotational.AdamW, {"betas": (0.9,)}, r"expected two numbers"),
        (rotational.AdamW, {"eps": -1e-8}, r"eps=-1e-08"),
        (rotational.AdamW, {"eps": math.nan}, r"eps=nan"),
        (rotational.AdamW, {"update_memory": 1.0}, r"AdamW\(update_memory=1.0\)"),
        (rotational.AdamW, {"update_memory": -0.1}, r"AdamW\(update_memory=-0.1\)"),
        (rotational.AdamW, {"rotation": -0.1}, r"AdamW\(rotation=-0.1\).* radians per step"),
        (rotational.AdamW, {"rotation": math.inf}, r"AdamW\(rotation=inf\)"),
        (rotational.AdamW, {"rotation": lambda step: math.nan}, r"AdamW\(rotation=nan\)"),
        (rotational.AdamW, {"units": "layer"}, r"AdamW\(units='layer'\): expected one of 'neuron', 'tensor'"),
        (rotational.AdamW, {"units": Neurons((2,))}, r"parameter 0 of its group has only 2 axes"),
        (rotational.AdamW, {"amsgrad": True}, r"AdamW\(amsgrad=True\): .*no such mode"),
        (rotational.AdamW, {"fused": True}, r"AdamW\(fused=True\)"),
        (rotational.AdamW, {"capturable": True}, r"AdamW\(capturable=True\)"),
        (rotational.AdamW, {"differentiable": True}, r"AdamW\(differentiable=True\)"),
        (rotational.Adam, {"amsgrad": True, "rotation": 0.1}, r"Adam\(amsgrad=True\)"),
        (rotational.SGD, {"fused": True, "weight_decay": 0.1}, r"SGD\(fused=True\)"),
        (rotational.SGD, {"momentum": 1.0, "weight_decay": 0.1}, r"momentum=1.0"),
        (rotational.SGD, {"momentum": -0.1, "weight_decay": 0.1}, r"momentum=-0.1"),
        (rotational.SGD, {"nesterov": True, "weight_decay": 0.1}, r"Nesterov momentum needs"),
        (rotational.Lion, {"lr": 0.5, "weight_decay": 3.0}, r"Lion\(lr=0.5, weight_decay=3\): .*must be below 1"),
    ],
)
def test_options_out_of_range_are_refused_with_a_sentence(make, options, says):
    p = nn.Parameter(torch.randn(3, 4) + 1)
    before = p.detach().clone()
    with pytest.raises(ValueError, match=says):
        make([p], **options)
    assert_same(p.detach(), before)


@pytest.mark.parametrize("options", [{"lr": "fast"}, {"weight_decay": None}, {"rotation": True}, {"rotation": "0.1"}])
def test_options_of_the_wrong_type_are_refused(options):
    with pytest.raises(TypeError, match=r"AdamW\(.*expected a number"):
        rotational.AdamW([weight()], **options)


def test_a_constructor_that_fails_in_its_second_group_leaves_the_weights_of_the_first():
    p, q = weight(), weight()
    before = p.detach().clone()
    with pytest.raises(ValueError, match="weight_decay"):
        rotational.AdamW([{"params": [p]}, {"params": [q], "weight_decay": 0.0}])
    assert_same(p.detach(), before)


def snapshot(opt):
    """All that an optimizer holds, as it is now."""
    groups = [{k: v for k, v in g.items() if k not in ("params", "neurons")} for g in opt.param_groups]
    ids = [[id(p) for p in g["params"]] for g in opt.param_groups]
    weights = [p.detach().clone() for g in opt.param_groups for p in g["params"]]
    state = [copy.deepcopy(dict(opt.state[p])) for g in opt.param_groups for p in g["params"] if p in opt.state]
    return copy.deepcopy(groups), ids, weights, state, len(opt.state)


def running(**options):
    """An optimizer of three groups after two steps: a rotational one, a plain one, one more."""
    model = layers()
    groups = rotational.groups(model, weight_decay=0.1)
    last = nn.Parameter(torch.randn(4, 5, dtype=torch.float64))
    opt = rotational.AdamW([*groups, {"params": [last], "param_names": ["last"], "weight_decay": 0.1}], **options)
    parameters = [*model.parameters(), last]
    for t in range(2):
        give_gradients(parameters, t)
        opt.step()
    return opt, parameters


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda g: g.update(weight_decay=0.0), r"AdamW\(weight_decay=0.0\): a rotational group needs"),
        (lambda g: g.update(lr=math.nan), r"AdamW\(lr=nan\)"),
        (lambda g: g.update(lr=-1.0), r"AdamW\(lr=-1.0\)"),
        (lambda g: g.update(betas=(0.9, 2.0)), r"betas\[1\]=2.0"),
        (lambda g: g.update(rotation=math.nan), r"AdamW\(rotation=nan\)"),
        (lambda g: g.update(update_memory=1.5), r"AdamW\(update_memory=1.5\)"),
        (lambda g: g.update(units="head"), r"AdamW\(units='head'\)"),
        (lambda g: setattr(g["params"][0], "grad", g["params"][0].grad.to_sparse()), r"step: .* has a sparse gradient"),
    ],
)
def test_what_goes_wrong_in_the_last_group_changes_no_other(spoil, says):
    opt, parameters = running()
    give_gradients(parameters, 2)
    before = snapshot(opt)
    group = opt.param_groups[-1]
    kept = {k: group[k] for k in ("lr", "weight_decay", "betas", "rotation", "update_memory", "units")}
    spoil(group)
    with pytest.raises(ValueError, match=says):
        opt.step()
    group.update(kept)
    assert_same(list(snapshot(opt)), list(before))


def test_a_sparse_gradient_names_the_parameter_and_the_remedy():
    model = nn.Embedding(5, 4, sparse=True)
    opt = rotational.AdamW(rotational.groups(model, weight_decay=0.1))
    model(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(ValueError, match=r"AdamW.step: parameter 'weight' has a sparse gradient.*sparse=False"):
        opt.step()


def test_complex_parameters_are_refused():
    with pytest.raises(ValueError, match="parameter 0 of its group is complex"):
        rotational.AdamW([nn.Parameter(torch.randn(3, 4, dtype=torch.complex64))], weight_decay=0.1)


@pytest.mark.parametrize(
    ("group", "says"),
    [
        ({"weight_decay": 0.0}, "needs weight_decay > 0"),
        ({"lr": math.inf}, "lr=inf"),
        ({"neurons": [ROWS, ROWS]}, r"1 parameters but 2 entries in 'neurons'.*rotational.groups"),
        ({"neurons": [Neurons((3,))]}, "has only 2 axes"),
        ({"neurons": [Neurons((0, 1), split=3)]}, "does not divide into 3 groups"),
    ],
)
def test_a_group_that_is_refused_leaves_the_optimizer_as_it_was(group, says):
    opt, _ = running()
    before = snapshot(opt)
    p = nn.Parameter(torch.randn(4, 5) + 1)
    kept = p.detach().clone()
    with pytest.raises(ValueError, match=says):
        opt.add_param_group({"params": [p], "param_names": ["p"], **group})
    assert_same(list(snapshot(opt)), list(before))
    assert p not in opt.state
    assert_same(p.detach(), kept)


def test_a_group_may_be_added_later():
    opt, parameters = running()
    p = nn.Parameter(torch.randn(4, 5, dtype=torch.float64) + 1)
    opt.add_param_group({"params": [p], "param_names": ["p"], "weight_decay": 0.1, "update_memory": 0.0})
    assert (ROWS.mean(p.detach()).abs() < 1e-15).all()
    norm = ROWS.norm(p.detach())
    give_gradients([*parameters, p], 2)
    before = p.detach().clone()
    opt.step()
    assert_same(ROWS.norm(p.detach()), norm, 1e-12)
    assert_same(ROWS.angle(before, p.detach()).mean().item(), reference.adamw_rotation(1e-3, 0.1), 1e-4)


def test_large_parameters_are_cut_to_the_same_numbers(monkeypatch):
    """Every batch limit gives the same run: the rule and the rotation know no batches."""
    results = []
    for limit in (1 << 17, 30, 1):
        monkeypatch.setattr(pieces, "CACHED", limit)
        _, parameters = running(maximize=True)
        results.append([p.detach().clone() for p in parameters])
    for got in results[1:]:
        assert_same(got, results[0], 1e-14)


@pytest.mark.parametrize(
    ("group", "says"),
    [
        ({"rotatoinal": False}, "'rotatoinal'; write 'rotational'"),
        ({"wieght_decay": 0.3}, "write 'weight_decay'"),
        ({"center": "yes"}, "center='yes'.: expected True or False"),
        ({"rotational": "no"}, "rotational='no'.: expected True or False"),
        ({"foreach": 1}, "foreach=1.: expected True or False"),
        ({"betas": (1.0, 0.9)}, "AdamW: adamw.betas"),
    ],
)
def test_slips_in_a_group_are_a_sentence(group, says):
    with pytest.raises((TypeError, ValueError), match=says):
        rotational.AdamW([{"params": [weight()], **group}])
    rotational.AdamW([{"params": [weight()], "name": "mine", "initial_lr": 0.1, "max_momentum": 0.9}])
