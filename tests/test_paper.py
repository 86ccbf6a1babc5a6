"""The paper's declarations: complete, within their budgets, and drawn and judged from end to end."""

from __future__ import annotations

import math
import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import faking
from rotational import equilibrium, rules
from rotational.lab import data, models, optimizers, reproduce
from rotational.lab.computed import compute
from rotational.lab.declare import Computed, Run
from rotational.lab.figures import SCALES, Arm, Figure
from rotational.lab.measures import MEASURES
from rotational.lab.named import checked
from rotational.lab.quantities import Of, Plateau, Quantity, Rank
from rotational.lab.shelf import Shelf
from rotational.paper.asides import ASIDES
from rotational.paper.figures import FIGURES
from rotational.report import figure, figure_svg, figure_table

BY_NAME = {f.name: f for f in FIGURES}
each = pytest.mark.parametrize("name", BY_NAME)

# What the issue of this laboratory lists, by the names that figures have here.
LISTED = {
    *("dynamics", "control", "control-text", "control-others", "lr-and-weight-decay", "warm-up", "adam-l2"),
    *("weight-standardization", "imbalance", "sensitivity", "assumptions", "scale-sensitive", "random-walk"),
    *("predictions", "run-time", "adamc", "replay", "lag", "overshoot"),
    # What the paper shows on another model, or along another axis, besides.
    *("lr-and-weight-decay-text", "warm-up-text", "sensitivity-text", "imbalance-shares"),
}


def test_every_listed_figure_is_there_once():
    assert len(BY_NAME) == len(FIGURES)
    assert set(BY_NAME) == LISTED


def quantities(of: Quantity) -> list[Quantity]:
    inner = [v for v in vars(of).values() if isinstance(v, Quantity)]
    inner += [q for v in vars(of).values() if isinstance(v, tuple) for q in v if isinstance(q, Quantity)]
    return [of, *(q for i in inner for q in quantities(i))]


@each
def test_claims_and_panels_ask_for_measures_that_exist(name):
    asked = [q for c in BY_NAME[name].claims for q in quantities(c.quantity) if isinstance(q, Of | Plateau | Rank)]
    asked_by = [q.by for q in asked if isinstance(q, Of) and q.by]
    drawn = [p.measure for p in BY_NAME[name].panels if p.kind in ("sweep", "heat", "bars")]
    assert {q.measure for q in asked} | set(asked_by) | set(drawn) <= set(MEASURES)


@each
def test_tiny_is_tiny_and_laptop_has_three_seeds_for_every_claim(name):
    assert all(r.steps * r.batch <= 24 * 64 for r in BY_NAME[name].jobs("tiny") if isinstance(r, Run))
    exact = all(c.exact for c in BY_NAME[name].claims)
    for arm in BY_NAME[name].arms("laptop"):
        assert exact or {run.seed for run in arm.runs} >= {0, 1, 2}


@each
@pytest.mark.parametrize("scale", SCALES)
def test_models_data_and_options_exist_at_every_scale(name, scale):
    for run in BY_NAME[name].jobs(scale):
        if isinstance(run, Run):
            checked(run.model, models.MODELS[run.model.name])
            checked(run.data, data.DATA[run.data.name])
            if run.optimizer.rotation is None and not run.optimizer.angles and run.optimizer.rule != "adam":
                optimizers.build(run, torch.nn.Linear(4, 3))  # raises for options that contradict each other


def test_runs_that_figures_share_are_the_same_runs():
    lag, replay, adamc = ({r.key for r in BY_NAME[n].jobs("paper")} for n in ("lag", "replay", "adamc"))
    assert len(lag & replay) >= 6
    assert len(replay & adamc) >= 3


def test_predictions_are_also_those_of_the_exact_equilibrium():
    for job in BY_NAME["predictions"].jobs("laptop"):
        assert isinstance(job, Computed)
        options = dict(job.options)
        if options["rule"] == "adamw":
            exact = equilibrium(rules.adamw(), float(options["lr"] or 0), float(options["weight_decay"] or 0)).rotation
            assert compute(job).scalar("rotation") == pytest.approx(exact, rel=0.01)


def test_walks_come_to_rest_where_they_should():
    walk = BY_NAME["random-walk"]
    job = next(walk.jobs("tiny"))
    assert isinstance(job, Computed)
    m = compute(job.but(neurons=64, steps=1500))
    assert m.scalar("ratio") == pytest.approx(1, abs=0.02)
    x, y = m.curves["rotation / rest"]
    assert len(x) == 60
    assert y[0] > 2 > y[-1] > 0.9


def test_a_step_takes_time():
    m = compute(Computed("step", rule="sgd", rotational=True, layers=1, width=8, steps=4))
    assert 0 < m.scalar("seconds per step") < 10


# End to end, without training -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def states(tmp_path_factory) -> dict[str, reproduce.State]:
    shelf = Shelf(tmp_path_factory.mktemp("results"))

    def missing(f: Figure) -> tuple[Run, ...]:
        ready = shelf.found(f, "tiny")[1]
        for job in ready:
            if isinstance(job, Computed):
                shelf.put(compute(job))
        return tuple(r for r in ready if isinstance(r, Run))

    for f in FIGURES:
        faking.fill(lambda f=f: missing(f), shelf.store.keep)
    return {f.name: reproduce.state(f, "tiny", shelf) for f in FIGURES}


@each
def test_a_page_has_every_claim_every_picture_and_the_configuration(states, name):
    state = states[name]
    assert state.missing == 0
    assert all(v.word != "not run" for v in state.verdicts)
    text = figure.page(state)
    for claim in state.figure.claims:
        assert figure.escape(claim.sentence) in text
    svgs = re.findall(r"<svg.*?</svg>", text, re.S)
    assert len(svgs) >= len(state.figure.panels)
    for svg in svgs:
        ElementTree.fromstring(svg)
        assert "nan" not in svg
        assert "not run" not in svg
    for arm in state.figure.arms("tiny"):
        assert figure.escape(arm.label) in text
    assert f"rotational reproduce {name} --scale tiny" in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")


def test_the_table_links_every_figure(states, tmp_path):
    index = figure_table.write_all(list(states.values()), tmp_path / "pages", {"other": "its data is not there"})
    text = index.read_text()
    assert all(f'href="{name}.html"' in text and (index.parent / f"{name}.html").is_file() for name in states)
    assert "its data is not there" in text


def test_a_page_before_anything_ran_says_so(tmp_path):
    state = reproduce.state(BY_NAME["dynamics"], "tiny", Shelf(tmp_path))
    text = figure.page(state)
    assert {v.word for v in state.verdicts} == {"not run"}
    assert "6 of its runs have not ended" in text
    assert ">not run</text>" in text


def test_no_claim_is_another_once_more():
    shelf = Shelf(Path(__file__).parent.parent / "docs" / "reproduction")
    told: dict[object, str] = {}
    for f in FIGURES:
        for v in reproduce.state(f, "laptop", shelf).verdicts:
            assert v.estimate is not None
            what = (v.claim.low, v.claim.high, tuple(v.estimate.seeds.items()))
            assert what not in told, (told[what], v.claim.sentence)
            told[what] = v.claim.sentence


def test_every_run_that_reasons_cite_beside_the_figures_is_stored_and_linked():
    stored = Path(__file__).parent.parent / "docs" / "reproduction"
    found, ready = Shelf(stored).found(ASIDES, "laptop")
    assert (ready, sum(found.missing.values())) == ((), 0)
    page = (stored.parent / "reproduction.md").read_text(encoding="utf-8")
    for points in found.arms.values():
        assert all(f"(reproduction/{p.seeds[0].run.key}/result.json)" in page for p in points)
    assert ASIDES not in FIGURES


def test_sweeps_of_adam_choose_over_three_seeds_and_report_five():
    figure = BY_NAME["adam-l2"]
    free, coupled, *balanced = figure.arms("laptop")
    for arm in (free, coupled):
        assert isinstance(arm, Arm)
        assert {run.seed for run in arm.runs} == {0, 1, 2}
        assert arm.more == (3, 4)
    assert all({run.seed for run in arm.runs} == {0, 1, 2, 3, 4} for arm in balanced)
    assert len(list(figure.jobs("laptop"))) == 59


# Pictures ---------------------------------------------------------------------------------------------------------


def test_a_line_leaves_out_what_is_not_finite_and_what_a_logarithm_cannot_show():
    line = figure_svg.Line("a", [1, 2, 3, 4], [1.0, math.nan, 0.0, 10.0], "#000")
    drawn = figure_svg.lines("x", figure_svg.Axes("step", "y", log_y=True), [line])
    path = next(e for e in ElementTree.fromstring(drawn).iter() if e.find("{*}title") is not None)
    assert path.attrib["d"].count("L") == 1


def test_bars_begin_at_zero_unless_they_are_too_alike():
    axes = figure_svg.Axes("", "y")
    apart = figure_svg.bars("x", axes, [("a", 1.0, 0.9, 1.1, "#123"), ("b", 3.0, 2.9, 3.1, "#456")])
    alike = figure_svg.bars("x", axes, [("a", 90.0, 89.9, 90.1, "#123"), ("b", 91.0, 90.9, 91.1, "#456")])
    assert 'fill="#123" opacity=".8"' in apart
    assert "<circle" not in apart
    assert "<circle" in alike
    assert 'opacity=".8"' not in alike
    widths = [float(w) for w in re.findall(r'width="([0-9.]+)" height="18"', apart)]
    assert widths[1] / widths[0] == pytest.approx(3, rel=0.01)


def test_a_bar_of_what_diverged_says_so():
    drawn = figure_svg.bars(
        "x", figure_svg.Axes("", "y"), [("a", math.inf, 0, 0, "#123"), ("b", 1.0, 1.0, 1.0, "#456")]
    )
    assert "no finite value" in drawn


def test_ticks_tell_values_apart():
    scale = figure_svg.Scale(0.99995, 1.00005, 0, 100)
    written = [said for _, said in scale.ticks()]
    assert len(set(written)) == len(written) > 2
    assert next(said for _, said in figure_svg.Scale(1e-5, 1.0, 0, 100, log=True).ticks()) == "1e-5"


# docs/reproduction.md -----------------------------------------------------------------------------------------------

DOCS = runpy.run_path(str(Path(__file__).parent.parent / "docs" / "reproduction.py"))


def test_the_page_is_what_the_stored_results_say():
    stale = [path.name for path, text in DOCS["written"]().items() if path.read_text(encoding="utf-8") != text]
    assert stale == []


def test_the_page_of_made_up_results(tmp_path):
    stored = tmp_path / "reproduction"
    shelf = Shelf(stored)
    for run in shelf.found(BY_NAME["adamc"], "laptop")[1]:
        assert isinstance(run, Run)
        shelf.store.keep(faking.plausible(run))
    large = next(BY_NAME["dynamics"].jobs("paper"))
    assert isinstance(large, Run)
    shelf.store.keep(faking.result(large, accuracy=76.1))
    (stored / "reasons.md").write_text("## Why not\n\nBecause.\n")
    files = DOCS["written"](stored)
    page = files[tmp_path / "reproduction.md"]
    assert "Section later: Defazio 2025" in page
    assert page.endswith("Because.\n\n")
    assert "![Norm](reproduction/adamc-1.svg)" in page
    ElementTree.fromstring(files[stored / "adamc-1.svg"])
    assert "Not run. `rotational reproduce dynamics --scale laptop --data DIR`" in page
    assert "| ResNet, SGDM | 0 | 76.1 | accuracy | 0.02 | 0.02 |" in page


def test_scales_are_three():
    assert SCALES == ("tiny", "laptop", "paper")
    assert all(isinstance(arm, Arm) for arm in BY_NAME["dynamics"].arms("paper"))
