"""The paper's own scale: its settings, one by one, and every page and claim of it on made-up results."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from xml.etree import ElementTree

import pytest
import torch

import faking
from rotational.lab import reproduce
from rotational.lab.computed import compute
from rotational.lab.declare import Computed, Imbalance, Model, Optimizer, Run, Schedule
from rotational.lab.figures import Job, Then
from rotational.lab.measures import Measured
from rotational.lab.models.layers import activation
from rotational.lab.reading import read
from rotational.lab.shelf import Shelf
from rotational.paper.figures import FIGURES
from rotational.report import figure, figure_panel

BY_NAME = {f.name: f for f in FIGURES}
FOURTEEN = (1e-6, 1e-5, 1e-4, 3e-4, 9e-4, 2.7e-3, 8.3e-3, 0.025, 0.05, 0.1, 0.3, 0.9, 2.7, 8.1)
SEVEN, FURTHER = (2.7e-4, 8.3e-4, 2.5e-3, 5e-3, 0.01, 0.03, 0.09), (3e-5, 9e-5, 0.27, 0.81)


def runs(name: str, label: str) -> list[Run]:
    (arm,) = [a for a in BY_NAME[name].arms("paper") if a.label == label]
    return [r for r in arm.runs if isinstance(r, Run)]


def one(name: str, label: str) -> Run:
    """The only point of an arm."""
    (run,) = {r.but(seed=0) for r in runs(name, label)}
    return run


def lrs(of: Iterable[Run]) -> list[float]:
    return sorted({r.optimizer.lr for r in of})


def decays(of: Iterable[Run]) -> list[float]:
    return sorted({r.optimizer.weight_decay for r in of})


def optimizer(run: Run) -> tuple[str, float, float]:
    return run.optimizer.rule, run.optimizer.lr, run.optimizer.weight_decay


# Settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "label", "model", "data", "rule", "batch", "steps"),
    [
        ("control", "CIFAR-10, small batch: ", "resnet20", "cifar10", ("adamw", 0.05, 0.01), 128, 78_125),
        ("control", "CIFAR-10, large batch: ", "resnet20", "cifar10", ("adamw", 0.16, 0.01), 2048, 4_882),
        ("control", "Vision transformer: ", "deit_tiny", "imagenet", ("adamw", 1e-3, 0.05), 1024, 375_341),
        ("control-others", "SGDM, small batch: ", "resnet20", "cifar10", ("sgd", 0.5, 1e-4), 128, 78_125),
        ("control-others", "SGDM, large batch: ", "resnet20", "cifar10", ("sgd", 4.8, 1e-4), 2048, 4_882),
        ("control-others", "Lion, small batch: ", "resnet20", "cifar10", ("lion", 5e-4, 1.0), 128, 78_125),
        ("control-others", "Lion, large batch: ", "resnet20", "cifar10", ("lion", 0.016, 1.0), 2048, 4_882),
        ("control-others", "ResNet-50, SGDM: ", "resnet50", "imagenet", ("sgd", 0.1, 1e-4), 256, 450_410),
    ],
)
def test_parity_on_images_has_the_paper_s_settings(name, label, model, data, rule, batch, steps):
    base, held = one(name, f"{label}baseline"), one(name, f"{label}rotational, zero-shot")
    assert (base.model.name, base.data.name, optimizer(base), base.batch, base.steps) == (
        *(model, data, rule, batch),
        steps,
    )
    assert base.schedule.shape == "cosine"
    # Warm-up over 5 epochs on CIFAR and for DeiT, over 1 for ResNet-50; the cosine ends at 1e-5.
    epochs = {"resnet20": 200 / 5, "deit_tiny": 300 / 5, "resnet50": 90}[model]
    assert base.schedule.warmup == pytest.approx(1 / epochs)
    assert base.schedule.multiple(steps - 1, steps) * base.optimizer.lr == pytest.approx(1e-5, rel=0.1)
    # Zero-shot: nothing else differs, but for the transformer's gains.
    options = {**dict(base.model.options), **({"layers": "gained"} if model == "deit_tiny" else {})}
    assert held == base.but(model=Model(model, **options), optimizer__rotational=True)
    assert {r.seed for r in runs(name, f"{label}baseline")} == {0, 1, 2}


@pytest.mark.parametrize(
    ("name", "label", "lr", "decay", "end"),
    [
        ("control", "CIFAR-10, large batch", 0.16, 0.08, 1e-5),
        ("control", "Vision transformer", 1e-3, 0.2, 1e-7),
        ("control-others", "SGDM, large batch", 4.8, 2e-4, 1e-5),
        ("control-others", "Lion, large batch", 0.016, 2.0, 1e-5),
    ],
)
def test_few_shot_raises_weight_decay_alone_along_the_square_of_the_cosine(name, label, lr, decay, end):
    few, zero = one(name, f"{label}: rotational, few-shot"), one(name, f"{label}: rotational, zero-shot")
    assert (few.optimizer.lr, few.optimizer.weight_decay) == (lr, pytest.approx(decay))
    assert few.schedule.shape == "cosine2"
    assert few.schedule.floor * lr == pytest.approx(end, rel=1e-5)
    assert few == zero.but(
        optimizer__weight_decay=few.optimizer.weight_decay,
        schedule__shape="cosine2",
        schedule__floor=few.schedule.floor,
    )


def test_translation_and_text_have_the_paper_s_settings():
    pairs = one("control-text", "Translation: AdamW")
    assert optimizer(pairs) == ("adamw", 5e-4, 1e-4)
    assert pairs.optimizer.betas == (0.9, 0.98)
    assert (pairs.steps, dict(pairs.data.options)["tokens"]) == (22_021, 4096)
    assert round(pairs.schedule.warmup * pairs.steps) == 4_000
    assert one("control-text", "Translation: rotational, more weight decay").optimizer.weight_decay == 0.4
    words = one("control-text", "Words: AdamW")
    assert optimizer(words) == ("adamw", 5e-3, 0.5)
    assert dict(words.model.options) == {
        "width": 768,
        "blocks": 12,
        "heads": 12,
        "std": 0.02,
        "residual": True,
        "dropout": 0.2,
    }
    assert (words.steps, words.batch, dict(words.data.options)["context"]) == (15_000, 3 * 55, 512)
    web = one("control-text", "Web text: AdamW")
    assert optimizer(web) == ("adamw", 4.8e-3, 0.1)
    assert (web.steps, web.batch, web.schedule) == (5_000, 480, Schedule("cosine", warmup=0.05))
    assert one("control-text", "Web text: rotational, its own lr").optimizer.lr == 9.6e-3
    assert all(r.optimizer.betas == (0.9, 0.95) for r in (words, web))
    assert all(r.precision == "bf16" for r in (pairs, words, web))


def test_dynamics_run_at_a_constant_lr():
    images, text = one("dynamics", "ResNet, SGDM"), one("dynamics", "GPT, AdamW")
    assert (optimizer(images), images.batch, images.steps) == (("sgd", 0.1, 1e-4), 256, 50 * 1_281_167 // 256)
    assert (optimizer(text), text.steps) == (("adamw", 6e-4, 0.1), 100_000)
    assert images.schedule == text.schedule == Schedule("constant")
    assert one("dynamics", "GPT standardized, AdamW").model == Model("gpt2", bias=False, layers="ws")


@pytest.mark.parametrize(
    ("name", "label", "product", "swept"),
    [
        *(
            ("lr-and-weight-decay", label, 5e-4, FOURTEEN)
            for label in ("AdamW", "rotational")
        ),
        ("lr-and-weight-decay", "rotational, gains and biases frozen", 5e-4, (1e-6, 0.05, 8.1)),
        ("lr-and-weight-decay-text", "AdamW", 2.5e-3, SEVEN),
        ("lr-and-weight-decay-text", "rotational", 2.5e-3, (*SEVEN, *FURTHER)),
        *(
            ("scale-sensitive", label, 2.5e-5, (5e-4, 5e-3, 5e-2, 0.5))
            for label in ("plain", "standardized weights", "batch norm", "tracked norm")
        ),
    ],
)  # fmt: skip
def test_sweeps_at_one_product_have_it_at_every_point(name, label, product, swept):
    found = runs(name, label)
    assert lrs(found) == sorted(swept)
    assert all(r.optimizer.lr * r.optimizer.weight_decay == pytest.approx(product, rel=1e-5) for r in found)
    assert {r.seed for r in found} == {0, 1, 2}
    assert all(r.optimizer.rotational == label.startswith("rotational") for r in found)
    if name == "lr-and-weight-decay":
        assert {(r.schedule.floor, r.steps, r.optimizer.gains) for r in found} == {
            (0.0, 200 * 45_000 // 128, "freeze" if "frozen" in label else "train")
        }


def test_warm_up_is_swept_over_ten_epochs_and_tried_over_ninety():
    ten = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2)
    chosen = {"SGDM, with": 3.2, "SGDM, without": 0.2, "rotational SGDM, with": 6.4, "rotational SGDM, without": 6.4}
    for way, lr in chosen.items():
        swept, whole = runs("warm-up", f"{way} warm-up"), one("warm-up", f"whole length, {way} warm-up")
        assert lrs(swept) == sorted(ten)
        assert optimizer(whole) == ("sgd", lr, 1e-4)
        for run, epochs in ((swept[0], 10), (whole, 90)):
            assert (run.batch, run.steps) == (8192, epochs * 1_281_167 // 8192)
            warm = 0 if "without" in way else 1 / epochs
            assert run.schedule.warmup == pytest.approx(warm, rel=0.01)
            assert run.schedule.floor * run.optimizer.lr == pytest.approx(1e-5)


def test_warm_up_of_a_gpt_goes_over_the_paper_s_scales_of_its_lr():
    for way, most in (("AdamW", 32), ("rotational", 64)):
        for when in ("with", "without"):
            (arm,) = [a for a in BY_NAME["warm-up-text"].arms("paper") if a.label == f"{way}, {when} warm-up"]
            found = runs("warm-up-text", arm.label)
            assert [lr / 6e-4 for lr in lrs(found)] == pytest.approx(
                [2.0**k for k in range(-1, round(math.log2(most)) + 1)]
            )
            assert {round(r.schedule.warmup * r.steps) for r in found} == {250 if when == "with" else 0}
            assert {(r.model.name, r.data.name, r.steps, r.optimizer.weight_decay) for r in found} == {
                ("gpt2", "openwebtext", 5_000, 0.1)
            }
            assert arm.count == len(found) + 2  # and two more seeds where it is best


def test_adam_has_the_authors_grids_and_balances_at_adamw_s_rotation():
    assert lrs(runs("adam-l2", "AdamW")) == lrs(runs("adam-l2", "Adam+L2")) == [0.2 * 2.0**k for k in range(-10, 1)]
    assert decays(runs("adam-l2", "AdamW")) == [1e-2 * 2.0**k for k in range(-2, 10)]
    assert decays(runs("adam-l2", "Adam+L2")) == [1e-3 * 2.0**k for k in range(-5, 5)]
    balanced = one("adam-l2", "Adam+L2, balanced")
    assert (optimizer(balanced), balanced.batch) == (("adam", 1.25e-2, 8e-2), 256)
    assert balanced.optimizer.rotation == pytest.approx(math.sqrt(2 * 1.25e-2 * 8e-2 / 19), rel=1e-3)
    assert {r.seed for r in runs("adam-l2", "Adam+L2, balanced")} == {0, 1, 2, 3, 4}


def test_weight_standardization_has_eleven_lrs_on_cifar_100():
    for label in ("layer norm", "layer norm, standardized weights", "layer norm, rotational"):
        found = runs("weight-standardization", label)
        assert lrs(found) == [0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0]
        assert {(r.data.name, r.batch, r.optimizer.weight_decay, dict(r.model.options)["norm"]) for r in found} == {
            ("cifar100", 256, 5e-4, "layer")
        }
        assert all(r.schedule.floor * r.optimizer.lr == pytest.approx(1e-5, rel=1e-5) for r in found)
    assert {r.optimizer.update_memory for r in runs("weight-standardization", "layer norm, rotational")} == {0.99}


def test_imbalance_has_the_paper_s_factors_shares_and_widths_each_at_its_best_decay():
    thirteen = [0.01 * 2.0**k for k in range(-5, 8)]

    def unevenly(name: str, label: str) -> set[Imbalance]:
        found = runs(name, label)
        assert decays(found) == thirteen
        assert {(r.model.name, r.optimizer.lr, r.batch, r.steps) for r in found} == {("resnet18", 0.1, 256, 35_156)}
        return {i for r in found if (i := r.optimizer.imbalance) is not None}

    factors, shares = (2.0, 3.0, 5.0, 8.0, 10.0), (0.1, 0.2, 0.3, 0.4, 0.5)
    assert unevenly("imbalance", "half slowed") == {Imbalance(0.5, f) for f in factors}
    assert unevenly("imbalance", "some slowed, as many sped up") == {Imbalance(0.25, f, 0.25) for f in factors}
    assert unevenly("imbalance-shares", "a share slowed 10-fold") == {Imbalance(p, 10.0) for p in shares}
    both = "a share, half of it slowed and half sped up 10-fold"
    assert unevenly("imbalance-shares", both) == {Imbalance(p / 2, 10.0, p / 2) for p in shares}
    assert unevenly("imbalance-shares", "balanced") == set()
    narrower = runs("imbalance-shares", "narrower networks")
    assert sorted({dict(r.model.options)["width"] for r in narrower}) == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert decays(narrower) == thirteen[2:9]


def test_sensitivity_goes_as_far_as_the_paper():
    images, text = BY_NAME["sensitivity"], BY_NAME["sensitivity-text"]
    assert decays(runs("sensitivity", "EMA 0.99")) == [5e-4 * 2.0**k for k in range(-6, 6)]
    base = runs("sensitivity", images.paper[0].label)[0]
    assert (base.model.name, base.optimizer.rule, base.optimizer.lr, base.batch) == ("resnet18", "sgd", 1.0, 256)
    every = [one("sensitivity-text", a.label) for a in text.arms("paper")]
    assert {r.optimizer.update_memory for r in every} == {
        *(0.0, 0.9, 0.99, 0.999, 0.9999, 0.99999),
        *(1 - 1e-7, 1 - 1e-10),
    }
    assert {(r.optimizer.lr, r.optimizer.weight_decay, r.data.name) for r in every} == {(4e-3, 0.5, "wikitext103")}
    for some in (images, text):
        ways = {(r.optimizer.units, r.optimizer.center) for r in some.jobs("paper") if isinstance(r, Run)}
        assert ways == {("neuron", True), ("neuron", False), ("tensor", True), ("tensor", False)}


def test_assumptions_are_measured_at_a_constant_lr():
    images, text = one("assumptions", "ResNet"), one("assumptions", "GPT")
    assert images.optimizer == Optimizer("adamw", 0.01, 0.01, eps=1e-6)
    assert (optimizer(text), text.data.name, text.steps) == (("adamw", 5e-4, 0.5), "wikitext103", 15_000)
    assert images.schedule == text.schedule == Schedule("constant")
    leaky = activation(str(dict(images.model.options)["activation"]))
    assert float(leaky(torch.tensor(-1.0))) == pytest.approx(-0.1)


# From end to end, on made-up results ------------------------------------------------------------------------------


class MadeUp(Shelf):
    """A shelf that has every result, made up when it is asked for."""

    def get(self, job: Job) -> Measured:
        if job.key not in self._read:
            self._read[job.key] = compute(job) if isinstance(job, Computed) else read(faking.plausible(job))
        return self._read[job.key]


COSTLY = ("random-walk", "run-time")
"""Computed, not trained: minutes at the paper's scale."""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Shelf:
    return MadeUp(tmp_path_factory.mktemp("made-up"))


@pytest.mark.parametrize("name", [n for n in BY_NAME if n not in COSTLY])
def test_pages_and_claims_work_at_the_paper_s_scale(shelf, name):
    state = reproduce.state(BY_NAME[name], "paper", shelf)
    assert state.missing == 0
    for v in state.verdicts:
        # Seeds of every comparison are enough for an interval: none is undecided for want of them.
        assert v.word != "not run"
        assert v.claim.exact or (v.estimate is not None and len(v.estimate.seeds) >= 3), v.claim.sentence
        assert v.claim.exact or math.isfinite(v.estimate.value), v.claim.sentence
    text = figure.page(state)
    for svg in re.findall(r"<svg.*?</svg>", text, re.S):
        ElementTree.fromstring(svg)
        assert "nan" not in svg
        assert "not run" not in svg
    for arm in state.figure.arms("paper"):
        assert figure.escape(arm.label) in text
        assert arm.count == sum(len(p.seeds) for p in state.found.points(arm.label)) or isinstance(arm, Then)


def test_a_swept_axis_shows_the_best_of_another_at_each_of_its_values(shelf):
    state = reproduce.state(BY_NAME["imbalance"], "paper", shelf)
    points = state.found.points("half slowed")
    assert len(points) == 5 * 13
    (drawn,) = [p for p in BY_NAME["imbalance"].panels if p.kind == "sweep" and p.measure == "accuracy"]
    svg = figure_panel.draw(drawn, state.found)[0]
    for factor in (2.0, 10.0):
        there = [p for p in points if p.run.optimizer.imbalance.factor == factor]
        best = max(there, key=lambda p: p.mean("validation accuracy"))
        assert f"{best.mean('accuracy'):.3g}" in svg
