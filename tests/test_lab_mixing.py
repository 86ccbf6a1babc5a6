"""Batches that are mixed: images of two classes in one, boxes of noise, and the loss that goes with them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rotational.lab import tasks
from rotational.lab.data import load
from rotational.lab.data.mixing import Mixing, opposite
from rotational.lab.declare import Data, Model, Optimizer, Run

STATISTICS = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
RUN = Run(Model("mlp", width=8), Data("blobs"), Optimizer("adamw", 1e-2, 0.1), steps=4, batch=16)


def batch(count: int = 6, side: int = 16) -> torch.Tensor:
    return (torch.arange(count, dtype=torch.uint8) * 40).view(-1, 1, 1, 1).expand(count, 3, side, side).contiguous()


def drawn(mixing: Mixing, seed: int, pixels: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Erased, then mixed, as a task does it; the share for each row."""
    pixels, random = batch() if pixels is None else pixels, torch.Generator().manual_seed(seed)
    noise = torch.randint(1 << 62, (len(pixels),), generator=random).tolist()
    erased = mixing.erased(pixels, noise, STATISTICS)
    mixed, share = mixing.mixed(erased, opposite(erased), random)
    return mixed, torch.full((len(mixed),), share)


def test_mixup_is_a_weighted_mean_with_the_image_half_a_batch_on():
    x = batch()
    for seed in range(20):
        mixed, share = drawn(Mixing(mixup=0.8), seed)
        expected = share.view(-1, 1, 1, 1) * x + (1 - share).view(-1, 1, 1, 1) * x.roll(3, 0)
        assert (mixed - expected).abs().max() <= 0.51
        assert len(share.unique()) == 1
    assert torch.equal(x, batch())  # what was given stays as it was


def test_cutmix_pastes_a_box_and_the_share_is_the_area_that_is_left():
    x, shares = batch(), []
    for seed in range(200):
        mixed, share = drawn(Mixing(cutmix=1.0), seed)
        own = mixed[0] == x[0]
        assert torch.equal(mixed[0][~own], x[3][~own])
        assert float(own.double().mean()) == pytest.approx(float(share[0]))
        rows, columns = (~own[0]).any(1).nonzero().flatten(), (~own[0]).any(0).nonzero().flatten()
        assert (~own[0]).sum() == len(rows) * len(columns)  # a box
        shares.append(float(share[0]))
    # Beta(1, 1) is uniform; boxes that reach over the border leave a little more than half.
    assert 0.5 < np.mean(shares) < 0.75
    assert min(shares) < 0.2


def test_one_of_two_is_drawn_for_each_batch_at_even_odds():
    whole = 0
    for seed in range(400):
        mixed, _ = drawn(Mixing(mixup=0.8, cutmix=1.0), seed)
        whole += len(mixed[0].unique()) == 1 and int(mixed[0, 0, 0, 0]) not in (0, 120)
    assert 120 < whole < 240  # mixup, less the few whose share rounds to 0 or 1


def test_erasing_draws_boxes_of_noise_around_the_mean():
    x = torch.full((400, 3, 32, 32), 255, dtype=torch.uint8)
    erased, share = drawn(Mixing(erasing=0.25), 0, x)
    assert (share == 1).all()
    area = (erased != 255).any(1).double().mean((1, 2))
    hit = area > 0
    assert 70 < int(hit.sum()) < 130
    assert 0.015 < float(area[hit].min()) < 0.06
    assert 0.25 < float(area[hit].max()) < 0.35
    noise = erased[(erased != 255).any(1, keepdim=True).expand_as(erased)].view(-1)
    assert float(noise.double().mean()) / 255 == pytest.approx(0.5, abs=0.03)


def test_what_is_drawn_follows_from_the_seed_alone():
    mixing = Mixing(0.8, 1.0, 0.5)
    for one, two in zip(drawn(mixing, 3), drawn(mixing, 3), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(drawn(mixing, 3)[0], drawn(mixing, 4)[0])


def test_the_loss_is_that_of_the_mixed_targets():
    data = load(Data("blobs", smoothing=0.1), None)
    task = tasks.Classification(RUN, tasks.build(RUN, None).model, dataclasses.replace(data, mixing=Mixing(mixup=0.8)))
    pixels, labels, other, share = task.batch(2)
    assert torch.equal(other, labels.roll(8))
    hard = [F.one_hot(y, 10).double() * 0.9 + 0.01 for y in (labels, other)]
    soft = share[:, None] * hard[0] + (1 - share[:, None]) * hard[1]
    logits = task.model(data.floats(pixels)).double()
    expected = -(soft * logits.log_softmax(1)).sum(1).mean()
    loss = task.loss(task.model, (pixels, labels, other, share))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    plain = tasks.Classification(RUN, task.model, data).batch(2)
    assert len(plain) == 2
    assert torch.equal(plain[1], labels)
