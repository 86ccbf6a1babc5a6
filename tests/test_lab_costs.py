"""Estimated hours on a GPU: FLOPs against torch's own counter, and the bounds of a step."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rotational.lab import costs, models
from rotational.lab.declare import Data, Model, Optimizer, Run
from rotational.lab.models import ImageForm, PairForm, TextForm
from rotational.paper.figures import FIGURES

RUN = Run(Model("resnet20"), Data("cifar10"), Optimizer("sgd", 0.1, 1e-4), steps=360_000, batch=1)


def counted(model: torch.nn.Module, *inputs: torch.Tensor) -> int:
    """As torch counts the forward pass, whose attention it has a formula for on GPUs alone: written out here."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (Model("resnet20"), "cifar10"),
        (Model("resnet18"), "cifar100"),
        (Model("resnet18", width=0.7), "cifar10"),
        (Model("resnet50"), "imagenet"),
        (Model("vgg13"), "cifar10"),
    ],
)
def test_flops_of_convolutional_networks_are_those_that_torch_counts(model, data):
    side, classes = costs.SIDES[data]
    built = models.build(model, ImageForm(classes, 3, side)).eval()
    assert costs.forward(RUN.but(model=model, data=Data(data))) == counted(built, torch.zeros(1, 3, side, side))


def test_flops_of_transformers_are_those_that_torch_counts(monkeypatch):
    # Written out as two products, which torch counts.
    def attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False):
        return (q @ k.transpose(-2, -1)).softmax(-1) @ v

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    small = RUN.but(model=Model("gpt", width=48, blocks=2, heads=2), data=Data("wikitext103", context=24))
    monkeypatch.setattr(costs, "GPT2", 100)
    gpt = models.build(small.model, TextForm(100, 24)).eval()
    assert costs.forward(small) == counted(gpt, torch.zeros(1, 24, dtype=torch.long))
    deit = RUN.but(model=Model("deit_tiny"), data=Data("imagenet"))
    vit = models.build(deit.model, ImageForm(1000, 3, 224)).eval()
    assert costs.forward(deit) == counted(vit, torch.zeros(1, 3, 224, 224))
    # Of translation, scores of attention are left out: few words, and many products of the width.
    pair = RUN.but(model=Model("transformer", width=256, inner=512, blocks=2), data=Data("iwslt14", tokens=4096))
    monkeypatch.setattr(costs, "WORDS", 300)
    words = torch.full((1, 20), 5)
    seq = models.build(pair.model, PairForm(200, 300)).eval()
    assert costs.forward(pair) == pytest.approx(counted(seq, words, words) / 20, rel=0.04)
    assert costs.examples(pair) == 4096


def test_steps_take_ten_milliseconds_at_least_and_more_in_float32():
    assert costs.hours(RUN) == pytest.approx(1.0)
    big = RUN.but(model=Model("resnet50"), data=Data("imagenet"), batch=256)
    single, half = costs.hours(big), costs.hours(big.but(precision="bf16"))
    assert single is not None
    assert half is not None
    assert single == pytest.approx(3 * half)
    assert half == pytest.approx(360_000 * 3 * 256 * 8.18e9 / 6e13 / 3600, rel=0.01)


def test_every_run_at_the_paper_s_scale_has_an_estimate_and_no_other_does():
    runs = [r for f in FIGURES for r in f.jobs("paper") if isinstance(r, Run)]
    assert all(costs.hours(run) is not None for run in runs)
    assert costs.hours(RUN.but(data=Data("digits"))) is None
    assert costs.hours(RUN.but(model=Model("mlp"))) is None
