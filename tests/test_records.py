"""Logs on disk: what is written is read back, whole lines survive a kill, damage is named, no log is overwritten."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotational import records, rules
from rotational.records import (
    ARRAYS,
    QUANTILES,
    RUN_FILE,
    SCALARS,
    SERIES,
    STEPS_FILE,
    Layer,
    Measurement,
    Records,
    Run,
    Writer,
)

LAYERS = (
    Layer("embed.weight", "Embedding", (5, 4), neurons=5, size=4, group=0, kept=(0, 2, 4)),
    Layer("qkv.weight", "Linear", (6, 4), 6, 4, group=1, kept=(1,), parts=(("q", 2), ("k", 2), ("v", 2))),
)
RUN = Run(
    title="a run",
    optimizer="torch.optim.adamw.AdamW",
    groups=({"lr": 1e-3, "betas": [0.9, 0.999], "foreach": None}, {"lr": 2e-3, "maximize": False}),
    rules=(rules.adamw().as_dict(), None),
    layers=LAYERS,
    versions={"python": "3"},
    every=5,
    notes={"corpus": "text", "loss": [[1, 2.5]]},
)


def measurement(layer: Layer = LAYERS[0], step: int = 5, **changes: Any) -> Measurement:
    n = len(layer.kept)
    values = {k: [0.1 * (i + 1) for i in range(n)] for k in SERIES}
    scalars = {"lr": 1e-3, "weight_decay": 0.1, "held": None, "rotation_rms": 0.2, "norm_rms": 1.5, "update_rms": 0.3}
    given: dict[str, Any] = {
        "layer": layer.name,
        "step": step,
        "group": layer.group,
        "quantiles": [0.1, 0.2, 0.3, 0.4, 0.5],
        **scalars,
        **values,
    }
    return Measurement(**(given | changes))


def written(path: Path, *measurements: Measurement, run: Run = RUN) -> Path:
    writer = Writer(path, run)
    for m in measurements:
        writer.write([m])
    writer.close()
    return path


def strictly(text: str) -> Any:
    """JSON as the standard has it: no NaN, no Infinity."""

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


# What is written is read back -----------------------------------------------------------------------------


def test_a_log_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    lines = [measurement(layer, step) for step in (5, 10, 15) for layer in LAYERS]
    read = Records(written(tmp_path / "log", *lines))
    assert read.run == RUN
    assert read.layers == list(LAYERS)
    for layer in LAYERS:
        series = read.series(layer.name)
        assert series.layer == layer
        assert series.step.tolist() == [5, 10, 15]
        assert series.step.dtype == series.group.dtype == np.int64
        assert series.quantiles.shape == (3, len(QUANTILES))
        for k in SERIES:
            assert getattr(series, k).shape == (3, len(layer.kept))
        np.testing.assert_allclose(series.rotation[1], lines[0].rotation[: len(layer.kept)], rtol=1e-12)
        assert np.isnan(series.held).all()


def test_pandas_reads_the_steps_without_us(tmp_path: Path) -> None:
    log = written(tmp_path / "log", *[measurement(layer, step) for step in (5, 10) for layer in LAYERS])
    frame = pd.read_json(log / STEPS_FILE, lines=True)
    assert set(frame.columns) == {"layer", *SCALARS, "rule", *ARRAYS}
    assert frame.groupby("layer").rotation_rms.mean().to_dict() == pytest.approx({x.name: 0.2 for x in LAYERS})
    assert frame.rotation[0] == pytest.approx([0.1, 0.2, 0.3])


def test_the_columns_are_those_that_the_module_documents(tmp_path: Path) -> None:
    documented = {
        word
        for line in (records.__doc__ or "").split("Columns of steps.jsonl:")[1].splitlines()
        if line.startswith("    ") and not line.startswith("     ")
        for word in line[4:].split("  ")[0].split()
    }
    named = set(strictly(measurement().line())) - {"lr", "weight_decay"}  # those two stand beside group
    assert documented == named


def test_neurons_are_written_with_five_significant_digits_and_scalars_with_all() -> None:
    x = 1.23456789e-4
    line = strictly(measurement(rotation=[x, 1 / 3, 2e-10], rotation_rms=x).line())
    assert line["rotation"] == [1.2346e-4, 0.33333, 2e-10]
    assert line["rotation_rms"] == x


# Above 1e300, rounding up to five digits may leave the range of floats.
NUMBERS = st.floats(-1e300, 1e300) | st.sampled_from([math.nan, math.inf, -math.inf])


@given(st.lists(NUMBERS, min_size=3, max_size=3), NUMBERS, st.text(min_size=1))
def test_any_number_and_any_name_make_one_line_of_strict_json(values: list[float], scalar: float, name: str) -> None:
    text = measurement(layer=replace(LAYERS[0], name=name), rotation=values, norm_rms=scalar, held=scalar).line()
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert text.isascii()
    line = strictly(text)
    assert line["layer"] == name
    for got, value in zip([*line["rotation"], line["norm_rms"], line["held"]], [*values, scalar, scalar], strict=True):
        assert (got is None) == (not math.isfinite(value))
        if got is not None:
            assert got == pytest.approx(value, rel=5.1e-5, abs=1e-320)


def test_what_was_not_finite_reads_as_nan(tmp_path: Path) -> None:
    bad = measurement(rotation=[math.nan, math.inf, -math.inf], norm_rms=-math.inf, quantiles=[math.nan] * 5)
    series = Records(written(tmp_path / "log", measurement(), bad)).series("embed.weight")
    assert np.isnan(series.rotation).tolist() == [[False] * 3, [True] * 3]
    assert np.isnan(series.norm_rms).tolist() == [False, True]
    assert np.isnan(series.quantiles[1]).all()


def test_names_like_nan_and_infinity_stay_as_they_are(tmp_path: Path) -> None:
    layer = replace(LAYERS[0], name='NaNGuard.Infinity."x"\\é.inf')
    run = replace(RUN, layers=(layer,), title="NaN")
    read = Records(written(tmp_path / "log", measurement(layer, norm_rms=math.nan), run=run))
    assert read.layers == [layer]
    assert read.run.title == "NaN"


def test_rule_of_a_step_is_that_of_its_line_or_else_that_of_its_group(tmp_path: Path) -> None:
    other = rules.adamw(betas=(0.85, 0.999)).as_dict()
    log = written(tmp_path / "log", measurement(), measurement(rule=other), measurement(LAYERS[1]))
    read = Records(log)
    assert read.series("embed.weight").rule == (RUN.rules[0], other)
    assert read.series("qkv.weight").rule == (None,)


def test_run_file_holds_what_json_can_and_null_for_what_is_not_finite(tmp_path: Path) -> None:
    notes = {
        "best": math.nan,
        "worst": math.inf,
        "curve": np.array([1.0, np.nan]),
        "n": np.int64(3),
        "deep": {"x": [()]},
    }
    log = written(tmp_path / "log", run=replace(RUN, notes=notes))
    assert strictly((log / RUN_FILE).read_text())["notes"] == {
        "best": None,
        "worst": None,
        "curve": [1.0, None],
        "n": 3,
        "deep": {"x": [[]]},
    }


# No log is overwritten, no file is half-written -------------------------------------------------------------


@pytest.mark.parametrize("present", [RUN_FILE, STEPS_FILE])
def test_a_log_is_never_overwritten(tmp_path: Path, present: str) -> None:
    log = tmp_path / "log"
    log.mkdir()
    (log / present).write_text("precious")
    with pytest.raises(FileExistsError, match=r"already holds a log\. Give a new path, or remove it"):
        Writer(log, RUN)
    assert {p.name: p.read_text() for p in log.iterdir()} == {present: "precious"}


def test_a_folder_with_other_files_may_hold_a_log(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine")
    assert Records(written(tmp_path, measurement())).layers == [LAYERS[0]]
    assert (tmp_path / "config.yaml").read_text() == "mine"


@pytest.mark.parametrize("below", [".", "deeper"])
def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match=r"a file has this name\. Give a folder"):
        Writer(tmp_path / "file" / below, RUN)
    assert (tmp_path / "file").read_text() == "mine"


def test_of_writers_that_start_at_once_on_one_path_one_gets_it(tmp_path: Path) -> None:
    start, outcomes = threading.Barrier(8), list[str]()

    def claim() -> None:
        start.wait()
        try:
            Writer(tmp_path / "log", RUN).close()
            outcomes.append("written")
        except FileExistsError:
            outcomes.append("refused")

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(outcomes) == ["refused"] * 7 + ["written"]
    assert Records(tmp_path / "log").run == RUN


def test_default_folders_are_numbered_and_survive_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rotation-log-2").write_text("a file of the user's")
    first, second = Writer(None, RUN), Writer(None, RUN)
    monkeypatch.chdir("/")
    for writer, name in ((first, "rotation-log"), (second, "rotation-log-3")):
        assert writer.path == tmp_path / name
        writer.write([measurement()])
        writer.describe(replace(RUN, title="renamed"))
        writer.close()
        assert Records(writer.path).run.title == "renamed"


@pytest.mark.parametrize("notes", [{"file": Path("x")}, {(1, 2): "key"}, {"f": print}])
def test_notes_that_json_cannot_hold_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notes: Mapping[Any, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError, match=r"watch\(notes=\.\.\.\): expected numbers, strings, lists and dicts"):
        Writer(None, replace(RUN, notes=notes))
    assert list(tmp_path.iterdir()) == []


def test_run_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Writer(tmp_path / "kept", RUN)

    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", kill)
    with pytest.raises(KeyboardInterrupt):
        Writer(tmp_path / "new", RUN)
    assert not {RUN_FILE, STEPS_FILE} & {p.name for p in (tmp_path / "new").iterdir()}
    with pytest.raises(KeyboardInterrupt):
        kept.describe(replace(RUN, title="half"))
    assert Records(tmp_path / "kept").run == RUN
    kept.close()


def test_closed_writer_says_so_and_closes_twice(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "log", RUN)
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match=r"the log .* is closed"):
        writer.write([measurement()])


# Kills and damage -------------------------------------------------------------------------------------------


def test_a_last_line_cut_anywhere_is_passed_over(tmp_path: Path) -> None:
    log = written(tmp_path / "log", measurement(step=5), measurement(step=10))
    whole = (log / STEPS_FILE).read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole), 3):
        (log / STEPS_FILE).write_bytes(whole[:cut])
        assert Records(log).series("embed.weight").step.tolist() == [5]
    (log / STEPS_FILE).write_bytes(whole)
    assert Records(log).series("embed.weight").step.tolist() == [5, 10]
    (log / STEPS_FILE).write_bytes(whole + b"\x00" * 4096)  # what a file system may leave after a power cut
    assert Records(log).series("embed.weight").step.tolist() == [5, 10]


GOOD = measurement().line()
DAMAGE = {
    "not JSON": "half a li\n",
    "an empty line": "\n",
    "bytes that are no text": "\udcff\udcfe\n",
    "zeros": "\x00" * 64 + "\n",
    "not a measurement": "[1, 2]\n",
    "no number": "3\n",
    "a column missing": GOOD.replace('"norm"', '"nrom"'),
    "a scalar missing": GOOD.replace('"lr"', '"rl"'),
    "an unknown layer": GOOD.replace("embed", "other"),
    "neurons missing": GOOD.replace('"norm":[0.1,', '"norm":['),
    "quantiles missing": GOOD.replace('"quantiles":[0.1,', '"quantiles":['),
    "a word among the numbers": GOOD.replace('"norm":[0.1,', '"norm":["x",'),
    "a word for a scalar": GOOD.replace('"lr": 0.001', '"lr": "x"'),
    "a word for the step": GOOD.replace('"step": 5', '"step": "5"'),
    "no step": GOOD.replace('"step": 5', '"step": null'),
    "an unknown group": GOOD.replace('"group": 0', '"group": 7'),
}


def test_every_damage_is_one() -> None:
    assert GOOD not in DAMAGE.values()


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_in_the_middle_is_an_error_with_its_line_number(tmp_path: Path, damage: str) -> None:
    log = written(tmp_path / "log", measurement(step=5))
    with open(log / STEPS_FILE, "a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(damage + GOOD)
    with pytest.raises(ValueError, match=r"line 2 of .*steps\.jsonl is damaged .*Take it out to read the others"):
        Records(log)
    lines = (log / STEPS_FILE).read_bytes().splitlines(keepends=True)
    (log / STEPS_FILE).write_bytes(lines[0] + lines[2])
    assert len(Records(log).series("embed.weight").step) == 2  # the advice works


def test_a_folder_without_a_log_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"no run\.json there; expected a folder that watch\(\) wrote"):
            Records(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        '{"format": 1}',
        '{"format": 2, "title": "x"}',
        '{"format": 1, "surprise": 1}',
        "\udcff",
    ],
)
def test_a_run_file_of_another_kind_is_named(tmp_path: Path, text: str) -> None:
    log = written(tmp_path / "log", measurement())
    (log / RUN_FILE).write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match=r"run\.json is not a log of this version"):
        Records(log)


def test_a_log_of_a_later_format_says_which(tmp_path: Path) -> None:
    log = written(tmp_path / "log", measurement())
    (log / RUN_FILE).write_text((log / RUN_FILE).read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(ValueError, match="format 9, expected 1"):
        Records(log)


def test_a_log_in_which_nothing_was_measured_yet_reads(tmp_path: Path) -> None:
    log = written(tmp_path / "log")
    assert Records(log).layers == []
    (log / STEPS_FILE).unlink()
    assert Records(log).layers == []


def test_a_layer_without_measurements_is_named_with_its_neighbours(tmp_path: Path) -> None:
    read = Records(written(tmp_path / "log", measurement()))
    assert read.layers == [LAYERS[0]]
    with pytest.raises(ValueError, match=r"series\('embedding.weight'\): nothing .*the nearest are embed\.weight"):
        read.series("embedding.weight")


def test_noted_numbers_come_back_as_curves(tmp_path):
    log = Writer(tmp_path / "log", RUN)
    log.note(1, {"loss": 2.5})
    log.note(4, {"loss": math.nan, "val_loss": 2.0})
    found = Records(log.path).curves
    np.testing.assert_array_equal(found["loss"][0], [1, 4])
    np.testing.assert_array_equal(found["loss"][1], [2.5, np.nan])
    assert found["val_loss"][1].tolist() == [2.0]
    log.close()
    with pytest.raises(ValueError, match="closed"):
        log.note(5, {"loss": 1.0})
    assert Records(tmp_path / "log").curves.keys() == found.keys()
    assert "NaN" not in (tmp_path / "log" / "curves.jsonl").read_text()
