"""The one step that all rotational optimizers share: rule -> direction -> plain or rotational update.

g  gradient    u  update direction    norm  length to keep    update_sq  EMA of the tangent part's square
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from rotational import _check
from rotational.control import Control
from rotational.kernels import foreach
from rotational.neurons import Neurons
from rotational.optim import checkpoint
from rotational.rule import Rule
from rotational.scale import Raw, Rms

# torch's own optimizers are written with these functions; only their names begin with an underscore.
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

Group = dict[str, Any]


@dataclass(frozen=True)
class _Plan:
    """What one param group does in one step, decided and checked before anything is changed."""

    group: Group
    rule: Rule
    control: Control
    lr: float
    weight_decay: float
    rotation: float
    turning: list[tuple[Tensor, Neurons]]
    plain: list[Tensor]


class RotationalOptimizer(Optimizer):
    """Base of `rotational.SGD`, `AdamW`, `Adam` and `Lion`; a subclass names its options and its rule.

    Options of a param group beside the rule's own: `rotational`, `center`, `update_memory`, `rotation` and
    `units` (see `control.Control`), and `neurons`, one `Neurons` per parameter, as `rotational.groups` gives.
    """

    memory_key: ClassVar[str] = "exp_avg"
    """torch's name for the momentum, so that checkpoints of torch's own optimizer can be loaded."""

    def __init__(self, params: Any, defaults: Group, refused: Mapping[str, Any]) -> None:
        for option, value in refused.items():
            if value:
                raise ValueError(
                    f"{type(self).__name__}({option}={value!r}): the rotational optimizers have no such mode; leave "
                    f"{option} out, or use torch.optim."
                )
        super().__init__(params, defaults)

    @abstractmethod
    def rule(self, group: Group) -> Rule:
        """The rule of a param group, from its options; raises ValueError for options out of range."""

    # Param groups -----------------------------------------------------------------------------------------

    def add_param_group(self, param_group: Group) -> None:
        """Add a group: its options are checked before anything changes, then its neurons are centred.

        Raises ValueError or TypeError for options out of range, a rotational group without weight decay or
        `rotation`, and a partition that does not fit its parameters.
        """
        before = len(self.param_groups)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self._check(group)
        except Exception:
            del self.param_groups[before:]
            raise
        if group["center"]:
            with torch.no_grad():
                for p, neurons in self._split(group)[0]:
                    p.copy_(neurons.center(p))

    def _check(self, group: Group) -> None:
        call, known = type(self).__name__, group.get("neurons")
        if known is not None and len(known) != len(group["params"]):
            raise ValueError(
                f"{call}: a group has {len(group['params'])} parameters but {len(known)} entries in 'neurons'; take "
                "both from rotational.groups(model, weight_decay=...)."
            )
        control = self._control(group)
        for i, p in enumerate(group["params"]):
            if p.is_complex():
                raise ValueError(f"{call}: {_name(group, i)} is complex; rotations are defined for real weights.")
            if group["rotational"] and p.dim() >= 2:
                control.neurons(known[i] if known else None).check(p.shape, _name(group, i))
        self._plan(group, list(range(len(group["params"]))))

    def _control(self, group: Group) -> Control:
        return Control(group["units"], group["center"], group["update_memory"], group["rotation"], type(self).__name__)

    def _split(
        self, group: Group, indices: list[int] | None = None
    ) -> tuple[list[tuple[Tensor, Neurons]], list[Tensor]]:
        """(parameters that turn, each with its units; parameters that take the plain rule).

        Without a partition, tensors of two and more axes have rows for neurons and the others have none.
        Neurons of too few weights to have a direction take the plain rule.
        """
        control, known = self._control(group), group.get("neurons")
        turning: list[tuple[Tensor, Neurons]] = []
        plain: list[Tensor] = []
        for i in range(len(group["params"])) if indices is None else indices:
            p = group["params"][i]
            units = control.neurons(known[i] if known else None)
            if group["rotational"] and p.dim() >= 2 and _can_turn(control, units, p.shape):
                turning.append((p, units))
            else:
                plain.append(p)
        return turning, plain

    # The step ---------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all groups; returns the closure's loss, if there is one.

        Options are read and gradients checked for all groups before the first weight changes.
        Raises ValueError for options out of range, sparse and complex gradients.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            plans = [self._plan(group, self._with_gradient(group)) for group in self.param_groups]
            for plan in plans:
                self._apply(plan)
        return loss

    def _with_gradient(self, group: Group) -> list[int]:
        found: list[int] = []
        for i, p in enumerate(group["params"]):
            if p.grad is None:
                continue
            if p.grad.is_sparse or p.grad.is_complex():
                kind = "sparse" if p.grad.is_sparse else "complex"
                raise ValueError(
                    f"{type(self).__name__}.step: {_name(group, i)} has a {kind} gradient; expected a dense real one"
                    + (" (Embedding(sparse=False))." if kind == "sparse" else ".")
                )
            found.append(i)
        return found

    def _plan(self, group: Group, indices: list[int]) -> _Plan:
        call = type(self).__name__
        lr = _check.number(call, "lr", group["lr"], low=0)
        weight_decay = _check.number(call, "weight_decay", group["weight_decay"], low=0)
        rule, control = self.rule(group), self._control(group)
        turning, plain = self._split(group, indices)
        rotation = control.rotation(rule, lr, weight_decay, group.get("steps", 0)) if turning else 0.0
        return _Plan(group, rule, control, lr, weight_decay, rotation, turning, plain)

    def _apply(self, plan: _Plan) -> None:
        group = plan.group
        size = 1 if group["foreach"] is False else max(len(group["params"]), 1)
        for start in range(0, len(plan.turning), size):
            batch = plan.turning[start : start + size]
            # A coupled decay of a linear rule is separable, and the rotation stands in its place; in Adam's
            # direction it is not, and stays.
            u = self._directions(plan, [p for p, _ in batch], decay=not isinstance(plan.rule.scale, Raw))
            for (p, units), direction in zip(batch, u, strict=True):
                self._rotate(plan, p, direction, units)
        for start in range(0, len(plan.plain), size):
            params = plan.plain[start : start + size]
            u = self._directions(plan, params, decay=True)
            if plan.rule.decay == "decoupled" and plan.weight_decay != 0:
                torch._foreach_mul_(params, 1 - plan.lr * plan.weight_decay)
            torch._foreach_add_(params, u, alpha=-plan.lr)
        group["steps"] = group.get("steps", 0) + 1
        group["held"] = plan.rotation if plan.turning else None

    def _directions(self, plan: _Plan, params: list[Tensor], *, decay: bool) -> list[Tensor]:
        rule, group = plan.rule, plan.group
        g: list[Tensor] = [p.grad for p in params if p.grad is not None]
        if group["maximize"]:
            g = list(torch._foreach_neg(g))
        if decay and rule.decay == "coupled" and plan.weight_decay != 0:
            g = list(torch._foreach_add(g, params, alpha=plan.weight_decay))
        steps, m, v = self._state(rule, params, g)
        torch._foreach_add_(steps, 1)
        return foreach.directions(rule, g, m, v, [int(s.item()) for s in steps])

    def _state(
        self, rule: Rule, params: list[Tensor], g: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """(step, memory, second moment) of each parameter, made where they are missing."""
        for p, gradient in zip(params, g, strict=True):
            state = self.state[p]
            if "step" not in state:
                state["step"] = torch.tensor(0.0, dtype=torch.float32)
            if rule.memory.old != 0 and state.get(self.memory_key) is None:
                state[self.memory_key] = foreach.first_memory(rule.memory, gradient)
            if isinstance(rule.scale, Rms) and "exp_avg_sq" not in state:
                state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        states = [self.state[p] for p in params]
        return (
            [s["step"] for s in states],
            [s[self.memory_key] for s in states] if rule.memory.old != 0 else [],
            [s["exp_avg_sq"] for s in states] if isinstance(rule.scale, Rms) else [],
        )

    def _rotate(self, plan: _Plan, p: Tensor, u: Tensor, units: Neurons) -> None:
        state = self.state[p]
        if "norm" not in state:
            self._hold(plan, p, units)
        state["turns"] += 1
        foreach.rotate_(
            p,
            u,
            units,
            rotation=plan.rotation,
            norm=state["norm"],
            mean_square=state["update_sq"],
            steps=int(state["turns"].item()),
            memory=plan.control.memory,
            center=plan.control.center,
        )

    def _hold(self, plan: _Plan, p: Tensor, units: Neurons) -> None:
        """Note the length of every neuron at its first step: loaded or re-made weights count as they are then."""
        if plan.control.center:
            p.copy_(units.center(p))
        norm = units.norm(p)
        self.state[p].update(norm=norm, update_sq=torch.zeros_like(norm), turns=torch.tensor(0.0))
        empty = int((norm == 0).sum())
        if empty:
            index = next(i for i, q in enumerate(plan.group["params"]) if q is p)
            warnings.warn(
                f"{type(self).__name__}: {_name(plan.group, index)} has {empty} all-zero neurons (of {norm.numel()}). "
                "A zero vector has no direction to rotate, so they stay as they are until they have one. Give them a "
                "non-zero initialisation, or put the parameter into a group with rotational=False.",
                stacklevel=4,
            )

    # Checkpoints ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """torch's state dict, of plain data and tensors only: `torch.load(weights_only=True)` reads it."""
        saved = super().state_dict()
        saved["param_groups"] = checkpoint.packed(saved["param_groups"])
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of this class, or of torch's own optimizer of the same rule, bit for bit.

        Raises ValueError when the saved groups have other sizes, or were partitioned into other neurons.
        """
        live = [dict(group) for group in self.param_groups]
        checkpoint.check_partition(type(self).__name__, live, state_dict["param_groups"])
        super().load_state_dict(state_dict)
        for group, before in zip(self.param_groups, live, strict=True):
            checkpoint.restore_options(group, before)
        checkpoint.restore_state(self, state_dict)


@lru_cache(maxsize=4096)
def _can_turn(control: Control, units: Neurons, shape: torch.Size) -> bool:
    return control.can_turn(units, shape)


def _name(group: Group, index: int) -> str:
    names = group.get("param_names")
    return f"parameter {names[index]!r}" if names else f"parameter {index} of its group"
