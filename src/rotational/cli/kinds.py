"""Which neurons a plan is about: those that the options describe, or those of the matrices in a file."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rotational import runs, weights
from rotational.rule import Rule
from rotational.scale import Polar, Raw
from rotational.weights import Matrix

LINEAR = 1 / math.sqrt(3)
"""RMS length of a row of torch.nn.Linear as it is initialised: uniform within 1/sqrt(fan-in)."""
KINDS = 8
"""Rows of a table, at most."""
TINY, HUGE = 1e-30, 1e30
"""A norm below the first is that of a matrix of zeros; beyond the second its powers leave the range of numbers."""


@dataclass(frozen=True)
class Kind:
    """Neurons that are forecast as one: `size` weights each, of RMS length `norm` at the start.

    `norm` is None where it has no units (see `notes`), and 0 where weights begin at zero; `shape` is that of the
    matrix, where the rule needs it; `bf16` counts the kind's matrices that are bfloat16 in their file.
    """

    name: str
    size: int
    norm: float | None
    shape: tuple[int, int] | None = None
    bf16: int = 0

    def start(self, rule: Rule, lr: float, gradient: float | None, *, scale_invariant: bool) -> float | None:
        """The norm that a forecast begins at: what one step at this lr makes of zeros, as in `predict`."""
        if self.norm != 0:
            return self.norm
        if lr == 0:
            return TINY  # they stay where they are, and an angle needs a length
        kind = runs.Kind(self.size, 0.0, self.name, self.shape or (1, self.size), gradient)
        return runs.one_step(rule, lr, kind, self.shape, scale_invariant=scale_invariant)


@dataclass(frozen=True)
class Chosen:
    """The kinds of neurons of a plan, and of a file how many matrices it has, are in no kind, and are bfloat16."""

    kinds: list[Kind]
    matrices: int = 0
    left: int = 0
    bf16: int = 0


def of(options: argparse.Namespace, rule: Rule) -> Chosen:
    """The kinds of neurons, those with the most weights first where they come from a file.

    Raises ValueError for options that contradict each other, FileNotFoundError and ValueError for a file that holds
    no weights.
    """
    unitless = isinstance(rule.scale, Raw) and options.gradient_norm is None
    if options.norm is not None and unitless:
        raise ValueError(
            f"--norm {options.norm:g}: the norm of {rule.title} has units only beside a gradient; give --gradient-norm "
            "too."
        )
    if unitless and options.weight_decay == 0:
        raise ValueError(
            f"--weight-decay 0: without decay there is no equilibrium to start from, and the norm of {rule.title} has "
            "units only beside a gradient; give --gradient-norm."
        )
    if rule.decay == "coupled" and not isinstance(rule.scale, Raw | Polar) and options.gradient_norm is None:
        raise ValueError(
            f"--optimizer {options.optimizer}: this decay is divided by the size of the gradient too; give "
            "--gradient-norm, the RMS norm of a neuron's gradient at length 1."
        )
    if options.weights is not None:
        if options.fan_in or options.shape or options.norm is not None:
            raise ValueError(
                "--weights FILE: sizes and norms come from the file; leave --fan-in, --norm and --shape out."
            )
        found = _finite([matrix for path in options.weights for matrix in weights.read(path)])
        return _grouped(found, muon=isinstance(rule.scale, Polar), unitless=unitless)
    norm = None if unitless else LINEAR if options.norm is None else options.norm
    if isinstance(rule.scale, Polar):
        if options.shape is None or options.fan_in:
            raise ValueError(
                "--optimizer muon: the update depends on the whole matrix; give --shape ROWS COLUMNS instead of "
                "--fan-in, or --weights FILE."
            )
        rows, columns = options.shape
        return Chosen([Kind(f"{rows} x {columns}", columns, norm, (rows, columns))])
    return Chosen([Kind(f"fan-in {size}", size, norm) for size in dict.fromkeys(options.fan_in or [768])])


def notes(options: argparse.Namespace, rule: Rule, chosen: Chosen) -> list[str]:
    """What was assumed of the neurons, in words."""
    found: list[str] = []
    first = chosen.kinds[0]
    if first.norm is None:
        found.append(f"Norms under {rule.title} have no units without --gradient-norm, so they are left open.")
    if options.weights is None and options.fan_in is None and options.shape is None and first.norm is not None:
        found.append("No --fan-in was given: neurons of 768 weights are assumed.")
    if options.weights is None and options.norm is None and first.norm is not None:
        found.append(f"No --norm was given: neurons are {LINEAR:.3f} long at first, as torch.nn.Linear makes them.")
    if options.weights is not None:
        found.append("Rows (the first axis) of each matrix are taken for neurons, as torch's layers have them.")
    if isinstance(rule.scale, Polar) and first.norm is not None:
        found.append(
            "Norms are those of a neuron (a row), RMS over the rows: the matrix's own norm is that times sqrt(rows), "
            "and turns by the same angle."
        )
    if any(kind.norm == 0 for kind in chosen.kinds) and options.lr > 0:
        found.append(f"{runs.ZERO} Fast turns at their start are no overshoot: zeros have no direction to lose.")
    if chosen.bf16:
        found.append(
            f"{chosen.bf16} of the {chosen.matrices} matrices in the file are bfloat16, and taken to be trained so, "
            "without float32 master weights."
        )
    if chosen.left:
        found.append(f"The {KINDS} kinds of neurons with the most weights are shown; {_are(chosen.left)} in no row.")
    return found


def _are(matrices: int) -> str:
    return "1 matrix is" if matrices == 1 else f"{matrices} matrices are"


def _finite(matrices: list[Matrix]) -> list[Matrix]:
    for m in matrices:
        if not m.norm <= HUGE:
            raise ValueError(f"--weights FILE: {m.name} holds NaN, infinity, or numbers beyond {HUGE:g}.")
    return matrices


def _grouped(matrices: list[Matrix], *, muon: bool, unitless: bool) -> Chosen:
    """Matrices of one fan-in and about the same norm (20%, or more where there are many norms) as one kind."""
    groups: list[list[Matrix]] = []
    for width in (0.2, 0.4, 0.8, 1.6):
        by_key: dict[tuple[Any, ...], list[Matrix]] = {}
        for m in matrices:
            norm = round(math.log(m.norm) / width) if m.norm > TINY else -math.inf
            key = (m.size, m.neurons if muon else 0, norm)
            by_key.setdefault(key, []).append(m)
        groups = sorted(by_key.values(), key=lambda ms: -sum(m.neurons * m.size for m in ms))
        if len(groups) <= KINDS:
            break
    kinds = [
        Kind(
            ms[0].name + (f" and {len(ms) - 1} more" if len(ms) > 1 else ""),
            ms[0].size,
            None if unitless else _norm(ms),
            (ms[0].neurons, ms[0].size) if muon else None,
            sum(m.bf16 for m in ms),
        )
        for ms in groups[:KINDS]
    ]
    return Chosen(kinds, len(matrices), sum(map(len, groups[KINDS:])), sum(m.bf16 for m in matrices))


def _norm(ms: Sequence[Matrix]) -> float:
    """RMS over all neurons of several matrices."""
    norm = math.sqrt(float(np.average([m.norm**2 for m in ms], weights=[m.neurons for m in ms])))
    return norm if norm > TINY else 0.0
