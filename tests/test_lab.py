"""The demo, as a tiny twin: same code, a model of width 16 and a few steps."""

from __future__ import annotations

import json
import signal
import threading
import time
from functools import partial
from io import StringIO

import numpy as np
import pytest
import torch
from rich.console import Console

from rotational.lab import demo, summary, text, train
from rotational.lab.characters import SHAPE, Characters
from rotational.lab.declare import Schedule
from rotational.lab.gpt import GPT, Shape
from rotational.layers import partition
from rotational.records import CURVES_FILE, Records

TINY = Shape(vocabulary=text.VOCABULARY, width=16, blocks=1, heads=2, context=16)
PROSE = "It was the best of times, it was the worst of times;\n" * 300
tiny = partial(demo.run, shape=TINY, every=2, steps=12)


@pytest.fixture
def prose(tmp_path):
    path = tmp_path / "prose.txt"
    path.write_text(PROSE)
    return path


# The corpus ---------------------------------------------------------------------------------------------------


def test_the_standard_library_is_a_corpus_and_always_the_same():
    one, two = text.corpus(), text.corpus()
    assert torch.equal(one.train, two.train)
    assert 500_000 < len(one.train) + len(one.validation) <= text.LIMIT
    assert len(one.validation) == (len(one.train) + len(one.validation)) // 10
    assert (one.train == text.UNKNOWN).double().mean() < 0.01


def test_training_text_comes_before_validation_text(tmp_path):
    path = tmp_path / "text"
    path.write_text("a" * 9_000 + "b" * 1_000)
    corpus = text.corpus(path)
    assert corpus.train.unique().tolist() == text.encode("a").tolist()
    assert corpus.validation.tolist() == text.encode("b" * 1_000).tolist()


def test_targets_are_the_next_symbols(prose):
    corpus = text.corpus(prose)
    x, y = corpus.batch(5, 8, torch.Generator().manual_seed(1))
    assert x.shape == y.shape == (5, 8)
    assert torch.equal(x[:, 1:], y[:, :-1])
    again, _ = corpus.batch(5, 8, torch.Generator().manual_seed(1))
    assert torch.equal(x, again)


def test_held_out_windows_span_the_validation_text(prose):
    corpus = text.corpus(prose)
    x, y = corpus.held_out(7, 8)
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert torch.equal(x[0], corpus.validation[:8])
    assert torch.equal(y[-1], corpus.validation[-8:])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "at least 10000 characters of text in .*, found nothing"),
        (b"short", "found 5 characters. Give a longer text"),
        (b"\x00\x01" * 20_000, "not a text file in UTF-8"),
        (b"\xff\xfe" * 20_000, "not a text file in UTF-8"),
        ("слово ".encode() * 5_000, "83% of the characters in .* are outside printable ASCII"),
    ],
)
def test_a_file_that_cannot_be_trained_on_is_refused_in_a_sentence(tmp_path, content, says):
    path = tmp_path / "text"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says):
        text.corpus(path)


def test_a_missing_file_and_a_folder_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such file or directory. Give the path of a text file"):
        text.corpus(tmp_path / "nowhere")
    with pytest.raises(OSError, match=r"corpus\(.*\): .* Give the path of a text file"):
        text.corpus(tmp_path)


# The model ----------------------------------------------------------------------------------------------------


def test_the_model_of_the_demo_has_a_fifth_to_one_million_parameters():
    assert 2e5 <= sum(p.numel() for p in GPT(SHAPE).parameters()) <= 1e6


def test_the_model_is_causal():
    model = GPT(TINY)
    symbols = torch.arange(16)[None]
    later = symbols.clone()
    later[0, 9] = 50
    with torch.no_grad():
        a, b = model(symbols), model(later)
    assert torch.equal(a[:, :9], b[:, :9])
    assert (a[:, 9:] != b[:, 9:]).any(dim=2).all()  # and what comes after does depend on it


def test_every_matrix_of_the_model_holds_neurons():
    model = GPT(TINY)
    assert set(partition(model)) == {name for name, p in model.named_parameters() if p.ndim > 1}


# One run ------------------------------------------------------------------------------------------------------


def test_the_schedule_rises_to_lr_and_falls_to_the_floor():
    warm = [Schedule("linear", warmup=0.1, floor=0.3).multiple(step, 100) for step in range(101)]
    assert warm[0] == 0.1
    assert warm[9] == warm[10] == max(warm) == 1
    assert warm[100] == pytest.approx(0.3)
    assert Schedule("linear", floor=0.3).multiple(0, 100) == 1


def test_a_batch_depends_on_seed_and_step_alone(prose):
    run, corpus = demo.ARMS["adamw"].but(batch=3), text.corpus(prose)
    in_order = [Characters(run, corpus, TINY).batch(step) for step in range(4)]
    task = Characters(run, corpus, TINY)
    for step in (2, 3, 0, 3, 3, 1):
        assert all(torch.equal(a, b) for a, b in zip(task.batch(step), in_order[step], strict=True))
    other = Characters(run.but(seed=1), corpus, TINY).batch(0)
    assert not torch.equal(other[0], in_order[0][0])
    assert not torch.equal(in_order[0][0], in_order[1][0])


def test_losses_are_logged_as_the_run_goes(prose, tmp_path):
    run = demo.ARMS["adamw"].but(steps=7, every=2, evaluations=3)
    seen: list[int] = []

    def tell(state: train.State) -> None:
        # What was written up to the step before is on disk already.
        if state.step > 2:
            assert len((tmp_path / "log" / CURVES_FILE).read_text().splitlines()) == (state.step - 1) // 2
        seen.append(state.step)

    task = Characters(run, text.corpus(prose), TINY)
    outcome = train.train(run, task, tmp_path / "log", tell=tell, save=np.inf, test=False)
    lines = [json.loads(line) for line in (outcome.log / CURVES_FILE).read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 7]
    assert [line["val_loss"] is not None for line in lines] == [True, True, True, True]
    assert lines[-1]["val_loss"] == outcome.metrics["validation"]["loss"]
    assert seen == list(range(1, 8))


def test_training_lowers_the_loss(prose, tmp_path):
    run = demo.ARMS["rotational"].but(steps=60, every=60)
    outcome = train.train(run, Characters(run, text.corpus(prose), TINY), tmp_path / "log")
    assert outcome.metrics["validation"]["loss"] < 0.7 * np.log(text.VOCABULARY)


# The demo -----------------------------------------------------------------------------------------------------


def test_all_arms_run_and_the_table_has_their_numbers(prose, tmp_path):
    console = Console(file=StringIO(), width=120)
    results = tiny(out=tmp_path / "out", text=prose, console=console)
    by_name = {arm.name: arm for arm in results.arms}
    assert list(by_name) == list(demo.ARMS) == ["adamw-warmup", "adamw", "adam-l2", "rotational"]
    assert not results.interrupted
    assert all(arm.steps == 12 and arm.rotation > 0 and arm.spread >= 1 for arm in results.arms)
    assert by_name["adam-l2"].predicted is None
    held = by_name["rotational"]
    assert held.rotation == pytest.approx(held.predicted, rel=0.02)
    columns, rows = results.rows
    assert all(len(row) == len(columns) for row in rows)
    console.print(demo.table(results))
    shown = console.file.getvalue()
    assert all(cell in shown for row in rows for cell in row)
    assert "loss" in shown  # the bars


def test_the_rotational_arm_holds_its_rotation_from_the_first_step(prose, tmp_path):
    results = tiny(["rotational"], out=tmp_path, text=prose, steps=20, every=1)
    rotation = summary.read(results.logs[0])
    assert rotation.ratios(window=1) == pytest.approx(np.ones(20), rel=0.01)
    assert results.arms[0].spread == pytest.approx(1, abs=0.01)


def test_arms_share_weights_and_batches(prose, tmp_path):
    results = tiny(["adamw", "adam-l2"], out=tmp_path, text=prose, steps=1, every=1)
    first = [json.loads((log / CURVES_FILE).read_text().splitlines()[0])["loss"] for log in results.logs]
    assert first[0] == first[1]


def test_the_same_seed_gives_the_same_numbers_however_many_cores(prose, tmp_path):
    cores = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = tiny(out=tmp_path / "one", text=prose)
        torch.set_num_threads(4)
        four = tiny(out=tmp_path / "four", text=prose)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(cores)
    assert one.rows == four.rows
    assert [a.loss for a in one.arms] == [a.loss for a in four.arms]
    for a, b in zip(one.logs, four.logs, strict=True):
        assert (a / "steps.jsonl").read_bytes() == (b / "steps.jsonl").read_bytes()
        assert (a / CURVES_FILE).read_bytes() == (b / CURVES_FILE).read_bytes()
    other = tiny(out=tmp_path / "other", text=prose, seed=1)
    assert [a.loss for a in one.arms] != [a.loss for a in other.arms]


def test_an_earlier_run_is_never_written_over(prose, tmp_path):
    logs = [tiny(["adamw"], out=tmp_path, text=prose, steps=2).logs[0] for _ in range(2)]
    assert logs == [tmp_path / "run-1" / "adamw", tmp_path / "run-2" / "adamw"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"arms": ["sgd"]}, r"demo\(arms='sgd'\): expected one of 'adamw-warmup', 'adamw'"),
        ({"arms": []}, "expected one or more of adamw-warmup"),
        ({"steps": 0}, "steps"),
        ({"steps": 1.5}, "a whole number"),
        ({"every": 0}, "every"),
        ({"seed": -1}, "seed"),
        ({"seed": 0.5}, "a whole number"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_written(tmp_path, prose, options, says):
    with pytest.raises(ValueError, match=says):
        tiny(**{"out": tmp_path / "out", "text": prose, **options})
    assert not (tmp_path / "out").exists()


# Ctrl-C -------------------------------------------------------------------------------------------------------


@pytest.fixture
def press(monkeypatch):
    """Press Ctrl-C when an arm has taken so many steps, and wait until the press has been heard."""
    heard, struck = threading.Event(), threading.Event()

    def strike(*_: object) -> None:
        struck.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, strike)

    def after(steps: int, *, twice: bool = False) -> None:
        usual = demo._tell

        def tell(bars, bar, state):
            usual(bars, bar, state)
            if state.step == steps and not heard.is_set():
                heard.set()
                signal.raise_signal(signal.SIGINT)
                while signal.getsignal(signal.SIGINT) is not strike:
                    time.sleep(0.01)
                while twice and not struck.is_set():
                    signal.raise_signal(signal.SIGINT)
                    time.sleep(0.01)

        monkeypatch.setattr(demo, "_tell", tell)

    yield after
    after_all = signal.signal(signal.SIGINT, before)
    assert heard.is_set()
    assert after_all is strike


def test_ctrl_c_ends_after_the_step_and_reports_what_ran(prose, tmp_path, press):
    press(5)
    results = tiny(["adamw", "rotational"], out=tmp_path, text=prose, steps=5_000_000)
    assert results.interrupted
    arm = results.arms[0]
    assert 5 <= arm.steps < 5_000
    assert np.isfinite(arm.loss)
    assert arm.rotation > 0
    lines = [json.loads(line) for line in (arm.log / CURVES_FILE).read_text().splitlines()]
    assert lines[-1]["step"] == arm.steps
    assert lines[-1]["val_loss"] == arm.loss
    assert Records(arm.log).series("token.weight").step[-1] == arm.steps // 2 * 2


def test_an_arm_stopped_before_anything_was_logged_still_has_its_loss(prose, tmp_path, press):
    press(1)
    results = tiny(["adamw"], out=tmp_path, text=prose, steps=5_000_000, every=1_000_000)
    assert results.arms[0].rotation is None
    assert np.isfinite(results.arms[0].loss)
    assert results.rows[1][0][3:] == ["", "", ""]
    Console(file=StringIO()).print(demo.table(results))


def test_a_second_ctrl_c_interrupts_at_once(prose, tmp_path, press):
    press(3, twice=True)
    with pytest.raises(KeyboardInterrupt):
        tiny(["adamw"], out=tmp_path, text=prose, steps=5_000_000)


def test_an_error_in_one_arm_ends_the_others_and_is_raised(prose, tmp_path, monkeypatch):
    def broken(bars, bar, state):
        if state.step == 3:
            raise OSError("no space left on device")

    monkeypatch.setattr(demo, "_tell", broken)
    with pytest.raises(OSError, match="no space left"):
        tiny(out=tmp_path, text=prose, steps=5_000_000)


def test_the_demo_runs_in_a_thread_where_no_signal_arrives(prose, tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(tiny(["adamw"], out=tmp_path, text=prose)))
    thread.start()
    thread.join()
    assert not found[0].interrupted


# The summary --------------------------------------------------------------------------------------------------


def test_spread_is_of_each_neurons_own_rms():
    # Neurons that turn at 1, 2, ... 101, each both ways around its mean over time.
    own = np.arange(1.0, 102.0)
    turns = np.stack([own * np.sqrt(0.5), own * np.sqrt(1.5)])
    flat = np.ones(2)
    assert summary.Rotation(np.array([1, 2]), flat, flat, turns).spread() == pytest.approx(96 / 6)


def test_windows_are_rms_and_leave_out_a_part_of_one():
    steps = np.arange(2, 26, 2)
    measured = np.where(steps <= 10, 3.0, 4.0)
    rotation = summary.Rotation(steps, measured, np.full(12, 2.0), measured[:, None])
    assert rotation.ratios(window=10).tolist() == [1.5, 2.0]
    assert rotation.after(10).ratios(window=10).tolist()[1:] == [2.0]


# The promises, at full size -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_demo_keeps_its_promises(tmp_path):
    arms = {arm.name: arm for arm in demo.run(out=tmp_path).arms}
    held = summary.read(arms["rotational"].log).ratios(window=50)
    assert len(held) == 20
    assert held == pytest.approx(np.ones(20), rel=0.02)  # from the first window on
    assert 2 * arms["rotational"].spread < arms["adam-l2"].spread
    assert arms["rotational"].loss <= arms["adamw"].loss
    for name in ("adamw-warmup", "adamw"):  # plain AdamW finds the same rotation by itself, later
        assert arms[name].rotation == pytest.approx(arms[name].predicted, rel=0.15)
