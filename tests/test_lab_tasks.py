"""Tasks: batches that depend on seed and step alone, losses, and metrics against their definitions."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from rotational.lab import tasks
from rotational.lab.data import load
from rotational.lab.declare import Data, Model, Optimizer, Run
from rotational.lab.models.seq2seq import BOS, EOS, PAD
from rotational.lab.tasks import Order, available, build

IMAGES = Run(Model("mlp", width=16), Data("blobs", augment=True), Optimizer("adamw", 1e-2, 0.1), steps=100, batch=24)
TEXT = Run(Model("gpt", width=16, blocks=1, heads=2), Data("chain"), Optimizer("adamw", 1e-2, 0.1), steps=100, batch=8)
PAIRS = Run(
    Model("transformer", width=16, inner=16, heads=2, blocks=1, dropout=0.0),
    Data("reversal"),
    Optimizer("adamw", 1e-2, 0.1),
    steps=100,
    batch=16,
)
ALL = {"images": IMAGES, "text": TEXT, "pairs": PAIRS}


@pytest.fixture(autouse=True)
def _needed():
    pytest.importorskip("sacrebleu")


def same(a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> bool:
    return all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, b, strict=True))


# Batches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ALL.values(), ids=ALL)
def test_a_batch_depends_on_seed_and_step_alone(run):
    one, two = build(run, None), build(run, None)
    torch.manual_seed(5)
    later = [two.batch(step) for step in (250, 3, 90)]  # in any order, over several epochs
    torch.manual_seed(6)
    assert all(same(one.batch(step), b) for step, b in zip((250, 3, 90), later, strict=True))
    assert not same(one.batch(3), one.batch(4))
    assert not same(one.batch(3), build(run.but(seed=1), None).batch(3))
    assert all(len(x) == run.batch for x in one.batch(7))


@pytest.mark.parametrize("run", ALL.values(), ids=ALL)
def test_weights_depend_on_the_seed_alone_and_runs_of_one_seed_share_them(run):
    one, two, other = (build(r, None).model.state_dict() for r in (run, run.but(optimizer__lr=1.0), run.but(seed=1)))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize(("count", "batch"), [(10, 3), (4, 10), (7, 7), (1, 2)])
def test_epochs_are_permutations(count, batch):
    order = Order(count, batch, seed=2)
    taken, epoch = (torch.cat(x) for x in zip(*(order.at(s) for s in range(count)), strict=True))
    for e in range(batch):
        assert sorted(taken[epoch == e].tolist()) == list(range(count))
    if count > 3:
        assert not torch.equal(taken[:count], taken[count : 2 * count])


def test_an_epoch_of_text_is_the_text_in_windows_from_another_start():
    run = TEXT.but(batch=1)
    task = build(run, None)
    data = load(run.data, None)
    count = (len(data.train) - 1) // 16 - 1
    text = "".join(chr(65 + int(s)) for s in data.train)
    starts = []
    for step in range(2 * count):
        if step % 97 == 0:
            said = "".join(chr(65 + int(s)) for s in task.batch(step)[0][0])
            assert said in text
            starts.append(text.index(said) % 16)
    half = len(starts) // 2
    assert len(set(starts[:half])) == 1
    assert starts[0] != starts[-1]


def test_an_epoch_of_sentences_has_each_once_with_little_padding():
    task = build(PAIRS, None)
    batches = [task.batch(step) for step in range(2000 // 16)]
    seen = [tuple(row[row != PAD].tolist()) for source, _ in batches for row in source]
    known = load(PAIRS.data, None).train.source
    everything = sorted(tuple(known.padded(torch.tensor([i]))[0].tolist()) for i in range(len(known)))
    assert sorted(seen) == everything
    filled = sum(int((source == PAD).sum()) for source, _ in batches) / sum(source.numel() for source, _ in batches)
    assert filled < 0.03
    for source, target in batches[:5]:
        assert (target[:, 0] == BOS).all()
        assert ((target == EOS).sum(1) == 1).all()
        assert ((source == EOS).sum(1) == 1).all()


def test_more_sentences_than_there_are_make_no_batch():
    with pytest.raises(ValueError, match="has 2000 training sentences"):
        build(PAIRS.but(batch=5000), None)


# Losses and metrics ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ALL.values(), ids=ALL)
def test_a_model_learns_and_is_not_changed_by_looking(run):
    task = build(run, None)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-2)
    before = task.evaluate(task.model, "validation")
    for step in range(60):
        loss = task.loss(task.model, task.batch(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    kept = {k: v.clone() for k, v in task.model.state_dict().items()}
    after = task.evaluate(task.model, "validation")
    assert after["loss"] < 0.9 * before["loss"]
    assert task.model.training
    assert all(torch.equal(v, kept[k]) for k, v in task.model.state_dict().items())
    assert task.score in after
    test = task.evaluate(task.model, "test")
    assert {"loss", task.score} <= test.keys()
    assert task.evaluate(task.model, "test") == test


@pytest.mark.parametrize("run", ALL.values(), ids=ALL)
def test_low_precision_gives_about_the_same_metrics(run):
    task = build(run, None)
    full = task.evaluate(task.model, "test")
    with torch.autocast("cpu", torch.bfloat16):
        loss = task.loss(task.model, task.batch(0))
        low = task.evaluate(task.model, "test")
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.model.parameters())
    assert low["loss"] == pytest.approx(full["loss"], rel=0.02)


def test_accuracy_and_loss_are_those_of_the_whole_split():
    task = build(IMAGES.but(model=Model("resnet20", width=0.25, blocks=1)), None)
    data = load(IMAGES.data, None)
    with torch.no_grad():
        task.model(data.floats(task.batch(0)[0]))  # moves batch norm's statistics
        model = task.model.eval()
        logits = model(data.floats(data.test.pixels))
    found = task.evaluate(model, "test")
    assert not model.training
    assert found["loss"] == pytest.approx(float(F.cross_entropy(logits, data.test.labels)), rel=1e-5)
    right = (logits.argmax(1) == data.test.labels).double().mean()
    assert found["accuracy"] == pytest.approx(100 * float(right))


def test_label_smoothing_is_of_training_only():
    plain, smooth = build(IMAGES, None), build(IMAGES.but(data=Data("blobs", augment=True, smoothing=0.3)), None)
    assert float(smooth.loss(plain.model, plain.batch(0)).detach()) > float(
        plain.loss(plain.model, plain.batch(0)).detach()
    )
    assert smooth.evaluate(plain.model, "test") == plain.evaluate(plain.model, "test")


def test_perplexity_is_the_exponential_of_the_loss_per_symbol():
    task = build(TEXT, None)
    found = task.evaluate(task.model, "test")
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["loss"] == pytest.approx(math.log(32), abs=0.3)


class Knowing(torch.nn.Module):
    """Stands for a translator that knows the answers."""

    def __init__(self, task: tasks.Translation) -> None:
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))
        self.answers = {}
        part, data = task.data.test, task.data
        for i in range(len(part.source)):
            key = tuple(part.source.padded(torch.tensor([i]))[0].tolist())
            self.answers[key] = part.target.padded(torch.tensor([i]))[0].tolist()
        self.size = data.form.target

    def encode(self, source):
        rows = [self.answers[tuple(row[row != PAD].tolist())] for row in source]
        length = max(map(len, rows))
        return torch.tensor([r + [PAD] * (length - len(r)) for r in rows]), source

    def decode(self, target, encoded, hidden, last=False):
        place = target.shape[1]
        right = encoded[:, min(place, encoded.shape[1] - 1)]
        return (F.one_hot(right, self.size).float() * 50)[:, None]


def test_bleu_is_100_for_the_references_and_low_for_noise():
    task = build(PAIRS, None)
    assert isinstance(task, tasks.Translation)
    assert task.bleu(Knowing(task), task.data.test) == pytest.approx(100)
    assert task.evaluate(task.model, "test")["bleu"] < 20
    assert "bleu" not in task.evaluate(task.model, "validation")


def test_the_loss_of_translation_is_per_word_without_padding():
    task = build(PAIRS.but(data=Data("reversal", smoothing=0.0)), None)
    source, target = task.batch(2)
    loss = float(task.loss(task.model, (source, target)).detach())
    wider = (source, F.pad(target, (0, 3), value=PAD))
    assert float(task.loss(task.model, wider).detach()) == pytest.approx(loss, rel=1e-5)


# What is said ---------------------------------------------------------------------------------------------------


def test_missing_data_and_misfits_are_sentences(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Data\('mnist'\): not in"):
        build(IMAGES.but(data=Data("mnist")), tmp_path)
    with pytest.raises(ValueError, match="the data is text; expected one of gpt, gpt2"):
        build(TEXT.but(model=Model("resnet20")), None)
    assert available(Data("blobs"), None) is None
    assert "not in" in str(available(Data("mnist"), Path(tmp_path)))
