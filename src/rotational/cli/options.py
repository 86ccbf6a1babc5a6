"""What names a rule on the command line: the same options for every command, and the rule that they make."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias

from rotational import rules
from rotational.optim.recognise import LAWLESS
from rotational.rule import DECAYS, Rule

if TYPE_CHECKING:
    Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # pyright: ignore[reportPrivateUsage]
else:
    Commands = Any

_TAKES: dict[str, tuple[str, ...]] = {
    "adamw": ("betas", "decay"),
    "adam": ("betas",),
    "sgd": ("momentum", "dampening", "nesterov", "decoupled", "decay"),
    "lion": ("betas", "linearised", "decay"),
    "nadam": ("betas", "momentum_decay", "decoupled", "decay"),
    "rmsprop": ("alpha", "momentum", "centered"),
    "radam": ("betas", "decoupled", "decay"),
    "adamax": ("betas", "decoupled", "decay"),
    "laprop": ("betas", "decay"),
    "signum": ("momentum", "nesterov", "decay"),
    "muon": ("momentum", "adjust_lr_fn", "decay", "shape"),
}
"""Optimizer -> the options that it takes."""

_MAKE: dict[str, Callable[..., Rule]] = {
    "adamw": rules.adamw,
    "adam": rules.adam_l2,
    "sgd": rules.sgd,
    "lion": rules.lion,
    "nadam": rules.nadamw,
    "rmsprop": rules.rmsprop,
    "radam": rules.radam,
    "adamax": rules.adamax,
    "laprop": rules.laprop,
    "signum": rules.signum,
    "muon": rules.muon,
}
LARGEST = 1e15
"""Whole numbers up to here are what they look like as floats."""
OPTIMIZERS = tuple(_TAKES)
_OPTIONS = {option for taken in _TAKES.values() for option in taken}


def add(parser: argparse.ArgumentParser) -> None:
    """Tell argparse what names a rule, with lr and weight decay."""
    parser.add_argument(
        "--optimizer", type=_lawful, choices=OPTIMIZERS, required=True, help="adam is Adam with L2 (torch.optim.Adam)"
    )
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--weight-decay", type=float, required=True)
    parser.add_argument("--betas", type=float, nargs=2, metavar=("B1", "B2"), help="the Adam family, lion, laprop")
    parser.add_argument("--momentum", type=float, help="sgd, rmsprop, signum, muon")
    parser.add_argument("--dampening", type=float, help="sgd")
    parser.add_argument("--nesterov", action="store_true", help="sgd, signum")
    parser.add_argument("--momentum-decay", type=float, help="nadam: of the look-ahead's warm-up (default 4e-3)")
    parser.add_argument("--alpha", type=float, help="rmsprop")
    parser.add_argument("--centered", action="store_true", help="rmsprop")
    parser.add_argument("--decoupled", action="store_true", help="sgd, nadam, radam, adamax: decay beside the gradient")
    parser.add_argument("--decay", choices=DECAYS, help="how weight decay enters (default: the optimizer's own way)")
    parser.add_argument("--linearised", action="store_true", help="lion: the paper's approximation of the sign")
    parser.add_argument(
        "--adjust-lr-fn", choices=("original", "match_rms_adamw"), help="muon: how the step depends on the shape"
    )
    parser.add_argument("--shape", type=whole, nargs=2, metavar=("ROWS", "COLUMNS"), help="muon: of the matrix")


def whole(text: str) -> int:
    """A whole number as people write it.

    >>> whole("200_000"), whole("2e5")
    (200000, 200000)
    """
    number = math.nan
    with suppress(ValueError):
        number = float(text)
    if not number.is_integer():
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    if abs(number) > LARGEST:
        raise argparse.ArgumentTypeError(f"expected a whole number of at most {LARGEST:.0e}, got {text!r}")
    return int(number)


def _lawful(name: str) -> str:
    """The name of an optimizer, if it may have a law at all; AdamW is adamw."""
    lawless = {of.lower(): why for of, why in LAWLESS.items()}
    if why := lawless.get(name.lower()):
        raise argparse.ArgumentTypeError(f"{name.lower()} has no law: {why}")
    return name.lower()


def rule(options: argparse.Namespace) -> Rule:
    """The rule that the options name; options of another optimizer are refused, not ignored.

    Raises ValueError for an option that the optimizer does not take, options that contradict each other, and numbers
    out of range.

    >>> parser = argparse.ArgumentParser()
    >>> add(parser)
    >>> rule(parser.parse_args("--optimizer sgd --lr 0.1 --weight-decay 1e-4 --momentum 0.9 --decoupled".split())).decay
    'decoupled'
    """
    taken = {k: v for k, v in vars(options).items() if k in _OPTIONS and v is not None and v is not False}
    name, allowed = options.optimizer, _TAKES[options.optimizer]
    for option in taken:
        if option not in allowed:
            flag, *flags = (f"--{a.replace('_', '-')}" for a in (option, *allowed))
            raise ValueError(f"{flag} is not an option of {name}; it takes {', '.join(flags)}.")
    taken.pop("shape", None)  # of the matrix, not of the rule
    if taken.pop("decoupled", False) and taken.setdefault("decay", "decoupled") != "decoupled":
        raise ValueError(f"--decoupled and --decay {taken['decay']} contradict each other.")
    with named():
        return _made(name, taken)


def _made(name: str, taken: dict[str, Any]) -> Rule:
    if name == "nadam":
        taken.setdefault("momentum_decay", 4e-3)  # torch's own: without it nobody's NAdam is forecast
        if taken.get("decay", "coupled") == "coupled":
            taken.pop("decay", None)
            return rules.nadam_l2(**taken)
    return _MAKE[name](**taken)


@contextmanager
def named() -> Generator[None]:
    """Errors of the library name the option in place of the argument: `forecast(lr=nan): ...` is `--lr nan: ...`.

    >>> with named():
    ...     rules.adamw(betas=(0.9, 2.0))
    Traceback (most recent call last):
    ValueError: --betas 2.0: expected a finite number >= 0 and < 1.
    """
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        if (said := _flagged(str(error))) == str(error):
            raise
        raise type(error)(said) from None


_CALL = re.compile(r"^\w+\((?P<name>\w+)(?:\[\d+\])?=(?P<value>.*?)\): ", re.DOTALL)
_ARGUMENTS = re.compile(r"^\w+\((?P<names>\w+(?:, \w+)*)\): ")


def _flagged(sentence: str) -> str:
    if call := _CALL.match(sentence):
        name, rest = call["name"], sentence[call.end() :]
        # the bounds of a number repeat its name
        rest = re.sub(rf"(with |and ){name}(\[\d+\])? (?=[<>])", lambda m: m[1].replace("with ", ""), rest)
        value = re.sub(r", (\w+)=", lambda m: f" and {_flag(m[1])} ", call["value"])
        return f"{_flag(name)} {value}: {rest}"
    if call := _ARGUMENTS.match(sentence):
        return f"{', '.join(map(_flag, call['names'].split(', ')))}: {sentence[call.end() :]}"
    return sentence


def _flag(name: str) -> str:
    return "--" + {"size": "fan-in"}.get(name, name.replace("_", "-"))


def matrix(options: argparse.Namespace) -> tuple[int, int] | None:
    """--shape, where it was given."""
    return None if options.shape is None else (options.shape[0], options.shape[1])


def told(steps: float) -> str:
    """A number of steps, to be read.

    >>> told(12345.6), told(1.2), told(3e9), told(math.inf)
    ('12,346 steps', '1 step', '3e+09 steps', 'infinitely many steps')
    """
    if steps >= 1e7:
        return "infinitely many steps" if math.isinf(steps) else f"{steps:.2g} steps"
    return f"{steps:,.0f} step{'' if round(steps) == 1 else 's'}"
