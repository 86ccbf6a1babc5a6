"""What numba compiles of `c/elements.h` and `c/passes.h`: loops over weights, and what follows for each neuron.

Each loop is short and knows nothing of the others: blocks stay in the first cache between them.

    g  gradient    m, v  first and second moment    c  filtered gradient    u  direction    w  weight
"""

from __future__ import annotations

import math

import numpy as np

from rotational.kernels import jit_memory as memory
from rotational.kernels.jit_memory import NUMBERS, SUMS, exact, floats, loop, table

# numba has no types of its own; what it compiles is checked by its tests.
# pyright: basic, reportCallIssue=false, reportGeneralTypeIssues=false, reportPrivateImportUsage=false
# pyright: reportAttributeAccessIssue=false
# ruff: noqa: ANN001, ANN201

U, W, UU, WW, UW, A, B, C, NEARLY = range(9)
"""Rows of the table of sums and coefficients."""
ROUNDING = ((16 + 2) * 2.0**-23) ** 2
"""The share of |u|^2 that rounding leaves (`rotate.rounding`)."""
CLOSE = 1e-6
"""Where less of |u|^2 is left, it is formed in double."""


@exact
def prepare(group, job, index, scratch):
    """Write the numbers of the rule after this step, bias included, to the scratch; returns turns and seed."""
    t = np.float64(floats(job.step, 1)[0]) + 1
    first = 1 - group.decay**t if group.unbias_first else 1.0
    second = 1 - group.beta**t if group.unbias_second else 1.0
    n = floats(scratch + NUMBERS, 10)
    n[0], n[1] = group.sign, group.coupled
    n[2] = (group.first_new if job.fresh else group.new) / first
    n[3] = group.old / first
    n[4], n[5] = group.decay, (1.0 if job.fresh else group.inflow)
    n[6], n[7], n[8], n[9] = group.beta, group.share, 1 / math.sqrt(second), group.eps
    turns = np.float64(floats(job.turns, 1)[0]) + 1 if job.turns != 0 else 0.0
    moment = np.uint32(np.uint32(0x85EBCA6B) * np.uint32(t))
    return turns, memory.noise_of(np.uint32(index), moment)


# The first time over the weights ----------------------------------------------------------------------------------


@loop
def remember(c_at, w_at, g_at, m_at, count, numbers, remembers):
    """c = new g + old m, then m = decay m + inflow g, of g with its sign and its coupled decay."""
    c, w, g, n = floats(c_at, count), floats(w_at, count), floats(g_at, count), floats(numbers, 10)
    sign, coupled, new, old, decay, inflow = n[0], n[1], n[2], n[3], n[4], n[5]
    if remembers:
        m = floats(m_at, count)
        for i in range(count):
            x, kept = sign * g[i] + coupled * w[i], m[i]
            c[i] = new * x + old * kept
            m[i] = decay * kept + inflow * x
    else:
        for i in range(count):
            c[i] = new * (sign * g[i] + coupled * w[i])


@loop
def divide(c_at, w_at, g_at, v_at, count, numbers):
    """v = beta v + share g^2, then u = c/(sqrt(v) + eps), bias included."""
    c, w, g, n = floats(c_at, count), floats(w_at, count), floats(g_at, count), floats(numbers, 10)
    v = floats(v_at, count)
    sign, coupled, beta, share, root, eps = n[0], n[1], n[6], n[7], n[8], n[9]
    for i in range(count):
        x = sign * g[i] + coupled * w[i]
        square = beta * v[i] + share * x * x
        v[i] = square
        c[i] = c[i] / (math.sqrt(square) * root + eps)


@loop
def adam(u_at, w_at, g_at, m_at, v_at, count, numbers):
    """Both of these in one go, for the most common rule."""
    u, w, g, n = floats(u_at, count), floats(w_at, count), floats(g_at, count), floats(numbers, 10)
    m, v = floats(m_at, count), floats(v_at, count)
    sign, coupled, new, old, decay, inflow = n[0], n[1], n[2], n[3], n[4], n[5]
    beta, share, root, eps = n[6], n[7], n[8], n[9]
    for i in range(count):
        x, kept = sign * g[i] + coupled * w[i], m[i]
        square = beta * v[i] + share * x * x
        m[i] = decay * kept + inflow * x
        v[i] = square
        u[i] = (new * x + old * kept) / (math.sqrt(square) * root + eps)


@loop
def signs(c_at, count):
    """u = sign(c)."""
    c = floats(c_at, count)
    one, zero = np.float32(1), np.float32(0)
    for i in range(count):
        x = c[i]
        c[i] = (one if x > 0 else zero) - (one if x < 0 else zero) if x == x else x  # NaN stays NaN


@loop
def add(u_at, w_at, lanes, run, sums):
    """Sums of neurons that lie side by side, `run` weights each; in double, so that nothing is too small to square."""
    to = table(sums, 9)
    if run == 1:
        u, w = floats(u_at, lanes), floats(w_at, lanes)
        for k in range(lanes):
            x, y = np.float64(u[k]), np.float64(w[k])
            to[U, k] += x
            to[W, k] += y
            to[UU, k] += x * x
            to[WW, k] += y * y
            to[UW, k] += x * y
        return
    for k in range(lanes):
        u, w = floats(u_at + 4 * k * run, run), floats(w_at + 4 * k * run, run)
        su = sw = suu = sww = suw = 0.0
        for i in range(run):
            x, y = np.float64(u[i]), np.float64(w[i])
            su += x
            sw += y
            suu += x * x
            sww += y * y
            suw += x * y
        to[U, k] += su
        to[W, k] += sw
        to[UU, k] += suu
        to[WW, k] += sww
        to[UW, k] += suw


# The second time ----------------------------------------------------------------------------------------------------


@loop
def turn(u_at, w_at, lanes, run, sums):
    """w <- a w + b u + c."""
    to = table(sums, 9)
    if run == 1:
        u, w = floats(u_at, lanes), floats(w_at, lanes)
        for k in range(lanes):
            w[k] = np.float32(to[A, k] * w[k] + to[B, k] * u[k] + to[C, k])
        return
    for k in range(lanes):
        u, w = floats(u_at + 4 * k * run, run), floats(w_at + 4 * k * run, run)
        a, b, c = to[A, k], to[B, k], to[C, k]
        if to[NEARLY, k] != 0:  # b u and a w nearly cancel
            for i in range(run):
                w[i] = np.float32(a * w[i] + b * u[i] + c)
        else:
            af, bf, cf = np.float32(a), np.float32(b), np.float32(c)
            for i in range(run):
                w[i] = af * w[i] + bf * u[i] + cf


# What becomes of each neuron ----------------------------------------------------------------------------------------


@exact
def measure(job, lane, length, forward, side):
    """Angle, new norm, length of the change, its radial share."""
    every = job.outer * job.lanes
    out, update = floats(job.out, 4 * every), math.hypot(forward - length, side)
    out[lane] = 0.0 if length == 0 else math.atan2(side, forward)
    out[every + lane] = math.hypot(forward, side)
    out[2 * every + lane] = update
    out[3 * every + lane] = 0.0 if length == 0 or update == 0 else (forward - length) / update


@exact
def between(group, job, turns, lane, lanes, scratch):
    """Turn: keep the length, and go by `rotation` on average along what is left of u without radial part and mean."""
    to = table(scratch + SUMS, 9)
    norms, rmss = floats(job.norm + 4 * lane, lanes), floats(job.rms + 4 * lane, lanes)
    mean_of = 1 / np.float64(job.segments * job.run) if group.center else 0.0
    ema, rotation, unbias = group.ema, group.rotation, math.sqrt(1 - group.ema**turns)
    for k in range(lanes):
        ww, mean = to[WW, k], to[U, k] * mean_of
        uw, uu = to[UW, k] - mean * to[W, k], to[UU, k] - mean * to[U, k]
        along = uw / ww if ww > 0 else 0.0
        left = uu - along * uw
        left = 0.0 if left <= ROUNDING * to[UU, k] else left  # NaN is neither
        old = np.float64(rmss[k])
        rms = math.sqrt(ema * old * old + (1 - ema) * left)
        length = math.sqrt(ww)
        norm = np.float64(norms[k]) if norms[k] > 0 else length
        still = left * norm * ww * rotation == 0  # NaN moves, to show itself
        step = rotation * unbias / (1.0 if still else rms) * length
        stretch = norm / math.sqrt(ww + step * step * left)
        to[A, k] = 1.0 if still else stretch * (1 + step * along)
        to[B, k] = 0.0 if still else -stretch * step
        to[C, k] = 0.0 if still else stretch * step * mean
        to[NEARLY, k] = 1.0 if left < CLOSE * to[UU, k] else 0.0
        norms[k], rmss[k] = norm, rms
        # from here on: how far forward and to the side it goes
        to[U, k] = length if still else stretch * length
        to[W, k] = 0.0 if still else stretch * step * math.sqrt(left)
        to[WW, k] = length
    if job.out != 0:
        for k in range(lanes):
            measure(job, lane + k, to[WW, k], to[U, k], to[W, k])


@exact
def plain(group, job, lane, lanes, scratch):
    """The plain rule; its neurons are known only where they are measured."""
    to, lr, kept = table(scratch + SUMS, 9), group.lr, group.kept
    for k in range(lanes):
        to[A, k], to[B, k], to[C, k], to[NEARLY, k] = kept, -lr, 0.0, 0.0
        if job.out != 0:
            ww, uu = to[WW, k], to[UU, k]
            along = to[UW, k] / ww if ww > 0 else 0.0
            left = uu - along * to[UW, k] if ww > 0 else uu
            length = math.sqrt(ww)
            measure(job, lane + k, length, (kept - lr * along) * length, lr * math.sqrt(0.0 if left < 0 else left))
