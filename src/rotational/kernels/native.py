"""The hand-written step for CPUs, in C (`c/step.c`): one launch for all parameters of all groups.

The library (`binary`) is called through ctypes. Tables of what there is to do are kept from step to step; only the
addresses of gradients are new each time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from rotational.kernels import binary
from rotational.kernels.layout import Layout, layout
from rotational.kernels.look import EMPTY
from rotational.kernels.tasks import KEPT, RUN, SCRATCH, UNIT, Tasks, shared
from rotational.kernels.work import Part, Work, beta_of, changed, check_table, identical, span
from rotational.neurons import WHOLE, Neurons
from rotational.scale import Raw, Rms, Sign

THREAD = 1 << 17
"""Weights for which another thread is worth its start."""

NEARBY = 1 << 20
"""Weights that a last cache holds with their gradients and moments: for so few, memory is not asked in advance."""

LINE = 8
"""Numbers in a line of the cache."""

MOST = 4
"""Tables that an optimizer keeps, for what is measured in some steps and not in others."""

GROUP = np.dtype(
    [(name, "f8") for name in ("lr", "kept", "coupled", "sign", "new", "old", "decay", "inflow", "first_new")]
    + [(name, "f8") for name in ("beta", "share", "eps", "rotation", "ema")]
    + [(name, "i4") for name in ("scale", "center", "unbias_first", "unbias_second", "dither")],
    align=True,
)
JOB = np.dtype(
    [(name, "i8") for name in ("w", "g", "m", "v", "norm", "rms", "step", "turns", "out")]
    + [(name, "i8") for name in Layout._fields]
    + [(name, "i4") for name in ("group", "weights", "moments", "fresh", "far", "unused")]
)
KINDS: dict[type, int] = {Raw: 0, Rms: 1, Sign: 2}
STORED = {torch.float32: 1, torch.bfloat16: 2}


def available() -> str | None:
    """None where the library can be used; else what to do about it."""
    if binary.library() is None:
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
    beside = [x for x in (part.norm, part.rms, part.step, part.turns) if x is not None]
    if any(x.dtype is not torch.float32 or not x.is_contiguous() or x.device != w.device for x in beside):
        return "lengths or counters that are not float32"
    found = layout(part.units or WHOLE, w.shape, w.stride())
    if span(w) != w.numel():
        return "weights with gaps between them"  # torch gives such a weight moments and gradients without gaps
    if any(x is not None and x.stride() != w.stride() for x in (part.m, part.v)):
        return "moments that lie otherwise than the weights"
    if found is None or not serves(found):
        return f"weights of strides {tuple(w.stride())}"
    return None


def serves(at: Layout) -> bool:
    """Whether the scratch of a thread holds a run of every neuron that is not all one run, which is cut instead."""
    return at.segments == 1 or at.run <= SCRATCH


class Native:
    """The step of one optimizer; its tables last for as long as its works have the same parts."""

    def __init__(self) -> None:
        self._works: Sequence[Work] = ()
        self._lists: list[list[Part]] = []
        self._measured: list[Mapping[int, tuple[Neurons, Tensor]]] = []
        self._asked: tuple[tuple[int, ...], ...] = ()
        self._tables: dict[tuple[tuple[int, ...], ...], Table] = {}
        self._table: Table | None = None  # that of the step before
        self._directions = np.empty(0, np.float32)  # of long neurons under way, by whatever table

    def step(self, works: Sequence[Work]) -> None:
        """Take one step of all groups (see `work.Kernel`)."""
        if works is not self._works:
            self._works, lists = works, [work.parts for work in works]
            if not identical(lists, self._lists):
                self._tables, self._lists, self._table = {}, lists, None
        measured = [work.measured for work in works]
        if not identical(measured, self._measured):
            # What is measured is known by its objects, which its table keeps.
            self._asked = tuple((*one, *[id(units) for units, _ in one.values()]) for one in measured)
            self._measured = measured
            self._table = None
        table = self._table or self._find(works)
        table.fill(works)
        grads = table.gradients(works)
        table.run(torch.get_num_threads())
        del grads  # those that are copies have lived until here
        changed(table.stepped(works))

    def _find(self, works: Sequence[Work]) -> Table:
        """The table for what is measured now, made where there is none."""
        if self._asked not in self._tables:
            if len(self._tables) >= MOST:
                self._tables = {}
            self._tables[self._asked] = self._make(works)
        table = self._tables[self._asked]
        if any(self._measured):
            table.point(self._measured)
        self._table = table
        return table

    def _make(self, works: Sequence[Work]) -> Table:
        table = Table(works, self._directions)
        self._directions = table.directions
        return table


class Table:
    """What the library reads: groups (one for the neurons of each work, one for the rest), jobs, tasks and units."""

    run_share, most_kept = RUN, KEPT

    def __init__(self, works: Sequence[Work], directions: np.ndarray) -> None:
        self.groups = np.zeros(2 * len(works), GROUP)
        self.jobs = np.zeros(sum(len(work.parts) for work in works), JOB)
        self._places = self.jobs["g"]
        self.total = sum(part.w.numel() for work in works for part in work.parts)
        tasks = Tasks(self.total, torch.get_num_threads(), self.run_share, self.most_kept)
        index = 0
        for i, work in enumerate(works):
            for j, part in enumerate(work.parts):
                asked = work.measured.get(j)
                units = asked[0] if asked and part.units is None else part.units
                found = layout(units or WHOLE, part.w.shape, part.w.stride())
                assert found is not None
                self.jobs[index] = _job(part, found, 2 * i + (part.units is not None), self.total > NEARBY)
                if part.w.numel():
                    tasks.add(index, found, units)
                index += 1
        self.tasks, self._stages = tasks.table()
        self.units, self.numbers = np.array(tasks.units, UNIT), np.zeros(max(1, tasks.numbers))
        self.directions = directions if len(directions) >= tasks.kept else aligned(tasks.kept, np.float32)
        at = [x.ctypes.data for x in (self.groups, self.jobs, self.tasks, self.units, self.numbers, self.directions)]
        self._arguments = (*at[:2], len(self.jobs), *at[2:4], len(self.units), *at[4:])
        self._steps: dict[int, tuple[int, tuple[np.ndarray, ...]]] = {}
        self._kept = [units for work in works for units, _ in work.measured.values()]
        self.weights = [part.w for work in works for part in work.parts]
        starts = accumulate([len(work.parts) for work in works], initial=0)
        self._measured = [start + j for start, work in zip(starts, works, strict=False) for j in work.measured]
        self._told: list[tuple[Work, float, float, float]] = []
        self._into: list[Mapping[int, tuple[Neurons, Tensor]]] = []
        self._at: list[tuple[Callable[[], int], int]] = []
        self._fresh = [part for work in works for part in work.parts] if self.jobs["fresh"].any() else []

    def fill(self, works: Sequence[Work]) -> None:
        """Write the numbers of this step, and where to write down what is measured, if that has moved."""
        told = [(work, work.lr, work.weight_decay, work.rotation) for work in works]
        if told != self._told:
            self.groups[:] = [_numbers(work, turns) for work in works for turns in (False, True)]
            self._told = told
        if self._fresh:  # they may have taken their first step by another table
            self.jobs["fresh"] = [part.fresh for part in self._fresh]
            self._fresh = self._fresh if self.jobs["fresh"].any() else []
        for place, known in self._at:
            if place() != known:
                self.point(self._into)
                break

    def point(self, measured: list[Mapping[int, tuple[Neurons, Tensor]]]) -> None:
        """Where to write down what is measured: where its tables lie now, whatever memory they are given later.

        Their storages, of which there are few, are held and looked at: they may move (`share_memory_`).
        """
        outs = [out for tables in measured for _, out in tables.values()]
        for out, job in zip(outs, self.jobs[self._measured], strict=True):
            check_table(out, int(job["outer"] * job["lanes"]))
        self.jobs["out"][self._measured] = [out.data_ptr() for out in outs]
        storages = {x.data_ptr(): x for x in map(Tensor.untyped_storage, outs)}
        self._into, self._at = measured, [(x.data_ptr, known) for known, x in storages.items()]

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

    def stepped(self, works: Sequence[Work]) -> list[Tensor]:
        """The weights that have gradients in this step."""
        for work in works:
            if not work.complete:
                break
        else:
            return self.weights
        return [w for w, place in zip(self.weights, self._places, strict=True) if place]

    def run(self, threads: int) -> None:
        """Take the step."""
        threads = self.worth(threads)
        step, _ = self._steps.get(threads) or self._share(threads)
        binary.library().rotational_step(step)

    def _share(self, threads: int) -> tuple[int, tuple[np.ndarray, ...]]:
        """The address of `Step` of c/table.h for so many threads, and what it names: where the tasks of each begin in
        each stage, and room for how far it is.
        """
        bounds = shared(self.tasks, self._stages, threads)
        stages = len(bounds)
        cursors = np.zeros((threads, stages + LINE - stages % LINE), np.int64)
        last = (bounds.ctypes.data, stages, cursors.ctypes.data, cursors.shape[1], threads)
        step = np.array([*self._arguments, *last], np.int64)
        self._steps[threads] = found = step.ctypes.data, (step, bounds, cursors)
        return found

    def worth(self, threads: int) -> int:
        """How many of these threads to use: small steps are over before a second one has woken up."""
        return max(1, min(threads, self.total // THREAD + 1))


def aligned(count: int, kind: type[np.generic]) -> np.ndarray:
    """So many numbers, from where a line of the cache begins: no vector of them lies across two."""
    size = np.dtype(kind).itemsize
    found = np.empty(count * size + LINE * 8, np.uint8)
    skipped = -found.ctypes.data % (LINE * 8)
    return found[skipped : skipped + count * size].view(kind)


def _job(part: Part, at: Layout, group: int, far: bool) -> tuple[int, ...]:
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
        int(far),
        0,
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
