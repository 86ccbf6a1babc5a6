"""What a neuron is, proven for every kind of layer: one neuron, one output unit."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from layouts import LAYERS, assert_one_unit_each, convolution, noise, projections
from rotational.layers import neurons, partition
from rotational.neurons import ROWS, Neurons

COLUMNS = Neurons(axes=(1,))
QKV = Neurons(parts=(("q", 4), ("k", 4), ("v", 4)))
every_layer = pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS)
every_weight = pytest.mark.parametrize(
    ("case", "parameter"),
    [pytest.param(case, p, id=f"{name}: {p}") for name, case in LAYERS.items() for p in case.holds],
)


# The proof: one neuron, one output unit -------------------------------------------------------------------


@every_weight
def test_a_neuron_changes_exactly_one_output_unit(case, parameter):
    assert_one_unit_each(case, parameter)


@settings(deadline=None, max_examples=60)
@given(
    dims=st.integers(1, 3),
    transposed=st.booleans(),
    sizes=st.tuples(*[st.integers(1, 3)] * 4),
    stride=st.integers(1, 2),
    padding=st.integers(0, 1),
    dilation=st.integers(1, 2),
)
def test_a_neuron_of_any_convolution_changes_exactly_one_channel(dims, transposed, sizes, stride, padding, dilation):
    inputs, outputs, batches, kernel = sizes
    make = getattr(nn, f"Conv{'Transpose' if transposed else ''}{dims}d")
    options = {"groups": batches, "stride": stride, "padding": padding, "dilation": dilation}
    assert_one_unit_each(convolution(make, inputs * batches, outputs * batches, kernel, **options), "weight")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("Linear", COLUMNS),
        ("Linear", Neurons(axes=())),
        ("Embedding", COLUMNS),
        ("Conv2d", Neurons(axes=(0, 1))),
        ("Conv1d grouped", Neurons(axes=(0, 2), split=2)),
        ("ConvTranspose1d", ROWS),
        ("ConvTranspose2d", ROWS),
        ("ConvTranspose1d grouped", COLUMNS),
        ("ConvTranspose1d grouped", ROWS),
        ("Bilinear", Neurons(axes=(0, 1))),
        ("transformers' Conv1D", ROWS),
    ],
)
def test_the_proof_fails_for_a_wrong_partition(name, wrong):
    with pytest.raises(AssertionError, match="changed the units"):
        assert_one_unit_each(LAYERS[name], "weight", wrong)


@every_layer
def test_nothing_else_is_a_neuron(case):
    held = partition(case.layer())
    assert tuple(held) == case.holds
    assert held.left_out == ()


# Parts: the names of gates and projections are torch's ----------------------------------------------------


@pytest.mark.parametrize("part", "qkv")
def test_attention_parts_read_the_input_that_they_name(part):
    layer = nn.MultiheadAttention(4, 2, bias=False).double()
    inputs = {name: noise(3, 2, 4) for name in "qkv"} | {part: torch.zeros(3, 2, 4, dtype=torch.float64)}
    seen = projections(layer, *inputs.values())
    blocks = dict(zip("qkv", seen.split(4, dim=-1), strict=True))
    assert partition(layer)["in_proj_weight"] == QKV
    assert [name for name, block in blocks.items() if not block.any()] == [part]


def one_gate_wide_open(make, part):
    """New and old hidden state (and cell) after a step in which all weights but one gate's are zero."""
    layer, start = make(1, 1, bias=False).double(), 0
    with torch.no_grad():
        layer.weight_hh.zero_()
        layer.weight_ih.zero_()
        for name, rows in partition(layer)["weight_ih"].parts:
            layer.weight_ih[start : start + rows] = 40.0 if name == part else 0.0
            start += rows
        one, h = torch.ones(1, 1, dtype=torch.float64), torch.full((1, 1), 0.3, dtype=torch.float64)
        return layer(one, (h, h)) if make is nn.LSTMCell else layer(one, h)


@pytest.mark.parametrize(
    ("part", "hidden", "cell"),
    [
        ("input", 0.5 * math.tanh(0.15), 0.15),
        ("forget", 0.5 * math.tanh(0.3), 0.3),
        ("cell", 0.5 * math.tanh(0.65), 0.65),
        ("output", math.tanh(0.15), 0.15),
    ],
)
def test_lstm_gates_do_what_they_are_called(part, hidden, cell):
    h, c = one_gate_wide_open(nn.LSTMCell, part)
    assert (h.item(), c.item()) == pytest.approx((hidden, cell))


@pytest.mark.parametrize(("part", "hidden"), [("reset", 0.15), ("update", 0.3), ("new", 0.65)])
def test_gru_gates_do_what_they_are_called(part, hidden):
    assert one_gate_wide_open(nn.GRUCell, part).item() == pytest.approx(hidden)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_layers_have_the_gates_of_their_cells(kind):
    layer, cell = getattr(nn, kind)(5, 4, num_layers=2), getattr(nn, f"{kind}Cell")(5, 4)
    parts = neurons(cell)["weight_ih"].parts
    assert len(parts) == {"LSTM": 4, "GRU": 3}[kind]
    assert {n.parts for n in neurons(layer).values()} == {parts}
