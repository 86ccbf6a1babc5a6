"""`rotational plan` from the outside: options, pictures, pages and refusals; tests/test_plan.py has the rest."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from rotational import forecast, predict, rules
from rotational.cli import main
from rotational.cli import planned as planning
from rotational.cli.drawing import drawn
from rotational.report import outlook
from test_plan import safetensors

RUN = ("plan", "--optimizer", "adamw", "--lr", "1e-3", "--weight-decay", "0.1", "--steps", "300")
DECAYING = {"lr": 1e-2, "weight_decay": 0.1, "steps": 2500}


def run(capsys, *words):
    try:
        code = main(list(words))
    except SystemExit as stopped:  # argparse
        code = int(stopped.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def planned(capsys, *words):
    code, out, err = run(capsys, *RUN, *words, "--json")
    assert (code, err) == (0, "")
    return json.loads(out, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))


def test_predict_and_plan_start_without_torch(tmp_path):
    words = [*RUN, "--html", str(tmp_path / "plan.html")]
    code = f"import sys; from rotational.cli import main; main({words!r}); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    done = subprocess.run([sys.executable, "-m", "rotational.cli", *RUN], capture_output=True, check=True, text=True)
    assert "300 steps" in done.stdout


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    _, out, _ = run(capsys, *RUN, "--schedule", "cosine", "--fan-in", "64", "--fan-in", "100000")
    assert max(len(line) for line in out.splitlines()) <= columns
    assert "\x1b" not in out  # piped: no colours


def test_the_picture_shows_where_rotation_stands():
    f = forecast(rules.adamw(), norm=None, size=64, **DECAYING)
    lines = drawn(f, 80, "a layer")
    assert "*" * 30 in "".join(lines)  # it starts in equilibrium
    assert (
        "static" not in drawn(forecast(rules.adamw(), norm=1.0, size=64, lr=1e-3, weight_decay=0, steps=9), 80, "a")[0]
    )
    assert len(drawn(forecast(rules.adamw(), norm=1.0, size=64, lr=0, weight_decay=0, steps=9), 80, "a")) == 1


@pytest.mark.parametrize("decay", ["decoupled", "independent", "adamc", "cautious"])
def test_decay_is_the_rule_of_that_decay(capsys, decay):
    got = planned(capsys, "--decay", decay, "--fan-in", "64", "--norm", "0.5", "--schedule", "cosine")
    assert got["rule"] == rules.adamw(decay=decay).as_dict()


def test_warm_up_and_its_advice(capsys):
    words = ("--steps", "600", "--norm", "0.02", "--warmup", "100", "--lr", "1e-2", "--fan-in", "64")
    topics = {(a["topic"], a["kind"]) for a in planned(capsys, *words)["advice"]}
    assert ("overshoot", "warning") in topics


def test_what_was_assumed_is_said(capsys):
    notes = planned(capsys)["notes"]
    assert any("768" in note for note in notes)
    assert any("torch.nn.Linear" in note for note in notes)
    assert planned(capsys, "--fan-in", "64", "--norm", "1")["notes"] == []


def test_the_timescale_in_samples(capsys):
    _, out, _ = run(capsys, *RUN, "--batch-size", "100")
    assert "10,000 steps = 1e+06 samples" in " ".join(out.split())


# Weights from a file --------------------------------------------------------------------------------------------


def test_many_matrices_make_few_rows(tmp_path, capsys):
    torch.manual_seed(0)
    state = {f"{i}.weight": torch.randn(4, 8 + i % 12) * 1.5**i for i in range(40)}
    torch.save(state, tmp_path / "model.pt")
    got = planned(capsys, "--weights", str(tmp_path / "model.pt"))
    assert len(got["kinds"]) == 8
    assert any("are in no row" in note for note in got["notes"])
    big = max(got["kinds"], key=lambda kind: kind["norm"])
    assert big["series"]["norm"][0] == pytest.approx(big["norm"], rel=0.01)


def test_alike_matrices_are_one_kind_with_their_rms_norm(tmp_path, capsys):
    state = {"a": torch.full((2, 16), 0.25), "b": torch.full((6, 16), 0.26), "c": torch.full((2, 16), 2.5)}
    torch.save(state, tmp_path / "model.pt")
    kinds = planned(capsys, "--weights", str(tmp_path / "model.pt"))["kinds"]
    assert [kind["name"] for kind in kinds] == ["a and 1 more", "c"]
    assert kinds[0]["norm"] == pytest.approx(np.sqrt((2 * 1.0**2 + 6 * 1.04**2) / 8), rel=1e-5)


def test_muon_takes_the_shapes_of_a_file(tmp_path, capsys):
    torch.save({"w": torch.randn(12, 5, 3), "b": torch.zeros(12)}, tmp_path / "model.bin")
    code, out, _ = run(
        capsys,
        *("plan", "--optimizer", "muon", "--lr", "0.02", "--weight-decay", "0.1", "--steps", "300"),
        *("--weights", str(tmp_path / "model.bin"), "--json"),
    )
    assert code == 0
    assert json.loads(out)["kinds"][0]["size"] == 15


def test_suggestions_serve_every_kind(tmp_path, capsys):
    """One setting for kinds that begin too short and too long: what is promised holds for the worst of them."""
    sizes = {"short": (64, 0.02), "long": (64, 0.5), "wide": (512, 0.02)}
    torch.save({k: torch.full((4, size), x) for k, (size, x) in sizes.items()}, tmp_path / "model.pt")
    run_of = (
        *("--weights", str(tmp_path / "model.pt"), "--optimizer", "lion", "--steps", "3000"),
        *("--lr", "3e-4", "--weight-decay", "1", "--warmup", "20", "--schedule", "wsd"),
    )
    got = planned(capsys, *run_of)
    found = {(a["topic"], a["kind"]): a for a in got["advice"]}
    worst = max(got["kinds"], key=lambda kind: kind["settles"] or 9e9)
    assert found["short", "warning"]["of"][0] == worst["name"]
    assert len(found) == len(got["advice"])  # one for each topic
    for key in (("short", "suggestion"), ("overshoot", "suggestion")):
        assert set(found[key]["of"]) == set(sizes)
    numbers = found["short", "suggestion"]["numbers"]
    changed = {"--lr": "lr", "--weight-decay": "weight_decay"}
    words = [x for flag, name in changed.items() if name in numbers for x in (flag, repr(numbers[name]))]
    then = planned(capsys, *run_of, *words)["kinds"]
    assert max(kind["settles"] for kind in then) == numbers["settles"]
    assert max(kind["transient"] for kind in then) == numbers["transient"]
    numbers = found["overshoot", "suggestion"]["numbers"]
    then = planned(capsys, *run_of, "--warmup", f"{numbers['warmup']:.0f}")["advice"]
    left = [a["numbers"]["left"] for a in then if (a["topic"], a["kind"]) == ("overshoot", "warning")]
    assert left == pytest.approx([numbers["times"]])
    assert left[0] < 2


def test_zeros_begin_where_predict_has_them_begin(tmp_path, capsys):
    model = torch.nn.Sequential(torch.nn.Linear(64, 32, bias=False), torch.nn.Linear(32, 16, bias=False))
    torch.nn.init.zeros_(model[1].weight)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    got = planned(capsys, "--weights", str(tmp_path / "model.pt"))
    zero = next(kind for kind in got["kinds"] if kind["name"] == "1.weight")
    assert zero["norm"] == 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    f = predict(optimizer, steps=300, model=model)[0].forecast
    assert zero["series"]["norm"] == pytest.approx(f.norm[:, int(np.argmin(f.initial))].tolist(), rel=1e-4)
    assert any("start at zero" in note for note in got["notes"])
    # they have no direction to lose, and what is said of the start is said of the others
    assert all("1.weight" not in a["of"] for a in got["advice"] if (a["topic"], a["kind"]) == ("overshoot", "warning"))
    nothing = planned(capsys, "--weights", str(tmp_path / "model.pt"), "--lr", "0")
    assert [(a["topic"], a["kind"]) for a in nothing["advice"]] == [("no lr", "warning")]


def test_zeros_under_sgd_begin_at_the_length_that_a_step_gives_them(tmp_path, capsys):
    torch.save({"w": torch.zeros(4, 16)}, tmp_path / "model.pt")
    words = ("--optimizer", "sgd", "--gradient-norm", "0.4", "--lr", "0.1", "--weights", str(tmp_path / "model.pt"))
    assert planned(capsys, *words)["kinds"][0]["series"]["norm"][0] == pytest.approx(0.2 * 2**0.5, rel=0.05)
    sensitive = planned(capsys, *words, "--scale-sensitive")["kinds"][0]
    assert sensitive["series"]["norm"][0] == pytest.approx(0.04 * 2**0.5, rel=0.05)


@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_a_file_in_bfloat16_is_warned_of_by_itself(tmp_path, capsys, form):
    state = {"a": torch.randn(8, 64), "b": torch.randn(8, 32), "c": torch.randn(8, 32) * 9, "bias": torch.zeros(8)}
    half = {k: x.bfloat16() if k != "c" else x for k, x in state.items()}
    for name, tensors in (("half", half), ("full", state)):
        path = tmp_path / f"{name}.{form}"
        if form == "torch":
            torch.save(tensors, path)
        else:
            safetensors(path, tensors)
        got = planned(capsys, "--weights", str(path))
        warned = [a for a in got["advice"] if (a["topic"], a["kind"]) == ("bf16", "warning")]
        assert len(warned) == (name == "half")
        assert any("bfloat16" in note for note in got["notes"]) == (name == "half")
        if warned:
            assert warned[0]["of"] == ["a", "b"]  # and not the one in float32
            assert warned[0]["numbers"]["matrices"] == 2
            assert "2 of the 3 matrices in the file are bfloat16." in warned[0]["sentence"]


def test_what_the_norm_of_muon_is_stands_in_the_notes(capsys):
    _, out, _ = run(capsys, *RUN, "--optimizer", "muon", "--shape", "8", "16", "--lr", "0.02", "--weight-decay", "0.1")
    assert "that times sqrt(rows)" in " ".join(out.split())


def test_a_run_without_lr_is_warned_of_and_shows_no_numbers_that_are_none(capsys, tmp_path):
    for words in ((), ("--optimizer", "sgd"), ("--optimizer", "muon", "--shape", "8", "16")):
        code, out, _ = run(capsys, *RUN, *words, "--lr", "0", "--html", str(tmp_path / "plan.html"))
        assert code == 0
        assert "nothing is learnt" in " ".join(out.split())
        assert "Nothing to warn of" not in out
        assert "nan" not in out
        assert "forgotten" not in out
        assert "nothing is learnt" in (tmp_path / "plan.html").read_text(encoding="utf-8")


def test_one_step_is_not_one_steps(capsys):
    code, out, _ = run(capsys, *RUN, "--steps", "1", "--batch-size", "8", "--batch-sizes", "4", "--noise-scale", "9")
    assert code == 0
    assert "1 step," in out
    assert "1 steps" not in out


def test_a_search_that_fails_stops_soon(capsys, monkeypatch):
    """L2 from a norm that nothing in this run brings down: each forecast of such a run is dear."""
    taken, one = [], planning.forecast

    def counted(*args, **given):
        taken.append(given["steps"])
        return one(*args, **given)

    monkeypatch.setattr(planning, "forecast", counted)
    words = "--optimizer adam --gradient-norm 1e-6 --norm 200 --lr 1e-5 --weight-decay 1e-4 --steps 900"
    found = [a for a in planned(capsys, *words.split())["advice"] if (a["topic"], a["kind"]) == ("short", "suggestion")]
    assert "it takes more steps" in found[0]["sentence"]
    assert taken.count(900) <= 9


# Refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--steps 1.5", "a whole number, got '1.5'"),
        ("--steps 1000000000", "at most"),
        ("--optimizer adamz", "adamz"),
        ("--schedule steps", "wsd"),
        ("--schedule step", "milestones"),
        ("--schedule step --milestones 200 100", "ascending"),
        ("--schedule step --milestones 300", "within the run"),
        ("--schedule step --milestones 100 --gamma 2", "gamma"),
        ("--milestones 100", "--schedule step"),
        ("--noise-scale 100", "--batch-size"),
        ("--batch-size 8 --noise-scale -1", "--noise-scale -1.0: expected a finite number >= 8e-12."),
        ("--batch-size 8 --noise-scale nan", "--noise-scale nan: expected a finite number >= 8e-12."),
        ("--batch-size 8 --batch-sizes 0", "--batch-sizes 0: expected a"),
        ("--batch-size 8 --batch-sizes 10000", "one step would take more"),
        ("--weight-decay nan", "--weight-decay nan: expected a finite number >= 0."),
        ("--shape 3 4", "not an option of adamw"),
        ("--decay-share 0.1", "--schedule wsd"),
        ("--schedule wsd --decay-share 2", "--decay-share 2.0: expected a finite number >= 0 and <= 1."),
        ("--batch-size 0", "--batch-size 0: expected a"),
        ("--optimizer adagrad", "its sum of squares never forgets"),
        ("--optimizer adafactor", "a share of the weight's own size"),
        ("--optimizer LBFGS", "no fixed filter of past gradients"),
        ("--optimizer muon", "--shape ROWS COLUMNS"),
        ("--optimizer muon --shape 4 4 --fan-in 3", "instead of --fan-in"),
        ("--optimizer sgd --norm 1", "--gradient-norm"),
        ("--optimizer sgd --decay decoupled --norm 1", "the norm of sgd (decoupled) has units only"),
        ("--optimizer adam", "--gradient-norm"),
        ("--optimizer lion --decay coupled", "signum"),
        ("--optimizer radam --decoupled --decay adamc", "contradict"),
        ("--html .", "a folder"),
        (f"--html {'a' * 300}.html", "too long"),
        ("--weights x.pt --fan-in 3", "come from the file"),
        ("--weight-decay -0.1", "--weight-decay -0.1: expected a finite number >= 0."),
        ("--weight-decay 1e9", "--lr, --weight-decay: at step 0 one step would remove the whole weight"),
        ("--lr inf", "--lr inf: expected a finite number >= 0."),
        ("--betas 0.9 nan", "--betas nan: expected a finite number >= 0 and < 1."),
        ("--optimizer sgd --momentum 1", "--momentum 1.0: expected a finite number >= 0 and < 1."),
        ("--steps 0", "--steps 0: expected a whole number >= 1."),
        ("--steps 1e300", "--steps: expected a whole number of at most 1e+15, got '1e300'"),
        ("--warmup -1", "--warmup -1: expected a whole number >= 0."),
        ("--warmup 300", "--warmup 300 and --steps 300: expected a warm-up that is shorter than the run."),
        ("--norm 1e300", "--norm 1e+300: expected a finite number >= 1e-30 and <= 1e+30."),
        ("--norm 1e-300", "--norm 1e-300: expected a finite number >= 1e-30"),
        ("--gradient-norm 1e300", "--gradient-norm 1e+300: expected a finite number"),
        ("--fan-in 1", "--fan-in 1: a neuron of one weight has no direction to turn"),
        ("--optimizer muon --shape 8 1", "--shape 1: a neuron of one weight has no direction to turn"),
        ("--optimizer muon --shape 8 0", "--shape 0: expected a whole number >= 1."),
        ("--optimizer sgd --weight-decay 0", "--weight-decay 0: without decay there is no equilibrium to start from"),
        ("--batch-size 8 --noise-scale 1e-300", "--noise-scale 1e-300: expected a finite number >= 8e-12."),
        (f"--batch-size 8 --batch-sizes {'8 ' * 1001}", "--batch-sizes: expected at most 1,000 of them, got 1,001."),
        ("--batch-size 1e14 --batch-sizes 1", "--batch-sizes 1: the run's 30,000,000,000,000,000 samples would make"),
        ("--min-lr nan", "--min-lr nan"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(capsys, words, says):
    code, out, err = run(capsys, *RUN, *words.split())
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


def test_nan_in_a_file_names_its_tensor(tmp_path, capsys):
    torch.save({"bad.weight": torch.full((2, 2), float("nan"))}, tmp_path / "model.pt")
    code, out, err = run(capsys, *RUN, "--weights", str(tmp_path / "model.pt"))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "bad.weight" in err


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    code, out, err = run(capsys, *RUN, "--html", str(tmp_path / "plan.html"))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "No space left" in err
    assert list(tmp_path.iterdir()) == []


def test_muon_without_its_shape_is_told_what_is_missing(capsys):
    code, out, _ = run(capsys, "predict", "--optimizer", "muon", "--lr", "0.02", "--weight-decay", "0.1")
    assert code == 0
    assert "needs --shape" in out


# Pictures and pages -----------------------------------------------------------------------------------------------

NAMES = ["rotation", "static formula", "norm", "equilibrium norm"]


@pytest.mark.parametrize(
    "given",
    [
        {"rule": rules.adamw(), "norm": 0.3, "size": 64},
        {"rule": rules.sgd(momentum=0.9)},
        {"rule": rules.adamw(), "norm": 0.3, "size": 64, "weight_decay": 0.0},
        {"rule": rules.adamw(), "norm": 0.3, "size": 64, "lr": 0.0},
        {"rule": rules.adamw(), "norm": 0.3, "size": 64, "steps": 1},
    ],
)
def test_a_figure_has_two_panels_and_few_points(given):
    f = forecast(given.pop("rule"), **(DECAYING | given))
    figure = f.plot(title="a layer")
    assert [trace.name for trace in figure.data] == NAMES
    assert all(len(trace.x) <= 2000 for trace in figure.data)
    assert [trace.yaxis for trace in figure.data] == ["y", "y", "y2", "y2"]
    assert figure.layout.yaxis.type == "log"
    assert [trace.line.dash for trace in figure.data] == [None, "dash", None, "dash"]
    assert figure.data[0].x[-1] == len(f.step)


def test_a_drawn_norm_begins_before_the_first_step():
    f = forecast(rules.adamw(), lr=1e-2, weight_decay=0.1, steps=5000, norm=[0.5, 2.0], size=64)
    norms = [trace for trace in outlook.figure(f).data if trace.name.endswith(": norm")]
    assert [(trace.x[0], trace.y[0], trace.x[1]) for trace in norms] == [(0, 0.5, 1), (0, 2.0, 1)]
    assert len(norms[0].x) <= outlook.POINTS
    unknown = outlook.figure(forecast(rules.adamw(), lr=1e-2, weight_decay=0.1, steps=50))
    assert unknown.data[2].x[0] == 1


def test_a_figure_without_units_shows_how_near_equilibrium_is():
    f = forecast(rules.sgd(momentum=0.9), **DECAYING)
    figure = f.plot()
    assert np.nanmax(figure.data[2].y) <= 1
    assert set(figure.data[3].y) == {1.0}


def test_a_figure_of_several_neurons_draws_each():
    figure = forecast(rules.adamw(), norm=[0.1, 0.3, 1.0], size=64, **DECAYING).plot()
    assert [trace.name for trace in figure.data] == [f"neuron {i}: {name}" for i in range(3) for name in NAMES]
    assert [bool(trace.showlegend) for trace in figure.data] == 3 * [True, True, False, False]
    colours = [trace.line.color for trace in figure.data]
    assert [len(set(colours[i : i + 4])) for i in (0, 4, 8)] == [1, 1, 1]
    assert len(set(colours)) == 3
    many = forecast(rules.adamw(), norm=np.linspace(0.1, 1, 30), size=64, **DECAYING).plot()
    assert len({trace.line.color for trace in many.data}) == 30
    assert not any(trace.showlegend for trace in many.data)


def test_neurons_of_a_model_have_its_names():
    model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(4, 2))
    found = predict(torch.optim.AdamW(model.parameters(), lr=1e-2), steps=50, model=model)[0].forecast
    assert found.names == ("0.weight", "1.weight")
    assert found.neuron(1).names == ("1.weight",)
    assert {trace.name.partition(":")[0] for trace in found.plot().data} == set(found.names)
    assert set(found.to_pandas()["neuron"]) == set(found.names)


def test_a_page_escapes_names_and_loads_nothing(tmp_path, capsys):
    torch.save({"<script>alert(1)</script>": torch.randn(8, 8)}, tmp_path / "model.pt")
    page = tmp_path / "plan.html"
    code, _, _ = run(capsys, *RUN, "--weights", str(tmp_path / "model.pt"), "--html", str(page))
    assert code == 0
    text = page.read_text(encoding="utf-8")
    assert "<script>alert(1)" not in text
    assert "&lt;script&gt;alert(1)" in text
    own = re.sub(r"<script>/\*\*.*?</script>", "", text, flags=re.DOTALL)  # Plotly names sites that it never loads
    assert not re.search(r"""(src|href)=["']?https?:""", own)
