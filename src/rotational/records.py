"""What was measured, on disk; the only thing that reports read.

A log is a folder of open files:

    run.json       what ran: library versions, the optimizer and its param groups, the layers (always whole)
    steps.jsonl    one line for every layer and logged step, flushed as the run goes
    curves.jsonl   numbers of the run as a whole, such as its loss, one line for each `Log.note` (if there was any)

so a killed run keeps every line that was flushed, and `pandas.read_json(path, lines=True)` reads the steps
without us. A number that was not finite is null. Columns of steps.jsonl:

    step           optimizer steps since the log began, this one included
    layer          parameter name
    group          index of the param group; `lr` and `weight_decay` as they were at this step
    held           rotation that a rotational optimizer was told to hold at this step, else null
    rule           the group's rule at this step, where it is not the one in run.json, else null
    rotation_rms   RMS rotation over all the layer's neurons, radians in this one step
    norm_rms       RMS length of the weight vectors after the step
    update_rms     RMS length of the change of the weight vectors, decay included
    quantiles      of the rotation over all neurons, at `QUANTILES`
    rotation norm update radial       one number for each kept neuron (see `kept` in run.json); radial is
                   the signed share of the change that runs along the weight vector, in [-1, 1]
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from itertools import count
from pathlib import Path
from typing import IO, Any

import numpy as np

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SCALARS = ("step", "group", "lr", "weight_decay", "held", "rotation_rms", "norm_rms", "update_rms")
SERIES = ("rotation", "norm", "update", "radial")
ARRAYS = ("quantiles", *SERIES)
RUN_FILE, STEPS_FILE, CURVES_FILE = "run.json", "steps.jsonl", "curves.jsonl"
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
    `Rule.as_dict` gives it, or None where the optimizer is not known and nobody named its rule. Both are as
    they were when the group came into the log. `resumed` says that the optimizer had taken steps before the log began.
    """

    title: str
    optimizer: str
    groups: tuple[Mapping[str, Any], ...]
    rules: tuple[Mapping[str, Any] | None, ...]
    layers: tuple[Layer, ...]
    versions: Mapping[str, str]
    every: int = 1
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    resumed: bool = False


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
    rule: Mapping[str, Any] | None = None

    def line(self) -> str:
        """The line of steps.jsonl, with five significant digits for each neuron."""
        head = json.dumps(_finite({k: getattr(self, k) for k in ("layer", *SCALARS, "rule")}), allow_nan=False)
        arrays = ",".join(f'"{k}":[{_digits(getattr(self, k))}]' for k in ARRAYS)
        return f"{head[:-1]},{arrays}}}\n"


@dataclass(frozen=True)
class Series:
    """All of one layer over time: scalars as [T], quantiles [T, 5], neuron series [T, kept].

    `rule` is that of the layer's group at each step, in the form of `Run.rules`. What was not finite is NaN.
    """

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
    rule: tuple[Mapping[str, Any] | None, ...]


class Writer:
    """Writes a log folder as the run goes; without a `path`, `rotation-log`, numbered if that is taken.

    Raises FileExistsError, before anything is written, when the folder already holds a log, for no run
    overwrites another, and TypeError for notes that JSON cannot hold.
    """

    def __init__(self, path: str | Path | None, run: Run) -> None:
        described = _described(run)
        self.path = _new_folder() if path is None else Path(path).absolute()
        taken = f"watch(path={str(path)!r}): this folder already holds a log. Give a new path, or remove it."
        if (self.path / RUN_FILE).exists():
            raise FileExistsError(taken)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise FileExistsError(f"watch(path={str(path)!r}): a file has this name. Give a folder.") from None
        try:
            # Mode "x" gives the folder to one of two runs that start at once.
            self._file: IO[str] | None = open(self.path / STEPS_FILE, "x", encoding="utf-8", newline="\n")  # noqa: SIM115 closed in close()
        except FileExistsError:
            raise FileExistsError(taken) from None
        try:
            _write_whole(self.path / RUN_FILE, described)
        except BaseException:
            self.close()
            (self.path / STEPS_FILE).unlink()
            raise

    def describe(self, run: Run) -> None:
        """Write run.json anew, for a run that gained groups or layers."""
        _write_whole(self.path / RUN_FILE, _described(run))

    def write(self, measurements: Sequence[Measurement]) -> None:
        """Append one logged step: a single write and a flush, so that a kill loses at most this step."""
        if self._file is None:
            raise ValueError(f"watch: the log {self.path} is closed.")
        self._file.write("".join(m.line() for m in measurements))
        self._file.flush()

    def note(self, step: int, numbers: Mapping[str, float]) -> None:
        """Append one line to curves.jsonl; raises ValueError once the log is closed."""
        if self._file is None:
            raise ValueError(f"watch: the log {self.path} is closed.")
        # Opened for each line: notes are few, and nothing is left to close.
        with open(self.path / CURVES_FILE, "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(_finite({"step": step, **numbers}), allow_nan=False) + "\n")

    def close(self) -> None:
        """Close the file; what was written stays."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Records:
    """A log read back: `run`, and `series(layer)` for every layer that has at least one line.

    Raises FileNotFoundError where there is no log, ValueError where a file is not one of ours or is damaged.
    A last line that a killed run left half-written is passed over.

    >>> import tempfile
    >>> layer = Layer("weight", "Linear", shape=(2, 3), neurons=2, size=3, group=0, kept=(0, 1))
    >>> run = Run("a run", "SGD", groups=({},), rules=(None,), layers=(layer,), versions={})
    >>> writer = Writer(tempfile.mkdtemp(), run)
    >>> scalars = dict.fromkeys(("lr", "weight_decay", "held", "rotation_rms", "norm_rms", "update_rms"), 0.2)
    >>> numbers = dict.fromkeys(SERIES, [0.1, 0.3])
    >>> writer.write([Measurement("weight", step=10, group=0, **scalars, quantiles=[0.2] * 5, **numbers)])
    >>> Records(writer.path).series("weight").rotation
    array([[0.1, 0.3]])
    >>> writer.close()
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        source = self.path / RUN_FILE
        if not source.is_file():
            raise FileNotFoundError(
                f"Records({str(path)!r}): no {RUN_FILE} there; expected a folder that watch() wrote."
            )
        try:
            self.run = _run(json.loads(source.read_text(encoding="utf-8")))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"Records({str(path)!r}): {RUN_FILE} is not a log of this version ({error}).") from None
        self._described = {layer.name: layer for layer in self.run.layers}
        self._lines: dict[str, list[dict[str, Any]]] = {}
        for line in _lines(self.path / STEPS_FILE, self._line):
            self._lines.setdefault(line["layer"], []).append(line)

    @property
    def layers(self) -> list[Layer]:
        """The layers with at least one measurement, in the model's order."""
        return [layer for layer in self.run.layers if layer.name in self._lines]

    def series(self, layer: str) -> Series:
        """Everything measured of one layer; raises ValueError for a name that has no measurement."""
        if layer not in self._lines:
            near = get_close_matches(layer, self._lines, n=3, cutoff=0.3)
            raise ValueError(
                f"series({layer!r}): nothing was measured under this name; the nearest are {', '.join(near) or 'none'}."
            )
        lines = self._lines[layer]
        columns: dict[str, Any] = {
            k: np.array([x[k] for x in lines], dtype=np.int64 if k in ("step", "group") else np.float64)
            for k in (*SCALARS, *ARRAYS)
        }
        rules = tuple(x["rule"] or self.run.rules[x["group"]] for x in lines)
        return Series(layer=self._described[layer], rule=rules, **columns)

    @property
    def curves(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """What was noted of the run as a whole: name -> (steps, values); NaN for what was not finite."""
        found: dict[str, list[tuple[int, float]]] = {}
        for line in _lines(self.path / CURVES_FILE, dict[str, Any]):
            for name, value in line.items():
                if name != "step":
                    found.setdefault(name, []).append((line["step"], math.nan if value is None else value))
        return {k: (np.array([x for x, _ in v]), np.array([y for _, y in v])) for k, v in found.items()}

    def _line(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """One line, its arrays as such: a list of floats takes four times the memory."""
        layer = self._described[data["layer"]]
        line = {k: data[k] for k in ("layer", *SCALARS, "rule")}
        line.update({k: np.array(data[k], dtype=np.float64) for k in ARRAYS})
        expected = (len(QUANTILES), *(len(layer.kept) for _ in SERIES))
        if any(line[k].shape != (n,) for k, n in zip(ARRAYS, expected, strict=True)):
            raise ValueError(f"expected {len(layer.kept)} numbers for each of {', '.join(SERIES)}")
        if not (isinstance(line["step"], int) and 0 <= line["group"] < len(self.run.rules)):
            raise ValueError(f"step {line['step']}, group {line['group']}")
        np.array([line[k] for k in SCALARS], dtype=np.float64)  # raises for what is no number
        return line


def _lines(path: Path, read: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The lines of a file, as `read` takes them; none if there is no file."""
    if not path.is_file():
        return
    with open(path, "rb") as file:
        for number, text in enumerate(file, start=1):
            # What a kill cut short has no newline; a whole line that does not read is damage.
            if not text.endswith(b"\n"):
                return
            try:
                yield read(json.loads(text.decode("utf-8")))
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                raise ValueError(
                    f"Records: line {number} of {path} is damaged ({error}). Take it out to read the others."
                ) from None


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


def _run(data: dict[str, Any]) -> Run:
    if (found := data.pop("format")) != FORMAT:
        raise ValueError(f"format {found}, expected {FORMAT}")
    data["layers"] = tuple(_layer(d) for d in data["layers"])
    data["groups"], data["rules"] = tuple(data["groups"]), tuple(data["rules"])
    return Run(**data)


def _layer(data: Mapping[str, Any]) -> Layer:
    fields = dict(data)
    fields["shape"], fields["kept"] = tuple(fields["shape"]), tuple(fields["kept"])
    fields["parts"] = tuple((str(name), int(count)) for name, count in fields["parts"])
    return Layer(**fields)


def _described(run: Run) -> str:
    """The text of run.json."""
    try:
        return json.dumps(_finite({"format": FORMAT, **asdict(run)}), indent=1, allow_nan=False)
    except TypeError as error:
        raise TypeError(f"watch(notes=...): expected numbers, strings, lists and dicts of them; {error}.") from None


def _finite(value: Any) -> Any:
    """`value` as JSON has it: None for a number that is not finite, lists for arrays."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _digits(values: Sequence[float]) -> str:
    # Formatting is the cost of a log; one %-format of all numbers is the fastest that plain Python has.
    text = ("%.5g," * len(values) % tuple(values))[:-1]
    return _NOT_FINITE.sub("null", text) if "n" in text else text


_NOT_FINITE = re.compile("-?(nan|inf)")


def _write_whole(path: Path, text: str) -> None:
    """Write a file so that a kill leaves the old one or the new one, never half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _new_folder() -> Path:
    """The first of rotation-log, rotation-log-2, ... that is free, made at once so that no other run takes it."""
    for n in count(1):
        path = Path("rotation-log" if n == 1 else f"rotation-log-{n}").absolute()
        if not path.exists():
            with suppress(FileExistsError):
                path.mkdir()
                return path
    raise AssertionError("count() never ends")
