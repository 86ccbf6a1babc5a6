"""Recording and replay: the angles that `watch` measured, given back as `rotation=` to a rotational optimizer.

Angles are in radians per step. Step t = 0, 1, ... counts the optimizer steps taken before it, as `rotation=` does;
a log counts the step itself too, so that its step 1 is t = 0.
"""

from __future__ import annotations

import json
import math
import os
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rotational import _check
from rotational.records import Layer, Records

if TYPE_CHECKING:
    from torch import nn

FORMAT = "rotational angles 1"


@dataclass(frozen=True)
class Angles:
    """A curve of angles over a run: `angles(t)` is the rotation of step t, in radians.

    steps      steps taken before each measured one, rising; fractions are welcome
    radians    the angle of each: 0 or above
    name       of what was measured

    Straight lines join the measured steps; before the first and after the last the curve is constant. Immutable,
    and so shared by copies; picklable; equal where steps, radians and name are. An optimizer that turns by
    exactly this in each step has `update_memory=0`, and turns by atan of it (0.3% less at 0.1 radians).

    Raises ValueError or TypeError for steps that do not rise, numbers out of range and lengths that differ.

    >>> angles = Angles(steps=[0, 10], radians=[0.2, 0.1])
    >>> angles(5), angles(99), angles.length
    (0.15000000000000002, 0.1, 11)
    """

    steps: Sequence[float]
    radians: Sequence[float]
    name: str = ""

    def __post_init__(self) -> None:
        steps = tuple(_step(x) for x in _numbers("steps", self.steps))
        radians = tuple(_numbers("radians", self.radians))
        if len(steps) != len(radians) or not steps:
            raise ValueError(
                "Angles(steps=..., radians=...): expected at least one step and an angle for each, got "
                f"{len(steps)} and {len(radians)}."
            )
        for i, (x, y) in enumerate(pairwise(steps), start=1):
            if y <= x:
                raise ValueError(f"Angles(steps[{i}]={y!r}): expected a step after {x!r}, the one before.")
        if not isinstance(self.name, str):  # pyright: ignore[reportUnnecessaryIsInstance] users are not type-checked
            raise TypeError(f"Angles(name={self.name!r}): expected a string, got {type(self.name).__name__}.")
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "radians", radians)

    def __call__(self, step: float) -> float:
        """The angle of the step that comes after `step` others, in radians."""
        x, y = self.steps, self.radians
        i = bisect_right(x, step)
        if i == 0 or i == len(x):
            return y[min(i, len(x) - 1)]
        return y[i - 1] + (y[i] - y[i - 1]) * ((step - x[i - 1]) / (x[i] - x[i - 1]))

    @property
    def length(self) -> int:
        """Steps from the start of the run to the last measured one, that one included."""
        return math.ceil(self.steps[-1]) + 1

    def resample(self, steps: int, *, keep: str = "angle") -> Angles:
        """The same curve stretched over another number of steps: its first step 0 stays, its last becomes the last.

        keep    "angle": each part of the run turns by the angle per step that it had; "distance": angles are
                multiplied by sqrt(length/steps), which keeps the sum of their squares, the square of how far a
                random walk gets

        Raises ValueError for steps that are not a whole number of 2 or above, and an unknown `keep`.

        >>> Angles([3, 9], [0.2, 0.1]).resample(40, keep="distance")
        Angles(steps=(13, 39), radians=(0.1, 0.05), name='')
        """
        steps = _check.whole("resample", "steps", steps, low=2)
        _check.choice("resample", "keep", keep, ("angle", "distance"))
        factor = math.sqrt(self.length / steps) if keep == "distance" else 1.0
        *before, last = self.steps
        moved = [*(x * (steps - 1) / last for x in before), steps - 1]
        return Angles(moved, [factor * y for y in self.radians], self.name)

    def smooth(self, window: float) -> Angles:
        """The RMS over the measurements within `window` steps around each.

        Squares are averaged because they add up along a random walk. Towards the ends the window narrows, so that it
        stays centred, and the first and last angles stay what they are.

        Raises ValueError for a window that is not finite and above 0.

        >>> [round(y, 3) for y in Angles([0, 1, 2, 3], [0.1, 0.3, 0.1, 0.3]).smooth(3).radians]
        [0.1, 0.191, 0.252, 0.3]
        """
        half = _check.number("smooth", "window", window, low=0, above=True) / 2
        x, square = np.array(self.steps, dtype=np.float64), np.square(self.radians)
        half = np.minimum(half, np.minimum(x - x[0], x[-1] - x)) * (1 + 1e-9)  # for steps that are fractions
        first, last = np.searchsorted(x, x - half, "left"), np.searchsorted(x, x + half, "right")
        # Mean by mean: running sums would lose small angles behind large ones.
        found = [math.sqrt(square[i:j].mean()) for i, j in zip(first, last, strict=True)]
        return Angles(self.steps, found, self.name)

    def save(self, path: str | Path) -> Path:
        """Write a JSON file, digits exact, and return its path: a kill leaves the old file or the new one, whole.

        Raises OSError for a folder, and for a file in a folder that is not there.
        """
        path = Path(path)
        if path.is_dir():
            raise IsADirectoryError(f"Angles.save({str(path)!r}): this is a folder; name a file in it.")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"Angles.save({str(path)!r}): the folder {path.parent} does not exist.")
        data = {"format": FORMAT, "name": self.name, "steps": self.steps, "radians": self.radians}
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            part.write_text(json.dumps(data), encoding="utf-8")
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return path

    @classmethod
    def load(cls, path: str | Path) -> Angles:
        """Read what `save` wrote.

        Raises FileNotFoundError where there is no file, ValueError for one that is damaged or none of ours.

        >>> import tempfile
        >>> angles = Angles([0, 10], [0.2, 0.1], "0.weight")
        >>> Angles.load(angles.save(tempfile.mkdtemp() + "/angles.json")) == angles
        True
        """
        call, path = f"Angles.load({str(path)!r})", Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{call}: no such file; expected one that Angles.save() wrote.")
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(data, dict) or data.get("format") != FORMAT:
                raise ValueError(f"it is not marked {FORMAT!r}")
            return cls(data["steps"], data["radians"], data["name"])
        except (ValueError, TypeError, KeyError) as error:  # of JSON, of UTF-8, of the numbers
            told = f"no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
            raise ValueError(f"{call}: expected a file that Angles.save() wrote ({told}).") from None

    def __deepcopy__(self, memo: Any) -> Angles:
        return self


class Log(Protocol):
    """A log in the making, as `rotational.watch` gives it."""

    def read(self) -> Records:
        """What has been measured so far."""
        ...


def replay(log: str | Path | Records | Log, layer: str | None = None) -> Angles:
    """The RMS rotation that a log of `rotational.watch` measured, over all neurons or those of one layer.

        angle(t)^2 = sum_l n_l rotation_l(t)^2 / sum_l n_l        n_l   neurons of layer l

    `log` is a log, its `Records`, or its folder; `layer` the name of a parameter. Layers count at the steps that have
    a line of theirs; what was not finite is passed over.

    Raises FileNotFoundError or ValueError for a folder that holds no log, and ValueError for a log without a
    measurement and a layer that it does not know, with the nearest names.

    >>> import tempfile, torch, rotational
    >>> model = torch.nn.Linear(8, 4)
    >>> opt = torch.optim.AdamW(model.parameters(), lr=1e-2)
    >>> with rotational.watch(model, opt, every=2, path=tempfile.mkdtemp() + "/log") as log:
    ...     for _ in range(6):
    ...         model(torch.randn(2, 8)).sum().backward()
    ...         opt.step()
    >>> angles = replay(log)
    >>> angles.steps, angles.length
    ((1, 3, 5), 6)
    >>> opt = rotational.AdamW(model.parameters(), lr=1e-2, rotation=angles, update_memory=0)
    """
    return _angles(_records(log), layer)


def replay_groups(
    model: nn.Module,
    log: str | Path | Records | Log,
    *,
    weight_decay: float,
    overrides: Mapping[str, Any] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Param groups that give every layer its own recorded angles; needs torch.

    The groups of `rotational.groups(model, weight_decay, overrides=..., **options)`, where each parameter of the log
    has a group of its own with `rotation=replay(log, name)`. Parameters that the log does not measure go as they go
    there: those with neurons take their rotation from weight decay.

    Raises what `rotational.groups` and `replay` raise, and ValueError for `rotation` among the options and for a log
    of layers that the model does not have.

    >>> import tempfile, torch, rotational
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(4, 2))
    >>> opt = torch.optim.AdamW(model.parameters(), lr=1e-2)
    >>> with rotational.watch(model, opt, every=1, path=tempfile.mkdtemp() + "/log") as log:
    ...     model(torch.randn(2, 8)).sum().backward()
    ...     opt.step()
    >>> for group in replay_groups(model, log, weight_decay=0.1, update_memory=0):
    ...     print(group["param_names"], "rotation" in group)
    ['0.weight'] True
    ['1.weight'] True
    ['0.bias', '1.bias'] False
    """
    from rotational.layers import groups  # the one edge to torch, taken when it is asked for

    if "rotation" in options:
        raise ValueError("replay_groups(rotation=...): the log gives the rotation; leave it out, or use groups().")
    records = _records(log)
    measured = [layer.name for layer in _measured(records)]
    names = [name for name, _ in model.named_parameters()]
    if strange := [name for name in measured if name not in names]:
        raise ValueError(
            f"replay_groups({type(model).__name__}): the log measured {strange[0]!r}, and the model has no such "
            f"parameter; the nearest are {_nearest(strange[0], names)}."
        )
    found: list[dict[str, Any]] = []
    for group in groups(model, weight_decay, overrides=overrides, **options):
        mine = [i for i, name in enumerate(group["param_names"]) if name in measured and "neurons" in group]
        rest = [i for i in range(len(group["params"])) if i not in mine]
        found += [{**_part(group, [i]), "rotation": _angles(records, group["param_names"][i])} for i in mine]
        found += [_part(group, rest)] if rest else []
    return found


# The log ----------------------------------------------------------------------------------------------------


def _records(log: Any) -> Records:
    if isinstance(log, Records):
        return log
    if hasattr(log, "read") and hasattr(log, "path"):
        return log.read()
    if not isinstance(log, str | Path):
        raise TypeError(
            f"replay({type(log).__name__}): expected a log of rotational.watch(), its folder or its Records."
        )
    return Records(log)


def _measured(records: Records) -> list[Layer]:
    if not records.layers:
        raise ValueError(
            f"replay({str(records.path)!r}): the log has no measurement. It measures every step that "
            f"every={records.run.every} divides."
        )
    return records.layers


def _angles(records: Records, layer: str | None) -> Angles:
    layers = {x.name: x for x in _measured(records)}
    if layer is not None and layer not in layers:
        raise ValueError(
            f"replay(layer={layer!r}): the log has no such layer; the nearest are {_nearest(layer, layers)}."
        )
    square, neurons = dict[int, float](), dict[int, int]()
    for name in layers if layer is None else [layer]:
        series, count = records.series(name), layers[name].neurons
        for step, angle in zip(series.step.tolist(), series.rotation_rms.tolist(), strict=True):
            if math.isfinite(angle):
                square[step] = square.get(step, 0.0) + count * angle**2
                neurons[step] = neurons.get(step, 0) + count
    if not square:
        raise ValueError(f"replay({str(records.path)!r}, layer={layer!r}): no measurement of it was finite.")
    steps = sorted(square)
    radians = [math.sqrt(square[step] / neurons[step]) for step in steps]
    return Angles([step - 1 for step in steps], radians, layer or "all layers")


def _part(group: Mapping[str, Any], indices: Sequence[int]) -> dict[str, Any]:
    """A group of some of another's parameters."""
    lists = {k: [group[k][i] for i in indices] for k in ("params", "param_names", "neurons") if k in group}
    return {**group, **lists}


def _nearest(name: str, names: Iterable[str]) -> str:
    return ", ".join(get_close_matches(name, list(names), n=3, cutoff=0.3)) or "none"


# Numbers ----------------------------------------------------------------------------------------------------


def _numbers(name: str, found: Any) -> list[float]:
    if isinstance(found, str | bytes) or not hasattr(found, "__len__"):
        raise TypeError(f"Angles({name}={found!r}): expected a sequence of numbers, got {type(found).__name__}.")
    return [_check.number("Angles", f"{name}[{i}]", x, low=0) for i, x in enumerate(found)]


def _step(x: float) -> float:
    return int(x) if x == int(x) else x
