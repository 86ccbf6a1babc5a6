"""What a forecast says: series over steps, as numbers, a table, a picture or a data frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from rotational.rule import Rule
from rotational.scale import Raw

NEAR = 0.1
"""Rotation within this share of the static one counts as there."""


@dataclass(frozen=True, eq=False)
class Forecast:
    """Norm and rotation of a neuron over a run: an entry for each kept step [T], or [T, G] for G neurons.

    step            [T] optimizer steps taken, this one included
    lr weight_decay of the step
    rotation        RMS angle between the weights before and after the step (2 asin of half the chord of unit vectors,
                    not its tangent), radians
    norm            RMS length after the step; None where the inputs that give it units are missing
    update          RMS length of the change in the step, decay included; None like `norm`
    static          rotation at the equilibrium of this step's lr and weight decay: what the static formula says
    static_norm     norm there; infinite without decay, NaN where lr is 0 and nothing moves
    reached         how near the norm is to that equilibrium: the smaller of norm/static_norm and its inverse
    timescale       1/D: steps over which past updates are forgotten at this step's decay, however it enters
    initial         norm before the first step, [G] for G neurons; None like `norm`
    held            True where a rotational optimizer holds the rotation, which is then no random walk's
    notes           what was assumed, and where the law is stretched, in words
    names           of G neurons, where they have any: those of parameters, from `predict` with a model

    >>> from rotational import forecast, rules
    >>> f = forecast(rules.adamw(), lr=1e-2, weight_decay=0.1, steps=4000, norm=0.3, size=64)
    >>> f.arrives, round(f.transient, 2)        # the first step within 10% of static; share of steps that are not
    (928, 0.23)
    """

    rule: Rule
    step: np.ndarray
    lr: np.ndarray
    weight_decay: np.ndarray
    rotation: np.ndarray
    norm: np.ndarray | None
    update: np.ndarray | None
    static: np.ndarray
    static_norm: np.ndarray | None
    reached: np.ndarray
    timescale: np.ndarray
    initial: Any = None
    held: bool = False
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def ratio(self) -> np.ndarray:
        """Rotation over static rotation; NaN where nothing turns."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.static > 0, self.rotation / self.static, math.nan)

    @property
    def arrives(self) -> Any:
        """The first kept step whose rotation is within 10% of the static one; None for never. A list for G neurons."""
        near = np.abs(self.ratio - 1) <= NEAR
        if near.ndim == 2:
            return [self.neuron(i).arrives for i in range(near.shape[1])]
        return int(self.step[np.argmax(near)]) if near.any() else None

    @property
    def settles(self) -> Any:
        """The first step from which rotation stays that near for a twentieth of the run; None for never. A list for G.

        `arrives` counts the step at which rotation merely passes the static one, as it does in most warm-ups. Rotation
        that has settled may leave again, as it does behind a falling lr: `transient` counts that too.
        """
        if self.rotation.ndim == 2:
            return [self.neuron(i).settles for i in range(self.rotation.shape[1])]
        near = np.abs(self.ratio - 1) <= NEAR
        stay = max(1, math.ceil(len(near) / 20))
        # how many of the next `stay` steps are near, as a difference of running sums
        counted = np.concatenate(([0], np.cumsum(near)))
        within = counted[stay:] - counted[:-stay] == stay
        return int(self.step[np.argmax(within)]) if within.any() else None

    @property
    def transient(self) -> Any:
        """The share of the run that rotation spends more than 10% off the static one, steps without lr left out.

        Before it settles and after: where lr falls to 0 the norm lags, and the end of the run counts.
        """
        moving = (self.static > 0) | np.isnan(self.rotation)
        far = moving & ~(np.abs(self.ratio - 1) <= NEAR)
        share = far.sum(axis=0) / np.maximum(moving.sum(axis=0), 1)
        return float(share) if np.ndim(share) == 0 else share

    @property
    def distance(self) -> Any:
        """Square root of the sum of squared angles, radians: how far a random walk of these steps gets."""
        every = float(self.step[0]) if len(self.step) else 1.0
        walked = np.sqrt(every * np.sum(self.rotation**2, axis=0))
        return float(walked) if np.ndim(walked) == 0 else walked

    def neuron(self, index: int) -> Forecast:
        """The forecast of one of G neurons; raises IndexError where there is no such neuron."""
        count = 1 if self.rotation.ndim == 1 else self.rotation.shape[1]
        if not -count <= index < count:
            told = "one neuron" if count == 1 else f"{count} neurons"
            raise IndexError(f"Forecast.neuron({index}): this is a forecast of {told}, which count from 0.")
        if self.rotation.ndim == 1:
            return self
        columns = {k: x[:, index] for k, x in self.series().items() if x.ndim == 2}
        initial = None if self.initial is None else float(self.initial[index])
        return replace(self, initial=initial, names=self.names[index:][:1], **columns)

    def at(self, step: int) -> dict[str, Any]:
        """All values at the last kept step that is not after `step`.

        Raises ValueError for a step before the first that was kept.
        """
        i = int(np.searchsorted(self.step, step, side="right")) - 1
        if i < 0:
            raise ValueError(f"Forecast.at({step}): the first step that was kept is {int(self.step[0])}.")
        return {k: (x[i].item() if np.ndim(x[i]) == 0 else x[i]) for k, x in self.series().items()}

    def series(self) -> dict[str, np.ndarray]:
        """The series that are known, by name, `step` first: an entry for each kept step, so without `initial`."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "initial"}
        return {k: x for k, x in found.items() if isinstance(x, np.ndarray)}

    def thinned(self, every: int) -> Forecast:
        """The same forecast with one kept value in `every`: those that `forecast(every=...)` would have kept."""
        return replace(self, **{k: x[every - 1 :: every] for k, x in self.series().items()})

    # To look at ---------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        if self.rotation.ndim == 2:
            count = self.rotation.shape[1]
            return "\n\n".join(f"neuron {i}\n{self.neuron(i)}" for i in range(min(count, 4))) + (
                f"\n\n... and {count - 4} more" if count > 4 else ""
            )
        lines = [f"{self.rule.title}, {counted(self.step[-1])}", *self._rows(), "", *self.sentences()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.rotation.shape))
        return f"Forecast({self.rule.title}, {counted(self.step[-1])}, kept {shape})"

    def _rows(self) -> list[str]:
        chosen = sorted({int(np.argmin(np.abs(self.step - self.step[-1] * part))) for part in _PARTS})
        names = ["step", "lr", "rotation", "of static", "norm", "of equilibrium", "update"]
        rows = [[f"{int(self.step[i]):,}", f"{self.lr[i]:.3g}", f"{self.rotation[i]:.3g}", _share(self.ratio[i]),
                 _known(self.norm, i), self._reached(i), _known(self.update, i)] for i in chosen]  # fmt: skip
        if self.initial is not None:  # the run begins before its first step, which may change the norm already
            rows.insert(0, ["0", "", "", "", f"{self.initial:.3g}", "", ""])
        widths = [max(len(row[k]) for row in [names, *rows]) for k in range(len(names))]
        table = ([cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in [names, *rows])
        return ["  ".join(row).rstrip() for row in table]

    def _reached(self, i: int) -> str:
        """A share of an equilibrium norm, where there is one."""
        there = self.static[i] > 0 and (self.static_norm is None or math.isfinite(self.static_norm[i]))
        return _share(self.reached[i]) if there else "-"

    @property
    def without(self) -> str:
        """Why there is no equilibrium at any step, in words; nothing where there is one.

        >>> from rotational import forecast, rules
        >>> forecast(rules.adamw(), lr=0.0, weight_decay=0.1, steps=9, norm=1.0, size=64).without
        'The learning rate is 0 throughout: nothing moves, and nothing is learnt.'
        """
        if np.any(self.static > 0):
            return ""
        if not np.any(self.lr > 0):
            return "The learning rate is 0 throughout: nothing moves, and nothing is learnt."
        if not np.any(self.lr * self.weight_decay > 0):
            return "Without weight decay no equilibrium forms: norms grow, and rotation falls."
        if self.rule.decay == "coupled" and not isinstance(self.rule.scale, Raw):
            return (
                "No equilibrium forms: decay outweighs so small a gradient, and what is left of the weights is thrown "
                "to and fro."
            )
        return "No equilibrium forms at any learning rate and weight decay of this run."

    def sentences(self) -> list[str]:
        """What the numbers mean, plainly; the notes after it."""
        if self.held:
            return ["Rotation is held from the first step, and norms stay where they start.", *self.notes]
        if without := self.without:
            return [without, *self.notes]
        arrives, settles = self.arrives, self.settles
        if arrives is None:
            said = "Rotation is never within 10% of what the static formula says."
        else:
            stays = "" if settles == arrives else ", in passing" if settles is None else f", and settles at {settles:,}"
            said = (
                f"Rotation comes within 10% of what the static formula says at step {arrives:,}{stays}; "
                f"it is not there in {self.transient:.0%} of the run."
            )
        return [said, *self.notes]

    def plot(self, *, title: str | None = None) -> Any:
        """A Plotly figure: rotation beside the static one, and the norm beside its equilibrium; neurons by colour.

        >>> from rotational import forecast, rules
        >>> figure = forecast(rules.adamw(), lr=1e-2, weight_decay=0.1, steps=100, norm=1.0, size=64).plot()
        >>> [trace.name for trace in figure.data]
        ['rotation', 'static formula', 'norm', 'equilibrium norm']
        """
        from rotational.report import outlook  # the one edge to reports, taken when it is asked for

        return outlook.figure(self, title=title)

    def to_pandas(self) -> Any:
        """A data frame, a row for each kept step; for G neurons, a row for each step and neuron, by name or number.

        `frame.attrs["initial"]` is the norm before the first step, where norms are known.
        Raises ImportError with what to install where pandas is absent.
        """
        try:
            import pandas
        except ImportError:
            raise ImportError("Forecast.to_pandas() needs pandas: pip install 'rotational[pandas]'.") from None
        if self.rotation.ndim == 1:
            frame = pandas.DataFrame(self.series())
        else:
            count = self.rotation.shape[1]
            frames = [
                pandas.DataFrame({"neuron": (self.names or range(count))[i], **self.neuron(i).series()})
                for i in range(count)
            ]
            frame = pandas.concat(frames, ignore_index=True)
        if self.initial is not None:
            frame.attrs["initial"] = np.asarray(self.initial).tolist()
        return frame


@dataclass(frozen=True, eq=False)
class AtBatchSize:
    """A run at one batch size: a row of `BatchSizes`.

    steps       of the same data
    drift       |E g|/gradient_norm there, the share of the gradient that is its mean
    gradient    gradient_norm there, over that of the run that was described
    forecast    along the schedule, stretched to these steps

    >>> from rotational import forecasts, rules
    >>> run = {"lr": 0.1, "weight_decay": 1e-2, "steps": 400, "batch_size": 64, "noise_scale": 192}
    >>> row = forecasts.at_batch_sizes(rules.sgd(), [256], **run)[0]
    >>> row.steps, round(row.drift, 3), round(row.gradient, 3), round(row.rest, 4)
    (100, 0.756, 0.661, 0.0447)
    """

    batch_size: float
    steps: int
    drift: float
    gradient: float
    forecast: Forecast

    @property
    def rest(self) -> float:
        """Rotation at the equilibrium of the highest lr, of noise alone; radians per step."""
        return float(np.max(self.forecast.static))

    @property
    def rotation(self) -> float:
        """Rotation half-way through the run, with the mean of the gradient."""
        return float(self.forecast.rotation[(len(self.forecast.step) - 1) // 2])

    @property
    def timescale(self) -> float:
        """1/D at its shortest, in steps; times `batch_size`, in examples."""
        return float(np.min(self.forecast.timescale))

    @property
    def transient(self) -> float:
        """`Forecast.transient`: share of the run that rotation spends more than 10% off the static one."""
        return self.forecast.transient


class BatchSizes(Sequence[AtBatchSize]):
    """A run at several batch sizes, of `forecasts.at_batch_sizes`: a sequence that prints as a table."""

    def __init__(
        self, rows: Sequence[AtBatchSize], unit: str, noise_scale: float | None, followed: bool, said: str
    ) -> None:
        self.rows, self.unit, self.noise_scale, self.followed = tuple(rows), unit, noise_scale, followed
        self._said = said

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def table(self) -> list[list[str]]:
        """Titles, and a row for each batch size; norms where they are known. `legend` says what they are."""
        titles = ["batch", "steps", "signal", "grad", "at rest", "at 50%", "norm"]
        titles += ["memory", self.unit, "of run", "transient"]
        rows = [
            [
                f"{row.batch_size:,g}",
                f"{row.steps:,}",
                f"{row.drift:.2f}",
                f"{row.gradient:.2g}x",
                _short(row.rest),
                _short(row.rotation),
                "" if row.forecast.norm is None else f"{row.forecast.norm[-1]:.3g}",
                f"{row.timescale:,.0f}" if row.timescale < 1e7 else _short(row.timescale),
                _short(row.timescale * row.batch_size),
                f"{row.timescale / row.steps:.2g}",
                f"{row.transient:.0%}" if np.any(row.forecast.static > 0) else "-",
            ]
            for row in self
        ]
        columns = [c for c in zip(titles, *rows, strict=True) if any(c[1:])]
        return [list(line) for line in zip(*columns, strict=True)]

    @property
    def legend(self) -> str:
        """What the columns are."""
        return (
            "signal: share of the gradient that is its mean; grad: its size, over that of the run; rotation in "
            "rad/step at rest under the highest lr, of noise alone, and half-way through the run; norm at the end; "
            f"memory: steps over which updates are forgotten, also in {self.unit} and over the run; transient: share "
            "of all steps in which rotation is more than 10% off the static formula."
        )

    def sentences(self) -> list[str]:
        """What is assumed, what of the gradient counts under this rule, and the notes of the forecasts."""
        if self.noise_scale is None:
            assumed = f"Gradients are taken as noise alone, whose length falls as 1/sqrt({self.unit} in a batch)."
        else:
            assumed = f"Half of a squared gradient is its mean at {self.noise_scale:,g} {self.unit} in a batch; " + (
                "that mean is taken to keep its direction throughout the run, the most that it can do."
                if self.followed
                else "gradients of that size are taken as noise, for the mean of so long a run is not followed here."
            )
        notes = dict.fromkeys(note for row in self for note in row.forecast.notes)
        return [self._said, assumed, "lr, weight decay and data are the same in every row.", *notes]

    def __str__(self) -> str:
        lines = self.table()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        shown = ["  ".join(x.rjust(w) for x, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([*shown, self.legend, "", *self.sentences()])

    __repr__ = __str__


_PARTS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 1.0)


def counted(steps: Any) -> str:
    """A number of steps in words.

    >>> counted(1), counted(20_000)
    ('1 step', '20,000 steps')
    """
    return f"{int(steps):,} step{'' if steps == 1 else 's'}"


def _short(x: float) -> str:
    return f"{x:.1e}".replace("e-0", "e-").replace("e+0", "e")


def _share(x: float) -> str:
    return f"{x:.2f}" if math.isfinite(x) else "-"


def _known(x: np.ndarray | None, i: int) -> str:
    return "unknown" if x is None else f"{x[i]:.3g}"
