"""Memory as numba sees it: the scratch of a thread, arrays at an address, and how they are stored.

Loops take addresses, for integers have no reference counts, and an index that starts at 0 is one that LLVM can see is
not negative.
"""

from __future__ import annotations

import platform
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

from rotational.kernels.tasks import LANES, SCRATCH

# numba has no types of its own; what it compiles is checked by its tests.
# pyright: basic, reportCallIssue=false, reportGeneralTypeIssues=false, reportPrivateImportUsage=false
# pyright: reportAttributeAccessIssue=false
# ruff: noqa: ANN001, ANN002, ANN201, ANN202

COPY, F32, BF16 = 0, 1, 2

BLOCK = 2048
"""Weights that one loop hands to the next."""
WEIGHTS = 4 * SCRATCH
SPARE = WEIGHTS + 4 * SCRATCH
SUMS = SPARE + 3 * 4 * BLOCK
NUMBERS = SUMS + 9 * 8 * LANES
STATE = NUMBERS + 48
BYTES = NUMBERS + 64
"""Where the parts of a thread's scratch begin, in bytes: u, weights in single precision, g m v, sums, numbers of the
rule, state of the arithmetic; and where it ends."""
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "boundscheck": False}
INNER = {**OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
# Single flags: all of them together would take NaN for impossible.
loop = numba.njit(fastmath={"contract", "arcp", "reassoc", "nsz"}, **INNER)
# Lengths and angles keep the order in which they are written.
exact = numba.njit(**INNER)


# What Python cannot say -------------------------------------------------------------------------------------------


def _view(dtype, bits, *inner):
    """A function: `count` numbers, or rows of `inner` numbers, at an address, as an array."""
    kind = types.Array(dtype, 1 + len(inner), "C")

    @intrinsic
    def view(typing, address, count):
        def generate(context, builder, signature, arguments):
            array, size = make_array(kind)(context, builder), context.get_constant(types.intp, bits // 8)
            shape = [arguments[1], *(context.get_constant(types.intp, n) for n in inner)]
            strides = [*(context.get_constant(types.intp, n * bits // 8) for n in inner), size]
            data = builder.inttoptr(arguments[0], context.get_data_type(dtype).as_pointer())
            packed = (cgutils.pack_array(builder, x) for x in (shape, strides))
            populate_array(array, data, *packed, itemsize=size, meminfo=None)
            return array._getvalue()

        return kind(types.int64, types.int64), generate

    return view


floats, words, halves = _view(types.float32, 32), _view(types.uint32, 32), _view(types.uint16, 16)
doubles, table = _view(types.float64, 64), _view(types.float64, 64, LANES)


@intrinsic
def take_next(typing, address):
    """The counter at this address, which goes up by one for all threads at once."""

    def generate(context, builder, signature, arguments):
        counter = builder.inttoptr(arguments[0], ir.PointerType(ir.IntType(64)))
        return builder.atomic_rmw("add", counter, ir.Constant(ir.IntType(64), 1), "seq_cst")

    return types.int64(types.int64), generate


def _sse(name):
    @intrinsic
    def call(typing, address):
        def generate(context, builder, signature, arguments):
            place = ir.PointerType(ir.IntType(8))
            kind = ir.FunctionType(ir.VoidType(), [place])
            builder.call(builder.module.declare_intrinsic(name, (), kind), [builder.inttoptr(arguments[0], place)])
            return context.get_dummy_value()

        return types.void(types.int64), generate

    return call


INTEL = platform.machine().lower() in ("x86_64", "amd64")
arithmetic_to, arithmetic_from = _sse("llvm.x86.sse.stmxcsr"), _sse("llvm.x86.sse.ldmxcsr")
"""The state of the arithmetic, written to an address or set from there."""


# How arrays are stored ------------------------------------------------------------------------------------------


@loop
def read(address, i, count, stored, spare):
    """Address of weights i.. in single precision: where they lie, or, for others and for COPY, in `spare`."""
    if stored == F32:
        return address + 4 * i
    if stored == BF16:
        wide, narrow = words(spare, count), halves(address + 2 * i, count)
        for k in range(count):
            wide[k] = np.uint32(narrow[k]) << np.uint32(16)
    else:
        to, of = floats(spare, count), floats(address + 4 * i, count)
        for k in range(count):
            to[k] = of[k]
    return spare


@loop
def noise_of(i, seed):
    """32 bits that look random, the same for the same weight and step."""
    x = np.uint32(np.uint32(i * np.uint32(0x9E3779B1)) ^ seed)
    x = np.uint32((x ^ (x >> np.uint32(15))) * np.uint32(0x2C1B3C6D))
    x = np.uint32((x ^ (x >> np.uint32(12))) * np.uint32(0x297A2D39))
    return np.uint32(x ^ (x >> np.uint32(15)))


@loop
def write(address, i, count, computed, dither, seed, shift):
    """Round to bfloat16: to the nearest, or up with the probability of what is cut off."""
    narrow, wide = halves(address + 2 * i, count), words(computed, count)
    infinite, quiet = np.uint32(0x7F800000), np.uint32(0x00400000)
    for k in range(count):
        x = wide[k]
        size = np.uint32(x & np.uint32(0x7FFFFFFF))
        up = np.uint32(np.uint32(0x7FFF) + ((x >> np.uint32(16)) & np.uint32(1)))
        if dither:
            up = np.uint32((noise_of(np.uint32(i + k), seed) >> shift) & np.uint32(0xFFFF))
        x = np.uint32(x + (up if size < infinite else np.uint32(0)))  # not past infinity
        x = np.uint32(x | (quiet if size > infinite else np.uint32(0)))  # NaN stays NaN
        narrow[k] = np.uint16(x >> np.uint32(16))
