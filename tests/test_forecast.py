"""Laws of forecasts over all rules: where they end, what stays, what closed forms say, and what users may ask."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import rotational
from rotational import forecast, rules
from rotational.memory import Memory
from rotational.rule import Rule
from rotational.scale import Max, Polar, Raw, Rms, Sign

# Second moments remember 100 steps here rather than 1000, so that a run of 3000 steps shows all there is to see.
FAST = (0.9, 0.99)
RULES = {
    "sgd": rules.sgd(),
    "sgdm": rules.sgd(0.9),
    "dampened": rules.sgd(0.9, dampening=0.5),
    "nesterov": rules.sgd(0.9, nesterov=True),
    "sgdw": rules.sgd(0.9, decay="decoupled"),
    "sgdw cautious": rules.sgd(0.9, decay="cautious"),
    "adamw": rules.adamw(FAST, kurtosis=3.0),
    "adamw b2 .95": rules.adamw((0.9, 0.95), kurtosis=3.0),
    "adamw exact v": rules.adamw(FAST),
    "adamw independent": rules.adamw(FAST, kurtosis=3.0, decay="independent"),
    "adamw adamc": rules.adamw(FAST, kurtosis=3.0, decay="adamc"),
    "adamw cautious": rules.adamw(FAST, kurtosis=3.0, decay="cautious"),
    "nadamw": rules.nadamw(FAST, kurtosis=3.0),
    "nadamw ramp": rules.nadamw(FAST, momentum_decay=0.1, kurtosis=3.0),
    "laprop": rules.laprop(FAST, kurtosis=3.0),
    "lion": rules.lion(),
    "lion cautious": rules.lion(decay="cautious"),
    "signum": rules.signum(),
    "signum coupled": rules.signum(decay="coupled"),
    "adam+l2": rules.adam_l2(FAST),
    "nadam+l2": rules.nadam_l2(FAST),
    "rmsprop": rules.rmsprop(),
    "rmsprop centered": rules.rmsprop(momentum=0.9, centered=True),
    "radam": rules.radam(FAST, decay="decoupled"),
    "adamax": rules.adamax(FAST, decay="decoupled"),
    "muon": rules.muon(),
}
LATE = {"sgdm", "nesterov"}  # their memory holds ten times the decay


def needs(rule: Rule) -> dict:
    """What a rule needs beside lr and weight decay."""
    return {"shape": (32, 64)} if isinstance(rule.scale, Polar) else {"size": 64, "gradient_norm": 1.0}


def hyper(rule: Rule, x: float) -> tuple[float, float]:
    """lr and weight decay of the product x (of the decay itself, where lr does not multiply it)."""
    small = rule.decay == "coupled" and not isinstance(rule.scale, Raw)
    lr = 1e-3 if small or isinstance(rule.scale, Sign | Polar) else 0.1
    return lr, x if rule.decay == "independent" else x / lr


def settled(name: str, x: float = 1e-2) -> tuple[Rule, dict, rotational.Equilibrium]:
    """A rule, the arguments of its forecasts, and its equilibrium."""
    rule = RULES[name]
    lr, weight_decay = hyper(rule, x)
    state = rotational.equilibrium(counted(rule), lr, weight_decay, **needs(rule))
    return rule, {"lr": lr, "weight_decay": weight_decay, **needs(rule)}, state


def counted(rule: Rule) -> Rule:
    """The rule with the kurtosis that forecasts give it, 3 unless told otherwise."""
    return rules.adamw(FAST, kurtosis=3.0) if rule == RULES["adamw exact v"] else rule


# Laws over all rules ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sgdm", "adamw", "adamw cautious", "adam+l2", "signum coupled", "muon"])
def test_the_limit_is_the_equilibrium(name):
    rule, given, state = settled(name)
    f = forecast(rule, steps=8000, norm=3 * state.norm, every=8000, **given)  # in blocks of steps, at the end
    assert f.rotation[-1] == pytest.approx(state.rotation, rel=1e-3)
    assert f.norm[-1] == pytest.approx(state.norm, rel=1e-3)
    assert f.update[-1] == pytest.approx(state.update, rel=2e-3)
    assert f.static[-1] == pytest.approx(state.rotation, rel=1e-9)
    assert f.static_norm[-1] == pytest.approx(state.norm, rel=1e-9)


# Two approximations of one thing that differ: of the sign of a gradient with its decay simulation is +4.0% in norm at
# this lr*wd, where decay takes 7% of a weight in a step, and the step +2.4%.
APART = {"adamax": 0.002, "signum coupled": 0.025, "lion cautious": 0.005}


@pytest.mark.parametrize("name", RULES)
def test_the_limit_of_single_steps_is_the_equilibrium(name):
    rule, given, state = settled(name)
    steps = 2500 if name in ("radam", "nadamw ramp", "adamw cautious") else 1200  # half the decay, or a late start
    f = forecast(rule, steps=steps, norm=1.5 * state.norm, every=steps, **given)
    assert f.rotation[-1] == pytest.approx(state.rotation, rel=APART.get(name, 1e-3))
    assert f.norm[-1] == pytest.approx(state.norm, rel=APART.get(name, 1e-3))


# RAdam, RMSprop, Adamax and NAdam's ramp begin with steps of another size, and Lion remembers a hundred steps, of which
# decay takes a tenth before they have filled: for these the beginning is not at rest, but the limit above is.
@pytest.mark.parametrize(
    "name",
    [n for n in RULES if not n.startswith(("radam", "rmsprop", "adamax", "lion")) and n != "nadamw ramp"],
)
def test_the_equilibrium_is_a_fixed_point(name):
    rule, given, state = settled(name, x=1e-3)
    f = forecast(rule, steps=600, norm=state.norm, **given)
    assert np.abs(f.norm / state.norm - 1).max() < (0.035 if name in LATE else 0.022)  # while the memory fills
    assert np.abs(f.rotation[150:] / state.rotation - 1).max() < 0.02
    assert abs(f.norm[-1] / state.norm - 1) < 0.008  # and forgets it at the pace of decay
    again = forecast(rule, steps=600, **given)  # and it is where a run without a norm starts
    np.testing.assert_allclose(again.norm, f.norm, rtol=1e-9)
    assert "starts at the equilibrium" in again.notes[0]


def total(memory: Memory) -> float:
    """Sum of a filter's impulse response: what a gradient moves the weights by in the end."""
    return memory.new + memory.old * memory.inflow / (1 - memory.decay)


def sum_of_sign_correlations(memory: Memory) -> float:
    r0, r1 = memory.autocovariance()
    rho = r1 / r0 * memory.decay ** np.arange(20_000)
    return 1 + 2 * float(np.sum(2 / math.pi * np.arcsin(rho)))


@pytest.mark.parametrize("name", [n for n in RULES if not isinstance(RULES[n].scale, Max | Polar)])
def test_without_decay_the_norm_is_a_random_walk(name):
    # |w|^2 grows by lr^2 r_0 tau a step: the square of the filter's sum times |g|^2, or C where that is divided out
    rule = RULES[name]
    given = {"lr": 1e-3, "weight_decay": 0.0, "size": 1_000_000, "gradient_norm": 2.0, "scale_invariant": False}
    f = forecast(rule, steps=4000, norm=30.0, kurtosis=None, every=500, **given)
    grown = (f.norm[-1] ** 2 - f.norm[-3] ** 2) / 1000
    power = 4.0 if isinstance(rule.scale, Raw) else 1e6
    sums = sum_of_sign_correlations(rule.memory) if isinstance(rule.scale, Sign) else total(rule.memory) ** 2
    noisy = isinstance(rule.scale, Rms) and rule.scale.kurtosis is not None
    assert grown == pytest.approx(1e-6 * power * sums, rel=0.06 if noisy else 1e-3)
    assert np.all(f.static == 0)
    assert np.all(np.isinf(f.static_norm))
    assert f.arrives is None
    assert "no equilibrium" in str(f)


def test_without_decay_adamw_is_a_closed_form_from_its_first_step():
    # w_T - w_0 = -lr sum_j g_j k_j, k_j what gradient j moves through all later steps, each with its bias correction
    lr, size, steps = 1e-3, 64, 400
    f = forecast(rules.adamw(), lr=lr, weight_decay=0.0, steps=steps, norm=5.0, size=size, gradient_norm=1.0,
                 scale_invariant=False, kurtosis=None)  # fmt: skip
    t = np.arange(1, steps + 1)
    reach = np.tril(0.1 * 0.9 ** np.maximum(t[:, None] - t, 0)) / (1 - 0.9**t)[:, None]  # [step, gradient]
    square = 25 + lr**2 * size * np.sum(np.cumsum(reach, axis=0) ** 2, axis=1)
    np.testing.assert_allclose(f.norm**2 - 25, square - 25, rtol=1e-6)
    np.testing.assert_allclose(f.update, lr * np.sqrt(size * np.sum(reach**2, axis=1)), rtol=1e-6)


def test_without_decay_sgdm_is_a_closed_form_from_its_first_step():
    lr, steps = 1e-2, 200
    f = forecast(rules.sgd(0.9), lr=lr, weight_decay=0.0, steps=steps, norm=5.0, gradient_norm=2.0,
                 scale_invariant=False)  # fmt: skip
    t = np.arange(1, steps + 1)
    square = np.cumsum(((1 - 0.9**t) / 0.1) ** 2) * (2 * lr) ** 2
    np.testing.assert_allclose(f.norm**2 - 25, square, rtol=1e-9)


@pytest.mark.parametrize("make", [rules.adamw, rules.laprop, rules.nadamw, rules.lion, rules.signum, rules.muon])
def test_under_adamc_the_norm_does_not_see_the_schedule(make):
    steps, rule = 40_000, make(decay="adamc")
    top, weight_decay = hyper(rule, 2e-4)
    lr = top * (0.5 + 0.5 * np.cos(np.pi * np.arange(steps) / steps))
    f = forecast(rule, lr=lr, weight_decay=weight_decay, steps=steps, every=20, **needs(rule))
    fills = 0.035 if rule.name == "lion" else 0.02  # a memory of 100 steps, in which lr falls
    assert np.ptp(f.norm) < fills * f.norm[0]
    late = (f.step > 4000) & (f.step < 0.97 * steps)
    assert np.abs(f.ratio[late] - 1).max() < 0.01


def test_a_cosine_leaves_the_norm_behind():
    # the design's own numbers: at 90% of the run the rotation is 0.28 of what the static formula says
    lr = 1e-2 * (0.5 + 0.5 * np.cos(np.pi * np.arange(5000) / 5000))
    f = forecast(rules.adamw(), lr=lr, weight_decay=0.1, steps=5000, size=64)
    assert f.at(4500)["reached"] < 0.5
    assert f.at(4500)["rotation"] < 0.5 * f.at(4500)["static"]


# What may be asked --------------------------------------------------------------------------------------------

GIVEN = {"lr": 1e-2, "weight_decay": 0.1, "steps": 300, "norm": 0.3, "size": 64}


def test_every_keeps_what_stands_at_those_steps():
    whole, some = forecast(rules.adamw(), **GIVEN), forecast(rules.adamw(), **GIVEN, every=7)
    assert some.step.tolist() == list(range(7, 301, 7))
    for key, series in some.series().items():
        np.testing.assert_array_equal(series, whole.series()[key][6::7], err_msg=key)
    assert forecast(rules.adamw(), **GIVEN, every=1000).step.tolist() == [300]  # the last, if none else


def test_every_keeps_what_stands_at_those_steps_of_a_long_run():
    given = {**GIVEN, "steps": 9000}
    whole, some = forecast(rules.adamw(FAST), **given), forecast(rules.adamw(FAST), **given, every=500)
    np.testing.assert_allclose(some.norm, whole.norm[499::500], rtol=1e-12)
    np.testing.assert_allclose(some.rotation, whole.rotation[499::500], rtol=1e-12)


@pytest.mark.parametrize("name", ["sgdm", "adamw", "adam+l2", "lion", "adamax", "signum coupled"])
def test_neurons_side_by_side_are_neurons_alone(name):
    rule = RULES[name]
    norms, sizes, gradients = np.array([0.1, 0.4, 1.0]), np.array([32, 64, 512]), np.array([0.5, 1.0, 3.0])
    given = {"lr": 1e-3, "weight_decay": 0.1, "steps": 200}
    tolerance = 2e-3 if name in ("adam+l2", "signum coupled") else 1e-9  # a lone neuron may need no classes of weights
    together = forecast(rule, norm=norms, size=sizes, gradient_norm=gradients, **given)
    assert together.rotation.shape == together.norm.shape == together.lr.shape == (200, 3)
    for i in range(3):
        alone = forecast(rule, norm=norms[i], size=int(sizes[i]), gradient_norm=gradients[i], **given)
        for key, series in alone.series().items():
            np.testing.assert_allclose(
                together.neuron(i).series()[key], series, rtol=tolerance, atol=1e-12, err_msg=key
            )


def test_what_a_forecast_says_of_itself():
    f = forecast(rules.adamw(), lr=1e-2, weight_decay=0.1, steps=4000, norm=0.3, size=64)
    far = np.abs(f.rotation / f.static - 1) > 0.1
    assert f.arrives == f.step[np.argmin(far)]
    assert f.transient == pytest.approx(np.mean(far))
    assert f.at(10)["norm"] == f.norm[9]
    assert f.at(10)["step"] == 10
    assert f.neuron(0) is f
    assert f.distance == pytest.approx(math.sqrt(np.sum(f.rotation**2)))
    assert f"step {f.arrives:,}" in str(f)
    assert "adamw" in repr(f)
    np.testing.assert_allclose(f.timescale, 1000)
    np.testing.assert_allclose(f.reached, np.minimum(f.norm / f.static_norm, f.static_norm / f.norm))
    with pytest.raises(ValueError, match="first step that was kept is 5"):
        forecast(rules.adamw(), **GIVEN, every=5).at(4)


def test_a_run_that_never_arrives_says_so():
    f = forecast(rules.adamw(), lr=1e-3, weight_decay=1e-3, steps=100, norm=1000.0, size=64)
    assert f.arrives is None
    assert f.transient == 1
    assert "never" in str(f)


def test_several_neurons_say_it_one_by_one():
    f = forecast(rules.adamw(), **{**GIVEN, "norm": np.linspace(0.1, 1.0, 6)})
    assert len(f.arrives) == len(f.transient) == len(f.distance) == 6
    assert "neuron 3" in str(f)
    assert "and 2 more" in str(f)
    assert f.at(10)["norm"].shape == (6,)


def test_a_data_frame_has_a_row_for_each_step_and_neuron():
    pytest.importorskip("pandas")
    one = forecast(rules.adamw(), **GIVEN).to_pandas()
    assert list(one.columns[:3]) == ["step", "lr", "weight_decay"]
    assert len(one) == 300
    two = forecast(rules.adamw(), **{**GIVEN, "norm": np.array([0.3, 1.0])}).to_pandas()
    assert len(two) == 600
    assert sorted(set(two["neuron"])) == [0, 1]
    np.testing.assert_allclose(two[two["neuron"] == 0]["norm"], one["norm"], rtol=1e-9)


def test_norms_have_units_only_where_the_inputs_give_them():
    bare = forecast(rules.adamw(), lr=1e-2, weight_decay=0.1, steps=50)  # rotation needs no size
    assert bare.norm is None
    assert bare.update is None
    assert bare.static_norm is None
    assert np.all(bare.rotation > 0)
    sized = forecast(rules.adamw(), lr=1e-2, weight_decay=0.1, steps=50, size=4096)
    np.testing.assert_allclose(bare.rotation, sized.rotation, rtol=2e-3)
    assert forecast(rules.sgd(0.9), lr=0.1, weight_decay=1e-3, steps=50).norm is None
    assert forecast(rules.sgd(0.9), lr=0.1, weight_decay=1e-3, steps=50, gradient_norm=1.0).norm is not None


def test_a_schedule_is_the_same_however_it_is_written():
    steps = 60
    weights = torch.nn.Parameter(torch.zeros(2, 2))
    scheduler = torch.optim.lr_scheduler.StepLR(torch.optim.AdamW([weights], lr=0.02), 20, gamma=0.5)
    array = 0.02 * 0.5 ** (np.arange(steps) // 20)
    given = {**GIVEN, "steps": steps}
    expected = forecast(rules.adamw(), **{**given, "lr": array})
    for lr in (
        list(array),
        array.astype(np.float64),
        lambda t: 0.02 * 0.5 ** (t // 20),
        scheduler,
        torch.tensor(array),
    ):
        f = forecast(rules.adamw(), **{**given, "lr": lr})
        np.testing.assert_allclose(f.lr, array, rtol=1e-12)
        np.testing.assert_allclose(f.rotation, expected.rotation, rtol=1e-9)
        np.testing.assert_allclose(f.norm, expected.norm, rtol=1e-9)
    assert scheduler.last_epoch == 0  # read, not stepped
    flat = forecast(rules.adamw(), **{**given, "lr": np.full(steps, 0.02), "weight_decay": lambda t: 0.1})
    np.testing.assert_allclose(flat.norm, forecast(rules.adamw(), **{**given, "lr": 0.02}).norm, rtol=1e-9)


def test_a_longer_schedule_is_read_up_to_the_last_step():
    f = forecast(rules.adamw(), **{**GIVEN, "lr": np.r_[np.full(300, 1e-2), 1.0]})
    np.testing.assert_allclose(f.norm, forecast(rules.adamw(), **GIVEN).norm)


WRONG = [
    ({"steps": -5}, "steps"),
    ({"steps": 0}, "steps"),
    ({"steps": 10.5}, "whole number"),
    ({"every": 0}, "every"),
    ({"lr": np.full(299, 1e-2)}, "300"),
    ({"weight_decay": [0.1] * 20}, "300"),
    ({"lr": math.nan}, "lr"),
    ({"lr": np.r_[np.full(299, 1e-2), math.nan]}, "lr"),
    ({"lr": lambda t: math.nan}, "lr"),
    ({"lr": -1e-3}, "lr"),
    ({"weight_decay": math.inf}, "weight_decay"),
    ({"norm": math.nan}, "norm"),
    ({"norm": 0.0}, "norm"),
    ({"norm": [0.3, -1.0]}, r"norm\[1\]"),
    ({"norm": [[0.3]]}, "one for each neuron"),
    ({"norm": []}, "one for each neuron"),
    ({"size": 0}, "size"),
    ({"gradient_norm": -1.0}, "gradient_norm"),
    ({"size": None}, "size="),
    ({"norm": [0.1, 0.2], "size": [64, 64, 64]}, "as many entries"),
    ({"lr": 10.0}, "below 1"),
    ({"lr": np.r_[np.full(299, 1e-2), 10.0]}, "step 299"),
    ({"drift": 1.0}, "drift"),
    ({"target_norm": -1.0}, "target_norm"),
    ({"radial": math.nan}, "radial"),
    ({"kurtosis": 0.5}, "kurtosis"),
    ({"shape": (8, 0)}, "shape"),
    ({"shape": (8, 32)}, "64"),
    ({"shape": (8,)}, "rows and columns"),
    ({"shape": 8}, "rows and columns"),
    ({"steps": 10**18}, "larger every="),
    ({"norm": None, "weight_decay": 0.0}, "no equilibrium to start from"),
    ({"norm": None, "lr": 0.0}, "no equilibrium to start from"),
]


@pytest.mark.parametrize(
    ("change", "says"), WRONG, ids=[" ".join(map(str, c)) + str(i) for i, (c, _) in enumerate(WRONG)]
)
def test_what_cannot_be_forecast_is_a_sentence(change, says):
    with pytest.raises(ValueError, match=says) as error:
        forecast(rules.adamw(), **{**GIVEN, **change})
    one_voice(str(error.value))


@pytest.mark.parametrize(
    ("rule", "given", "says"),
    [
        (rules.sgd(0.9), {"norm": 1.0}, "gradient_norm="),
        (rules.adam_l2(), {}, "size= and gradient_norm="),
        (rules.adam_l2(), {"size": 64}, "gradient_norm="),
        (rules.signum(decay="coupled"), {"gradient_norm": 1.0}, r"signum \(coupled\)\): .* needs size="),
        (rules.muon(), {"norm": 1.0, "size": 64}, "shape="),
        (rules.lion(), {"norm": 1.0}, "size="),
        (rules.muon(decay="coupled"), {"shape": (8, 8)}, r"muon \(coupled\)\): no law is known"),
        (
            rules.adamax((0.9, 0.0)),
            {"norm": 1.0, "size": 8, "gradient_norm": 1.0},
            r"adamax\): with a b2 of 0 .* b2 > 0",
        ),
    ],
)
def test_what_a_rule_needs_is_named(rule, given, says):
    with pytest.raises(ValueError, match=says) as error:
        forecast(rule, lr=1e-2, weight_decay=0.1, steps=10, **given)
    one_voice(str(error.value))


@pytest.mark.parametrize(
    "change", [{"lr": "cosine"}, {"steps": "ten"}, {"norm": "big"}, {"size": True}, {"scale_invariant": "no"}]
)
def test_words_are_no_numbers(change):
    with pytest.raises(TypeError) as error:
        forecast(rules.adamw(), **{**GIVEN, **change})
    one_voice(str(error.value))


def test_a_name_is_no_rule():
    with pytest.raises(TypeError, match=r"rotational\.rules\.adamw") as error:
        forecast("adamw", **GIVEN)
    one_voice(str(error.value))


def one_voice(message: str) -> None:
    """One line that names the call and ends as a sentence does."""
    assert message.startswith(("forecast(", "forecast:")), message
    assert "\n" not in message
    assert message.endswith((".", ")")), message
