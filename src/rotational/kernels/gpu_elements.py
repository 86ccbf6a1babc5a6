"""What the kernels for GPUs are made of (`gpu_kernels.py`): a tile of weights, and what becomes of each neuron in it.

    g  gradient    m, v  first and second moment    c  filtered gradient    u  direction    w  weight
    p  u without its mean and its part along w

Single precision does for whole neurons, for p is formed before it is squared, in units of its largest entry: no
gradient is then too small or too large, and what is left of a nearly radial u is no rounding error. Of long neurons
nothing is known but sums, so these are in double; a few numbers a neuron are too. Most GPUs are slow in double.
"""

# A kernel is not Python: its types are those of the GPU, and capitals are what it is compiled for.
# ruff: noqa: ANN001, ANN201, N803
# pyright: basic, reportMissingImports=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false, reportCallIssue=false
# pyright: reportOptionalMemberAccess=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

# Columns of the tables: parameters (addresses first, 0 where there is none), tasks and groups as `gpu.py` writes them,
# and `own`, the numbers of each parameter in this step, by `prepare`.
JOB = ("w", "m", "v", "norm", "rms", "step", "turns", "outer_stride", "segment_stride", "lanes", "run")
JOB = (*JOB, "size", "count", "group")
TASK = ("job", "lane", "chunk", "slot", "unit")
NUMBERS = ("lr", "kept", "coupled", "sign", "new", "old", "decay", "inflow", "first_new", "beta", "share", "eps")
NUMBERS = (*NUMBERS, "rotation", "ema", "center", "log_first", "log_second", "log_ema")
OWN, COEFFICIENTS = 17, 6

PER_JOB, PER_TASK, PER_GROUP, PER_OWN, PER_NEURON = (
    tl.constexpr(n) for n in (len(JOB), len(TASK), len(NUMBERS), OWN, COEFFICIENTS)
)
W, M, V, NORM, RMSS, STEP, TURNED, OUTER, SEGMENT, LANES, RUN, SIZE, COUNT, GROUP = (
    tl.constexpr(i) for i in range(len(JOB))
)
LR, KEPT, DECAYED, SIGN, NEW, OLD, DECAY, INFLOW, FIRST, BETA, SHARE, EPS = (tl.constexpr(i) for i in range(12))
ROTATION, EMA, CENTER, LOG_FIRST, LOG_SECOND, LOG_EMA = (tl.constexpr(i) for i in range(12, len(NUMBERS)))
# `own` has the first twelve too, with `new` and `old` divided by their bias and `root` for `first_new`.
ROOT = FIRST
TURN, BEFORE, NOW, MEAN, TIME = (tl.constexpr(i) for i in range(12, OWN))
DIVIDED, SIGNED = tl.constexpr(1), tl.constexpr(2)  # kinds of scale, as in native.py
NOISE = tl.constexpr(16 * 2**-23 + 2 * 2**-23)  # always to the right: Triton 3.7 interprets no constexpr times a tensor
"""The share of |u| that rounding leaves: of the arithmetic, and of the precision in which u is held."""
TINY = tl.constexpr(2.0**-126)
BATCH = tl.constexpr(128)
"""Parameters, or parts of a neuron, that are taken in at once."""


# Weights one by one -----------------------------------------------------------------------------------------


@triton.jit
def array(address, DTYPE: tl.constexpr, VECTOR: tl.constexpr):
    """The array at an address. Only said of the pointer itself does its alignment make for wide loads."""
    pointer = address.to(tl.pointer_type(DTYPE))
    if VECTOR:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def rounded(x, up):
    """`x` as bfloat16 holds it: `up` is added to the 16 bits that are cut off. NaN and infinity stay."""
    bits = x.to(tl.int32, bitcast=True)
    size = bits & 0x7FFFFFFF
    bits += tl.where(size < 0x7F800000, up, 0)
    bits |= tl.where(size > 0x7F800000, 0x00400000, 0)
    return ((bits >> 16) << 16).to(tl.float32, bitcast=True)


@triton.jit
def nearest(x):
    """`x` as bfloat16 holds it, to the nearest, and of two to the even one."""
    return rounded(x, 0x7FFF + ((x.to(tl.int32, bitcast=True) >> 16) & 1))


@triton.jit
def store(pointer, x, mask, noise, DITHER: tl.constexpr):
    """Round to how an array is stored; at random where DITHER, by 16 bits of noise."""
    if pointer.dtype.element_ty == tl.bfloat16:
        x = rounded(x, noise) if DITHER else nearest(x)
    tl.store(pointer, x.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def direction(
    jobs, grads, own, job, at, mask,
    KEEP: tl.constexpr, SCALE: tl.constexpr, REMEMBERS: tl.constexpr, COUPLED: tl.constexpr,
    WEIGHTS: tl.constexpr, MOMENTS: tl.constexpr, DITHER: tl.constexpr, VECTOR: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """u of the weights `at`; their moments are brought up to date where KEEP. Beyond `mask` it is 0.

    Without EARLY no more than three of w, g, m, v are held at a time: rows of 16384 then fit the registers.
    """
    row, own = jobs + job * PER_JOB, own + job * PER_OWN
    g = tl.load(array(tl.load(grads + job), WEIGHTS, VECTOR) + at, mask=mask, other=0.0).to(tl.float32)
    g *= tl.load(own + SIGN)
    if COUPLED:
        w = tl.load(array(tl.load(row + W), WEIGHTS, VECTOR) + at, mask=mask, other=0.0).to(tl.float32)
        g += tl.load(own + DECAYED) * w
    c = tl.load(own + NEW) * g
    noise = tl.zeros_like(g).to(tl.int32)
    if KEEP and DITHER:
        # The same for the same weight and step; seven rounds pass all tests of randomness.
        noise = tl.randint((job << 32) + tl.load(own + TIME).to(tl.int64), at, 7).to(tl.int32)
    # A store waits for what it stores, and a load after it waits too: so loads go first, where there is room.
    if REMEMBERS:
        m_array = array(tl.load(row + M), MOMENTS, VECTOR) + at
        m = tl.load(m_array, mask=mask, other=0.0).to(tl.float32)
    v_array = array(tl.load(row + V), MOMENTS, VECTOR) + at
    if SCALE == DIVIDED and EARLY:
        v = tl.load(v_array, mask=mask, other=1.0).to(tl.float32)
    if REMEMBERS:
        c += tl.load(own + OLD) * m
        if KEEP:
            store(m_array, tl.load(own + DECAY) * m + tl.load(own + INFLOW) * g, mask, noise & 0xFFFF, DITHER)
    if SCALE == DIVIDED:
        if not EARLY:
            v = tl.load(v_array, mask=mask, other=1.0).to(tl.float32)
        v = tl.load(own + BETA) * v + tl.load(own + SHARE) * g * g
        if KEEP:
            store(v_array, v, mask, (noise >> 16) & 0xFFFF, DITHER)
        c = c / (tl.sqrt_rn(v) * tl.load(own + ROOT) + tl.load(own + EPS))
    elif SCALE == SIGNED:
        c = tl.where(c > 0, 1.0, tl.where(c < 0, -1.0, tl.where(c == 0, 0.0, c)))  # NaN stays NaN
    return c


# A tile of weights: neurons along one axis, the weights of each along the other ----------------------------------


@triton.jit
def spread(x, AXIS: tl.constexpr):
    """What there is of each neuron, for each of its weights."""
    return tl.expand_dims(x, AXIS)


@triton.jit
def place(
    row, lane, chunk,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, AXIS: tl.constexpr, DENSE: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Neurons of a tile, which of them exist, the places of their weights, and which of these exist."""
    size = tl.load(row + SIZE)
    if VECTOR:
        size = size // 16 * 16  # what the compiler is to know of it
    neurons = lane.to(tl.int64) + tl.arange(0, ROWS)
    weights = chunk * BLOCK + tl.arange(0, BLOCK)
    there = neurons < tl.load(row + COUNT)
    mask = tl.expand_dims(weights < size, 1 - AXIS)
    if ROWS > 1:  # a single neuron is always there
        mask = mask & spread(there, AXIS)
    if DENSE:
        before, after = neurons * size, weights
    else:
        lanes, run = tl.load(row + LANES), tl.load(row + RUN)
        block, segment = neurons // lanes, weights // run
        before = block * tl.load(row + OUTER) + (neurons - block * lanes) * run
        after = segment * tl.load(row + SEGMENT) + (weights - segment * run)
    return neurons, there, spread(before, AXIS) + tl.expand_dims(after, 1 - AXIS), mask


@triton.jit
def sums_of(u, w, AXIS: tl.constexpr):
    """Sums of u, w, u^2, w^2 and u w over each neuron, in double: they are all that is known of a long one."""
    x, y = u.to(tl.float64), w.to(tl.float64)
    return tl.sum(x, AXIS), tl.sum(y, AXIS), tl.sum(x * x, AXIS), tl.sum(y * y, AXIS), tl.sum(x * y, AXIS)


@triton.jit
def tangent(u, w, mean, along, scale, AXIS: tl.constexpr):
    """p in units of `scale`. To form it first leaves no rounding of the radial part, which may be nearly all of u."""
    p = tl.fma(-spread(along, AXIS), w, u - spread(mean, AXIS))
    return p * spread(1 / scale, AXIS)


@triton.jit
def write(w_array, at, mask, p, w, a, b, along, AXIS: tl.constexpr):
    """w <- a w - b p, p without what rounding left of it along w."""
    p = tl.fma(-spread(along, AXIS), w, p)
    store(w_array + at, spread(a, AXIS) * w - spread(b, AXIS) * p, mask, 0, False)


# Between: what becomes of each neuron ------------------------------------------------------------------------


@triton.jit
def larger_root(x, y):
    """sqrt(x^2 + y^2) of lengths whose squares need not exist."""
    large, small = tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL), tl.minimum(x, y)
    share = small / tl.where(large == 0, 1.0, large)
    return large * tl.sqrt_rn(1 + share * share)


@triton.jit
def angle(y, x):
    """atan2 for y >= 0, to single precision."""
    size = tl.abs(x)
    steep = y > size
    above = tl.where(steep, y, size)
    t = tl.where(steep, size, y) / tl.where(above == 0, 1.0, above)
    far = t > 0.4142135623730950
    t = tl.where(far, (t - 1) / (t + 1), t)
    z = t * t
    series = ((8.05374449538e-2 * z - 1.38776856032e-1) * z + 1.99777106478e-1) * z - 3.33329491539e-1
    found = tl.where(far, 0.7853981633974483, 0.0) + (series * z * t + t)
    found = tl.where(steep, 1.5707963267948966 - found, found)
    return tl.where(x < 0, 3.141592653589793 - found, found)


@triton.jit
def measure(out, neurons, there, count, length, forward, side):
    """What is asked for of each neuron: angle, new norm, length of the change, its radial share."""
    change = tl.sqrt((forward - length) * (forward - length) + side * side)
    turned = tl.where(length == 0, 0.0, angle(side, forward))
    none = (length == 0) | (change == 0)
    radial = tl.where(none, 0.0, (forward - length) / tl.where(none, 1.0, change))
    tl.store(out + neurons, turned.to(tl.float32), mask=there)
    tl.store(out + count + neurons, tl.sqrt(forward * forward + side * side).to(tl.float32), mask=there)
    tl.store(out + 2 * count + neurons, change.to(tl.float32), mask=there)
    tl.store(out + 3 * count + neurons, radial.to(tl.float32), mask=there)


@triton.jit
def split(u, w, mask, row, own, AXIS: tl.constexpr):
    """p of whole neurons, in units of its largest entry: squares of gradients of 1e-20 do not exist in single.

    Returns it with |w|^2, |p| in true units, the scale, and what rounding left of p along w.
    """
    size = tl.load(row + SIZE).to(tl.float32)
    mean = tl.sum(u, AXIS) * tl.load(own + MEAN)
    scale = tl.maximum(tl.max(tl.abs(u), AXIS), TINY)
    part = tl.sum(u * w, AXIS) - mean * tl.sum(w, AXIS)
    y = w.to(tl.float64)  # only now: for longer, two registers each are too many
    ww = tl.sum(y * y, AXIS)
    safe = tl.where(ww > 0, ww, 1.0)
    along = (part.to(tl.float64) / safe).to(tl.float32)
    p = tl.where(mask, tangent(u, w, mean, along, scale, AXIS), 0.0)
    beside = (tl.sum(p * w, AXIS).to(tl.float64) / safe).to(tl.float32)
    length = tl.sqrt(ww).to(tl.float32)
    square = tl.sum(p * p, AXIS) - (beside * length) * (beside * length)
    # By Pythagoras, |u|^2 is what is left, what lay along w and, C times squared, the mean.
    radial, level = along / scale * length, mean / scale
    whole = square + radial * radial + level * level * size
    left = tl.sqrt_rn(tl.where(square <= whole * NOISE * NOISE, 0.0, square)) * scale
    return p, ww, left, scale, beside


@triton.jit
def gather(su, sw, uu, ww, uw, row, own):
    """The same from the sums of long neurons, with the mean and the radial part to take off; p is formed later."""
    size, safe = tl.load(row + SIZE).to(tl.float64), tl.where(ww > 0, ww, 1.0)
    # What is taken off is rounded; what then is left is worked out for just that.
    mean = (su * tl.load(own + MEAN).to(tl.float64)).to(tl.float32)
    off = mean.to(tl.float64)
    part, square = uw - off * sw, uu - off * (2 * su - off * size)
    along = (part / safe).to(tl.float32)
    off = along.to(tl.float64)
    square -= off * (2 * part - off * ww)
    left = tl.sqrt(tl.where(square <= uu * NOISE * NOISE, 0.0, square)).to(tl.float32)
    scale = tl.maximum(left, TINY)
    beside = ((part - off * ww) / safe / scale.to(tl.float64)).to(tl.float32)
    return mean, along, left, scale, beside


@triton.jit
def turn(row, out, own, neurons, there, ww, left, scale):
    """Keep the length, and go by `rotation` on average along p: a and b, for p in units of `scale`."""
    norms = array(tl.load(row + NORM), tl.float32, False) + neurons
    rmss = array(tl.load(row + RMSS), tl.float32, False) + neurons
    length = tl.sqrt(ww)
    norm = tl.load(norms, mask=there, other=0.0)
    norm = tl.where(norm > 0, norm, length.to(tl.float32))
    rms = larger_root(tl.load(own + BEFORE) * tl.load(rmss, mask=there, other=0.0), tl.load(own + NOW) * left)
    tl.store(norms, norm, mask=there)
    tl.store(rmss, rms, mask=there)

    rotation = tl.zeros_like(left) + tl.load(own + TURN)
    still = (left == 0) | (norm == 0) | (ww == 0) | (rotation == 0)
    over, side = tl.where(still, 1.0, rms), tl.where(still, 0.0, rotation) * left
    side = side / over  # of the angle the tangent
    stretch = norm / tl.sqrt_rn(1 + side * side)
    a = tl.where(still, 1.0, stretch / tl.where(still, 1.0, length.to(tl.float32)))
    b = tl.where(still, 0.0, stretch * rotation * (scale / over))
    if out != 0:
        x = side.to(tl.float64)
        reach = norm.to(tl.float64) / tl.sqrt(1 + x * x)
        reach = tl.where(still, length, reach)
        measure(array(out, tl.float32, False), neurons, there, tl.load(row + COUNT), length, reach, reach * x)
    return a, b


@triton.jit
def descend(row, out, own, neurons, there, uu, ww, uw):
    """The change of each neuron under the plain rule, which does without; for a measurement only."""
    kept, lr = tl.load(own + KEPT), tl.load(own + LR)
    length, zero = tl.sqrt(ww), ww == 0
    along = uw / tl.where(zero, 1.0, ww)
    square = tl.where(zero, uu, uu - along * uw)
    side = lr * tl.sqrt(tl.where(square < 0, 0.0, square))
    forward = (kept - lr * along) * length
    measure(array(out, tl.float32, False), neurons, there, tl.load(row + COUNT), length, forward, side)
