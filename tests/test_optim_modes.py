"""Weights without memory, and torch's modes and default devices around a step, a load, and what users keep beside."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

import rotational

OPTIMIZERS: dict[str, dict[str, Any]] = {"AdamW": {}, "SGD": {"momentum": 0.9}, "Lion": {}, "Adam": {"rotation": 5e-3}}


def made(name: str, model: nn.Module, **options: Any) -> Any:
    return getattr(rotational, name)(model.parameters(), lr=1e-2, weight_decay=0.1, **OPTIMIZERS[name], **options)


def trained(name: str, **options: Any) -> tuple[nn.Module, Any]:
    model = nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4))
    opt = made(name, model, **options)
    for _ in range(4):
        opt.zero_grad()
        model(torch.randn(3, 8)).square().sum().backward()
        opt.step()
    return model, opt


def shapes(model: nn.Module, opt: Any) -> list[Any]:
    return [{key: (x.shape, x.dtype) for key, x in opt.state[p].items()} for p in model.parameters()]


@pytest.mark.parametrize("where", ["fake", "meta"])
@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_without_memory_get_the_state_that_others_get(name: str, fused: Any, where: str) -> None:
    expected = shapes(*trained(name))
    with warnings.catch_warnings(), FakeTensorMode() if where == "fake" else torch.device("meta"):
        warnings.simplefilter("error")
        model, opt = trained(name, fused=fused)
        model(torch.randn(3, 8)).square().sum().backward()
    assert shapes(model, opt) == expected
    opt.step()  # when the mode is over, too
    assert shapes(model, opt) == expected
    assert {group["kernel"] for group in opt.param_groups} == {"reference"}
    assert all(int(x["step"]) == 5 for x in opt.state.values() if where == "meta")  # counters are on the CPU


@pytest.mark.parametrize("fused", [True, "torch", "compiled", "native"])
@pytest.mark.parametrize("where", ["fake", "meta"])
def test_weights_without_memory_are_refused_by_what_needs_it(where: str, fused: Any) -> None:
    with FakeTensorMode() if where == "fake" else torch.device("meta"):
        model = nn.Linear(8, 4)
    with pytest.raises(ValueError, match=r"fused="):
        made("AdamW", model, fused=fused)


def test_nothing_is_said_aloud_of_weights_without_memory() -> None:
    code = """if True:
        import torch, rotational
        from torch._subclasses import FakeTensorMode
        with FakeTensorMode():
            layer = torch.nn.Linear(8, 4)
            opt = rotational.AdamW(layer.parameters(), lr=1e-2, weight_decay=0.1)
            for _ in range(4):
                layer(torch.randn(3, 8)).sum().backward()
                opt.step()
    """
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("", "")


def test_weights_that_have_memory_are_stepped_within_a_mode_of_those_that_have_none() -> None:
    torch.manual_seed(0)
    model, opt = trained("AdamW")
    again = copy.deepcopy(model)
    other = made("AdamW", again)
    other.load_state_dict(opt.state_dict())
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        p.grad, q.grad = (torch.ones_like(p) for _ in range(2))
    for _ in range(4):
        opt.step()
        with FakeTensorMode():
            other.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


def test_a_state_is_loaded_whatever_the_default_device_is() -> None:
    model, opt = trained("AdamW")
    with torch.device("meta"):
        opt.load_state_dict(opt.state_dict())
    assert {x.device.type for p in model.parameters() for x in opt.state[p].values()} == {"cpu"}
    opt.step()
    assert all(int(opt.state[p]["step"]) == 5 for p in model.parameters())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_and_lazy_tensors_in_the_state_are_the_users_own() -> None:
    model, opt = trained("AdamW")
    p = next(model.parameters())
    kept = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    lazy = nn.parameter.UninitializedParameter()
    opt.state[p].update(mine=kept, lazy=lazy, note="of which C knows nothing")
    opt.step()
    assert opt.state[p]["mine"] is kept
    assert int(opt.state[p]["step"]) == 5


def test_weights_with_gaps_are_said_to_have_gaps() -> None:
    p = nn.Parameter(torch.randn(6, 48)[:, :40])
    opt = rotational.AdamW([p], lr=1e-2, weight_decay=0.1)
    assert "weights with gaps between them" in opt.param_groups[0]["kernel_why"]
