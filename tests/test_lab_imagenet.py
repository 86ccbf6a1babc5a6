"""Folders of images that are decoded as batches ask for them, RandAugment, and shares of a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rotational.lab import tasks
from rotational.lab.data import folder, load, randaugment
from rotational.lab.declare import Data, Model, Optimizer, Run
from rotational.lab.models import ImageForm

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def images(tmp_path):
    for split, count in (("train", 10), ("val", 3)):
        for label, name in enumerate(("n01", "n02")):
            inside = tmp_path / "imagenet" / split / name
            inside.mkdir(parents=True)
            for i in range(count):
                pixels = np.full((60 + i, 90, 3), 250 * label, dtype=np.uint8)
                pixels[:, :45, 1] = 100  # the left half, so that mirroring shows
                Image.fromarray(pixels).save(inside / f"{i}.JPEG", quality=95)
    yield tmp_path
    load.cache_clear()


def test_imagenet_as_an_image_folder(images):
    data = load(Data("imagenet", side=32), images)
    assert data.form == ImageForm(2, 3, 32)
    assert [len(p.labels) for p in (data.train, data.validation, data.test)] == [18, 2, 6]
    index = torch.arange(18)
    one, two = (data.train.take(index, torch.Generator().manual_seed(4)) for _ in range(2))
    assert one.shape == (18, 3, 32, 32)
    assert one.dtype == torch.uint8
    assert torch.equal(one, two)
    assert not torch.equal(one, data.train.take(index, torch.Generator().manual_seed(5)))
    red = one[:, 0].float().mean((1, 2))
    assert torch.equal(red > 125, data.train.labels == 1)
    shown = data.test.take(torch.arange(6), None)
    left, right = shown[..., 1:12].float(), shown[..., 20:].float()
    assert (left[:, 1].mean((1, 2)) - 100).abs().max() < 10
    assert ((right[:, 1].mean((1, 2)) - 250 * data.test.labels).abs() < 10).all()


def test_an_image_that_is_none_is_a_sentence(images):
    for path in (images / "imagenet" / "val" / "n01").iterdir():
        path.write_bytes(b"nothing")
    data = load(Data("imagenet", side=32), images)
    with pytest.raises(ValueError, match=r"JPEG: not a readable image"):
        data.test.take(torch.arange(6), None)


DEIT = {"mixup": 0.8, "cutmix": 1.0, "erasing": 0.5, "randaugment": 9.0}


@pytest.mark.parametrize(
    ("options", "most"), [({}, 4), (DEIT, 4), (DEIT, 6)], ids=["plain", "deit", "deit, odd halves"]
)
def test_processes_read_their_rows_alone_and_see_the_batch_of_one(options, most, images, monkeypatch):
    data = Data("imagenet", side=16, **options)
    # Half a batch of 6 is odd: then the rows of two processes are mixed with each other's.
    run = Run(Model("mlp"), data, Optimizer("adamw", 1e-2, 0.1), steps=4, batch=8 if most == 4 else 6)
    task, read = tasks.build(run, images), []
    cropped = folder._cropped
    monkeypatch.setattr(folder, "_cropped", lambda path, *a, **k: read.append(path) or cropped(path, *a, **k))
    for step in range(4):
        whole = task.batch(step)
        for rank in range(2):
            read.clear()
            part = task.part(step, slice(rank, None, 2))
            assert len(read) <= most
            assert len(part) == len(whole)
            for x, y in zip(part, whole, strict=True):
                assert torch.equal(x, y[rank::2])


# RandAugment ----------------------------------------------------------------------------------------------------

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)


def changed(name: str, s: float, way: int = 1, pixels: np.ndarray = PIXELS) -> np.ndarray:
    return np.asarray(randaugment.BY_NAME[name](Image.fromarray(pixels), s, way)).astype(int)


def test_changes_of_single_pixels_are_what_they_are_called():
    x = PIXELS.astype(int)
    assert (changed("invert", 0.9) == 255 - x).all()
    assert (changed("posterize", 0.6) == x // 64 * 64).all()  # 2 bits are left
    assert (changed("posterize", 0.0) == x // 16 * 16).all()
    assert (changed("solarize", 0.5) == np.where(x < 128, x, 255 - x)).all()
    assert (changed("add", 0.5) == np.where(x < 128, np.minimum(x + 55, 255), x)).all()
    assert np.abs(changed("brightness", 0.5) - np.clip(1.45 * x, 0, 255)).max() <= 1
    assert np.abs(changed("brightness", 0.5, -1) - 0.55 * x).max() <= 1
    grey = x @ [0.299, 0.587, 0.114]
    assert np.abs(changed("colour", 1.0, -1) - (grey[..., None] + 0.1 * (x - grey[..., None]))).max() <= 2
    narrow = (PIXELS // 4 + 90).astype(np.uint8)
    stretched = changed("autocontrast", 0.9, pixels=narrow)
    assert stretched.min((0, 1)) == pytest.approx(0, abs=1)
    assert stretched.max((0, 1)) == pytest.approx(255, abs=1)
    assert changed("contrast", 0.9, -1).std() < 0.3 * x.std()
    assert changed("sharpness", 0.9).std() > x.std() > changed("sharpness", 0.9, -1).std()
    dark = (np.random.default_rng(1).uniform(0, 16, (160, 160, 3)) ** 2).astype(np.uint8)
    levels = np.sort(changed("equalize", 0.9, pixels=dark)[..., 0].ravel())
    assert np.abs(levels - np.linspace(0, 255, levels.size)).mean() < 4  # dark ones are a step of 16 apart


def test_changes_of_place_move_what_they_say_and_fill_with_the_mean_colour():
    moved = changed("translate across", 0.5)  # 0.225 of 20 pixels is 4.5: the mean of two neighbours
    between = (PIXELS[:, 4:-1].astype(float) + PIXELS[:, 5:]) / 2
    assert np.abs(moved[:, : between.shape[1]] - between).max() <= 1
    assert (moved[:, -4:] == randaugment.FILL).all()
    assert (changed("translate down", 0.5, -1)[:5] == randaugment.FILL).all()
    column = np.zeros((40, 40, 3), dtype=np.uint8)
    column[:, 20] = 250
    sheared = changed("shear across", 1.0, pixels=column)
    tops, ends = (int(sheared[row, :, 0].argmax()) for row in (1, 38))
    assert tops - ends == pytest.approx(0.3 * 37, abs=1)
    half = changed("rotate", 1.0, pixels=column)
    assert int(half[5, :, 0].argmax()) - int(half[34, :, 0].argmax()) == pytest.approx(-29 * np.tan(np.pi / 6), abs=2)
    for name in randaugment.BY_NAME:
        assert changed(name, 0.0).shape == PIXELS.shape


def test_two_of_the_changes_are_drawn_each_half_of_the_time(monkeypatch):
    seen, random = [], np.random.default_rng(1)
    table = {
        name: lambda image, s, way, name=name: seen.append((name, s, way)) or image for name in randaugment.BY_NAME
    }
    monkeypatch.setattr(randaugment, "BY_NAME", table)
    for _ in range(3000):
        randaugment.varied(Image.fromarray(PIXELS), 0.9, random.random(randaugment.DRAWS).tolist())
    names, strengths, ways = zip(*seen, strict=True)
    assert len(seen) == pytest.approx(3000, rel=0.05)
    counts = [names.count(name) for name in randaugment.BY_NAME]
    assert (min(counts), max(counts)) == (pytest.approx(200, rel=0.3), pytest.approx(200, rel=0.3))
    assert np.mean(ways) == pytest.approx(0, abs=0.06)
    below = [s for s in strengths if s < 1]  # a 44th part is cut at 1
    assert len(below) / len(strengths) == pytest.approx(0.977, abs=0.01)
    assert np.median(strengths) == pytest.approx(0.9, abs=0.005)
    low, high = np.quantile(strengths, (0.159, 0.841))
    assert (high - low) / 2 == pytest.approx(0.05, rel=0.08)
    one = [np.mean([s for s, w in zip(strengths, ways, strict=True) if w == way]) for way in (1, -1)]
    assert one[0] == pytest.approx(one[1], abs=0.005)  # how strong does not depend on which way


def test_a_strength_beyond_the_scale_is_refused(images):
    with pytest.raises(ValueError, match="expected a strength from 0 to 10"):
        load(Data("imagenet", randaugment=90.0), images)
