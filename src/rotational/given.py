"""What users give a forecast, checked: numbers, or one for each neuron, and the setting that they describe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rotational import _check, scaling, theory
from rotational.correlation import Shape
from rotational.dynamics.setting import Setting
from rotational.rule import Rule
from rotational.scale import Polar, Raw, Rms
from rotational.weights import turns

ROWS = 1000
"""Batch sizes in one table at most, each of which is a forecast."""


def noisy(rule: Rule, kurtosis: float | None) -> Rule:
    """The rule with the kurtosis of its gradients, where it names none."""
    if isinstance(rule.scale, Rms) and rule.scale.kurtosis is None and kurtosis is not None:
        return replace(rule, scale=replace(rule.scale, kurtosis=_check.number("forecast", "kurtosis", kurtosis, low=1)))
    return rule


def setting_of(
    call: str,
    rule: Rule,
    arrays: dict[str, np.ndarray | None],
    count: int,
    scale_invariant: bool = True,
    drift: float = 0.0,
    radial: float = 0.0,
    target_norm: float = 0.0,
    shape: Shape | None = None,
    kurtosis: float | None = 3.0,
) -> Setting:
    """The setting of `count` neurons whose norm, size and gradient_norm stand in `arrays`, checked.

    Raises ValueError for what the rule needs and was not given.
    """
    first = {name: None if x is None else float(x[0]) for name, x in arrays.items()}
    setting = theory.described(
        call, rule, None if first["size"] is None else int(first["size"]), first["gradient_norm"], scale_invariant,
        shape=shape, radial=radial, target_norm=target_norm, drift=drift,
    )  # fmt: skip
    needs = {
        "shape": isinstance(rule.scale, Polar) and shape is None,
        "size": not setting.known
        and (arrays["norm"] is not None or bool(target_norm))
        and not isinstance(rule.scale, Raw),
        "gradient_norm": arrays["gradient_norm"] is None
        and isinstance(rule.scale, Raw)
        and (arrays["norm"] is not None or bool(target_norm)),
    }
    if theory.depends_on_gradient(setting):
        needs |= {"size": not setting.known, "gradient_norm": arrays["gradient_norm"] is None}
    missing = [f"{name}=" for name, absent in needs.items() if absent]
    if missing:
        raise ValueError(
            f"{call}({rule.title}): the norm of this rule needs {' and '.join(missing)}. {_MEANINGS[missing[0]]}"
        )
    full = np.ones(count)

    def column(name: str, otherwise: float) -> np.ndarray:
        x = arrays[name]
        return full * (otherwise if x is None else x)

    return replace(
        setting,
        rule=noisy(rule, kurtosis),
        size=full * setting.size if shape is not None else column("size", setting.size),
        gradient=column("gradient_norm", 1.0),
    )


_MEANINGS = {
    "shape=": "Give the rows and columns of the matrix that is orthogonalised.",
    "size=": "Give the number of weights of a neuron (its fan-in).",
    "gradient_norm=": "Give the RMS norm of a neuron's gradient, at |w| = 1 where it is scale-invariant.",
}


def directed(call: str, setting: Setting) -> None:
    """Refuse neurons that have no direction, where gradients are to be orthogonal to them."""
    lone = ~turns(setting.size)
    if setting.known and setting.scale_invariant and lone.any():
        some = "" if len(lone) == 1 else f" for {np.count_nonzero(lone)} of {len(lone)} neurons"
        raise ValueError(
            f"{call}(size=1{some}): a neuron of one weight has no direction to turn in, and no gradient is orthogonal "
            "to it. Leave it out, or give scale_invariant=False."
        )


def neurons(call: str, name: str, value: Any) -> np.ndarray | None:
    """A positive number, or one for each neuron, as an array; whole ones where they are sizes."""
    if value is None:
        return None
    check = _whole if name == "size" else _above_zero
    if np.ndim(value) == 0:
        return np.array([check(call, name, value)])
    if np.ndim(value) != 1 or len(value) == 0:
        came = f"array of {np.ndim(value)} axes" if np.size(value) else "no numbers"
        raise ValueError(f"{call}({name}={came}): expected a number, or one for each neuron.")
    return np.array([check(call, f"{name}[{i}]", x) for i, x in enumerate(np.asarray(value).tolist())])


def several(call: str, name: str, value: Any) -> Any:
    """A list of batch sizes, neither empty nor longer than `ROWS`."""
    if isinstance(value, Sequence | np.ndarray) and len(value) > ROWS:  # a range may count more than memory holds
        raise ValueError(f"{call}({name}): expected at most {ROWS:,} batch sizes, got {len(value):,}.")
    if np.ndim(value) != 1 or len(value) == 0:
        raise ValueError(f"{call}({name}={value!r}): expected a list of numbers, such as [64, 256].")
    return value


def of_one(call: str, told: dict[str, Any]) -> None:
    """Refuse what is no property of one neuron, or follows from the batch size."""
    if "drift" in told:
        raise TypeError(
            f"{call}(drift={told['drift']!r}): noise_scale= gives the drift of each batch size; leave it out."
        )
    for name in ("norm", "size", "gradient_norm"):
        value: Any = told.get(name)
        if (axes := np.ndim(value)) > 0:
            raise ValueError(
                f"{call}({name}=array of {axes} {'axis' if axes == 1 else 'axes'}): expected a number, for a table is "
                "of one neuron; call it once for each."
            )


def _whole(call: str, name: str, value: Any) -> float:
    return float(_check.whole(call, name, value))


def _above_zero(call: str, name: str, value: Any) -> float:
    return _check.number(call, name, value, low=0, above=True)


def drift_of(call: str, drift: float, batch_size: Any, noise_scale: Any) -> float:
    """The share of the gradient that is its mean, however it was told."""
    if batch_size is None and noise_scale is None:
        return drift
    if drift:
        raise ValueError(f"{call}(drift={drift!r}): batch_size= and noise_scale= give the drift; leave one out.")
    if batch_size is None or noise_scale is None:
        name, other = ("noise_scale", "batch_size") if batch_size is None else ("batch_size", "noise_scale")
        value = noise_scale if batch_size is None else batch_size
        raise ValueError(
            f"{call}({name}={value!r}): only both tell how much of a gradient is noise; give {other}= too."
        )
    at = _check.number(call, "batch_size", batch_size, low=0, above=True)
    return scaling.signal(_check.number(call, "noise_scale", noise_scale, low=0, above=True), at, at)[0]


def count(call: str, steps: int, arrays: dict[str, np.ndarray | None]) -> int:
    """How many neurons the arrays are of."""
    counts = {name: len(x) for name, x in arrays.items() if x is not None and len(x) > 1}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name}= has {n}" for name, n in counts.items())
        raise ValueError(f"{call}(steps={steps}): expected as many entries in each array, but {told}.")
    return max(counts.values(), default=1)
