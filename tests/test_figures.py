"""Figures, claims and quantities, on results that no run gave."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from faking import result
from rotational.lab import reproduce, store
from rotational.lab.declare import Computed, Data, Model, Optimizer, Run, grid
from rotational.lab.figures import SCALES, Arm, Claim, Figure, Panel, Then, named
from rotational.lab.measures import Found, Measured, gather, peaks
from rotational.lab.quantities import Across, Difference, Largest, Of, Plateau, Quantity, Rank, Ratio, Share
from rotational.lab.shelf import COMPUTED, Shelf
from rotational.lab.verdicts import counted, judge

RUN = Run(Model("mlp"), Data("blobs"), Optimizer("adamw", 0.02, 0.5), steps=40, batch=16)
HELD = RUN.but(optimizer__rotational=True)
LR = "optimizer__lr"


def found(missing: int = 0, **arms: dict[tuple[float, int], float]) -> Found:
    """Arms as {(lr, seed): accuracy}, on test and validation data alike."""
    points = {
        name: gather(
            name,
            [
                Measured(RUN.but(optimizer__lr=lr, seed=seed), {"accuracy": y, "validation accuracy": y, "loss": y})
                for (lr, seed), y in values.items()
            ],
        )
        for name, values in arms.items()
    }
    return Found(points, dict.fromkeys(points, missing))


def seeds(*values: float) -> dict[tuple[float, int], float]:
    return {(0.1, seed): y for seed, y in enumerate(values)}


A, B = Of("a", "accuracy"), Of("b", "accuracy")

# Quantities ---------------------------------------------------------------------------------------------------


def test_differences_and_ratios_are_paired_by_seed():
    f = found(a=seeds(50.0, 70.0, 60.0), b={(0.1, 2): 50.0, (0.1, 0): 40.0, (0.1, 1): 60.0})
    assert Difference(A, B).seeds(f) == {0: 10.0, 1: 10.0, 2: 10.0}
    assert Ratio(A, B).seeds(f) == {0: 1.25, 1: 70 / 60, 2: 1.2}
    # seeds scatter by 10; their differences do not
    assert Difference(A, B).estimate(f).high == pytest.approx(10.0)
    assert A.estimate(f).high > 80


def test_a_seed_that_one_side_lacks_is_left_out():
    f = found(a=seeds(50.0, 70.0), b=seeds(40.0))
    assert Difference(A, B).seeds(f) == {0: 10.0}


def test_a_share_of_a_gap():
    f = found(a=seeds(5.0, 6.0, 5.5), b=seeds(1.0, 2.0, 1.4), c=seeds(3.0, 4.1, 3.4))
    e = Share(Difference(Of("c", "accuracy"), B), Difference(A, B)).estimate(f)
    assert e.value == pytest.approx((2.0 + 2.1 + 2.0) / (4.0 + 4.0 + 4.1))
    assert 0.4 < e.low < e.value < e.high < 0.6


def test_across_a_sweep_is_its_geometric_mean():
    f = found(a={(0.1, 0): 1.0, (0.2, 0): 4.0, (0.1, 1): 3.0, (0.2, 1): 3.0, (0.1, 2): 5.0})
    assert Across("a", "accuracy").seeds(f) == pytest.approx({0: 2.0, 1: 3.0})
    assert math.isnan(Across("a", "accuracy").seeds(found(a={(0.1, 0): 1.0, (0.2, 0): -1.0}))[0])


def test_across_a_sweep_a_point_that_diverged_for_one_seed_is_left_out_for_all():
    f = found(a={(0.1, 0): 1.0, (0.2, 0): 4.0, (0.4, 0): 9.0, (0.1, 1): 2.0, (0.2, 1): 8.0, (0.4, 1): math.nan})
    assert Across("a", "accuracy").seeds(f) == pytest.approx({0: 2.0, 1: 4.0})
    assert math.isnan(Across("a", "accuracy").seeds(found(a={(0.1, 0): math.inf}))[0])


def test_a_plateau_runs_between_the_points_where_the_measure_falls_below():
    values = {1e-3: 50.0, 1e-2: 60.0, 1e-1: 60.5, 1.0: 59.5}
    f = found(a={(lr, 0): y for lr, y in values.items()})
    # Within 2.5 points of 60.5: from a fifth of the way down the decade of 10 points, to the end of the sweep.
    assert Plateau("a", LR, "accuracy", 2.5).seeds(f)[0] == pytest.approx(1.0 / 10 ** (-2 - 0.2), rel=1e-6)


def test_a_plateau_of_what_diverges_beside_the_best_point_is_that_point():
    f = found(a={(0.1, 0): 60.0, (1.0, 0): math.nan, (0.01, 0): math.nan})
    assert Plateau("a", LR, "accuracy", 1.0).seeds(f) == {0: 1.0}


def test_ranks_along_an_axis():
    falling = {(lr, s): -lr for lr in (1.0, 2.0, 3.0) for s in (0, 1)}
    assert Rank("a", LR, "accuracy").seeds(found(a=falling)) == {0: -1.0, 1: -1.0}


def test_a_rank_takes_the_best_of_another_axis_at_each_value_of_its_own():
    accuracy = {(1.0, 0.1): 9.0, (1.0, 0.2): 5.0, (2.0, 0.1): 1.0, (2.0, 0.2): 8.0, (3.0, 0.1): 7.0, (3.0, 0.2): 2.0}
    measured = [
        Measured(RUN.but(optimizer__lr=lr, optimizer__weight_decay=wd), {"accuracy": y, "validation accuracy": y})
        for (lr, wd), y in accuracy.items()
    ]
    f = Found({"a": gather("a", measured), "b": gather("b", measured[2:4])}, {})
    assert [p.mean("accuracy") for p in peaks(f.points("a"), LR, "accuracy")] == [9.0, 8.0, 7.0]
    assert Rank("a", LR, "accuracy").seeds(f) == {0: -1.0}
    assert Rank("a", LR, "accuracy", also=("b", 4.0)).seeds(f) == {0: pytest.approx(-3 / 22.5**0.5)}  # 8, not 1


def test_a_rank_may_begin_with_the_one_point_of_another_arm():
    falling = {(lr, s): -lr for lr in (2.0, 3.0) for s in (0, 1, 2)}
    f = found(a=falling, b={(0.1, 0): 0.0, (0.1, 1): -2.5})
    q = Rank("a", LR, "accuracy", also=("b", 1.0))
    assert q.arms == ("a", "b")
    assert q.seeds(f) == {0: -1.0, 1: -0.5}
    assert q.seeds(found(a=falling, b={(9.0, 0): 0.0})) == {0: -1.0}  # at 1, wherever its own run is on the axis


def test_further_seeds_at_one_point_do_not_change_which_is_best():
    three = {(0.1, s): 60.0 for s in (0, 1, 2)} | {(0.2, s): 59.0 for s in (0, 1, 2)}
    f = found(a=three | {(0.1, 3): 10.0, (0.1, 4): 10.0})
    assert sorted(A.seeds(f)) == [0, 1, 2, 3, 4]
    assert A.seeds(f)[4] == 10.0
    # nor what is said of the whole sweep
    assert Plateau("a", LR, "accuracy", 2.0).seeds(f) == pytest.approx(dict.fromkeys((0, 1, 2), 2.0))
    assert Rank("a", LR, "accuracy").seeds(f) == {0: -1.0, 1: -1.0, 2: -1.0}
    assert Across("a", "accuracy").seeds(f).keys() == {0, 1, 2}


def test_the_largest_is_of_each_seed():
    f = found(a=seeds(1.0, 5.0), b=seeds(2.0, 3.0))
    assert Largest((A, B)).seeds(f) == {0: 2.0, 1: 5.0}
    assert Largest((A, B)).arms == ("a", "b")


def test_a_chosen_point_may_be_named():
    f = found(a={(0.1, 0): 1.0, (0.2, 0): 2.0})
    assert Of("a", "accuracy", at=((LR, 0.1),)).seeds(f) == {0: 1.0}
    assert Of("a", "loss", by="accuracy").seeds(f) == {0: 2.0}


# Claims -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "low", "high", "word"),
    [
        ((9.9, 10.0, 10.1), 9.0, 11.0, "held"),
        ((9.9, 10.0, 10.1), 11.0, math.inf, "not held"),
        ((9.9, 10.0, 10.1), 10.1, math.inf, "undecided"),
        ((9.0, 10.0, 11.0), 9.0, math.inf, "undecided"),  # the mean is inside, its interval is not
        ((10.0,), 9.0, math.inf, "undecided"),
        ((10.0, math.nan), 9.0, math.inf, "undecided"),
    ],
)
def test_an_interval_decides(values, low, high, word):
    v = judge(Claim("it is", A, low, high), found(a=seeds(*values)))
    assert v.word == word
    assert (v.why == "") == (word in ("held", "not held"))


def test_what_has_no_chance_in_it_is_decided_by_its_value():
    assert judge(Claim("it is", A, 9.0, exact=True), found(a=seeds(10.0))).word == "held"


def test_a_hole_in_an_arm_leaves_its_claims_open():
    v = judge(Claim("it is", A, 9.0), found(missing=2, a=seeds(10.0)))
    assert (v.word, v.why, v.measured) == ("not run", "2 runs missing", "2 runs missing")


def test_a_hole_for_want_of_data_says_what_is_wanted():
    f = replace(found(missing=2, a=seeds(10.0), b=seeds(1.0)), lacking={"b": "There is no b. Give b."})
    assert judge(Claim("it is", Difference(A, B), 9.0), f).measured == "There is no b. Give b."
    assert judge(Claim("it is", A, 9.0), f).measured == "2 runs missing"


def lattice(best: tuple[float, float]) -> Found:
    """One arm over two axes of three values, the best point given."""
    axes = {LR: (1e-3, 1e-2, 1e-1), "optimizer__weight_decay": (0.1, 0.2, 0.4)}
    runs = grid(RUN, **axes, seed=(0, 1))
    values = {r: float((r.optimizer.lr, r.optimizer.weight_decay) == best) + 0.01 * r.seed for r in runs}
    measured = [Measured(r, {"accuracy": y, "validation accuracy": y}) for r, y in values.items()]
    return Found({"a": gather("a", measured), "b": gather("b", measured[:2])}, {})


@pytest.mark.parametrize(
    ("best", "axes"),
    [
        ((1e-2, 0.2), []),
        ((1e-1, 0.2), ["learning rate"]),
        ((1e-2, 0.1), ["weight decay"]),
        ((1e-3, 0.4), ["learning rate", "weight decay"]),
    ],
)
def test_a_claim_says_where_a_best_point_lies_at_the_edge_of_its_grid(best, axes):
    f = lattice(best)
    notes = (f"best at the edge of its grid in {' and '.join(axes)}",) if axes else ()
    assert judge(Claim("it is", A, low=0), f).notes == notes
    # of one side of a comparison, whichever; a single point has no edge
    for q in (Difference(A, B), Ratio(B, A), Share(B, A), Largest((B, A))):
        assert judge(Claim("it is", q, low=0), f).notes == tuple(f"{note}: a" for note in notes)
    # where the claim says which point, there is no choice along that axis
    fixed = Of("a", "accuracy", at=((LR, best[0]),))
    left = ("best at the edge of its grid in weight decay",) if "weight decay" in axes else ()
    assert judge(Claim("it is", fixed, low=0), f).notes == left


def test_a_rank_says_it_of_the_axis_that_it_does_not_go_along():
    f = lattice((1e-3, 0.2))
    (note,) = judge(Claim("it is", Rank("a", LR, "accuracy"), low=0), f).notes  # ties elsewhere begin at the edge
    assert note == "best at the edge of its grid in weight decay"
    assert (
        judge(Claim("it is", Rank("a", LR, "accuracy", at=(("optimizer__weight_decay", 0.2),)), low=0), f).notes == ()
    )
    plateau = Plateau("a", LR, "accuracy", 0.5)
    assert any("learning rate" in n for n in judge(Claim("it is", plateau, low=0), f).notes)


def test_axes_that_move_together_are_one():
    runs = [RUN.but(optimizer__lr=lr, optimizer__weight_decay=1e-3 / lr) for lr in (1e-3, 1e-2, 1e-1)]
    f = Found({"a": gather("a", [Measured(r, {"accuracy": r.optimizer.lr}) for r in runs])}, {})
    assert judge(Claim("it is", A, low=0), f).notes == ("best at the edge of its grid in learning rate",)


def test_many_arms_at_an_edge_are_counted():
    swept = {name: {(lr, 0): lr for lr in (0.1, 0.2, 0.3)} for name in "abcd"}
    q = Largest(tuple(Of(name, "accuracy") for name in "abcd"))
    (note,) = judge(Claim("it is", q, low=0), found(**swept)).notes
    assert note == "best at the edge of its grid in learning rate: 4 of 4 arms"


def test_points_that_an_average_leaves_out_are_counted():
    f = found(a={(0.1, 0): 1.0, (0.2, 0): math.nan, (0.3, 0): 2.0})
    v = judge(Claim("it is", Across("a", "accuracy"), low=0), f)
    assert v.notes == ("1 of 3 points left out, of which a run has no finite number",)
    assert judge(Claim("it is", Across("a", "accuracy"), low=0), found(a=seeds(1.0, 2.0))).notes == ()


def test_a_claim_needs_a_range():
    with pytest.raises(ValueError, match="a range with an end"):
        Claim("anything", A)
    with pytest.raises(ValueError, match="a range with an end"):
        Claim("nothing", A, low=2, high=1)


def test_words_are_counted():
    f = found(a=seeds(9.9, 10.0, 10.1))
    assert counted([judge(Claim("x", A, 9.0), f), judge(Claim("y", A, 11.0), f)]) == "1 held, 1 not held"


# Figures ------------------------------------------------------------------------------------------------------


def figure(*arms: Arm | Then, quantity: Quantity = A) -> Figure:
    return Figure(
        *("one", "1", "One", "One figure."),
        **dict.fromkeys(("tiny", "laptop", "paper"), arms),  # pyright: ignore[reportArgumentType]
        panels=(Panel("Accuracy", "bars", "accuracy"),),
        claims=(Claim("it is", quantity, low=0),),
    )


ARM_A, ARM_B = Arm("a", grid(RUN, seed=(0, 1))), Arm("b", grid(HELD, seed=(0, 1)))
REPLAY = Then("b", grid(HELD, seed=(0, 1)), "optimizer__angles", "a", "rotation")


def test_claims_and_panels_name_arms_that_exist():
    with pytest.raises(ValueError, match="no arm is called 'b'; there are a"):
        figure(ARM_A, quantity=B)
    with pytest.raises(ValueError, match="no arm is called 'a'; there are b"):
        figure(REPLAY)
    with pytest.raises(ValueError, match="sweeps and heat maps need x="):
        Panel("Accuracy", "sweep", "accuracy")


def test_scales_have_the_same_arms():
    with pytest.raises(ValueError, match="the same arms at every scale"):
        Figure("one", "1", "One", "One.", (ARM_A,), (ARM_A, ARM_B), (ARM_A,), (), ())


def test_a_claim_and_a_panel_may_be_of_some_scales(tmp_path):
    whole = figure(ARM_A)
    (claim,), (panel,) = whole.claims, whole.panels
    one = replace(
        whole,
        claims=(claim, replace(claim, sentence="large", scales=("paper",))),
        panels=(panel, replace(panel, title="small", scales=("tiny", "laptop"))),
    )
    seen = {scale: reproduce.state(one, scale, Shelf(tmp_path)) for scale in SCALES}
    assert [[v.claim.sentence for v in s.verdicts] for s in seen.values()] == [["it is"], ["it is"], ["it is", "large"]]
    titles = [[p.title for p in s.figure.panels] for s in seen.values()]
    assert titles == [["Accuracy", "small"], ["Accuracy", "small"], ["Accuracy"]]


def test_figures_by_name():
    one = figure(ARM_A)
    assert named((one,), []) == named((one,), ["all"]) == named((one,), ["one"]) == (one,)
    with pytest.raises(ValueError, match=r"no figure is called 'onne'\. Did you mean one"):
        named((one,), ["onne"])


def test_arms_with_other_seeds():
    assert [r.seed for r in ARM_A.seeded(4).runs] == [0, 1, 2, 3]
    assert ARM_A.seeded(2).runs == ARM_A.runs


# What is there ------------------------------------------------------------------------------------------------


def test_a_second_stage_waits_for_its_first_and_takes_each_seeds_own_curve(tmp_path):
    shelf, one = Shelf(tmp_path), figure(ARM_A, REPLAY)
    there, ready = shelf.found(one, "tiny")
    assert ready == ARM_A.runs
    assert there.missing == {"a": 2, "b": 2}
    for run in ready:
        shelf.store.keep(result(run, rotations=(0.02 * (1 + run.seed),) * 4))
    _, ready = Shelf(tmp_path).found(one, "tiny")
    assert [r.seed for r in ready] == [0, 1]
    angles = [r.optimizer.angles for r in ready]
    assert angles[0] != angles[1]
    assert angles[0][0][0] == 0.0  # the log's step 1 is the step before which none was taken
    for run in ready:
        shelf.store.keep(result(run))
    there, ready = Shelf(tmp_path).found(one, "tiny")
    assert (ready, there.missing) == ((), {"a": 0, "b": 0})
    assert sorted(there.points("b")[0].seeds) == [0, 1]


def test_the_best_point_of_a_sweep_gets_further_seeds_once_all_its_points_are_there(tmp_path):
    sweep = Arm("a", grid(RUN, optimizer__lr=(0.1, 0.2), seed=(0, 1)), more=(2, 3), by="accuracy")
    one, shelf = figure(sweep, replace(REPLAY, runs=grid(HELD, seed=(0, 1, 2, 3)), by="accuracy")), Shelf(tmp_path)
    there, ready = shelf.found(one, "tiny")
    assert (ready, there.missing) == (sweep.runs, {"a": 6, "b": 4})
    for run in sweep.runs:
        shelf.store.keep(result(run, 40 + 100 * run.optimizer.lr))
    there, ready = shelf.found(one, "tiny")
    best = RUN.but(optimizer__lr=0.2)
    assert (ready, there.missing) == (grid(best, seed=(2, 3)), {"a": 2, "b": 4})
    for run in ready:
        shelf.store.keep(result(run, 0.0))  # what they give no longer changes the choice
    there, ready = shelf.found(one, "tiny")
    assert there.missing == {"a": 0, "b": 4}
    assert [run.seed for run in ready] == [0, 1, 2, 3]  # the next stage is paired with all of them
    assert sorted(A.seeds(there)) == [0, 1, 2, 3]
    # Where a user asks for other seeds, all points have them.
    assert sweep.seeded(3) == Arm("a", grid(RUN, optimizer__lr=(0.1, 0.2), seed=(0, 1, 2)))
    assert len(list(one.jobs("tiny"))) == 6 + 4


@pytest.mark.parametrize(
    ("more", "by", "says"),
    [((1, 2), "accuracy", r"its runs have the seeds \[1\] already"), ((2,), "", "expected by="), ((2,), "norm", "by=")],
)
def test_further_seeds_that_cannot_be(more, by, says):
    with pytest.raises(ValueError, match=says):
        Arm("a", ARM_A.runs, more=more, by=by)


def test_a_stage_that_takes_a_number_takes_it_at_the_best_point(tmp_path):
    sweep = Arm("a", grid(RUN, optimizer__lr=(0.1, 0.2), seed=(0, 1)))
    then = Then("b", grid(HELD, seed=(0, 1)), "optimizer__rotation", "a", "rotation", by="accuracy")
    shelf = Shelf(tmp_path)
    for run in sweep.runs:
        shelf.store.keep(result(run, 40 + 100 * run.optimizer.lr, rotations=(run.optimizer.lr / 10,) * 4))
    _, ready = shelf.found(figure(sweep, then), "tiny")
    assert [r.optimizer.rotation for r in ready if isinstance(r, Run)] == [0.02, 0.02]


def test_computed_numbers_are_kept_and_found(tmp_path):
    what = Computed("prediction", rule="sgd", lr=0.1, weight_decay=1e-4)
    shelf = Shelf(tmp_path)
    shelf.put(Measured(what, {"rotation": 3e-3}, {"norm": ([1, 2], [3.0, 4.0])}, seconds=0.5))
    m = Shelf(tmp_path / "elsewhere", tmp_path).get(what)
    assert m is not None
    assert (m.scalars, m.curves, m.seconds) == ({"rotation": 3e-3}, {"norm": ([1, 2], [3.0, 4.0])}, 0.5)
    with pytest.raises(FileExistsError, match="none is written over"):
        shelf.put(m)


FOREIGN = store.sealed({"format": 1, "computed": {"name": "x", "options": {}}})


@pytest.mark.parametrize("text", ["{", '{"format": 1}', FOREIGN, store.sealed({"format": 1}), "[1]"])
def test_a_damaged_or_foreign_file_is_a_sentence_that_names_it(tmp_path, text):
    what = Computed("prediction", rule="sgd", lr=0.1, weight_decay=1e-4)
    path = tmp_path / what.key / COMPUTED
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"{COMPUTED} is damaged .* Nothing was changed"):
        Shelf(tmp_path).get(what)
    assert path.read_text() == text
