"""Results that no run gave: what figures, claims and pages are tested on without training."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from rotational.lab.declare import Run
from rotational.lab.results import Curve, LayerResult, Outline, Result, versions

LAYERS = ("stem.0.weight", "blocks.0.weight", "blocks.1.weight", "head.weight")
VERSIONS = versions()
PROBES = (
    *(
        f"alignment/{x}"
        for x in ("gradient_weight", "gradient_momentum", "second_moment", "scaled_size", "scaled_weight")
    ),
    "radial/decay",
)


def result(run: Run, accuracy: float = 50.0, loss: float = 1.0, rotations: tuple[float, ...] = (0.02,) * 4) -> Result:
    """A finished run: curves of 12 points, four layers with these rotations and norms 1, 2, 3, 4."""
    step = np.linspace(1, run.steps, 12)
    noise = np.random.default_rng(int(run.key, 16) % 2**32)

    def curve(end: float, start: float) -> Curve:
        course = end + (start - end) * np.exp(-4 * step / run.steps)
        return Curve(step, course * np.exp(0.02 * noise.standard_normal(len(step))))

    layers = tuple(
        LayerResult(
            name=name,
            module="Conv2d" if name != "head.weight" else "Linear",
            neurons=8,
            size=27,
            rotation=r,
            predicted=0.02,
            norm=1.0 + i,
            spread=1.2,
            curves={
                "rotation": curve(r, 3 * r),
                "predicted": Curve(step, np.full(12, 0.02)),
                "norm": curve(1.0 + i, 0.4 * (1 + i)),
            },
        )
        for i, (name, r) in enumerate(zip(LAYERS, rotations, strict=True))
    )
    total = math.sqrt(float(np.mean(np.square(rotations))))
    metrics = {"accuracy": accuracy, "loss": loss, "bleu": accuracy / 2}
    return Result(
        run=run,
        steps=run.steps,
        diverged=False,
        metrics={"validation": {k: v for k, v in metrics.items() if k != "bleu"}, "test": metrics},
        score="accuracy",
        higher=True,
        seconds=0.01 * run.steps,
        threads=1,
        device="cpu",
        versions=VERSIONS,
        rotation=Outline(step, curve(total, 3 * total).value, np.full(12, 0.02), 1.3),
        layers=layers,
        curves={"loss": curve(loss, 2.3), "val_loss": Curve(step[[5, 11]], np.array([1.5 * loss, loss]))},
        probes={f"{probe}/{name}": curve(0.05, 0.1) for name in LAYERS for probe in PROBES},
    )


def plausible(run: Run) -> Result:
    """Numbers that differ with the run, so that pictures have something to show."""
    rng = np.random.default_rng(int(run.key, 16) % 2**32)
    lr = run.optimizer.lr
    hill = -3.0 * (math.log10(lr) + 1.5) ** 2 * (0.3 if run.optimizer.rotational else 1.0)
    wide = 5.0 if run.optimizer.rule == "adam" and not run.optimizer.rotational else 1.1
    rotations = tuple(0.02 * wide ** float(x) for x in rng.uniform(-1, 1, 4))
    return result(run, 70 + hill + float(rng.normal()), 1.0 + 0.05 * float(rng.normal()), rotations)


def fill(jobs: Callable[[], tuple[Run, ...]], keep: Callable[[Result], object]) -> None:
    """Keep plausible results of all runs that are missing, stage by stage."""
    while runs := jobs():
        for run in runs:
            keep(plausible(run))
