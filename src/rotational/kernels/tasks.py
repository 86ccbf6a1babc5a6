"""How a step is cut into tasks, which threads take: whole neurons, parts of long ones, weights of the plain rule.

Tasks come in stages: sums of some long neurons, then their changes, and at last all that nobody waits for. Of each
stage every thread has a part of its own, the same one in every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, pairwise
from typing import NamedTuple

import numpy as np

from rotational.kernels.layout import Layout
from rotational.neurons import Neurons

SCRATCH, LANES, SHARE, CLOSE = 32768, 1024, 16384, 64
"""As in c/passes.h: weights and neurons of a box. Then weights of a share of a long neuron, and how many must lie
together for memory to be read well."""

RUN = 1 << 16
"""Weights of a share of a long neuron that is all one run, of which C keeps nothing between its sums and its change."""

LOT = 8
"""Neurons that C adds up side by side. Tasks end between lots, so that no sum depends on how many tasks there are."""

LINE = 16
"""Floats in a line of the cache."""

NEAR = 1 << 18
"""Weights of long neurons under way at a time, if one has fewer: 4 MB with gradients and moments."""

KEPT = 17 * RUN
"""Directions of long neurons that wait for their sums, in four megabytes that caches hold; others are made again.

Those of several neurons of a stage (`NEAR`) always fit: which ones wait depends on no other neuron, and no bit does.
"""

CALL = 128
"""Weights that a task costs beside its own."""

LEAST, LARGEST, EACH = 32768, 1 << 19, 16
"""Weights of a task, and tasks of each thread: large ones are read in one go, small ones end at the same time."""

TASK_ROW = np.dtype(
    [(name, "i8") for name in ("job", "lane", "lanes", "segment", "segments", "run_from", "run_count", "unit", "part")]
    + [(name, "i4") for name in ("kind", "kept", "after", "unused")]
)
UNIT = np.dtype(
    [("parts", "i8"), ("numbers", "i8"), *((name, "i4") for name in ("done", "ready", "changed", "unused"))]
)
TILE, SUM, APPLY, FLAT = range(4)

Row = tuple[int, ...]
"""A task."""


class Tasks:
    """The tasks of a step over `total` weights; `run_share` is how many weights of one run go together.

    `units` are neurons that tasks share, `numbers` how many doubles they need between them, and `kept` how many floats,
    of which there are `most` (c/table.h).
    """

    def __init__(self, total: int, threads: int, run_share: int, most: int) -> None:
        self.units: list[Row] = []
        self.numbers = self.kept = 0
        self._most_kept = most
        self._most, self._run_share = min(max(LEAST, total // (EACH * threads)), LARGEST), run_share
        self._whole: list[Row] = []  # of whole neurons
        self._flat: list[Row] = []  # of the plain rule
        self._long: list[_Long] = []

    def add(self, index: int, at: Layout, units: Neurons | None) -> None:
        """The tasks of one parameter."""
        size = at.size
        if units is None:
            for start in range(0, size, self._most):
                self._flat.append((index, 0, 1, 0, 1, start, min(self._most, size - start), 0, 0, FLAT, -1, 0, 0))
        elif (at.segments == 1 and size <= max(SCRATCH, self._run_share)) or (
            size <= SCRATCH and SCRATCH // size * at.run >= min(CLOSE, at.lanes * at.run)
        ):
            lanes = max(1, self._most // size)
            if at.segments > 1 and lanes > CLOSE:
                lanes -= lanes % CLOSE  # then a box begins where a line of the cache does
            elif lanes > LOT:
                lanes -= lanes % LOT
            for lane, count in _pieces(at, lanes):
                self._whole.append((index, lane, count, 0, at.segments, 0, at.run, 0, 0, TILE, -1, 0, 0))
        else:
            # Columns go together, so that whole stretches of memory are read.
            lanes = max(1, min(LANES, SHARE // at.run)) if at.segments > 1 else 1
            for lane, count in _pieces(at, lanes):
                parts, unit = _shares(at, count, self._run_share), len(self.units)
                self.units.append((len(parts), self.numbers, 0, 0, 0, 0))
                self.numbers += (5 * len(parts) + 4) * count
                sums, changes = (
                    [(index, lane, count, *share, unit, k, kind, -1, 0, 0) for k, share in enumerate(parts)]
                    for kind in (SUM, APPLY)
                )
                self._long.append(_Long(count * size, sums, changes))

    def table(self) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """All tasks in their order, and where each stage begins and ends."""
        stages = [stage for stage in (*_in_turns(self._long), [*self._whole, *self._flat]) if stage]
        ends = list(pairwise(accumulate(map(len, stages), initial=0)))
        tasks = np.array(list(chain.from_iterable(stages)), TASK_ROW)
        self._wait([tasks[start:stop] for start, stop in ends])
        return tasks, ends

    def _wait(self, stages: Sequence[np.ndarray]) -> None:
        """Where directions of parts of long neurons wait, as far as there is room, and for whose changes it is free.

        Threads meet nowhere: some may change the neurons of a stage while others sum up those of a later one.
        """
        at, before = 0, list[tuple[int, int, int]]()  # regions, and the first unit after those that were there
        for sums, changes in pairwise(stages):
            if sums["kind"][0] != SUM:
                continue
            sizes = sums["lanes"] * sums["segments"] * sums["run_count"]
            sizes = -(-(sizes + LOT) // LINE) * LINE  # lots are read beyond the end
            if at + sizes.sum() > self._most_kept:
                at = 0
            ends = at + np.cumsum(sizes)
            room = ends <= self._most_kept
            begin, at = at, max([at, *ends[room].tolist()])
            sums["kept"] = changes["kept"] = np.where(room, ends - sizes, -1)
            sums["after"] = next((unit for start, stop, unit in reversed(before) if start < at and begin < stop), 0)
            before.append((begin, at, int(sums["unit"].max()) + 1))
            self.kept = max(self.kept, at)


def shared(tasks: np.ndarray, stages: Sequence[tuple[int, int]], threads: int) -> np.ndarray:
    """Where the tasks of each thread begin in each stage, [stages, threads + 1], so that all have as much to do."""
    costs = np.cumsum(tasks["lanes"] * tasks["segments"] * tasks["run_count"] + CALL)
    bounds = np.empty((len(stages), threads + 1), np.int64)
    for row, (start, stop) in zip(bounds, stages, strict=True):
        before = costs[start - 1] if start else 0
        shares = before + (costs[stop - 1] - before) * np.arange(1, threads) / threads
        row[0], row[1:-1], row[-1] = start, start + np.searchsorted(costs[start:stop], shares), stop
    return bounds


class _Long(NamedTuple):
    """Neurons that tasks share: how many weights they have, their sums, and the changes that wait for these."""

    weights: int
    sums: list[Row]
    changes: list[Row]


def _in_turns(long: Iterable[_Long]) -> Iterator[list[Row]]:
    """Sums of some, then their changes, while the caches hold what they can of them."""
    sums: list[Row] = []
    changes: list[Row] = []
    weights = 0
    for one in long:
        if weights and weights + one.weights > NEAR:
            yield from (sums, changes)
            sums, changes, weights = [], [], 0
        sums += one.sums
        changes += one.changes
        weights += one.weights
    yield from (sums, changes)


def _pieces(at: Layout, lanes: int) -> list[tuple[int, int]]:
    """(first neuron, number of neurons) of pieces of up to `lanes` neurons, each within one block."""
    return [
        (block * at.lanes + start, min(lanes, at.lanes - start))
        for block in range(at.outer)
        for start in range(0, at.lanes, lanes)
    ]


def _shares(at: Layout, lanes: int, run_share: int) -> list[tuple[int, int, int, int]]:
    """(segment, segments, run from, run count) of the parts of neurons that are too long for one task."""
    if at.segments == 1:
        return [(0, 1, start, min(run_share, at.run - start)) for start in range(0, at.run, run_share)]
    most = max(1, SHARE // (lanes * at.run))
    return [(start, min(most, at.segments - start), 0, at.run) for start in range(0, at.segments, most)]
