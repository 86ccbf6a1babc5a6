"""What is seen of many tensors at once: where each lies and how; and nothing that moved is stepped where it was."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rotational
from rotational.kernels import look as module
from rotational.kernels.look import ADDRESS, EMPTY, HOW, OBJECT, Known, ask, look

WHOLE = torch.arange(48.0).reshape(6, 8)
VIEWS: dict[str, Tensor] = {
    "all of it": WHOLE,
    "a row further": WHOLE[1:],
    "columns": WHOLE.T,
    "every second": WHOLE[:, ::2],
    "a number": WHOLE[2, 3],
    "repeated": WHOLE[:1].expand(6, 8),
    "in double": WHOLE.double(),
    "in bfloat16": WHOLE.bfloat16(),
    "whole numbers": WHOLE.int(),
    "complex": torch.view_as_complex(WHOLE.reshape(6, 4, 2)),
    "a parameter": nn.Parameter(torch.ones(6, 8)),
    "channels last": torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "in order": torch.ones(2, 3, 4, 5),
    "seven axes": torch.ones(1, 2, 1, 2, 1, 2, 3),
}

needs_look = pytest.mark.skipif(
    look([WHOLE]) is None, reason="this torch has no table of functions for C, or the package no compiled library"
)


@needs_look
def test_c_sees_where_each_lies_as_torch_says() -> None:
    values: list[Any] = [*VIEWS.values(), None]
    found = look(values)
    assert found is not None
    assert found[OBJECT].tolist() == list(map(id, values))
    assert found[ADDRESS].tolist() == [*(x.data_ptr() for x in VIEWS.values()), 0]
    assert found[HOW, -1] == 0
    assert np.array_equal(ask(values)[:HOW], found[:HOW])


def there() -> tuple[list[list[Tensor]], dict[Tensor, dict[str, Any]]]:
    """Two lists of tensors, with states; the last tensor has none."""
    lists = [[torch.ones(3, 4), torch.ones(2)], [torch.ones(5)]]
    states: dict[Tensor, dict[str, Any]] = {x: {"a": torch.zeros_like(x), "b": torch.zeros(())} for x in lists[0]}
    return lists, states


def known(lists: Any, states: Any) -> Known:
    values = [x for one in lists for x in one] + [x for state in states.values() for x in state.values()]
    keys = [key for owner, state in states.items() for key in (owner, *state)]
    found = look(values)
    assert found is not None
    return Known([0, 2, 3], keys, values, found)


def exchange_names(state: dict[str, Any]) -> None:
    a, b = state.pop("a"), state.pop("b")
    state["b"], state["a"] = a, b  # the same values in the same order


CHANGES: dict[str, Callable[[Any, Any, Tensor], Any]] = {
    "another tensor": lambda lists, states, p: lists[0].__setitem__(1, torch.ones(2)),
    "one more": lambda lists, states, p: lists[1].append(torch.ones(2)),
    "one less": lambda lists, states, p: lists[1].pop(),
    "one that moves on": lambda lists, states, p: lists[1].insert(0, lists[0].pop()),
    "a tuple": lambda lists, states, p: lists.__setitem__(1, tuple(lists[1])),
    "one that lies elsewhere": lambda lists, states, p: setattr(p, "data", p.data.clone()),
    "one of another shape": lambda lists, states, p: p.resize_(4, 3),
    "one transposed": lambda lists, states, p: p.t_(),
    "one shared": lambda lists, states, p: p.share_memory_(),
    "a state more": lambda lists, states, p: states.__setitem__(lists[1][0], {}),
    "a state less": lambda lists, states, p: states.popitem(),
    "states in another order": lambda lists, states, p: states.__setitem__(p, states.pop(p)),
    "a value more": lambda lists, states, p: states[p].__setitem__("c", torch.ones(1)),
    "a value less": lambda lists, states, p: states[p].pop("b"),
    "another value": lambda lists, states, p: states[p].__setitem__("b", torch.zeros(())),
    "a value that lies elsewhere": lambda lists, states, p: setattr(states[p]["a"], "data", torch.zeros(3, 4)),
    "names exchanged": lambda lists, states, p: exchange_names(states[p]),
    "a number": lambda lists, states, p: states[p].__setitem__("b", 3.0),
    "None": lambda lists, states, p: states[p].__setitem__("b", None),
    "no dict": lambda lists, states, p: states.__setitem__(p, [1]),
}


@needs_look
@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_is_no_longer_what_was_known(change: str) -> None:
    lists, states = there()
    seen = known(lists, states)
    assert seen.lasts(lists, states)
    lists[0][0].mul_(2)  # values may change, and that is all
    assert seen.lasts([list(x) for x in lists], dict(states))
    CHANGES[change](lists, states, lists[0][0])
    assert not seen.lasts(lists, states)


def test_what_else_users_keep_in_the_state_is_left_alone() -> None:
    p = nn.Parameter(torch.ones(4, 4))
    opt = rotational.AdamW([p], lr=1e-2, weight_decay=0.1)
    for i in range(4):
        opt.state["epoch"] = i  # pyright: ignore
        stepped(p, opt, torch.randn(4, 4))
    assert opt.state["epoch"] == 3  # pyright: ignore
    assert int(opt.state[p]["step"]) == 4


def test_a_tensor_that_keeps_its_storage_to_itself_is_no_reason_to_refuse_a_step() -> None:
    p = nn.Parameter(torch.ones(4, 4))
    opt = rotational.AdamW([p], lr=1e-2, weight_decay=0.1)
    for i in range(6):
        stepped(p, opt, torch.randn(4, 4))
        if i == 1:
            opt.state[p]["mine"] = nn.parameter.UninitializedParameter()
    assert int(opt.state[p]["step"]) == 6


def seers() -> list[Any]:
    both: list[tuple[str, Callable[[list[Any]], np.ndarray | None]]] = [
        ("C", look),
        ("Python", lambda values: ask(values)),
    ]
    return [pytest.param(see, id=name, marks=[needs_look] if name == "C" else []) for name, see in both]


@pytest.mark.parametrize("see", seers())
def test_two_are_alike_if_shape_strides_and_precision_are(see: Callable[[list[Any]], np.ndarray]) -> None:
    ways = see(list(VIEWS.values()))[HOW].tolist()
    assert 0 not in ways
    same = [ways.index(way) for way in ways]
    # The parameter is as all of it; all others differ.
    assert same == [0 if name == "a parameter" else i for i, name in enumerate(VIEWS)]


@pytest.mark.parametrize("see", seers())
def test_strides_of_axes_of_one_entry_make_no_difference(see: Callable[[list[Any]], np.ndarray]) -> None:
    x = torch.ones(4, 1, 3)
    same, other = x.as_strided((4, 1, 3), (3, 77, 1)), x.as_strided((4, 1, 3), (2, 3, 1))
    a, b, c = see([x, same, other])[HOW].tolist()
    assert a == b != c


@pytest.mark.parametrize("see", seers())
def test_what_has_no_entries_lies_somewhere_all_the_same(see: Callable[[list[Any]], np.ndarray]) -> None:
    found = see([torch.ones(0, 3), torch.ones(3, 0), None])
    assert found[ADDRESS].tolist() == [EMPTY, EMPTY, 0]
    assert len(set(found[HOW].tolist())) == 3


@pytest.mark.parametrize(
    "odd",
    [torch.ones(3).to_sparse(), torch._efficientzerotensor(3), torch.ones(3, device="meta"), 3.0, "three"],  # pyright: ignore
    ids=["sparse", "nothing but zeros", "on meta", "a number", "a word"],
)
def test_what_has_no_memory_of_its_own_is_asked_in_python(odd: Any) -> None:
    assert look([WHOLE, odd]) is None
    assert ask([WHOLE, odd])[ADDRESS].tolist() == [WHOLE.data_ptr(), 0]


def trained(steps: int = 6) -> list[Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3))
    model[0].bias.requires_grad_(False)  # one without a gradient
    opt = rotational.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(steps):
        opt.zero_grad()
        model(torch.randn(7, 6)).square().sum().backward()
        opt.step()
    return [p.detach().clone() for p in model.parameters()]


def test_steps_are_the_same_where_torch_tells_c_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = trained()
    monkeypatch.setattr(module, "_calls", lambda: None)
    assert all(torch.equal(a, b) for a, b in zip(trained(), expected, strict=True))


def test_a_table_of_another_name_or_version_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("VERSION", (2, 0)), ("VERSION", (1, 99)), ("NAME", b"another")):
        with monkeypatch.context() as change:
            change.setattr(module, name, value)
            module._calls.cache_clear()  # pyright: ignore[reportPrivateUsage]
            assert look([WHOLE]) is None
    monkeypatch.undo()
    module._calls.cache_clear()  # pyright: ignore[reportPrivateUsage]


@needs_look
def test_what_is_known_of_a_value_keeps_no_memory_of_it_and_refers_to_it_once() -> None:
    lists, states = there()
    seen = known(lists, states)
    assert seen.lasts(lists, states)
    value = states[lists[0][0]]["a"]
    views, memory = seen._views, value.untyped_storage()._weak_ref()  # pyright: ignore[reportPrivateUsage]
    assert [sum(view._base is x for view in views) for x in (value, *lists[0])] == [1, 0, 0]
    assert seen.lasts(lists, states)
    assert seen._views is views  # pyright: ignore[reportPrivateUsage]
    value.data = torch.zeros(3, 4)
    assert torch.UntypedStorage._expired(memory)  # pyright: ignore[reportPrivateUsage]
    assert not seen.lasts(lists, states)


def test_parameters_can_be_swapped_between_steps() -> None:
    p, q = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.full((4, 4), 2.0))
    opt = rotational.AdamW([p], lr=1e-2, weight_decay=0.1)
    for _ in range(4):
        stepped(p, opt, torch.randn(4, 4))
    torch.utils.swap_tensors(p, q)  # what refers to one in C++ would not let it go
    before = p.detach().clone()
    assert torch.equal(before, torch.full((4, 4), 2.0))
    stepped(p, opt, torch.randn(4, 4))
    assert not torch.equal(p, before)


def stepped(p: nn.Parameter, opt: Any, g: Tensor) -> None:
    p.grad = g
    opt.step()


@pytest.mark.parametrize("told", [True, False], ids=["C", "Python"])
@pytest.mark.parametrize("note", [True, False], ids=["a note in the state", "tensors only"])
def test_state_transposed_in_place_is_stepped_as_it_lies_now(
    told: bool, note: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not told:
        monkeypatch.setattr(module, "_calls", lambda: None)
    torch.manual_seed(0)
    start, grads = torch.randn(4, 4), torch.randn(3, 4, 4)
    weights: list[Tensor] = []
    for turned in (False, True):
        p = nn.Parameter(start.clone())
        opt = rotational.AdamW([p], lr=1e-2, weight_decay=0.1)
        for g in grads[:2]:
            stepped(p, opt, g.clone())
            if note:
                opt.state[p]["mine"] = "a note"
        moment = opt.state[p]["exp_avg"]
        if turned:
            moment.t_()  # the same memory, read the other way
        else:
            moment.copy_(moment.T.clone())
        stepped(p, opt, grads[2].clone())
        weights.append(p.detach())
    assert torch.allclose(*weights, rtol=1e-6, atol=0)


def test_a_refused_step_leaves_nothing_known() -> None:
    p, q = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(2, 2))
    opt = rotational.AdamW([p, q], lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        q.grad = torch.ones(2, 2)
        stepped(p, opt, torch.randn(4, 4))
    p.data = torch.ones(4, 5)
    before = q.detach().clone()
    for _ in range(2):  # nor does the second one take it for what it knows
        p.grad = torch.randn(4, 5)
        with pytest.raises(ValueError, match=r"exp_avg of parameter 0 .* has the shape \[4, 4\]"):
            opt.step()
    assert torch.equal(q, before)


def test_weights_that_come_back_after_a_refused_step_are_the_ones_that_are_stepped() -> None:
    torch.manual_seed(0)
    p, q = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 4))
    opt = rotational.AdamW([p, q], lr=1e-2, weight_decay=0.1)
    for _ in range(4):
        q.grad = torch.randn(4, 4)
        stepped(p, opt, torch.randn(4, 4))
    old, away = p.data, p.data.clone()
    p.data = away
    for _ in range(2):
        q.grad = torch.randn(4, 4)
        q.grad.data = torch.randn(3, 4)  # seen only when everything else has been decided
        p.grad = torch.randn(4, 4)
        with pytest.raises(ValueError, match="gradient"):
            opt.step()
    p.data = old
    before, elsewhere = old.clone(), away.clone()
    q.grad = torch.randn(4, 4)
    stepped(p, opt, torch.randn(4, 4))
    assert not torch.equal(p, before)
    assert torch.equal(away, elsewhere)


def test_rows_that_come_back_after_a_refused_step_still_turn_and_keep_their_lengths() -> None:
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(4, 4))
    opt = rotational.AdamW([p], lr=1e-2, weight_decay=0.1)
    for _ in range(4):
        stepped(p, opt, torch.randn(4, 4))
    old, norm = p.data, opt.state[p]["norm"].clone()
    p.data = old.reshape(16)
    p.grad = torch.randn(16)
    with pytest.raises(ValueError, match="shape"):
        opt.step()
    p.data = old
    stepped(p, opt, torch.randn(4, 4))
    assert torch.equal(opt.state[p]["norm"], norm)
    assert int(opt.state[p]["turns"]) == 5


def negated() -> tuple[nn.Parameter, Tensor]:
    """A weight with the gradient that autograd gives it, a view that is read with the other sign."""
    p = nn.Parameter(torch.ones(1))
    (torch.complex(torch.ones(1), p).conj() * torch.complex(torch.ones(1), torch.ones(1))).imag.sum().backward()
    assert p.grad is not None
    return p, p.grad


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "beside one without a gradient"])
def test_a_gradient_that_is_read_with_the_other_sign_is(alone: bool) -> None:
    p, g = negated()
    assert g.is_neg()
    value, before = float(g), float(p.detach())
    params = [p] if alone else [p, nn.Parameter(torch.ones(3))]
    opt = rotational.SGD(params, lr=0.1, weight_decay=0.0, rotational=False)
    opt.step()  # makes what is kept from step to step
    p.grad = negated()[1]
    opt.step()
    assert float(p.detach()) == pytest.approx(before - 2 * 0.1 * value)


@pytest.mark.parametrize("fused", ["native", None])
def test_a_gradient_that_is_read_with_the_other_sign_may_have_neighbours(fused: str | None) -> None:
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(6, 5))
    q = nn.Parameter(p.detach().clone())
    opts = [rotational.AdamW([x], lr=1e-2, weight_decay=0.1, fused=fused) for x in (p, q)]
    for g in torch.randn(4, 6, 5):
        p.grad, q.grad = torch._neg_view(g), -g
        for opt in opts:
            opt.step()
    assert torch.equal(p, q)


def test_states_that_are_exchanged_are_stepped_by_their_new_owners() -> None:
    torch.manual_seed(0)
    grads = torch.randn(3, 2, 4, 4)
    p, q = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 4))
    opt = rotational.AdamW([p, q], lr=1e-2, weight_decay=0.1)
    for g in grads[:2]:
        q.grad = g[1].clone()
        stepped(p, opt, g[0].clone())
    of_p, of_q = opt.state.pop(p), opt.state.pop(q)
    opt.state[q], opt.state[p] = of_p, of_q  # the same values in the same order
    expected = [0.9 * x["exp_avg"] + 0.1 * g for x, g in zip((of_q, of_p), grads[2], strict=True)]
    q.grad = grads[2][1].clone()
    stepped(p, opt, grads[2][0].clone())
    moments = [opt.state[x]["exp_avg"] for x in (p, q)]
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(moments, expected, strict=True))


def test_a_parameter_that_changes_its_group_takes_the_options_of_the_new_one() -> None:
    torch.manual_seed(0)
    p, q, r = (nn.Parameter(torch.randn(4, 4)) for _ in range(3))
    opt = rotational.AdamW(
        [{"params": [p, q], "lr": 1e-1}, {"params": [r], "lr": 0.0}], weight_decay=0.1, rotational=False
    )
    for moved in (False, True):
        if moved:
            opt.param_groups[1]["params"].insert(0, opt.param_groups[0]["params"].pop())
        before = q.detach().clone()
        for x in (p, q, r):
            x.grad = torch.randn(4, 4)
        opt.step()
        assert torch.equal(q, before) == moved
