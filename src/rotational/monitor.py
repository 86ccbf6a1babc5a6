"""Watch a training run: what every neuron really did, through the optimizer's own step hooks.

The change of the weights is measured from before to after the step, so decay, clipping and whatever else the
optimizer does are in it. On steps that are not logged the hooks count, and do nothing else.
The monitor never imports theory: the witness does not know the prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType, UnionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rotational import _check, _hooks, records
from rotational.changes import table_of
from rotational.layers import Overrides, partition
from rotational.neurons import Neurons
from rotational.optim.recognise import recognise
from rotational.rule import Rule


def watch(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    every: int = 10,
    path: str | Path | None = None,
    overrides: Overrides | None = None,
    rule: Rule | None = None,
    keep: int | None = 128,
    title: str | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Log:
    """Measure every neuron of `model` at every `every`-th step of `optimizer`, into a log folder.

    Per neuron: the angle turned in that step (radians), the length after it, the length of the change and
    its radial share. Each layer's RMS and quantiles count all its neurons; the series of single neurons are
    kept for at most `keep` of them per layer, evenly spaced (None: all). A layer has no line in the log while
    it is frozen or the optimizer does not drive it; one that joins later is measured from then on.

    `path` is the log folder (default: `rotation-log` in the working directory, numbered if taken).
    `overrides` are those of `rotational.partition`. `rule` names the rule of an optimizer that is not known;
    without it such a run is measured all the same, and its report has no prediction. `title` and `notes`
    (numbers, strings, lists and dicts) go into the log as they are. Of several processes, each watches and
    writes a log of its own; weights sharded over them (DTensor) are measured whole.

    Use it as a context manager, or call `close()`: either leaves no hook behind.
    Raises TypeError or ValueError for arguments that are not as said here, ValueError for a model and an
    optimizer that share no neurons, FileExistsError for a `path` that holds a log already. Nothing is hooked
    or written then.

    >>> import tempfile
    >>> model = nn.Linear(8, 4)
    >>> opt = torch.optim.AdamW(model.parameters(), lr=1e-2)
    >>> with watch(model, opt, every=1, path=tempfile.mkdtemp() + "/log") as log:
    ...     for _ in range(3):
    ...         model(torch.randn(2, 8)).sum().backward()
    ...         opt.step()
    >>> log.read().series("weight").rotation.shape          # [steps, neurons]
    (3, 4)
    """
    return Log(model, optimizer, every, path, overrides, rule, keep, title, notes)


@dataclass(frozen=True)
class _Watched:
    """A parameter under watch."""

    p: Tensor
    units: Neurons
    layer: records.Layer


class Log:
    """A log in the making; `watch` opens it.

    `path` is its folder, `steps` the optimizer steps seen, `latest` the RMS rotation over all neurons in the
    last logged step (None before the first).
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        every: int,
        path: str | Path | None,
        overrides: Overrides | None,
        rule: Rule | None,
        keep: int | None,
        title: str | None,
        notes: Mapping[str, Any] | None,
    ) -> None:
        self.every = _check.whole("watch", "every", every)
        self.steps = 0
        self.latest: float | None = None
        self._keep = None if keep is None else _check.whole("watch", "keep", keep)
        _kind("rule", rule, Rule, "a Rule, such as rotational.rules.adamw(betas=(0.9, 0.999))")
        _kind("path", path, str | Path, "a path")
        _kind("title", title, str, "a string")
        _kind("notes", notes, Mapping, "a dict")
        optimizer = _hooks.hooked(optimizer)
        self._model: nn.Module | None = model
        self._overrides, self._rule = overrides, rule
        self._placed: dict[Tensor, int] = {}
        self._watched: dict[str, _Watched] = {}
        self._before: dict[str, Tensor] = {}
        self._tables: dict[str, Tensor] = {}
        self._filled: Mapping[Tensor, Tensor] | None = None  # those of the last time, copied from and free to be filled
        self._run = records.Run(
            title=title or f"{type(model).__name__} under {type(optimizer).__name__}",
            optimizer=f"{type(optimizer).__module__}.{type(optimizer).__qualname__}",
            groups=(),
            rules=(),
            layers=(),
            versions=records.versions(),
            every=self.every,
            notes=dict(notes or {}),
            resumed=any(optimizer.state.get(p) for group in optimizer.param_groups for p in group["params"]),
        )
        self._survey(model, optimizer)
        if not self._watched:
            raise ValueError(
                f"watch({type(model).__name__}, {type(optimizer).__name__}): the optimizer drives none of the model's "
                "neurons. Build it from this model's parameters, or name the neurons in overrides=."
            )
        self._hooks = _hooks.StepHooks(optimizer, self._before_step, self._after_step)
        try:
            self._writer = records.Writer(path, self._run)
        except BaseException:
            self._hooks.remove()
            raise
        self.path = self._writer.path

    # What is watched --------------------------------------------------------------------------------------

    def _survey(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Find the neurons that the optimizer drives, and describe in `_run` what it does not know yet."""
        placed, groups, neurons = _placed(optimizer), optimizer.param_groups, partition(model, self._overrides)
        known, watched = {layer.name: layer for layer in self._run.layers}, dict[str, _Watched]()
        for name, p in model.named_parameters():
            if name in neurons and p in placed:
                layer = _layer(name, p, neurons[name], neurons.module(name), self._keep, placed[p])
                if known.setdefault(name, layer).shape != layer.shape:
                    raise ValueError(
                        f"watch: {name} had the shape {list(known[name].shape)} when it came into the log, and has "
                        f"{list(layer.shape)} now. Close this log, and watch again."
                    )
                watched[name] = _Watched(p, neurons[name], layer)
        self._placed, self._watched = placed, watched
        old = len(self._run.groups)
        self._run = replace(
            self._run,
            groups=(*self._run.groups, *(_options(group) for group in groups[old:])),
            rules=(*self._run.rules, *_rules(optimizer, self._rule)[old:]),
            layers=tuple(known.values()),
        )

    def _look_again(self, optimizer: Optimizer) -> None:
        """Survey anew where groups were added, or parameters moved, exchanged or resized."""
        assert self._model is not None
        if (
            len(optimizer.param_groups) > len(self._run.groups)
            or _placed(optimizer) != self._placed
            or any(tuple(x.p.shape) != x.layer.shape for x in self._watched.values())
        ):
            self._survey(self._model, optimizer)
            self._writer.describe(self._run)

    # Every step -------------------------------------------------------------------------------------------

    def _before_step(self, optimizer: Optimizer) -> None:
        self._before, self._tables = {}, {}  # those of a step that raised
        if (self.steps + 1) % self.every == 0:
            self._look_again(optimizer)
            # What the optimizer's own step can write down needs no clone.
            asked = {x.p: x.units for x in self._watched.values()}
            measure: Callable[..., Mapping[Tensor, Tensor]] | None = getattr(optimizer, "measure", None)
            tables = self._filled = None if measure is None else measure(asked, out=self._filled)
            for name, watched in self._watched.items():
                if tables is not None and watched.p in tables:
                    self._tables[name] = tables[watched.p]
                elif watched.p.requires_grad or watched.p.grad is not None:
                    self._before[name] = watched.p.detach().clone()

    def _after_step(self, optimizer: Optimizer) -> None:
        self.steps += 1
        if self._before or self._tables:
            self._write(optimizer, self._measured())

    def _measured(self) -> dict[str, np.ndarray]:
        """[4, neurons] of every layer: angle, norm, update, radial. Each clone is freed as soon as it is measured."""
        found, self._tables = self._tables, {}
        with torch.no_grad():
            for name in list(self._before):
                watched = self._watched[name]
                found[name] = table_of(watched.units, self._before.pop(name), watched.p.detach())
        arrays: dict[str, np.ndarray] = {}
        for device in {x.device for x in found.values()}:
            here = {name: x for name, x in found.items() if x.device == device}
            # One array crosses to the CPU, so that a GPU waits once; doubles come after, for not all have them.
            table = torch.cat(list(here.values()), dim=1).cpu().double().numpy()
            ends = np.cumsum([x.shape[1] for x in here.values()])[:-1]
            arrays.update(zip(here, np.split(table, ends, axis=1), strict=True))
        return arrays

    def _write(self, optimizer: Optimizer, arrays: dict[str, np.ndarray]) -> None:
        groups = [
            {
                "group": i,
                "lr": _scalar(group.get("lr")),
                "weight_decay": _scalar(group.get("weight_decay", 0.0)),
                "held": None if group.get("held") is None else _scalar(group["held"]),
                # Written only where it is no longer the one in run.json: momentum on a schedule, say.
                "rule": None if rule == self._run.rules[i] else rule,
            }
            for i, (group, rule) in enumerate(zip(optimizer.param_groups, _rules(optimizer, self._rule), strict=True))
        ]
        watched = {name: self._watched[name] for name in arrays}
        self._writer.write(
            [_measurement(w.layer, self.steps, groups[self._placed[w.p]], arrays[name]) for name, w in watched.items()]
        )
        self.latest = _rms(np.concatenate([x[0] for x in arrays.values()]))

    # For the user -----------------------------------------------------------------------------------------

    def note(self, **numbers: float) -> None:
        """Note numbers of the run as a whole at this step; the report draws `loss` and `val_loss`.

        Raises ValueError or TypeError for what is not a number, and ValueError once the log is closed.
        """
        self._writer.note(self.steps, {name: _noted(name, value) for name, value in numbers.items()})

    def read(self) -> records.Records:
        """What has been measured so far."""
        return records.Records(self.path)

    def report(self, path: str | Path = "rotation.html", title: str | None = None) -> Path:
        """Write the HTML report of what has been measured so far: measured beside predicted."""
        from rotational.report import page  # the one edge to reports, taken when it is asked for

        return page.write(self.read(), path, title=title)

    def close(self) -> None:
        """Take the hooks off, let go of the model and close the files. Closing twice does nothing more."""
        self._hooks.remove()
        self._model, self._watched, self._placed, self._before, self._tables = None, {}, {}, {}, {}
        self._writer.close()

    def __enter__(self) -> Log:
        if self._model is None:
            raise ValueError(f"watch: the log {self.path} is closed. Call watch() again, with a new path.")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# Measuring ------------------------------------------------------------------------------------------------


def _measurement(layer: records.Layer, step: int, group: Mapping[str, Any], x: np.ndarray) -> records.Measurement:
    rotation, norm, update, radial = x[:, list(layer.kept)].tolist()
    return records.Measurement(
        layer=layer.name,
        step=step,
        **group,
        rotation_rms=_rms(x[0]),
        norm_rms=_rms(x[1]),
        update_rms=_rms(x[2]),
        quantiles=np.quantile(x[0], records.QUANTILES).tolist(),
        rotation=rotation,
        norm=norm,
        update=update,
        radial=radial,
    )


def _rms(values: np.ndarray) -> float:
    return math.sqrt(np.dot(values, values) / len(values))


# Describing -----------------------------------------------------------------------------------------------


def _placed(optimizer: Optimizer) -> dict[Tensor, int]:
    """The group of every parameter of the optimizer."""
    return {p: i for i, group in enumerate(optimizer.param_groups) for p in group["params"]}


def _layer(name: str, p: Tensor, units: Neurons, module: str, keep: int | None, group: int) -> records.Layer:
    count = units.count(p.shape)
    kept = np.linspace(0, count - 1, count if keep is None else min(keep, count), dtype=int)
    return records.Layer(
        name=name,
        module=module,
        shape=tuple(p.shape),
        neurons=count,
        size=units.size(p.shape),
        group=group,
        kept=tuple(kept.tolist()),
        parts=units.parts,
    )


def _rules(optimizer: Optimizer, rule: Rule | None) -> tuple[dict[str, Any] | None, ...]:
    try:
        return tuple(r.as_dict() for r in recognise(optimizer, rule, "watch"))
    except ValueError:  # measured all the same; the report says that nothing is predicted, and how to name the rule
        return (None,) * len(optimizer.param_groups)


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a group that are numbers, flags, names or lists of them."""
    left_out = ("params", "neurons", "param_names", "held", "steps")
    return {k: plain for k, v in group.items() if k not in left_out and _is_plain(plain := _item(v))}


def _item(value: Any) -> Any:
    single = isinstance(value, np.generic) or (isinstance(value, Tensor) and value.numel() == 1)
    return value.item() if single else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(v) for v in value)  # pyright: ignore[reportUnknownVariableType]  any element is judged
    return value is None or isinstance(value, bool | int | float | str)


def _scalar(value: Any) -> float:
    """A group's option as a number; NaN where the optimizer leaves it open (lr=None)."""
    return math.nan if value is None else float(value)


def _noted(name: str, value: Any) -> float:
    try:
        return float(value)  # a diverged loss is a finding, not an error
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"note({name}={value!r}): expected a number.") from None


# Checks ---------------------------------------------------------------------------------------------------


def _kind(name: str, value: Any, kind: type | UnionType, expected: str) -> None:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"watch({name}={value!r}): expected {expected}, got {type(value).__name__}.")
