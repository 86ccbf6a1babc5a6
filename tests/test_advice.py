"""Warnings and suggestions: cases built to bring each about, and cases that must not."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

from rotational import advice, forecast, remedies, rules
from rotational.advice import advise
from rotational.remedies import peak
from rotational.shapes import shape

RUN = {"lr": 3e-2, "weight_decay": 0.1, "steps": 2000, "size": 128}


def made(factor=1.0, *, rule=None, warmup=0, kind="constant", **given):
    """A forecast with `factor` times the weight decay; by default it starts at its equilibrium, and stays."""
    told = {**RUN, "norm": None, **given}
    told["lr"] = shape(kind, told["lr"], told["steps"], warmup=warmup)
    return forecast(rule or rules.adamw(), **(told | {"weight_decay": told["weight_decay"] * factor}))


def each(one):
    """What gives a list of forecasts, one for each kind of neurons, out of what gives one."""
    return lambda *given: [one(*given)]


def said(f, **given):
    return {(a.topic, a.kind): a for a in advise(f, **given)}


def test_nothing_is_said_of_a_run_in_equilibrium():
    assert said(made()) == {}
    # The first step of Adam turns 4.4 times as far, which is the filling of its memory and no overshoot.
    assert made().ratio[0] > 4
    assert peak(made())[0] < 1.5


def test_every_number_in_a_sentence_is_given_as_data():
    again = partial(made, steps=1000, norm=0.1, weight_decay=0.01, kind="cosine")
    for a in advise(again(), bf16=True, with_decay=each(again)):
        assert a.sentence.endswith((".", "%", ")"))
        assert all(math.isfinite(x) for x in a.numbers.values())
        assert a.numbers or a.topic == "bf16"


# Too short --------------------------------------------------------------------------------------------------------


def test_a_short_run_gets_the_decay_that_lets_it_settle_in_a_tenth():
    again = partial(made, norm=1.0, weight_decay=0.04)
    found = said(again(), with_decay=each(again))
    warning, suggestion = found["short", "warning"], found["short", "suggestion"]
    assert warning.numbers["transient"] == again().transient
    assert warning.numbers["settles"] == again().settles > 0.25 * RUN["steps"]
    confirmed = again(suggestion.numbers["factor"])
    assert confirmed.settles == suggestion.numbers["settles"]
    assert confirmed.transient == suggestion.numbers["transient"] < again().transient
    assert 0.05 < suggestion.numbers["settles"] / RUN["steps"] <= 0.1
    assert suggestion.numbers["rotation"] == pytest.approx(float(np.max(confirmed.static)))


def test_the_scaling_alone_is_close_where_no_second_forecast_is_given():
    again = partial(made, norm=1.0, weight_decay=0.04)
    factor = said(again())["short", "suggestion"].numbers["factor"]
    assert 0.05 < again(factor).settles / RUN["steps"] < 0.2


def test_a_run_that_never_settles_is_told_so():
    f = made(steps=300, norm=20.0)
    assert f.settles is None
    assert "never settles" in said(f)["short", "warning"].sentence


def test_passing_the_static_formula_is_not_settling():
    f = made(warmup=300, norm=1.0, lr=1e-2)
    assert f.arrives is not None
    assert f.arrives < 100  # in the warm-up, on its way up
    assert f.settles > 300
    assert f"at step {f.arrives}, and settles at {f.settles};" in f.sentences()[0]
    assert "settles" not in made(norm=1.0).sentences()[0]  # it arrives to stay


def test_a_fine_tuning_run_passes_the_static_formula_and_no_more():
    f = made(norm=0.22, lr=2e-5, weight_decay=0.01, kind="linear", steps=3000)
    assert f.settles is not None
    assert abs(f.norm[-1] / f.initial - 1) < 0.01  # nothing of it is equilibrium
    found = said(f)
    assert "in passing" in found["short", "warning"].sentence
    assert found["zero-shot", "suggestion"].numbers["factor"] > remedies.FAR
    assert "tune the baseline at" not in found["zero-shot", "suggestion"].sentence


def test_where_a_higher_lr_does_not_help_more_decay_is_tried():
    def with_lr(factor):
        return made(norm=20.0, lr=1e-2, weight_decay=0.02)

    with_decay = partial(made, norm=20.0, lr=1e-2, weight_decay=0.02)
    numbers = said(with_lr(1.0), with_lr=each(with_lr), with_decay=each(with_decay))["short", "suggestion"].numbers
    assert with_decay(numbers["factor"]).settles == numbers["settles"]
    assert numbers["weight_decay"] == pytest.approx(0.02 * numbers["factor"])


# Too fast at the start ----------------------------------------------------------------------------------------------


def test_a_warm_up_that_hides_an_overshoot():
    again = partial(made, norm=0.08, kind="cosine")
    found = said(again(warmup=1000), without_warmup=again)["overshoot", "warning"]
    assert found.numbers["times"] == peak(again())[0] > 2
    assert found.numbers["left"] == peak(again(warmup=1000))[0] < 2
    assert "hides" in found.sentence


def test_the_suggested_warm_up_is_long_enough_and_not_much_longer():
    again = partial(made, norm=0.4)
    found = said(again(), with_warmup=lambda n: [again(warmup=n)])["overshoot", "suggestion"]
    length = int(found.numbers["warmup"])
    assert peak(again(warmup=length))[0] == found.numbers["times"] < 2
    assert peak(again(warmup=length * 2 // 3))[0] >= 2


def test_where_no_warm_up_helps_it_is_said():
    again = partial(made, norm=0.01, weight_decay=1e-3, steps=500)
    found = said(again(), with_warmup=lambda n: [again(warmup=n)])["overshoot", "suggestion"]
    assert found.sentence.startswith("No warm-up")


def test_a_large_norm_does_not_overshoot():
    assert not any(topic == "overshoot" for topic, _ in said(made(norm=5.0)))


# The others -------------------------------------------------------------------------------------------------------


def test_zero_shot_use_of_a_rotational_variant():
    again = partial(made, steps=250, norm=20.0)
    found = said(again())
    assert found["zero-shot", "warning"].numbers["sum"] == pytest.approx(0.75, rel=0.01)
    then = again(found["zero-shot", "suggestion"].numbers["factor"])
    assert float(np.sum(1 / then.timescale)) == pytest.approx(3, rel=0.01)


@pytest.mark.parametrize(("product", "lost"), [(1e-3, 1.0), (2.0**-9 * 1.1, 0.86), (5e-3, None)])
def test_decay_that_bf16_rounds_away(product, lost):
    f = made(weight_decay=product / RUN["lr"])
    found = said(f, bf16=True)
    if lost is None:
        assert found == {}
    else:
        assert found["bf16", "warning"].numbers["lost"] == pytest.approx(lost, abs=0.01)
        assert ("bf16", "suggestion") in found
    assert not any(topic == "bf16" for topic, _ in said(f))


def test_the_share_that_bf16_loses_is_what_torch_rounds_away():
    import torch

    product = 2.0**-9 * 1.3
    x = torch.exp(torch.empty(20_000, dtype=torch.float64).uniform_(-4, 4, generator=torch.Generator().manual_seed(0)))
    x = x.to(torch.bfloat16)
    kept = x.double() * (1 - product)
    unchanged = float((kept.to(torch.bfloat16) == x).double().mean())
    f = made(weight_decay=product / RUN["lr"])
    assert said(f, bf16=True)["bf16", "warning"].numbers["lost"] == pytest.approx(unchanged, abs=0.02)


def test_the_norm_lags_behind_a_falling_lr():
    f = made(kind="cosine", norm=0.5)
    found = said(f)["lag", "warning"]
    late = f.at(int(0.9 * RUN["steps"]))
    assert found.numbers["ratio"] == pytest.approx(late["rotation"] / late["static"], rel=0.01)
    assert found.numbers["norm"] == pytest.approx(late["norm"] / late["static_norm"], rel=0.01)
    assert ("lag", "warning") not in said(made(kind="cosine", rule=rules.adamw(decay="adamc")))


def test_no_decay_and_no_learning_rate():
    found = said(made(weight_decay=0.0, norm=0.5))
    assert list(found) == [("no decay", "warning")]
    assert found["no decay", "warning"].numbers["end"] < found["no decay", "warning"].numbers["highest"]
    nothing = made(lr=0.0, norm=0.5)
    assert "nothing is learnt" in said(nothing)["no lr", "warning"].sentence
    assert (
        nothing.sentences()[0]
        == nothing.without
        == "The learning rate is 0 throughout: nothing moves, and nothing is learnt."
    )
    assert np.isnan(nothing.static_norm).all()
    assert "nan" not in str(nothing)


def test_l2_under_adam_depends_on_the_gradient():
    l2 = partial(made, rule=rules.adam_l2(), lr=1e-3, weight_decay=1e-2, gradient_norm=0.1, steps=600)
    assert ("l2", "warning") in said(l2())
    signs = said(made(rule=rules.signum(decay="coupled"), lr=1e-3, gradient_norm=0.1, steps=600))
    assert "Under signum (coupled) weight decay joins the gradient" in signs["l2", "warning"].sentence
    assert ("l2", "warning") not in said(made(rule=rules.sgd(), gradient_norm=1.0, norm=0.5))
    from_far = said(l2(norm=50.0))
    assert "outweighs" in from_far["law", "warning"].sentence


def test_several_neurons_are_refused():
    with pytest.raises(ValueError, match=r"forecast\.neuron"):
        advise(made(norm=[0.3, 0.4]))


def test_the_threshold_is_half_a_unit_in_the_last_place():
    assert advice.BF16 == 2.0**-9  # 8 significant bits: half of 2^-7 at the top of a binade, as a share of it


# Other knobs, and other steps of a forecast ---------------------------------------------------------------------------


def test_weights_that_begin_too_long_are_told_to_raise_the_learning_rate():
    def with_lr(factor):
        return made(norm=20.0, lr=1e-2 * factor, weight_decay=0.02)

    with_decay = each(partial(made, norm=20.0, lr=1e-2, weight_decay=0.02))
    numbers = said(with_lr(1.0), with_lr=each(with_lr), with_decay=with_decay)["short", "suggestion"].numbers
    assert "weight_decay" not in numbers
    assert with_lr(numbers["factor"]).settles == numbers["settles"] < 0.25 * RUN["steps"]


def test_where_no_warm_up_helps_lr_and_decay_are_traded():
    def traded(lr, decay):
        return made(norm=0.3, weight_decay=1e-3 * decay, lr=1e-2 * lr, steps=500)

    again = partial(made, norm=0.3, weight_decay=1e-3, lr=1e-2, steps=500)
    found = said(again(), with_warmup=lambda n: [again(warmup=n)], traded=each(traded))["overshoot", "suggestion"]
    then = made(norm=0.3, weight_decay=found.numbers["weight_decay"], lr=found.numbers["lr"], steps=500)
    assert peak(then)[0] == pytest.approx(found.numbers["times"], rel=1e-9)
    assert peak(then)[0] < 2
    assert float(np.max(then.static)) == pytest.approx(found.numbers["rotation"], rel=1e-9)
    assert found.numbers["rotation"] == pytest.approx(float(np.max(again().static)), rel=5e-3)


def test_a_factor_that_nobody_would_try_is_not_suggested():
    def traded(lr, decay):
        return made(norm=1e-4, weight_decay=1e-3 * decay, lr=1e-2 * lr, steps=500)

    again = partial(made, norm=1e-4, weight_decay=1e-3, lr=1e-2, steps=500)
    found = said(again(), with_warmup=lambda n: [again(warmup=n)], traded=each(traded))["overshoot", "suggestion"]
    assert found.numbers == {}
    assert "a larger initial norm" in found.sentence


# What is promised of several kinds, and what is not ------------------------------------------------------------------


def test_a_suggestion_promises_what_the_worst_kind_gets():
    def with_decay(factor):
        return [made(factor, norm=norm, weight_decay=0.04) for norm in (1.0, 0.35)]

    numbers = said(with_decay(1.0)[0], with_decay=with_decay)["short", "suggestion"].numbers
    then = with_decay(numbers["factor"])
    assert numbers["settles"] == max(f.settles for f in then)
    assert numbers["transient"] == max(f.transient for f in then)


def test_to_settle_and_to_stay_are_two_numbers():
    """Under a cosine rotation settles early and leaves again: the share of the run counts both."""
    again = partial(made, norm=1.5, kind="cosine", weight_decay=0.02)
    found = said(again(), with_decay=each(again))["short", "suggestion"]
    then = again(found.numbers["factor"])
    assert then.settles / RUN["steps"] <= 0.1 < then.transient
    assert f"{then.transient:.0%} of the run" in found.sentence
    assert f"step {then.settles:,}" in found.sentence


def test_passing_the_static_formula_is_no_remedy():
    def with_decay(factor):  # decay too weak to matter: the warm-up takes rotation past the static formula early on
        return [made(norm=0.22, lr=2e-5, weight_decay=1e-2, kind="linear", steps=3000, warmup=30)]

    found = said(with_decay(1.0)[0], with_decay=with_decay)
    assert "in passing" in found["short", "warning"].sentence
    assert found["short", "suggestion"].numbers == {}


def test_decay_that_outweighs_a_tiny_gradient_is_not_no_decay():
    f = made(rule=rules.rmsprop(), gradient_norm=1e-30, norm=0.5, lr=1e-3, steps=200)
    assert not np.any(f.static > 0)
    assert "outweighs" in f.sentences()[0]
    assert "Without weight decay" not in str(f)
    assert list(said(f)) == [("no equilibrium", "warning")]
    assert "Without weight decay" in made(weight_decay=0.0, norm=0.5).sentences()[0]


def test_weights_that_never_came_near_do_not_lag_behind_the_lr():
    f = made(norm=1e3, kind="cosine", steps=500)
    assert f.arrives is None
    assert ("lag", "warning") not in said(f)
    assert "never settles" in said(f)["short", "warning"].sentence


def test_one_step_is_not_one_steps():
    f = forecast(rules.adamw(), lr=1e-2, weight_decay=0.1, steps=1, norm=0.5, size=64)
    assert "1 step\n" in str(f)
    assert "1 steps" not in str(f) + repr(f)


def test_a_forecast_that_keeps_few_steps_sees_the_overshoot_in_its_beginning():
    again = partial(made, norm=0.05, steps=4000)
    whole, few = said(again())["overshoot", "warning"], again(every=200)
    assert peak(few)[0] < 0.5 * whole.numbers["times"]
    assert said(few, beginning=again(steps=800))["overshoot", "warning"].numbers == whole.numbers
