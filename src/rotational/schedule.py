"""Schedules: whatever users call one, as a number or an array over steps.

Step t = 0, 1, ... counts the optimizer steps taken before it, as `rotation=` does. torch is not imported: its
schedulers are read in `schedulers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsFloat, TypeAlias

import numpy as np

from rotational import _check
from rotational.schedulers import Scheduler, cycles, is_scheduler, is_tensor, read_scheduler, told, tree

__all__ = ["Schedule", "Scheduler", "read_scheduler", "values"]

Schedule: TypeAlias = SupportsFloat | Sequence[SupportsFloat] | np.ndarray | Callable[[int], SupportsFloat] | Scheduler
"""A number; one number for each step; a function of the steps taken before; a scheduler of torch."""


def values(call: str, name: str, schedule: Any, steps: int) -> float | np.ndarray:
    """A schedule as a float where it is one number, else as a float64 array [steps].

    schedule    a number; an array or sequence of at least `steps` numbers (a longer one is cut); f(t), for
                t = 0 .. steps-1 the optimizer steps taken before; for `name="lr"`, a scheduler of torch whose
                param groups all go the same way. Tensors and numpy scalars are numbers, booleans are not

    `call` and `name` are the user's call and its argument, for errors. Raises ValueError for numbers that are
    negative or not finite (the first such step), a sequence that is too short, a function or scheduler that
    raises and groups that differ; TypeError for what is no schedule.

    >>> values("forecast", "lr", 0.1, steps=3)
    0.1
    >>> values("forecast", "lr", lambda t: 0.1 / (1 + t), steps=2)
    array([0.1 , 0.05])
    >>> values("forecast", "lr", [0.1, 0.2], steps=3)
    Traceback (most recent call last):
    ValueError: forecast(lr=list of 2): expected a number for each of 3 steps, got 2 numbers.
    """
    steps = _check.whole(call, "steps", steps)
    if is_scheduler(schedule):
        return _only(call, name, schedule, steps)
    if callable(schedule):
        found: list[Any] = []
        try:
            for t in range(steps):
                found.append(schedule(t))
        except Exception as error:
            raise ValueError(f"{call}({name}): {name}({len(found)}) raised {told(error)}.") from error
        return _numbers(call, name, found, "({})")
    if getattr(schedule, "ndim", None) == 0 or isinstance(schedule, bool | str) or not _is_sequence(schedule):
        hint = f"Or give one for each of the {steps} steps, or a function of the step."
        return _number(call, name, schedule, hint)
    kind = type(schedule).__name__
    if (axes := getattr(schedule, "ndim", 1)) != 1:
        raise ValueError(f"{call}({name}={kind} of {axes} axes): expected one axis, that of the {steps} steps.")
    if len(schedule) < steps:
        raise ValueError(
            f"{call}({name}={kind} of {len(schedule)}): expected a number for each of {steps} steps, "
            f"got {len(schedule)} numbers."
        )
    cut = schedule[:steps] if isinstance(schedule, Sequence) or hasattr(schedule, "ndim") else list(schedule)[:steps]
    return _numbers(call, name, _plain(cut), "[{}]")


# Numbers ----------------------------------------------------------------------------------------------------


def _numbers(call: str, name: str, found: Any, place: str) -> np.ndarray:
    """Numbers as a new float64 array; `place` shows a step, behind `name`."""
    kinds = {found.dtype.type} if isinstance(found, np.ndarray) else set(map(type, found))
    start = 0
    if all(issubclass(kind, _REAL) and kind is not bool for kind in kinds):
        x = np.array(found, dtype=np.float64)
        wrong = ~(np.isfinite(x) & (x >= 0))
        if not wrong.any():
            return x
        start = int(wrong.argmax())
    # Among mixed kinds each is asked: an array of them would take True for 1.0 and "0.1" for 0.1.
    checked = (
        _number(call, f"{name}{place.format(t)}", found[t], "Steps count from 0.") for t in range(start, len(found))
    )
    return np.fromiter(checked, dtype=np.float64, count=len(found))


_REAL = (float, int, np.floating, np.integer)


def _number(call: str, name: str, value: Any, hint: str) -> float:
    if isinstance(value, np.generic):
        value = value.item()
    elif "bool" in str(getattr(value, "dtype", "")):
        value = bool(value)  # which float() would take for a number
    return _check.number(call, name, value, low=0, hint=hint)


def _plain(x: Any) -> Any:
    """A tensor as a numpy array of its numbers; all else as it is."""
    if not is_tensor(x):
        return x if isinstance(x, np.ndarray) else list(x)
    x = x.detach().cpu()
    return (x.double() if x.is_floating_point() else x).numpy()  # numpy has no bfloat16


def _is_sequence(x: Any) -> bool:
    return hasattr(x, "__len__") and hasattr(x, "__getitem__") and not isinstance(x, Mapping | bytes)


def _only(call: str, name: str, scheduler: Any, steps: int) -> np.ndarray:
    kind = type(scheduler).__name__
    if name != "lr":
        raise TypeError(f"{call}({name}={kind}): a scheduler sets the learning rate; give it as lr=.")
    if any(map(cycles, tree(scheduler))):
        raise ValueError(
            f"{call}({name}={kind}): it moves the momentum too, and a rule has one for all steps. "
            "rotational.predict(optimizer, scheduler, steps=) follows both; or give the lr alone, "
            "rotational.schedule.read_scheduler(scheduler, steps)[0]."
        )
    first, *others = read_scheduler(scheduler, steps, call=call)
    if any(x is not first and not np.array_equal(x, first) for x in others):
        raise ValueError(
            f"{call}({name}={kind}): its {1 + len(others)} param groups go different ways. rotational.predict takes "
            "each as it is; or give one of the arrays of rotational.schedule.read_scheduler."
        )
    return first
