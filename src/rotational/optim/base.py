"""The one step that all rotational optimizers share: rule -> direction -> plain or rotational update.

g  gradient    u  update direction    norm  length to keep    update_rms  RMS of the tangent part of u
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from rotational import _check
from rotational.control import Control
from rotational.kernels import foreach
from rotational.kernels.pieces import Held, Piece, batches
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
    turning: list[tuple[int, Neurons]]
    plain: list[int]


class RotationalOptimizer(Optimizer):
    """Base of `rotational.SGD`, `AdamW`, `Adam` and `Lion`; a subclass names its options and its rule.

    Options of a param group beside the rule's own: `rotational`, `center`, `update_memory`, `rotation` and
    `units` (see `control.Control`), and `neurons`, one `Neurons` per parameter, as `rotational.groups` gives.
    """

    memory_key: ClassVar[str] = "exp_avg"
    """torch's name for the momentum, so that checkpoints of torch's own optimizer can be loaded."""

    _complete = True  # False while the constructor adds its groups

    def __init__(self, params: Any, defaults: Group, refused: Mapping[str, Any]) -> None:
        for option, value in refused.items():
            if value:
                raise ValueError(
                    f"{type(self).__name__}({option}={value!r}): the rotational optimizers have no such mode; leave "
                    f"{option} out, or use torch.optim."
                )
        self._complete = False
        super().__init__(params, defaults)
        self._complete = True
        # Only now that every group is sound: a constructor that raises leaves the weights alone.
        for group in self.param_groups:
            self._center(group)

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
        if self._complete:
            self._center(group)

    def _check(self, group: Group) -> None:
        call, known = type(self).__name__, group.get("neurons")
        if known is not None and len(known) != len(group["params"]):
            raise ValueError(
                f"{call}: a group has {len(group['params'])} parameters but {len(known)} entries in 'neurons'; take "
                "both from rotational.groups(model, weight_decay=...)."
            )
        for flag in ("rotational", "center", "maximize", "foreach"):
            if not (isinstance(group[flag], bool) or (flag == "foreach" and group[flag] is None)):
                raise TypeError(f"{call}({flag}={group[flag]!r}): expected True or False.")
        for key in group.keys() - self.defaults.keys():
            # A slip of the pen would leave the default in force without a word; other keys are the user's own.
            if near := get_close_matches(str(key), self.defaults, n=1, cutoff=0.85):
                raise ValueError(f"{call}: a group has the option {key!r}; write {near[0]!r}.")
        control = self._control(group)
        for i, p in enumerate(group["params"]):
            if p.is_complex():
                raise ValueError(f"{call}: {_name(group, i)} is complex; rotations are defined for real weights.")
            if group["rotational"] and p.dim() >= 2:
                control.neurons(known[i] if known else None).check(p.shape, _name(group, i))
        self._plan(group, range(len(group["params"])))

    def _center(self, group: Group) -> None:
        if group["center"]:
            for p, units in zip(group["params"], self._units(group), strict=True):
                if units is not None:
                    _center_(p, units)

    def _control(self, group: Group) -> Control:
        return Control(group["units"], group["center"], group["update_memory"], group["rotation"], type(self).__name__)

    def _units(self, group: Group) -> Sequence[Neurons | None]:
        """What turns as one in each parameter of a group; None where the plain rule applies."""
        if not group["rotational"]:
            return (None,) * len(group["params"])
        known: Sequence[Neurons] | None = group.get("neurons")
        shapes = tuple(p.shape for p in group["params"])
        return _units(group["units"], group["center"], None if known is None else tuple(known), shapes)

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
                self._hold(plan)
            for plan in plans:
                self._apply(plan)
        return loss

    def _with_gradient(self, group: Group) -> list[int]:
        found: list[int] = []
        for i, p in enumerate(group["params"]):
            if p.grad is None:
                continue
            if p.grad.layout is not torch.strided or p.grad.is_complex():
                kind = "complex" if p.grad.is_complex() else "sparse"
                raise ValueError(
                    f"{type(self).__name__}.step: {_name(group, i)} has a {kind} gradient; expected a dense real one"
                    + (" (Embedding(sparse=False))." if kind == "sparse" else ".")
                )
            found.append(i)
        return found

    def _plan(self, group: Group, indices: Sequence[int]) -> _Plan:
        call = type(self).__name__
        lr = _check.number(call, "lr", group["lr"], low=0)
        weight_decay = _check.number(call, "weight_decay", group["weight_decay"], low=0)
        control = self._control(group)
        try:
            rule = self.rule(group)
        except ValueError as error:  # of the rule's own function: say whose options they are
            raise ValueError(f"{call}: {error}") from None
        if isinstance(rule.scale, Rms) and (rule.scale.first or rule.scale.centered):
            raise ValueError(
                f"{call}.rule: the step divides after it remembers, by the mean square; {rule.name} does not. Name a "
                "rule such as rotational.rules.adamw()."
            )
        units = self._units(group)
        turning = [(i, n) for i in indices if (n := units[i]) is not None]
        plain = [i for i in indices if units[i] is None]
        rotation = control.rotation(rule, lr, weight_decay, group.get("steps", 0)) if turning else 0.0
        return _Plan(group, rule, control, lr, weight_decay, rotation, turning, plain)

    def _hold(self, plan: _Plan) -> None:
        """Note the length of every neuron at its first step: loaded or re-made weights count as they are then."""
        empty: list[str] = []
        for i, units in plan.turning:
            p = plan.group["params"][i]
            state, count = self.state[p], units.count(p.shape)
            if "norm" in state and state["norm"].numel() == count:
                continue
            if plan.control.center:
                _center_(p, units)
            norm = units.norm(p)
            state.update(norm=norm, update_rms=torch.zeros_like(norm), turns=0)
            if zeros := int((norm == 0).sum()):
                empty.append(f"{_name(plan.group, i)} has {zeros} all-zero neurons (of {count})")
        if empty:
            constant = " (or constant ones, which are zero once they are centred)" if plan.control.center else ""
            warnings.warn(
                f"{type(self).__name__}: {'; '.join(empty)}{constant}. A zero vector has no direction to rotate, so "
                "they stay as they are until they have one. Give them a non-zero initialisation, or put the "
                "parameter into a group with rotational=False.",
                stacklevel=4,
            )

    def _apply(self, plan: _Plan) -> None:
        group = plan.group
        turning = self._pieces(plan, [(group["params"][i], units) for i, units in plan.turning])
        plain = self._pieces(plan, [(group["params"][i], None) for i in plan.plain])
        for pieces in (turning, plain):
            for batch in [[x] for x in pieces] if group["foreach"] is False else batches(pieces):
                self._advance(plan, batch)
        group["steps"] = group.get("steps", 0) + 1
        group["held"] = plan.rotation if turning else None

    def _pieces(self, plan: _Plan, params: Sequence[tuple[Tensor, Neurons | None]]) -> list[Piece]:
        """The parameters with their state, made where it is missing; their steps are counted."""
        memory, pieces = plan.rule.memory.old != 0, list[Piece]()
        for p, _ in params:
            if "step" not in self.state[p]:
                self.state[p]["step"] = torch.tensor(0.0, dtype=torch.float32)
        if params:
            # A tensor, for a number would be made into one for each parameter.
            torch._foreach_add_([self.state[p]["step"] for p, _ in params], torch.tensor(1.0), alpha=1.0)
        for p, units in params:
            state = self.state[p]
            fresh = memory and state.get(self.memory_key) is None
            wanted = ((self.memory_key, memory), ("exp_avg_sq", isinstance(plan.rule.scale, Rms)))
            for key, used in wanted:
                if used and state.get(key) is None:
                    state[key] = torch.zeros_like(p, memory_format=torch.preserve_format)
            m, v = (state[key] if used else None for key, used in wanted)
            held = None
            if units is not None:
                state["turns"] += 1
                held = Held(units, state["norm"], state["update_rms"], state["turns"])
            else:
                for key in ("norm", "update_rms", "turns"):  # once it turns again, its length is noted anew
                    state.pop(key, None)
            assert p.grad is not None
            pieces.append(Piece(p, p.grad, m, v, int(state["step"].item()), fresh, held))
        # Neurons of one size turn in one go: keep them together.
        pieces.sort(key=lambda x: x.held.neurons.size(x.w.shape) if x.held else 0)
        return pieces

    def _advance(self, plan: _Plan, batch: list[Piece]) -> None:
        """One step of a batch that turns, or of one that takes the plain rule."""
        rule, turns = plan.rule, batch[0].held is not None
        g = [x.g for x in batch]
        if plan.group["maximize"]:
            g = list(torch._foreach_neg(g))
        # A coupled decay of a linear rule is separable, and the rotation stands in its place; in Adam's
        # direction it is not, and stays.
        if plan.weight_decay != 0 and rule.decay == "coupled" and not (turns and isinstance(rule.scale, Raw)):
            g = list(torch._foreach_add(g, [x.w for x in batch], alpha=plan.weight_decay))
        u = foreach.directions(rule, g, batch)
        if turns:
            control = plan.control
            foreach.rotate_(batch, u, rotation=plan.rotation, memory=control.memory, center=control.center)
        else:
            decay = plan.weight_decay if rule.decay == "decoupled" else 0.0
            foreach.descend_(batch, u, lr=plan.lr, weight_decay=decay)

    # Checkpoints ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """torch's state dict, of plain data and tensors only: `torch.load(weights_only=True)` reads it."""
        saved = super().state_dict()
        saved["param_groups"] = checkpoint.packed(saved["param_groups"])
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of this class, or of torch's own optimizer of the same rule, bit for bit.

        Raises ValueError when the saved groups have other sizes or were partitioned into other neurons, and
        when a rotation that was a function is not given again.
        """
        live = [dict(group) for group in self.param_groups]
        checkpoint.check(type(self).__name__, live, state_dict["param_groups"])
        super().load_state_dict(state_dict)
        for group, before in zip(self.param_groups, live, strict=True):
            checkpoint.restore_options(group, before)
        checkpoint.restore_state(self, state_dict)


@lru_cache(maxsize=1024)
def _units(
    units: str | Neurons, center: bool, known: tuple[Neurons, ...] | None, shapes: tuple[torch.Size, ...]
) -> tuple[Neurons | None, ...]:
    """What turns as one in tensors of these shapes; None where nothing does.

    Without a partition, tensors of two and more axes have rows for neurons and the others have none.
    Neurons of too few weights to have a direction take the plain rule.
    """
    control = Control(units, center)
    chosen = [control.neurons(known[i] if known else None) for i in range(len(shapes))]
    return tuple(
        n if len(shape) >= 2 and control.can_turn(n, shape) else None for n, shape in zip(chosen, shapes, strict=True)
    )


@torch.no_grad()
def _center_(p: Tensor, units: Neurons) -> None:
    """Take the mean out of every neuron that has one; those without keep every bit.

    A constant neuron (a gain of ones, say) is nothing but its mean: it keeps it, and turns away from it.
    """
    w = units.view(p)
    norm, mean = units.norm(p), units.mean(p)
    rounding = (16 * torch.finfo(norm.dtype).eps + torch.finfo(p.dtype).eps) * norm
    centred = w - mean
    centred -= Neurons(units.axes).mean(centred)  # where the mean was most of the neuron, its rounding shows
    # What is left of a constant neuron is the rounding of its mean, not a direction.
    varies = Neurons(units.axes).norm(centred) > rounding
    w.copy_(torch.where(varies & (mean.abs() * units.size(p.shape) ** 0.5 > rounding), centred, w))


def _name(group: Group, index: int) -> str:
    names = group.get("param_names")
    return f"parameter {names[index]!r}" if names else f"parameter {index} of its group"
