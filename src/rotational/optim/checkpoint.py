"""State dicts of plain data, and their way back without losing a bit.

torch's own loading casts every floating state to the dtype of its parameter, which would round the float32
norms of bfloat16 weights; and it replaces the options of a group by the saved ones, which are plain data
where the live ones may be objects. Both are put right here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rotational.neurons import Neurons
from rotational.rule import Rule

Group = dict[str, Any]


def packed(groups: Sequence[Group]) -> list[Group]:
    """Param groups of a state dict as data that `torch.load(weights_only=True)` reads.

    Partitions become lists. A rotation given as a function or a rule is code, and stays with the program.
    """
    return [_packed(dict(group)) for group in groups]


def _packed(group: Group) -> Group:
    if group.get("neurons") is not None:
        group["neurons"] = [_plain(n) for n in group["neurons"]]
    if not isinstance(group.get("units", ""), str):
        group["units"] = _plain(group["units"])
    if callable(group.get("rotation")) or isinstance(group.get("rotation"), Rule):
        group["rotation"] = None
    return group


def check_partition(call: str, live: Sequence[Group], saved: Sequence[Group]) -> None:
    """Raise ValueError if the saved groups split parameters into other neurons than the live ones."""
    for i, (here, there) in enumerate(zip(packed(live), packed(saved), strict=False)):
        for key in ("neurons", "units"):
            if None not in (here.get(key), there.get(key)) and here[key] != there[key]:
                raise ValueError(
                    f"{call}.load_state_dict: group {i} was saved with other {key}. Build the optimizer with the same "
                    "rotational.groups(model, ...) and units= as when it was saved."
                )


def restore_options(group: Group, live: Group) -> None:
    """After loading: keep live objects, and options that the saved optimizer (torch's own, say) never had."""
    for key in ("neurons", "units"):
        if key in live:
            group[key] = live[key]
    if callable(live.get("rotation")) or isinstance(live.get("rotation"), Rule):
        group["rotation"] = live["rotation"]
    for key, value in live.items():
        group.setdefault(key, value)


def restore_state(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Put each floating state tensor back in the dtype it was saved in, on its parameter's device."""
    ids = [i for group in saved["param_groups"] for i in group["params"]]
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for i, p in zip(ids, params, strict=True):
        for key, value in saved["state"].get(i, {}).items():
            if isinstance(value, torch.Tensor) and key not in ("step", "turns"):
                optimizer.state[p][key] = value.detach().to(device=p.device, copy=True)


def _plain(neurons: Neurons | list[Any]) -> list[Any]:
    if isinstance(neurons, list):  # plain already
        return neurons
    return [list(neurons.axes), neurons.split, [list(part) for part in neurons.parts]]
