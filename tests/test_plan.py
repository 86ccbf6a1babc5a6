"""`rotational plan`: what it prints, what it warns of, and what it refuses."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch

from compare import assert_same
from rotational import forecast, rules, weights
from rotational.advice import advise
from rotational.cli import main
from rotational.schedule import read_scheduler
from rotational.shapes import SHAPES, shape

RUN = ["plan", "--optimizer", "adamw", "--lr", "1e-3", "--weight-decay", "0.1", "--steps", "4000"]


def run(capsys, *words):
    try:
        code = main([*words])
    except SystemExit as stopped:  # argparse
        code = int(stopped.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_plan_is_a_picture_a_table_and_sentences(capsys):
    code, out, err = run(capsys, *RUN, "--schedule", "cosine", "--warmup", "200", "--fan-in", "64", "--fan-in", "256")
    assert (code, err) == (0, "")
    for words in ("fan-in 64", "fan-in 256", "o forecast, - static formula", "Warning", "4,000 steps"):
        assert words in out


def test_json_holds_the_forecast(capsys):
    code, out, _ = run(capsys, *RUN, "--fan-in", "64", "--json")
    read = json.loads(out)
    assert code == 0
    kind = read["kinds"][0]
    f = forecast(rules.adamw(), lr=np.full(4000, 1e-3), weight_decay=0.1, steps=4000, norm=3**-0.5, size=64)
    assert kind["series"]["rotation"] == pytest.approx(f.rotation[1::2].tolist())
    assert (kind["arrives"], kind["settles"], kind["transient"]) == (f.arrives, f.settles, f.transient)


def test_a_page_is_written_whole(capsys, tmp_path):
    page = tmp_path / "plan.html"
    code, out, _ = run(capsys, *RUN, "--html", str(page))
    assert code == 0
    assert str(page) in out.replace("\n", "")
    text = page.read_text(encoding="utf-8")
    assert "Plan of a run under adamw" in text
    assert "<script src" not in text
    assert "default-src 'none'" in text  # the browser holds it to loading nothing
    assert [p.name for p in tmp_path.iterdir()] == ["plan.html"]


@pytest.mark.parametrize("options", ["muon --shape 64 128", "lion", "sgd --momentum 0.9", "signum", "radam --decoupled",
                                     "adamax --decay decoupled", "laprop", "adamw --decay cautious",
                                     "adam --gradient-norm 1", "nadam --decay adamc"])  # fmt: skip
def test_every_optimizer_has_a_plan(capsys, options):
    name, *more = options.split()
    words = ["plan", "--optimizer", name, *more, "--lr", "1e-3", "--weight-decay", "0.1", "--steps", "300"]
    if "muon" not in options:
        words += ["--fan-in", "64"]
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    assert "rotation of" in out


def tensors():
    torch.manual_seed(0)
    return {"a.weight": torch.randn(16, 64), "b.weight": torch.randn(8, 4, 3, 3) * 0.1, "a.bias": torch.zeros(16)}


def safetensors(path, state, dtype="F32"):
    header, blob = {}, b""
    for name, x in state.items():
        raw = x.float().numpy().astype("<f4").tobytes()
        kind = "BF16" if x.dtype == torch.bfloat16 else dtype
        if kind == "BF16":
            raw = (x.float().numpy().astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": kind, "shape": list(x.shape), "data_offsets": [len(blob), len(blob) + len(raw)]}
        blob += raw
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + blob)
    return path


@pytest.mark.parametrize("kind", ["F32", "BF16", "torch"])
def test_sizes_and_norms_are_read_from_a_file(tmp_path, kind, capsys):
    path = tmp_path / ("model.pt" if kind == "torch" else "model.safetensors")
    if kind == "torch":
        torch.save({"state_dict": tensors()}, path)
    else:
        safetensors(path, tensors(), kind)
    found = {m.name: m for m in weights.read(path)}
    assert set(found) == {"a.weight", "b.weight"}
    for name, x in tensors().items():
        if x.dim() > 1:
            assert found[name].size == x[0].numel()
            expected = float((x.flatten(1) ** 2).sum(1).mean() ** 0.5)
            assert found[name].norm == pytest.approx(expected, rel=1e-2 if kind == "BF16" else 1e-5)
    code, out, _ = run(capsys, *RUN, "--weights", str(path))
    assert code == 0
    assert "a.weight" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--steps -5", "steps"),
        ("--lr nan", "lr"),
        ("--warmup 4000", "shorter than the run"),
        ("--schedule cosine --min-lr 1", "--min-lr 1.0: expected a finite number >= 0 and <= 0.001."),
        ("--min-lr 1e-5", "--min-lr 1e-05 is where a falling schedule ends, and this one is constant"),
        ("--fan-in 0", "--fan-in 0: expected a whole number >= 1."),
        ("--norm nan", "--norm nan: expected a finite number >= 1e-30"),
        ("--gradient-norm 0", "--gradient-norm 0.0: expected a finite number >= 1e-30"),
        ("--weights .", "this is a folder"),
        ("--norm -1", "norm"),
        ("--weights missing.pt", "no such file"),
        ("--html missing/plan.html", "does not exist"),
        ("--momentum 0.9", "not an option of adamw"),
        ("--lr 20 --fan-in 8", "remove the whole weight"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(capsys, words, says):
    code, out, err = run(capsys, *RUN, *words.split())
    assert code == 2
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


def test_an_unknown_optimizer_is_refused(capsys):
    code, _, err = run(capsys, "plan", "--optimizer", "adamz", "--lr", "1", "--weight-decay", "0", "--steps", "2")
    assert code == 2
    assert "adamz" in err


def test_files_that_are_no_checkpoints_are_a_sentence(tmp_path, capsys):
    bad = {"junk.pt": b"junk", "junk.safetensors": b"junk", "long.safetensors": struct.pack("<Q", 10**12) + b"{}"}
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
        code, out, err = run(capsys, *RUN, "--weights", str(tmp_path / name))
        assert (code, out) == (2, "")
        assert "no" in err
        assert err.count("\n") == 1
    vectors = safetensors(tmp_path / "vectors.safetensors", {"bias": torch.zeros(4)})
    code, _, err = run(capsys, *RUN, "--weights", str(vectors))
    assert code == 2
    assert "holds no matrix" in err


# Advice ---------------------------------------------------------------------------------------------------------


def topics(**given):
    options = {"lr": 1e-3, "weight_decay": 0.1, "steps": 4000, "norm": 0.6, "size": 256, **given}
    return {a.topic for a in advise(forecast(rules.adamw(), **options), bf16=True)}


def test_a_short_run_is_told_so_and_a_long_one_is_not():
    assert {"short", "zero-shot", "bf16"} <= topics()
    long = topics(lr=3e-2, steps=20_000)
    assert not {"short", "zero-shot", "bf16"} & long


def test_overshoot_and_what_a_warm_up_hides():
    assert "overshoot" in topics(norm=0.05)
    given = {"weight_decay": 0.1, "steps": 4000, "norm": 0.05, "size": 256}
    bare = shape("constant", 1e-2, 4000)
    warm = shape("constant", 1e-2, 4000, warmup=1500)
    found = advise(
        forecast(rules.adamw(), lr=warm, **given),
        without_warmup=lambda: forecast(rules.adamw(), lr=bare, **given),
    )
    hidden = next(a for a in found if a.topic == "overshoot")
    assert hidden.numbers["times"] > 2 * hidden.numbers["left"] > 0


def test_a_falling_lr_lags_and_a_constant_one_does_not():
    cosine = shape("cosine", 1e-2, 10_000)
    assert "lag" in topics(lr=cosine, steps=10_000)
    assert "lag" not in topics(lr=1e-2, steps=10_000)


def test_no_decay_is_said():
    assert topics(weight_decay=0.0) == {"no decay"}


def test_the_suggested_decay_does_what_it_says():
    def made(factor=1.0):
        return forecast(rules.adamw(), lr=1e-3, weight_decay=0.1 * factor, steps=4000, norm=0.6, size=256)

    found = advise(made(), with_decay=lambda factor: [made(factor)])
    suggestion = next(a for a in found if (a.topic, a.kind) == ("short", "suggestion"))
    then = made(suggestion.numbers["weight_decay"] / 0.1)
    assert suggestion.numbers["transient"] == then.transient < 0.25
    assert suggestion.numbers["settles"] == then.settles


@pytest.mark.parametrize("kind", SHAPES)
def test_shapes_begin_and_end_where_they_should(kind):
    lr = shape(kind, 2.0, 100, warmup=10, min_lr=0.5, milestones=[50, 80] if kind == "step" else ())
    assert lr.max() == 2.0
    assert lr[0] == pytest.approx(0.2 * lr[9] / 2.0, rel=0.2)
    assert len(lr) == 100
    assert lr[-1] == pytest.approx(2.0 if kind == "constant" else 0.5, abs=0.1)
    assert_same(shape(kind, 2.0, 100, warmup=10, milestones=[50] if kind == "step" else (), first=30),
                shape(kind, 2.0, 100, warmup=10, milestones=[50] if kind == "step" else ())[:30])  # fmt: skip


def test_steps_are_those_of_torch():
    opt = torch.optim.SGD([torch.ones(1)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(opt, [30, 60, 90], gamma=0.2)
    assert_same(shape("step", 0.1, 100, milestones=[30, 60, 90], gamma=0.2), read_scheduler(scheduler, 100)[0], 1e-12)
    assert shape("step", 0.1, 100, milestones=[30, 60], min_lr=0.005)[-1] == 0.005
