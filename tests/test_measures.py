"""What figures read off a result."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from faking import LAYERS, result
from rotational.lab.declare import Computed, Data, Model, Optimizer, Run, Schedule, grid
from rotational.lab.measures import MEASURES, Measured, at, best, gather, middle
from rotational.lab.reading import inner, read
from rotational.lab.results import Curve

RUN = Run(Model("mlp", width=8), Data("blobs"), Optimizer("adamw", 0.02, 0.5), steps=120, batch=16)


def test_test_data_is_reported_and_validation_data_named():
    m = read(result(RUN, accuracy=61.0, loss=1.2))
    assert (m.scalar("accuracy"), m.scalar("validation accuracy"), m.scalar("bleu")) == (61.0, 61.0, 30.5)
    assert math.isnan(m.scalar("validation bleu"))


def test_the_head_and_embeddings_are_not_among_the_normalised():
    layers = result(RUN).layers
    assert [x.name for x in inner(layers)] == list(LAYERS[:-1])
    embedding = replace(layers[0], module="Embedding")
    assert [x.name for x in inner((embedding, *layers[1:]))] == list(LAYERS[1:-1])


def test_spreads_and_the_worst_layer():
    m = read(result(RUN, rotations=(0.02, 0.04, 0.01, 9.0)))
    assert m.scalar("layer spread") == pytest.approx(4.0)
    assert m.scalar("norm spread") == pytest.approx(3.0)
    assert m.scalar("off") == pytest.approx(100.0)
    assert m.scalar("ratio") == pytest.approx(math.sqrt((4 + 16 + 1) / 3) / 2)


def test_the_static_formula_follows_the_schedule():
    constant = read(result(RUN.but(schedule=Schedule("constant"))))
    cosine, corrected = (
        read(result(RUN.but(schedule=Schedule("cosine"), optimizer__decay=decay))) for decay in ("constant", "adamc")
    )
    rest = math.sqrt(2 * 0.01 * 0.1 / 1.9)
    assert constant.curves["at rest"][1] == pytest.approx([rest] * 12)
    share = [y / rest for y in cosine.curves["at rest"][1]]
    assert share[0] == pytest.approx(1.0, abs=1e-3)
    assert share[-1] < 0.05
    assert [y / rest for y in corrected.curves["at rest"][1]] == pytest.approx([s**2 for s in share])


def test_a_radial_part_counts_as_decay():
    m = read(result(RUN.but(schedule=Schedule("constant"))))
    rest = math.sqrt(2 * 0.01 * 0.1 / 1.9)
    assert m.scalar("ratio at rest") == pytest.approx(0.02 / rest)
    # the faked probe ends near 0.05 beside a weight decay of 0.5
    assert m.scalar("ratio radial") == pytest.approx(0.02 / rest / math.sqrt(1 + 0.051 / 0.5), rel=0.01)


@pytest.mark.parametrize(("rule", "stride"), [("adamw", 0.02), ("sgd", 0.2)])
def test_growth_of_norms_counts_beside_it_at_the_pace_of_decay(rule, stride):
    run = RUN.but(schedule=Schedule("constant"), optimizer__rule=rule)
    still = result(run, rotations=(0.02, 0.02, 0.02, 9.0))
    # Shrinking by what half of the weight decay takes off in a step: lr wd, over 1 - momentum under SGD.
    rates = {f"norms/rate/{name}": Curve(np.array([60.0, 120.0]), np.full(2, -0.25 * stride)) for name in LAYERS}
    without, with_it = read(still), read(replace(still, probes={**still.probes, **rates}))
    assert math.isnan(without.scalar("ratio moving"))
    assert with_it.scalar("ratio radial") == without.scalar("ratio radial")
    more = with_it.scalar("ratio moving") / with_it.scalar("ratio radial")
    assert more == pytest.approx(math.sqrt((0.5 + 0.051) / (0.25 + 0.051)), rel=0.01)


def test_without_a_formula_there_is_no_ratio():
    assert math.isnan(read(result(RUN.but(optimizer__rule="adam"))).scalar("ratio at rest"))


def test_a_run_that_was_never_logged_has_losses_only():
    bare = read(replace(result(RUN), rotation=None, layers=(), probes={}))
    assert bare.scalar("accuracy") == 50.0
    assert math.isnan(bare.scalar("rotation"))
    assert "rotation" not in bare.curves


def test_probes_are_curves_of_their_layers():
    curves = read(result(RUN)).curves
    assert curves["gradient_weight: stem.0.weight"][0] == curves["rotation: stem.0.weight"][0]


def test_fields_and_options_by_path():
    assert at(RUN, "optimizer__lr") == 0.02
    assert at(RUN, "model__width") == 8
    assert at(Computed("walk", size=32), "size") == 32


def test_seeds_of_a_point_stand_together_even_where_a_stage_gave_each_its_own_angles():
    runs = grid(RUN, optimizer__lr=(0.1, 0.2), seed=(0, 1))
    turned = [r.but(optimizer__angles=((0.0, 0.01 * (1 + r.seed)),), optimizer__rotational=True) for r in runs]
    for several in (runs, turned):
        points = gather("arm", [read(result(r)) for r in several])
        assert [sorted(p.seeds) for p in points] == [[0, 1], [0, 1]]


def _point(lr: float, test: float, validation: float, name: str = "accuracy") -> Measured:
    return Measured(RUN.but(optimizer__lr=lr), {name: test, f"validation {name}": validation})


def test_sweeps_choose_on_validation_data():
    points = gather("arm", [_point(0.1, 90.0, 50.0), _point(0.2, 10.0, 60.0)])
    assert at(best(points, "accuracy").run, "optimizer__lr") == 0.2


def test_a_loss_is_better_low_and_what_diverged_is_never_best():
    points = gather("arm", [_point(0.1, 1.0, 1.0, "loss"), _point(0.2, 2.0, math.inf, "loss")])
    assert at(best(points, "loss").run, "optimizer__lr") == 0.1


def test_nothing_to_choose_by_is_an_error():
    points = gather("arm", [_point(0.1, 1.0, 1.0), _point(0.2, 2.0, 2.0)])
    with pytest.raises(ValueError, match="nothing says which point"):
        best(points, "layer spread")
    assert best(points[:1], "layer spread") is points[0]


def test_curves_of_seeds_meet_at_common_steps():
    x, mean, low, high = middle([([1, 2, 3], [1.0, 2.0, 3.0]), ([1, 3], [3.0, math.nan])])
    assert x == [1, 3]
    assert mean == [2.0, 3.0]
    assert low[0] == 1.0
    assert high[0] == 3.0


def test_every_measure_with_a_better_end_says_so_in_a_known_word():
    assert {m.better for m in MEASURES.values()} == {"high", "low", None}
