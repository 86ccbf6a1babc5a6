"""`rotational reproduce` where something goes wrong: damaged results, other processes, errors, paths."""

from __future__ import annotations

import io
import json
import re
import runpy
import sys
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
from rich.console import Console

import faking
from rotational.cli import main
from rotational.lab import computed, reproduce, train, workers
from rotational.lab.data import found
from rotational.lab.declare import Computed, Data, Model, Optimizer, Run, grid
from rotational.lab.figures import Arm, Claim, Figure, Then
from rotational.lab.measures import Measured
from rotational.lab.quantities import Of
from rotational.lab.shelf import COMPUTED, Shelf
from rotational.lab.store import RESULT, Store
from rotational.lab.workers import Machine, Word
from rotational.paper.figures import FIGURES

RUN = Run(
    Model("mlp", width=8, norm="batch"), Data("blobs"), Optimizer("adamw", 0.02, 0.5), 12, 16, every=2, evaluations=2
)
WALK = Computed("prediction", rule="sgd", lr=0.1, weight_decay=1e-4)
BY_NAME = {figure.name: figure for figure in FIGURES}


def run(capsys, *words):
    code = main(["reproduce", *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def one(*runs: Run, sentence: str = "It learns") -> Figure:
    arms = (Arm("one", runs),)
    return Figure("one", "1", "One", "One.", arms, arms, arms, (), (Claim(sentence, Of("one", "accuracy"), low=0),))


class Here:
    """A crew within this process; `between` is called after each round."""

    processes = 1

    def __init__(self, between=lambda: None) -> None:
        self.between, self.rounds = between, 0

    @contextmanager
    def stopping(self):
        yield threading.Event()

    def work(self, jobs, root, data, hear, stop) -> None:
        self.rounds += 1
        for job in jobs:
            workers.perform(job, root, data, Machine(), hear, stop.is_set)
        self.between()


# Damaged results ----------------------------------------------------------------------------------------------


def test_what_is_damaged_of_another_figure_costs_that_figure_alone(capsys, tmp_path):
    run(capsys, "predictions", "--jobs", "1", "--out", tmp_path)
    path = next(tmp_path.glob(f"*/{COMPUTED}"))
    path.write_text("{")
    code, out, _ = run(capsys, "adamc", "--seeds", "1", "--jobs", "1", "--out", tmp_path)
    assert code == 0
    assert f"predictions at tiny scale is left out: {path} is damaged" in out
    assert (tmp_path / "pages" / "tiny" / "adamc.html").is_file()
    code, out, _ = run(capsys, "--list", "--out", tmp_path)
    assert code == 0
    assert f"predictions at tiny scale is left out: {path} is damaged" in out
    assert "tiny here:" in out


def test_computed_numbers_changed_by_hand_are_seen(tmp_path):
    shelf = Shelf(tmp_path)
    shelf.put(Measured(WALK, {"rotation": 3e-3}, {}, seconds=0.5))
    assert shelf.faults() == []
    path = tmp_path / WALK.key / COMPUTED
    path.write_text(path.read_text().replace("0.003", "0.004"))
    with pytest.raises(ValueError, match="its contents do not fit its digest"):
        Shelf(tmp_path).get(WALK)
    (fault,) = shelf.faults()
    assert str(path) in fault


def test_what_is_stored_in_the_repository_is_whole():
    stored = Path(__file__).parent.parent / "docs" / "reproduction"
    assert Shelf(stored).faults() == []
    assert len(list(stored.glob(f"*/{COMPUTED}"))) > 30


# Other processes ----------------------------------------------------------------------------------------------


def test_numbers_that_another_process_computed_meanwhile_are_taken(tmp_path, monkeypatch):
    heard: list[Word] = []

    def computing(what: Computed) -> Measured:
        Shelf(tmp_path).put(Measured(what, {"rotation": 1.0}, {}, seconds=7.0))
        return Measured(what, {"rotation": 2.0}, {}, seconds=9.0)

    monkeypatch.setattr(computed, "compute", computing)
    workers.perform(WALK, tmp_path, None, Machine(), heard.append, lambda: False)
    assert [(word.state, word.seconds) for word in heard] == [("running", 0.0), ("done", 7.0)]
    assert Shelf(tmp_path).get(WALK).scalars == {"rotation": 1.0}


def test_a_run_of_another_process_is_looked_at_again_and_is_no_error_once_it_is_there(tmp_path):
    runs = grid(RUN, seed=(0, 1))
    with ExitStack() as stack:
        stack.enter_context(Store(tmp_path).claim(runs[0]))

        def other_ends() -> None:
            stack.close()
            workers.perform(runs[0], tmp_path, None, Machine(), lambda _: None, lambda: False)

        ended = reproduce.run([one(*runs)], "tiny", Shelf(tmp_path), Here(other_ends))
    assert (ended.failed, ended.states[0].missing) == ((), 0)


def test_a_run_that_another_process_left_is_done_in_the_second_round(tmp_path):
    with ExitStack() as stack:
        stack.enter_context(Store(tmp_path).claim(RUN))
        crew = Here(stack.close)
        ended = reproduce.run([one(RUN)], "tiny", Shelf(tmp_path), crew)
    assert (ended.failed, ended.states[0].missing, crew.rounds) == ((), 0, 2)


def test_a_run_that_another_process_keeps_is_told_and_the_others_run(tmp_path, capsys):
    runs = grid(RUN, seed=(0, 1))
    with Store(tmp_path).claim(runs[0]):
        ended = reproduce.run([one(*runs)], "tiny", Shelf(tmp_path), Here(), console=Console())
    assert ended.failed == ("another process is still at work; the same command goes on when it has ended",)
    assert ended.states[0].missing == 1
    assert "one: one, seed 0: another process works at it" in capsys.readouterr().out


# Errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("cuDNN error:\nCUDNN_STATUS_INTERNAL_ERROR"), "CUDNN_STATUS_INTERNAL_ERROR. The whole"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), "out of memory; it takes a smaller batch or fewer --jobs"),
    ],
)
def test_an_error_that_nobody_expected_ends_one_run(tmp_path, monkeypatch, error, says):
    runs, training = grid(RUN, seed=(0, 1)), train.train

    def failing(run, *words, **options):
        if run == runs[0]:
            raise error
        return training(run, *words, **options)

    monkeypatch.setattr(train, "train", failing)
    ended = reproduce.run([one(*runs)], "tiny", Shelf(tmp_path), Here())
    (said,) = ended.failed
    assert said.startswith(f"mlp on blobs, batch 16: {says}")
    assert ended.states[0].missing == 1
    path = tmp_path / runs[0].key / "failed.txt"
    assert said.endswith(f"The whole traceback is in {path}.")
    assert "in failing" in path.read_text()


def test_after_such_an_error_the_pages_are_written(capsys, tmp_path, monkeypatch):
    def failing(*_: object, **__: object):
        raise RuntimeError("NCCL error")

    monkeypatch.setattr("rotational.lab.workers.Pool", lambda *_: Here())
    monkeypatch.setattr(train, "train", failing)
    code, out, err = run(capsys, "adamc", "predictions", "--out", tmp_path)
    assert (code, err) == (2, "")
    assert re.search(r"Not run: \w+ on blobs, batch 16: RuntimeError: NCCL error\. The whole", out)
    assert (tmp_path / "pages" / "tiny" / "predictions.html").is_file()


def test_a_log_whose_result_was_removed_says_what_to_move(tmp_path):
    heard: list[Word] = []
    workers.perform(RUN, tmp_path, None, Machine(), heard.append, lambda: False)
    (tmp_path / RUN.key / RESULT).unlink()
    workers.perform(RUN, tmp_path, None, Machine(), heard.append, lambda: False)
    assert heard[-1].state == "failed"
    assert f"Move the folder {RUN.key} away to run it again" in heard[-1].said


# Words --------------------------------------------------------------------------------------------------------


def test_what_looks_like_markup_is_printed_as_it_is(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("ROTATIONAL_DATA", raising=False)
    with monkeypatch.context() as without:
        without.setattr(found, "find_spec", lambda _: None)
        _, out, _ = run(capsys, "control", "--scale", "laptop", "--out", tmp_path / "out")
    assert "needs scikit-learn. Run pip install 'rotational[reproduce]'." in out
    monkeypatch.setattr(found, "find_spec", lambda _: True)
    (data := tmp_path / "mk[" / "b]").mkdir(parents=True)
    code, out, _ = run(capsys, "dynamics", "--scale", "paper", "--data", data, "--out", tmp_path / "out")
    assert code == 2
    assert f"not in {data}," in out


def test_claims_are_printed_as_they_are(tmp_path):
    console = Console(width=120, file=io.StringIO())
    console.print(reproduce.table([reproduce.state(one(RUN, sentence="It [/b] learns"), "tiny", Shelf(tmp_path))]))
    assert "It [/b] learns" in console.file.getvalue()


def test_a_folder_of_results_that_cannot_be_is_seen_before_anything_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "run", lambda *_, **__: pytest.fail("it ran"))
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        code, _, err = run(capsys, "adamc", "--out", out)
        assert code == 2
        assert f"--out {out}: a file has this name. Give a folder." in err
    if sys.platform == "linux":
        code, _, err = run(capsys, "adamc", "--out", "/proc/results")
        assert code == 2
        assert "--out /proc/results: cannot be written" in err


def test_several_processes_without_torchrun(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    code, _, err = run(capsys, "adamc", "--out", tmp_path)
    assert code == 2
    assert "start it with torchrun, or unset WORLD_SIZE" in err


# The stored results -------------------------------------------------------------------------------------------


def test_taking_removes_nothing_and_pruning_waits_for_what_a_second_stage_needs(capsys, tmp_path, monkeypatch):
    docs = runpy.run_path(str(Path(__file__).parent.parent / "docs" / "reproduction.py"))
    replay, stored = BY_NAME["replay"], tmp_path / "stored"
    (then,) = (arm for arm in replay.arms("laptop") if isinstance(arm, Then))
    (source,) = (arm for arm in replay.arms("laptop") if arm.label == then.source)
    shelf = Shelf(stored)
    faking.fill(lambda: tuple(r for r in shelf.found(replay, "laptop")[1] if isinstance(r, Run)), shelf.store.keep)
    whole = {path.name for path in stored.iterdir()}
    assert docs["take"](tmp_path / "nothing", stored) == 0
    assert docs["prune"](stored) == 0
    assert {path.name for path in stored.iterdir()} == whole

    gone = stored / source.runs[0].key / RESULT
    text = gone.read_text()
    gone.unlink()
    assert docs["take"](tmp_path / "nothing", stored) == 0
    capsys.readouterr()
    assert docs["prune"](stored) == 1
    assert "may be a second-stage run of lag or replay, whose first stage is not complete" in capsys.readouterr().out
    assert {path.name for path in stored.iterdir()} == whole

    gone.write_text(text)
    Store(stored).keep(faking.plausible(RUN))  # no figure asks for it
    assert docs["take"](tmp_path / "nothing", stored) == 0
    assert (stored / RUN.key).is_dir()
    assert docs["prune"](stored) == 0
    assert {path.name for path in stored.iterdir()} == whole
    json.loads(gone.read_text())


def test_pruning_waits_for_a_sweep_whose_best_point_has_further_seeds(capsys, tmp_path):
    docs = runpy.run_path(str(Path(__file__).parent.parent / "docs" / "reproduction.py"))
    adam, stored = BY_NAME["adam-l2"], tmp_path / "stored"
    shelf = Shelf(stored)
    faking.fill(lambda: tuple(r for r in shelf.found(adam, "laptop")[1] if isinstance(r, Run)), shelf.store.keep)
    whole = {path.name for path in stored.iterdir()}
    assert docs["prune"](stored) == 0
    assert {path.name for path in stored.iterdir()} == whole
    sweep = adam.arms("laptop")[0]  # of which no second stage takes anything
    gone = stored / sweep.runs[0].key / RESULT
    text = gone.read_text()
    gone.unlink()
    capsys.readouterr()
    assert docs["prune"](stored) == 1
    assert "may be a second-stage run of adam-l2" in capsys.readouterr().out
    gone.write_text(text)
    assert docs["prune"](stored) == 0
    assert {path.name for path in stored.iterdir()} == whole


def test_compiling_that_does_not_work_here_is_refused_before_anything_runs(capsys, tmp_path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("No working C++ compiler found.\nOr so it seems.")

    monkeypatch.setattr(torch, "compile", broken)
    code, _, err = run(capsys, "adamc", "--compile", "--out", tmp_path / "out")
    assert code == 2
    assert "torch.compile does not work here on cpu (RuntimeError: No working C++ compiler found). Leave --comp" in err
    assert not (tmp_path / "out").exists()
    assert run(capsys, "adamc", "--compile", "--list", "--out", tmp_path)[0] == 0  # nothing is compiled
