"""The tasks of a step, compiled by numba: `c/step.c` over again, on the same tables.

    first    m, v brought up to date,  u = direction (kept in the scratch of one box),  sums of u, w, u^2, w^2, u w
    between  mean and radial part of u, length of what is left, new norm: a few numbers a neuron, in double
    second   w <- a w + b u + c

All is compiled for one signature and branches on the numbers of the tables: one thing to compile, one file in the
cache. Importing this file compiles it, or loads it from there.
"""

from __future__ import annotations

import os
import tempfile
import warnings
import zlib
from pathlib import Path

import numba
import numpy as np
from numba import types

from rotational.kernels import jit_loops as loops
from rotational.kernels import jit_memory as memory
from rotational.kernels.jit import COUNT, FINISH
from rotational.kernels.jit_memory import BF16, BLOCK, COPY, NUMBERS, OPTIONS, SPARE, SUMS, WEIGHTS, exact
from rotational.kernels.native import GROUP, JOB, KINDS
from rotational.kernels.tasks import APPLY, FLAT, LANES, SCRATCH, SUM, TASK_ROW, TILE, UNIT
from rotational.scale import Rms, Sign

# numba has no types of its own; what it compiles is checked by its tests.
# pyright: basic, reportCallIssue=false, reportGeneralTypeIssues=false, reportPrivateImportUsage=false
# pyright: reportAttributeAccessIssue=false
# ruff: noqa: ANN001, ANN201, ANN202, SIM109

ROWS = 4096
"""Weights of rows that go together: they stay in the first cache."""
RMS, SIGN = KINDS[Rms], KINDS[Sign]

# What is called from one place is no function to LLVM, which would work on it once more for each caller above it.
part = numba.njit(inline="always", **memory.INNER)


# A box ----------------------------------------------------------------------------------------------------------


@part
def first(group, job, seed, at, lanes, run, segments, keep, summed, scratch):
    """Directions of a box, and their sums; moments are brought up to date where `keep`."""
    spare, numbers, remembers = scratch + SPARE, scratch + NUMBERS, job.m != 0
    wide, sums = lanes * run, memory.table(scratch + SUMS, 9)
    rounds = keep and job.moments == BF16
    held = job.moments if keep or job.moments == BF16 else np.int32(COPY)
    for row in range(5):
        for k in range(lanes if summed else 0):
            sums[row, k] = 0.0
    for s in range(segments):
        for start in range(0, wide, BLOCK):
            i, size = at + s * job.segment_stride + start, min(BLOCK, wide - start)
            u = scratch + 4 * (s * wide + start)
            w = memory.read(job.w, i, size, job.weights, u + WEIGHTS)
            g = m = v = memory.read(job.g, i, size, job.weights, spare)
            if remembers:
                m = memory.read(job.m, i, size, held, spare + 4 * BLOCK)
            if group.scale == RMS:
                v = memory.read(job.v, i, size, held, spare + 8 * BLOCK)
            if remembers and group.scale == RMS:
                loops.adam(u, w, g, m, v, size, numbers)
            else:
                loops.remember(u, w, g, m, size, numbers, remembers)
                if group.scale == RMS:
                    loops.divide(u, w, g, v, size, numbers)
            if rounds and remembers:
                memory.write(job.m, i, size, m, group.dither, seed, np.uint32(0))
            if rounds and group.scale == RMS:
                memory.write(job.v, i, size, v, group.dither, seed, np.uint32(16))
            if group.scale == SIGN:
                loops.signs(u, size)
        if summed:
            u = scratch + 4 * s * wide
            w = u + WEIGHTS if job.weights == BF16 else job.w + 4 * (at + s * job.segment_stride)
            loops.add(u, w, lanes, run, scratch + SUMS)


@part
def second(job, at, lanes, run, segments, scratch):
    """The step of a box."""
    wide = lanes * run
    for s in range(segments):
        i, u = at + s * job.segment_stride, scratch + 4 * s * wide
        w = u + WEIGHTS if job.weights == BF16 else job.w + 4 * i
        loops.turn(u, w, lanes, run, scratch + SUMS)
        if job.weights == BF16:
            memory.write(job.w, i, wide, w, np.int32(0), np.uint32(0), np.uint32(0))


@exact
def exchange(task, unit, numbers, kind, scratch):
    """Numbers go to the table of all neurons of a unit, or come from there."""
    lanes, to = task.lanes, memory.table(scratch + SUMS, 9)
    sums = memory.doubles(numbers.ctypes.data + 8 * unit.numbers, (5 * unit.parts + 4) * lanes)
    if kind == FINISH:  # parts are added up in their order, whoever formed them
        for row in range(5 * unit.parts):
            for k in range(lanes):
                to[row % 5, k] = sums[row * lanes + k] + (to[row % 5, k] if row >= 5 else 0.0)
        return
    # sums of one part, or coefficients
    own, place, rows = (loops.U, 5 * task.part, 5) if kind == SUM else (loops.A, 5 * unit.parts, 4)
    for row in range(rows):
        for k in range(lanes):
            if kind == APPLY:
                to[own + row, k] = sums[(place + row) * lanes + k]
            else:
                sums[(place + row) * lanes + k] = to[own + row, k]


# Tasks ----------------------------------------------------------------------------------------------------------


@part
def advance(job):
    """One step more."""
    memory.floats(job.step, 1)[0] += 1
    if job.turns != 0:
        memory.floats(job.turns, 1)[0] += 1
    job.fresh = 0


@part
def take(group, job, task, units, numbers, scratch):
    """Go over the weights of a task, as many at a time as the cache holds."""
    kind, size = task.kind, job.segments * job.run
    turns, seed = loops.prepare(group, job, task.job, scratch)
    lanes, run, end = task.lanes, task.run_count, task.run_from + task.run_count
    if kind == TILE:
        lanes = min(LANES, SCRATCH // size if job.segments > 1 else max(1, ROWS // size))
    elif kind == FLAT:
        run = ROWS
    for lane in range(task.lane, task.lane + task.lanes, lanes):
        many = min(lanes, task.lane + task.lanes - lane)
        # blocks of lanes lie apart
        at = lane // job.lanes * job.outer_stride + lane % job.lanes * job.run + task.segment * job.segment_stride
        for start in range(task.run_from, end, run):
            count = min(run, end - start)
            if kind != FINISH:
                summed = kind == TILE or kind == SUM
                first(group, job, seed, at + start, many, count, task.segments, kind != SUM, summed, scratch)
            if kind == SUM or kind == FINISH or kind == APPLY:
                exchange(task, units[task.unit], numbers, kind, scratch)
            if kind == TILE or kind == FLAT or kind == FINISH:
                if job.norm != 0:
                    loops.between(group, job, turns, lane, many, scratch)
                else:
                    loops.plain(group, job, lane, many, scratch)
            if kind == FINISH:
                exchange(task, units[task.unit], numbers, np.int32(-1), scratch)
            elif kind != SUM:
                second(job, at + start, many, count, task.segments, scratch)


def work(groups, jobs, tasks, units, numbers, counter, scratch):
    """Take tasks until there are none left, as other threads do at the same time."""
    if memory.INTEL:  # numbers below 1e-38 cost a hundred times as much as others, and are worth nothing here
        state = memory.words(scratch + memory.STATE, 2)
        memory.arithmetic_to(scratch + memory.STATE)
        state[1] = state[0] | np.uint32(0x8040)
        memory.arithmetic_from(scratch + memory.STATE + 4)
    while True:
        i = memory.take_next(counter.ctypes.data)
        if i >= len(tasks):
            break
        task = tasks[i]
        job = jobs[task.job]
        if job.g == 0:
            continue
        if task.kind == COUNT:
            advance(job)
        else:
            take(groups[job.group], job, task, units, numbers, scratch)
    if memory.INTEL:
        memory.arithmetic_from(scratch + memory.STATE)


# numba's cache looks at the file of the outermost function only: the name of a field stands for the others.
SOURCES = ("native.py", "tasks.py", "jit.py", "jit_memory.py", "jit_loops.py", "jit_tasks.py")
CHECK = zlib.crc32(b"".join(Path(__file__).with_name(name).read_bytes() for name in SOURCES))
COUNTER = np.dtype([(f"of_{CHECK:08x}", "i8")])
SIGNATURE = types.void(
    *(numba.from_dtype(kind)[::1] for kind in (GROUP, JOB, TASK_ROW, UNIT)),
    types.float64[::1],
    numba.from_dtype(COUNTER)[::1],
    types.int64,
)


def _compiled():
    place = numba.config.CACHE_DIR
    try:
        if place:  # where the user wants it, and not, as numba would have it, in the next best place
            os.makedirs(place, exist_ok=True)
            tempfile.TemporaryFile(dir=place).close()
        return numba.njit(SIGNATURE, cache=True, **OPTIONS)(work)
    except Exception as error:  # a cache that cannot be read raises anything; what does not compile does so again
        warnings.warn(
            f"numba cannot keep what it compiles for rotational ({error}), so each new process spends some seconds "
            f"compiling. Let NUMBA_CACHE_DIR name a directory that can be written, or delete {place or '__pycache__'} "
            "if what it holds is damaged.",
            RuntimeWarning,
            stacklevel=2,
        )
        return numba.njit(SIGNATURE, **OPTIONS)(work)


run = _compiled()
