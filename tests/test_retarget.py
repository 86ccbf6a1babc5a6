"""What the scaling rules make of a run: their sources' formulas, worked out by hand, and laws over all of them."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

import rotational
from compare import assert_same
from rotational import rules
from rotational.retargeting import Config, Retargeting, Scaled, retarget
from rotational.scaling import BATCH, DATA, POWER, STANDARD, UNCHANGED, WIDTH, with_betas

ADAMW = rules.adamw(betas=(0.9, 0.95))
INDEPENDENT = rules.adamw(betas=(0.9, 0.95), decay="independent")


def config(rule=ADAMW, lr=1e-3, weight_decay=0.1, batch_size=256, steps=10_000, **given):
    return Config(rule, lr, weight_decay, batch_size, steps, **given)


def numbers(row):
    return row.lr, row.weight_decay


RULES = {
    "SGDM": config(rules.sgd(momentum=0.9), lr=0.1, weight_decay=1e-4, width=512),
    "AdamW": config(width=512, parameters=1e8, sequence_length=1024),
    "AdamW, independent": config(rules.adamw(decay="independent"), weight_decay=1e-4, width=512, dataset_size=1e5),
    "AdamW, cautious": config(rules.adamw(decay="cautious"), width=512),
    "Adam+L2": config(rules.adam_l2(), width=512),
    "RMSprop": config(rules.rmsprop(), width=512),
    "NAdamW": config(rules.nadamw(), width=512),
    "Lion": config(rules.lion(), lr=1e-4, weight_decay=1.0, width=512),
    "Muon": config(rules.muon(), lr=0.02, weight_decay=0.01, width=512, shape=(512, 128)),
}
every_rule = pytest.mark.parametrize("run", RULES.values(), ids=RULES)


# The sources' own formulas, by hand ---------------------------------------------------------------------------


def test_linear_scaling_is_goyal_et_al():
    # ResNet-50 on ImageNet: 0.1 at batch 256 is 3.2 at 8192, weight decay and momentum as they were
    run = config(rules.sgd(momentum=0.9, nesterov=True), 0.1, 1e-4, 256, 450_000, dataset_size=1_281_167)
    result = retarget(run, batch_size=8192)
    row = result["linear"]
    assert_same(numbers(row), (3.2, 1e-4), 1e-12)
    assert row.rule == run.rule
    assert row.steps == 14_062  # 450,000/32, rounded
    # the timescale in epochs stays, and so does the net angle of a random walk over an epoch
    assert_same(row.timescale_epochs, result.now.timescale_epochs, 0.03)  # 1/D at finite lr*weight_decay
    angle = [r.rotation * math.sqrt(run.dataset_size / r.batch_size) for r in (result.now, row)]
    assert_same(angle[1], angle[0], 2e-3)


def test_square_root_scaling_is_malladi_et_al():
    # kappa = 4: lr*2, 1-beta times 4, eps/2
    run = config(rules.adamw(betas=(0.9, 0.999), eps=1e-8))
    row = retarget(run, batch_size=1024)["square root with betas"]
    assert_same(numbers(row), (2e-3, 0.1), 1e-12)
    assert row.changes == {"betas": (0.6, 0.996), "eps": 5e-9}
    assert row.rule == rules.adamw(betas=(0.6, 0.996), eps=5e-9)
    assert retarget(run, batch_size=1024)["square root"].rule == run.rule


def test_square_root_scaling_of_rmsprop_moves_alpha():
    row = retarget(config(rules.rmsprop(alpha=0.99)), batch_size=1024)["square root with betas"]
    assert row.rule == rules.rmsprop(alpha=0.96, eps=5e-9)
    assert row.changes == {"alpha": 0.96, "eps": 5e-9}


def test_square_root_scaling_of_sgd_is_krizhevsky():
    row = retarget(config(rules.sgd(), lr=0.1, weight_decay=1e-4), batch_size=1024)["square root"]
    assert_same(numbers(row), (0.2, 1e-4), 1e-12)


def test_a_constant_timescale_in_epochs_is_wang_and_aitchison():
    # tau_epoch = B/(lr wd N): 256/(1e-3 * 0.1 * 1e6) = 2.56 epochs
    run = config(dataset_size=1e6)
    result = retarget(run, batch_size=1024)
    assert_same(result.now.timescale_epochs, 2.56, 1e-12)
    row = result["timescale in epochs"]
    assert_same(numbers(row), (1e-3, 0.4), 1e-12)  # wd goes as B
    assert_same(row.timescale_epochs, 2.56, 1e-12)
    # seen once, twice the data are an epoch of twice the length: wd goes as 1/N
    assert_same(retarget(config(), steps=20_000)["timescale in epochs"].weight_decay, 0.05, 1e-12)
    assert_same(retarget(run, steps=20_000)["timescale in epochs"].weight_decay, 0.1, 1e-12)


def test_a_constant_share_of_the_run_is_tau_ema():
    # tau_EMA = B/(lr wd D), counted in tokens
    run = config(sequence_length=1024)
    result = retarget(run, batch_size=512, tokens=4 * run.data)
    for row in (result.now, *result):
        assert_same(row.timescale_share, row.batch_size * 1024 / (row.lr * row.weight_decay * row.data), 1e-12)
    row = result["timescale as share of run"]
    assert_same((row.timescale_share, row.weight_decay), (1.0, 0.05), 1e-12)
    # karpathy/nanochat: wd = wd_ref sqrt(B/B_ref) D_ref/D beside lr = lr_ref sqrt(B/B_ref)
    expected = (1e-3 * math.sqrt(2), 0.1 * math.sqrt(2) / 4)
    assert_same(numbers(result["square root, timescale as share of run"]), expected, 1e-12)


def test_the_power_law_is_bergsma_et_al():
    # tau = 1.084 TPP^-0.527 at 20 and at 80 tokens per parameter, from a run whose wd = B/(lr D tau) is on the law
    lr, batch, parameters = 1e-3, 2**19, 1e9
    on_the_law = {tpp: batch / (lr * tpp * parameters * 1.084 * tpp**-0.527) for tpp in (20, 80)}
    steps = {tpp: tpp * parameters / batch for tpp in (20, 80)}
    run = config(
        lr=lr, weight_decay=on_the_law[20], batch_size=batch, steps=round(steps[20]), tokens=20e9, parameters=1e9
    )
    result = retarget(run, tokens=80e9)
    row = result[POWER.name]
    assert_same(row.weight_decay, on_the_law[80], 1e-12)
    assert_same(row.timescale_share, 1.084 * 80**-0.527, 1e-4)  # steps are rounded
    assert "at 80 tokens per parameter, remembers 11% of the run" in str(result)
    # at given data and parameters, wd goes as B
    assert_same(retarget(run, batch_size=2**20)[POWER.name].weight_decay, 2 * on_the_law[20], 1e-12)
    # a model of 4 times the parameters on 4 times the data
    assert_same(retarget(run, tokens=80e9, parameters=4e9)[POWER.name].timescale_share, 1.084 * 20**-0.527, 1e-4)


def test_the_power_law_of_a_wider_model_has_the_lr_of_mup():
    run = config(width=512, parameters=1e8, sequence_length=1024)
    row = retarget(run, width=1024)[f"{POWER.name} + muP, independent decay"]
    assert row.parameters == 4e8  # as the width squared
    tau = 1 / (1e-3 * 0.1 * 10_000) * 0.25**-0.527
    assert_same(numbers(row), (5e-4, 1 / (5e-4 * 10_000 * tau)), 1e-12)


WIDER = {
    # four times as wide: lr/4, and wd as it is, times 4, times 2
    "standard parametrisation": (1e-3, 0.1),
    "muP, standard decay": (2.5e-4, 0.1),
    "muP, independent decay": (2.5e-4, 0.4),
    "muP, decay with sqrt(width)": (2.5e-4, 0.2),
}


@pytest.mark.parametrize(("name", "expected"), WIDER.items(), ids=WIDER)
def test_rules_of_the_width(name, expected):
    result = retarget(config(width=512), width=2048)
    assert_same(numbers(result[name]), expected, 1e-12)
    # rotation goes as the root of lr*wd
    share = math.sqrt(math.prod(expected) / 1e-4)
    assert_same(result[name].rotation, share * result.now.rotation, 1e-3)


def test_rotation_per_epoch_is_held():
    run = config(lr=1e-4, weight_decay=0.01, dataset_size=1e6)
    result = retarget(run, batch_size=1024)
    row = result["rotation per epoch"]
    assert_same(row.weight_decay, 0.16, 1e-12)
    assert_same(row.rotation / 1024, result.now.rotation / 256, 1e-3)


def test_a_timescale_in_steps_holds_the_rotation_of_a_step():
    result = retarget(config(), batch_size=1024)
    row = result["timescale in steps"]
    assert_same(numbers(row), (2e-3, 0.05), 1e-12)
    assert (row.rotation, row.timescale) == (result.now.rotation, result.now.timescale)


def test_independent_decay_is_not_multiplied_by_lr():
    standard, independent = (
        config(width=512),
        config(INDEPENDENT, 1e-3, 1e-4, width=512),
    )
    assert_same(retarget(independent, width=1024).now.timescale, 1e4, 1e-12)
    for change in ({"batch_size": 1024}, {"width": 2048}, {"steps": 20_000}):
        for a, b in zip(retarget(standard, **change), retarget(independent, **change), strict=True):
            assert (a.rule_name, a.lr) == (b.rule_name, b.lr)
            assert_same(b.weight_decay, a.lr * a.weight_decay, 1e-12)
            assert_same(b.rotation, a.rotation, 1e-9)
    assert "weight_decay is not multiplied by lr here" in str(retarget(independent, batch_size=512))


# Laws over all rules ------------------------------------------------------------------------------------------


@every_rule
def test_no_change_returns_the_config(run):
    result = retarget(run, batch_size=256, width=512, steps=10_000)
    assert len(result) >= 3
    for row in (*result, *retarget(run, batch_size=256), *retarget(run, width=512), *retarget(run, tokens=run.data)):
        assert {k: v for k, v in vars(row).items() if k in vars(run)} == vars(run), row.rule_name
        assert not row.changes


@every_rule
@pytest.mark.parametrize(
    ("there", "back"),
    [
        ({"batch_size": 512}, {"batch_size": 256}),
        ({"steps": 40_000}, {"steps": 10_000}),
        ({"width": 2048}, {"width": 512}),
        ({"batch_size": 128, "width": 256}, {"batch_size": 256, "width": 512}),
    ],
    ids=str,
)
def test_there_and_back_is_where_it_was(run, there, back):
    rows = retarget(run, **there)
    assert len(rows)
    for row in rows:
        again = retarget(row, **back)[row.rule_name]
        assert_same(numbers(again), numbers(run), 1e-12)
        assert (again.batch_size, again.steps, again.width) == (run.batch_size, run.steps, run.width)
        assert_same(again.rule.as_dict()["memory"], run.rule.as_dict()["memory"], 1e-9)


@every_rule
def test_each_row_is_the_equilibrium_of_its_numbers(run):
    result = retarget(run, batch_size=512, width=1024)
    for row in (result.now, *result):
        state = rotational.equilibrium(row.rule, row.lr, row.weight_decay, shape=row.shape)
        assert (row.rotation, row.timescale) == (state.rotation, state.timescale)
        if state.timescale is not None:
            assert_same(row.timescale_tokens, state.timescale * row.data / row.steps, 1e-12)
            assert_same(row.transient_share, row.transient / row.steps, 1e-12)


@every_rule
def test_every_rule_speaks_or_is_left_out(run):
    result = retarget(run, batch_size=512)
    assert {*(row.rule_name for row in result), *result.left_out} == {a.name for a in (UNCHANGED, *BATCH, *DATA, POWER)}
    wider = retarget(run, width=1024)
    names = {row.rule_name.removeprefix(f"{POWER.name} + ") for row in wider} | set(wider.left_out) - {POWER.name}
    assert names == {a.name for a in (STANDARD, *WIDTH)}
    for row in result:
        assert row.assumption.endswith(".")
        assert row.source
    assert all(reason.endswith(".") for reason in result.left_out.values())


def test_the_transient_is_that_of_a_norm_that_starts_far_below():
    # AdamW: |w|^2 = W (1 - e^(-2xt)), and |w| is at 95% where e^(-2xt) = 1 - 0.95^2
    now = retarget(config(), steps=1).now
    assert_same(now.transient, -math.log(1 - 0.95**2) / (2e-4), 1e-3)
    # SGD on scale-invariant gradients: |w|^4 = W^2 (1 - e^(-4xt))
    now = retarget(config(rules.sgd(), lr=0.1, weight_decay=1e-3), steps=1).now
    assert_same(now.transient, -math.log(1 - 0.95**4) / (4e-4), 1e-3)


def test_what_is_held_stays_held_beside_a_rule_of_the_width():
    run = config(width=512, dataset_size=1e6)
    result = retarget(run, batch_size=1024, width=2048)
    held = {"timescale in tokens": "timescale_tokens", "timescale in epochs": "timescale_epochs",
            "timescale as share of run": "timescale_share", "timescale in steps": "timescale"}  # fmt: skip
    for name, column in held.items():
        rows = [row for row in result if row.rule_name.startswith(f"{name} + ")]
        assert [row.rule_name.partition(" + ")[2] for row in rows] == [
            "standard parametrisation",
            "muP, independent decay",
        ]
        for row in rows:
            assert_same(getattr(row, column), getattr(result.now, column), 1e-12)
    both = result["square root + muP, standard decay"]
    assert_same(numbers(both), (1e-3 * 2 / 4, 0.1), 1e-12)


# What is held, and what is contradicted -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "batch_size", "steps", "data"),
    [
        ({"batch_size": 1024}, 1024, 2_500, 2_560_000),  # tokens are held
        ({"batch_size": 1024, "steps": 10_000}, 1024, 10_000, 10_240_000),
        ({"batch_size": 1024, "tokens": 5_120_000}, 1024, 5_000, 5_120_000),
        ({"steps": 20_000}, 256, 20_000, 5_120_000),
        ({"tokens": 5_120_000}, 256, 20_000, 5_120_000),
        ({"tokens": 5_120_000, "steps": 20_000}, 256, 20_000, 5_120_000),
        ({"width": 1024}, 256, 10_000, 2_560_000),
        ({"batch_size": 1000}, 1000, 2_560, 2_560_000),
    ],
    ids=str,
)
def test_what_is_not_given_follows(change, batch_size, steps, data):
    for row in retarget(config(width=512), **change):
        assert (row.batch_size, row.steps, row.data) == (batch_size, steps, data)
    for row in retarget(
        config(width=512, sequence_length=8), **{k: v * (8 if k == "tokens" else 1) for k, v in change.items()}
    ):
        assert (row.batch_size, row.steps, row.data) == (batch_size, steps, data * 8)


REFUSED = {
    "nothing": ({}, "expected what changes"),
    "steps against tokens": ({"steps": 100, "tokens": 1e6}, "leave one out"),
    "steps against tokens at a batch size": ({"batch_size": 2, "steps": 100, "tokens": 1e6}, "leave one out"),
    "a batch beyond the run": ({"batch_size": 10_000_000}, "one step would take more samples than the whole run has"),
    "width unknown": ({"width": 512}, r"give Config\(width=\)"),
    "parameters unknown": ({"parameters": 1e9}, r"give Config\(parameters=\)"),
    "batch_size of 0": ({"batch_size": 0}, "batch_size >= 1"),
    "steps in parts": ({"steps": 1.5}, "whole number"),
    "tokens of NaN": ({"tokens": math.nan}, "finite number"),
}


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_change_is_one_sentence(change, words):
    with pytest.raises(ValueError, match=words) as error:
        retarget(config(), **change)
    assert str(error.value).startswith("retarget(")
    assert "\n" not in str(error.value)


UNSOUND = {
    "no decay": ({"weight_decay": 0}, "no equilibrium to keep"),
    "no lr": ({"lr": 0}, "lr > 0"),
    "negative steps": ({"steps": -1}, "steps >= 1"),
    "tokens against sequences": ({"tokens": 1e6, "sequence_length": 8}, "leave out tokens= or sequence_length="),
    "a step that takes the whole weight": ({"lr": 1, "weight_decay": 1}, "whole weight"),
    "no rule": ({"rule": "adamw"}, "expected a Rule"),
}


@pytest.mark.parametrize(("given", "words"), UNSOUND.values(), ids=UNSOUND)
def test_an_unsound_config_is_one_sentence(given, words):
    with pytest.raises((ValueError, TypeError), match=words) as error:
        config(**given)
    assert "\n" not in str(error.value)


def test_a_run_is_a_config():
    with pytest.raises(TypeError, match=r"^retarget\(Rule\): expected a rotational\.Config"):
        retarget(ADAMW, batch_size=2)


def test_a_beta_below_zero_is_left_out_with_the_reason():
    result = retarget(config(), batch_size=256 * 32)
    assert "-2.2, which is below 0" in result.left_out["square root with betas"]
    with pytest.raises(KeyError, match="below 0"):
        result["square root with betas"]
    for rule in (rules.nadamw(), rules.laprop(), rules.radam(), rules.rmsprop(momentum=0.9), rules.lion()):
        with pytest.raises(ValueError, match=f"not for {rule.name}"):
            with_betas(rule, 2.0)


def test_decay_that_takes_the_whole_weight_is_left_out_with_the_reason():
    result = retarget(config(lr=0.1, weight_decay=0.1, steps=100_000), batch_size=25_600)
    assert "whole weight" in result.left_out["timescale in tokens"]
    assert "square root" in [row.rule_name for row in result]


# What is shown ------------------------------------------------------------------------------------------------


def test_it_prints_as_a_table_with_assumptions_and_sources():
    result = retarget(config(sequence_length=1024), batch_size=1024)
    was, then, _, head, now, *lines = str(result).splitlines()
    assert was == "now: batch 256, steps 10,000, tokens 2.621e+09"
    assert then == "then: batch 1,024, steps 2,500, tokens 2.621e+09"
    assert head.split()[:8] == ["rule", "lr", "weight_decay", "changed", "rad/step", "timescale:", "steps", "tokens"]
    assert now.split()[:4] == ["now", "0.001", "0.1", "0.003245"]
    table = lines[: lines.index("")]
    assert [line[: max(map(len, result.rows))].rstrip() for line in table] == list(result.rows)
    assert any(line.startswith("square root: Noise") and "arXiv 2205.10287" in line for line in lines)
    assert any(line.startswith("linear: left out; it is for SGD") for line in lines)
    assert "weights never come to rest in it" in str(result)
    assert repr(result) == str(result)


def test_it_is_a_sequence_with_names():
    result = retarget(config(), batch_size=1024)
    assert isinstance(result, Retargeting)
    assert isinstance(result[0], Scaled)
    assert result[0] is result["unchanged"] is next(iter(result))
    assert len(result[1:]) == len(result) - 1
    with pytest.raises(KeyError, match="expected one of 'unchanged'"):
        result["lars"]


@every_rule
def test_it_is_plain_data_for_json(run):
    result = retarget(run, batch_size=1024)
    data = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert list(data) == ["unit", "now", "rows", "left_out"]
    assert [row["rule_name"] for row in data["rows"]] == list(result.rows)
    assert data["rows"][0]["lr"] == run.lr
    assert data["rows"][0]["rule"]["name"] == run.rule.name


def test_it_loads_without_torch():
    code = "import sys, rotational.retargeting; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_class_is_no_config():
    with pytest.raises(TypeError, match=r"^retarget\(Config, a class\): expected a rotational.Config, such as"):
        retarget(Config, batch_size=8)
