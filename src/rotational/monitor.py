"""Watch a training run: what every neuron really did, through the optimizer's own step hooks.

The change of the weights is measured from before to after the step, so decay, clipping, skipped steps and
whatever else the optimizer does are in it. On steps that are not logged the hooks count, and do nothing else.
The monitor never imports theory: the witness does not know the prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rotational import _check, records
from rotational.layers import Partition, partition
from rotational.neurons import Neurons
from rotational.optim.recognise import recognise
from rotational.rule import Rule


def watch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    every: int = 10,
    path: str | Path | None = None,
    overrides: Mapping[str, Neurons | None] | None = None,
    rule: Rule | None = None,
    keep: int | None = 128,
    title: str | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Log:
    """Measure every neuron of `model` at every `every`-th step of `optimizer`, into a log folder.

    Per neuron: the angle turned in that step (radians), the length after it, the length of the change and
    its radial share. Each layer's RMS and quantiles count all its neurons; the series of single neurons are
    kept for at most `keep` of them per layer, evenly spaced (None: all).

    `path` is the log folder (default: `rotation-log` in the working directory, numbered if taken).
    `overrides` are those of `rotational.partition`. `rule` names the rule of an optimizer that is not known;
    without it such a run is measured all the same, and its report has no prediction.

    Use it as a context manager, or call `close()`: either leaves no hook behind.
    Raises ValueError for `every` or `keep` below 1, for a model and an optimizer that share no neurons;
    FileExistsError for a `path` that holds a log already. Nothing is hooked or written then.

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


class Log:
    """A log in the making; `watch` opens it.

    `path` is its folder, `steps` the optimizer steps seen, `latest` the RMS rotation over all neurons in the
    last logged step (None before the first).
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        every: int,
        path: str | Path | None,
        overrides: Mapping[str, Neurons | None] | None,
        rule: Rule | None,
        keep: int | None,
        title: str | None,
        notes: Mapping[str, Any] | None,
    ) -> None:
        self.every = int(_check.number("watch", "every", every, low=1))
        limit = None if keep is None else int(_check.number("watch", "keep", keep, low=1))
        self.steps = 0
        self.latest: float | None = None
        self._groups = optimizer.param_groups
        neurons = partition(model, overrides)
        self._watched = _watched(model, optimizer, neurons)
        self._layers = {name: _layer(name, p, neurons, limit, self._group(p)) for name, (p, _) in self._watched.items()}
        run = records.Run(
            title=title or f"{type(model).__name__} under {type(optimizer).__name__}",
            optimizer=f"{type(optimizer).__module__}.{type(optimizer).__qualname__}",
            groups=tuple(_plain(group) for group in self._groups),
            rules=_rules(optimizer, rule),
            layers=tuple(self._layers.values()),
            versions=records.versions(),
            every=self.every,
            notes=dict(notes or {}),
        )
        self._writer = records.Writer(path if path is not None else _free_path(), run)
        self.path = self._writer.path
        self._before: dict[str, Tensor] = {}
        self._hooks = [
            optimizer.register_step_pre_hook(self._pre_step),
            optimizer.register_step_post_hook(self._post_step),
        ]

    def _pre_step(self, *_: Any) -> None:
        self.steps += 1
        if self.steps % self.every == 0:
            self._before = {name: p.detach().clone() for name, (p, _) in self._watched.items()}

    def _post_step(self, *_: Any) -> None:
        if not self._before:
            return
        before, self._before = self._before, {}
        # One array [4, neurons of all layers] crosses to the CPU, so that a GPU waits once.
        parts: list[Tensor] = []
        with torch.no_grad():
            for name, (p, units) in self._watched.items():
                change = units.change(before.pop(name), p.detach())
                rows = (change.angle, units.norm(p.detach()), change.update, change.radial)
                parts.append(torch.stack([x.reshape(-1).double() for x in rows]))
            table = torch.cat(parts, dim=1).cpu().numpy()
        self.latest = _rms(table[0])
        ends = np.cumsum([part.shape[1] for part in parts])[:-1]
        self._writer.write(
            [
                self._measurement(name, *block)
                for name, block in zip(self._watched, np.split(table, ends, axis=1), strict=True)
            ]
        )

    def _measurement(
        self, name: str, rotation: np.ndarray, norm: np.ndarray, update: np.ndarray, radial: np.ndarray
    ) -> records.Measurement:
        layer = self._layers[name]
        group = self._group(self._watched[name][0])
        options = self._groups[group]
        held = options.get("held")
        kept = list(layer.kept)
        return records.Measurement(
            layer=name,
            step=self.steps,
            group=group,
            lr=float(options.get("lr", float("nan"))),
            weight_decay=float(options.get("weight_decay", 0.0)),
            held=None if held is None else float(held),
            rotation_rms=_rms(rotation),
            norm_rms=_rms(norm),
            update_rms=_rms(update),
            quantiles=np.quantile(rotation, records.QUANTILES).tolist(),
            rotation=rotation[kept].tolist(),
            norm=norm[kept].tolist(),
            update=update[kept].tolist(),
            radial=radial[kept].tolist(),
        )

    def _group(self, p: Tensor) -> int:
        return next(i for i, group in enumerate(self._groups) if any(q is p for q in group["params"]))

    def read(self) -> records.Records:
        """What has been measured so far."""
        return records.Records(self.path)

    def report(self, path: str | Path = "rotation.html", title: str | None = None) -> Path:
        """Write the HTML report of what has been measured so far: measured beside predicted."""
        from rotational.report import page  # the one edge to reports, taken when it is asked for

        return page.write(self.read(), path, title=title)

    def close(self) -> None:
        """Take the hooks off and close the files. Closing twice does nothing more."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._before = {}
        self._writer.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _watched(
    model: nn.Module, optimizer: torch.optim.Optimizer, neurons: Partition
) -> dict[str, tuple[Tensor, Neurons]]:
    driven = {id(p) for group in optimizer.param_groups for p in group["params"]}
    found: dict[str, tuple[Tensor, Neurons]] = {
        name: (p, neurons[name])
        for name, p in model.named_parameters()
        if name in neurons and id(p) in driven and p.numel() > 0
    }
    if not found:
        raise ValueError(
            f"watch({type(model).__name__}, {type(optimizer).__name__}): the optimizer drives none of the model's "
            "neurons. Build it from this model's parameters, or name the neurons in overrides=."
        )
    return found


def _layer(name: str, p: Tensor, neurons: Partition, limit: int | None, group: int) -> records.Layer:
    units = neurons[name]
    count = units.count(p.shape)
    kept = range(count) if limit is None or count <= limit else np.linspace(0, count - 1, limit).round().astype(int)
    return records.Layer(
        name=name,
        module=neurons.module(name),
        shape=tuple(p.shape),
        neurons=count,
        size=units.size(p.shape),
        group=group,
        kept=tuple(int(k) for k in kept),
        parts=units.parts,
    )


def _rules(optimizer: torch.optim.Optimizer, rule: Rule | None) -> tuple[dict[str, Any] | None, ...]:
    try:
        return tuple(r.as_dict() for r in recognise(optimizer, rule, "watch"))
    except ValueError:  # measured all the same; the report says that nothing is predicted, and how to name the rule
        return (None,) * len(optimizer.param_groups)


def _plain(group: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a group that are numbers, flags, names or lists of them."""
    plain: dict[str, Any] = {}
    for key, value in group.items():
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if key not in ("params", "neurons", "param_names", "held", "steps") and _is_plain(value):
            plain[key] = value
    return plain


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(v) for v in value)  # pyright: ignore[reportUnknownVariableType]  any element is judged
    return value is None or isinstance(value, bool | int | float | str)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _free_path() -> Path:
    path, n = Path("rotation-log"), 1
    while path.exists():
        n += 1
        path = Path(f"rotation-log-{n}")
    return path
