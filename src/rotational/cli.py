"""The command line: `rotational predict`, `plan`, `demo`, `report`."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rotational import rules, theory
from rotational.rule import DECAYS, Rule
from rotational.shapes import SHAPES
from rotational.theory import Equilibrium

OPTIMIZERS = (
    *("adamw", "adam", "sgd", "lion", "nadam", "rmsprop"),
    *("radam", "adamax", "laprop", "signum", "muon"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for what was asked wrongly, 130 when interrupted."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        return options.run(options)
    except (ValueError, TypeError, OSError) as error:
        print(f"rotational {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"rotational {options.command}: interrupted.", file=sys.stderr)
        return 130


# predict ----------------------------------------------------------------------------------------------------


def _predict(options: argparse.Namespace) -> int:
    rule = _rule(options)
    state = theory.equilibrium(
        rule,
        options.lr,
        options.weight_decay,
        size=options.fan_in,
        gradient_norm=options.gradient_norm,
        scale_invariant=not options.scale_sensitive,
        shape=None if options.shape is None else tuple(options.shape),
    )
    if options.json:
        print(json.dumps(_as_json(options, rule, state), indent=2))
        return 0
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2))
    for name, value in _rows(options, rule, state):
        table.add_row(name, value)
    console = Console(highlight=False)
    console.print(f"[bold]{rule.name}[/bold]  lr {options.lr:g}  weight decay {options.weight_decay:g}")
    console.print(table)
    console.print(_sentence(options, rule, state))
    return 0


def _rule(options: argparse.Namespace) -> Rule:
    """The rule that the options name; options of another optimizer are refused, not ignored."""
    taken = {k: v for k, v in vars(options).items() if k in _RULE_OPTIONS and v not in (None, False)}
    name = options.optimizer
    allowed = {
        "adamw": ("betas", "decay"),
        "adam": ("betas",),
        "nadam": ("betas", "decoupled", "decay"),
        "lion": ("betas", "linearised", "decay"),
        "sgd": ("momentum", "dampening", "nesterov", "decoupled", "decay"),
        "rmsprop": ("alpha", "momentum", "centered"),
        "radam": ("betas", "decoupled", "decay"),
        "adamax": ("betas", "decoupled", "decay"),
        "laprop": ("betas", "decay"),
        "signum": ("momentum", "nesterov", "decay"),
        "muon": ("momentum", "decay"),
    }[name]
    for option in taken:
        if option not in allowed:
            listed = ", ".join(f"--{a}" for a in allowed)
            raise ValueError(f"--{option} is not an option of {name}; it takes {listed}.")
    if taken.pop("decoupled", False) and taken.setdefault("decay", "decoupled") != "decoupled":
        raise ValueError(f"--decoupled and --decay {taken['decay']} contradict each other.")
    if name == "nadam" and taken.get("decay") in (None, "coupled"):
        taken.pop("decay", None)
        return rules.nadam_l2(**taken)
    make: dict[str, Any] = {
        "adamw": rules.adamw,
        "adam": rules.adam_l2,
        "lion": rules.lion,
        "rmsprop": rules.rmsprop,
        "sgd": rules.sgd,
        "nadam": rules.nadamw,
        "radam": rules.radam,
        "adamax": rules.adamax,
        "laprop": rules.laprop,
        "signum": rules.signum,
        "muon": rules.muon,
    }
    return make[name](**taken)


def _rows(options: argparse.Namespace, rule: Rule, state: Equilibrium) -> list[tuple[str, str]]:
    def shown(field: str, value: str) -> str:
        return _needed(options, rule, field) if getattr(state, field) is None else value

    rotation, norm = state.rotation or 0.0, state.norm or 0.0
    memory = math.inf if _product(options) == 0 else 1 / _product(options)
    rows = [
        ("rotation", shown("rotation", f"{rotation:.3g} rad/step  ({math.degrees(rotation):.3g}°)")),
        ("norm", shown("norm", "grows without end" if math.isinf(norm) else f"{norm:.4g}")),
        ("update size", shown("update", f"{state.update or 0.0:.3g} per step")),
        ("half-life", shown("half_life", _steps(state.half_life or 0.0))),
        ("1/(lr*wd)", _steps(memory)),
    ]
    if state.timescale is not None and not math.isclose(state.timescale, memory):
        rows.append(("timescale", f"{_steps(state.timescale)}, as the decay is divided by the gradient's RMS too"))
    return rows


def _needed(options: argparse.Namespace, rule: Rule, field: str) -> str:
    """Which inputs a value that is not known waits for: theory is asked with each of them filled in."""
    if _product(options) == 0:
        return "stays as it is" if options.lr == 0 else "has no end value"
    missing = {"--fan-in": options.fan_in is None, "--gradient-norm": options.gradient_norm is None}
    flags = [flag for flag, absent in missing.items() if absent]
    for chosen in [[flag] for flag in flags] + [flags]:
        size = 100 if "--fan-in" in chosen else options.fan_in
        gradient_norm = 1.0 if "--gradient-norm" in chosen else options.gradient_norm
        state = theory.equilibrium(rule, options.lr, options.weight_decay, size=size, gradient_norm=gradient_norm)
        if getattr(state, field) is not None:
            return f"needs {' and '.join(chosen)}"
    raise AssertionError(f"{rule.name}: {field} is never known")


def _sentence(options: argparse.Namespace, rule: Rule, state: Equilibrium) -> str:
    """What the numbers mean, plainly."""
    if options.lr == 0:
        return "Without a learning rate nothing moves."
    if options.weight_decay == 0:
        return "Without weight decay there is no equilibrium: norms keep growing, and rotation keeps falling."
    if state.rotation is None or state.half_life is None:
        return (
            "Under L2 regularisation the decay is divided by the size of the gradient too, so each layer turns at a "
            "rate of its own: give --fan-in and --gradient-norm (at length 1) of a layer to see its rate."
        )
    # From far below, |w|^p grows as 1 - 2^(-t/half-life), and |w| is within 5% once |w|^p is above 0.95^p.
    power = theory.relaxation(rule, not options.scale_sensitive)
    arrival = -state.half_life * math.log2(1 - 0.95**power)
    return (
        f"Neurons settle at an average turn of {math.degrees(state.rotation):.3g}° per step. From a norm far "
        f"below, it takes at least about {_steps(arrival)} to come within 5% of it: a run shorter than that never "
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


def _steps(n: float) -> str:
    return "infinitely many steps" if math.isinf(n) else f"{n:,.0f} steps" if n < 1e7 else f"{n:.2g} steps"


# plan -------------------------------------------------------------------------------------------------------


def _plan(options: argparse.Namespace) -> int:
    from rotational import planner  # forecasts take a moment to load that other commands need not wait for

    return planner.run(options, _rule(options))


# demo and report ----------------------------------------------------------------------------------------------


def _demo(options: argparse.Namespace) -> int:
    from rotational.lab import demo
    from rotational.report import page

    console = Console()
    results = demo.run(
        arms=options.arms,
        steps=options.steps,
        out=options.out,
        text=options.text,
        seed=options.seed,
        every=options.every,
        console=console,
    )
    console.print(demo.table(results))
    out = page.write(
        results.logs,
        options.out / "rotational-report.html",
        title="Four ways to train one small GPT",
        table=results.rows,
    )
    if results.interrupted:
        left = [name for name in options.arms or demo.ARMS if name not in {arm.name for arm in results.arms}]
        rest = f"; not begun: {', '.join(left)}" if left else ""
        console.print(f"Interrupted: the table is of what ran{rest}.")
    console.print(f"Report: {out}")
    return 130 if results.interrupted else 0


def _report(options: argparse.Namespace) -> int:
    from rotational.report import page

    print(f"Report: {page.write(options.logs, options.out, title=options.title)}")
    return 0


# The parser -----------------------------------------------------------------------------------------------------

_RULE_OPTIONS = (
    *("betas", "momentum", "dampening", "nesterov", "decoupled", "linearised", "alpha", "centered"),
    "decay",
)


def _rule_options(parser: argparse.ArgumentParser) -> None:
    """What names a rule, the same for every command."""
    parser.add_argument(
        "--optimizer", choices=OPTIMIZERS, required=True, help="adam is Adam with L2 (torch.optim.Adam)"
    )
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--weight-decay", type=float, required=True)
    parser.add_argument("--betas", type=float, nargs=2, metavar=("B1", "B2"), help="the Adam family, lion, laprop")
    parser.add_argument("--momentum", type=float, help="sgd, rmsprop, signum, muon")
    parser.add_argument("--dampening", type=float, help="sgd")
    parser.add_argument("--nesterov", action="store_true", help="sgd, signum")
    parser.add_argument("--alpha", type=float, help="rmsprop")
    parser.add_argument("--centered", action="store_true", help="rmsprop")
    parser.add_argument("--decoupled", action="store_true", help="sgd, nadam, radam, adamax: decay beside the gradient")
    parser.add_argument("--decay", choices=DECAYS, help="how weight decay enters (default: the optimizer's own way)")
    parser.add_argument("--linearised", action="store_true", help="lion: the paper's approximation of the sign")
    parser.add_argument("--shape", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help="muon: of the matrix")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rotational", description="Weight-decay dynamics: predict, measure and control how fast neurons rotate."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    predict = commands.add_parser(
        "predict", help="rotation, norm and time scale that hyperparameters imply", description=_predict.__doc__
    )
    predict.set_defaults(run=_predict)
    _rule_options(predict)
    predict.add_argument("--fan-in", type=int, help="number of weights of a neuron; gives the norm")
    predict.add_argument("--gradient-norm", type=float, help="RMS norm of a neuron's gradient (at length 1)")
    predict.add_argument("--scale-sensitive", action="store_true", help="gradients do not shrink as weights grow")
    predict.add_argument("--json", action="store_true", help="print JSON")

    plan = commands.add_parser(
        "plan", help="forecast a run that has not begun: rotation and norm along its schedule, warnings, suggestions"
    )
    plan.set_defaults(run=_plan)
    _rule_options(plan)
    plan.add_argument("--steps", type=int, required=True)
    plan.add_argument("--schedule", choices=SHAPES, default="constant", help="of the learning rate (default constant)")
    plan.add_argument("--warmup", type=int, default=0, metavar="STEPS", help="steps of linear warm-up (default 0)")
    plan.add_argument("--min-lr", type=float, default=0.0, help="where a falling schedule ends (default 0)")
    plan.add_argument("--decay-share", type=float, default=0.2, help="wsd: share of the run in which lr falls")
    plan.add_argument("--batch-size", type=int, help="to give the timescale in samples too")
    plan.add_argument("--fan-in", type=int, action="append", metavar="N", help="weights of a neuron; may be repeated")
    plan.add_argument("--norm", type=float, help="initial length of a neuron (default: 0.577, that of torch.nn.Linear)")
    plan.add_argument(
        "--weights", type=Path, metavar="FILE", help="safetensors or torch state dict: real sizes and norms"
    )
    plan.add_argument("--gradient-norm", type=float, help="RMS norm of a neuron's gradient (at length 1)")
    plan.add_argument("--scale-sensitive", action="store_true", help="gradients do not shrink as weights grow")
    plan.add_argument("--bf16", action="store_true", help="the weights themselves are bfloat16")
    plan.add_argument("--json", action="store_true", help="print JSON")
    plan.add_argument("--html", type=Path, metavar="FILE", help="write the plan as a page")

    demo = commands.add_parser("demo", help="train a small GPT four ways and report how its neurons rotate")
    demo.set_defaults(run=_demo)
    demo.add_argument(
        "--arms", nargs="+", metavar="ARM", help="adamw-warmup, adamw, adam-l2, rotational (default: all)"
    )
    demo.add_argument("--steps", type=int, default=1000, help="steps of each arm (default 1000)")
    demo.add_argument("--out", type=Path, default=Path("rotational-demo"), help="folder for logs and the report")
    demo.add_argument("--text", type=Path, help="train on this file (default: the source of Python's standard library)")
    demo.add_argument("--seed", type=int, default=0, help="of weights and batches (default 0)")
    demo.add_argument("--every", type=int, default=5, help="steps from one measurement to the next (default 5)")

    report = commands.add_parser("report", help="write the HTML report of one or more logs of watch()")
    report.set_defaults(run=_report)
    report.add_argument("logs", nargs="+", type=Path, metavar="LOG")
    report.add_argument("--out", type=Path, default=Path("rotation.html"))
    report.add_argument("--title")
    return parser


if __name__ == "__main__":
    sys.exit(main())
