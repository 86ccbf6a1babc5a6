"""The kernels for GPUs, in Triton: a copy for each rule, way of storing and shape of tile (`gpu.py` asks for them).

    prepare  counters raised, and for each parameter the numbers of its step, bias corrections included
    tiles    whole neurons, in registers:  m, v brought up to date,  u = direction,  five sums,  w <- a w - b p
    sums     the same sums of a part of neurons too long for that; nothing else is written
    between  their sums together, and what follows from them
    apply    a part of them:  m, v brought up to date,  w <- a w - b p

Only this module and gpu_elements.py need Triton; they are loaded when a step is taken.
"""

# A kernel is not Python: its types are those of the GPU, and capitals are what it is compiled for.
# ruff: noqa: ANN001, ANN201, ANN202, N803
# pyright: basic, reportMissingImports=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false, reportCallIssue=false
# pyright: reportOptionalMemberAccess=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rotational.kernels.gpu_elements import (
    BATCH,
    BEFORE,
    CENTER,
    COEFFICIENTS,
    EMA,
    FIRST,
    GROUP,
    INFLOW,
    KEPT,
    LOG_EMA,
    LOG_FIRST,
    LOG_SECOND,
    LR,
    MEAN,
    NEW,
    NOW,
    NUMBERS,
    OLD,
    OWN,
    PER_GROUP,
    PER_JOB,
    PER_NEURON,
    PER_OWN,
    PER_TASK,
    ROOT,
    ROTATION,
    SIZE,
    STEP,
    TIME,
    TURN,
    TURNED,
    W,
    array,
    descend,
    direction,
    gather,
    place,
    split,
    store,
    sums_of,
    tangent,
    turn,
    write,
)

__all__ = ["COEFFICIENTS", "NUMBERS", "OWN", "TYPES", "apply", "between", "prepare", "sums", "tiles"]

TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}

# Kernels --------------------------------------------------------------------------------------------------------


@triton.jit
def prepare(jobs, grads, fresh, numbers, own, count):
    """Raise the counters of the parameters that take a step, and work out their numbers.

    In double: of 1 - beta^t single precision would leave four digits.
    """
    job = tl.program_id(0) * BATCH + tl.arange(0, BATCH)
    on = job < count
    on = on & (tl.load(grads + job, mask=on, other=0) != 0)
    row, own = jobs + job * PER_JOB, own + job * PER_OWN
    steps = tl.load(row + STEP, mask=on, other=0).to(tl.pointer_type(tl.float32))
    time = tl.load(steps, mask=on, other=0.0) + 1
    tl.store(steps, time, mask=on)
    address = tl.load(row + TURNED, mask=on, other=0)
    counters, turns = address.to(tl.pointer_type(tl.float32)), on & (address != 0)
    turned = tl.load(counters, mask=turns, other=0.0) + 1
    tl.store(counters, turned, mask=turns)
    new = on & (tl.load(fresh + job, mask=on, other=0) != 0)
    tl.store(fresh + job, 0, mask=new)

    of = numbers + tl.load(row + GROUP, mask=on, other=0) * PER_GROUP
    t = time.to(tl.float64)
    first = 1 - tl.exp(t * tl.load(of + LOG_FIRST, mask=on, other=-1.0))
    second = 1 - tl.exp(t * tl.load(of + LOG_SECOND, mask=on, other=-1.0))
    ema = tl.load(of + EMA, mask=on, other=0.0)
    unbias = 1 - tl.exp(turned.to(tl.float64) * tl.load(of + LOG_EMA, mask=on, other=-1.0))
    size = tl.load(row + SIZE, mask=on, other=1).to(tl.float64)
    enters = tl.where(new, tl.load(of + FIRST, mask=on, other=0.0), tl.load(of + NEW, mask=on, other=0.0))
    for column in tl.static_range(12):
        if (column != NEW and column != OLD) and (column != INFLOW and column != FIRST):
            tl.store(own + column, tl.load(of + column, mask=on, other=0.0).to(tl.float32), mask=on)
    tl.store(own + NEW, (enters / first).to(tl.float32), mask=on)
    tl.store(own + OLD, (tl.load(of + OLD, mask=on, other=0.0) / first).to(tl.float32), mask=on)
    tl.store(own + INFLOW, tl.where(new, 1.0, tl.load(of + INFLOW, mask=on, other=0.0)).to(tl.float32), mask=on)
    tl.store(own + ROOT, (1 / tl.sqrt(second)).to(tl.float32), mask=on)
    tl.store(own + TURN, (tl.load(of + ROTATION, mask=on, other=0.0) * tl.sqrt(unbias)).to(tl.float32), mask=on)
    tl.store(own + BEFORE, tl.sqrt(ema).to(tl.float32), mask=on)
    tl.store(own + NOW, tl.sqrt(1 - ema).to(tl.float32), mask=on)
    tl.store(own + MEAN, (tl.load(of + CENTER, mask=on, other=0.0) / size).to(tl.float32), mask=on)
    tl.store(own + TIME, time, mask=on)


@triton.jit
def tiles(
    tasks, jobs, grads, outs, own,
    TURNS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, AXIS: tl.constexpr, DENSE: tl.constexpr,
    SCALE: tl.constexpr, REMEMBERS: tl.constexpr, COUPLED: tl.constexpr,
    WEIGHTS: tl.constexpr, MOMENTS: tl.constexpr, DITHER: tl.constexpr, VECTOR: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Whole neurons, ROWS of up to BLOCK weights."""
    task = tasks + tl.program_id(0) * PER_TASK
    job = tl.load(task).to(tl.int64)
    if tl.load(grads + job) != 0:
        row, of, out, lane = jobs + job * PER_JOB, own + job * PER_OWN, tl.load(outs + job), tl.load(task + 1)
        neurons, there, at, mask = place(row, lane, 0, BLOCK, ROWS, AXIS, DENSE, VECTOR)
        u = direction(
            jobs, grads, own, job, at, mask, True, SCALE, REMEMBERS, COUPLED, WEIGHTS, MOMENTS, DITHER, VECTOR, EARLY
        )
        w_array = array(tl.load(row + W), WEIGHTS, VECTOR)
        w = tl.load(w_array + at, mask=mask, other=0.0).to(tl.float32)
        if TURNS:
            p, ww, left, scale, beside = split(u, w, mask, row, of, AXIS)
            a, b = turn(row, out, of, neurons, there, ww, left, scale)
            write(w_array, at, mask, p, w, a, b, beside, AXIS)
        else:
            _su, _sw, uu, ww, uw = sums_of(u, w, AXIS)
            descend(row, out, of, neurons, there, uu, ww, uw)
            store(w_array + at, tl.load(of + KEPT) * w - tl.load(of + LR) * u, mask, 0, False)


@triton.jit
def sums(
    tasks, jobs, grads, own, parts, slots,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, AXIS: tl.constexpr, DENSE: tl.constexpr,
    SCALE: tl.constexpr, REMEMBERS: tl.constexpr, COUPLED: tl.constexpr,
    WEIGHTS: tl.constexpr, MOMENTS: tl.constexpr, VECTOR: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """The sums of a part of ROWS neurons, into `parts` [5, slots]; a neuron's parts stand side by side."""
    task = tasks + tl.program_id(0) * PER_TASK
    job = tl.load(task).to(tl.int64)
    if tl.load(grads + job) != 0:
        row, lane, chunk = jobs + job * PER_JOB, tl.load(task + 1), tl.load(task + 2).to(tl.int64)
        neurons, there, at, mask = place(row, lane, chunk, BLOCK, ROWS, AXIS, DENSE, VECTOR)
        u = direction(
            jobs, grads, own, job, at, mask, False, SCALE, REMEMBERS, COUPLED, WEIGHTS, MOMENTS, False, VECTOR, EARLY
        )
        w = tl.load(array(tl.load(row + W), WEIGHTS, VECTOR) + at, mask=mask, other=0.0).to(tl.float32)
        su, sw, uu, ww, uw = sums_of(u, w, AXIS)
        to = parts + tl.load(task + 3) + (neurons - lane) * tl.cdiv(tl.load(row + SIZE), BLOCK) + chunk
        tl.store(to, su, mask=there)
        tl.store(to + slots, sw, mask=there)
        tl.store(to + 2 * slots, uu, mask=there)
        tl.store(to + 3 * slots, ww, mask=there)
        tl.store(to + 4 * slots, uw, mask=there)


@triton.jit
def _added(parts, chunks):
    """The sum of a neuron's parts, in an order that is always the same."""
    total = tl.zeros([1, BATCH], tl.float64)
    for start in range(0, chunks, BATCH):
        part = start + tl.expand_dims(tl.arange(0, BATCH), 0)
        total += tl.load(parts + part, mask=part < chunks, other=0.0)
    return tl.sum(total, 1)


@triton.jit
def between(tasks, jobs, grads, outs, own, parts, slots, coefficients, BLOCK: tl.constexpr, TURNS: tl.constexpr):
    """One long neuron: its sums, and what `apply` needs of it."""
    task = tasks + tl.program_id(0) * PER_TASK
    job = tl.load(task).to(tl.int64)
    if tl.load(grads + job) != 0:
        row, of, out = jobs + job * PER_JOB, own + job * PER_OWN, tl.load(outs + job)
        neurons = tl.load(task + 1).to(tl.int64) + tl.arange(0, 1)
        there = neurons >= 0
        chunks = tl.cdiv(tl.load(row + SIZE), BLOCK).to(tl.int32)
        parts += tl.load(task + 3)
        su, sw, uu = _added(parts, chunks), _added(parts + slots, chunks), _added(parts + 2 * slots, chunks)
        ww, uw = _added(parts + 3 * slots, chunks), _added(parts + 4 * slots, chunks)
        if TURNS:
            mean, along, left, scale, beside = gather(su, sw, uu, ww, uw, row, of)
            a, b = turn(row, out, of, neurons, there, ww, left, scale)
            to = coefficients + tl.load(task + 4) * PER_NEURON + tl.arange(0, 1)
            tl.store(to, a)
            tl.store(to + 1, b)
            tl.store(to + 2, mean)
            tl.store(to + 3, along)
            tl.store(to + 4, scale)
            tl.store(to + 5, beside)
        else:
            descend(row, out, of, neurons, there, uu, ww, uw)


@triton.jit
def apply(
    tasks, jobs, grads, own, coefficients,
    TURNS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, AXIS: tl.constexpr, DENSE: tl.constexpr,
    SCALE: tl.constexpr, REMEMBERS: tl.constexpr, COUPLED: tl.constexpr,
    WEIGHTS: tl.constexpr, MOMENTS: tl.constexpr, DITHER: tl.constexpr, VECTOR: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """A part of ROWS neurons whose coefficients are known, or of weights of the plain rule."""
    task = tasks + tl.program_id(0) * PER_TASK
    job = tl.load(task).to(tl.int64)
    if tl.load(grads + job) != 0:
        row, of, lane, chunk = (
            jobs + job * PER_JOB,
            own + job * PER_OWN,
            tl.load(task + 1),
            tl.load(task + 2).to(tl.int64),
        )
        neurons, there, at, mask = place(row, lane, chunk, BLOCK, ROWS, AXIS, DENSE, VECTOR)
        u = direction(
            jobs, grads, own, job, at, mask, True, SCALE, REMEMBERS, COUPLED, WEIGHTS, MOMENTS, DITHER, VECTOR, EARLY
        )
        w_array = array(tl.load(row + W), WEIGHTS, VECTOR)
        w = tl.load(w_array + at, mask=mask, other=0.0).to(tl.float32)
        if TURNS:
            from_ = coefficients + (tl.load(task + 4) + (neurons - lane)) * PER_NEURON
            a, b = tl.load(from_, mask=there, other=0.0), tl.load(from_ + 1, mask=there, other=0.0)
            mean, along = tl.load(from_ + 2, mask=there, other=0.0), tl.load(from_ + 3, mask=there, other=0.0)
            scale, beside = tl.load(from_ + 4, mask=there, other=1.0), tl.load(from_ + 5, mask=there, other=0.0)
            p = tangent(u, w, mean, along, scale, AXIS)
            write(w_array, at, mask, p, w, a, b, beside, AXIS)
        else:
            store(w_array + at, tl.load(of + KEPT) * w - tl.load(of + LR) * u, mask, 0, False)
