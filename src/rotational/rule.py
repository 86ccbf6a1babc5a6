"""A rule: memory, scale and decay. The step, the theory and the simulator read these and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from rotational.memory import Memory
from rotational.scale import Scale

Decay = Literal["decoupled", "coupled", "independent", "adamc", "cautious"]
"""How weight decay enters. With u the update direction:

    decoupled     w <- (1 - lr wd) w - lr u(g)                  Loshchilov and Hutter 2019 (arXiv 1711.05101)
    coupled       w <- w - lr u(g + wd w)                       L2 regularisation
    independent   w <- (1 - wd) w - lr u(g)                     not multiplied by lr (ibid., as first proposed)
    adamc         w <- (1 - wd lr^2/lr_max) w - lr u(g)         Defazio 2025 (arXiv 2506.02285); lr_max of the schedule
    cautious      w_i <- (1 - lr wd [u_i w_i >= 0]) w_i - lr u_i    Chen et al. 2025 (arXiv 2510.12402)
"""
DECAYS: tuple[Decay, ...] = get_args(Decay)

_COUPLED = ("sgd", "adam_l2", "nadam_l2", "radam", "adamax", "rmsprop")
"""Names of the catalogue that stand for a coupled decay, as torch's optimizers have it."""


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

    @property
    def title(self) -> str:
        """The name with the decay, where that is not the one that the name stands for; for tables and messages.

        >>> from rotational import rules
        >>> rules.adamw().title, rules.adamw(decay="cautious").title, rules.sgd(decay="decoupled").title
        ('adamw', 'adamw (cautious)', 'sgd (decoupled)')
        """
        own = "coupled" if self.name in _COUPLED else "decoupled"
        return self.name if self.decay == own else f"{self.name} ({self.decay})"

    def shrink(self, lr: Any, weight_decay: Any, lr_max: Any = None) -> Any:
        """D, the share of w that decay beside the gradient takes off in one step; 0 for a coupled decay.

        Numbers or arrays; `lr_max` is the highest lr of the schedule (default: this lr). Of a cautious decay
        it is what an entry loses that is not spared.

        >>> from rotational import rules
        >>> rules.adamw(decay="independent").shrink(1e-3, 0.1), rules.adam_l2().shrink(1e-3, 0.1)
        (0.1, 0.0)
        """
        match self.decay:
            case "coupled":
                return 0.0 * lr * weight_decay
            case "independent":
                return weight_decay + 0.0 * lr
            case "adamc" if lr_max is not None:
                return lr * (lr / lr_max) * weight_decay
            case _:
                return lr * weight_decay

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
    kinds = {cls.__name__.lower(): cls for cls in get_args(Scale)}
    return Rule(Memory(**data["memory"]), kinds[fields.pop("kind")](**fields), data["decay"], data["name"])


def aimed(call: str, rule: Rule, target_norm: float) -> None:
    """Refuse a target that the decay of the rule knows nothing of."""
    if target_norm and rule.decay in ("coupled", "cautious"):
        raise ValueError(
            f"{call}({rule.title}, target_norm={target_norm:g}): decay towards a norm is followed where it is "
            "decoupled from the gradient; leave target_norm out, or take a rule with decay='decoupled', such as "
            "rules.adamw()."
        )
