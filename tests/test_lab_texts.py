"""Loaders of text and of translations, each on small files in the form in which the data is published."""

from __future__ import annotations

import gzip
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from rotational.lab import ranks, train
from rotational.lab.data import load
from rotational.lab.data.pairs import by_tokens
from rotational.lab.declare import Data, Model, Optimizer, Run
from rotational.lab.models import PairForm, TextForm
from rotational.lab.tasks import Translation


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ROTATIONAL_CACHE", str(tmp_path / "cache"))
    yield
    load.cache_clear()


# Text -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "ending"), [("text", ""), ("novels", ".gz"), (".", ".gz")])
def test_characters_of_plain_and_gzipped_text(tmp_path, folder, ending):
    said = "It was the best of times.\n" * 100
    (tmp_path / folder).mkdir(exist_ok=True)
    data = gzip.compress(said.encode()) if ending else said.encode()
    (tmp_path / folder / f"novels.txt{ending}").write_bytes(data)
    text = load(Data("novels", context=8), tmp_path)
    assert text.form == TextForm(98, 8)
    assert [len(p) for p in (text.train, text.validation, text.test)] == [2340, 130, 130]
    x, y = text.windows(text.train, torch.tensor([0, 5]))
    assert x.dtype == torch.int64
    assert torch.equal(x[:, 1:], y[:, :-1])
    from rotational.lab.text import encode

    assert torch.equal(x[0], encode(said[:8]))
    assert len(load(Data("novels", context=8, limit=1000), tmp_path).train) == 900


def test_text_that_is_none_and_too_short_is_a_sentence(tmp_path):
    path = tmp_path / "input.txt"
    path.write_bytes(b"\xff\xfe\xff" * 100)
    with pytest.raises(ValueError, match=r"input.txt: not text in UTF-8"):
        load(Data("shakespeare"), tmp_path)
    path.write_text("short")
    with pytest.raises(ValueError, match="fewer than one window takes"):
        load(Data("shakespeare"), tmp_path)


WIKI = {
    "train": " \n = Title = \n \n the cat sat on the mat \n the <unk> sat \n",
    "valid": " \n the dog sat \n",
    "test": " \n the cat sat on a mat \n",
}


def same_words(tmp_path: Path) -> None:
    text = load(Data("wikitext2", context=2, held=0), tmp_path)
    # <unk>, then by frequency (<eos> 5, the 3, = 2, sat 2), then by name
    assert text.form == TextForm(9, 2)
    names = ["<unk>", "<eos>", "the", "=", "sat", "Title", "cat", "mat", "on"]

    def said(part: np.ndarray) -> str:
        return " ".join(names[int(s)] for s in part)

    assert said(text.train) == "<eos> = Title = <eos> <eos> the cat sat on the mat <eos> the <unk> sat <eos>"
    assert said(text.validation) == "<eos> the <unk> sat <eos>"
    assert said(text.test) == "<eos> the cat sat on <unk> mat <eos>"
    rare = load(Data("wikitext2", context=2, least=2), tmp_path)
    assert rare.form.vocabulary == 5


def test_wikitext_as_published(tmp_path):
    (tmp_path / "wikitext-2").mkdir()
    for split, text in WIKI.items():
        (tmp_path / "wikitext-2" / f"wiki.{split}.tokens").write_text(text)
    same_words(tmp_path)


def test_wikitext_as_hugging_face_has_it(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "wikitext-2-v1").mkdir()
    for split, text in WIKI.items():
        name = "validation" if split == "valid" else split
        lines = [line + "\n" if line.strip() else "" for line in text.removesuffix("\n").split("\n")]
        pq.write_table(pa.table({"text": lines}), tmp_path / "wikitext-2-v1" / f"{name}-00000-of-00001.parquet")
    same_words(tmp_path)


@pytest.mark.parametrize("name", ["openwebtext", "wikitext103"])
def test_tokens_of_uint16(tmp_path, name):
    folder = tmp_path / {"wikitext103": "wikitext-103"}.get(name, name)
    folder.mkdir()
    tokens = np.arange(50_000, 50_257, dtype=np.uint16)
    tokens.tofile(folder / "train.bin")
    tokens[:100].tofile(folder / "val.bin")
    text = load(Data(name, context=16), tmp_path)
    assert text.form == TextForm(50_257, 16)
    assert [len(p) for p in (text.train, text.validation, text.test)] == [257, 50, 50]
    x, y = text.windows(text.train, torch.tensor([240]))
    assert x[0].tolist() == list(range(50_240, 50_256))
    assert int(y[0, -1]) == 50_256
    np.full(100, 60_000, np.uint16).tofile(folder / "val.bin")
    load.cache_clear()
    with pytest.raises(ValueError, match=r"GPT-2's tokens as uint16.*found 60000"):
        load(Data(name, context=16), tmp_path)


def test_held_out_windows_do_not_overlap_or_span_the_text_evenly():
    text = load(Data("chain", context=16, held=0), None)
    starts = text.held_out(text.test)
    assert torch.equal(starts, torch.arange(len(starts)) * 16)
    assert int(starts[-1]) + 17 <= len(text.test) < int(starts[-1]) + 33
    few = load(Data("chain", context=16, held=10), None).held_out(text.test)
    assert [len(few), int(few[0]), int(few[-1])] == [10, 0, len(text.test) - 17]


def test_the_standard_library_is_text_without_a_folder():
    text = load(Data("stdlib", context=32), None)
    assert len(text.train) > 16 * len(text.test) > 0


# Translation ----------------------------------------------------------------------------------------------------


def write_pairs(folder: Path, names: tuple[str, str, str], ending: str) -> None:
    folder.mkdir(parents=True)
    said = {
        "de": ["Ein Hund läuft.", "Zwei Hunde.", "Ein Kind läuft.", ""],
        "en": ["A dog runs.", "Two dogs.", "A child runs.", ""],
    }
    for name in names:
        for language, lines in said.items():
            lines = lines if name == names[0] else lines[:2]
            data = ("\n".join(lines) + "\n").encode()
            (folder / f"{name}.{language}{ending}").write_bytes(gzip.compress(data) if ending else data)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("names", [("train", "val", "test_2016_flickr"), ("train", "valid", "test")])
def test_multi30k(tmp_path, names, ending):
    pytest.importorskip("sacrebleu")
    write_pairs(tmp_path / "multi30k", names, ending)
    data = load(Data("multi30k"), tmp_path)
    assert len(data.train.source) == 3  # the empty pair is left out
    # twice or more: ein, läuft, "." and a, runs, "."; after four special symbols
    assert data.form == PairForm(7, 7)
    assert data.words == ("<pad>", "<s>", "</s>", "<unk>", ".", "a", "runs")
    x, y = (s.padded(torch.tensor([0, 1])) for s in (data.train.source, data.train.target))
    assert x.tolist() == [[5, 3, 6, 4, 2], [3, 3, 4, 2, 0]]
    assert y.tolist() == [[1, 5, 3, 6, 4, 2], [1, 3, 3, 4, 2, 0]]
    assert data.test.references == ["a dog runs .", "two dogs ."]
    assert data.written([5, 6, 4]) == "a runs ."
    assert load(Data("multi30k", most=1), tmp_path).form == PairForm(5, 5)
    few = load(Data("multi30k", held=1), tmp_path)
    assert [len(p.source) for p in (few.train, few.validation, few.test)] == [3, 1, 1]
    assert few.test.references == ["a dog runs ."]


def test_subwords_are_joined_for_bleu_only(tmp_path):
    pytest.importorskip("sacrebleu")
    folder = tmp_path / "iwslt14.tokenized.de-en"
    folder.mkdir()
    for split in ("train", "valid", "test"):
        for language in ("de", "en"):
            (folder / f"{split}.{language}").write_text(f"un@@ known {language}\nun@@ known {language}\n")
    data = load(Data("iwslt14"), tmp_path)
    assert data.words[4:] == ("en", "known", "un@@")
    assert data.test.references[0] == "unknown en"
    assert data.written([6, 5, 4]) == "unknown en"


def test_files_of_different_lengths_are_a_sentence(tmp_path):
    pytest.importorskip("sacrebleu")
    write_pairs(tmp_path / "multi30k", ("train", "val", "test"), "")
    (tmp_path / "multi30k" / "val.en").write_text("one\n")
    with pytest.raises(ValueError, match=r"val.de has 2 lines and .*val.en has 1"):
        load(Data("multi30k"), tmp_path)


# Batches by tokens ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tokens", "most"), [(64, 1000), (500, 1000), (500, 24)])
def test_batches_by_tokens_hold_as_much_as_has_room_and_every_sentence_once(tokens, most):
    lengths = torch.randint(2, 60, (1000,), generator=torch.Generator().manual_seed(0))
    batches = by_tokens(lengths, torch.randperm(1000, generator=torch.Generator().manual_seed(1)), tokens, most)
    taken = torch.cat(batches)
    assert len(taken.unique()) == len(taken) > 1000 - 8
    for b, after in pairwise(batches):
        padded = len(b) * int(lengths[b].max())
        assert padded <= tokens
        assert len(b) <= most
        assert len(b) < 8 or len(b) % 8 == 0
        # Eight more of the next batch would not have had room.
        more = torch.cat([b, after[:8]])
        assert len(more) * int(lengths[more].max()) > tokens or len(more) > most or len(after) < 8


def test_a_sentence_that_no_batch_has_room_for_is_a_sentence():
    with pytest.raises(ValueError, match=r"Data\(tokens=10\): a sentence has 12 tokens"):
        by_tokens(torch.tensor([3, 12]), torch.arange(2), 10, 100)


def test_an_epoch_by_tokens_takes_each_batch_once_in_another_order_each_time():
    pytest.importorskip("sacrebleu")
    run = Run(Model("transformer"), Data("reversal", tokens=200), Optimizer("adamw", 1e-3, 0.1), steps=9, batch=512)
    data = load(run.data, None)
    task = Translation(run, torch.nn.Identity(), data)
    lengths, count = torch.maximum(data.train.source.lengths, data.train.target.lengths - 1), task.epoch
    epochs = [[tuple(task.batch(e * count + i)[0].shape) for i in range(count)] for e in range(2)]
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert sum(n for n, _ in epochs[0]) >= len(lengths) - 7
    assert all(n * longest <= 200 for n, longest in epochs[0])
    assert all(n % 8 == 0 for n, _ in epochs[0])


def test_all_sizes_that_batches_by_tokens_have_are_known_and_divide_before_a_run_begins(tmp_path, monkeypatch):
    pytest.importorskip("sacrebleu")
    run = Run(Model("transformer"), Data("reversal", tokens=50), Optimizer("adamw", 1e-3, 0.1), steps=9, batch=512)
    task = Translation(run, torch.nn.Linear(2, 2), load(run.data, None))
    sizes = {len(task.batch(step)[0]) for step in range(task.epoch)}
    assert task.sizes == sorted(sizes)
    odd = next(size for size in task.sizes if size % 2)  # 512 divides by 2
    two = ranks.Ranks(0, 2, torch.device("cpu"))
    monkeypatch.setattr(ranks, "joined", lambda _: nullcontext(two))
    monkeypatch.setattr(ranks.Ranks, "together", lambda _: nullcontext())
    with pytest.raises(ValueError, match=rf"train\(batch={odd}\): expected a multiple of the 2 processes"):
        train.train(run, task, tmp_path / "log")
    assert not (tmp_path / "log").exists()
