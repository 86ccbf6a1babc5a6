"""Which rule an optimizer follows, read from its class and its options. Imports no torch: reports use it too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rotational import rules
from rotational.rule import Rule

Options = Mapping[str, Any]


def recognise(
    optimizer: Any, rule: Rule | None = None, call: str = "recognise", *, groups: Sequence[Options] | None = None
) -> tuple[Rule, ...]:
    """The rule of each param group of `optimizer`; `rule`, if given, is everybody's word against the class's.

    `groups` are read in place of its own, as a scheduler will have set them.

    Known are torch's SGD, Adam, AdamW, NAdam, RAdam, Adamax, RMSprop and Muon, the optimizers of this library, any
    subclass that keeps their `step`, and any optimizer with a method `rule(group)` that returns a `Rule`. A wrapper
    that holds its optimizer as `.optimizer` is looked through.

    Raises ValueError for an optimizer that is not known, with what to write to name its rule, and for those of torch
    that admit no law, with the reason.

    >>> import torch
    >>> opt = torch.optim.AdamW(torch.nn.Linear(2, 2).parameters(), betas=(0.9, 0.95))
    >>> recognise(opt)[0].name
    'adamw'
    """
    if not hasattr(optimizer, "param_groups"):
        given = f"{optimizer.__name__}, a class" if isinstance(optimizer, type) else type(optimizer).__name__
        raise TypeError(f"{call}({given}): expected an optimizer, an object with param_groups.")
    groups = list(optimizer.param_groups) if groups is None else groups
    if rule is not None:
        return (rule,) * len(groups)
    inner, seen = optimizer, set[int]()
    while inner is not None and id(inner) not in seen:
        seen.add(id(inner))
        own = getattr(inner, "rule", None)
        if callable(own):
            return tuple(_checked(own(group), call, inner) for group in groups)
        name = _name(inner)
        if name in _KNOWN:
            return tuple(_torch(name, group, f"{call}({type(inner).__name__})") for group in groups)
        if name in LAWLESS:
            raise ValueError(f"{call}({type(inner).__name__}): no law is known for it, because {LAWLESS[name]}.")
        inner = getattr(inner, "optimizer", None)
    raise ValueError(
        f"{call}({type(optimizer).__name__}): the rule of this optimizer is not known. Name it, as in "
        f"{call}(..., rule=rotational.rules.adamw(betas=(0.9, 0.999))), or give the class a method rule(group) that "
        f"returns one. Known are torch's {', '.join(_KNOWN)}, and rotational's own."
    )


def _name(optimizer: Any) -> str | None:
    """torch's name of the class whose `step` runs: a subclass that overrides it is another optimizer.

    The function is asked, not the classes: torch puts a copy of an inherited `step`, wrapped for its hooks,
    into whichever class is the first to have an instance.
    """
    step = getattr(type(optimizer), "step", None)
    module, name = getattr(step, "__module__", None) or "", getattr(step, "__qualname__", "")
    return name.partition(".")[0] if module.startswith("torch.optim.") else None


def _torch(name: str, group: Options, call: str) -> Rule:
    if group.get("amsgrad"):
        raise ValueError(f"{call}: no law is known for amsgrad=True, whose second moment never falls.")
    try:
        return _KNOWN[name](group)
    except ValueError as error:  # of a rule's own function, or of one here: say whose options they are
        raise ValueError(f"{call}: {error}") from None


def _checked(rule: Any, call: str, optimizer: Any) -> Rule:
    if not isinstance(rule, Rule):
        raise TypeError(
            f"{call}: {type(optimizer).__name__}.rule(group) returned {type(rule).__name__}, not a rotational Rule."
        )
    return rule


def _adam(group: Options) -> Rule:
    # Since torch 2.7 AdamW is Adam with this flag; before, AdamW had a step of its own.
    make = rules.adamw if group.get("decoupled_weight_decay") else rules.adam_l2
    return make(_floats(group["betas"]), group["eps"])


def _nadam(group: Options) -> Rule:
    make = rules.nadamw if group.get("decoupled_weight_decay") else rules.nadam_l2
    betas, ramp = _floats(group["betas"]), float(group["momentum_decay"])
    rule = make(betas, group["eps"], momentum_decay=ramp)
    if ramp:
        return rule
    # torch's look-ahead starts at half its strength, and without this decay it stays there.
    ahead = betas[0] / 2
    memory = replace(rule.memory, new=1 - ahead + ahead * rule.memory.inflow, old=ahead * betas[0])
    return replace(rule, memory=memory)


def _radam(group: Options) -> Rule:
    betas = _floats(group["betas"])
    decay = "decoupled" if group.get("decoupled_weight_decay") else "coupled"
    return rules.radam(betas, group["eps"], decay=decay)


def _muon(group: Options) -> Rule:
    if tuple(group["ns_coefficients"]) != _NEWTON_SCHULZ:
        raise ValueError(
            f"Muon(ns_coefficients={tuple(group['ns_coefficients'])}): the law is known for torch's own coefficients, "
            f"{_NEWTON_SCHULZ}, and for the exact factor. Name the rule: rotational.rules.muon(ns_steps=None)."
        )
    return rules.muon(group["momentum"], group["nesterov"], group["ns_steps"], group["adjust_lr_fn"] or "original")


_NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)


def _floats(betas: Any) -> tuple[float, float]:
    return float(betas[0]), float(betas[1])


_KNOWN: dict[str, Callable[[Options], Rule]] = {
    "SGD": lambda g: rules.sgd(g["momentum"], g["dampening"] if g["momentum"] else 0.0, g["nesterov"]),
    "Adam": _adam,
    "AdamW": lambda g: rules.adamw(_floats(g["betas"]), g["eps"]),
    "NAdam": _nadam,
    "RAdam": _radam,
    "Adamax": lambda g: rules.adamax(_floats(g["betas"]), g["eps"]),
    "Muon": _muon,
    "RMSprop": lambda g: rules.rmsprop(g["alpha"], g["eps"], g["momentum"], g["centered"]),
}

LAWLESS = {
    "Adagrad": "its sum of squares never forgets: steps fall as 1/sqrt(t), and no equilibrium forms",
    "Adadelta": "the size of its steps is an average of its own past steps, so that nothing sets it",
    "Adafactor": "its step is a share of the weight's own size: the norm has no equilibrium, and the relative step is "
    "the rotation itself",
    "ASGD": "its learning rate falls by a schedule of its own, and the averaged weights are what is used",
    "Rprop": "it keeps a step size for each weight, which grows and shrinks with the sign of full-batch gradients",
    "LBFGS": "its direction is no fixed filter of past gradients",
    "SparseAdam": "it has no weight decay",
}
"""Optimizers of torch that admit no law, and why."""
