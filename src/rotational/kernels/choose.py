"""Which way a parameter's step is taken: decided here, and nowhere else.

native   C, for CPUs; built with the package
numba    the same for CPUs, where there is no compiled library
triton   for GPUs
compiled torch.compile of the plain step, where asked for
torch    torch's own operations: every dtype, device and layout
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from rotational.kernels.work import Kernel, Part, Work

RUNGS = {
    "native": ("native", "Native", "cpu"),
    "torch": ("foreach", "Foreach", ""),
}
"""Module, class, and the device that it is best for."""

Fused = bool | str | None


def choose(call: str, name: str, part: Part, fused: Fused, foreach: bool | None) -> str:
    """The rung of one parameter.

    `fused` is torch's word: None takes the best there is, False plain torch, True demands a hand-written kernel; the
    name of a rung demands that one. As with torch's own, `foreach` that is said asks for plain torch.

    Raises ValueError where what is demanded is not to be had, with the reason.
    """
    if fused is False or (fused is None and foreach is not None):
        return "torch"
    if isinstance(fused, str):
        if why := refusal(fused, part):
            raise ValueError(f"{call}(fused={fused!r}): {name}: {why}. fused=None takes the best that there is.")
        return fused
    reasons: list[str] = []
    for rung in [rung for rung, (_, _, device) in RUNGS.items() if device == part.w.device.type]:
        why = refusal(rung, part)
        if why is None:
            return rung
        reasons.append(f"{rung}: {why}")
    if fused:
        raise ValueError(
            f"{call}(fused=True): no hand-written kernel takes {name} ({'; '.join(reasons)}). fused=None takes the "
            "best that there is."
        )
    return "torch"


def refusal(rung: str, part: Part) -> str | None:
    """Why a rung does not take a parameter; None where it does."""
    if rung == "torch":
        return None
    module = import_module(f"rotational.kernels.{RUNGS[rung][0]}")
    return module.available() or module.refusal(part)


class Kernels:
    """The rungs in use by one optimizer."""

    def __init__(self) -> None:
        self._made: dict[str, Kernel] = {}

    def step(self, works: Sequence[tuple[str, Work]]) -> None:
        """Take one step of all groups: each rung takes all of its work at once."""
        for rung in dict.fromkeys(rung for rung, _ in works):
            self.of(rung).step([work for name, work in works if name == rung])

    def of(self, rung: str) -> Kernel:
        """The kernel of this name, made when it is first used."""
        if rung not in self._made:
            module, kind, _ = RUNGS[rung]
            self._made[rung] = getattr(import_module(f"rotational.kernels.{module}"), kind)()
        return self._made[rung]
