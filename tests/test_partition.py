"""Partitions and param groups of whole models: ties, overrides, parametrizations, unknown layers, the table."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from layouts import Conv1D
from rotational.layers import groups, neurons, partition
from rotational.neurons import ROWS, Neurons

COLUMNS = Neurons(axes=(1,))
QKV = Neurons(parts=(("q", 4), ("k", 4), ("v", 4)))


# Whole models ---------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """An embedding whose weight a head reads too."""

    def __init__(self, head: nn.Module, embedding: nn.Module | None = None) -> None:
        super().__init__()
        self.embed = embedding or nn.Embedding(6, 4)
        self.head = head
        self.head.weight = self.embed.weight


class Mixed(nn.Module):
    """Parameters of its own that no rule knows, beside layers that are known."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 3, 4))
        self.scale = nn.Parameter(torch.ones(4))
        self.qkv = nn.Linear(4, 12)
        self.norm = nn.LayerNorm((3, 4))


def test_partition_is_in_the_models_order_and_read_only():
    model = nn.TransformerEncoderLayer(4, 2, 8)
    held = partition(model)
    names = [name for name, p in model.named_parameters() if p.ndim == 2]
    assert list(held) == names == [n for n in held if held.shape(n) == tuple(model.get_parameter(n).shape)]
    assert held.module("linear1.weight") == "Linear"
    with pytest.raises(TypeError, match="does not support item assignment"):
        held["linear1.weight"] = ROWS


def test_a_weight_of_the_model_itself():
    assert dict(partition(nn.Linear(3, 2))) == {"weight": ROWS}


def test_a_tied_weight_stands_once_under_its_first_name():
    held = partition(Tied(nn.Linear(4, 6)))
    assert dict(held) == {"embed.weight": ROWS}
    assert held.module("embed.weight") == "Embedding"


def test_a_module_used_twice_is_no_conflict():
    layer = nn.ConvTranspose1d(3, 3, 2)
    assert list(partition(nn.Sequential(layer, layer))) == ["0.weight"]


@pytest.mark.parametrize("head", [Conv1D(6, 4), nn.ConvTranspose1d(6, 4, 1)])
def test_two_readings_of_one_tensor_are_an_error_that_names_both(head):
    model = Tied(head, nn.Linear(4, 6))
    with pytest.raises(ValueError, match=r"embed \(Linear\) reads along axis 0") as error:
        partition(model)
    message = str(error.value)
    assert f"head ({type(head).__name__}) along axis 1" in message
    assert "overrides={'embed.weight': Neurons(axes=(0,)" in message
    # An override settles it, by any of the tensor's names.
    for name in ("embed.weight", "head.weight"):
        assert partition(model, {name: COLUMNS})["embed.weight"] == COLUMNS
    assert dict(partition(model, {"head.*": None})) == {}


def test_tied_weights_keep_the_first_parts_that_are_named():
    attention = nn.MultiheadAttention(4, 2)
    model = nn.ModuleDict({"a": nn.Linear(4, 12), "b": attention})
    attention.in_proj_weight = model["a"].weight
    assert partition(model)["a.weight"] == QKV


@pytest.mark.parametrize("lazy", [nn.LazyLinear(3), nn.LazyConv2d(3, 2), nn.LazyBatchNorm1d()])
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_lazy_parameters_ask_for_a_batch(lazy):
    for call in (partition, lambda m: groups(m, 0.1)):
        with pytest.raises(ValueError, match=r"'0\.weight' has no shape yet. Run one batch"):
            call(nn.Sequential(lazy))


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_a_lazy_layer_is_known_after_one_batch():
    model = nn.Sequential(nn.LazyConvTranspose1d(3, 2))
    model(torch.zeros(1, 5, 4))
    assert dict(partition(model)) == {"0.weight": COLUMNS}


def test_integer_and_empty_weights_hold_no_neurons():
    packed, empty = nn.Linear(4, 4), nn.Linear(4, 4)
    packed.weight = nn.Parameter(torch.zeros(4, 1, dtype=torch.uint8), requires_grad=False)
    empty.weight = nn.Parameter(torch.zeros(0, 4))
    held = partition(nn.Sequential(packed, empty))
    assert dict(held) == {}
    assert held.left_out == ()


def test_what_is_no_model_is_said():
    with pytest.raises(TypeError, match=r"expected a torch.nn.Module, got generator"):
        partition(nn.Linear(2, 2).parameters())
    with pytest.raises(TypeError, match=r"neurons: expected a torch.nn.Module, got str"):
        neurons("Linear")


# Overrides ------------------------------------------------------------------------------------------------


def test_a_fused_projection_gets_its_parts_by_name():
    model = nn.ModuleList(Mixed() for _ in range(2))
    held = partition(model, {"*.qkv.weight": QKV})
    assert [held[f"{i}.qkv.weight"].parts for i in range(2)] == [QKV.parts] * 2


def test_stacked_experts_by_name():
    model = nn.ParameterDict({"experts": torch.ones(3, 5, 4), "router": torch.ones(3, 4)})
    held = partition(model, {"experts": Neurons(axes=(0, 1)), "router": ROWS})
    assert (held["experts"].count((3, 5, 4)), held["experts"].size((3, 5, 4))) == (15, 4)
    assert held.module("experts") == "ParameterDict"
    assert held.left_out == ()


def test_the_last_pattern_wins():
    rules = {"*": None, "qkv.*": ROWS}
    assert dict(partition(Mixed(), rules)) == {"qkv.weight": ROWS}
    assert dict(partition(Mixed(), dict(reversed(rules.items())))) == {}


@pytest.mark.parametrize(
    ("overrides", "kind", "says"),
    [
        ({"qvk.weight": ROWS}, ValueError, "no parameter has such a name; the nearest are qkv.weight"),
        ({"QKV.*": None}, ValueError, "no parameter has such a name"),
        ({"qkv.bias": ROWS}, ValueError, "only vectors and scalars"),
        ({"qkv.weight": (0,)}, TypeError, r"expected Neurons\(...\), or None"),
        ({"qkv.weight": Neurons(axes=(2,))}, ValueError, "qkv.weight has only 2 axes"),
        ({"qkv.weight": Neurons(parts=(("q", 4),))}, ValueError, "parts of qkv.weight do not add up to 12"),
        ({"qkv.weight": Neurons(axes=(0,), split=5)}, ValueError, "qkv.weight, .* does not divide into 5"),
    ],
)
def test_overrides_that_cannot_be_are_said(overrides, kind, says):
    with pytest.raises(kind, match=says):
        partition(Mixed(), overrides)


# A user's own layers --------------------------------------------------------------------------------------


def test_a_registered_layer_is_known_and_so_are_its_subclasses():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 5, 4))
            self.shift = nn.Parameter(torch.ones(2, 5))

    class Gated(Experts):
        pass

    assert partition(Experts()).left_out == ("weight", "shift")

    @neurons.register(Experts)
    def _(layer):
        return {"weight": Neurons(axes=(0, 1)), "shift": None}

    held = partition(nn.Sequential(Experts(), Gated()))
    assert dict(held) == {"0.weight": Neurons(axes=(0, 1)), "1.weight": Neurons(axes=(0, 1))}
    assert held.left_out == ()

    @neurons.register(Gated)
    def _(layer):
        return {"wieght": ROWS}

    with pytest.raises(ValueError, match=r"neurons\(Gated\): the rule names 'wieght', .* are weight, shift"):
        partition(Gated())


def test_what_a_subclass_adds_to_a_known_layer_is_left_out():
    class LowRank(nn.Linear):
        def __init__(self):
            super().__init__(4, 3)
            self.down = nn.Parameter(torch.ones(2, 4))

    held = partition(nn.Sequential(LowRank()))
    assert dict(held) == {"0.weight": ROWS}
    assert held.left_out == ("0.down",)


# Parametrizations -----------------------------------------------------------------------------------------


def snapshot(model):
    return {k: v.clone() for k, v in model.state_dict().items()}, [m.training for m in model.modules()]


@pytest.mark.parametrize("layer", [nn.Linear(4, 3), nn.ConvTranspose2d(4, 6, 3, groups=2), nn.Conv1d(4, 3, 2)])
@pytest.mark.parametrize(
    ("wrap", "behind"),
    [
        (parametrizations.spectral_norm, "original"),
        (parametrizations.weight_norm, "original1"),
    ],
)
def test_a_parametrized_weight_stands_under_its_real_name(layer, wrap, behind):
    reading = neurons(layer)["weight"]
    model = nn.Sequential(wrap(copy.deepcopy(layer)))
    before, training = snapshot(model)
    held = partition(model)
    assert dict(held) == {f"0.parametrizations.weight.{behind}": reading}
    assert held.module(f"0.parametrizations.weight.{behind}") == type(layer).__name__
    assert held.left_out == ()  # the magnitude of weight_norm is a gain
    # Looking leaves no trace: spectral_norm would move its power iteration in training mode.
    after, still = snapshot(model)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert training == still


def test_a_parametrization_of_another_shape_is_left_out():
    class LowRank(nn.Module):
        def forward(self, up, down):
            return up @ down

        def right_inverse(self, weight):
            return weight[:, :2].clone(), weight[:2].clone()

    model = nn.Sequential(nn.Linear(4, 4))
    nn.utils.parametrize.register_parametrization(model[0], "weight", LowRank())
    held = partition(model)
    assert held.left_out == ("0.parametrizations.weight.original0", "0.parametrizations.weight.original1")
    assert held.module(held.left_out[0]) == "Linear"


def test_the_older_hooks():
    with pytest.warns(FutureWarning):
        normed = nn.utils.weight_norm(nn.ConvTranspose1d(4, 3, 2))
    model = nn.ModuleDict(
        {
            "norm": normed,
            "spectral": nn.utils.spectral_norm(nn.Linear(4, 3)),
            "pruned": prune.l1_unstructured(nn.Linear(4, 3), "weight", 0.5),
        }
    )
    held = partition(model)
    expected = {"norm.weight_v": COLUMNS, "spectral.weight_orig": ROWS, "pruned.weight_orig": ROWS}
    assert dict(held) == expected
    assert held.left_out == ()


# The table ------------------------------------------------------------------------------------------------


def test_the_partition_prints_as_a_table():
    model = nn.ModuleDict({"block": Mixed(), "up": nn.ConvTranspose1d(40, 60, 3, groups=2)})
    table = """\
parameter         layer            shape        along               neurons  size  parts
block.qkv.weight  Linear           [12, 4]      axis 0                   12     4  q:4 k:4 v:4
up.weight         ConvTranspose1d  [40, 30, 3]  axes 0, 2 of 2 groups       60    60

Left out, because no rule knows their layer (name them in overrides=...):
  block.position [1, 3, 4] of Mixed"""
    # One space or many: the columns are as wide as they need to be.
    held = partition(model, {"*qkv.weight": QKV})
    assert [line.split() for line in str(held).splitlines()] == [line.split() for line in table.splitlines()]
    assert repr(held) == str(held)
    header, *rows = str(held).splitlines()[:3]
    for column in ("layer", "shape", "along"):
        at = header.index(column)
        assert all(row[at - 1] == " " != row[at] for row in rows)


# Groups ---------------------------------------------------------------------------------------------------


def test_groups_put_neurons_first_and_all_else_without_decay():
    model = nn.Sequential(nn.Embedding(6, 4), nn.LayerNorm(4), nn.ConvTranspose1d(4, 3, 2))
    first, second = groups(model, 0.1, center=False)
    assert first.keys() == {"params", "param_names", "neurons", "weight_decay", "center"}
    assert first["param_names"] == ["0.weight", "2.weight"]
    assert [id(p) for p in first["params"]] == [id(model[0].weight), id(model[2].weight)]
    assert first["neurons"] == [ROWS, COLUMNS]
    assert (first["weight_decay"], first["center"]) == (0.1, False)
    assert second["param_names"] == ["1.weight", "1.bias", "2.bias"]
    assert [id(p) for p in second["params"]] == [id(model[1].weight), id(model[1].bias), id(model[2].bias)]
    assert {k: v for k, v in second.items() if k not in ("params", "param_names")} == {
        "weight_decay": 0.0,
        "rotational": False,
    }


def test_groups_hold_every_trained_parameter_once():
    model = Tied(nn.Linear(4, 6))
    model.head.bias.requires_grad_(False)
    assert [g["param_names"] for g in groups(model, 0.1)] == [["embed.weight"]]
    model.embed.weight.requires_grad_(False)
    assert groups(model, 0.1) == []
    assert [g["param_names"] for g in groups(nn.LayerNorm(3), 0.1)] == [["weight", "bias"]]


def test_weights_of_one_entry_cannot_turn_and_stand_with_the_gains():
    model = nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 2))
    first, second = groups(model, 0.1)
    assert first["param_names"] == ["1.weight"]
    assert "0.weight" in second["param_names"]


def test_groups_warn_once_of_what_no_rule_knows():
    model = nn.ModuleList([Mixed(), Mixed()])
    with pytest.warns(UserWarning, match=r"0\.position \[1, 3, 4\] of Mixed, 1\.position") as caught:
        _, second = groups(model, 0.1)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert {"0.position", "1.position"} <= set(second["param_names"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        groups(model, 0.1, overrides={"*.position": None})
        first, _ = groups(model, 0.1, overrides={"*.position": Neurons(axes=(0, 1))})
        assert "0.position" in first["param_names"]
        for layer in model:
            layer.position.requires_grad_(False)
        groups(model, 0.1)  # frozen ones take no step, so there is nothing to warn of


@pytest.mark.parametrize("weight_decay", [-0.1, math.inf, math.nan])
def test_groups_refuse_a_weight_decay_that_is_no_size(weight_decay):
    with pytest.raises(ValueError, match=r"groups\(weight_decay=.*expected a finite number with weight_decay >= 0"):
        groups(nn.Linear(2, 2), weight_decay)


def test_groups_refuse_options_that_they_make_themselves():
    with pytest.raises(ValueError, match=r"groups\(neurons=...\)"):
        groups(nn.Linear(2, 2), 0.1, neurons=[ROWS])


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_torch_optimizers_take_the_same_groups(kind, tmp_path):
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    optimizer = kind(groups(model, 0.1), lr=0.1)
    model(torch.ones(2, 4)).sum().backward()
    before = snapshot(model)[0]
    optimizer.step()
    assert not torch.equal(before["0.weight"], model[0].weight)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0.0]
    assert [g["param_names"] for g in optimizer.param_groups] == [
        ["0.weight"],
        ["0.bias", "1.weight", "1.bias"],
    ]
    # A checkpoint with Neurons in its groups opens without trusting the file.
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    state = torch.load(tmp_path / "optimizer.pt", weights_only=True)
    assert state["param_groups"][0]["neurons"] == [ROWS]
    kind(groups(model, 0.1), lr=0.1).load_state_dict(state)
