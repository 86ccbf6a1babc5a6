"""torch's schedulers, read ahead by stepping a copy that drives a stand-in for the optimizer. torch is not imported."""

from __future__ import annotations

import copy
import math
import warnings
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Protocol

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


def read_scheduler(scheduler: Any, steps: int, *, every: int = 1, call: str = "read_scheduler") -> list[np.ndarray]:
    """The learning rates that a scheduler of torch is going to set: one array for each param group.

    Entry t is the rate of optimizer step t from now (0: the next), if `scheduler.step()` follows every optimizer step;
    all as torch computes them, bit for bit. `every` keeps one in so many, those that a `Forecast` keeps. Groups that
    go the same way share one array, which is read-only. Schedulers of every kind that step without arguments are
    read, part-way and nested too; the momentum that OneCycleLR and CyclicLR set is read by `momenta.read`.

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
    steps, where = _check.whole(call, "steps", steps), f"{call}({type(scheduler).__name__})"
    stand_in = copied(scheduler, call)
    marks = marked(stand_in)
    if marks is None:
        kept = places = list(range(len(stand_in.optimizer.param_groups)))
    else:
        first = {mark: i for i, mark in reversed(list(enumerate(marks)))}
        kept = sorted(first.values())
        places = [kept.index(first[mark]) for mark in marks]
        keep(stand_in, kept)
    return places, reading(stand_in, steps, where, kept)


def reading(stand_in: Any, steps: int, where: str, kept: list[int]) -> Iterator[list[np.ndarray]]:
    """The rates of a copy's groups, a stretch after another; `kept` are their places among the user's, for errors."""
    reader = _Reading(stand_in.optimizer.param_groups)
    ends = range(STRETCH, steps + STRETCH, STRETCH)
    return (reader.upto(min(end, steps), stand_in, where, kept) for end in ends)


def copied(scheduler: Any, call: str, *, momentum: bool = False) -> Any:
    """A copy that shares no tensor and no state, and drives a stand-in; it sets no `momentum` unless told to."""
    if not is_scheduler(scheduler):
        raise TypeError(f"{call}: expected a scheduler of torch.optim.lr_scheduler, got {type(scheduler).__name__}.")
    where = f"{call}({type(scheduler).__name__})"
    if any(base.__name__ == "ReduceLROnPlateau" for s in tree(scheduler) for base in type(s).__mro__):
        raise ValueError(
            f"{where}: its learning rate waits for losses, which are not known ahead. Give a scheduler of the step "
            "alone; forecast also takes arrays and functions of the step."
        )
    optimizer, memo = scheduler.optimizer, dict[int, Any]()
    known = list(_parts(scheduler, set())) + [x for group in optimizer.param_groups for x in group.values()]
    for x in known:
        # One memo for all, so that what was one tensor in two places is one again. On the CPU none of a million
        # steps waits for a device. Functions stay themselves: a copy of a method would copy its whole object.
        if is_tensor(x):
            memo.setdefault(id(x), x.detach().cpu().clone())
        elif isinstance(x, FunctionType | BuiltinFunctionType | partial) or (
            isinstance(x, MethodType) and not is_scheduler(x.__self__)
        ):
            memo[id(x)] = x
    groups = [{k: memo.get(id(v), v) for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    memo[id(optimizer)] = _StandIn([{**group, "params": []} for group in groups], getattr(optimizer, "defaults", {}))
    try:
        stand_in = copy.deepcopy(scheduler, memo)
    except Exception as error:
        raise ValueError(f"{where}: it cannot be copied ({told(error)}). Give an array of its values.") from error
    for s in tree(stand_in) if not momentum else ():
        if cycles(s):
            s.cycle_momentum = False  # which takes half of their time, and is read for few groups
    return stand_in


# Schedulers -------------------------------------------------------------------------------------------------

# all that torch's schedulers keep for each param group: in it, and in lists of their own
_GROUP = ("lr", "initial_lr", "max_lr", "min_lr")
_MOMENTUM, _BOUNDS = ("betas", "momentum", "max_momentum", "base_momentum"), ("base_momentums", "max_momentums")
_LISTS = ("base_lrs", "max_lrs", "lr_lambdas", *_BOUNDS, "_last_lr")
_STEPPING = (
    *("LambdaLR", "MultiplicativeLR", "StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR"),
    *("CosineAnnealingLR", "PolynomialLR", "OneCycleLR", "CyclicLR"),
)
"""Those whose step is that of the base class: count, `get_lr()`, set."""
_NESTING = ("CosineAnnealingWarmRestarts", "SequentialLR", "ChainedScheduler")


def is_scheduler(x: Any) -> bool:
    """Whether x steps, and drives an optimizer."""
    driven = getattr(x, "optimizer", None)
    return callable(getattr(x, "step", None)) and hasattr(driven, "param_groups") and not isinstance(x, type)


def _kind(scheduler: Any) -> str | None:
    """The name of a class that is torch's own, whose ways are known here."""
    kind = type(scheduler)
    known = kind.__module__ == "torch.optim.lr_scheduler" and kind.__name__ in (*_STEPPING, *_NESTING)
    return kind.__name__ if known else None


def tree(scheduler: Any) -> Iterator[Any]:
    """A scheduler and all that it is made of."""
    yield scheduler
    for inner in getattr(scheduler, "_schedulers", ()):
        yield from tree(inner)


def cycles(scheduler: Any) -> bool:
    """Whether it is one of torch's that moves the momentum beside the lr."""
    return _kind(scheduler) in ("OneCycleLR", "CyclicLR") and bool(scheduler.cycle_momentum)


def moves_momentum(scheduler: Any) -> bool:
    """Whether it does, or may: it is of a kind that torch did not write."""
    return cycles(scheduler) or _kind(scheduler) is None


def is_tensor(x: Any) -> bool:
    """Whether x is a tensor of torch."""
    return hasattr(x, "detach") and hasattr(x, "is_floating_point")


def told(error: Exception) -> str:
    """An error in a few words."""
    return f"{type(error).__name__}: {error}".rstrip(".: ")


class _StandIn:
    """All that a scheduler asks of an optimizer: param groups, here without parameters."""

    def __init__(self, groups: list[dict[str, Any]], defaults: Any) -> None:
        self.param_groups, self.defaults = groups, defaults

    def step(self) -> None:
        """Nothing to do."""


def _parts(x: Any, seen: set[int]) -> Iterator[Any]:
    """What a scheduler holds, in its lists, dicts and inner schedulers too."""
    if id(x) in seen:
        return
    seen.add(id(x))
    if isinstance(x, list | tuple | dict):
        inner: Any = x.values() if isinstance(x, dict) else x
    else:
        yield x
        inner = [v for k, v in vars(x).items() if k != "optimizer"] if is_scheduler(x) else ()
    for part in inner:
        yield from _parts(part, seen)


def marked(scheduler: Any, *, momentum: bool = False) -> list[tuple[Any, ...]] | None:
    """What tells groups apart, as far as torch's own classes tell: those with the same marks go the same way.

    With `momentum`, those whose momentum does. None for a scheduler of another kind, which may tell them apart by
    anything.
    """
    groups, parts = scheduler.optimizer.param_groups, list(tree(scheduler))
    own, held = (_MOMENTUM, _BOUNDS) if momentum else (_GROUP, _LISTS)
    lists = [(vars(s), key) for s in parts for key in _LISTS if key in vars(s)]
    if None in map(_kind, parts) or any(len(part[key]) != len(groups) for part, key in lists):
        return None
    return [
        tuple(map(_mark, [*map(group.get, own), *(part[key][i] for part, key in lists if key in held)]))
        for i, group in enumerate(groups)
    ]


def keep(scheduler: Any, kept: list[int]) -> None:
    """Take the other groups out of a copy."""
    for s in tree(scheduler):
        for key in _LISTS:
            if key in vars(s):
                setattr(s, key, [getattr(s, key)[i] for i in kept])
    scheduler.optimizer.param_groups = [scheduler.optimizer.param_groups[i] for i in kept]


def _mark(x: Any) -> Any:
    if callable(x):
        return id(x)
    return (str(x.dtype), float(x)) if is_tensor(x) else (type(x), x)


def put(scheduler: Any, at: Any, rates: list[float]) -> None:
    """Take a copy to where another copy is, of which groups were taken out; to these rates, one for each group."""
    for s, ahead in zip(tree(scheduler), tree(at), strict=True):
        vars(s).update({k: x for k, x in vars(ahead).items() if k not in (*_LISTS, "optimizer", "_schedulers")})
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


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

    def upto(self, end: int, scheduler: Any, where: str, kept: list[int]) -> list[np.ndarray]:
        """Rates up to step `end`, from where this was called last; `kept` are the user's groups, for errors."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about the order of steps: no optimizer steps here
            try:
                self.advance(scheduler, end - self.at)
            except Exception as error:
                raise ValueError(f"{where}: no learning rate for step {self.at}: {told(error)}.") from error
        found = [np.frombuffer(column) for column in self.columns]
        for i, x in enumerate(found):
            if (bad := ~(np.isfinite(x) & (x >= 0))).any():
                t = int(bad.argmax())
                raise ValueError(
                    f"{where}: group {kept[i]} has lr={float(x[t])!r} at step {self._before + t}; expected a "
                    "finite number, 0 or above."
                )
        self._before, self.columns = end, [array("d") for _ in found]
        return found

    def advance(self, scheduler: Any, steps: int) -> None:
        """Read on for so many steps."""
        kind = _kind(scheduler) if steps else "none"
        if kind == "SequentialLR" and scheduler._milestones == sorted(scheduler._milestones):
            self._sequence(scheduler, steps)
        elif kind in _STEPPING and self._plain():
            self._lambdas(scheduler, steps) if kind == "LambdaLR" else self._direct([scheduler], steps)
        elif kind == "ChainedScheduler" and self._plain(*scheduler._schedulers):
            self._direct(list(scheduler._schedulers), steps)
        elif kind == "CosineAnnealingWarmRestarts" and self._plain():
            self._restarts(scheduler, steps)
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

    def _direct(self, schedulers: list[Any], steps: int) -> None:
        """The base class's step, without what only callers of `get_last_lr` need: a third of its time.

        Of several schedulers, each goes on from what the one before it has set.
        """
        for scheduler in schedulers:
            scheduler._get_lr_called_within_step = True
            scheduler._step_count += steps
        pairs, places = [(s, s.get_lr) for s in schedulers], self._places()
        (*before, (scheduler, get)), (group, note) = pairs, places[-1]
        epochs = range(scheduler.last_epoch + 1, scheduler.last_epoch + 1 + steps)
        if len(places) == 1:  # loops over one or two groups would take as long as torch does
            for scheduler.last_epoch in epochs:
                for other, get_other in before:
                    other.last_epoch += 1
                    (group["lr"],) = get_other()
                (lr,) = get()
                group["lr"] = lr
                note(lr)
        elif len(places) == 2 and not before:
            first, note_first = places[0]
            for scheduler.last_epoch in epochs:
                lr, last = get()
                first["lr"], group["lr"] = lr, last
                note_first(lr)
                note(last)
        else:
            for scheduler.last_epoch in epochs:
                for other, get_other in before:
                    other.last_epoch += 1
                    for (group, _), lr in zip(places, get_other(), strict=True):
                        group["lr"] = lr
                for (group, note), lr in zip(places, get(), strict=True):
                    group["lr"] = lr
                    note(lr)

    def _restarts(self, scheduler: Any, steps: int) -> None:
        """CosineAnnealingWarmRestarts: its own step, which counts within a period that grows."""
        scheduler._get_lr_called_within_step = True
        get, places = scheduler.get_lr, self._places()
        for _ in range(steps):
            scheduler.last_epoch += 1
            scheduler.T_cur += 1
            if scheduler.T_cur >= scheduler.T_i:
                scheduler.T_cur %= scheduler.T_i
                scheduler.T_i *= scheduler.T_mult
            for (group, note), lr in zip(places, get(), strict=True):
                group["lr"] = lr
                note(lr)

    def _places(self) -> list[tuple[dict[str, Any], Callable[[float], None]]]:
        """Where each group's rate goes."""
        return [(group, column.append) for group, column in zip(self.groups, self.columns, strict=True)]

    def _plain(self, *schedulers: Any) -> bool:
        """Whether rates are plain numbers, and schedulers step as the base class does."""
        return not any(is_tensor(group["lr"]) for group in self.groups) and all(
            _kind(s) in _STEPPING for s in schedulers
        )

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
