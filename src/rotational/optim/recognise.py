"""Which rule an optimizer follows, read from its class and its options. Imports no torch: reports use it too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rotational import rules
from rotational.rule import Rule

Options = Mapping[str, Any]


def recognise(optimizer: Any, rule: Rule | None = None, call: str = "recognise") -> tuple[Rule, ...]:
    """The rule of each param group of `optimizer`; `rule`, if given, is everybody's word against the class's.

    Known are torch's SGD, Adam, AdamW, NAdam and RMSprop, the optimizers of this library, any subclass that
    keeps their `step`, and any optimizer with a method `rule(group)` that returns a `Rule`. A wrapper that
    holds its optimizer as `.optimizer` is looked through.

    Raises ValueError for an optimizer that is not known, with what to write to name its rule.

    >>> import torch
    >>> opt = torch.optim.AdamW(torch.nn.Linear(2, 2).parameters(), betas=(0.9, 0.95))
    >>> recognise(opt)[0].name
    'adamw'
    """
    if not hasattr(optimizer, "param_groups"):
        raise TypeError(f"{call}({type(optimizer).__name__}): expected an optimizer, an object with param_groups.")
    groups: list[dict[str, Any]] = list(optimizer.param_groups)
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
    return _KNOWN[name](group)


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
    return make(_floats(group["betas"]), group["eps"])


def _floats(betas: Any) -> tuple[float, float]:
    return float(betas[0]), float(betas[1])


_KNOWN: dict[str, Callable[[Options], Rule]] = {
    "SGD": lambda g: rules.sgd(g["momentum"], g["dampening"] if g["momentum"] else 0.0, g["nesterov"]),
    "Adam": _adam,
    "AdamW": lambda g: rules.adamw(_floats(g["betas"]), g["eps"]),
    "NAdam": _nadam,
    "RMSprop": lambda g: rules.rmsprop(g["alpha"], g["eps"], g["momentum"], g["centered"]),
}
