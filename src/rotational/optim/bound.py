"""A param group as it was read last, with the state of its parameters: what a step need not work out again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor

from rotational.control import Control
from rotational.kernels.choose import MEASURING, choose
from rotational.kernels.layout import layout
from rotational.kernels.work import Part
from rotational.neurons import Neurons
from rotational.rule import Rule
from rotational.scale import Rms

Group = dict[str, Any]


def options_of(group: Group, names: Iterable[str]) -> tuple[Any, ...]:
    """The options of a group as values that later changes leave alone."""
    return tuple(_value(group.get(name)) for name in names)


def _value(option: Any) -> Any:
    if isinstance(option, list | tuple):
        return tuple(option) if not any(isinstance(x, Tensor) for x in option) else tuple(map(_value, option))
    return option.item() if isinstance(option, Tensor) and option.numel() == 1 else option


_SHAPE = attrgetter("shape")


class Held:
    """The state of an optimizer as it was seen last.

    Small models are stepped in less time than it takes to look up each of their tensors, so everything is compared at
    once, by identity, and looked at one by one only where something is another object than before.
    """

    def __init__(self) -> None:
        self._values: list[Any] = []

    def same(self, states: Mapping[Tensor, dict[str, Any]]) -> bool:
        """Whether all of it is the same as at the last call."""
        values = list(chain.from_iterable(map(dict.values, states.values())))
        same = len(values) == len(self._values) and all(map(is_, values, self._values))
        self._values = values
        return same


class Bound:
    """Rule, control and units of one group, and a `Part` for each parameter that has had a gradient.

    What belongs to a parameter is looked at anew when its state, its storage or its shape is another than before.
    """

    def __init__(
        self,
        group: Group,
        options: tuple[Any, ...],
        rule: Rule,
        control: Control,
        units: Sequence[Neurons | None],
        memory_key: str,
    ) -> None:
        self.group, self.options, self.rule, self.control, self.units = group, options, rule, control, units
        self._parts: list[Part | None] = [None] * len(units)
        self._rungs: list[str] = [""] * len(units)
        self._whole: tuple[list[Tensor], list[int], list[torch.Size]] | None = None
        self._shares: dict[str, tuple[list[int], list[Part]]] | None = None
        self._memory_key = memory_key
        self._fresh: list[Part] = []

    def outdated(
        self, grads: Sequence[Tensor | None], states: Mapping[Tensor, Mapping[str, Any]], same: bool
    ) -> list[int]:
        """Parameters with a gradient whose part is missing or no longer as it was; `same` as `Held` has it."""
        params: list[Tensor] = self.group["params"]
        if same and self._whole is not None:
            weights, addresses, shapes = self._whole
            if (
                len(params) == len(weights)
                and all(map(is_, params, weights))
                and list(map(Tensor.data_ptr, params)) == addresses
                and list(map(_SHAPE, params)) == shapes
            ):
                return []
        found: list[int] = []
        for i, (p, g, part) in enumerate(zip(params, grads, self._parts, strict=True)):
            if g is None:
                continue
            as_before = part and part.w is p and part.address == p.data_ptr() and part.shape == p.shape
            if part is None or not (as_before and self._holds(part, states[p].get)):
                found.append(i)
        self._whole = None
        if not found and None not in self._parts:
            parts = [part for part in self._parts if part is not None]
            self._whole = [part.w for part in parts], [part.address for part in parts], [part.shape for part in parts]
        return found

    def _holds(self, part: Part, get: Callable[[str], Any]) -> bool:
        """Whether the state is made of the tensors that the part has."""
        return (
            get("step") is part.step
            and (part.m is None or get(self._memory_key) is part.m)
            and (part.v is None or get("exp_avg_sq") is part.v)
            and get("norm") is part.norm
        )

    def take_in(self, i: int, state: dict[str, Any], call: str, name: str) -> None:
        """Make what is missing of the state of parameter i, and decide how its step is taken."""
        p, units = self.group["params"][i], self.units[i]
        remembers, divides = self.rule.memory.old != 0, isinstance(self.rule.scale, Rms)
        fresh = remembers and state.get(self._memory_key) is None
        if "step" not in state:
            state["step"] = torch.zeros(())
        dtype = self.group["moment_dtype"] or p.dtype
        for key, used in ((self._memory_key, remembers), ("exp_avg_sq", divides)):
            if used and state.get(key) is None:
                state[key] = torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)
        if units is None:
            for key in ("norm", "update_rms", "turns"):  # once it turns again, its length is noted anew
                state.pop(key, None)
        part = Part(
            w=p,
            m=state[self._memory_key] if remembers else None,
            v=state["exp_avg_sq"] if divides else None,
            step=state["step"],
            fresh=fresh and self.rule.memory.warm,
            units=units,
            norm=state.get("norm"),
            rms=state.get("update_rms"),
            turns=state.get("turns"),
        )
        self._parts[i] = part
        self._rungs[i] = choose(call, name, part, self.group["fused"], self.group["foreach"])
        self._shares = None
        if part.fresh:
            self._fresh.append(part)

    def rung(self, i: int, call: str, name: str) -> str:
        """What will take the step of parameter i; raises ValueError where `fused` demands what is not to be had."""
        p = self.group["params"][i]
        part = Part(p, None, None, torch.zeros(()), False, self.units[i], None, None, None)
        return choose(call, name, part, self.group["fused"], self.group["foreach"])

    def shares(self) -> dict[str, tuple[list[int], list[Part]]]:
        """For each rung the indices and parts of its parameters; the same lists until a part changes."""
        if self._shares is None:
            self._shares = {}
            for i, part in enumerate(self._parts):
                if part is not None:
                    indices, parts = self._shares.setdefault(self._rungs[i], ([], []))
                    indices.append(i)
                    parts.append(part)
            self.group["kernel"] = ", ".join(self._shares)
        return self._shares

    def settle(self) -> None:
        """After a step: what was made for it now holds something."""
        for part in self._fresh:
            part.fresh = False
        self._fresh.clear()

    def measured(self, i: int, neurons: Neurons) -> int | None:
        """How many neurons of parameter i its step can write down; None where it cannot, or not for these."""
        part = self._parts[i]
        if part is None or self._rungs[i] not in MEASURING or part.w.dtype is not torch.float32:
            return None
        if part.units is not None and part.norm is not None:
            return part.norm.numel() if (part.units.axes, part.units.split) == (neurons.axes, neurons.split) else None
        return neurons.count(part.shape) if layout(neurons, part.shape, part.stride) is not None else None
