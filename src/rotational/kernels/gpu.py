"""The hand-written step for GPUs, in Triton (`gpu_kernels.py`): a few launches for all parameters of all groups.

Tables of what there is to do lie on the device and are kept from step to step; each step copies the addresses of its
gradients there, and numbers of the groups that have changed, and waits for nothing. So a step can be captured in a
CUDA graph, once it has been taken without one. Numbers that are to change between replays are tensors on the device
(`lr`, `weight_decay` and `rotation` of a `Work`), or are written by `Triton.renew`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from rotational.kernels.layout import Layout, layout
from rotational.kernels.look import EMPTY
from rotational.kernels.native import GROUP, KINDS, STORED
from rotational.kernels.native import _numbers as numbers_of  # pyright: ignore[reportPrivateUsage]
from rotational.kernels.work import Part, Work, beta_of, changed, check_table, identical
from rotational.neurons import WHOLE, Neurons
from rotational.scale import Raw

OLDEST = (3, 3)
"""Of Triton; the kernels do not compile with all that came before."""

LONGEST, NARROW = 16384, 8192
"""Weights of a neuron that one program holds, and where they are loaded one by one; longer ones are gone over twice."""
TILE, CHUNK, ROWS, COLUMNS = 1024, 4096, 128, 16
"""Weights of a tile of short neurons, and of a part of a long one; most neurons of a tile, and of one of columns."""


MOST = 32
"""Tables that an optimizer keeps, for what is measured in some steps and for gradients that lie at odd places."""


def interpreted() -> bool:
    """Whether Triton's interpreter stands in for a GPU, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def available() -> str | None:
    """None where this rung can run; else what is missing."""
    try:
        from triton import __version__ as version  # pyright: ignore[reportMissingImports]
    except Exception as error:  # broken installations raise what they like
        missing = isinstance(error, ModuleNotFoundError) and error.name == "triton"
        return "Triton is not installed: pip install triton" if missing else f"Triton cannot be imported ({error})"
    if tuple(int(x) for x in str(version).split(".")[:2]) < OLDEST:
        return f"Triton {version} is too old: torch 2.7 and newer come with {OLDEST[0]}.{OLDEST[1]}"
    if not interpreted() and not torch.cuda.is_available():
        return "torch sees no GPU: install a build of torch for yours"
    return None


def refusal(part: Part) -> str | None:
    """Why this parameter takes another rung; None where it takes this one."""
    w = part.w
    if type(w) not in (Tensor, torch.nn.Parameter):
        return f"{type(w).__name__} is sharded or wrapped"
    if w.device.type != ("cpu" if interpreted() else "cuda"):
        return f"weights on {w.device.type}"
    if w.device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(w.device) < (7, 0):
        return "a GPU of compute capability below 7.0"
    if w.dtype not in STORED:
        return f"{_plain(w.dtype)} weights"
    moments = [x for x in (part.m, part.v) if x is not None]
    if any(x.dtype not in STORED for x in moments) or len({x.dtype for x in moments}) > 1:
        return "moments of another precision than float32 and bfloat16"
    if any(x.stride() != w.stride() or x.device != w.device for x in moments):
        return "moments that lie otherwise than the weights"
    for x in (part.norm, part.rms):
        if x is not None and (x.dtype is not torch.float32 or not x.is_contiguous() or x.device != w.device):
            return "lengths that are not float32"
    if layout(part.units or WHOLE, w.shape, w.stride()) is None:
        return f"weights of strides {tuple(w.stride())}"
    return None


class Triton:
    """The step of one optimizer; its tables last for as long as its works have the same parts.

    `longest` is how many weights of a neuron one program holds.
    """

    def __init__(self, longest: int = LONGEST) -> None:
        self._longest = longest
        self._lists: list[list[Part]] = []
        self._fresh: dict[torch.device, Tensor] = {}
        self._tables: dict[Any, Table] = {}
        self._captured: list[Table] = []

    def step(self, works: Sequence[Work]) -> None:
        """Take one step of all groups (see `work.Kernel`)."""
        for table, grads in self._ready(works):
            table.renew(works)
            table.point(works, grads)
            table.run()
        pairs = [pair for work in works for pair in zip(work.parts, work.grads, strict=True)]
        changed([part.w for part, g in pairs if g is not None])

    def renew(self, works: Sequence[Work]) -> None:
        """Write the numbers of these groups for the replays of a captured step that follow, and take no step."""
        for table, _ in self._ready(works):
            table.renew(works)

    def _ready(self, works: Sequence[Work]) -> list[tuple[Table, list[Tensor | None]]]:
        """The tables for these works, one a device, and the gradients in line with their weights."""
        lists = [work.parts for work in works]
        if not identical(lists, self._lists):
            self._lists = lists
            self._forget()
            self._fresh.clear()
        grads = [g for work in works for g in work.in_line()]
        # Wide loads begin at multiples of 16 bytes; gradients within a bucket need not.
        odd = tuple(i for i, g in enumerate(grads) if g is not None and g.data_ptr() % 16)
        asked = tuple((w.rule, w.dither, tuple((j, n) for j, (n, _) in w.measured.items())) for w in works)
        parts = [part for part_list in lists for part in part_list]
        found: list[tuple[Table, list[Tensor | None]]] = []
        for device in dict.fromkeys(part.w.device for part in parts):
            table = self._tables.get((device, asked, odd))
            if table is None:
                if _capturing():
                    raise RuntimeError(
                        "Triton.step: a step is captured before one like it was taken. Take a few steps outside the "
                        "graph first (torch.cuda.graph shows how): the first one makes tables on the device."
                    )
                if len(self._tables) >= MOST:
                    self._forget()
                if device not in self._fresh:
                    self._fresh[device] = torch.tensor([p.fresh for p in parts], dtype=torch.int32, device=device)
                table = Table(works, device, self._fresh[device], set(odd), self._longest)
                self._tables[device, asked, odd] = table
            found.append((table, grads))
        return found

    def _forget(self) -> None:
        """Let go of all tables but those that a graph reads."""
        self._captured += [table for table in self._tables.values() if table.captured]
        self._tables.clear()


class Form(NamedTuple):
    """What one launch is compiled for; parameters that differ in nothing of this share it."""

    kind: str
    turns: bool
    block: int
    rows: int
    axis: int
    dense: bool
    vector: bool
    scale: int
    remembers: bool
    coupled: bool
    weights: torch.dtype
    moments: torch.dtype
    dither: bool


Number: TypeAlias = "float | Tensor"


class Table:
    """What the kernels read on one device: groups (one for the neurons of each work, one for the rest), jobs, tasks."""

    def __init__(self, works: Sequence[Work], device: torch.device, fresh: Tensor, odd: set[int], longest: int) -> None:
        self._device, self._fresh, self._longest = device, fresh, longest
        self._tasks: dict[Form, list[np.ndarray]] = {}
        self._slots = self._units = 0
        jobs: list[tuple[int, ...]] = []
        self._lanes: list[int] = []  # neurons of each
        for i, work in enumerate(works):
            for j, part in enumerate(work.parts):
                asked = work.measured.get(j)
                units = asked[0] if asked and part.units is None else part.units
                at = layout(units or WHOLE, part.w.shape, part.w.stride())
                assert at is not None
                self._lanes.append(at.outer * at.lanes)
                here = part.w.device == device
                jobs.append(_job(part, at, 2 * i + (part.units is not None)) if here else (0,) * 14)
                if here and part.w.numel():
                    self._cut(len(jobs) - 1, work, part, at, units, len(jobs) - 1 not in odd)
        self._jobs = torch.tensor(jobs, dtype=torch.int64).to(device)
        self._here = [part.w.device == device for work in works for part in work.parts]
        self._launches = [
            (form, torch.from_numpy(np.concatenate(tasks).astype(np.int32)).to(device))
            for form, tasks in self._tasks.items()
        ]
        self._addresses = torch.zeros(2, len(jobs), dtype=torch.int64, device=device)
        self._own = torch.zeros(len(jobs), _kernels().OWN, dtype=torch.float32, device=device)
        self._numbers = torch.zeros(2 * len(works), len(_kernels().NUMBERS), dtype=torch.float64, device=device)
        self._parts = torch.zeros(5, max(1, self._slots), dtype=torch.float64, device=device)
        self._coefficients = torch.zeros(
            max(1, self._units), _kernels().COEFFICIENTS, dtype=torch.float32, device=device
        )
        # None is where nothing is written, or what no one here sees.
        self._written: Sequence[Sequence[float | None]] = [[None] * len(_kernels().NUMBERS)] * (2 * len(works))
        self._spare: Tensor | None = None
        self.captured: list[Tensor] = []

    def _cut(self, index: int, work: Work, part: Part, at: Layout, units: Neurons | None, aligned: bool) -> None:
        """The tasks of one parameter."""
        dense = at.segments == 1 and (at.outer == 1 or at.outer_stride == at.lanes * at.run)
        moment = part.m if part.m is not None else part.v
        arrays = [x for x in (part.w, part.m, part.v) if x is not None]
        form = Form(
            kind="tiles",
            turns=part.units is not None,
            block=_power(at.size),
            rows=1,
            axis=1 if dense or at.segments == 1 else 0,
            dense=dense,
            vector=aligned and dense and at.size % 16 == 0 and all(x.data_ptr() % 16 == 0 for x in arrays),
            scale=KINDS[cast("type[Raw]", type(work.rule.scale))],
            remembers=work.rule.memory.old != 0,
            coupled=work.rule.decay == "coupled" and not (part.units is not None and isinstance(work.rule.scale, Raw)),
            weights=part.w.dtype,
            moments=torch.float32 if moment is None else moment.dtype,
            dither=work.dither and moment is not None and moment.dtype is torch.bfloat16,
        )
        if units is None:
            self._add(form._replace(kind="flat", block=CHUNK), index, at, 0, 0)
        elif at.size <= (self._longest if form.vector else min(self._longest, NARROW)):
            rows = min(max(1, TILE // form.block), ROWS)
            self._add(form._replace(rows=rows), index, at, 0, 0)
        else:
            # Columns go together, so that each cache line is read once.
            rows = 1 if form.axis else min(COLUMNS, _power(at.lanes))
            form = form._replace(block=max(1, min(CHUNK, _power(self._longest)) // rows), rows=rows)
            chunks = -(-at.size // form.block)
            for kind in ("sums", "apply"):
                self._add(form._replace(kind=kind), index, at, self._slots, self._units)
            self._add(form._replace(kind="between", rows=1), index, at, self._slots, self._units)
            self._slots += at.neurons * chunks
            self._units += at.neurons

    def _add(self, form: Form, index: int, at: Layout, slot: int, unit: int) -> None:
        """Tasks that cover all neurons and, but for `tiles` and `between`, all their parts."""
        chunks = -(-at.size // form.block)
        lane = np.arange(0, at.neurons, form.rows, dtype=np.int64)
        chunk = np.arange(1 if form.kind in ("tiles", "between") else chunks, dtype=np.int64)
        lane, chunk = (x.ravel() for x in np.meshgrid(lane, chunk, indexing="ij"))
        columns = (np.full_like(lane, index), lane, chunk, slot + lane * chunks, unit + lane)
        self._tasks.setdefault(form, []).append(np.stack(columns, axis=1))

    def renew(self, works: Sequence[Work]) -> None:
        """Write the numbers of the groups, where they have changed."""
        given = [_row(work, turns, self._device) for work in works for turns in (False, True)]
        known = [[None if isinstance(x, Tensor) else x for x in row] for row in given]
        pairs = [pair for rows in zip(known, self._written, strict=True) for pair in zip(*rows, strict=True)]
        if any(x not in (None, y) for x, y in pairs):
            if _capturing():
                raise RuntimeError(
                    "Triton.step: the numbers of a group changed since the last step, and a captured step would not "
                    "see them change again. Pass lr, weight_decay and rotation as tensors on the device, or call "
                    "Triton.renew before the graph is captured and whenever they change."
                )
            row_by_row = [[x or 0.0 for x in row] for row in known]
            self._numbers.copy_(_host(row_by_row, torch.float64, self._device), non_blocking=True)
        self._written = known
        for i, row in enumerate(given):
            for j, x in enumerate(row):
                if isinstance(x, Tensor):
                    self._numbers[i, j].copy_(x)

    def point(self, works: Sequence[Work], grads: Sequence[Tensor | None]) -> None:
        """Write the addresses of this step."""
        outs = [0] * len(grads)
        index = 0
        for work in works:
            for j, (_, out) in work.measured.items():
                check_table(out, self._lanes[index + j])
                outs[index + j] = out.data_ptr()
            index += len(work.parts)
        given = [g if here else None for g, here in zip(grads, self._here, strict=True)]
        addresses = [0 if g is None else g.data_ptr() or EMPTY for g in given]
        if _capturing():
            # Replays copy again from memory that must exist before the capture, and stay as it is after it.
            if self._spare is None:
                raise RuntimeError("Triton.step: take a step outside graphs between one capture and the next.")
            host, self._spare = self._spare, None
            host.copy_(torch.tensor([addresses, outs]))
            self.captured.append(host)
        else:
            host = _host([addresses, outs], torch.int64, self._device)
            if self._spare is None:
                self._spare = torch.empty_like(host, pin_memory=host.is_pinned())
        self._addresses.copy_(host, non_blocking=True)

    def run(self) -> None:
        """Take the step."""
        kernels, count = _kernels(), len(self._jobs)
        grads, outs = self._addresses
        with torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext():
            read = (self._jobs, grads, self._fresh, self._numbers, self._own)
            kernels.prepare[(-(-count // 128),)](*read, count, enable_fp_fusion=True)
            for kind in ("sums", "between", "apply", "tiles", "flat"):
                for form, tasks in self._launches:
                    if form.kind == kind:
                        self._launch(form, tasks, grads, outs)

    def _launch(self, form: Form, tasks: Tensor, grads: Tensor, outs: Tensor) -> None:
        kernels, grid = _kernels(), (len(tasks),)
        read = (tasks, self._jobs, grads)
        options = options_of(form)
        if form.kind == "tiles":
            kernels.tiles[grid](*read, outs, self._own, TURNS=form.turns, DITHER=form.dither, **options)
        elif form.kind == "sums":
            kernels.sums[grid](*read, self._own, self._parts, self._parts.shape[1], **options)
        elif form.kind == "between":
            given = (outs, self._own, self._parts, self._parts.shape[1], self._coefficients)
            kernels.between[grid](*read, *given, BLOCK=form.block, TURNS=form.turns, enable_fp_fusion=True)
        else:
            kernels.apply[grid](*read, self._own, self._coefficients, TURNS=form.turns, DITHER=form.dither, **options)


def options_of(form: Form) -> dict[str, Any]:
    """What the kernels over weights have in common."""
    return {
        "BLOCK": form.block,
        "ROWS": form.rows,
        "AXIS": form.axis,
        "DENSE": form.dense,
        "SCALE": form.scale,
        "REMEMBERS": form.remembers,
        "COUPLED": form.coupled,
        "WEIGHTS": _kernels().TYPES[form.weights],
        "MOMENTS": _kernels().TYPES[form.moments],
        "VECTOR": form.vector,
        "EARLY": form.vector and form.block * form.rows <= 512 * _warps(form),
        "enable_fp_fusion": True,
        "num_warps": _warps(form),
    }


def _warps(form: Form) -> int:
    """32 threads each, of 16 weights or 8; of fewer where a thread would have the numbers of many neurons to hold."""
    if form.rows > 1 and form.axis and not form.vector:
        return 8
    return min(16, max(4, form.block * form.rows // 512))


def _kernels() -> Any:
    from rotational.kernels import gpu_kernels

    return gpu_kernels


def _capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _host(rows: Sequence[Sequence[float]], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers on their way to a device: torch keeps page-locked memory until it has been copied."""
    return torch.tensor(rows, dtype=dtype, pin_memory=device.type == "cuda")


def _row(work: Work, turns: bool, device: torch.device) -> list[Number]:
    """The numbers of a group as `gpu_kernels.NUMBERS` has them."""
    given = dict(
        zip(cast("tuple[str, ...]", GROUP.names), cast("tuple[Number, ...]", numbers_of(work, turns)), strict=True)
    )
    memory = work.rule.memory
    logs = {
        "log_first": memory.decay if given["unbias_first"] else 0.0,
        "log_second": beta_of(work.rule) if given["unbias_second"] else 0.0,
        "log_ema": work.ema,
    }
    given.update({name: math.log(x) if x > 0 else -math.inf for name, x in logs.items()})
    found = [given[name] for name in _kernels().NUMBERS]
    # A tensor that lies elsewhere is a number like any other.
    return [x if isinstance(x, Tensor) and x.device == device else float(x) for x in found]


def _job(part: Part, at: Layout, group: int) -> tuple[int, ...]:
    for counter in (part.step, part.turns):
        if counter is not None and counter.device != part.w.device:
            counter.data = counter.data.to(part.w.device)  # the same tensor to whoever holds it
    held = (part.w, part.m, part.v, part.norm, part.rms, part.step, part.turns)
    places = (at.outer_stride, at.segment_stride, at.lanes, at.run, at.size, at.neurons)
    return (*(0 if x is None else x.data_ptr() for x in held), *places, group)


def _power(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << max(0, n - 1).bit_length()


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
