"""From a name and its options to what a table holds under it; whatever is mistyped becomes a sentence."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any, TypeVar

from rotational import rules
from rotational.lab.declare import Data, Model, Optimizer, Value
from rotational.rule import Rule

T = TypeVar("T")

RULES: Mapping[str, tuple[Callable[..., Rule], tuple[str, ...]]] = {
    "sgd": (rules.sgd, ("momentum", "nesterov")),
    "adamw": (rules.adamw, ("betas", "eps")),
    "adam": (rules.adam_l2, ("betas", "eps")),
    "lion": (rules.lion, ("betas",)),
    "muon": (partial(rules.muon, adjust_lr_fn="match_rms_adamw"), ("momentum", "nesterov")),
}
"""The name that `Optimizer` gives a rule -> how it is made, and from which of the optimizer's options."""


def rule_of(name: str, **options: Any) -> Rule:
    """A rule by its name; what no option says is as in `rules`.

    >>> rule_of("sgd", momentum=0.8) == rules.sgd(0.8)
    True
    """
    return RULES[name][0](**options)


def declared(o: Optimizer, name: str | None = None) -> Rule:
    """The rule of an optimizer, or another one with the options that the declaration gives for it.

    >>> declared(Optimizer("adamw", 1e-3, 0.1, momentum=0.7), "sgd") == rules.sgd(0.7)
    True
    """
    name = o.rule if name is None else name
    return rule_of(name, **{option: getattr(o, option) for option in RULES[name][1]})


def made(item: Model | Data, table: Mapping[str, Callable[..., T]], *given: Any) -> T:
    """`table[item.name](*given, **options)`: the options are keyword-only parameters, each with a default.

    Raises ValueError for a name that is not in the table and a number below 0, TypeError for an option that
    the function does not have or of another type than its default.

    >>> made(Model("square", side=2), {"square": lambda *, side=1: side * side})
    4
    """
    call = type(item).__name__
    return entry(call, item.name, table)(*given, **checked(item, table[item.name]))


def entry(call: str, name: str, table: Mapping[str, T]) -> T:
    """`table[name]`; raises ValueError, with the nearest name, where there is none.

    >>> entry("Model", "one", {"one": 1})
    1
    """
    if name not in table:
        raise ValueError(f"{call}({name!r}): no such name; {_nearest(name, list(table))}.")
    return table[name]


def checked(item: Model | Data, function: Callable[..., Any]) -> dict[str, Value]:
    """The options, each known to the function and of its default's type; whole numbers pass as floats."""
    accepted = {p.name: p.default for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}
    for name, value in item.options:
        call = f"{type(item).__name__}({item.name!r}, {name}={value!r})"
        if name not in accepted:
            raise TypeError(f"{call}: no such option; {_nearest(name, list(accepted))}.")
        default = accepted[name]
        kinds = (int, float) if type(default) is float else (type(default),)
        if type(value) not in kinds:
            raise TypeError(f"{call}: expected {_kind(default)}, such as {default!r}; got {type(value).__name__}.")
        if isinstance(value, int | float) and value < 0:
            raise ValueError(f"{call}: expected a number of 0 or above.")
    return dict(item.options)


def _nearest(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"write {near[0]!r}" if near else f"expected one of {', '.join(known) or 'none at all'}"


def _kind(default: Value) -> str:
    named = {"bool": "True or False", "int": "a whole number", "float": "a number", "str": "a word"}
    return named[type(default).__name__]
