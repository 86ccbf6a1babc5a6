"""How a step is cut into tasks: every weight once in each pass, sums before changes that wait for them, fair shares."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from rotational.kernels.layout import Layout, layout
from rotational.kernels.tasks import (
    APPLY,
    CALL,
    FLAT,
    KEPT,
    LINE,
    LOT,
    NEAR,
    RUN,
    SCRATCH,
    SHARE,
    SUM,
    TILE,
    Tasks,
    shared,
)
from rotational.neurons import ROWS, WHOLE, Neurons

COLUMNS = Neurons(axes=(1,))
SHAPES = {
    "rows": (ROWS, (1000, 384)),
    "rows of 1": (ROWS, (77, 1)),
    "rows that fill the scratch": (ROWS, (5, SCRATCH)),
    "rows that no scratch holds": (ROWS, (5, SCRATCH + 1)),
    "rows that several tasks share": (ROWS, (3, 2 * RUN + 1)),
    "a whole tensor": (WHOLE, (1024, 300)),
    "short columns": (COLUMNS, (40, 1001)),
    "long columns": (COLUMNS, (3000, 90)),
    "columns of runs": (COLUMNS, (64, 128, 3, 3)),
}
THREADS = (1, 2, 3, 16)


def laid(name: str) -> Layout:
    units, shape = SHAPES[name]
    stride = np.cumprod([1, *shape[:0:-1]])[::-1]
    found = layout(units, shape, [int(s) for s in stride])
    assert found is not None
    return found


def of_all(threads: int = 2, run_share: int = RUN, most: int = KEPT) -> tuple[Tasks, np.ndarray, list[tuple[int, int]]]:
    total = sum(int(np.prod(shape)) for _, shape in SHAPES.values())
    tasks = Tasks(total, threads, run_share, most)
    for index, name in enumerate(SHAPES):
        tasks.add(index, laid(name), SHAPES[name][0])
    tasks.add(len(SHAPES), Layout(1, 1000, 1, 1000, 1, 1000), None)
    return tasks, *tasks.table()


def weights(rows: np.ndarray) -> int:
    return int((rows["lanes"] * rows["segments"] * rows["run_count"]).sum())


@pytest.mark.parametrize("run_share", [RUN, SHARE])
@pytest.mark.parametrize("threads", THREADS)
def test_every_weight_is_in_one_task_of_each_pass(threads, run_share):
    _, table, _ = of_all(threads, run_share)
    for index, name in enumerate(SHAPES):
        at, mine = laid(name), table[table["job"] == index]
        touched = np.zeros((at.outer * at.lanes, at.segments, at.run), np.int64)
        summed = np.zeros_like(touched)
        for row in mine:
            lanes, segments = row["lane"] + row["lanes"], row["segment"] + row["segments"]
            box = np.s_[
                row["lane"] : lanes, row["segment"] : segments, row["run_from"] : row["run_from"] + row["run_count"]
            ]
            (summed if row["kind"] == SUM else touched)[box] += 1
        assert (touched == 1).all(), name
        assert (summed == (SUM in mine["kind"])).all(), name
    flat = table[table["kind"] == FLAT]
    assert weights(flat) == 1000


def test_long_neurons_are_shared_and_others_are_not():
    _, table, _ = of_all()
    kinds = {name: set(table["kind"][table["job"] == index].tolist()) for index, name in enumerate(SHAPES)}
    shared_ones = {name for name, found in kinds.items() if found == {SUM, APPLY}}
    assert shared_ones == {"rows that several tasks share", "a whole tensor", "long columns"}
    assert all(found == {TILE} for name, found in kinds.items() if name not in shared_ones)
    # What keeps u between its passes has no more of it than the scratch holds.
    _, kept, _ = of_all(run_share=SHARE)
    whole = kept[kept["kind"] == TILE]
    size = np.array([laid(name).size for name in SHAPES])[whole["job"]]
    assert (size <= SCRATCH).all()


def test_changes_come_in_the_stage_after_their_sums():
    tasks, table, stages = of_all()
    assert [start for start, _ in stages] == [0, *(stop for _, stop in stages[:-1])]
    assert stages[-1][1] == len(table)
    for start, stop in stages[:-1]:
        assert len(set(table["kind"][start:stop].tolist())) == 1
    for unit in range(len(tasks.units)):
        found = {}
        for kind in (SUM, APPLY):
            (rows,) = np.nonzero((table["unit"] == unit) & (table["kind"] == kind))
            found[kind] = {
                number for number, (start, stop) in enumerate(stages) if any((start <= rows) & (rows < stop))
            }
            assert len(rows) == tasks.units[unit][0]
        (sums,), (changes,) = found[SUM], found[APPLY]
        assert changes == sums + 1


def test_not_more_is_under_way_than_caches_hold():
    _, table, stages = of_all()
    for start, stop in stages:
        rows = table[start:stop]
        if rows["kind"][0] == SUM and len(set(zip(rows["job"], rows["lane"], strict=True))) > 1:
            assert weights(rows) <= NEAR


@pytest.mark.parametrize("threads", THREADS)
def test_every_thread_has_its_share(threads):
    _, table, stages = of_all(threads)
    bounds = shared(table, stages, threads)
    assert bounds.shape == (len(stages), threads + 1)
    costs = table["lanes"] * table["segments"] * table["run_count"] + CALL
    for row, (start, stop) in zip(bounds, stages, strict=True):
        assert (row[0], row[-1]) == (start, stop)
        assert (np.diff(row) >= 0).all()
        loads = [costs[a:b].sum() for a, b in pairwise(row)]
        assert max(loads) <= costs[start:stop].sum() / threads + costs[start:stop].max()


@pytest.mark.parametrize("most", [0, 2 * RUN + 10 * LINE, 5 * RUN, KEPT])
def test_no_direction_that_still_waits_is_written_over(most):
    tasks, table, stages = of_all(most=most)
    known: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    waits = 0
    for (start, stop), (begin, end) in pairwise(stages):
        sums, changes = table[start:stop], table[begin:end]
        if sums["kind"][0] != SUM:
            assert (sums["kept"] == -1).all() or sums["kind"][0] == APPLY
            continue
        assert (sums["kept"] == changes["kept"]).all()
        kept = sums[sums["kept"] >= 0]
        waits += len(kept)
        first, last = kept["kept"], kept["kept"] + kept["lanes"] * kept["segments"] * kept["run_count"] + LOT
        assert (first % LINE == 0).all()
        assert (last[:-1] <= first[1:]).all()
        assert (last <= tasks.kept).all()
        for others, ends, units in known:
            meets = (first[:, None] < ends) & (others < last[:, None])
            assert (kept["after"] > np.where(meets, units, -1).max(axis=1, initial=-1)).all()
        assert (sums["after"] <= sums["unit"].min()).all()  # or it would wait for itself
        known.append((first, last, kept["unit"]))
    assert tasks.kept <= most
    assert {0: waits == 0, KEPT: waits == np.count_nonzero(table["kind"] == SUM)}.get(most, waits > 0)
    assert (table["kept"][(table["kind"] == TILE) | (table["kind"] == FLAT)] == -1).all()


def test_whether_a_direction_waits_depends_on_its_neuron_alone():
    parts = 2 * NEAR // SHARE  # of the neurons of a stage, if it has several, at the most; each ends with a gap
    assert NEAR + parts * (LOT + LINE) <= KEPT


def test_all_directions_of_a_million_weights_may_wait():
    tasks = Tasks(1 << 20, 2, RUN, KEPT)
    tasks.add(0, Layout(1, 1 << 20, 1, 1 << 20, 1, 1 << 20), WHOLE)
    table, _ = tasks.table()
    assert (table["kept"] >= 0).all()


def test_without_weights_there_are_no_tasks():
    table, stages = Tasks(0, 2, RUN, 0).table()
    assert (len(table), stages) == (0, [])
    assert shared(table, stages, 3).shape == (0, 4)
