"""The hand-written step for CPUs, in C (`c/step.c`): one launch for all parameters of all groups.

The library is built when the package is (`hatch_build.py`, at the root of the project) and called through ctypes.
Tables of what there is to do are kept from step to step; only the addresses of gradients are new each time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rotational.kernels.layout import Layout, layout
from rotational.kernels.work import Part, Work, beta_of, changed, identical, span
from rotational.neurons import WHOLE, Neurons
from rotational.scale import Raw, Rms, Sign

LIBRARY = Path(__file__).with_name("_native.so")
ABI = 5
"""Of c/table.h; a library of another number was built from other sources."""

SCRATCH, LANES, SHARE, CLOSE, THREAD = 32768, 1024, 16384, 64, 1 << 17
"""As in c/passes.h: weights and neurons of a box. Then weights of a share of a long neuron, and how many must lie
together for memory to be read well; and weights for which another thread is worth its start."""

RUN = 1 << 16
"""Weights of a share of a long neuron that is all one run, of which C keeps nothing between its sums and its change."""

LINE = 8
"""Numbers in a line of the cache."""

LOT = 8
"""Neurons that C adds up side by side. Tasks end between lots, so that no sum depends on how many tasks there are."""

NEAR = 1 << 18
"""Weights of long neurons under way at a time, if one has fewer: 4 MB with gradients and moments."""

CALL = 128
"""Weights that a task costs beside its own."""

LEAST, LARGEST, EACH = 32768, 1 << 19, 16
"""Weights of a task, and tasks of each thread: large ones are read in one go, small ones end at the same time."""

MOST = 4
"""Tables that an optimizer keeps, for what is measured in some steps and not in others."""

EMPTY = 1
"""Instead of 0, the address of a gradient without entries: its parameter takes a step too."""

GROUP = np.dtype(
    [(name, "f8") for name in ("lr", "kept", "coupled", "sign", "new", "old", "decay", "inflow", "first_new")]
    + [(name, "f8") for name in ("beta", "share", "eps", "rotation", "ema")]
    + [(name, "i4") for name in ("scale", "center", "unbias_first", "unbias_second", "dither")],
    align=True,
)
JOB = np.dtype(
    [(name, "i8") for name in ("w", "g", "m", "v", "norm", "rms", "step", "turns", "out")]
    + [(name, "i8") for name in Layout._fields]
    + [(name, "i4") for name in ("group", "weights", "moments", "fresh")]
)
TASK_ROW = np.dtype(
    [(name, "i8") for name in ("job", "lane", "lanes", "segment", "segments", "run_from", "run_count", "unit", "part")]
    + [("kind", "i4"), ("unused", "i4")]
)
UNIT = np.dtype([("parts", "i8"), ("numbers", "i8"), ("done", "i4"), ("ready", "i4")])
TILE, SUM, APPLY, FLAT = range(4)
KINDS: dict[type, int] = {Raw: 0, Rms: 1, Sign: 2}
Row = tuple[int, ...]
"""A task."""
STORED = {torch.float32: 1, torch.bfloat16: 2}


@lru_cache(maxsize=1)
def library() -> Any:
    """The compiled step; None where it was not built, or was built from other sources."""
    if not LIBRARY.exists():
        return None
    try:
        found = ctypes.CDLL(str(LIBRARY))
    except OSError:
        return None
    if found.rotational_abi() != ABI:
        return None
    found.rotational_step.restype = found.rotational_borrow.restype = None
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    found.rotational_borrow.argtypes = [pointer, pointer]
    found.rotational_borrow(*_torch_threads())
    found.rotational_step.argtypes = [pointer, pointer, count, pointer, pointer, count, *[pointer] * 2, count, pointer]
    found.rotational_step.argtypes += [count, ctypes.c_int]
    return found


def _torch_threads() -> tuple[int | None, int | None]:
    """The addresses of what starts a step on the threads that torch itself uses, and of what tells which one a thread
    is; None where those are not OpenMP's.

    torch loads its OpenMP for the whole process to see.
    """
    try:
        known = ctypes.CDLL(None)
        names = (known.GOMP_parallel, known.omp_get_thread_num)
    except (AttributeError, OSError, TypeError):
        return None, None
    parallel, number = (ctypes.cast(name, ctypes.c_void_p).value for name in names)
    return parallel, number


def available() -> str | None:
    """None where the library can be used; else what to do about it."""
    if library() is None:
        return "the compiled library is not there; install the package where there is a C compiler"
    return None


def refusal(part: Part) -> str | None:
    """Why this parameter takes another rung; None where it takes this one."""
    w = part.w
    if type(w) not in (Tensor, torch.nn.Parameter):
        return f"{type(w).__name__} is sharded or wrapped"
    if w.device.type != "cpu":
        return f"weights on {w.device.type}"
    if w.dtype not in STORED:
        return f"{_plain(w.dtype)} weights"
    if any(x is not None and x.dtype not in STORED for x in (part.m, part.v)):
        return "moments of another precision than float32 and bfloat16"
    if any(x is not None and x.stride() != w.stride() for x in (part.m, part.v)):
        return "moments that lie otherwise than the weights"
    beside = [x for x in (part.norm, part.rms, part.step, part.turns) if x is not None]
    if any(x.dtype is not torch.float32 or not x.is_contiguous() or x.device != w.device for x in beside):
        return "lengths or counters that are not float32"
    found = layout(part.units or WHOLE, w.shape, w.stride())
    if span(w) != w.numel():
        return "weights with gaps between them"  # torch gives such a weight moments and gradients without gaps
    if found is None or not serves(found):
        return f"weights of strides {tuple(w.stride())}"
    return None


def serves(at: Layout) -> bool:
    """Whether the scratch of a thread holds a run of every neuron that is not all one run, which is cut instead."""
    return at.segments == 1 or at.run <= SCRATCH


class Native:
    """The step of one optimizer; its tables last for as long as its works have the same parts."""

    def __init__(self) -> None:
        self._lists: list[list[Part]] = []
        self._measured: list[dict[int, tuple[Neurons, Tensor]]] = []
        self._asked: tuple[tuple[int, ...], ...] = ()
        self._tables: dict[tuple[tuple[int, ...], ...], Table] = {}

    def step(self, works: Sequence[Work]) -> None:
        """Take one step of all groups (see `work.Kernel`)."""
        lists = [work.parts for work in works]
        known = identical(lists, self._lists)
        measured = [work.measured for work in works]
        if not identical(measured, self._measured):
            # What is measured is known by its objects, which its table keeps.
            self._asked = tuple((*one, *[id(units) for units, _ in one.values()]) for one in measured)
            self._measured = measured
        asked = self._asked
        if not known or (asked not in self._tables and len(self._tables) > MOST):
            self._tables, self._lists = {}, lists
        table = self._tables.get(asked)
        if table is None:
            table = self._tables[asked] = self._table(works)
        table.fill(works)
        grads = table.gradients(works)
        table.run(torch.get_num_threads())
        del grads  # those that are copies have lived until here
        changed(table.stepped())

    def _table(self, works: Sequence[Work]) -> Table:
        return Table(works)


class Table:
    """What the library reads: groups (one for the neurons of each work, one for the rest), jobs, tasks and units."""

    run_share = RUN

    def __init__(self, works: Sequence[Work]) -> None:
        self.groups = np.zeros(2 * len(works), GROUP)
        self.jobs = np.zeros(sum(len(work.parts) for work in works), JOB)
        self._places = self.jobs["g"]
        self._whole: list[Row] = []  # tasks of whole neurons
        self._flat: list[Row] = []  # of the plain rule
        self._long: list[_Long] = []
        self._units: list[tuple[int, ...]] = []
        self._needed = 0
        self.total = sum(part.w.numel() for work in works for part in work.parts)
        self._task = min(max(LEAST, self.total // (EACH * torch.get_num_threads())), LARGEST)
        index = 0
        for i, work in enumerate(works):
            for j, part in enumerate(work.parts):
                asked = work.measured.get(j)
                units = asked[0] if asked and part.units is None else part.units
                found = layout(units or WHOLE, part.w.shape, part.w.stride())
                assert found is not None
                self.jobs[index] = _job(part, found, 2 * i + (part.units is not None))
                if part.w.numel():
                    self._cut(index, found, units)
                index += 1
        stages = [stage for stage in (*_stages(self._long), [*self._whole, *self._flat]) if stage]
        self.tasks = np.array(list(chain.from_iterable(stages)), TASK_ROW)
        self._stages = list(pairwise(accumulate(map(len, stages), initial=0)))
        self.units = np.array(self._units, UNIT) if self._units else np.zeros(0, UNIT)
        self.numbers = np.zeros(max(1, self._needed))
        at = [x.ctypes.data for x in (self.groups, self.jobs, self.tasks, self.units, self.numbers)]
        self._arguments = (*at[:2], len(self.jobs), *at[2:4], len(self.units), at[4])
        self._shared: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._kept = [units for work in works for units, _ in work.measured.values()]
        self.weights = [part.w for work in works for part in work.parts]
        starts = accumulate([len(work.parts) for work in works], initial=0)
        self._measured = [start + j for start, work in zip(starts, works, strict=False) for j in work.measured]
        self._written: list[tuple[float, ...]] = []
        self._outs: list[int] = []
        self._fresh = [part for work in works for part in work.parts] if self.jobs["fresh"].any() else []

    def _cut(self, index: int, at: Layout, units: Neurons | None) -> None:
        """The tasks of one parameter."""
        size = at.size
        if units is None:
            for start in range(0, size, self._task):
                self._flat.append((index, 0, 1, 0, 1, start, min(self._task, size - start), 0, 0, FLAT, 0))
        elif (at.segments == 1 and size <= max(SCRATCH, self.run_share)) or (
            size <= SCRATCH and SCRATCH // size * at.run >= min(CLOSE, at.lanes * at.run)
        ):
            lanes = max(1, self._task // size)
            if at.segments > 1 and lanes > CLOSE:
                lanes -= lanes % CLOSE  # then a box begins where a line of the cache does
            elif lanes > LOT:
                lanes -= lanes % LOT
            for lane, count in _pieces(at, lanes):
                self._whole.append((index, lane, count, 0, at.segments, 0, at.run, 0, 0, TILE, 0))
        else:
            # Columns go together, so that whole stretches of memory are read.
            lanes = max(1, min(LANES, SHARE // at.run)) if at.segments > 1 else 1
            for lane, count in _pieces(at, lanes):
                parts = _shares(at, count, self.run_share)
                unit, numbers = len(self._units), self._needed
                self._units.append((len(parts), numbers, 0, 0))
                self._needed += (5 * len(parts) + 4) * count
                sums, changes = (
                    [(index, lane, count, *share, unit, k, kind, 0) for k, share in enumerate(parts)]
                    for kind in (SUM, APPLY)
                )
                self._long.append(_Long(count * size, sums, changes))

    def fill(self, works: Sequence[Work]) -> None:
        """Write the numbers of this step, and where to write down what is measured."""
        numbers = [_numbers(work, turns) for work in works for turns in (False, True)]
        if numbers != self._written:
            self.groups[:] = self._written = numbers
        if self._fresh:  # they may have taken their first step by another table
            self.jobs["fresh"] = [part.fresh for part in self._fresh]
            self._fresh = self._fresh if self.jobs["fresh"].any() else []
        if self._measured:
            outs = [out.data_ptr() for work in works for _, out in work.measured.values()]
            if outs != self._outs:
                self.jobs["out"][self._measured] = self._outs = outs

    def gradients(self, works: Sequence[Work]) -> list[Tensor | None]:
        """Write down where the gradients of this step lie: autograd's own as their weights do; others are copied."""
        grads: list[Tensor | None] = []
        for work in works:
            start, found, places = len(grads), work.in_line(), work.places
            if places is None:
                places = [0 if g is None else g.data_ptr() or EMPTY for g in found]
            grads += found
            self._places[start : len(grads)] = places
        return grads

    def stepped(self) -> list[Tensor]:
        """The weights that have gradients in this step."""
        if self._places.all():
            return self.weights
        return [w for w, place in zip(self.weights, self._places, strict=True) if place]

    def run(self, threads: int) -> None:
        """Take the step."""
        threads = self.worth(threads)
        bounds, cursors = self._shared.get(threads) or self._share(threads)
        stages, apart = len(bounds), cursors.shape[1]
        library().rotational_step(*self._arguments, bounds.ctypes.data, stages, cursors.ctypes.data, apart, threads)

    def _share(self, threads: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the tasks of each thread begin in each stage; and room for how far it is."""
        tasks = self.tasks
        costs = np.cumsum(tasks["lanes"] * tasks["segments"] * tasks["run_count"] + CALL)
        bounds = np.empty((len(self._stages), threads + 1), np.int64)
        for row, (start, stop) in zip(bounds, self._stages, strict=True):
            before = costs[start - 1] if start else 0
            shares = before + (costs[stop - 1] - before) * np.arange(1, threads) / threads
            row[0], row[1:-1], row[-1] = start, start + np.searchsorted(costs[start:stop], shares), stop
        cursors = np.zeros((threads, len(bounds) + LINE - len(bounds) % LINE), np.int64)
        self._shared[threads] = bounds, cursors
        return bounds, cursors

    def worth(self, threads: int) -> int:
        """How many of these threads to use: small steps are over before a second one has woken up."""
        return max(1, min(threads, self.total // THREAD + 1))


class _Long(NamedTuple):
    """Neurons that tasks share: how many weights they have, their sums, and the changes that wait for these."""

    weights: int
    sums: list[Row]
    changes: list[Row]


def _stages(long: Iterable[_Long]) -> Iterator[list[Row]]:
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


def _job(part: Part, at: Layout, group: int) -> tuple[int, ...]:
    held = (part.w, None, part.m, part.v, part.norm, part.rms, part.step, part.turns, None)
    moment = part.m if part.m is not None else part.v
    stored = 0 if moment is None else STORED[moment.dtype]
    return (
        *(0 if x is None else x.data_ptr() for x in held),
        *at,
        group,
        STORED[part.w.dtype],
        stored or 1,
        int(part.fresh),
    )


def _numbers(work: Work, turns: bool) -> tuple[float, ...]:
    """A group as c/table.h has it."""
    memory, scale, beta = work.rule.memory, work.rule.scale, beta_of(work.rule)
    divides = isinstance(scale, Rms)
    remembers = memory.old != 0
    # as if m had held, before its first gradient, what makes it equal to that gradient (torch's SGD)
    first = memory.new + memory.old * (1 - memory.inflow) / memory.decay if remembers and memory.warm else memory.new
    return (
        work.lr,
        work.kept(turns),
        work.coupled(turns),
        -1.0 if work.maximize else 1.0,
        memory.new if remembers else 1.0,
        memory.old,
        memory.decay,
        memory.inflow,
        first,
        beta,
        1 - beta,
        scale.eps if isinstance(scale, Rms) else 0.0,
        work.rotation,
        work.ema,
        KINDS[type(scale)],
        work.center,
        divides and memory.unbiased,
        isinstance(scale, Rms) and scale.unbiased,
        work.dither,
    )


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
