"""Which way a parameter's step is taken: decided here, and nowhere else.

`native` is C, for CPUs, and built with the package; `numba` is the same for CPUs without a compiled library; `triton`
is for GPUs; `torch` is torch's own operations in batches that fit the cache, for every dtype, device and layout.
`reference` is the step as a pure function and `compiled` is torch.compile of it; both are for those who ask for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rotational.kernels import native
from rotational.kernels.layout import layout
from rotational.kernels.work import Kernel, Part, Work, sharded
from rotational.neurons import Neurons

RUNGS = ("native", "numba", "triton", "torch", "compiled", "reference")
BEST = {"cpu": ("native", "numba"), "cuda": ("triton",)}
"""Hand-written rungs of a device, the fastest first."""

MEASURING = ("native", "numba", "triton")
"""Those whose step can write down how neurons change."""

Fused = bool | str | None


def choose(call: str, name: str, part: Part, fused: Fused, foreach: bool | None) -> tuple[str, str]:
    """The rung of one parameter; and why it is none before it in `BEST`, if it might have been one.

    `fused` is torch's word: None takes the best there is, False plain torch, True demands a hand-written kernel; the
    name of a rung demands that one. As with torch's own, `foreach` that is said asks for plain torch.

    Raises ValueError where what is demanded is not to be had, with the reason.
    """
    if fused is False or (fused is None and foreach is not None):
        return _plain(part), ""
    if isinstance(fused, str):
        if why := refusal(fused, part):
            raise ValueError(f"{call}(fused={fused!r}): {name}: {why}. fused=None takes the best that there is.")
        return fused, ""
    reasons: dict[str, list[str]] = {}  # each with the rungs that have it
    best = BEST.get(part.w.device.type, ())
    for rung in best:
        why = refusal(rung, part)
        if why is None:
            return rung, _said(reasons)
        reasons.setdefault(why, []).append(rung)
    if not best:
        reasons[f"there is none for {part.w.device.type}"] = ["hand-written kernels"]
    if fused:
        raise ValueError(
            f"{call}(fused=True): no hand-written kernel takes {name} ({_said(reasons)}). fused=None takes the "
            "best that there is."
        )
    return _plain(part), _said(reasons)


def _plain(part: Part) -> str:
    """The rung of torch's own operations; the reference, where those in batches do not take a parameter."""
    # Weights that several processes share, and neurons with them, know none of torch's operations on lists.
    return "reference" if sharded(part.w) or refusal("torch", part) else "torch"


def _said(reasons: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{', '.join(rungs)}: {why}" for why, rungs in reasons.items())


def measures(rung: str, part: Part, neurons: Neurons) -> bool:
    """Whether a rung's step can write down how these neurons of a parameter change.

    Where neurons turn it must be those; rounding to low precision would be a part of the change.
    """
    if rung not in MEASURING or part.w.dtype is not torch.float32:
        return False
    if part.units is not None:
        return (part.units.axes, part.units.split) == (neurons.axes, neurons.split)
    at = layout(neurons, part.shape, part.stride)
    return at is not None and (rung == "triton" or native.serves(at))


def refusal(rung: str, part: Part) -> str | None:
    """Why a rung does not take a parameter; None where it does."""
    module, _ = _module(rung)
    return module.refusal(part) or module.available()


def _module(rung: str) -> tuple[Any, str]:
    """The module of a rung and the name of its class.

    One at a time, since Triton and torch.compile take seconds to load.
    """
    match rung:
        case "native":
            return native, "Native"
        case "numba":
            from rotational.kernels import jit

            return jit, "Numba"
        case "triton":
            from rotational.kernels import gpu

            return gpu, "Triton"
        case "compiled":
            from rotational.kernels import compiled

            return compiled, "Compiled"
        case "reference":
            from rotational.kernels import reference

            return reference, "Reference"
        case _:
            from rotational.kernels import foreach

            return foreach, "Foreach"


class Kernels:
    """The rungs in use by one optimizer."""

    def __init__(self) -> None:
        self._made: dict[str, Kernel] = {}
        self._works: Sequence[tuple[str, Work]] = ()
        self._shares: list[tuple[Kernel, list[Work]]] = []

    def step(self, works: Sequence[tuple[str, Work]]) -> None:
        """Take one step of all groups: each rung takes all of its work at once; the same list holds the same works."""
        if works is not self._works:
            rungs = dict.fromkeys(rung for rung, _ in works)
            self._shares = [(self.of(rung), [work for name, work in works if name == rung]) for rung in rungs]
            self._works = works
        for kernel, share in self._shares:
            kernel.step(share)

    def of(self, rung: str) -> Kernel:
        """The kernel of this name, made when it is first used."""
        if rung not in self._made:
            module, kind = _module(rung)
            self._made[rung] = getattr(module, kind)()
        return self._made[rung]
