"""Schedules: whatever users call one, as a number or an array over steps.

Step t = 0, 1, ... counts the optimizer steps taken before it, as `rotation=` does. torch is not imported: its
schedulers are read by stepping a copy that drives a stand-in for the optimizer.
"""

from __future__ import annotations

import copy
import math
import warnings
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Protocol, SupportsFloat, TypeAlias

import numpy as np

from rotational import _check

# A scheduler's state is what is copied and stepped; only the names begin with an underscore.
# pyright: reportPrivateUsage=false


class Scheduler(Protocol):
    """What is asked of a scheduler: the optimizer that it drives, and `step()`."""

    optimizer: Any

    def step(self) -> Any:
        """Set the learning rates of the next step."""
        ...


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
    if _is_scheduler(schedule):
        return _only(call, name, schedule, steps)
    if callable(schedule):
        found: list[Any] = []
        try:
            for t in range(steps):
                found.append(schedule(t))
        except Exception as error:
            raise ValueError(f"{call}({name}): {name}({len(found)}) raised {_told(error)}.") from error
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


def read_scheduler(scheduler: Any, steps: int, *, every: int = 1, call: str = "read_scheduler") -> list[np.ndarray]:
    """The learning rates that a scheduler of torch is going to set: one array for each param group.

    Entry t is the rate of optimizer step t from now (0: the next), if `scheduler.step()` follows every optimizer step;
    all as torch computes them, bit for bit. `every` keeps one in so many, those that a `Forecast` keeps. Groups that
    go the same way share one array, which is read-only. Schedulers of every kind that step without arguments are
    read, part-way and nested too; what else they set (OneCycleLR and CyclicLR the momentum) is passed over.

    A copy is stepped, and the scheduler and its optimizer stay as they are. Functions inside it (of LambdaLR, say) are
    called and not copied, so they should depend on their argument alone. Raises TypeError for what is no scheduler;
    ValueError for ReduceLROnPlateau, which waits for losses, for one that cannot be copied, and for one that raises or
    sets what is not finite and 0 or above, with the step.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.ones(1)], lr=0.1)
    >>> scheduler = torch.optim.lr_scheduler.LambdaLR(opt, lambda step: 1 / (1 + step))
    >>> read_scheduler(scheduler, 2)
    [array([0.1 , 0.05])]
    """
    every, at = _check.whole(call, "every", every), 0
    places, parts = stretches(scheduler, steps, call=call)
    kept: list[list[np.ndarray]] = [[] for _ in set(places)]
    for part in parts:
        for column, x in zip(kept, part, strict=True):
            column.append(x[(every - 1 - at) % every :: every])
        at += len(part[0])
    arrays = [np.concatenate(column) for column in kept]
    for x in arrays:
        x.flags.writeable = False
    return [arrays[place] for place in places]


STRETCH = 16384  # steps that are read at once: few enough to stay in the cache


def stretches(scheduler: Any, steps: int, *, call: str) -> tuple[list[int], Iterator[list[np.ndarray]]]:
    """What `read_scheduler` reads, a stretch of steps after another: (the course of each group, arrays of courses)."""
    if not _is_scheduler(scheduler):
        raise TypeError(f"{call}: expected a scheduler of torch.optim.lr_scheduler, got {type(scheduler).__name__}.")
    steps, where = _check.whole(call, "steps", steps), f"{call}({type(scheduler).__name__})"
    if any(base.__name__ == "ReduceLROnPlateau" for s in _tree(scheduler) for base in type(s).__mro__):
        raise ValueError(
            f"{where}: its learning rate waits for losses, which are not known ahead. Give a scheduler of the step "
            "alone, an array or a function of the step."
        )
    stand_in = _copied(scheduler, where)
    places = _merged(stand_in)
    reading = _Reading(stand_in.optimizer.param_groups)
    ends = range(STRETCH, steps + STRETCH, STRETCH)
    return places, (reading.upto(min(end, steps), stand_in, where, places) for end in ends)


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
    if not _is_tensor(x):
        return x if isinstance(x, np.ndarray) else list(x)
    x = x.detach().cpu()
    return (x.double() if x.is_floating_point() else x).numpy()  # numpy has no bfloat16


def _is_sequence(x: Any) -> bool:
    return hasattr(x, "__len__") and hasattr(x, "__getitem__") and not isinstance(x, Mapping | bytes)


def _is_tensor(x: Any) -> bool:
    return hasattr(x, "detach") and hasattr(x, "is_floating_point")


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(".: ")


# Schedulers -------------------------------------------------------------------------------------------------

# all that torch's schedulers keep for each param group: in it, and in lists of their own
_GROUP = ("lr", "initial_lr", "max_lr", "min_lr")
_LISTS = ("base_lrs", "max_lrs", "lr_lambdas", "base_momentums", "max_momentums", "_last_lr")
_STEPPING = (
    *("LambdaLR", "MultiplicativeLR", "StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR"),
    *("CosineAnnealingLR", "PolynomialLR", "OneCycleLR", "CyclicLR"),
)
"""Those whose step is that of the base class: count, `get_lr()`, set."""
_NESTING = ("CosineAnnealingWarmRestarts", "SequentialLR", "ChainedScheduler")


def _only(call: str, name: str, scheduler: Any, steps: int) -> np.ndarray:
    kind = type(scheduler).__name__
    if name != "lr":
        raise TypeError(f"{call}({name}={kind}): a scheduler sets the learning rate; give it as lr=.")
    first, *others = read_scheduler(scheduler, steps, call=call)
    if any(x is not first and not np.array_equal(x, first) for x in others):
        raise ValueError(
            f"{call}({name}={kind}): its {1 + len(others)} param groups go different ways. rotational.predict takes "
            "each as it is; or give one of the arrays of rotational.schedule.read_scheduler."
        )
    return first


def _is_scheduler(x: Any) -> bool:
    driven = getattr(x, "optimizer", None)
    return callable(getattr(x, "step", None)) and hasattr(driven, "param_groups") and not isinstance(x, type)


def _kind(scheduler: Any) -> str | None:
    """The name of a class that is torch's own, whose ways are known here."""
    kind = type(scheduler)
    known = kind.__module__ == "torch.optim.lr_scheduler" and kind.__name__ in (*_STEPPING, *_NESTING)
    return kind.__name__ if known else None


def _tree(scheduler: Any) -> Iterator[Any]:
    yield scheduler
    for inner in getattr(scheduler, "_schedulers", ()):
        yield from _tree(inner)


class _StandIn:
    """All that a scheduler asks of an optimizer: param groups, here without parameters."""

    def __init__(self, groups: list[dict[str, Any]], defaults: Any) -> None:
        self.param_groups, self.defaults = groups, defaults

    def step(self) -> None:
        """Nothing to do."""


def _copied(scheduler: Any, where: str) -> Any:
    """A copy that shares no tensor and no state, and drives a stand-in."""
    optimizer, memo = scheduler.optimizer, dict[int, Any]()
    known = list(_parts(scheduler, set())) + [x for group in optimizer.param_groups for x in group.values()]
    for x in known:
        # One memo for all, so that what was one tensor in two places is one again. On the CPU none of a million
        # steps waits for a device. Functions stay themselves: a copy of a method would copy its whole object.
        if _is_tensor(x):
            memo.setdefault(id(x), x.detach().cpu().clone())
        elif isinstance(x, FunctionType | BuiltinFunctionType | partial) or (
            isinstance(x, MethodType) and not _is_scheduler(x.__self__)
        ):
            memo[id(x)] = x
    groups = [{k: memo.get(id(v), v) for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    memo[id(optimizer)] = _StandIn([{**group, "params": []} for group in groups], getattr(optimizer, "defaults", {}))
    try:
        return copy.deepcopy(scheduler, memo)
    except Exception as error:
        raise ValueError(f"{where}: it cannot be copied ({_told(error)}). Give an array of its values.") from error


def _parts(x: Any, seen: set[int]) -> Iterator[Any]:
    """What a scheduler holds, in its lists, dicts and inner schedulers too."""
    if id(x) in seen:
        return
    seen.add(id(x))
    if isinstance(x, list | tuple | dict):
        inner: Any = x.values() if isinstance(x, dict) else x
    else:
        yield x
        inner = [v for k, v in vars(x).items() if k != "optimizer"] if _is_scheduler(x) else ()
    for part in inner:
        yield from _parts(part, seen)


def _merged(scheduler: Any) -> list[int]:
    """Keep one of the groups that go the same way, as far as torch's own classes tell; where each group's is then."""
    groups, tree = scheduler.optimizer.param_groups, list(_tree(scheduler))
    lists = [(vars(s), key) for s in tree for key in _LISTS if key in vars(s)]
    if None in map(_kind, tree) or any(len(held[key]) != len(groups) for held, key in lists):
        return list(range(len(groups)))
    places, kept, where = dict[Any, int](), list[int](), list[int]()
    for i, group in enumerate(groups):
        marks = tuple(map(_mark, (*(group.get(k) for k in _GROUP), *(held[key][i] for held, key in lists))))
        if marks not in places:
            places[marks] = len(kept)
            kept.append(i)
        where.append(places[marks])
    for held, key in lists:
        held[key] = [held[key][i] for i in kept]
    scheduler.optimizer.param_groups = [groups[i] for i in kept]
    return where


def _mark(x: Any) -> Any:
    if callable(x):
        return id(x)
    return (str(x.dtype), float(x)) if _is_tensor(x) else (type(x), x)


class _Reading:
    """Learning rates read so far: a column of doubles for each group that was kept."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        self.groups = groups
        self.columns = [array("d", [float(group["lr"])]) for group in groups]
        self._ahead = self._before = 0

    @property
    def at(self) -> int:
        """The step whose rate is sought."""
        return self._before + min(map(len, self.columns)) + self._ahead

    def upto(self, end: int, scheduler: Any, where: str, places: list[int]) -> list[np.ndarray]:
        """Rates up to step `end`, from where this was called last; errors speak of the group at one of `places`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about the order of steps: no optimizer steps here
            try:
                self.advance(scheduler, end - self.at)
            except Exception as error:
                raise ValueError(f"{where}: no learning rate for step {self.at}: {_told(error)}.") from error
        found = [np.frombuffer(column) for column in self.columns]
        for i, x in enumerate(found):
            if (bad := ~(np.isfinite(x) & (x >= 0))).any():
                t = int(bad.argmax())
                raise ValueError(
                    f"{where}: group {places.index(i)} has lr={float(x[t])!r} at step {self._before + t}; expected a "
                    "finite number, 0 or above."
                )
        self._before, self.columns = end, [array("d") for _ in found]
        return found

    def advance(self, scheduler: Any, steps: int) -> None:
        """Read on for so many steps."""
        kind = _kind(scheduler) if steps else "none"
        if kind == "SequentialLR" and scheduler._milestones == sorted(scheduler._milestones):
            self._sequence(scheduler, steps)
        elif kind in _STEPPING and not any(_is_tensor(group["lr"]) for group in self.groups):
            (self._lambdas if kind == "LambdaLR" else self._direct)(scheduler, steps)
        else:
            for _ in range(steps):
                scheduler.step()
                self._note()

    def _note(self) -> None:
        for group, column in zip(self.groups, self.columns, strict=True):
            column.append(float(group["lr"]))

    def _sequence(self, scheduler: Any, steps: int) -> None:
        """One scheduler after another, each for as long as it lasts; torch itself hands over."""
        milestones, end = scheduler._milestones, scheduler.last_epoch + steps
        while scheduler.last_epoch < end:
            due = scheduler.last_epoch + 1
            i = bisect_right(milestones, due)
            if i > 0 and milestones[i - 1] == due:
                scheduler.step()
                self._note()
            else:
                last = min(end, math.ceil(milestones[i]) - 1 if i < len(milestones) else end)
                self.advance(scheduler._schedulers[i], last - due + 1)
                scheduler.last_epoch = last

    def _direct(self, scheduler: Any, steps: int) -> None:
        """The base class's step, without what only callers of `get_last_lr` need: a third of its time."""
        scheduler._get_lr_called_within_step = True
        for _ in range(steps):
            scheduler._step_count += 1
            scheduler.last_epoch += 1
            for group, column, lr in zip(self.groups, self.columns, scheduler.get_lr(), strict=True):
                group["lr"] = lr
                column.append(lr)

    def _lambdas(self, scheduler: Any, steps: int) -> None:
        """LambdaLR: each function once, however many groups it serves."""
        start, pairs = scheduler.last_epoch + 1, list(zip(scheduler.lr_lambdas, scheduler.base_lrs, strict=True))
        for f in {id(f): f for f, _ in pairs}.values():
            factors: list[Any] = []
            try:
                for t in range(start, start + steps):
                    factors.append(f(t))
            finally:
                self._ahead = len(factors)
            doubles = np.array(factors, dtype=np.float64) if set(map(type, factors)) <= _DOUBLES else None
            for (g, base), group, column in zip(pairs, self.groups, self.columns, strict=True):
                if g is not f:
                    continue
                if doubles is not None and type(base) in _DOUBLES:
                    x = base * doubles
                else:  # numpy's and torch's single precision rounds each product
                    x = np.array([float(base * factor) for factor in factors], dtype=np.float64)
                column.frombytes(x.tobytes())
                group["lr"] = column[-1]
            self._ahead = 0
        scheduler.last_epoch += steps
        scheduler._step_count += steps


_DOUBLES = {float, int, np.float64}
