"""From a name and its options to what a table holds under it; whatever is mistyped becomes a sentence."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from rotational.lab.declare import Data, Model, Value

T = TypeVar("T")


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
