"""The report: what the page says is what the log holds, and it stands on its own."""

from __future__ import annotations

import base64
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

import synthetic
from rotational import expected, rule, rules, theory
from rotational.records import RUN_FILE, STEPS_FILE, Records, Run, Writer
from rotational.report import page, strip, text

SHORT: dict[str, Any] = {"steps": 300, "every": 10, "described": synthetic.layers(1, width=24)}
EVIL = "<img src=x onerror=alert(1)></script><script>alert(2)</script>\"'>&amp;"


class Read(HTMLParser):
    """A page taken apart: its elements, the data inside it, the words that a reader sees."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._inside: list[str] = []
        self.scripts: list[str] = []
        self.feed(self.source)
        self.data = json.loads(self.scripts[0], parse_constant=_no_constant)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._inside and self._inside[-1] == "script":
            self.scripts[-1] += data
        else:
            self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One short log of each kind."""
    root = tmp_path_factory.mktemp("logs")
    kinds: tuple[synthetic.Kind, ...] = ("adamw", "adam_l2", "rotational")
    return {kind: synthetic.write(root / kind, kind, **SHORT) for kind in kinds}


def written(log: Any, tmp_path: Path, **options: Any) -> Read:
    return Read(page.write(log, tmp_path / "report.html", **options))


def fresh(tmp_path: Path, **options: Any) -> Path:
    return synthetic.write(tmp_path / "log", **{**SHORT, **options})


# The page stands on its own ------------------------------------------------------------------------------------


def test_nothing_is_loaded_from_anywhere(logs: dict[str, Path], tmp_path: Path) -> None:
    read = written(list(logs.values()), tmp_path)
    assert not {tag for tag, _ in read.elements} & {"link", "img", "iframe", "object", "embed", "base", "form"}
    assert not [(tag, key) for tag, attrs in read.elements for key in attrs if key in ("src", "href", "action")]
    own = read.source.replace(get_plotlyjs(), "")
    assert len(own) < len(read.source) - 1_000_000  # plotly is inside, and whole
    assert not re.search(r"https?://|@import|url\(", own)


def test_the_browser_is_told_to_load_nothing(logs: dict[str, Path], tmp_path: Path) -> None:
    policy = [m["content"] for m in written(logs["adamw"], tmp_path).all("meta") if m.get("http-equiv")]
    assert len(policy) == 1
    assert "default-src 'none'" in str(policy[0])


def test_report_needs_no_torch() -> None:
    code = "import rotational.report.page, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_page_stays_small_beside_plotly(logs: dict[str, Path], tmp_path: Path) -> None:
    layers = len(SHORT["described"])
    assert len(written(logs["adamw"], tmp_path).source) - len(get_plotlyjs()) < 60_000 + 25_000 * layers


def test_style_knows_light_and_dark_with_the_same_colours() -> None:
    css = (resources.files("rotational.report") / "page.css").read_text(encoding="utf-8")
    light, dark = (set(re.findall(r"(--[\w-]+):", part)) for part in css.split("prefers-color-scheme: dark")[:2])
    assert light == dark
    script = (resources.files("rotational.report") / "page.js").read_text(encoding="utf-8")
    assert set(re.findall(r'css\("(--[\w-]+)"\)', script)) <= light
    assert 'dark.addEventListener("change"' in script


def test_script_reads_what_python_writes(logs: dict[str, Path], tmp_path: Path) -> None:
    arm = written(logs["adamw"], tmp_path).data[0]
    script = (resources.files("rotational.report") / "page.js").read_text(encoding="utf-8")
    assert set(re.findall(r"\bl\.(\w+)", script)) - {"strip"} <= set(arm["layers"][0])
    assert set(re.findall(r"\bs\.(\w+)", script)) <= set(arm["layers"][0]["strip"])
    assert set(re.findall(r"\barm\.(\w+)", script)) <= set(arm)
    for chart in text.CHARTS:
        assert re.search(rf"^    {chart}(\(|:)", script, re.MULTILINE), chart


# The page says what the log holds ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adamw", "adam_l2", "rotational"])
def test_curves_are_those_of_the_log(kind: str, logs: dict[str, Path], tmp_path: Path) -> None:
    records = Records(logs[kind])
    for drawn, layer in zip(written(records, tmp_path).data[0]["layers"], records.layers, strict=True):
        series = records.series(layer.name)
        assert drawn["name"] == layer.name
        assert drawn["step"] == series.step.tolist()
        for key, values in (
            ("rotation", series.rotation_rms),
            ("low", series.quantiles[:, 0]),
            ("high", series.quantiles[:, 4]),
            ("norm", series.norm_rms),
        ):
            np.testing.assert_allclose(drawn[key], values, rtol=1e-3)


def test_predicted_line_is_the_forecast_and_the_equilibrium_of_the_moment_stands_beside_it(tmp_path: Path) -> None:
    log = fresh(tmp_path, schedule=synthetic.cosine(300, 100))
    records = Records(log)
    series = records.series("h.0.mlp.up.weight")
    known = rule.from_dict(records.run.rules[0] or {})
    drawn = next(x for x in written(log, tmp_path).data[0]["layers"] if x["name"] == "h.0.mlp.up.weight")
    (hoped,) = expected.of(records.run, [series])
    np.testing.assert_allclose(drawn["expected"], hoped.rotation, rtol=1e-3)
    np.testing.assert_allclose(drawn["normExpected"], hoped.norm, rtol=1e-3)
    for i in (0, 10, 20):
        e = theory.equilibrium(known, series.lr[i], series.weight_decay[i], size=24)
        assert drawn["static"][i] == pytest.approx(e.rotation, rel=1e-3)
        assert drawn["normStatic"][i] == pytest.approx(e.norm, rel=1e-3)
    assert drawn["static"][-1] is None  # lr ends at 0: no equilibrium exists there


def test_what_is_held_has_no_second_line(logs: dict[str, Path], tmp_path: Path) -> None:
    assert all(layer["static"] == [] for layer in written(logs["rotational"], tmp_path).data[0]["layers"])


def test_log_without_a_forecast_says_why(tmp_path: Path) -> None:
    log = fresh(tmp_path)
    described = json.loads((log / RUN_FILE).read_text())
    (log / RUN_FILE).write_text(json.dumps({**described, "rules": [rules.sgd(0.9).as_dict()]}))
    read = written(log, tmp_path)
    assert "depends on the size of the gradients" in read.words
    assert "static equilibrium of the moment" in read.words
    assert all(layer["static"] == [] and layer["expected"][0] > 0 for layer in read.data[0]["layers"])


def test_held_rotation_is_the_prediction_of_a_rotational_optimizer(logs: dict[str, Path], tmp_path: Path) -> None:
    read = written(logs["rotational"], tmp_path)
    for drawn in read.data[0]["layers"]:
        np.testing.assert_allclose(drawn["expected"], math.sqrt(2 * 2e-3 * 1.0 / 19), rtol=1e-3)
        assert drawn["word"] == "held"


def test_heat_strip_decodes_to_rotation_over_prediction(logs: dict[str, Path], tmp_path: Path) -> None:
    series = Records(logs["rotational"]).series("h.0.attn.qkv.weight")
    drawn = written(logs["rotational"], tmp_path).data[0]["layers"][0]["strip"]
    level = np.frombuffer(base64.b64decode(drawn["data"]), dtype=np.uint8).reshape(len(drawn["neurons"]), -1)
    ratio = 10 ** (drawn["low"] + level / 254 * (drawn["high"] - drawn["low"]))
    kept = [int(label.split()[0]) for label in drawn["neurons"]]
    np.testing.assert_allclose(ratio.T, (series.rotation / series.held[:, None])[:, kept], rtol=0.01)
    assert (np.diff(np.log(ratio).mean(axis=1)) > -0.01).all()  # sorted, slowest first
    assert drawn["neurons"][kept.index(30)] == "30 (k)"  # rows 24 to 47 of the fused qkv are k


def test_heat_strip_marks_what_has_no_value(tmp_path: Path) -> None:
    log = fresh(tmp_path, schedule=lambda t: float(t > 150))
    drawn = written(log, tmp_path).data[0]["layers"][0]["strip"]
    level = np.frombuffer(base64.b64decode(drawn["data"]), dtype=np.uint8).reshape(len(drawn["neurons"]), -1)
    assert (level[:, np.array(drawn["step"]) <= 150] == strip.NO_VALUE).all()
    assert (level[:, np.array(drawn["step"]) > 150] != strip.NO_VALUE).all()


def test_table_names_every_layer_with_its_numbers(logs: dict[str, Path], tmp_path: Path) -> None:
    read = written(logs["rotational"], tmp_path)
    names = [layer.name for layer in SHORT["described"]]
    assert [row["data-layer"] for row in read.all("tr") if "data-layer" in row] == names
    assert [option["value"] for option in read.all("option")] == names
    for words in ("0.0145", "held", "[0.9, 0.999]", "weight_decay", "torch", "adamw"):
        assert words in read.words


def test_long_log_is_binned_without_losing_its_level(tmp_path: Path) -> None:
    log = fresh(tmp_path, steps=950, every=1, described=synthetic.layers(1, width=8)[1:2], kind="rotational")
    read, series = written(log, tmp_path), Records(log).series("h.0.attn.proj.weight")
    drawn = read.data[0]["layers"][0]
    assert len(drawn["step"]) == 400
    assert drawn["step"][-1] == 950
    whole = math.sqrt(float(np.mean(series.rotation_rms**2)))
    assert math.sqrt(np.mean(np.square(drawn["rotation"]))) == pytest.approx(whole, rel=5e-3)
    assert "up to 3 logged steps" in read.words


# Several arms ---------------------------------------------------------------------------------------------------


def test_arms_are_told_apart_and_compared(logs: dict[str, Path], tmp_path: Path) -> None:
    several = [logs["adamw"], Records(logs["adamw"]), str(logs["rotational"])]
    read = written(several, tmp_path, title="Three", table=(["arm", "loss"], [["AdamW", "1.25"]]))
    assert [arm["name"] for arm in read.data] == ["AdamW (1)", "AdamW (2)", "rotational.AdamW"]
    assert len([s for s in read.all("section") if "hidden" in s]) == 2
    assert {"overview", "loss"} <= {d.get("data-chart") for d in read.all("div")}
    assert "1.25" in read.words
    assert "<title>Three</title>" in read.source


def test_overview_is_the_rms_over_neurons(logs: dict[str, Path], tmp_path: Path) -> None:
    records = Records(logs["adamw"])
    series = [records.series(layer.name) for layer in records.layers]
    neurons = np.array([s.layer.neurons for s in series])
    means = np.sqrt(neurons @ np.stack([s.rotation_rms**2 for s in series]) / neurons.sum())
    np.testing.assert_allclose(written(records, tmp_path).data[0]["overview"]["rotation"], means, rtol=1e-3)


def test_overview_predicts_nothing_where_nothing_is_known(logs: dict[str, Path], tmp_path: Path) -> None:
    overview = written(logs["adam_l2"], tmp_path).data[0]["overview"]
    assert set(overview["expected"]) == {None}
    assert None not in overview["rotation"]


# Logs that are not as they should be ----------------------------------------------------------------------------


def test_everything_from_a_log_is_escaped(tmp_path: Path) -> None:
    layer = synthetic.renamed(EVIL, replace(SHORT["described"][0], module=EVIL, parts=((EVIL, 72),)))
    log = fresh(tmp_path, title=EVIL, described=(layer,), notes={EVIL: EVIL, "loss": EVIL})
    read = written([log, log], tmp_path, title=EVIL, table=([EVIL, EVIL], [[EVIL, EVIL]]))
    assert len(read.all("script")) == 3
    assert not read.all("img")
    assert not [key for _, attrs in read.elements for key in attrs if key.startswith("on")]
    assert read.data[0]["layers"][0]["name"] == EVIL  # and nothing of it is lost
    assert [row["data-layer"] for row in read.all("tr") if "data-layer" in row] == [EVIL, EVIL]


def test_killed_log_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    log = fresh(tmp_path)
    lines = (log / STEPS_FILE).read_text().splitlines(keepends=True)
    (log / STEPS_FILE).write_text("".join(lines[:-2]) + lines[-2][: len(lines[-2]) // 2])
    read = written(log, tmp_path)
    assert read.data[0]["overview"]["step"][-1] == 290  # step 300 holds some layers only
    assert [len(layer["step"]) for layer in read.data[0]["layers"]] == [31, 31, 30, 30]


def test_empty_log_says_that_nothing_was_logged(logs: dict[str, Path], tmp_path: Path) -> None:
    Writer(tmp_path / "log", Records(logs["adamw"]).run).close()
    read = written([tmp_path / "log", logs["adamw"]], tmp_path)
    assert "nothing was logged" in read.words
    assert read.data[0]["layers"] == []
    assert len(read.data[1]["layers"]) == len(SHORT["described"])


def test_unknown_rule_says_how_to_name_it(tmp_path: Path) -> None:
    read = written(fresh(tmp_path, known=False), tmp_path)
    assert "watch(model, optimizer, rule=rotational.rules.adamw())" in read.words
    assert {layer["word"] for layer in read.data[0]["layers"]} == {"no prediction"}


def test_adam_l2_says_that_it_depends_on_the_gradient(logs: dict[str, Path], tmp_path: Path) -> None:
    assert "depends on the size of each neuron's gradient" in written(logs["adam_l2"], tmp_path).words


def test_no_weight_decay_says_that_no_equilibrium_can_form(tmp_path: Path) -> None:
    read = written(fresh(tmp_path, weight_decay=0.0), tmp_path)
    assert {layer["word"] for layer in read.data[0]["layers"]} == {"cannot form"}


def test_law_that_is_not_known_is_named_on_the_page(tmp_path: Path) -> None:
    read = written(fresh(tmp_path, weight_decay=600.0, lr=2e-3), tmp_path)
    assert "lr*weight_decay must be below 1" in read.words


def test_run_that_diverged_still_has_a_page(tmp_path: Path) -> None:
    log = fresh(tmp_path)
    steps = log / STEPS_FILE
    steps.write_text(re.sub(r'("rotation_rms": )[\d.e-]+', r"\1null", steps.read_text()))
    read = written(log, tmp_path)
    assert {layer["word"] for layer in read.data[0]["layers"]} == {"out"}
    assert "NaN or infinity" in read.words


def test_group_without_its_layers_and_plain_notes_are_listed(tmp_path: Path) -> None:
    run = Records(fresh(tmp_path)).run
    silent = synthetic.renamed("embedding.weight")
    noted: Run = replace(run, layers=(*run.layers, silent), notes={"corpus": "standard library", "loss": 0.5})
    Writer(tmp_path / "again", noted).close()
    (tmp_path / "again" / STEPS_FILE).write_text((tmp_path / "log" / STEPS_FILE).read_text())
    read = written(tmp_path / "again", tmp_path)
    assert "without a measurement in this log: embedding.weight" in read.words
    assert "standard library" in read.words
    assert "loss" not in {d.get("data-chart") for d in read.all("div")}


# Errors are sentences, and nothing is written by halves ---------------------------------------------------------


def test_errors_name_what_is_wrong(logs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a folder that watch"):
        page.write(tmp_path / "nothing", tmp_path / "r.html")
    with pytest.raises(FileNotFoundError, match=r"does not exist\. Create it first"):
        page.write(logs["adamw"], tmp_path / "missing" / "r.html")
    with pytest.raises(IsADirectoryError, match="Give a file in it"):
        page.write(logs["adamw"], tmp_path)
    with pytest.raises(ValueError, match="expected one log or more"):
        page.write([], tmp_path / "r.html")
    with pytest.raises(ValueError, match="has 1 cells for 2 columns"):
        page.write(logs["adamw"], tmp_path / "r.html", table=(["a", "b"], [["1"]]))
    assert list(tmp_path.iterdir()) == []


def test_old_page_stays_when_a_new_one_cannot_be_written(logs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    out.write_text("old")
    damaged = tmp_path / "damaged"
    Writer(damaged, Records(logs["adamw"]).run).close()
    (damaged / STEPS_FILE).write_text("not json\n")
    with pytest.raises(ValueError, match="line 1"):
        page.write([logs["adamw"], damaged], out)
    assert out.read_text() == "old"
    assert page.write(logs["adamw"], out) == out
    assert {p.name for p in tmp_path.iterdir()} == {"r.html", "damaged"}
