"""The command line, as a user types it."""

import argparse
import json
import math
import subprocess
import sys

import pytest

from rotational import records
from rotational.cli import _parser, main


def run(capsys, *words):
    code = main(list(words))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_predict_prints_the_numbers(capsys):
    words = [
        "predict",
        "--optimizer",
        "adamw",
        "--lr",
        "3e-4",
        "--weight-decay",
        "0.1",
        "--betas",
        "0.9",
        "0.95",
        "--fan-in",
        "768",
    ]
    code, out, _ = run(capsys, *words)
    assert code == 0
    for piece in ("0.00178 rad/step", "0.102°", "1.073", "11,552 steps", "33,333 steps", "a run shorter than"):
        assert piece in out


def test_version_names_what_a_bug_report_needs(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--version"])
    assert capsys.readouterr().out == ", ".join(f"{k} {v}" for k, v in records.versions().items()) + "\n"


@pytest.mark.parametrize(
    ("words", "rotation"),
    [
        ("--optimizer sgd --lr 0.1 --weight-decay 1e-4 --momentum 0.9", math.sqrt(2e-5 / 1.9)),
        ("--optimizer sgd --lr 0.1 --weight-decay 1e-4 --momentum 0.9 --decoupled", math.sqrt(2e-5 * 0.1 / 1.9)),
        ("--optimizer adamw --lr 1e-3 --weight-decay 0.05", 2.29e-3),
        ("--optimizer lion --lr 5e-4 --weight-decay 1 --linearised", 4.70e-3),
        ("--optimizer adam --lr 1e-3 --weight-decay 1e-4", None),
    ],
)
def test_predict_json(capsys, words, rotation):
    code, out, _ = run(capsys, "predict", *words.split(), "--json")
    found = json.loads(out)
    assert code == 0
    if rotation is None:
        assert found["rotation"] is None
        assert "--gradient-norm" in found["meaning"]
    else:
        assert found["rotation"] == pytest.approx(rotation, rel=4e-3)
        assert found["rotation_degrees"] == pytest.approx(math.degrees(found["rotation"]))
        assert found["half_life"] > 0


def test_predict_without_decay_has_no_infinity_in_json(capsys):
    _, out, _ = run(capsys, *["predict", "--optimizer", "sgd", "--lr", "0.1", "--weight-decay", "0", "--json"])
    found = json.loads(out, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    assert found["half_life"] is None
    assert "no equilibrium" in found["meaning"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--optimizer sgd --lr 0.1 --weight-decay 1e-4 --betas 0.9 0.99", "--betas is not an option of sgd"),
        ("--optimizer adamw --lr nan --weight-decay 0.1", "finite"),
        ("--optimizer adamw --lr 1e-3 --weight-decay -1", "weight_decay >= 0"),
        ("--optimizer adamw --lr 1e-3 --weight-decay 0.1 --betas 0.9 1.5", "betas"),
        ("--optimizer sgd --lr 0.1 --weight-decay 1e-4 --nesterov", "momentum > 0"),
    ],
)
def test_wrong_options_are_one_sentence_and_exit_code_2(capsys, words, says):
    code, out, err = run(capsys, "predict", *words.split())
    assert code == 2
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


def commands() -> dict[str, argparse.ArgumentParser]:
    (found,) = [a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return found.choices


@pytest.mark.parametrize("name", commands())
def test_a_part_of_an_options_name_is_not_taken_for_it(name):
    parser = commands()[name]
    for asked in (*parser._actions, *parser._mutually_exclusive_groups):
        asked.required = False
    names = {x for x in parser._option_string_actions if x.startswith("--")}
    parts = {x[:n] for x in names for n in range(3, len(x))} - names
    assert parts
    for part in parts:
        assert parser.parse_known_args([part])[1] == [part]


def test_an_option_that_is_nearly_one_is_a_sentence(capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["reproduce", "predictions", "--seed", "1"])
    assert "unrecognized arguments: --seed 1" in capsys.readouterr().err


def test_report_of_nothing_is_a_sentence(capsys, tmp_path):
    code, _, err = run(capsys, "report", str(tmp_path / "missing"))
    assert code == 2
    assert "run.json" in err


def test_predict_starts_without_torch():
    code = (
        "import sys; from rotational.cli import main;"
        "main('predict --optimizer adamw --lr 1e-3 --weight-decay 0.1'.split());"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
