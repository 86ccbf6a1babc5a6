"""What was measured, on disk; the only thing that reports read.

A log is a folder of two open files:

    run.json       what ran: library versions, the optimizer and its param groups, the layers (written once)
    steps.jsonl    one line for every layer and logged step, flushed as the run goes

so a killed run keeps every line that was flushed, and `pandas.read_json(path, lines=True)` reads the steps
without us. Columns of steps.jsonl:

    step           optimizer steps taken, this one included
    layer          parameter name
    group          index of the param group; `lr` and `weight_decay` as they were at this step
    held           rotation that a rotational optimizer was told to hold at this step, else null
    rotation_rms   RMS rotation over all the layer's neurons, radians in this one step
    norm_rms       RMS length of the weight vectors after the step
    update_rms     RMS length of the change of the weight vectors, decay included
    quantiles      of the rotation over all neurons, at `QUANTILES`
    rotation norm update radial       one number for each kept neuron (see `kept` in run.json); radial is
                   the signed share of the change that runs along the weight vector, in [-1, 1]
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SCALARS = ("step", "group", "lr", "weight_decay", "held", "rotation_rms", "norm_rms", "update_rms")
SERIES = ("rotation", "norm", "update", "radial")
RUN_FILE, STEPS_FILE = "run.json", "steps.jsonl"
FORMAT = 1


@dataclass(frozen=True)
class Layer:
    """One watched parameter; `kept` lists the neurons whose own series are in the log (all, if they fit)."""

    name: str
    module: str
    shape: tuple[int, ...]
    neurons: int
    size: int
    group: int
    kept: tuple[int, ...]
    parts: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Run:
    """What ran.

    `groups` holds each param group's hyperparameters as plain data; `rules` the rule of each group as
    `Rule.as_dict` gives it, or None where the optimizer is not known and nobody named its rule.
    """

    title: str
    optimizer: str
    groups: tuple[Mapping[str, Any], ...]
    rules: tuple[Mapping[str, Any] | None, ...]
    layers: tuple[Layer, ...]
    versions: Mapping[str, str]
    every: int = 1
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Measurement:
    """One layer at one step: the scalars above, and one array [kept neurons] for each of `SERIES`."""

    layer: str
    step: int
    group: int
    lr: float
    weight_decay: float
    held: float | None
    rotation_rms: float
    norm_rms: float
    update_rms: float
    quantiles: Sequence[float]
    rotation: Sequence[float]
    norm: Sequence[float]
    update: Sequence[float]
    radial: Sequence[float]

    def line(self) -> str:
        """The line of steps.jsonl, with five significant digits for each neuron."""
        head = {"layer": self.layer, **{k: getattr(self, k) for k in SCALARS}}
        arrays = ",".join(f'"{k}":[{_digits(getattr(self, k))}]' for k in ("quantiles", *SERIES))
        return f"{json.dumps(head)[:-1]},{arrays}}}\n".replace("NaN", "null").replace("Infinity", "null")


@dataclass(frozen=True)
class Series:
    """All of one layer over time: scalars as [T], quantiles [T, 5], neuron series [T, kept]."""

    layer: Layer
    step: np.ndarray
    group: np.ndarray
    lr: np.ndarray
    weight_decay: np.ndarray
    held: np.ndarray
    rotation_rms: np.ndarray
    norm_rms: np.ndarray
    update_rms: np.ndarray
    quantiles: np.ndarray
    rotation: np.ndarray
    norm: np.ndarray
    update: np.ndarray
    radial: np.ndarray


class Writer:
    """Writes a log folder as the run goes.

    Raises FileExistsError, before anything is written, when the folder already holds a log: no run
    overwrites another.
    """

    def __init__(self, path: str | Path, run: Run) -> None:
        self.path = Path(path)
        if (self.path / RUN_FILE).exists() or (self.path / STEPS_FILE).exists():
            raise FileExistsError(
                f"watch(path={str(path)!r}): this folder already holds a log. Give a new path, or remove it."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        _write_whole(self.path / RUN_FILE, json.dumps({"format": FORMAT, **asdict(run)}, indent=1))
        self._file: IO[str] | None = open(self.path / STEPS_FILE, "a", encoding="utf-8")  # noqa: SIM115 closed in close()

    def write(self, measurements: Sequence[Measurement]) -> None:
        """Append one logged step: a single write and a flush, so that a kill loses at most this step."""
        if self._file is None:
            raise ValueError(f"watch: the log {self.path} is closed.")
        self._file.write("".join(m.line() for m in measurements))
        self._file.flush()

    def close(self) -> None:
        """Close the file; what was written stays."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Records:
    """A log read back: `run`, and `series(layer)` for every layer that has at least one line.

    Raises FileNotFoundError where there is no log, ValueError where the file is not one of ours. A last
    line that a killed run left half-written is passed over.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        source = self.path / RUN_FILE
        if not source.is_file():
            raise FileNotFoundError(
                f"Records({str(path)!r}): no {RUN_FILE} there; expected a folder that watch() wrote."
            )
        try:
            data = json.loads(source.read_text(encoding="utf-8"))
            if data.pop("format") != FORMAT:
                raise KeyError("format")
            data["layers"] = tuple(_layer(d) for d in data["layers"])
            data["groups"], data["rules"] = tuple(data["groups"]), tuple(data["rules"])
            self.run = Run(**data)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"Records({str(path)!r}): {RUN_FILE} is not a log of this version ({error}).") from None
        self._lines: dict[str, list[dict[str, Any]]] = {}
        for line in self._read():
            self._lines.setdefault(line["layer"], []).append(line)

    @property
    def layers(self) -> list[Layer]:
        """The layers with at least one measurement, in the model's order."""
        return [layer for layer in self.run.layers if layer.name in self._lines]

    def series(self, layer: str) -> Series:
        """Everything measured of one layer."""
        lines = self._lines[layer]
        described = next(x for x in self.run.layers if x.name == layer)
        integer = ("step", "group")
        columns: dict[str, Any] = {
            k: np.array([x[k] for x in lines], dtype=np.int64 if k in integer else np.float64)
            for k in (*SCALARS, "quantiles", *SERIES)
        }
        return Series(layer=described, **columns)

    def _read(self) -> Iterator[dict[str, Any]]:
        steps = self.path / STEPS_FILE
        if not steps.is_file():
            return
        with open(steps, encoding="utf-8") as file:
            for number, text in enumerate(file, start=1):
                try:
                    yield json.loads(text)
                except json.JSONDecodeError:
                    if text.endswith("\n"):  # a whole line that does not read is damage, not a kill
                        raise ValueError(f"Records: line {number} of {steps} does not read as JSON.") from None


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that shape a run, for the record."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("rotational", "torch", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def _layer(data: Mapping[str, Any]) -> Layer:
    fields = dict(data)
    fields["shape"], fields["kept"] = tuple(fields["shape"]), tuple(fields["kept"])
    fields["parts"] = tuple((str(name), int(count)) for name, count in fields["parts"])
    return Layer(**fields)


def _digits(values: Sequence[float]) -> str:
    # Formatting is the cost of a log; %-formatting each float is the fastest that plain Python has.
    return ",".join(["%.5g" % v for v in values]).replace("nan", "null").replace("-inf", "null").replace("inf", "null")  # noqa: UP031


def _write_whole(path: Path, text: str) -> None:
    """Write a file so that a kill leaves the old one or the new one, never half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
