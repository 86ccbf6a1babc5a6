"""A figure of the paper as data: what runs, what is drawn, and what must hold.

    Arm       runs under one label: a seed each, or a sweep with some seeds at every point
    Then      an arm that needs a number measured in another one first, at its best point, seed by seed
    Panel     one picture: which measure against which axis
    Claim     a sentence, a quantity (see `quantities`), and the range in which the sentence holds
    Figure    all of it, at three scales

Nothing here trains or draws: `reproduce` runs what is missing, `report.figure` writes the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from rotational import _check
from rotational.lab import sound
from rotational.lab.declare import FREE, Computed, Data, Run
from rotational.lab.measures import MEASURES
from rotational.lab.quantities import Quantity

Scale: TypeAlias = Literal["tiny", "laptop", "paper"]
Kind: TypeAlias = Literal["lines", "layers", "sweep", "heat", "bars"]
Job: TypeAlias = "Run | Computed"
SCALES: tuple[Scale, ...] = get_args(Scale)
_J = TypeVar("_J", Run, Job)


@dataclass(frozen=True)
class Arm:
    """Runs under one label, told apart by seed and by what a sweep varies.

    more    seeds that the best point gets besides when all `runs` are there: where a sweep costs much, few seeds at
            every point choose one, and only what is reported has many. Further seeds never change the choice.
    by      the measure that chooses it, on validation data
    """

    label: str
    runs: tuple[Job, ...]
    more: tuple[int, ...] = ()
    by: str = ""

    def __post_init__(self) -> None:
        if taken := {run.seed for run in self.runs} & set(self.more):
            raise ValueError(f"Arm({self.label!r}, more={self.more}): its runs have the seeds {sorted(taken)} already.")
        if self.more and (self.by not in MEASURES or MEASURES[self.by].better is None):
            raise ValueError(
                f"Arm({self.label!r}, more={self.more}, by={self.by!r}): expected by= a measure with a "
                "better end, such as 'accuracy'."
            )

    @property
    def count(self) -> int:
        """Runs, further seeds among them."""
        return len(self.runs) + len(self.more)

    def seeded(self, seeds: int) -> Arm:
        """The same points, with seeds 0 to `seeds` - 1 at each; what draws nothing stays as it is."""
        return Arm(self.label, _seeded(self.runs, seeds))


@dataclass(frozen=True)
class Then:
    """An arm of a second stage: each run gets a number or a curve that was measured in the source's run of its seed.

    field     of the run, such as "optimizer__rotation", or "optimizer__angles" for a curve
    source    label of the arm that was measured, at its point that is best by `by` on validation data
    measure   a scalar of `measures`, or the name of a curve
    """

    label: str
    runs: tuple[Run, ...]
    field: str
    source: str
    measure: str
    by: str | None = None

    @property
    def count(self) -> int:
        """Runs."""
        return len(self.runs)

    def seeded(self, seeds: int) -> Then:
        """The same points, with seeds 0 to `seeds` - 1 at each."""
        return replace(self, runs=_seeded(self.runs, seeds))


@dataclass(frozen=True)
class Panel:
    """One picture.

    kind       "lines": a curve over steps for each arm, mean over seeds with their range; "layers": one for each
               layer of the first seed; "sweep": a measure over an axis, mean and range over seeds; "heat": over two
               axes, one map for each arm; "bars": one bar for each arm, at its best point
    measure    a curve of `measures` for lines, a scalar for the others
    x, y       fields that a sweep varies, such as "optimizer__lr"
    arms       the labels that are drawn; all where none are named
    dashed     a second curve, drawn dashed: a prediction
    by         the measure by which bars choose their point on validation data, and sweeps that of each x, where they
               go over another axis besides
    scales     those at which it is drawn
    """

    title: str
    kind: Kind
    measure: str
    x: str = ""
    y: str = ""
    arms: tuple[str, ...] = ()
    dashed: str = ""
    log_x: bool = False
    log_y: bool = False
    by: str | None = None
    caption: str = ""
    scales: tuple[Scale, ...] = SCALES

    def __post_init__(self) -> None:
        _check.choice("Panel", "kind", self.kind, get_args(Kind))
        if (self.kind in ("sweep", "heat")) != bool(self.x):
            raise ValueError(f"Panel({self.title!r}, kind={self.kind!r}, x={self.x!r}): sweeps and heat maps need x=.")


@dataclass(frozen=True)
class Claim:
    """A sentence that holds if a quantity lies between `low` and `high`.

    It is decided by the quantity's 95% interval over seeds: held where all of it lies inside, not held where all of it
    lies outside, undecided between. `exact` quantities have no chance in them, and their value decides.

    expected    what the paper or the theory says, in words or digits
    scales      those at which it is made: at others its runs may be those of another claim
    """

    sentence: str
    quantity: Quantity
    low: float = -math.inf
    high: float = math.inf
    expected: str = ""
    exact: bool = False
    scales: tuple[Scale, ...] = SCALES

    def __post_init__(self) -> None:
        if not (self.low < self.high) or (math.isinf(self.low) and math.isinf(self.high)):
            raise ValueError(
                f"Claim({self.sentence!r}, low={self.low}, high={self.high}): expected a range with an end."
            )


@dataclass(frozen=True)
class Figure:
    """A figure or a table: its runs at each scale, its panels and its claims.

    name       what `rotational reproduce` calls it
    section    of the paper
    tiny, laptop, paper    its arms; the same labels at every scale, so that panels and claims fit all of them
    """

    name: str
    section: str
    title: str
    sentence: str
    tiny: tuple[Arm | Then, ...]
    laptop: tuple[Arm | Then, ...]
    paper: tuple[Arm | Then, ...]
    panels: tuple[Panel, ...]
    claims: tuple[Claim, ...]
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        labels = [tuple(arm.label for arm in self.arms(scale)) for scale in SCALES]
        if len(set(labels)) != 1 or len(set(labels[0])) != len(labels[0]):
            raise ValueError(f"Figure({self.name!r}): expected the same arms at every scale, each once; got {labels}.")
        for arm in (arm for scale in SCALES for arm in self.arms(scale) if isinstance(arm, Then)):
            _known(self.name, arm.source, labels[0])
        named = [name for part in (*self.panels, *(c.quantity for c in self.claims)) for name in part.arms]
        for name in named:
            _known(self.name, name, labels[0])
        sound.check(self, SCALES)

    def arms(self, scale: Scale) -> tuple[Arm | Then, ...]:
        """Its arms at a scale."""
        found: dict[Scale, Any] = {"tiny": self.tiny, "laptop": self.laptop, "paper": self.paper}
        return found[scale]

    def command(self, scale: Scale) -> str:
        """What runs it, for the command line."""
        needs = any(isinstance(job, Run) and job.data.name not in FREE for job in self.jobs(scale))
        return f"rotational reproduce {self.name} --scale {scale}{' --data DIR' if needs else ''}"

    def seen(self, scale: Scale) -> Figure:
        """The figure with the panels and claims of a scale."""
        panels = tuple(p for p in self.panels if scale in p.scales)
        return replace(self, panels=panels, claims=tuple(c for c in self.claims if scale in c.scales))

    def with_data(self, others: Mapping[str, Data]) -> Figure:
        """The figure with other data sets at laptop scale, by the names of those that they stand in for."""

        def other(run: Job) -> Job:
            return run.but(data=others.get(run.data.name, run.data)) if isinstance(run, Run) else run

        arms: list[Arm | Then] = []
        for arm in self.laptop:
            runs: Any = tuple(other(run) for run in arm.runs)
            arms.append(replace(arm, runs=runs))
        return replace(self, laptop=tuple(arms))

    def jobs(self, scale: Scale) -> Iterator[Job]:
        """All runs at a scale, those of a second stage as they stand before it: further seeds, at the first point."""
        for arm in self.arms(scale):
            yield from arm.runs
            if isinstance(arm, Arm):
                yield from (arm.runs[0].but(seed=seed) for seed in arm.more)


def named(figures: tuple[Figure, ...], names: list[str]) -> tuple[Figure, ...]:
    """The figures of these names, in the order of the paper; all of them for no name or "all".

    Raises ValueError for a name that is not known, with the nearest ones.
    """
    known = [figure.name for figure in figures]
    for name in names:
        if name != "all" and name not in known:
            near = get_close_matches(name, known, n=3, cutoff=0.4)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"There are {', '.join(known)}."
            raise ValueError(f"no figure is called {name!r}. {hint} `rotational reproduce --list` shows them all.")
    return tuple(f for f in figures if not names or "all" in names or f.name in names)


def _seeded(runs: tuple[_J, ...], seeds: int) -> tuple[_J, ...]:
    drawn = [isinstance(run, Run) or "seed" in dict(run.options) for run in runs]
    points = dict.fromkeys((run.but(seed=0), True) if d else (run, False) for run, d in zip(runs, drawn, strict=True))
    return tuple(p for point, d in points for p in ([point.but(seed=s) for s in range(seeds)] if d else [point]))


def _known(figure: str, label: str, labels: tuple[str, ...]) -> None:
    if label not in labels:
        raise ValueError(f"Figure({figure!r}): no arm is called {label!r}; there are {', '.join(labels)}.")
