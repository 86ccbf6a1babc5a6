"""State dicts of plain data, and their way back without losing a bit.

torch's own loading casts every floating state to the dtype of its parameter, which would round the float32
norms of bfloat16 weights; and it replaces the options of a group by the saved ones, which are plain data
where the live ones may be objects. Both are put right here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rotational import rule
from rotational.control import Control
from rotational.neurons import ROWS, Neurons
from rotational.optim.turning import kept
from rotational.rule import Rule

Group = dict[str, Any]

FUNCTION = "a function"
"""What stands in a state dict for a rotation that is a function: code stays with the program."""


def packed(groups: Sequence[Group]) -> list[Group]:
    """Param groups of a state dict as data that `torch.load(weights_only=True)` reads."""
    return [_packed(dict(group)) for group in groups]


def _packed(group: Group) -> Group:
    if group.get("neurons") is not None:
        group["neurons"] = [_plain(n) for n in group["neurons"]]
    if isinstance(group.get("units"), Neurons):
        group["units"] = _plain(group["units"])
    rotation = group.get("rotation")
    if isinstance(rotation, Rule):
        group["rotation"] = rotation.as_dict()
    elif callable(rotation):
        group["rotation"] = FUNCTION
    return group


def check(call: str, live: Sequence[Group], saved: Sequence[Group]) -> None:
    """Raise ValueError if the saved groups cannot go on in the live ones.

    They cannot where they split parameters into other neurons, where a rotation that was a function is not
    passed again, and where their rule is one that we do not have.
    """
    for i, (here, there) in enumerate(zip(live, saved, strict=False)):
        where = f"{call}.load_state_dict: group {i} was saved with"
        sizes = len(here["params"]) == len(there["params"])  # if not, torch says so
        if sizes and "units" in there and _reading(here) != _reading(there):
            raise ValueError(
                f"{where} other neurons or units. Build the optimizer with the same rotational.groups(model, ...) "
                "and units= as when it was saved."
            )
        if missing := [key for key in ("betas", "momentum") if key in here and key not in there]:
            raise ValueError(f"{where} no {missing[0]}: it is of another optimizer than {call}.")
        if there.get("rotation") == FUNCTION and not callable(here.get("rotation")):
            raise ValueError(f"{where} rotation= a function, which no file holds. Pass it to the optimizer again.")
        if there.get("amsgrad"):
            raise ValueError(f"{where} amsgrad=True, a rule that {call} does not have.")


def check_state(
    call: str, live: Sequence[Group], names: Sequence[Sequence[str]], saved: Mapping[str, Any], memory_key: str
) -> None:
    """Raise ValueError if the saved state is of weights of other shapes, or of another number of neurons."""
    for group, named, there in zip(live, names, saved["param_groups"], strict=False):
        known = group.get("neurons")
        for j, (i, p, name) in enumerate(zip(there["params"], group["params"], named, strict=False)):
            state: Mapping[str, Any] = saved["state"].get(i, {})
            shapes = {key: list(x.shape) for key, x in state.items() if isinstance(x, torch.Tensor)}
            expected = {key: list(p.shape) for key in (memory_key, "exp_avg_sq")}
            if "norm" in shapes and there.get("rotational", True) and p.dim() >= 2:
                units = Control(group["units"]).neurons(known[j] if known else None)
                expected |= {key: kept(units, p.shape) for key in ("norm", "update_rms")}
            for key, shape in expected.items():
                if shapes.get(key, shape) != shape:
                    raise ValueError(
                        f"{call}.load_state_dict: the {key} of {name} was saved with the shape {shapes[key]}; its "
                        f"weights {list(p.shape)} need {shape}. Build both as they were when it was saved."
                    )


def restore_options(group: Group, live: Group) -> None:
    """After loading: make objects of what was packed, and keep options that the saved optimizer never had."""
    for key in ("neurons", "units"):  # the saved ones mean the same, as `check` has seen
        if key in live:
            group[key] = live[key]
        else:
            group.pop(key, None)
    rotation = group.get("rotation")
    if rotation == FUNCTION:
        group["rotation"] = live["rotation"]
    elif isinstance(rotation, Mapping):
        group["rotation"] = rule.from_dict(rotation)
    for key, value in live.items():
        group.setdefault(key, value)


def restore_state(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Give every parameter a state of its own: lengths and their RMS in single precision or better.

    torch's loading has shared the tensors it need not convert with `saved`, the counters of steps among them.
    """
    ids = [i for group in saved["param_groups"] for i in group["params"]]
    params = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {p: group.get("moment_dtype") for group in optimizer.param_groups for p in group["params"]}
    for i, p in zip(ids, params, strict=True):
        for key, value in saved["state"].get(i, {}).items():
            if key in ("step", "turns"):
                value = torch.as_tensor(value, dtype=torch.float32, device="cpu").clone()
            elif isinstance(value, torch.Tensor):
                held = key in ("norm", "update_rms")
                dtype = torch.promote_types(p.dtype, torch.float32) if held else moments.get(p) or p.dtype
                value = value.detach().to(p.device, dtype, copy=True)
            optimizer.state[p][key] = value


def _reading(group: Group) -> list[Any]:
    """What turns as one, by parameter; the names of parts are free."""
    packed = _packed(dict(group))
    if packed["units"] == "tensor":
        return ["tensor"]
    if packed["units"] != "neuron":
        return packed["units"][:2]
    return [n[:2] for n in packed.get("neurons") or [_plain(ROWS)] * len(packed["params"])]


def _plain(neurons: Neurons | list[Any]) -> list[Any]:
    if isinstance(neurons, list):  # plain already
        return neurons
    return [list(neurons.axes), neurons.split, [list(part) for part in neurons.parts]]
