"""`rotational predict`: rotation, norm and time scale that hyperparameters imply, at rest."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

from rich.table import Table

from rotational import theory
from rotational.cli import options as shared
from rotational.cli.drawing import Console
from rotational.cli.options import Commands, matrix, told
from rotational.cli.options import rule as rule_of
from rotational.rule import Rule
from rotational.scale import Polar
from rotational.theory import Equilibrium


def add(commands: Commands) -> None:
    """Tell argparse of the command."""
    predict = commands.add_parser("predict", help="rotation, norm and time scale that hyperparameters imply")
    predict.set_defaults(run=run)
    shared.add(predict)
    predict.add_argument("--fan-in", type=shared.whole, help="number of weights of a neuron; gives the norm")
    predict.add_argument("--gradient-norm", type=float, help="RMS norm of a neuron's gradient (at length 1)")
    predict.add_argument("--scale-sensitive", action="store_true", help="gradients do not shrink as weights grow")
    predict.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print what the theory says; returns the exit code."""
    rule = rule_of(options)
    state = theory.equilibrium(
        rule,
        options.lr,
        options.weight_decay,
        size=options.fan_in,
        gradient_norm=options.gradient_norm,
        scale_invariant=not options.scale_sensitive,
        shape=matrix(options),
    )
    if options.json:
        print(json.dumps(_as_json(options, rule, state), indent=2))
        return 0
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2))
    for name, value in _rows(options, rule, state):
        table.add_row(name, value)
    console = Console()
    console.print(f"[bold]{rule.title}[/bold]  lr {options.lr:g}  weight decay {options.weight_decay:g}")
    console.print(table)
    console.print(_sentence(options, rule, state))
    return 0


def _rows(options: argparse.Namespace, rule: Rule, state: Equilibrium) -> list[tuple[str, str]]:
    def shown(field: str, value: str) -> str:
        return _needed(options, rule, field) if getattr(state, field) is None else value

    rotation, norm = state.rotation or 0.0, state.norm or 0.0
    memory = math.inf if _product(options) == 0 else 1 / _product(options)
    return [
        ("rotation", shown("rotation", f"{rotation:.3g} rad/step  ({math.degrees(rotation):.3g}°)")),
        ("norm", shown("norm", "grows without end" if math.isinf(norm) else f"{norm:.4g}")),
        ("update size", shown("update", f"{state.update or 0.0:.3g} per step")),
        ("half-life", shown("half_life", told(state.half_life or 0.0))),
        ("timescale", shown("timescale", _remembered(rule, state.timescale or 0.0, memory))),
    ]


def _remembered(rule: Rule, timescale: float, memory: float) -> str:
    """1/D, and where it is not 1/(lr*wd), why."""
    if timescale == memory or math.isclose(timescale, memory):
        return f"{told(timescale)}, 1/(lr*wd)"
    why = {
        "coupled": "decay runs through the optimizer's memory and scale",
        "independent": "decay is not multiplied by lr",
        "cautious": "decay acts on a part of the entries",
    }
    return f"{told(timescale)}; 1/(lr*wd) is {told(memory)}, but {why.get(rule.decay, 'decay is not that of lr alone')}"


def _needed(options: argparse.Namespace, rule: Rule, field: str) -> str:
    """Which inputs a value that is not known waits for: theory is asked with each of them filled in."""
    if _product(options) == 0:
        return "stays as it is" if options.lr == 0 else "has no end value"
    # A matrix tells the size of its rows too.
    muon = isinstance(rule.scale, Polar)
    missing = {
        "--shape": muon and options.shape is None,
        "--fan-in": not muon and options.fan_in is None,
        "--gradient-norm": options.gradient_norm is None,
    }
    flags = [flag for flag, absent in missing.items() if absent]
    for chosen in [[flag] for flag in flags] + [flags]:
        size = 100 if "--fan-in" in chosen else options.fan_in
        gradient_norm = 1.0 if "--gradient-norm" in chosen else options.gradient_norm
        shape = (100, 100) if "--shape" in chosen else matrix(options)
        state = theory.equilibrium(
            rule, options.lr, options.weight_decay, size=size, gradient_norm=gradient_norm, shape=shape
        )
        if getattr(state, field) is not None:
            return f"needs {' and '.join(chosen)}"
    raise AssertionError(f"{rule.title}: {field} is never known")


def _sentence(options: argparse.Namespace, rule: Rule, state: Equilibrium) -> str:
    """What the numbers mean, plainly."""
    if options.lr == 0:
        return "Without a learning rate nothing moves."
    if options.weight_decay == 0:
        return "Without weight decay there is no equilibrium: norms keep growing, and rotation keeps falling."
    if state.rotation is None and isinstance(rule.scale, Polar):
        return "How far Muon turns a row depends on the whole matrix: give --shape ROWS COLUMNS to see its rate."
    if state.rotation is None or state.half_life is None:
        return (
            "Under L2 regularisation the decay is divided by the size of the gradient too, so each layer turns at a "
            "rate of its own: give --fan-in and --gradient-norm (at length 1) of a layer to see its rate."
        )
    arrival = theory.arrival(state.half_life, theory.relaxation(rule, not options.scale_sensitive))
    return (
        f"Neurons settle at an average turn of {math.degrees(state.rotation):.3g}° per step. From a norm far "
        f"below, it takes at least about {told(arrival)} to come within 5% of it: a run shorter than that never "
        "gets there."
    )


def _as_json(options: argparse.Namespace, rule: Rule, state: Equilibrium) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "rule": rule.as_dict(),
        "lr": options.lr,
        "weight_decay": options.weight_decay,
        "size": options.fan_in,
        "gradient_norm": options.gradient_norm,
        "scale_invariant": not options.scale_sensitive,
        "rotation": state.rotation,
        "rotation_degrees": None if state.rotation is None else math.degrees(state.rotation),
        "norm": state.norm,
        "update": state.update,
        "half_life": state.half_life,
        "timescale": state.timescale,
        "meaning": _sentence(options, rule, state),
    }
    # JSON has no infinity; the sentence says what null means there.
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()}


def _product(options: argparse.Namespace) -> float:
    return options.lr * options.weight_decay
