"""The one step that all rotational optimizers share: rule -> direction -> plain or rotational update.

g  gradient    u  update direction    norm  length to keep    update_rms  RMS of the tangent part of u
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from itertools import chain
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from rotational.control import Control
from rotational.kernels.choose import RUNGS, Kernels
from rotational.kernels.look import Given
from rotational.kernels.work import identical, nowhere, own
from rotational.neurons import Neurons
from rotational.optim import around, checkpoint, fits
from rotational.optim.bound import Bound, Group, Options, told
from rotational.optim.measuring import NONE, Asked, Copies, Tables, compare, earlier, parted, tables_for
from rotational.optim.seen import Seen
from rotational.optim.turning import center_, lengths, noted, units_of
from rotational.optim.works import Plan, Works
from rotational.rule import Rule
from rotational.scale import Rms


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
        self._remember_nothing(defaults)
        super().__init__(params, defaults)
        self._complete = True
        self._apart(type(self).__name__)
        # Only now that every group is sound: a constructor that raises leaves the weights alone.
        for group in self.param_groups:
            self._center(group)

    def _remember_nothing(self, defaults: Group) -> None:
        """Forget what was worked out for earlier steps: the state may have become another."""
        self._bounds: list[Bound | None] = []
        self._kernels, self._seen, self._works = Kernels(), Seen(), Works()
        self._params: list[Tensor] = []
        self._epoch = object()  # another one as soon as a step could measure more or less than before
        # What the next step is to measure: it does so whatever state is loaded before.
        self._asked: Tables | None = vars(self).get("_asked")
        self._read = sorted(defaults.keys() - {"lr", "weight_decay", "rotation"})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._remember_nothing(self.defaults)

    @abstractmethod
    def rule(self, group: Group) -> Rule:
        """The rule of a param group, from its options; raises ValueError for options out of range."""

    # Param groups -----------------------------------------------------------------------------------------

    def add_param_group(self, param_group: Group) -> None:
        """Add a group: its options are checked before anything changes, then its neurons are centred.

        Raises ValueError or TypeError for options out of range, a rotational group without weight decay or
        `rotation`, a partition that does not fit its parameters, and parameters that share memory.
        """
        before = len(self.param_groups)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self._check(group)
            if self._complete:
                self._apart(type(self).__name__)
        except Exception:
            del self.param_groups[before:]
            raise
        if self._complete:
            self._center(group)

    def _check(self, group: Group) -> None:
        call = type(self).__name__
        for flag in ("rotational", "center", "maximize", "stochastic_rounding", "foreach"):
            if not (isinstance(group[flag], bool) or (flag == "foreach" and group[flag] is None)):
                raise TypeError(f"{call}({flag}={group[flag]!r}): expected True or False.")
        for key in group.keys() - self.defaults.keys():
            # A slip of the pen would leave the default in force without a word; other keys are the user's own.
            if near := get_close_matches(str(key), self.defaults, n=1, cutoff=0.85):
                raise ValueError(f"{call}: a group has the option {key!r}; write {near[0]!r}.")
        fused, dtype = group["fused"], group["moment_dtype"]
        if not (fused is None or isinstance(fused, bool) or fused in RUNGS):
            raise ValueError(f"{call}(fused={fused!r}): expected None, True, False or one of {', '.join(RUNGS)}.")
        if not (dtype is None or (isinstance(dtype, torch.dtype) and dtype.is_floating_point)):
            raise TypeError(
                f"{call}(moment_dtype={dtype!r}): expected None or a floating dtype, such as torch.bfloat16."
            )
        for i, p in enumerate(group["params"]):
            if p.is_complex():
                raise ValueError(f"{call}: {_name(group, i)} is complex; rotations are defined for real weights.")
        index = next((i for i, g in enumerate(self.param_groups) if g is group), len(self.param_groups))
        plan = self._plan(index, group, Given([p.detach() for p in group["params"]]))  # as if all had gradients
        plan.bound.foresee(call, _names(group))

    def _apart(self, call: str) -> None:
        """Raise ValueError where parameters share memory."""
        groups = [
            zip(_names(group, f"group {i}"), group["params"], strict=True) for i, group in enumerate(self.param_groups)
        ]
        fits.check_apart(call, chain.from_iterable(groups))

    def _center(self, group: Group) -> None:
        if group["center"]:
            for p, units in zip(group["params"], self._units(group), strict=True):
                if units is not None:
                    center_(p, units)

    def _control(self, group: Group) -> Control:
        return Control(group["units"], group["center"], group["update_memory"], group["rotation"], type(self).__name__)

    def _units(self, group: Group) -> Sequence[Neurons | None]:
        """What turns as one in each parameter of a group; None where the plain rule applies."""
        if not group["rotational"]:
            return (None,) * len(group["params"])
        known: Sequence[Neurons] | None = group.get("neurons")
        shapes = tuple(p.shape for p in group["params"])
        return units_of(group["units"], group["center"], None if known is None else tuple(known), shapes)

    def _check_neurons(self, call: str, group: Group) -> None:
        known, control = group.get("neurons"), self._control(group)
        if known is not None and len(known) != len(group["params"]):
            raise ValueError(
                f"{call}: a group has {len(group['params'])} parameters but {len(known)} entries in 'neurons'; take "
                "both from rotational.groups(model, weight_decay=...)."
            )
        for i, p in enumerate(group["params"] if group["rotational"] else ()):
            if p.dim() >= 2:
                control.neurons(known[i] if known else None).check(p.shape, _name(group, i))

    # The step ---------------------------------------------------------------------------------------------

    @staticmethod
    def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
        """What torch makes of a class's step: with its hooks, and with a name for profilers while one runs."""
        return around.where_used(func, Optimizer.profile_hook_step(func))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all groups; returns the closure's loss, if there is one.

        Options are read, gradients and state checked for all groups before the first weight changes.
        Raises ValueError for options out of range, sparse and complex gradients, gradients and state of other shapes
        than the weights, and parameters that share memory.
        """
        if torch.compiler.is_compiling():  # what is written to addresses cannot be traced
            return cast("Callable[..., Any]", torch.compiler.disable(self._take))(closure)
        return self._take(closure)

    def _take(self, closure: Callable[[], Any] | None) -> Any:
        tables, self._asked = self._asked, None  # of this step alone, even if it is refused
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        tracked = torch.is_grad_enabled()
        around.track(False)
        try:
            self._advance(tables)
        finally:
            around.track(tracked)
        return loss

    def _advance(self, tables: Tables | None) -> None:
        """The step of all groups, which is to fill these tables."""
        same = self._seen.same(self.param_groups, self.state)
        if not same:
            self._count_anew()
        plans = [self._plan(i, group, self._gradients(i, group), same) for i, group in enumerate(self.param_groups)]
        asked, copied = self._hold(plans, same, tables)
        try:
            self._kernels.step(self._works.of(plans, asked))
        finally:
            self._works.release()
        compare(copied)
        self._seen.settle()
        for plan in plans:
            plan.bound.settle(plan.grads)
            plan.group["steps"] = plan.group.get("steps", 0) + 1
            plan.group["held"] = plan.rotation if plan.turning and isinstance(plan.rotation, float) else None

    def _count_anew(self) -> None:
        """Which parameters there are, where something is another than before."""
        del self._bounds[len(self.param_groups) :]  # of groups that were removed
        params = [*chain.from_iterable(group["params"] for group in self.param_groups)]
        if not identical(params, self._params):
            self._params, self._epoch = params, object()

    def measure(
        self, neurons: Mapping[Tensor, Neurons] | None = None, out: Mapping[Tensor, Tensor] | None = None
    ) -> Mapping[Tensor, Tensor]:
        """Have the next step write down how the neurons of these parameters change, at no further pass over them.

        Returns, for the parameters of which it can, the tables that the step will fill: [4, neurons], the rows being
        the angle (radians), the norm after the step, the length of the change and its signed radial share. It cannot
        where the step is taken with torch's own operations, before a parameter's first step, in low precision (where
        rounding is part of the change), and for neurons other than those that turn or that are measured already. Of a
        parameter without a gradient the table says that nothing moved. One that has become another by the time of the
        step (its state, its memory or an option of its group) is measured from a copy of its weights, and of one that
        has left the optimizer the table is NaN.

        `out` is what an earlier call returned and is no longer needed: the step writes to the same tables again, if
        they are what would be made now. Without `neurons` it is the same neurons again. Raises TypeError where `out` is
        anything else, or both are left out. A table that is given other memory (`.data =`) is not one of them any more:
        it is refused or not written to.

        >>> import rotational, torch
        >>> from rotational.neurons import ROWS
        >>> layer, tables = torch.nn.Linear(8, 4, bias=False), None
        >>> opt = rotational.AdamW(layer.parameters(), lr=1e-3, weight_decay=0.1, update_memory=0)
        >>> for _ in range(3):
        ...     layer(torch.randn(2, 8)).sum().backward()
        ...     tables = opt.measure({layer.weight: ROWS}, out=tables)
        ...     opt.step()
        >>> [round(angle, 6) for table in tables.values() for angle in table[0].tolist()]    # atan(rotation)
        [0.003244, 0.003244, 0.003244, 0.003244]
        """
        if neurons is None:
            again = earlier(out)
            neurons = again.neurons
        else:
            again = None if out is None else earlier(out)
        if again is not None and self._asked is None and again.serve(neurons, self._epoch):
            self._asked = again
            return again
        # Of a group that was removed, or has taken the place of another, nothing is known.
        bounds = zip(self._bounds, self.param_groups, strict=False)
        found = [bound.measured(neurons) for bound, group in bounds if bound is not None and bound.group is group]
        self._asked = tables_for(neurons, found, self._asked, self._epoch)
        return self._asked

    def _gradients(self, index: int, group: Group) -> Given:
        """The gradients of a group, all of which a step can be taken with."""
        given, call = self._seen.gradients(index, group["params"]), f"{type(self).__name__}.step"
        if given.places is None:
            for i, (p, g) in enumerate(zip(group["params"], given.grads, strict=True)):
                if g is not None and (g.layout is not torch.strided or g.is_complex()):
                    kind = "complex" if g.is_complex() else "sparse"
                    raise ValueError(
                        f"{call}: {_name(group, i)} has a {kind} gradient; expected a dense real one"
                        + (" (Embedding(sparse=False))." if kind == "sparse" else ".")
                    )
                if g is not None:
                    fits.check_gradient(call, _name(group, i), p, g)
        return given

    def _bound(self, index: int, group: Group, same: bool) -> Bound:
        """The group's options as they were read last; read anew where one of them, or a shape, has changed."""
        while len(self._bounds) <= index:
            self._bounds.append(None)
        bound = self._bounds[index]
        if bound is None or not bound.holds(group, same):
            call, control = type(self).__name__, self._control(group)
            self._check_neurons(call, group)
            try:
                rule = self.rule(group)
            except ValueError as error:  # of the rule's own function: say whose options they are
                raise ValueError(f"{call}: {error}") from None
            if isinstance(rule.scale, Rms) and (rule.scale.first or rule.scale.centered):
                raise ValueError(
                    f"{call}.rule: the step divides after it remembers, by the mean square; {rule.name} does not. Name "
                    "a rule such as rotational.rules.adamw()."
                )
            self._epoch, options = object(), Options(group, self._read)
            bound = self._bounds[index] = Bound(group, options, rule, control, self._units(group), self.memory_key)
        elif bound.control.rate is not group["rotation"]:
            bound.control = self._control(group)  # of another schedule, or of the next number in it
        return bound

    def _plan(self, index: int, group: Group, given: Given, same: bool = False) -> Plan:
        call = type(self).__name__
        lr, weight_decay = (told(call, name, group[name]) for name in ("lr", "weight_decay"))
        bound = self._bound(index, group, same)
        turning = bound.turns(given.grads)
        rotation = bound.control.rotation(bound.rule, lr, weight_decay, group.get("steps", 0)) if turning else 0.0
        return Plan(group, bound, lr, weight_decay, rotation, turning, *given)

    def _hold(self, plans: Sequence[Plan], same: bool, tables: Tables | None) -> tuple[Asked, Copies]:
        """Bring the state up to date: loaded or re-made weights count as they are then.

        The length of every neuron is noted at its first step. Returns what the rungs are to measure, of what was asked
        for, and what else of it is to be measured by comparing.
        """
        new = [(plan, i) for plan in plans for i in plan.bound.outdated(plan.grads, self.state, same)]
        asked = NONE if tables is None else tables.asked
        if new:
            self._epoch = object()
        elif tables is None or tables.epoch is self._epoch:
            return asked, []
        call = f"{type(self).__name__}.step"
        if new:
            self._apart(call)
        for plan, i in new:
            state: dict[str, Any] = self.state.get(plan.group["params"][i], {})
            plan.bound.check(i, state, cast("Tensor", plan.grads[i]), call, _name(plan.group, i))
        params = chain.from_iterable(group["params"] for group in self.param_groups)
        others = chain.from_iterable(plan.bound.unmeasured(asked) for plan in plans)
        asked, copied = parted(asked, params, [*(plan.group["params"][i] for plan, i in new), *others])
        empty: list[str] = []
        for plan, i in new:
            p, units = plan.group["params"][i], plan.bound.units[i]
            state = self.state[p]
            if units is None or noted(state, units, p.shape):
                continue
            if plan.bound.control.center:
                center_(p, units)
            norm = lengths(p, units)
            state.update(norm=norm, update_rms=torch.zeros_like(norm), turns=fits.counter(0, p.device))
            if zeros := 0 if nowhere(own(norm)) else int((norm == 0).sum()):
                empty.append(f"{_name(plan.group, i)} has {zeros} all-zero neurons (of {norm.numel()})")
        if empty:
            center = any(plan.bound.control.center for plan, _ in new)
            constant = " (or constant ones, which are zero once they are centred)" if center else ""
            warnings.warn(
                f"{type(self).__name__}: {'; '.join(empty)}{constant}. A zero vector has no direction to rotate, so "
                "they stay as they are until they have one. Give them a non-zero initialisation, or put the "
                "parameter into a group with rotational=False.",
                stacklevel=6,
            )
        for plan, i in new:
            name = _name(plan.group, i)
            plan.bound.take_in(i, self.state[plan.group["params"][i]], type(self).__name__, name)
        return asked, copied

    # Checkpoints ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """torch's state dict, of plain data and tensors only: `torch.load(weights_only=True)` reads it."""
        saved = super().state_dict()
        saved["param_groups"] = checkpoint.packed(saved["param_groups"])
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of this class, or of torch's own optimizer of the same rule, bit for bit.

        Raises ValueError when the saved groups have other sizes or were partitioned into other neurons, when the
        state is of weights of other shapes, and when a rotation that was a function is not given again.
        """
        live = [dict(group) for group in self.param_groups]
        checkpoint.check(type(self).__name__, live, state_dict["param_groups"])
        names = [_names(group) for group in live]
        checkpoint.check_state(type(self).__name__, live, names, state_dict, self.memory_key)
        super().load_state_dict(state_dict)
        for group, before in zip(self.param_groups, live, strict=True):
            checkpoint.restore_options(group, before)
        checkpoint.restore_state(self, state_dict)
        self._remember_nothing(self.defaults)


def _name(group: Group, index: int, where: str = "its group") -> str:
    names = group.get("param_names")
    return f"parameter {names[index]!r}" if names else f"parameter {index} of {where}"


def _names(group: Group, where: str = "its group") -> list[str]:
    return [_name(group, i, where) for i in range(len(group["params"]))]
