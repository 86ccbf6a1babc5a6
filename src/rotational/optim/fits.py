"""What must be so before kernels write into memory: state and gradients fit their weights, and no memory is two's.

Kernels are given addresses and the shape of the weights. Where torch would raise in the middle of a step, they would
read what is another's. Each tensor is asked when it is new or lies elsewhere than before (`seen.py`); a storage that is
shortened where it lies, with `resize_`, goes unnoticed after that, unless it is emptied.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rotational.kernels.work import own, sharded, span, wide

# torch names its tensors of nothing but zeros with an underscore only.
# pyright: reportPrivateUsage=false

RESUME = "Load the state that belongs to these weights, or begin anew with opt.state.pop(p)."


def check_state(call: str, name: str, p: Tensor, state: Mapping[str, Any], moments: Sequence[str]) -> None:
    """Raise ValueError unless what is held for a parameter fits it; what is missing will be made."""
    _held(call, name, "memory", p)
    for key in moments:
        x: Any = state.get(key)
        if x is None:
            continue
        if not isinstance(x, Tensor) or x.layout is not torch.strided or not x.is_floating_point():
            raise ValueError(f"{call}: the {key} of {name} is no dense tensor of real numbers. {RESUME}")
        if sharded(x) != sharded(p) or own(x).shape != own(p).shape or x.shape != p.shape:
            raise ValueError(
                f"{call}: the {key} of {name} has the shape {_shape(x)}, its weights {_shape(p)}. {RESUME}"
            )
        if x.device != p.device:
            raise ValueError(
                f"{call}: the {key} of {name} is on {x.device}, its weights on {p.device}. Load the state again "
                "(load_state_dict moves it), or build the optimizer after the model has moved."
            )
        _held(call, name, key, x)
    for key in ("step", "turns"):
        x = state.get(key, 0)
        if not (isinstance(x, int | float) or (isinstance(x, Tensor) and x.numel() == 1)):
            raise ValueError(f"{call}: the {key} of {name} is {x!r}; expected a number of steps. {RESUME}")


def check_lengths(call: str, name: str, p: Tensor, state: Mapping[str, Any]) -> None:
    """Raise ValueError unless what is held beside the lengths of neurons is of as many, and there."""
    norm: Tensor = state["norm"]
    for key in ("norm", "update_rms"):
        x: Any = state.get(key)
        if not isinstance(x, Tensor) or x.shape != norm.shape or own(x).shape != own(norm).shape:
            kind = _shape(x) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"{call}: the {key} of {name} is {kind}; expected {_shape(norm)}, as its norm. {RESUME}")
        if x.device != p.device or not x.is_floating_point():
            raise ValueError(
                f"{call}: the {key} of {name} is {x.dtype} on {x.device}; expected numbers on {p.device}. {RESUME}"
            )
        if torch.promote_types(x.dtype, wide(p.dtype)) is not x.dtype:
            raise ValueError(
                f"{call}: the {key} of {name} is {x.dtype}, and its weights have become {p.dtype}: call "
                "opt.load_state_dict(opt.state_dict()), which brings the state to their precision."
            )
        _held(call, name, key, x)


def check_gradient(call: str, name: str, p: Tensor, g: Tensor) -> None:
    """Raise ValueError unless a gradient fits its weights, which may have become others since it was made."""
    if g.shape != p.shape or g.device != p.device:
        raise ValueError(
            f"{call}: the gradient of {name} is {_shape(g)} on {g.device}, its weights {_shape(p)} on {p.device}. "
            "It is of weights that have been replaced since: call zero_grad() and backward() again."
        )
    if not g._is_zerotensor():
        _held(call, name, "gradient", g)


def counter(value: Any, device: torch.device) -> Tensor:
    """What counts steps, as one number in float32, on the CPU or where the weights are.

    Old checkpoints of torch count in plain numbers, and low precision stops counting (bfloat16 at 256).
    """
    if isinstance(value, Tensor) and value.dtype is torch.float32 and value.dim() == 0:
        return value if value.device.type == "cpu" or value.device == device else value.cpu()
    return torch.tensor(float(value), dtype=torch.float32, device="cpu")


def check_apart(call: str, named: Iterable[tuple[str, Tensor]]) -> None:
    """Raise ValueError where a weight stands in memory twice, be it in two parameters or in one.

    It would be stepped twice, by threads that know nothing of each other.
    """
    ranges: list[tuple[str, int, int, str, Tensor]] = []
    for name, p in named:
        x = own(p)
        if type(x) not in (Tensor, torch.nn.Parameter) or not x.numel() or not (start := x.data_ptr()):
            continue
        end = start + span(x) * x.element_size()
        if end - start < x.numel() * x.element_size():
            raise ValueError(
                f"{call}: entries of {name} share memory with each other (strides {tuple(x.stride())}, as of expand); "
                "give it memory of its own: nn.Parameter(p.detach().clone())."
            )
        ranges.append((str(x.device), start, end, name, x))
    ranges.sort(key=lambda r: r[:3])
    open_ends: list[tuple[str, int, int, str, Tensor]] = []
    for device, start, end, name, x in ranges:
        open_ends = [other for other in open_ends if other[0] == device and other[2] > start]
        for *_, other, y in open_ends:
            if _meet(x, y):
                raise ValueError(
                    f"{call}: {other} and {name} share memory, so that every step would change it twice. To tie "
                    "weights, use one Parameter in both places."
                )
        open_ends.append((device, start, end, name, x))


def _meet(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors whose ranges overlap have an entry in common; columns of one matrix need not."""
    if x.untyped_storage().data_ptr() != y.untyped_storage().data_ptr() or x.element_size() != y.element_size():
        return True
    first = min(x.storage_offset(), y.storage_offset())
    taken = torch.zeros(max(a.storage_offset() + span(a) for a in (x, y)) - first, dtype=torch.bool, device=x.device)
    for a in (x, y):
        taken.as_strided(a.shape, a.stride(), a.storage_offset() - first).fill_(True)
    return int(taken.sum()) < x.numel() + y.numel()


def _held(call: str, name: str, what: str, x: Any) -> None:
    """Raise ValueError where a tensor's storage was taken from under it."""
    x = own(x)
    if type(x) in (Tensor, torch.nn.Parameter) and x.numel():
        needed = (x.storage_offset() + span(x)) * x.element_size()
        if x.untyped_storage().nbytes() < needed:
            raise ValueError(
                f"{call}: the {what} of {name} lies in {x.untyped_storage().nbytes()} bytes and needs {needed}: its "
                "storage was resized, as by a sharding wrapper that frees weights. Gather them before the step."
            )


def _shape(x: Tensor) -> list[int]:
    return list(x.shape)
