"""A rule: memory, scale and decay. The step, the theory and the simulator read these and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rotational import scale as scales
from rotational.memory import Memory
from rotational.scale import Scale

Decay = Literal["decoupled", "coupled"]
"""decoupled: w <- (1 - lr wd) w - lr u(g).   coupled (L2): w <- w - lr u(g + wd w)."""


@dataclass(frozen=True)
class Rule:
    """How an optimizer turns gradients into steps: w <- (1 - D) w - lr u, with u = scale(memory(g)).

    `name` is for people; two rules of equal fields behave alike whatever they are called.

    >>> from rotational.memory import ema
    >>> from rotational.scale import Sign
    >>> signum = Rule(ema(0.9), Sign(), "decoupled", "signum")
    >>> signum.memory.old, from_dict(signum.as_dict()) == signum
    (0.9, True)
    """

    memory: Memory
    scale: Scale
    decay: Decay = "decoupled"
    name: str = "rule"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a record or a JSON file; `from_dict` reads it back."""
        return {
            "name": self.name,
            "decay": self.decay,
            "memory": asdict(self.memory),
            "scale": {"kind": type(self.scale).__name__.lower(), **asdict(self.scale)},
        }


def from_dict(data: Mapping[str, Any]) -> Rule:
    """The rule that `as_dict` wrote."""
    fields = dict(data["scale"])
    kinds = {"raw": scales.Raw, "rms": scales.Rms, "sign": scales.Sign}
    return Rule(Memory(**data["memory"]), kinds[fields.pop("kind")](**fields), data["decay"], data["name"])
