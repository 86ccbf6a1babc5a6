"""The options that name a rule and a run on the command line, as people write them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from rotational import rules
from rotational.cli import main


def rotation(capsys, words):
    assert main(["predict", *words.split(), "--lr", "1e-3", "--weight-decay", "0.1", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_momentum_of_zero_is_heard(capsys):
    told = rotation(capsys, "--optimizer muon --momentum 0 --shape 64 64")
    assert told["rule"] == rules.muon(0).as_dict()
    assert told["rotation"] > 2 * rotation(capsys, "--optimizer muon --shape 64 64")["rotation"]
    assert main(["predict", "--optimizer", "adamw", "--momentum", "0", "--lr", "1", "--weight-decay", "0"]) == 2
    assert "--momentum is not an option of adamw" in capsys.readouterr().err


def test_rules_are_torchs_own_unless_told_otherwise(capsys):
    assert rotation(capsys, "--optimizer AdamW")["rule"] == rules.adamw().as_dict()
    for words, rule in (("", rules.nadam_l2(momentum_decay=4e-3)), ("--decoupled", rules.nadamw(momentum_decay=4e-3)),
                        ("--momentum-decay 0", rules.nadam_l2())):  # fmt: skip
        assert rotation(capsys, f"--optimizer nadam {words}")["rule"] == rule.as_dict()
    moonlight = rotation(capsys, "--optimizer muon --shape 64 256 --adjust-lr-fn match_rms_adamw")
    assert moonlight["norm"] > 1.5 * rotation(capsys, "--optimizer muon --shape 64 256")["norm"]


@pytest.mark.parametrize("text", ["768", "7.68e2", "7_68", "768.0"])
def test_whole_numbers_are_read_as_people_write_them(capsys, text):
    assert rotation(capsys, f"--optimizer adamw --fan-in {text}")["size"] == 768


@pytest.mark.parametrize("words", ["predict", "plan --steps 50", "plan --steps 50 --json"])
def test_a_reader_who_leaves_is_no_error(words):
    command = [sys.executable, "-m", "rotational", *words.split(), "--optimizer", "adamw", "--lr", "1e-3"]
    with subprocess.Popen(
        [*command, "--weight-decay", "0.1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as done:
        assert done.stdout is not None
        assert done.stderr is not None
        done.stdout.close()  # before anything can have been written
        assert done.stderr.read() == ""
        assert done.wait() == 0
