"""One voice for errors: what was called, what was expected, what came, what to write instead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def number(
    call: str,
    name: str,
    value: Any,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: bool = False,
    below: bool = False,
    hint: str = "",
    kind: str = "a finite number",
) -> float:
    """Return `value` as a finite float in [low, high], or raise a sentence.

    `above` and `below` make the lower and the upper end exclusive. Tensors and numpy scalars of one
    element are welcome; booleans and strings are not numbers. `kind` is what errors say was expected.
    """
    if isinstance(value, bool | str):
        raise TypeError(f"{call}({name}={value!r}): expected a number, got {type(value).__name__}.{_and(hint)}")
    try:
        x = float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{call}({name}={value!r}): expected a number, got {type(value).__name__}.{_and(hint)}"
        ) from None
    value = x if isinstance(value, float) else value  # numpy's floats print as their type
    inside = (x > low if above else x >= low) and (x < high if below else x <= high)
    if not (math.isfinite(x) and inside):
        raise ValueError(
            f"{call}({name}={value!r}): expected {kind}{_interval(name, low, high, above, below)}.{_and(hint)}"
        )
    return x


def whole(call: str, name: str, value: Any, *, low: int = 1) -> int:
    """Return `value` as an int, `low` or above, or raise a sentence."""
    x = number(call, name, value, low=low, kind="a whole number")
    if x != int(x):
        raise ValueError(f"{call}({name}={value!r}): expected a whole number.")
    return int(x)


def flag(call: str, name: str, value: Any) -> bool:
    """True or False, and nothing that only counts as such."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{call}({name}={value!r}): expected True or False.")
    return bool(value)


def pair(call: str, name: str, value: Any) -> tuple[float, float]:
    """Return two decay factors, each in [0, 1)."""
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else None
    if values is None or len(values) != 2:
        raise ValueError(f"{call}({name}={value!r}): expected two numbers in [0, 1), such as (0.9, 0.999).")
    first, second = (number(call, f"{name}[{i}]", v, low=0.0, high=1.0, below=True) for i, v in enumerate(values))
    return first, second


def choice(call: str, name: str, value: Any, allowed: Sequence[str]) -> str:
    """Return `value` if it is one of `allowed`, or raise a sentence that lists them."""
    if value not in allowed:
        listed = ", ".join(repr(a) for a in allowed)
        raise ValueError(f"{call}({name}={value!r}): expected one of {listed}.")
    return value


def _interval(name: str, low: float, high: float, above: bool, below: bool) -> str:
    parts: list[str] = []
    if low > -math.inf:
        parts.append(f"{name} {'>' if above else '>='} {low:g}")
    if high < math.inf:
        parts.append(f"{name} {'<' if below else '<='} {high:g}")
    return " with " + " and ".join(parts) if parts else ""


def _and(hint: str) -> str:
    return f" {hint}" if hint else ""
