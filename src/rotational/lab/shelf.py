"""Everything that is there already: results of training from a `Store`, computed numbers beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rotational.lab import store
from rotational.lab.declare import Computed, Run, plain
from rotational.lab.figures import Arm, Figure, Job, Scale, Then
from rotational.lab.measures import Found, Measured, Point, best, gather
from rotational.lab.reading import read
from rotational.lab.store import Store

COMPUTED = "computed.json"


class Shelf:
    """Results under a folder, and read-only under others; each file is read once.

    >>> import tempfile
    >>> print(Shelf(tempfile.mkdtemp()).get(Computed("prediction", rule="sgd", lr=0.1, weight_decay=1e-4)))
    None
    """

    def __init__(self, root: str | Path, *others: str | Path) -> None:
        self.store = Store(root, *others)
        self._read: dict[str, Measured] = {}

    def get(self, job: Job) -> Measured | None:
        """What a job gave, or None; raises ValueError, naming the file, for a damaged or foreign one."""
        if job.key not in self._read:
            if isinstance(job, Run):
                result = self.store.result(job)
                found = None if result is None else read(result)
            else:
                found = next((m for root in self.store.roots if (m := _computed(root, job)) is not None), None)
            if found is None:
                return None
            self._read[job.key] = found
        return self._read[job.key]

    def faults(self) -> list[str]:
        """A sentence for every file in any folder, of runs and of computations, that is not as it was written."""
        found = self.store.faults()
        for path in sorted(path for root in self.store.roots for path in root.glob(f"*/{COMPUTED}")):
            try:
                _unsealed(path)
            except ValueError as error:
                found.append(str(error))
        return found

    @property
    def keys(self) -> frozenset[str]:
        """Of all results that were asked for and found."""
        return frozenset(self._read)

    def put(self, measured: Measured) -> None:
        """Keep the numbers of a computation; raises FileExistsError where they are."""
        assert isinstance(measured.run, Computed)
        path = self.store.root / measured.run.key / COMPUTED
        path.parent.mkdir(parents=True, exist_ok=True)
        body: dict[str, Any] = {
            "format": store.FORMAT,
            "computed": plain(measured.run),
            "seconds": round(measured.seconds, 3),
            "scalars": dict(measured.scalars),
            "curves": {name: [list(part) for part in curve] for name, curve in measured.curves.items()},
        }
        store.write(path, store.sealed(body), new=True)

    def found(self, figure: Figure, scale: Scale, seeds: int | None = None) -> tuple[Found, tuple[Job, ...]]:
        """What is there of a figure, and the runs that are missing and can begin: those of a later stage cannot."""
        arms: dict[str, tuple[Point, ...]] = {}
        missing: dict[str, int] = {}
        ready: list[Job] = []
        for declared in figure.arms(scale):
            arm = declared if seeds is None else declared.seeded(seeds)
            runs = self.resolved(arm, arms, missing)
            there = [m for run in runs or () if (m := self.get(run)) is not None]
            arms[arm.label] = gather(arm.label, there)
            missing[arm.label] = arm.count - len(there)
            ready += [run for run in runs or () if self.get(run) is None]
        return Found(arms, missing), tuple(dict.fromkeys(ready))

    def resolved(
        self, arm: Arm | Then, arms: dict[str, tuple[Point, ...]], missing: dict[str, int]
    ) -> tuple[Job, ...] | None:
        """The runs of an arm, as far as they are known; None for a second stage whose first is not complete."""
        if isinstance(arm, Arm):
            there = [m for run in arm.runs if (m := self.get(run)) is not None] if arm.more else []
            if not there or len(there) < len(arm.runs):
                return arm.runs
            # Not the point's own run: that one has lost what tells seeds apart.
            point = next(iter(best(gather(arm.label, there), arm.by).seeds.values())).run
            return (*arm.runs, *(point.but(seed=seed) for seed in arm.more))
        if missing.get(arm.source, 1) or not arms[arm.source]:
            return None
        point = best(arms[arm.source], arm.by or arm.measure)
        return tuple(run.but(**{arm.field: _value(arm, point, run.seed)}) for run in arm.runs)


def _value(arm: Then, point: Point, seed: int) -> Any:
    """What the source's run of this seed measured, rounded as results are, so that the run's key is stable."""
    if seed not in point.seeds:
        raise ValueError(f"Then({arm.label!r}): {arm.source!r} has no seed {seed}, which it is to be paired with.")
    source = point.seeds[seed]
    if arm.field.endswith("__angles"):
        steps, values = source.curves[arm.measure]
        # A log counts the step itself, a schedule of angles the steps before it.
        return tuple((max(0.0, round(t - 1, 3)), float(f"{v:.4g}")) for t, v in zip(steps, values, strict=True))
    return float(f"{source.scalar(arm.measure):.4g}")


def _computed(root: Path, what: Computed) -> Measured | None:
    path = root / what.key / COMPUTED
    if not path.is_file():
        return None
    data = _unsealed(path)
    try:
        curves = {str(name): (list(x), list(y)) for name, (x, y) in data["curves"].items()}
        scalars = {str(name): float(value) for name, value in data["scalars"].items()}
        return Measured(what, scalars, curves, seconds=float(data["seconds"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise store.damaged(path, f"{type(error).__name__}: {error}") from None


def _unsealed(path: Path) -> Mapping[str, Any]:
    data = store.unsealed(path)
    try:
        key = Computed(data["computed"]["name"], **data["computed"]["options"]).key
    except (KeyError, TypeError, ValueError) as error:
        raise store.damaged(path, f"{type(error).__name__}: {error}") from None
    if key != path.parent.name:
        raise store.damaged(path, "it holds another computation than its folder's name says")
    return data
