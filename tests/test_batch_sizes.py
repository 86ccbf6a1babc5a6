"""Batch size and signal: the noise scale's arithmetic, the simulator at two batch sizes, and what is said of it."""

from __future__ import annotations

import html
import json
import math

import numpy as np
import pytest

from compare import assert_same
from rotational import forecast, rules, runs, scaling, walk
from rotational.cli import main
from rotational.forecasts import at_batch_sizes
from rotational.retargeting import Config, retarget

RUN = {"weight_decay": 0.1, "lr": 1e-2, "steps": 800, "batch_size": 64}


def test_the_noise_scale_is_where_mean_and_noise_are_equal():
    assert scaling.signal(100, 100, 100)[0] ** 2 == pytest.approx(0.5)
    assert scaling.signal(300, 100, 100)[0] == 0.5
    for batch in (1, 10, 1000):
        # |g|^2 = |G|^2 + noise/B, by hand
        mean, noise = 2.0, 50.0
        scale = noise / mean
        drift, ratio = scaling.signal(scale, batch, 10)
        assert drift == pytest.approx(math.sqrt(mean / (mean + noise / batch)))
        assert ratio == pytest.approx(math.sqrt((mean + noise / batch) / (mean + noise / 10)))
    assert scaling.signal(None, 40, 10) == (0.0, 0.5)


@pytest.mark.parametrize("scale_invariant", [True, False])
@pytest.mark.parametrize(
    ("rule", "lr", "decay"), [(rules.sgd(momentum=0.9), 0.05, 0.02), (rules.adamw(betas=(0.9, 0.98)), 0.02, 0.25)]
)
def test_the_simulator_at_two_batch_sizes(rule, lr, decay, scale_invariant):
    told = {"lr": lr, "weight_decay": decay, "size": 64, "norm": 0.7, "scale_invariant": scale_invariant}
    found = at_batch_sizes(rule, [64, 256], steps=250, batch_size=256, noise_scale=4000, gradient_norm=0.5, **told)
    assert [row.steps for row in found] == [1000, 250]
    for row in found:
        seen = walk(
            rule, steps=row.steps, drift=row.drift, gradient_norm=0.5 * row.gradient, neurons=48, every=5, **told
        )
        f = row.forecast
        for after in (0.3, 0.8):
            late, theirs = f.step > after * row.steps, int(after * row.steps)
            assert_same(float(np.sqrt(np.mean(f.rotation[late] ** 2))), seen.rms("rotation", theirs), 0.03)
            assert_same(float(np.sqrt(np.mean(f.norm[late] ** 2))), seen.rms("norm", theirs), 0.03)
    small, large = found
    assert small.drift < large.drift
    assert small.gradient > large.gradient == 1


def test_noise_alone_turns_normalised_updates_alike_at_every_batch_size():
    for rule, shape in ((rules.adamw(), None), (rules.lion(), None), (rules.muon(), (32, 64))):
        found = at_batch_sizes(rule, [16, 64, 256], norm=0.5, size=64, shape=shape, **RUN)
        assert len({row.rest for row in found}) == len({row.timescale for row in found}) == 1
        assert [row.timescale * row.batch_size for row in found] == [16_000, 64_000, 256_000]
        assert found[0].transient < min(row.transient for row in found[1:])  # the longest run
        assert "cancels" in str(found)


def test_l2_under_adam_turns_faster_in_larger_batches():
    found = at_batch_sizes(rules.adam_l2(), [16, 64], gradient_norm=1.0, norm=0.5, size=64, **RUN)
    assert found[1].rest / found[0].rest == pytest.approx(2 ** (1 / 3), rel=0.02)  # as gradient_norm^(-1/3)
    assert "divided by the size of the gradient" in str(found)


def test_sgd_keeps_its_rotation_and_not_its_norm():
    found = at_batch_sizes(rules.sgd(), [16, 64], gradient_norm=1.0, norm=0.5, **{**RUN, "lr": 0.1})
    assert found[0].rest == pytest.approx(found[1].rest, rel=1e-6)
    norms = [row.forecast.static_norm[-1] for row in found]
    assert norms[0] / norms[1] == pytest.approx(math.sqrt(2), rel=1e-3)  # as gradient_norm^(1/2)


def test_a_schedule_is_stretched():
    lr = np.repeat([1e-2, 1e-3], 400)
    found = at_batch_sizes(rules.adamw(), [32, 128], norm=0.5, size=64, **{**RUN, "lr": lr})
    for row in found:
        assert_same(row.forecast.lr, np.repeat([1e-2, 1e-3], row.steps // 2))


def test_a_mean_that_is_not_followed_is_still_told():
    a, b = (
        at_batch_sizes(rules.adamw(), [32], noise_scale=100, follow=follow, norm=0.5, size=64, **RUN)
        for follow in (True, False)
    )
    assert a[0].drift == b[0].drift > 0
    assert a[0].rotation != b[0].rotation
    noise = forecast(rules.adamw(), lr=1e-2, weight_decay=0.1, steps=1600, norm=0.5, size=64)
    assert_same(b[0].forecast.rotation, noise.rotation)
    assert "is not followed" in str(b)


def test_a_forecast_takes_batch_and_noise_scale_for_drift():
    given = {"lr": 1e-2, "weight_decay": 0.1, "steps": 50, "norm": 0.5, "size": 64}
    a = forecast(rules.adamw(), batch_size=100, noise_scale=300, **given)
    assert_same(a.rotation, forecast(rules.adamw(), drift=0.5, **given).rotation)
    for wrong, says in (
        ({"drift": 0.1, "batch_size": 8, "noise_scale": 8}, "leave one out"),
        ({"batch_size": 8}, "give noise_scale="),
        ({"noise_scale": 8}, "give batch_size="),
        ({"batch_size": 8, "noise_scale": 0}, "noise_scale > 0"),
        ({"batch_size": math.nan, "noise_scale": 8}, "batch_size"),
    ):
        with pytest.raises(ValueError, match=says) as error:
            forecast(rules.adamw(), **given, **wrong)
        assert str(error.value).startswith("forecast(")


def test_batch_sizes_that_leave_no_step_are_refused():
    with pytest.raises(ValueError, match=r"batch_sizes\[1\]=1e\+06\): one step would take more"):
        at_batch_sizes(rules.adamw(), [64, 1_000_000], norm=0.5, size=64, **RUN)
    with pytest.raises(ValueError, match=r"batch_sizes\[0\]=0"):
        at_batch_sizes(rules.adamw(), [0], norm=0.5, size=64, **RUN)


# The scaling rules ------------------------------------------------------------------------------------------------


def test_scaling_rules_tell_the_signal():
    run = Config(rules.adamw(), lr=1e-3, weight_decay=0.1, batch_size=256, steps=10_000, noise_scale=768)
    result = retarget(run, batch_size=2304)
    assert result.now.drift == 0.5
    assert {row.drift for row in result} == {math.sqrt(0.75)}
    assert "the mean is 0.5 of the gradient's RMS norm at batch size 256, and 0.87 at 2,304" in str(result)
    assert retarget(Config(rules.adamw(), 1e-3, 0.1, 256, 10_000), batch_size=64).now.drift is None


@pytest.mark.parametrize(("noise_scale", "factor"), [(None, 0.5), (256.0, math.sqrt(1.25 / 2))])
def test_what_l2_under_adam_comes_to_follows_the_gradient(noise_scale, factor):
    told = {"size": 128, "gradient_norm": 0.2, "noise_scale": noise_scale}
    result = retarget(Config(rules.adam_l2(), 1e-3, 0.01, 256, 10_000, **told), batch_size=1024)
    row = result["unchanged"]
    assert_same(row.gradient_norm, 0.2 * factor, 1e-12)
    assert_same(row.rotation, result.now.rotation * factor ** (-1 / 3), 0.01)
    assert row.transient is not None
    assert ("falls as 1/sqrt(batch size)" in str(result)) == (noise_scale is None)


# On the command line ------------------------------------------------------------------------------------------------


def planned(capsys, *words):
    told = ["plan", "--optimizer", "adamw", "--lr", "1e-2", "--weight-decay", "0.1", "--steps", "400"]
    code = main([*told, "--fan-in", "64", "--norm", "0.5", *words])
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, "")
    return captured.out


def test_a_plan_compares_batch_sizes(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = planned(capsys, "--batch-size", "64", "--noise-scale", "192")
    assert "other batch sizes" in out
    rows = [line.split() for line in out.splitlines() if line.split()[:1] in (["16"], ["64"], ["256"])]
    assert [row[:3] for row in rows] == [["16", "1,600", "0.28"], ["64", "400", "0.50"], ["256", "100", "0.76"]]
    assert max(map(len, out.splitlines())) <= 80
    assert "other batch sizes" not in planned(capsys, "--batch-size", "64")


def test_as_json(capsys):
    got = json.loads(planned(capsys, "--batch-size", "64", "--batch-sizes", "128", "--noise-scale", "192", "--json"))
    assert [row["batch_size"] for row in got["batch_sizes"]] == [64, 128]
    here = got["batch_sizes"][0]
    assert here["drift"] == 0.5
    assert here["timescale_samples"] == pytest.approx(64_000)


def test_the_page_shows_the_table_of_the_terminal(capsys, tmp_path):
    words = ("--batch-size", "64", "--noise-scale", "192", "--html", str(tmp_path / "plan.html"))
    planned(capsys, *words)
    text = html.unescape((tmp_path / "plan.html").read_text())
    assert "<h2>The same lr, weight decay and data at other batch sizes (fan-in 64)</h2>" in text
    assert "<th scope=row>16</th><td class=n>1,600</td><td class=n>0.28</td>" in text
    assert "keep its direction throughout the run" in text


# Learning rates that share a course -----------------------------------------------------------------------------------


def test_courses_part_where_they_stop_being_multiples():
    a = np.array([0.0, 0.0, 1.0, 2.0, 3.0, 4.0])
    columns = [a, 2 * a, np.r_[3 * a[:4], 0.0, 1.0], np.full(6, 0.5), np.full(6, 0.25)]
    found = runs.courses([x[i : i + 2] for x in columns] for i in (0, 2, 4))
    for x, (course, factor) in zip(columns, found, strict=True):
        assert_same(factor * course, x, 1e-12)
    assert found[3][0] is found[4][0]
    assert found[2][0] is not found[0][0]
