"""Training runs as data: frozen, hashable values that say everything a run depends on.

    run = Run(Model("resnet20"), Data("cifar10"), Optimizer("adamw", lr=0.05, weight_decay=0.01), steps=2000, batch=128)
    run.key         '3f9c...': the name of its folder in a store
    run.but(seed=1) the same run with another seed

Nothing here trains: `tasks` makes the model and the data of a run, `train` runs it, `store` keeps what came out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from rotational import _check

Value: TypeAlias = bool | int | float | str | None
Options: TypeAlias = tuple[tuple[str, Value], ...]
Rules: TypeAlias = Literal["sgd", "adamw", "adam", "lion", "muon"]
Shapes: TypeAlias = Literal["constant", "cosine", "cosine2", "linear"]
Probes: TypeAlias = Literal["alignment", "radial", "norms", "time"]
Precision: TypeAlias = Literal["float32", "bf16"]
Decays: TypeAlias = Literal["constant", "adamc"]
_T = TypeVar("_T")

FREE = ("blobs", "chain", "digits", "reversal", "stdlib")
"""Data sets that need no folder: made up, or part of what is installed."""

FORMAT = 1
"""Goes into every key: raised when the same declaration trains differently than before."""


@dataclass(frozen=True, init=False)
class _Named:
    """A name and its options, in alphabetical order: `Model("gpt", blocks=4, width=64)`."""

    name: str
    options: Options

    def __init__(self, name: str, **options: Value) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "options", tuple(sorted(options.items())))

    def __repr__(self) -> str:
        given = "".join(f", {key}={value!r}" for key, value in self.options)
        return f"{type(self).__name__}({self.name!r}{given})"


class Model(_Named):
    """A model of `tasks`, by name, with what differs from its defaults.

    >>> Model("gpt", width=64, blocks=4)
    Model('gpt', blocks=4, width=64)
    """


class Data(_Named):
    """A data set of `tasks`, by name, with what differs from its defaults."""


class Computed(_Named):
    """Numbers that are computed and not trained, by the name of a function of `computed`; `seed` is an option.

    >>> Computed("walk", rule="adamw", lr=1e-2, weight_decay=1e-1, seed=1).seed
    1
    """

    @property
    def seed(self) -> int:
        """Of its random numbers; 0 where there are none."""
        found = dict(self.options).get("seed", 0)
        assert isinstance(found, int)
        return found

    @property
    def key(self) -> str:
        """Hash of the name and all options, 16 hexadecimal digits."""
        return _hashed(self)

    def but(self, **changes: Value) -> Computed:
        """The same with other options.

        >>> Computed("walk", seed=1).but(seed=2)
        Computed('walk', seed=2)
        """
        return Computed(self.name, **{**dict(self.options), **changes})


@dataclass(frozen=True)
class Imbalance:
    """Neurons that turn slower or faster than the others: a share of each layer's, drawn by the run's seed.

    slow     share of neurons that turn by 1/factor of the angle
    fast     share of neurons that turn by factor times the angle
    """

    slow: float
    factor: float
    fast: float = 0.0


@dataclass(frozen=True)
class Optimizer:
    """How weights change, at the schedule's full lr.

    decay           "constant", or "adamc": the weight decay of a step is multiplied by lr_t/lr, so that
                    lr_t^2 weight_decay/lr is taken off, which keeps the norm at rest where it is
    rotational      the rotational variant; the fields below it are of it alone
    rotation        its angle in radians per step, where lr and weight decay do not give it
    angles          or a schedule of angles: pairs (steps taken, radians) with straight lines between them
    rotation_of     the rule whose equilibrium rotation at this lr and weight decay is held
    gains           "train", or "freeze": gains and biases keep their initial values
    """

    rule: Rules
    lr: float
    weight_decay: float
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    nesterov: bool = False
    eps: float = 1e-8
    gains: Literal["train", "freeze"] = "train"
    decay: Decays = "constant"
    rotational: bool = False
    rotation: float | None = None
    rotation_of: Rules | None = None
    angles: tuple[tuple[float, float], ...] = ()
    units: Literal["neuron", "tensor"] = "neuron"
    center: bool = True
    update_memory: float = 0.9
    imbalance: Imbalance | None = None

    def __post_init__(self) -> None:
        _check.choice("Optimizer", "rule", self.rule, get_args(Rules))
        _check.choice("Optimizer", "decay", self.decay, get_args(Decays))
        _check.number("Optimizer", "lr", self.lr, low=0)
        _check.number("Optimizer", "weight_decay", self.weight_decay, low=0)
        _check.pair("Optimizer", "betas", self.betas)
        _check.number("Optimizer", "eps", self.eps, low=0)
        for name in ("momentum", "update_memory"):
            _check.number("Optimizer", name, getattr(self, name), low=0, high=1, below=True)
        _check.choice("Optimizer", "gains", self.gains, ("train", "freeze"))
        _check.choice("Optimizer", "units", self.units, ("neuron", "tensor"))
        if self.rotation_of is not None:
            _check.choice("Optimizer", "rotation_of", self.rotation_of, get_args(Rules))
        if self.rotation is not None:
            _check.number("Optimizer", "rotation", self.rotation, low=0)


@dataclass(frozen=True)
class Schedule:
    """Multiples of the full lr, one for each step.

    shape    over the steps after the warm-up: "constant", "cosine", its square ("cosine2"), or "linear"
    warmup   share of the run over which lr rises in a line from 0
    floor    where a falling shape ends, as a multiple of the full lr
    """

    shape: Shapes = "cosine"
    warmup: float = 0.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        _check.choice("Schedule", "shape", self.shape, get_args(Shapes))
        _check.number("Schedule", "warmup", self.warmup, low=0, high=1)
        _check.number("Schedule", "floor", self.floor, low=0, high=1)

    def multiple(self, step: int, steps: int) -> float:
        """Of the full lr, at the step that comes after `step` others, in a run of `steps`.

        >>> [round(Schedule("cosine", warmup=0.2).multiple(t, 10), 3) for t in range(0, 10, 3)]
        [0.5, 0.962, 0.5, 0.038]
        """
        rise = round(self.warmup * steps)
        if step < rise:
            return (step + 1) / rise
        past, length = step - rise, max(1, steps - rise)
        if self.shape == "linear":
            return 1 - (1 - self.floor) * past / length
        wave = (1 + math.cos(math.pi * past / length)) / 2
        fallen = {"constant": 0.0, "cosine": 1 - wave, "cosine2": 1 - wave**2}
        return 1 - (1 - self.floor) * fallen[self.shape]


@dataclass(frozen=True)
class Run:
    """One training run: the same value gives the same numbers on the same machine.

    steps, batch   optimizer steps; examples (sequences, sentence pairs) in each, or the most where tokens decide
    every          steps from one measurement of all neurons to the next
    evaluations    how often the validation loss is taken, evenly spaced, the last step included
    probes         what is measured beside rotation; see `probes`
    """

    model: Model
    data: Data
    optimizer: Optimizer
    steps: int
    batch: int
    schedule: Schedule = field(default_factory=Schedule)
    seed: int = 0
    every: int = 10
    evaluations: int = 5
    precision: Precision = "float32"
    probes: tuple[Probes, ...] = ()

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "every", "evaluations"):
            _check.whole("Run", name, getattr(self, name))
        _check.whole("Run", "seed", self.seed, low=0)
        _check.choice("Run", "precision", self.precision, get_args(Precision))
        for probe in self.probes:
            _check.choice("Run", "probes", probe, get_args(Probes))

    @property
    def key(self) -> str:
        """Hash of all fields, 16 hexadecimal digits."""
        return _hashed(self)

    def but(self, **changes: Any) -> Run:
        """This run with other values; those of a part are named `optimizer__lr`, `schedule__warmup`.

        Raises TypeError, with the nearest name, for a field that does not exist.

        >>> run = Run(Model("mlp"), Data("digits"), Optimizer("adamw", 1e-3, 0.1), steps=10, batch=8)
        >>> run.but(optimizer__lr=2e-3, seed=1).optimizer.lr
        0.002
        """
        return _but(self, changes)


def grid(run: Run, **axes: Iterable[Any]) -> tuple[Run, ...]:
    """The run at every combination of values, the last axis fastest.

    >>> run = Run(Model("mlp"), Data("digits"), Optimizer("adamw", 1e-3, 0.1), steps=10, batch=8)
    >>> [(r.optimizer.lr, r.seed) for r in grid(run, optimizer__lr=(1e-3, 1e-2), seed=range(2))]
    [(0.001, 0), (0.001, 1), (0.01, 0), (0.01, 1)]
    """
    values: Sequence[Sequence[Any]] = [list(axis) for axis in axes.values()]
    return tuple(run.but(**dict(zip(axes, point, strict=True))) for point in itertools.product(*values))


def plain(value: Any) -> Any:
    """A declaration as JSON knows it: every field by name, defaults too."""
    if isinstance(value, _Named):
        return {"name": value.name, "options": dict(value.options)}
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return [plain(v) for v in value] if isinstance(value, tuple) else value


def _hashed(value: Any) -> str:
    return hashlib.sha256(json.dumps([FORMAT, plain(value)], sort_keys=True).encode()).hexdigest()[:16]


def _but(value: _T, changes: dict[str, Any]) -> _T:
    names = [f.name for f in dataclasses.fields(value)]  # pyright: ignore[reportArgumentType]
    parts: dict[str, dict[str, Any]] = {}
    whole: dict[str, Any] = {}
    for path, change in changes.items():
        name, _, rest = path.partition("__")
        if name not in names:
            near = get_close_matches(name, names, n=1)
            hint = f"write {near[0]!r}" if near else f"expected one of {', '.join(names)}"
            raise TypeError(f"{type(value).__name__} has no field {name!r}; {hint}.")
        if rest:
            parts.setdefault(name, {})[rest] = change
        else:
            whole[name] = change
    for name, inner in parts.items():
        whole[name] = _but(whole.get(name, getattr(value, name)), inner)
    return dataclasses.replace(value, **whole)  # pyright: ignore[reportArgumentType,reportUnknownVariableType]
