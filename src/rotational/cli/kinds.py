"""Which neurons a plan is about: those that the options describe, or those of the matrices in a file."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rotational import weights
from rotational.rule import Rule
from rotational.scale import Polar, Raw
from rotational.weights import Matrix

LINEAR = 1 / math.sqrt(3)
"""RMS length of a row of torch.nn.Linear as it is initialised: uniform within 1/sqrt(fan-in)."""
KINDS = 8
"""Rows of a table, at most."""
TINY = 1e-6
"""A norm of 0, as of weights that begin at zero, is forecast from here."""


@dataclass(frozen=True)
class Kind:
    """Neurons that are forecast as one: `size` weights each, of RMS length `norm` at the start.

    `norm` is None where it has no units (see `notes`); `shape` is that of the matrix, where the rule needs it;
    `left` counts the matrices of a file that are in no kind, on the last one.
    """

    name: str
    size: int
    norm: float | None
    shape: tuple[int, int] | None = None
    left: int = 0


def of(options: argparse.Namespace, rule: Rule) -> list[Kind]:
    """The kinds of neurons, those with the most weights first where they come from a file.

    Raises ValueError for options that contradict each other, FileNotFoundError and ValueError for a file that holds
    no weights.
    """
    unitless = isinstance(rule.scale, Raw) and options.gradient_norm is None
    if options.norm is not None and unitless:
        raise ValueError(
            f"plan(norm={options.norm:g}): the norm of {rule.name} has units only beside a gradient; give "
            "--gradient-norm too."
        )
    if rule.decay == "coupled" and not isinstance(rule.scale, Raw | Polar) and options.gradient_norm is None:
        raise ValueError(
            f"plan({rule.name}, decay='coupled'): this decay is divided by the size of the gradient too; give "
            "--gradient-norm, the RMS norm of a neuron's gradient at length 1."
        )
    if options.weights is not None:
        if options.fan_in or options.shape or options.norm is not None:
            raise ValueError(
                "plan(weights=...): sizes and norms come from the file; leave --fan-in, --norm, --shape out."
            )
        found = _finite([matrix for path in options.weights for matrix in weights.read(path)])
        return _grouped(found, muon=isinstance(rule.scale, Polar), unitless=unitless)
    norm = None if unitless else LINEAR if options.norm is None else options.norm
    if isinstance(rule.scale, Polar):
        if options.shape is None or options.fan_in:
            raise ValueError(
                "plan(muon): the update depends on the whole matrix: give --shape ROWS COLUMNS instead of --fan-in, "
                "or --weights FILE."
            )
        rows, columns = options.shape
        return [Kind(f"{rows} x {columns}", columns, norm, (rows, columns))]
    return [Kind(f"fan-in {size}", size, norm) for size in dict.fromkeys(options.fan_in or [768])]


def notes(options: argparse.Namespace, rule: Rule, chosen: Sequence[Kind]) -> list[str]:
    """What was assumed of the neurons, in words."""
    found: list[str] = []
    if chosen[0].norm is None:
        found.append(f"Norms under {rule.name} have no units without --gradient-norm, so they are left open.")
    if options.weights is None and options.fan_in is None and options.shape is None and chosen[0].norm is not None:
        found.append("No --fan-in was given: neurons of 768 weights are assumed.")
    if options.weights is None and options.norm is None and chosen[0].norm is not None:
        found.append(f"No --norm was given: neurons are {LINEAR:.3f} long at first, as torch.nn.Linear makes them.")
    if options.weights is not None:
        found.append("Rows (the first axis) of each matrix are taken for neurons, as torch's layers have them.")
    if left := chosen[-1].left:
        found.append(f"The {KINDS} kinds of neurons with the most weights are shown; {left} matrices are in no row.")
    return found


def _finite(matrices: list[Matrix]) -> list[Matrix]:
    for m in matrices:
        if not math.isfinite(m.norm):
            raise ValueError(f"plan(weights=...): {m.name} holds NaN, infinity, or numbers too large to square.")
    return matrices


def _grouped(matrices: list[Matrix], *, muon: bool, unitless: bool) -> list[Kind]:
    """Matrices of one fan-in and about the same norm (20%, or more where there are many norms) as one kind."""
    groups: list[list[Matrix]] = []
    for width in (0.2, 0.4, 0.8, 1.6):
        by_key: dict[tuple[Any, ...], list[Matrix]] = {}
        for m in matrices:
            key = (m.size, m.neurons if muon else 0, round(math.log(max(m.norm, TINY)) / width))
            by_key.setdefault(key, []).append(m)
        groups = sorted(by_key.values(), key=lambda ms: -sum(m.neurons * m.size for m in ms))
        if len(groups) <= KINDS:
            break
    left = sum(len(ms) for ms in groups[KINDS:])
    return [
        Kind(
            ms[0].name + (f" and {len(ms) - 1} more" if len(ms) > 1 else ""),
            ms[0].size,
            None if unitless else max(TINY, _norm(ms)),
            (ms[0].neurons, ms[0].size) if muon else None,
            left,
        )
        for ms in groups[:KINDS]
    ]


def _norm(ms: Sequence[Matrix]) -> float:
    """RMS over all neurons of several matrices."""
    return math.sqrt(float(np.average([m.norm**2 for m in ms], weights=[m.neurons for m in ms])))
