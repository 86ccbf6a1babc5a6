"""What a suggestion of `rotational plan` promises, a plan of the suggested settings shows."""

from __future__ import annotations

import json

import pytest

from rotational.cli import main

RUNS = {
    "adamw from afar": "--optimizer adamw --lr 3e-3 --weight-decay 0.02 --steps 1500 --norm 4 --fan-in 64",
    "adamw cosine": "--optimizer adamw --lr 1e-3 --weight-decay 0.1 --steps 2000 --schedule cosine --warmup 80",
    "short wsd": "--optimizer adamw --lr 3e-4 --weight-decay 0.1 --steps 999 --schedule wsd --fan-in 9 --fan-in 99",
    "adamw in steps": "--optimizer adamw --lr 1e-2 --weight-decay 0.013 --steps 2000 --schedule step --milestones 1000",
    "adamc": "--optimizer adamw --decay adamc --lr 2e-3 --weight-decay 0.03 --steps 1500 --schedule cosine",
    "independent": "--optimizer adamw --decay independent --lr 1e-3 --weight-decay 3e-4 --steps 2000 --norm 0.05",
    "adam, L2": "--optimizer adam --lr 1e-3 --weight-decay 1e-4 --gradient-norm 0.03 --steps 1000 --schedule linear",
    "adam, L2, overshoot": "--optimizer adam --lr 2e-2 --weight-decay 1e-4 --gradient-norm 1 --steps 400 --norm 0.5",
    "sgdm": "--optimizer sgd --momentum 0.9 --lr 0.1 --weight-decay 5e-4 --gradient-norm 0.1 --norm 1 --steps 2000",
    "lion": "--optimizer lion --lr 1e-4 --weight-decay 0.7 --steps 2000 --schedule linear --warmup 50 --norm 0.1",
    "muon": "--optimizer muon --shape 32 64 --lr 0.01 --weight-decay 0.03 --steps 1500 --schedule linear --warmup 30",
    "short of a higher lr": "--optimizer adamw --lr 2e-3 --weight-decay 0.5 --steps 1500 --norm 2 --fan-in 64",
    "beginning short": "--optimizer adamw --lr 1e-2 --weight-decay 1e-2 --steps 600 --norm 0.1 --fan-in 64",
}  # fmt: skip


def shown(capsys, words):
    assert main(["plan", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", RUNS)
def test_a_plan_of_what_is_suggested_shows_what_was_promised(capsys, name):
    words = RUNS[name].split()
    suggestions = [a for a in shown(capsys, words)["advice"] if a["kind"] == "suggestion" and a["numbers"]]
    settings = {"lr": "--lr", "weight_decay": "--weight-decay", "warmup": "--warmup"}
    for a in suggestions:
        numbers, changed = a["numbers"], [*words]
        for setting, flag in settings.items():
            if setting in numbers:
                changed += [flag, f"{numbers[setting]:g}"]
                assert f"{numbers[setting]:,g}" in a["sentence"]  # what is read is what was forecast
        if len(changed) == len(words):
            continue  # no setting is named
        then = shown(capsys, changed)
        told = {(x["topic"], x["kind"]): x["numbers"] for x in then["advice"]}
        kinds = then["kinds"]
        match a["topic"]:
            case "short":
                assert max(kind["settles"] for kind in kinds) == numbers["settles"]
                assert max(kind["transient"] for kind in kinds) == pytest.approx(numbers["transient"], rel=1e-9)
                assert f"{max(kind['transient'] for kind in kinds):.0%} of the run." in a["sentence"]
                assert max(max(kind["series"]["static"]) for kind in kinds) == pytest.approx(
                    numbers["rotation"], rel=0.01
                )
                assert "in passing" not in str(then["advice"])
            case "overshoot":
                if ("overshoot", "warning") in told:  # a warm-up hides it: what is left is what was promised
                    assert told["overshoot", "warning"]["left"] == pytest.approx(numbers["times"], rel=1e-6)
                assert ("overshoot", "suggestion") not in told
                assert numbers["times"] < 2
            case "zero-shot":
                if ("zero-shot", "warning") in told:
                    assert told["zero-shot", "warning"]["sum"] == pytest.approx(numbers["sum"], rel=0.02)
                assert min(_summed(kind) for kind in kinds) == pytest.approx(numbers["sum"], rel=0.02)
            case other:
                pytest.fail(f"{other} is not checked")


def _summed(kind):
    series = kind["series"]
    return sum(1 / x for x in series["timescale"] if x is not None) * series["step"][0]


def test_the_runs_above_get_every_kind_of_suggestion(capsys):
    topics = [
        {(a["topic"], *sorted({"lr", "weight_decay", "warmup"} & set(a["numbers"])))
         for a in shown(capsys, RUNS[name].split())["advice"] if a["kind"] == "suggestion"}
        for name in ("sgdm", "short of a higher lr", "beginning short", "independent")
    ]  # fmt: skip
    assert set().union(*topics) >= {
        ("short", "lr"), ("short", "weight_decay"), ("overshoot", "warmup"), ("zero-shot", "weight_decay")
    }  # fmt: skip
