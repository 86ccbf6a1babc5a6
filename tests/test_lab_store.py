"""Results on disk: read back as they were, never written over, never taken for another run's."""

from __future__ import annotations

import json
import math
import multiprocessing
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from laboratory import RUN, Points
from rotational.lab import declare, results, store
from rotational.lab import train as trainer
from rotational.lab.declare import Optimizer, plain
from rotational.lab.results import Curve, Result, from_json, to_json
from rotational.lab.store import Store, Taken


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    run = RUN.but(probes=("alignment", "radial", "time"))
    return trainer.train(run, Points(run), tmp_path_factory.mktemp("run") / "log").result


@pytest.fixture
def kept(result, tmp_path):
    kept = Store(tmp_path)
    kept.keep(result)
    return kept


def path(kept: Store, run=None) -> Path:
    return kept.folder(run or RUN.but(probes=("alignment", "radial", "time"))) / store.RESULT


def assert_same(a: object, b: object) -> None:
    """Equal up to the digits that are kept, NaN as NaN."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, Curve | results.LayerResult | results.Outline | Result):
        assert_same(vars(a), vars(b))
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, np.ndarray | float):
        assert b == pytest.approx(a, rel=6e-4, nan_ok=True)
    else:
        assert a == b


# Round trips --------------------------------------------------------------------------------------------------


def test_a_result_comes_back_as_it_was(result, kept):
    assert {k.split("/")[0] for k in result.probes} == {"alignment", "radial", "time"}
    assert_same(kept.result(result.run), replace(result, seconds=round(result.seconds, 2)))
    with pytest.raises(AssertionError):
        assert_same(result, replace(result, steps=1))


def test_a_result_is_a_few_kilobytes(kept):
    assert path(kept).stat().st_size < 12_000
    json.loads(path(kept).read_text(), parse_constant=lambda name: pytest.fail(name))  # JSON proper


def test_a_diverged_run_is_a_result_like_any_other(tmp_path):
    run = RUN.but(optimizer=Optimizer("sgd", 1e30, 1e-2), every=1)
    kept = Store(tmp_path)
    with kept.claim(run) as folder:
        kept.keep(trainer.train(run, Points(run, plain=True), folder).result)
    found = kept.result(run)
    assert found.diverged
    assert found.metrics["test"] == {"accuracy": 0.0, "loss": math.inf}
    assert found.steps < run.steps


def test_a_run_without_logged_steps_has_no_rotation(tmp_path):
    run = RUN.but(every=100)
    kept = Store(tmp_path)
    with kept.claim(run) as folder:
        kept.keep(trainer.train(run, Points(run), folder).result)
    found = kept.result(run)
    assert (found.rotation, found.layers) == (None, ())
    assert found.scored() > 0


def test_what_is_not_finite_survives_json(result):
    odd = replace(result, curves={"loss": Curve(np.array([1.0, 2.5]), np.array([math.nan, -math.inf]))})
    back = from_json(odd.run, json.loads(json.dumps(to_json(odd), allow_nan=False)))
    assert back.curves["loss"].step.tolist() == [1.0, 2.5]
    assert math.isnan(back.curves["loss"].value[0])
    assert back.curves["loss"].value[1] == -math.inf


def test_read_only_roots_are_read_and_never_written(result, kept, tmp_path):
    mine = Store(tmp_path / "mine", kept.root)
    assert mine.result(result.run).steps == result.steps
    assert not mine.root.exists()
    mine.keep(result)  # its own root had none
    assert path(mine).is_file()


def test_a_store_reads_without_torch():
    check = "import sys, rotational.lab.store; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


# What must not happen -----------------------------------------------------------------------------------------


def test_a_finished_result_is_not_written_over(result, kept):
    before = path(kept).read_bytes()
    with pytest.raises(FileExistsError, match=r"result.json: this run has a result already"):
        kept.keep(replace(result, steps=1))
    assert path(kept).read_bytes() == before
    assert [p.name for p in path(kept).parent.iterdir()] == [store.RESULT]  # and nothing is left lying about


def test_a_changed_declaration_is_another_run(result, kept):
    for changes in ({"seed": 1}, {"optimizer__lr": 0.02}, {"steps": 25}, {"schedule__floor": 0.1}, {"probes": ()}):
        assert kept.result(result.run.but(**changes)) is None


def spoiled(text: str) -> dict[str, str]:
    data = json.loads(text)
    other = {**data, "run": {**data["run"], "seed": 7}}
    rehashed = {k: v for k, v in other.items() if k != "digest"}
    old = {k: v for k, v in {**data, "format": 0}.items() if k != "digest"}
    bare = {k: v for k, v in data.items() if k not in ("digest", "layers")}
    return {
        "truncated": text[: len(text) // 2],
        "empty": "",
        "not an object": "[1, 2]",
        "a changed number": text.replace('"steps":24', '"steps":23'),
        "a changed declaration": json.dumps(other),
        "another run's": json.dumps({**rehashed, "digest": store.digest(rehashed)}),
        "of another format": json.dumps({**old, "digest": store.digest(old)}),
        "without a part": json.dumps({**bare, "digest": store.digest(bare)}),
    }


SAYS = {
    "truncated": "is damaged .it does not read as JSON",
    "empty": "is damaged .it does not read as JSON",
    "not an object": "is damaged",
    "a changed number": "is damaged .its contents do not fit its digest",
    "a changed declaration": "do not fit its digest",
    "another run's": "this result is of the run [0-9a-f]{16}, not of the folder",
    "of another format": "a result in format 0, where this version reads 1",
    "without a part": "is damaged .KeyError: 'layers'",
}


@pytest.mark.parametrize("how", SAYS)
def test_a_file_that_is_not_as_it_was_written_is_a_sentence_that_names_it(result, kept, how):
    text = spoiled(path(kept).read_text())[how]
    path(kept).write_text(text)
    with pytest.raises(ValueError, match=rf"result\.json.*{SAYS[how]}") as raised:
        kept.result(result.run)
    assert str(path(kept)) in str(raised.value)
    with pytest.raises(FileExistsError):  # and its place is not taken by a new one
        kept.keep(result)
    assert path(kept).read_text() == text
    assert len(kept.faults()) == (how != "without a part")


def test_binary_rubbish_is_a_sentence_too(result, kept):
    path(kept).write_bytes(b"\xff\xfe\x00" * 100)
    with pytest.raises(ValueError, match=r"result\.json is damaged"):
        kept.result(result.run)


def test_a_result_in_the_folder_of_another_run_is_seen(result, kept):
    other = result.run.but(seed=1)
    shutil.copytree(kept.folder(result.run), kept.folder(other))
    with pytest.raises(ValueError, match=f"of the run {result.run.key}, not of the folder"):
        kept.result(other)
    assert len(kept.faults()) == 1
    assert kept.result(result.run) is not None


def test_a_folder_begun_by_another_declaration_is_not_gone_on_with(tmp_path):
    kept = Store(tmp_path)
    with kept.claim(RUN):
        pass
    declared = kept.folder(RUN) / store.RUN
    assert json.loads(declared.read_text()) == {"format": declare.FORMAT, "run": json.loads(json.dumps(plain(RUN)))}
    declared.write_text(declared.read_text().replace('"steps": 24', '"steps": 48'))
    with pytest.raises(ValueError, match=r"run.json: declared here is another run"), kept.claim(RUN):
        pass
    declared.write_text("{")
    with pytest.raises(ValueError, match=r"run.json is damaged"), kept.claim(RUN):
        pass


# Several processes --------------------------------------------------------------------------------------------


def hold(root: str, held, leave) -> None:
    with Store(root).claim(RUN):
        held.set()
        leave.wait(60)


def test_a_run_is_one_processs_at_a_time_and_free_when_that_one_is_killed(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, leave = context.Event(), context.Event()
    other = context.Process(target=hold, args=(str(tmp_path), held, leave))
    other.start()
    assert held.wait(60)
    kept = Store(tmp_path)
    with pytest.raises(Taken, match=f"{RUN.key}: another process works at this run"), kept.claim(RUN):
        pass
    with kept.claim(RUN.but(seed=1)):
        pass  # other runs are free
    other.kill()
    other.join()
    assert other.exitcode == (-signal.SIGKILL if sys.platform != "win32" else other.exitcode)
    with kept.claim(RUN) as folder:
        assert folder.name == store.LOG


def test_threads_of_one_process_do_not_share_a_run(tmp_path):
    kept, found = Store(tmp_path), []

    def second() -> None:
        try:
            with kept.claim(RUN):
                found.append("claimed")
        except Taken:
            found.append("taken")

    with kept.claim(RUN):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert found == ["taken"]


def test_of_two_that_keep_at_once_one_wins(result, tmp_path):
    kept, outcomes = Store(tmp_path), []
    start = threading.Barrier(4)

    def keep() -> None:
        start.wait()
        try:
            kept.keep(result)
            outcomes.append("kept")
        except FileExistsError:
            outcomes.append("refused")

    threads = [threading.Thread(target=keep) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["kept", "refused", "refused", "refused"]
    assert kept.result(result.run) is not None


# Together with training ---------------------------------------------------------------------------------------


def test_an_interrupted_run_resumes_through_the_store(tmp_path):
    kept, whole, resumed = Store(tmp_path / "a"), Points(RUN), Points(RUN)
    with Store(tmp_path / "b").claim(RUN) as folder:
        trainer.train(RUN, whole, folder)
    seen = []
    with kept.claim(RUN) as folder:
        stopped = trainer.train(RUN, Points(RUN), folder, stop=lambda: seen.append(1) or len(seen) == 10)
    assert stopped.result is None
    assert kept.result(RUN) is None
    with kept.claim(RUN) as folder:
        kept.keep(trainer.train(RUN, resumed, folder).result)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))
    assert not (folder / store.CHECKPOINT).exists()
    assert kept.log(RUN) == folder
    assert kept.result(RUN).versions["torch"] == metadata.version("torch")


def test_a_file_is_the_old_one_or_the_new_one(tmp_path, monkeypatch):
    target = tmp_path / "file"
    store.write(target, "old")

    def broken(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(store.os, "fsync", broken)
    with pytest.raises(OSError, match="no space left"):
        store.write(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
