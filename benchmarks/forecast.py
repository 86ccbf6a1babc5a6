"""What a forecast costs: 1,000,000 steps of 200 neurons side by side, for every rule, and of 200 param groups.

    python benchmarks/forecast.py [--rules AdamW Lion] [--runs 3] [--json FILE]

Neurons differ in size, initial norm and gradient; `every` keeps 2000 steps. `predict` reads torch's own schedulers of
200 param groups whose peak learning rates all differ. Times are of the processor, over all threads: what else runs on
the machine makes them a little longer, and adds nothing of its own. The least of several runs is told.
"""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from machine import machine
from rotational import forecast, predict, rules
from rotational.rule import Rule
from rotational.scale import Polar, Raw, Sign

STEPS, NEURONS, EVERY = 1_000_000, 200, 500

RULES: dict[str, Rule] = {
    "SGD": rules.sgd(),
    "SGD, momentum": rules.sgd(0.9),
    "SGD, Nesterov": rules.sgd(0.9, nesterov=True),
    "SGDW": rules.sgd(0.9, decay="decoupled"),
    "AdamW": rules.adamw(),
    "AdamW (0.9, 0.95)": rules.adamw((0.9, 0.95)),
    "AdamW, cautious": rules.adamw(decay="cautious"),
    "AdamW, AdamC": rules.adamw(decay="adamc"),
    "NAdamW": rules.nadamw(momentum_decay=4e-3),
    "LaProp": rules.laprop(),
    "RAdam, decoupled": rules.radam(decay="decoupled"),
    "Adam+L2": rules.adam_l2(),
    "NAdam+L2": rules.nadam_l2(),
    "RMSprop": rules.rmsprop(),
    "RMSprop, centred": rules.rmsprop(momentum=0.9, centered=True),
    "Adamax, decoupled": rules.adamax(decay="decoupled"),
    "Adamax+L2": rules.adamax(),
    "Lion": rules.lion(),
    "Lion, cautious": rules.lion(decay="cautious"),
    "Signum": rules.signum(),
    "Signum+L2": rules.signum(decay="coupled"),
    "Muon": rules.muon(),
}


def courses() -> dict[str, float | np.ndarray]:
    """The course of lr, its peak 1: constant, a warm-up and a cosine, and ten jumps up and down."""
    t = np.arange(STEPS)
    cosine = np.minimum(1, (t + 1) / 20_000) * (0.55 + 0.45 * np.cos(np.pi * t / STEPS))
    jumps = np.where((t * 11 // STEPS) % 2 == 0, 1.0, 0.3)
    return {"constant": 1.0, "warm-up, cosine": cosine, "ten jumps": jumps}


def along(rule: Rule, course: float | np.ndarray) -> Any:
    """One forecast."""
    rng = np.random.default_rng(0)
    coupled = rule.decay == "coupled" and not isinstance(rule.scale, Raw)
    lr = 1e-3 if coupled or isinstance(rule.scale, Sign | Polar) else 0.1 if isinstance(rule.scale, Raw) else 3e-3
    decay = 1e-2 if isinstance(rule.scale, Raw) else 0.1
    needs: dict[str, Any] = (
        {"shape": (768, 768)}
        if isinstance(rule.scale, Polar)
        else {"size": rng.choice([64, 768, 3072], NEURONS), "gradient_norm": rng.uniform(0.1, 3.0, NEURONS)}
    )
    norm = rng.uniform(0.2, 2.0, NEURONS)
    return forecast(rule, lr=lr * course, weight_decay=decay, steps=STEPS, norm=norm, every=EVERY, **needs)


def optimizer(groups: int = NEURONS) -> torch.optim.Optimizer:
    """AdamW with a peak lr of its own for each group, as layer-wise decay has it."""
    lrs = (3e-3 * 0.98**i for i in range(groups))
    return torch.optim.AdamW([{"params": [torch.zeros(4, 64)], "lr": lr} for lr in lrs], weight_decay=0.1)


def _sequence(opt: torch.optim.Optimizer) -> Any:
    of = torch.optim.lr_scheduler
    warm, cosine = of.LinearLR(opt, 0.01, total_iters=20_000), of.CosineAnnealingLR(opt, STEPS - 20_000, 1e-6)
    return of.SequentialLR(opt, [warm, cosine], [20_000])


def _chained(opt: torch.optim.Optimizer) -> Any:
    of = torch.optim.lr_scheduler
    return of.ChainedScheduler([of.LinearLR(opt, 0.01, total_iters=20_000), of.ExponentialLR(opt, 0.999997)])


OF = torch.optim.lr_scheduler
SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "none": lambda opt: None,
    "LambdaLR": partial(OF.LambdaLR, lr_lambda=lambda t: min(1.0, (t + 1) / 20_000) * (1 - 0.9 * t / STEPS)),
    "StepLR": partial(OF.StepLR, step_size=200_000),
    "MultiStepLR": partial(OF.MultiStepLR, milestones=[STEPS // 2, 3 * STEPS // 4]),
    "ConstantLR": partial(OF.ConstantLR, total_iters=20_000),
    "LinearLR": partial(OF.LinearLR, total_iters=STEPS),
    "ExponentialLR": partial(OF.ExponentialLR, gamma=0.999997),
    "PolynomialLR": partial(OF.PolynomialLR, total_iters=STEPS, power=2.0),
    "CosineAnnealingLR": partial(OF.CosineAnnealingLR, T_max=STEPS),
    "CosineAnnealingLR, eta_min": partial(OF.CosineAnnealingLR, T_max=STEPS, eta_min=1e-6),
    "CosineAnnealingWarmRestarts": partial(OF.CosineAnnealingWarmRestarts, T_0=250_000),
    "OneCycleLR": lambda opt: OF.OneCycleLR(opt, [g["lr"] for g in opt.param_groups], total_steps=STEPS + 1),
    "CyclicLR": partial(OF.CyclicLR, base_lr=1e-4, max_lr=3e-3, step_size_up=50_000, cycle_momentum=False),
    "SequentialLR": _sequence,
    "ChainedScheduler": _chained,
}


def seconds(work: Callable[[], Any], runs: int) -> list[float]:
    """Of the processor, for each run."""
    found: list[float] = []
    for _ in range(runs):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return found


def peak(work: Callable[[], Any]) -> int:
    """Bytes that were allocated at most, beside what was there."""
    tracemalloc.start()
    work()
    _, high = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="*", choices=RULES, default=list(RULES))
    parser.add_argument("--schedulers", nargs="*", choices=SCHEDULERS, default=list(SCHEDULERS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="also the peak of what is allocated (slower)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    record: dict[str, Any] = {"machine": machine(), "steps": STEPS, "neurons": NEURONS, "every": EVERY}
    record |= {"forecast": {}, "predict": {}, "bytes": {}}
    told = courses()
    for rule in options.rules:
        record["forecast"][rule] = {
            course: seconds(partial(along, RULES[rule], x), options.runs) for course, x in told.items()
        }
        print(f"{rule:28}", *(f"{course} {min(x):6.2f} s  " for course, x in record["forecast"][rule].items()))
    for name in options.schedulers:
        opt = optimizer()
        scheduler = SCHEDULERS[name](opt)
        record["predict"][name] = seconds(lambda o=opt, s=scheduler: predict(o, s, steps=STEPS), options.runs)
        print(f"predict, {name:28} {min(record['predict'][name]):6.2f} s")
    if options.memory:
        opt = optimizer()
        cosine = OF.CosineAnnealingLR(opt, STEPS)
        works: dict[str, Callable[[], Any]] = {
            "forecast, cosine": partial(along, RULES["AdamW"], told["warm-up, cosine"]),
            "predict, cosine": lambda: predict(opt, cosine, steps=STEPS),
        }
        record["bytes"] = {name: peak(work) for name, work in works.items()}
        print(*(f"{name}: {x / 2**20:.0f} MiB at most" for name, x in record["bytes"].items()), sep="\n")
    if options.json:
        options.json.write_text(json.dumps(record))


if __name__ == "__main__":
    main()
