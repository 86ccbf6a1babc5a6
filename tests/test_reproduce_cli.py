"""`rotational reproduce`, as a user types it, from nothing to pages: on made-up data, in processes of its own."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rotational.paper
from rotational.cli import main
from rotational.lab import ledger, reproduce, workers
from rotational.lab.declare import Data, Model, Optimizer, Run, grid
from rotational.lab.figures import Arm, Claim, Figure, Panel, Then
from rotational.lab.ledger import Entry
from rotational.lab.progress import Clock, clock
from rotational.lab.quantities import Of
from rotational.lab.shelf import Shelf
from rotational.lab.workers import Machine, Pool, Word
from rotational.paper.figures import FIGURES

RUN = Run(
    Model("mlp", width=8, norm="batch"), Data("blobs"), Optimizer("adamw", 0.02, 0.5), 12, 16, every=2, evaluations=2
)
HELD = RUN.but(optimizer__rotational=True)

BY_NAME = {figure.name: figure for figure in FIGURES}


def run(capsys, *words):
    code = main(["reproduce", *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def figure(run: Run = RUN) -> Figure:
    """Two stages: a run, and one that replays its angles."""
    arms = (
        Arm("decayed", grid(run, seed=(0, 1))),
        Then(
            "replayed",
            grid(run.but(optimizer__rotational=True), seed=(0, 1)),
            "optimizer__angles",
            "decayed",
            "rotation",
        ),
    )
    return Figure(
        *("replay", "1", "Replay", "One learns like the other."),
        **dict.fromkeys(("tiny", "laptop", "paper"), arms),  # pyright: ignore[reportArgumentType]
        panels=(Panel("Loss", "lines", "loss"),),
        claims=(Claim("It learns", Of("replayed", "loss"), low=0),),
    )


# Words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120])
def test_the_list_says_what_each_figure_takes_to_one_who_ran_nothing(capsys, tmp_path, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, _ = run(capsys, "--list", "--out", tmp_path)
    assert code == 0
    lines = out.splitlines()
    assert max(map(len, lines)) <= width
    shipped = ledger.read((Path(rotational.paper.__file__).parent / "measured.json").read_text())
    for figure in FIGURES:
        (line,) = [x for x in lines if x.startswith(f" {figure.name} ")]
        for entry in shipped[figure.name].values():
            time = clock(entry.seconds)
            assert (f">{time.lstrip('<')}" if entry.missing else f" {time} ") in line
        trained = any(isinstance(job, Run) for job in figure.jobs("paper"))
        assert ("GPU h " in line) == (trained and "paper" not in shipped[figure.name])  # where nobody took the time
    said = " ".join(word for line in lines for word in line[: line.find("  ", 3)].split())
    assert [figure.name for figure in FIGURES if " ".join(figure.sentence.split()[:3]) not in said] == []
    said = " ".join(out.split())
    assert "Defazio 2025" in said
    assert "GPU h: an estimate, within a factor of two, of hours on one A100" in said


def test_the_list_of_some_gives_their_sentences_and_what_the_folder_holds(capsys, tmp_path):
    run(capsys, "adamc", "--seeds", "1", "--jobs", "1", "--out", tmp_path)
    _, out, _ = run(capsys, "--list", "adamc", "--out", tmp_path)
    said = " ".join(out.split())
    assert "With weight decay" in said
    assert "tiny here:" in said
    assert "undecided" in said
    assert "dynamics" not in said


def test_what_comes_with_the_package_is_what_the_stored_results_say():
    docs = runpy.run_path(str(Path(__file__).parent.parent / "docs" / "reproduction.py"))
    assert docs["MEASURED"].read_text(encoding="utf-8") == docs["measured"]()


@pytest.mark.parametrize("figure", FIGURES, ids=lambda f: f.name)
def test_what_comes_with_the_package_is_of_the_runs_that_are_declared(figure):
    shipped = ledger.read((Path(rotational.paper.__file__).parent / "measured.json").read_text())[figure.name]
    assert {"tiny", "laptop"} <= shipped.keys()
    for scale in ("tiny", "laptop"):
        entry = shipped[scale]
        assert (entry.ran, entry.missing) == (len({job.key for job in figure.jobs(scale)}), 0)
        assert sum(entry.claims.values()) == len(figure.seen(scale).claims)


def test_the_ledger_keeps_the_date_of_what_did_not_change():
    old = {"a": {"tiny": Entry(2, 0, 1.5, {"held": 1})}, "b": {"tiny": Entry(2, 1, 1.5, {"not run": 1})}}
    first = ledger.dated(old, {}, "2026-01-01")
    assert ledger.read(ledger.written(first)) == first
    changed = {**old, "b": {"tiny": Entry(3, 0, 2.5, {"held": 1})}}
    dates = [entries["tiny"].date for entries in ledger.dated(changed, first, "2026-02-02").values()]
    assert dates == ["2026-01-01", "2026-02-02"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["dynamix"], "no figure is called 'dynamix'. Did you mean dynamics"),
        ([], "which figures? Give names, or all: predictions, dynamics"),
        (["dynamics", "--seeds", "0"], "reproduce: --seeds 0: expected 1 or more."),
        (["dynamics", "--jobs", "0"], "reproduce: --jobs 0: expected 1 or more."),
        (["dynamics", "--data", "/no/such/folder"], "--data /no/such/folder: no such folder"),
    ],
)
def test_what_was_asked_wrongly_is_a_sentence(capsys, tmp_path, words, says):
    code, _, err = run(capsys, *words, "--out", tmp_path)
    assert code == 2
    assert says in err
    assert list(tmp_path.iterdir()) == []


def test_missing_data_leaves_a_figure_out_and_says_why(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("ROTATIONAL_DATA", raising=False)
    (tmp_path / "data").mkdir()
    code, out, _ = run(capsys, "dynamics", "--scale", "paper", "--data", tmp_path / "data", "--out", tmp_path / "out")
    assert code == 2
    assert "dynamics is left out: Data('imagenet'): not in" in " ".join(out.split())


def test_computed_figures_from_end_to_end_and_nothing_twice(capsys, tmp_path):
    words = ("predictions", "--jobs", "1", "--out", tmp_path)
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert "held" in out
    files = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/computed.json")}
    assert len(files) == 18
    assert "<svg" in (tmp_path / "pages" / "tiny" / "predictions.html").read_text()
    assert run(capsys, *words)[0] == 0
    assert {p: p.stat().st_mtime_ns for p in files} == files
    _, out, _ = run(capsys, "--list", "predictions", "--out", tmp_path)
    assert "tiny here:" in out
    assert " 1 held" in out


def test_the_index_is_over_all_figures_that_the_folder_holds(capsys, tmp_path):
    def index() -> str:
        return (tmp_path / "pages" / "tiny" / "index.html").read_text()

    run(capsys, "predictions", "--seeds", "2", "--jobs", "1", "--out", tmp_path)
    assert "adamc.html" not in index()
    run(capsys, "adamc", "--seeds", "1", "--jobs", "1", "--out", tmp_path)
    for name in ("predictions", "adamc"):
        assert f'href="{name}.html"' in index()
        assert (tmp_path / "pages" / "tiny" / f"{name}.html").is_file()
    # What ran with one seed is not taken for a hole in what was asked with three.
    run(capsys, "predictions", "--jobs", "1", "--out", tmp_path)
    assert "missing" not in index()


def test_a_pipe_gets_a_line_for_each_run_that_ended(capsys, tmp_path):
    _, out, _ = run(capsys, "adamc", "--seeds", "1", "--jobs", "1", "--out", tmp_path)
    lines = [line for line in out.splitlines() if line.startswith("adamc: ")]
    assert len(lines) == 2
    assert re.fullmatch(r"adamc: Adam[WC], seed 0: in <?\d+ s, loss \d\.\d{3}; 1 of 2 runs, about .* left", lines[0])
    assert lines[1].endswith("; 2 of 2 runs")


def test_a_damaged_result_is_a_sentence_and_stays(capsys, tmp_path):
    words = ("predictions", "--jobs", "1", "--out", tmp_path)
    run(capsys, *words)
    path = next(tmp_path.glob("*/computed.json"))
    path.write_text("{")
    code, _, err = run(capsys, *words)
    assert code == 2
    assert f"{path} is damaged" in err
    assert path.read_text() == "{"


# Running ------------------------------------------------------------------------------------------------------


def test_both_stages_run_in_processes_and_are_kept(tmp_path):
    shelf = Shelf(tmp_path)
    ended = reproduce.run([figure()], "tiny", shelf, Pool(2))
    state = ended.states[0]
    assert (state.missing, ended.failed, ended.interrupted) == (0, (), False)
    assert state.verdicts[0].word == "held"
    assert len(list(tmp_path.glob("*/result.json"))) == 4
    replayed = state.found.points("replayed")[0].seeds[1].run
    assert isinstance(replayed, Run)
    assert len(replayed.optimizer.angles) == 6
    again = reproduce.run([figure()], "tiny", Shelf(tmp_path), Pool(2))
    assert again.states[0].missing == 0


def test_a_run_that_cannot_begin_is_told_and_the_others_run(tmp_path):
    good, bad = Arm("good", (RUN,)), Arm("bad", (RUN.but(model=Model("mpl")),))
    one = Figure(
        "one", "1", "One", "One.", *((good, bad),) * 3, (), (Claim("It learns", Of("good", "accuracy"), low=0),)
    )
    ended = reproduce.run([one], "tiny", Shelf(tmp_path), Pool(1))
    assert len(ended.failed) == 1
    assert "Model('mpl'): no such name; write 'mlp'" in ended.failed[0]
    assert ended.states[0].found.missing == {"good": 0, "bad": 1}


def test_a_killed_process_is_a_sentence_and_leaves_what_ended(tmp_path):
    def kill(word: Word) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    runs = grid(RUN.but(steps=4000), seed=(0, 1))
    pool = Pool(1)
    with pool.stopping() as stop, pytest.raises(ChildProcessError, match="What has ended is kept"):
        pool.work(runs, tmp_path, None, hear=kill, stop=stop)
    assert [Shelf(tmp_path).get(r) for r in runs] == [None, None]


class Flag:
    """A flag within this process."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_a_stopped_run_goes_on_and_ends_like_one_in_a_piece(tmp_path):
    words: list[Word] = []
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    workers.perform(HELD, whole, None, Machine(), words.append, lambda: False)
    workers.perform(HELD, halves, None, Machine(), words.append, Flag(after=5))
    assert words[-1].state == "stopped"
    assert Shelf(halves).get(HELD) is None
    workers.perform(HELD, halves, None, Machine(), words.append, lambda: False)
    assert words[-1].state == "done"
    one, two = (Shelf(folder).get(HELD) for folder in (whole, halves))
    assert one is not None
    assert two is not None
    assert {**one.scalars, "seconds per step": 0} == {**two.scalars, "seconds per step": 0}
    assert one.curves == two.curves


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C reaches processes differently there")
def test_ctrl_c_keeps_what_ran(tmp_path):
    code = (
        "from rotational.cli import main; import sys;"
        f"sys.exit(main(['reproduce', 'control', '--jobs', '1', '--out', {str(tmp_path)!r}]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/result.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130, out.decode()
    assert b"what ran is kept" in out
    kept = list(tmp_path.glob("*/result.json"))
    assert 0 < len(kept) < 14
    for path in kept:
        json.loads(path.read_text())


# Progress -----------------------------------------------------------------------------------------------------


def test_time_left_is_that_of_runs_of_the_same_kind():
    pace = Clock()
    long, other = RUN.but(steps=1000), RUN.but(model=Model("gpt"), steps=10)
    assert pace.total({long: 0}, 2) is None
    pace.learn(RUN.but(seed=5), 10, 0.1)
    assert pace.left(long, 500) == pytest.approx(5.0)
    assert pace.left(other) is None
    assert pace.total({long: 500, long.but(seed=1): 0}, 2) == pytest.approx(7.5)
    # what nothing is known of counts as the others
    assert pace.total({long: 0, other: 0}, 1) == pytest.approx(20.0)


@pytest.mark.slow
def test_every_figure_at_tiny_scale(tmp_path, capsys):
    begun = time.monotonic()
    code, out, err = run(capsys, "all", "--jobs", reproduce.cores(), "--out", tmp_path)
    assert (code, err) == (0, "")
    assert "not run" not in out
    assert time.monotonic() - begun < 180
    assert len(list((tmp_path / "pages" / "tiny").glob("*.html"))) == len(FIGURES) + 1
    assert Path(tmp_path / "pages" / "tiny" / "index.html").is_file()


@pytest.mark.parametrize("device", ["cuda:99", "gpux"])
def test_a_device_that_is_not_there_is_one_sentence(capsys, tmp_path, device):
    code, _, err = run(capsys, "adamc", "--device", device, "--out", tmp_path / "out")
    assert code == 2
    assert f"--device {device}: " in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_commands_name_a_folder_where_one_is_needed():
    assert BY_NAME["adamc"].command("tiny") == "rotational reproduce adamc --scale tiny"
    assert BY_NAME["adamc"].command("laptop") == "rotational reproduce adamc --scale laptop --data DIR"
    assert BY_NAME["predictions"].command("paper") == "rotational reproduce predictions --scale paper"


def test_the_list_counts_no_run_twice(capsys, tmp_path):
    _, out, _ = run(capsys, "--list", "warm-up", "--out", tmp_path)
    for scale in ("tiny", "laptop", "paper"):
        assert f" {len(set(BY_NAME['warm-up'].jobs(scale)))} runs" in " ".join(out.split())
