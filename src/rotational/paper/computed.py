"""What needs no training: the random walk (A.2), the table of predictions, the time of a step."""

from __future__ import annotations

from rotational.lab.declare import Computed, Value
from rotational.lab.figures import Arm, Claim, Figure, Panel
from rotational.lab.quantities import Largest, Of, Ratio
from rotational.paper.base import FEW, MORE_SEEDS, SEEDS

# A.2 ----------------------------------------------------------------------------------------------------------

_WALKS: dict[str, dict[str, Value]] = {
    f"{name}, from {words} its length at rest": {"rule": rule, "lr": lr, "weight_decay": wd, "factor": factor}
    for name, rule, lr, wd in (("AdamW", "adamw", 1e-2, 1.0), ("SGDM", "sgd", 0.1, 1e-2), ("Lion", "lion", 1e-3, 10.0))
    for words, factor in (("a third of", 1 / 3), ("three times", 3.0))
}


def _walks(size: int, neurons: int, steps: int, seeds: tuple[int, ...]) -> tuple[Arm, ...]:
    return tuple(
        Arm(
            label,
            tuple(Computed("walk", **options, size=size, neurons=neurons, steps=steps, seed=s) for s in seeds),
        )
        for label, options in _WALKS.items()
    )


WALK = Figure(
    name="random-walk",
    section="A.2, figure 3",
    title="The random walk itself",
    sentence="Weight vectors driven by noise alone come to the predicted rotation and length, from above and from "
    "below.",
    tiny=_walks(32, 16, 600, FEW),
    laptop=_walks(64, 64, 1500, MORE_SEEDS),
    paper=_walks(256, 256, 3000, SEEDS),
    panels=(
        Panel("Rotation", "lines", "rotation / rest", dashed="predicted rotation / rest", log_y=True),
        Panel("Norm", "lines", "norm / rest", dashed="predicted norm / rest", log_y=True),
        Panel("Measured over predicted rotation", "bars", "ratio"),
    ),
    claims=tuple(
        Claim(
            f"{label}: rotation at rest is within 2% of the prediction",
            Of(label, "ratio"),
            low=0.98,
            high=1.02,
            expected="1",
        )
        for label in _WALKS
    ),
)

# Predictions --------------------------------------------------------------------------------------------------

# name: options, rotation as the paper gives it in radians per step.
_TABLE: dict[str, tuple[dict[str, Value], float]] = {
    "ResNet-50, SGDM": ({"rule": "sgd", "lr": 0.1, "weight_decay": 1e-4}, 3.24e-3),
    "GPT2-124M, AdamW": ({"rule": "adamw", "lr": 6e-4, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95}, 2.51e-3),
    "ResNet-20, AdamW, batch 128": ({"rule": "adamw", "lr": 0.05, "weight_decay": 0.01}, 7.26e-3),
    "ResNet-20, AdamW, batch 2048": ({"rule": "adamw", "lr": 0.16, "weight_decay": 0.01}, 1.30e-2),
    "ResNet-20, AdamW, few-shot": ({"rule": "adamw", "lr": 0.16, "weight_decay": 0.08}, 3.67e-2),
    "ResNet-20, SGDM, batch 128": ({"rule": "sgd", "lr": 0.5, "weight_decay": 1e-4}, 7.26e-3),
    "ResNet-20, SGDM, batch 2048": ({"rule": "sgd", "lr": 4.8, "weight_decay": 1e-4}, 2.25e-2),
    "ResNet-20, Lion, batch 128": ({"rule": "lion", "lr": 5e-4, "weight_decay": 1.0, "linearised": True}, 4.70e-3),
    "ResNet-20, Lion, batch 2048": ({"rule": "lion", "lr": 0.016, "weight_decay": 1.0, "linearised": True}, 2.66e-2),
    "DeiT-tiny, AdamW": ({"rule": "adamw", "lr": 1e-3, "weight_decay": 0.05}, 2.29e-3),
    "DeiT-tiny, AdamW, few-shot": ({"rule": "adamw", "lr": 1e-3, "weight_decay": 0.2}, 4.59e-3),
    "IWSLT14, AdamW": ({"rule": "adamw", "lr": 5e-4, "weight_decay": 1e-4, "beta1": 0.9, "beta2": 0.98}, 7.26e-5),
    "IWSLT14, AdamW, few-shot": (
        {"rule": "adamw", "lr": 5e-4, "weight_decay": 0.4, "beta1": 0.9, "beta2": 0.98},
        4.59e-3,
    ),
    "Wikitext GPT, AdamW": ({"rule": "adamw", "lr": 5e-3, "weight_decay": 0.5, "beta1": 0.9, "beta2": 0.95}, 1.62e-2),
    "OpenWebText GPT, AdamW": (
        {"rule": "adamw", "lr": 4.8e-3, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95},
        7.11e-3,
    ),
    "OpenWebText GPT, rotational": (
        {"rule": "adamw", "lr": 9.6e-3, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95},
        1.01e-2,
    ),
    "ResNet-50, SGDM, batch 8192": ({"rule": "sgd", "lr": 3.2, "weight_decay": 1e-4}, 1.84e-2),
    "ResNet-50, rotational SGDM, batch 8192": ({"rule": "sgd", "lr": 6.4, "weight_decay": 1e-4}, 2.60e-2),
}
_PREDICTED = tuple(
    Arm(name, (Computed("prediction", **options, paper=value),)) for name, (options, value) in _TABLE.items()
)

PREDICTIONS = Figure(
    name="predictions",
    section="3.4, table 1",
    title="The predicted rotation of the paper's settings",
    sentence="Rotation at equilibrium follows from lr, weight decay and betas alone.",
    tiny=_PREDICTED,
    laptop=_PREDICTED,
    paper=_PREDICTED,
    panels=(
        Panel("Predicted rotation", "bars", "rotation", log_y=True),
        Panel("Time scale 1/(lr wd)", "bars", "timescale", log_y=True),
        Panel("Off the value that the paper gives", "bars", "off paper"),
    ),
    claims=(
        Claim(
            f"All {len(_TABLE)} rotations are within 1% of what the paper gives, with three digits",
            Largest(tuple(Of(name, "off paper") for name in _TABLE)),
            high=1,
            expected="0",
            exact=True,
        ),
    ),
    remarks=("Lion's rows are the paper's linearised form; what the optimizers here hold is the exact one.",),
)

# Run time -----------------------------------------------------------------------------------------------------

_BASES = {"AdamW": "adamw", "SGDM": "sgd"}


def _timed(layers: int, width: int, steps: int, seeds: tuple[int, ...]) -> tuple[Arm, ...]:
    return tuple(
        Arm(
            f"rotational {name}" if held else name,
            tuple(
                Computed("step", rule=rule, rotational=held, layers=layers, width=width, steps=steps, seed=s)
                for s in seeds
            ),
        )
        for name, rule in _BASES.items()
        for held in (False, True)
    )


TIME = Figure(
    name="run-time",
    section="5.1, run time",
    title="What a rotational step costs",
    sentence="A rotational variant takes about as long as its base.",
    tiny=_timed(2, 64, 12, FEW),
    laptop=_timed(12, 512, 60, MORE_SEEDS),
    paper=_timed(48, 2048, 40, SEEDS),
    panels=(Panel("Seconds of an optimizer step on one thread", "bars", "seconds per step"),),
    claims=tuple(
        Claim(
            f"A step of rotational {name} takes no more than twice torch's own",
            Ratio(Of(f"rotational {name}", "seconds per step"), Of(name, "seconds per step")),
            high=2,
        )
        for name in _BASES
    ),
    remarks=(
        "torch's own optimizers are timed with their defaults on a CPU. docs/benchmarks.md has the thorough "
        "measurement.",
    ),
)
