"""Simulated over forecast, rule by rule: the tables of docs/theory.md, and the check of them that CI makes.

python docs/evidence.py            measures (minutes), writes docs/evidence.json and the tables in docs/theory.md
python docs/evidence.py --check    a small size, in seconds; exits with 1 where a ratio leaves its tolerance
"""

from __future__ import annotations

import itertools
import json
import math
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np

from rotational import equilibrium, forecast, rules, walk
from rotational.rule import Rule
from rotational.scale import Raw, Sign

HERE = Path(__file__).parent
RULES: dict[str, Rule] = {
    "SGD": rules.sgd(),
    "SGDM": rules.sgd(0.9),
    "Nesterov": rules.sgd(0.9, nesterov=True),
    "SGDW": rules.sgd(0.9, decay="decoupled"),
    "AdamW (0.9, 0.999)": rules.adamw(kurtosis=3.0),
    "AdamW (0.9, 0.95)": rules.adamw((0.9, 0.95), kurtosis=3.0),
    "AdamW, cautious": rules.adamw(kurtosis=3.0, decay="cautious"),
    "AdamW, independent": rules.adamw(kurtosis=3.0, decay="independent"),
    "AdamW, AdamC": rules.adamw(kurtosis=3.0, decay="adamc"),
    "NAdamW": rules.nadamw(kurtosis=3.0),
    "LaProp": rules.laprop(kurtosis=3.0),
    "Adamax, decoupled": rules.adamax(decay="decoupled"),
    "Adam+L2": rules.adam_l2(),
    "NAdam+L2": rules.nadam_l2(),
    "RAdam, decoupled": rules.radam(decay="decoupled"),
    "RMSprop": rules.rmsprop(),
    "RMSprop, momentum, centred": rules.rmsprop(momentum=0.9, centered=True),
    "Adamax+L2": rules.adamax(),
    "Lion": rules.lion(),
    "Lion, cautious": rules.lion(decay="cautious"),
    "Signum": rules.signum(),
    "Signum+L2": rules.signum(decay="coupled"),
    "Muon, 32 rows": rules.muon(),
}
TOLERANCE = {
    **dict.fromkeys(("Lion", "Signum", "Signum+L2", "Muon, 32 rows", "AdamW, cautious"), 3.0),
    "Adam+L2": 4.0,
    "RMSprop, momentum, centred": 3.0,
    "Lion, cautious": 14.0,  # the memory lasts as long as the decay: docs/theory.md
}
EARLY = 6.0


def hyper(name: str, x: float) -> tuple[float, float]:
    """lr and weight decay of a product."""
    small = RULES[name].decay == "coupled" and not isinstance(RULES[name].scale, Raw)
    lr = 1e-3 if small or isinstance(RULES[name].scale, Sign) else 0.1
    return lr, x if RULES[name].decay == "independent" else x / lr


def given(rule: Rule, size: int) -> dict[str, Any]:
    """What a rule needs beside them."""
    return {"shape": (32, size)} if rule.name == "muon" else {"size": size, "gradient_norm": 1.0}


def along(name: str, x: float, size: int, factor: float, cosine: bool, weights: int) -> dict[str, float]:
    """Worst deviation of forecast from simulation, in percent: of the first 100 steps, and after, by windows."""
    rule, (lr, wd) = RULES[name], hyper(name, x)
    start = factor * (equilibrium(rule, lr, wd, **given(rule, size)).norm or 1.0)
    steps = int(max(600, 3 / x))
    t = np.arange(steps)
    lrs = np.full(steps, lr)
    if cosine:
        lrs = (
            lr
            * np.minimum(1, (t + 1) / (0.1 * steps))
            * (0.5 + 0.5 * np.cos(np.pi * np.clip((t / steps - 0.1) / 0.9, 0, 1)))
        )
    f = forecast(rule, lr=lrs, weight_decay=wd, steps=steps, norm=start, **given(rule, size))
    count = 32 if rule.name == "muon" else max(32, weights // size)
    repeats = max(1, weights // (size * count))
    rotation = norm = np.zeros(steps)
    for seed in range(repeats):
        trace = walk(rule, lr=lrs, weight_decay=wd, size=size, steps=steps, neurons=count, norm=start, seed=seed)
        rotation = rotation + np.mean(trace.rotation**2, axis=1) / repeats
        norm = norm + np.mean(trace.norm**2, axis=1) / repeats
    edges = [0, 1, 2, 4, 8, 16, 32, 64, 100, *np.linspace(100, steps, 13).astype(int)[1:].tolist()]
    found: dict[str, float] = {}
    for what, forecasted, measured in (("rotation", f.rotation, rotation), ("norm", f.norm, norm)):
        assert forecasted is not None
        off = [
            100 * (math.sqrt(np.sum(forecasted[a:b] ** 2) / np.sum(measured[a:b])) - 1)
            for a, b in itertools.pairwise(edges)
            if np.sum(measured[a:b]) > 1e-15  # RAdam's first steps only shrink
        ]
        found[f"{what} early"], found[f"{what} late"] = max(off[:-12], key=abs), max(off[-12:], key=abs)
    return found


def measure(size: int, weights: int, xs: tuple[float, ...], small: bool = False) -> list[dict[str, Any]]:
    """A row for each rule, product, initial norm and schedule."""
    rows: list[dict[str, Any]] = []
    for name in RULES:
        for x in xs:
            for factor in (0.1,) if small else (0.1, 10.0):
                for cosine in (True,) if small else (False, True):
                    row = {
                        "rule": name,
                        "x": x,
                        "size": size,
                        "from": factor,
                        "schedule": "cosine" if cosine else "constant",
                    }
                    rows.append(row | along(name, x, size, factor, cosine, weights))
                    if not small:
                        print(rows[-1], flush=True)
    return rows


def check() -> list[str]:
    """What leaves its tolerance at a small size."""
    faults: list[str] = []
    for row in measure(32, 8192, (1e-2,), small=True):
        late = TOLERANCE.get(row["rule"], 2.0) + 1.0  # few neurons: their own noise is up to 1%
        for key, limit in (
            ("rotation early", EARLY),
            ("norm early", EARLY),
            ("rotation late", late),
            ("norm late", late),
        ):
            if abs(row[key]) > limit:
                faults.append(f"{row['rule']}, x = {row['x']:g}: {key} is off by {row[key]:.2f}%, more than {limit:g}%")
    return faults


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| rule | x | from | schedule | rotation, first 100 steps | later | norm, first 100 steps | later |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        cells = [f"{r[k]:+.1f}" for k in ("rotation early", "rotation late", "norm early", "norm late")]
        lines.append(f"| {r['rule']} | {r['x']:g} | {r['from']:g}x | {r['schedule']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def papers() -> str:
    """The paper's closed forms against the exact ones, in percent of the rotation."""
    forms = {
        "AdamW": (rules.adamw(), lambda x: math.sqrt(2 * x * 0.1 / 1.9)),
        "SGDM": (rules.sgd(0.9), lambda x: math.sqrt(2 * x / 1.9)),
        "SGDM, Nesterov": (rules.sgd(0.9, nesterov=True), lambda x: math.sqrt(2 * x * (1 + 1.8 * 0.19) / 1.9)),
        "NAdamW": (rules.nadamw(), lambda x: math.sqrt(2 * x * (0.19**2 + 0.81**2 * 0.1 / 1.9))),
        "Lion, linearised": (rules.lion(), lambda x: math.sqrt(math.pi * x * (0.01 + 0.81 * 0.01 / 1.99))),
        "SignSGD, linearised": (rules.signum(0.0), lambda x: math.sqrt(math.pi * x)),
    }
    lines = ["| form of small lr·wd | x = 1e-4 | 1e-3 | 1e-2 |", "|---|---|---|---|"]
    for name, (rule, form) in forms.items():
        cells = []
        for x in (1e-4, 1e-3, 1e-2):
            exact = equilibrium(rule, 1e-2, x / 1e-2).rotation
            assert exact is not None
            cells.append(f"{100 * (form(x) / exact - 1):+.1f}%")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def put(name: str, text: str) -> None:
    """Put a table between its markers in docs/theory.md."""
    path = HERE / "theory.md"
    page = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    head, rest = page.split(begin)
    path.write_text(f"{head}{begin}\n{text}\n{end}{rest.split(end)[1]}", encoding="utf-8")


def main() -> int:
    """Measure, or check."""
    if "--check" in sys.argv:
        faults = check()
        print("\n".join(faults) or "Every ratio is within its tolerance.")
        return 1 if faults else 0
    rows = measure(64, 32768, (1e-2,))
    machine = {"processor": platform.processor() or platform.machine(), "python": platform.python_version()}
    (HERE / "evidence.json").write_text(
        json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n", encoding="utf-8"
    )
    put("forecast", table(rows))
    put("paper", papers())
    return 0


if __name__ == "__main__":
    sys.exit(main())
