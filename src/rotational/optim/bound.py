"""A param group as it was read last, with the state of its parameters: what a step need not work out again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor

from rotational import _check
from rotational.control import Control
from rotational.kernels.choose import choose, measures
from rotational.kernels.pages import zeros_like
from rotational.kernels.work import Part, address, identical, own, sharded
from rotational.neurons import Neurons
from rotational.optim import fits
from rotational.optim.measuring import Asked, Found
from rotational.optim.turning import noted
from rotational.rule import Rule
from rotational.scale import Rms

Group = dict[str, Any]


def told(call: str, name: str, value: Any) -> Any:
    """An option that is at least 0; while a step is captured, a tensor on the device, which replays read anew."""
    if type(value) is float and 0 <= value < inf:
        return value
    return value if _replayed(value) else _check.number(call, name, value, low=0)


def _replayed(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_cuda and torch.cuda.is_current_stream_capturing()


class Options:
    """Options of a group as they were read last: values that later changes leave alone."""

    def __init__(self, group: Group, names: Sequence[str]) -> None:
        self._names = names
        self._given = [group.get(name) for name in names]
        self._values = list(map(_value, self._given))
        self._neurons = _value(group.get("neurons"))
        # Numbers and names are compared as they are.
        self._plain = all(map(is_, self._given, self._values))

    def hold(self, group: Group) -> bool:
        """Whether the group still has them."""
        neurons, given = group.get("neurons"), list(map(group.get, self._names))
        if (None if neurons is None else tuple(neurons)) != self._neurons:
            return False
        return (self._plain and given == self._given) or list(map(_value, given)) == self._values


def _value(option: Any) -> Any:
    if isinstance(option, list | tuple):
        return tuple(option) if not any(isinstance(x, Tensor) for x in option) else tuple(map(_value, option))
    return option.item() if isinstance(option, Tensor) and option.numel() == 1 else option


_SHAPE = attrgetter("shape")
_BESIDE = ("step", "norm", "update_rms", "turns")
"""What a parameter's state holds beside its moments."""


def _apart(p: Any, units: Neurons | None) -> bool:
    """Whether what this process holds of a sharded parameter can be stepped as a tensor by itself: whole neurons.

    Where no neuron turns, it is weights that are.
    """
    whole = units is None or (units.axes[:1] == (0,) and units.split == 1)
    return sharded(p) and all(x.is_replicate() or x.is_shard(0 if units else None) for x in p.placements) and whole


class Bound:
    """Rule, control and units of one group, and a `Part` for each parameter that has had a gradient.

    What belongs to a parameter is looked at anew when its state or storage is another than before, or lies elsewhere.
    """

    def __init__(
        self,
        group: Group,
        options: Options,
        rule: Rule,
        control: Control,
        units: Sequence[Neurons | None],
        memory_key: str,
    ) -> None:
        self.group, self.options, self.rule, self.control, self.units = group, options, rule, control, units
        self._shapes = _shapes(group)
        self._turn = [i for i, n in enumerate(units) if n is not None]
        self._parts: list[Part | None] = [None] * len(units)
        self._made_of: list[list[Any]] = [[]] * len(units)  # each part's parameter and state, as the optimizer has them
        self._places: list[list[Any]] = [[]] * len(units)  # and where that lies
        self.apart: set[int] = set()
        self._rungs: list[tuple[str, str]] = [("", "")] * len(units)
        self._waiting: list[int] | None = None  # those without a part, when nothing else was outdated
        self._shares: dict[str, tuple[list[int], list[Part]]] | None = None
        self._asked: dict[str, tuple[Asked, Asked]] = {}  # by rung: what was asked for, and what that is of its parts
        self._memory_key = memory_key
        moments = [(memory_key, rule.memory.old != 0), ("exp_avg_sq", isinstance(rule.scale, Rms))]
        self._moments = [key for key, used in moments if used]
        self._keys = [*_BESIDE, *self._moments]
        self._fresh: set[int] = set()

    def holds(self, group: Group, same: bool) -> bool:
        """Whether the group still has the options that were read, and parameters of the same shapes.

        `same` as `Seen` has it.
        """
        return self.group is group and self.options.hold(group) and (same or _shapes(group) == self._shapes)

    def turns(self, grads: Sequence[Tensor | None]) -> bool:
        """Whether any neuron does, with these gradients."""
        for i in self._turn:  # noqa: SIM110 (a generator takes longer)
            if grads[i] is not None:
                return True
        return False

    def outdated(
        self, grads: Sequence[Tensor | None], states: Mapping[Tensor, Mapping[str, Any]], same: bool
    ) -> list[int]:
        """Parameters with a gradient whose part is missing or no longer as it was; `same` as `Seen` has it."""
        if same and self._waiting is not None and all(grads[i] is None for i in self._waiting):
            return []
        old = [i for i, part in enumerate(self._parts) if not (part and self._lasts(i, part, states))]
        for i in old:
            if self._parts[i] is not None and grads[i] is None:  # nobody needs it now, and it is of other memory
                self._parts[i], self._shares, self._asked = None, None, {}
        self._waiting = None if any(self._parts[i] for i in old) else old
        return [i for i in old if grads[i] is not None]

    def _lasts(self, i: int, part: Part, states: Mapping[Tensor, Mapping[str, Any]]) -> bool:
        """Whether parameter i lies where it did, and its state is made of the tensors that the part has."""
        p = self.group["params"][i]
        made_of = [p, *map(states[p].get, self._keys)] if p in states else []
        return identical(made_of, self._made_of[i]) and _places(made_of) == self._places[i]

    def check(self, i: int, state: Mapping[str, Any], g: Tensor, call: str, name: str) -> None:
        """Raise ValueError unless state and gradient of parameter i are such that a step may be taken."""
        p, units = self.group["params"][i], self.units[i]
        fits.check_state(call, name, p, state, self._moments)
        fits.check_gradient(call, name, p, g)
        if units is not None and noted(state, units, p.shape):
            fits.check_lengths(call, name, p, state)
        choose(call, name, self._foreseen(i, state), self.group["fused"], self.group["foreach"])

    def take_in(self, i: int, state: dict[str, Any], call: str, name: str) -> None:
        """Make what is missing of the state of parameter i, and decide how its step is taken."""
        p, units = self.group["params"][i], self.units[i]
        remembers, divides = self.rule.memory.old != 0, isinstance(self.rule.scale, Rms)
        if remembers and self.rule.memory.warm and (state.get(self._memory_key) is None or _begun(state)):
            self._fresh.add(i)
        dtype = self.group["moment_dtype"] or p.dtype
        for key in self._moments:
            if state.get(key) is None:
                state[key] = zeros_like(p, dtype)
        if units is None:
            for key in ("norm", "update_rms", "turns"):  # once it turns again, its length is noted anew
                state.pop(key, None)
        for key in ("step", "turns") if units is not None else ("step",):
            state[key] = fits.counter(state.get(key, 0), p.device)
        self.apart.discard(i)
        here: Callable[[Any], Any] = own if _apart(p, units) else lambda x: x
        if here is own:
            self.apart.add(i)
        part = Part(
            w=here(p),
            m=here(state[self._memory_key]) if remembers else None,
            v=here(state["exp_avg_sq"]) if divides else None,
            step=here(state["step"]),
            fresh=i in self._fresh,
            units=units,
            norm=here(state.get("norm")),
            rms=here(state.get("update_rms")),
            turns=here(state.get("turns")),
        )
        self._rungs[i] = choose(call, name, part, self.group["fused"], self.group["foreach"])
        for count in (part.step, part.turns) if self._rungs[i][0] == "triton" else ():
            if count is not None:  # the same tensor to whoever holds it
                count.data = count.data.to(part.w.device)
        self._parts[i] = part
        self._made_of[i] = [p, *map(state.get, self._keys)]
        self._places[i] = _places(self._made_of[i])
        self._shares, self._asked = None, {}

    def foresee(self, call: str, names: Sequence[str]) -> None:
        """Say what will take the steps; raises ValueError where `fused` demands what is not to be had."""
        fused, foreach = self.group["fused"], self.group["foreach"]
        self._say([choose(call, name, self._foreseen(i, {}), fused, foreach) for i, name in enumerate(names)])

    def _foreseen(self, i: int, state: Mapping[str, Any]) -> Part:
        """What the part of parameter i will be like, with this state; what is missing of it takes no memory yet."""
        p, units = self.group["params"][i], self.units[i]
        here: Callable[[Any], Any] = own if _apart(p, units) else lambda x: x
        w = here(p)
        like: Any = _Like(w, self.group["moment_dtype"] or w.dtype)
        moments = {key: here(state[key]) if state.get(key) is not None else like for key in self._moments}
        m, v = moments.get(self._memory_key), moments.get("exp_avg_sq")
        held = state if units is not None and noted(state, units, p.shape) else {}
        norm, rms = here(held.get("norm")), here(held.get("update_rms"))
        return Part(w, m, v, fits.counter(0, w.device), False, units, norm, rms, None)

    def _say(self, rungs: Sequence[tuple[str, str]]) -> None:
        """Write into the group which rungs take its steps, and why where a better one does not."""
        self.group["kernel"] = ", ".join(dict.fromkeys(rung for rung, _ in rungs))
        why = "; ".join(dict.fromkeys(why for _, why in rungs if why))
        if why:
            self.group["kernel_why"] = why
        else:
            self.group.pop("kernel_why", None)

    def shares(self) -> dict[str, tuple[list[int], list[Part]]]:
        """For each rung the indices and parts of its parameters; the same lists until a part changes."""
        if self._shares is None:
            self._shares = {}
            for i, part in enumerate(self._parts):
                if part is not None:
                    indices, parts = self._shares.setdefault(self._rungs[i][0], ([], []))
                    indices.append(i)
                    parts.append(part)
            if self._shares:  # else what was foreseen still is
                self._say([rung for rung, part in zip(self._rungs, self._parts, strict=True) if part is not None])
        return self._shares

    def gradients(self, indices: Sequence[int], grads: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """Those of some parameters, as their parts have the weights."""
        if not self.apart and len(indices) == len(grads):
            return grads
        found = [grads[i] for i in indices]
        for j, i in enumerate(indices if self.apart else ()):
            g: Any = found[j]
            if g is not None and i in self.apart:
                p = self.group["params"][i]
                found[j] = own(g if g.placements == p.placements else g.redistribute(p.device_mesh, p.placements))
        return found

    def settle(self, grads: Sequence[Tensor | None]) -> None:
        """After a step: what was made for it now holds something, but for parameters that took none."""
        for i in [i for i in self._fresh if grads[i] is not None]:
            self._fresh.discard(i)
            if (part := self._parts[i]) is not None:
                part.fresh = False

    def _measures(self, i: int, neurons: Neurons | None) -> bool:
        """Whether the step of parameter i can write down how these neurons change."""
        p, part = self.group["params"][i], self._parts[i]
        if neurons is None or part is None or part.w is not p or not p.numel():
            return False
        return measures(self._rungs[i][0], part, neurons)

    def measured(self, neurons: Mapping[Tensor, Neurons]) -> Found:
        """Parameters whose step can write down how these neurons change."""
        # There may be more parameters by now, or others.
        params = enumerate(self.group["params"][: len(self._parts)])
        return [(p, neurons[p], neurons[p].count(p.shape)) for i, p in params if self._measures(i, neurons.get(p))]

    def unmeasured(self, asked: Asked) -> list[Tensor]:
        """Parameters of which this was asked for when their steps could write it down, which now they cannot."""
        params = [(i, p) for i, p in enumerate(self.group["params"]) if self._parts[i] is not None and id(p) in asked]
        return [p for i, p in params if not self._measures(i, asked[id(p)][0])]

    def asked(self, rung: str, asked: Asked, grads: Sequence[Tensor | None], complete: bool) -> Asked:
        """What was asked for of the parts that a rung has, by their numbers.

        One that has lost its gradient since stays as it is, and its table is filled here; `complete` as `Given` has it.
        """
        known = self._asked.get(rung)
        if known is not None and known[0] is asked and (complete or all(grads[j] is not None for j in known[1])):
            return known[1]
        found: Asked = {}
        lost = False
        indices, _ = self.shares()[rung]
        for j, i in enumerate(indices):
            p = self.group["params"][i]
            if (one := asked.get(id(p))) is None:
                continue
            if grads[j] is not None:
                found[j] = one
            else:
                lost = True
                _stays(*one, p.detach())
        if not lost:
            self._asked[rung] = asked, found
        return found

    def rest(self, asked: Asked) -> None:
        """Fill the tables of parameters that have no part, for they have had no gradient: they stay as they are."""
        if self._waiting is not None and not self._waiting:
            return
        for p, part in zip(self.group["params"], self._parts, strict=True):
            if part is None and (one := asked.get(id(p))) is not None:
                _stays(*one, p.detach())


def _begun(state: Mapping[str, Any]) -> bool:
    """Whether a step that was then refused has made this state."""
    steps = state.get("step")
    if isinstance(steps, Tensor):
        return not _replayed(steps) and steps.item() == 0
    return steps == 0


def _stays(neurons: Neurons, table: Tensor, w: Tensor) -> None:
    """Write down that nothing moved."""
    table.zero_()[1] = neurons.norm(w).reshape(-1)


def _places(values: Sequence[Any]) -> list[Any]:
    """Where tensors lie."""
    return [(address(x), x.shape, x.stride()) if isinstance(x, Tensor) else None for x in map(own, values)]


def _shapes(group: Group) -> list[torch.Size]:
    return list(map(_SHAPE, group["params"]))


class _Like:
    """What a moment will be like, before it takes memory."""

    def __init__(self, w: Tensor, dtype: torch.dtype) -> None:
        self.shape, self.dtype, self.device = w.shape, dtype, w.device
        self._like = w

    def stride(self) -> tuple[int, ...]:
        """The strides that it will have: those of the weights, but for weights with gaps."""
        return torch.empty_like(self._like, device="meta", memory_format=torch.preserve_format).stride()
