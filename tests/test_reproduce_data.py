"""`rotational reproduce` without some of its data: what stands in, what runs in part, and what would run."""

from __future__ import annotations

import html
import re
import threading
from contextlib import contextmanager
from dataclasses import replace

import pytest

import faking
from rotational.cli import dry, main
from rotational.lab import reproduce, tasks
from rotational.lab.data import found
from rotational.lab.declare import Data, Model, Optimizer, Run, grid
from rotational.lab.figures import Arm, Claim, Figure, Then
from rotational.lab.quantities import Of
from rotational.lab.shelf import Shelf
from rotational.lab.store import RESULT, Store
from rotational.paper.base import SUBSTITUTES
from rotational.paper.figures import FIGURES
from rotational.report.figure import page

RUN = Run(
    Model("mlp", width=8, norm="batch"), Data("blobs"), Optimizer("adamw", 0.02, 0.5), 12, 16, every=2, evaluations=2
)
WANTED = "Data('multi30k'): no folder of data was given. Pass --data DIR, or set ROTATIONAL_DATA."
BY_NAME = {figure.name: figure for figure in FIGURES}


def run(capsys, *words):
    code = main(["reproduce", *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


class Made:
    """A crew that makes results up, and remembers of which runs."""

    processes = 1

    def __init__(self) -> None:
        self.asked: list[Run] = []

    @contextmanager
    def stopping(self):
        yield threading.Event()

    def work(self, jobs, root, data, hear, stop) -> None:
        self.asked.extend(jobs)
        for job in jobs:
            Store(root).keep(faking.plausible(job))


def test_only_data_that_is_missing_is_stood_in_for(capsys, tmp_path, monkeypatch):
    asked: list[Run] = []

    def ended(figures, scale, *_, **__):
        asked.extend(r for f in figures for r in f.jobs(scale) if isinstance(r, Run))
        return reproduce.Ended((), False, {})

    monkeypatch.setattr(reproduce, "run", ended)
    monkeypatch.setattr(found, "find_spec", lambda _: True)
    (data := tmp_path / "data").mkdir()
    (data / "novels.txt").write_text("a")
    _, out, _ = run(capsys, "dynamics", "--scale", "laptop", "--data", data, "--out", tmp_path / "out")
    assert f"stands in for data that is missing (not in {data}): digits for cifar10." in out
    assert {r.data.name for r in asked} == {"digits", "novels"}
    declared = {r.key for r in BY_NAME["dynamics"].jobs("laptop") if isinstance(r, Run) and r.data.name == "novels"}
    assert declared <= {r.key for r in asked}


def two_parts() -> Figure:
    """One part on data that is made up, one on data that needs a folder, and a second stage of the latter."""
    kept, barred = grid(RUN, seed=(0, 1)), grid(RUN.but(data=Data("multi30k")), seed=(0, 1))
    held = grid(RUN.but(optimizer__rotational=True), seed=(0, 1))
    arms = (
        Arm("made up", kept),
        Arm("needed", barred),
        Then("later", held, "optimizer__rotation", "needed", "rotation"),
    )
    claims = tuple(Claim(label, Of(label, "loss"), low=0) for label in ("made up", "needed", "later"))
    return Figure("one", "1", "One", "One.", arms, arms, arms, (), claims)


def test_a_figure_runs_with_the_parts_that_have_data_and_says_of_the_others_what_is_wanted(tmp_path):
    one = two_parts()
    lacks = reproduce.lacking([one], "tiny", lambda needed: tasks.available(needed, None))
    assert lacks == {Data("multi30k"): WANTED}
    assert reproduce.selected([one], "tiny", lacks) == ((one,), {})
    shelf = Shelf(tmp_path)
    ended = reproduce.run([one], "tiny", shelf, Made(), lacks=lacks)
    assert ended.failed == ()
    (state,) = ended.states
    assert [(v.word, v.measured) for v in state.verdicts][1:] == [("not run", WANTED)] * 2
    assert state.verdicts[0].word == "held"
    assert state.missing == 4
    assert {path.parent.name for path in tmp_path.glob(f"*/{RESULT}")} == {run.key for run in one.tiny[0].runs}
    assert WANTED in html.unescape(page(state))
    # What is there already is judged, whatever the folder of data.
    for run in one.tiny[1].runs:
        assert isinstance(run, Run)
        shelf.store.keep(faking.result(run))
    words = [v.word for v in reproduce.state(one, "tiny", shelf, None, lacks).verdicts]
    assert words == ["held", "held", "not run"]


def test_a_figure_is_left_out_where_no_part_has_data():
    one = BY_NAME["adamc"]
    lacks = reproduce.lacking([one], "laptop", lambda needed: f"no {needed.name}")
    assert reproduce.selected([one], "laptop", lacks) == ((), {"adamc": "no cifar10"})


def test_text_without_a_folder_lacks_translation_alone(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("ROTATIONAL_DATA", raising=False)
    made = Made()
    monkeypatch.setattr("rotational.lab.workers.Pool", lambda *_: made)
    code, out, err = run(capsys, "control-text", "--scale", "laptop", "--out", tmp_path)
    assert (code, err) == (0, "")
    assert "control-text runs without “Translation: AdamW”, “Translation: rotational, zero-shot”, " in out
    assert f"“Translation: rotational, more weight decay”: {WANTED}" in out
    assert {r.data for r in made.asked} == {SUBSTITUTES["novels"]}
    assert len(made.asked) == 25
    said = " ".join(out.split())
    assert said.count("holds if ≤ 1.01") == 3
    text = html.unescape((tmp_path / "pages" / "laptop" / "control-text.html").read_text())
    assert text.count(WANTED) == 3  # two claims, and the head of the page
    words = re.findall(r'class="word [^"]*">. ([a-z ]+)<', text)
    assert words[:2] == ["not run", "not run"]
    assert "not run" not in words[2:4]


@pytest.mark.parametrize("name", BY_NAME)
def test_every_figure_has_a_part_that_needs_no_folder(name):
    chosen = BY_NAME[name].with_data(SUBSTITUTES)
    lacks = reproduce.lacking([chosen], "laptop", lambda needed: tasks.available(needed, None))
    wanting = {needed.name for needed, said in lacks.items() if "scikit-learn" not in said}
    assert wanting == ({"multi30k"} if name == "control-text" else set())


def test_results_with_some_data_stood_in_for_are_found_again(capsys, tmp_path):
    mixed = BY_NAME["dynamics"].with_data({"cifar10": SUBSTITUTES["cifar10"]})
    shelf = Shelf(tmp_path)
    faking.fill(lambda: tuple(r for r in shelf.found(mixed, "laptop")[1] if isinstance(r, Run)), shelf.store.keep)
    _, out, _ = run(capsys, "--list", "dynamics", "--out", tmp_path)
    assert re.search("laptop *\n? *here:|laptop here:", out)


# What would run -----------------------------------------------------------------------------------------------


def cells(out: str, name: str) -> list[str]:
    """A row of the table, cell by cell."""
    (line,) = [x for x in out.splitlines() if x.startswith(f"  {name} ")]
    return re.split(r" {2,}", line.strip())


@pytest.fixture
def nothing_runs(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("ROTATIONAL_DATA", raising=False)
    monkeypatch.setattr(reproduce, "run", lambda *_, **__: pytest.fail("it ran"))


def test_what_would_run_is_shown_and_nothing_is_written(capsys, tmp_path, nothing_runs):
    out_folder = tmp_path / "out"
    code, out, _ = run(capsys, "predictions", "adamc", "--dry-run", "--jobs", "2", "--out", out_folder)
    assert code == 0
    assert cells(out, "predictions")[:3] == ["predictions", "0", "18"]
    assert cells(out, "adamc")[:3] == ["adamc", "0", "4"]
    assert cells(out, "all")[:3] == ["all", "0", "22"]
    assert len(cells(out, "by 2 at a time")) == 2
    assert not out_folder.exists()


def test_what_is_stored_would_not_run_again_and_says_how_long_the_rest_takes(capsys, tmp_path, nothing_runs):
    runs = grid(next(r for r in BY_NAME["adamc"].jobs("tiny") if isinstance(r, Run)), seed=(0, 1))
    for seconds, one in zip((100.0, 300.0), runs, strict=True):
        Store(tmp_path).keep(replace(faking.plausible(one), seconds=seconds))
    _, out, _ = run(capsys, "adamc", "--dry-run", "--jobs", "1", "--out", tmp_path)
    # two more of the kind that was seen last to take 300 s
    assert cells(out, "adamc") == ["adamc", "2", "2", "10 min"]
    assert cells(out, "all") == ["all", "2", "2", "10 min"]


def test_of_what_would_run_parts_without_data_stand_apart(capsys, tmp_path, nothing_runs):
    words = ("control-text", "--scale", "laptop", "--dry-run", "--jobs", "1", "--out", tmp_path)
    _, out, _ = run(capsys, *words)
    assert WANTED in out
    assert cells(out, "control-text")[:4] == ["control-text", "0", "25", "15"]
    _, out, _ = run(capsys, *words, "--seeds", "1")
    assert cells(out, "control-text")[:4] == ["control-text", "0", "5", "3"]


def test_where_nothing_has_its_data_no_empty_table_is_shown(capsys, tmp_path, nothing_runs):
    code, out, _ = run(capsys, "dynamics", "--scale", "paper", "--dry-run", "--out", tmp_path)
    assert code == 2
    said = " ".join(out.split())
    assert "dynamics is left out: Data('imagenet')" in said
    assert said.endswith("Nothing would run: all that was asked for is left out.")
    assert "to run" not in said


def test_runs_of_a_later_stage_and_shared_ones_are_counted(capsys, tmp_path, nothing_runs):
    _, out, _ = run(capsys, "replay", "lag", "--dry-run", "--jobs", "1", "--out", tmp_path)
    # both have AdamW and the rotational variant, two seeds each, and replay the same angles once these are known
    assert [cells(out, name)[2] for name in ("replay", "lag", "all")] == ["6", "6", "6"]


def test_further_seeds_of_a_sweep_are_counted_before_it_is_known_which_point_gets_them(tmp_path):
    runs = grid(RUN, optimizer__lr=(0.1, 0.2), seed=(0, 1))
    arms = (Arm("a", runs, more=(2, 3, 4), by="accuracy"),)
    one, shelf = Figure("one", "1", "One", "One.", arms, arms, arms, (), ()), Shelf(tmp_path)

    def left() -> list[str]:
        made = dry.table((one,), "tiny", shelf, None, {}, 1)
        return [str(next(iter(column.cells))) for column in made.columns[1:3]]

    assert left() == ["0", "7"]
    faking.fill(lambda: runs if not shelf.get(runs[0]) else (), shelf.store.keep)
    assert left() == ["4", "3"]
    faking.fill(lambda: tuple(r for r in shelf.found(one, "tiny")[1] if isinstance(r, Run)), shelf.store.keep)
    assert left() == ["7", "0"]


def test_the_time_of_what_nobody_ran_is_an_estimate_for_a_gpu_or_left_open(tmp_path):
    made = dry.table((BY_NAME["imbalance"],), "paper", Shelf(tmp_path), None, {}, 1)
    assert all(re.fullmatch(r"~\d+k? GPU h", str(x)) for x in made.columns[-1].cells)
    arms = (Arm("a", grid(RUN, seed=(0, 1)), more=(2,), by="accuracy"),)
    one = Figure("one", "1", "One", "One.", arms, arms, arms, (), ())
    assert list(dry.table((one,), "tiny", Shelf(tmp_path), None, {}, 1).columns[-1].cells) == ["?", "?"]
