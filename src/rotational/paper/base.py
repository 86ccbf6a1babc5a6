"""The runs that figures vary. A run at laptop scale is sized for one core, so that no figure takes two more than ten
minutes; `rotational reproduce --list` says what each took.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rotational.lab.declare import Data, Model, Optimizer, Run, Schedule, grid
from rotational.lab.figures import Arm, Then

SEEDS = (0, 1, 2)
MORE_SEEDS = (0, 1, 2, 3, 4)
"""At laptop scale, where short runs differ by little and three seeds decide few claims; the paper's own for Adam+L2."""
FEW = (0, 1)
"""Seeds at tiny scale: as many as an interval needs."""

# The schedules of the paper: warm-up over 5 of 200 epochs on images, then cosine, updated at every step.
COSINE = Schedule("cosine", warmup=0.025)
WARM = Schedule("cosine", warmup=0.05)
CONSTANT = Schedule("constant")
CONSTANT_WARM = Schedule("constant", warmup=0.02)

ADAMW = Optimizer("adamw", lr=0.05, weight_decay=0.01)


SUBSTITUTES = {
    "cifar10": Data("digits"),
    "novels": Data("stdlib", context=64),
    "wikitext2": Data("stdlib", context=64),
}
"""What stands in, at laptop scale, for data that needs a folder: what comes with scikit-learn and with Python."""


def tiny_images(steps: int = 24) -> Run:
    """A perceptron of 8 neurons a layer on made-up images."""
    return Run(
        Model("mlp", width=8, norm="batch"),
        Data("blobs"),
        Optimizer("adamw", lr=0.02, weight_decay=0.5),
        steps=steps,
        batch=16,
        schedule=WARM,
        every=2,
        evaluations=2,
    )


def tiny_net(**options: Any) -> Run:
    """A residual network of 8 and more channels on the same."""
    return tiny_images(12).but(model=Model("resnet20", width=0.5, blocks=1, **options))


def tiny_words() -> Run:
    """A GPT of one block on made-up text."""
    return tiny_images(12).but(
        model=Model("gpt", width=16, blocks=1, heads=2), data=Data("chain", context=16), batch=4, schedule=CONSTANT
    )


def small(steps: int = 600, **options: Any) -> Run:
    """ResNet-8 of 8 to 32 channels on CIFAR-10 in 16x16 pixels, batches of 64."""
    return Run(
        Model("resnet20", **{"blocks": 1, "width": 0.5, **options}),
        Data("cifar10", side=16),
        Optimizer("adamw", lr=0.02, weight_decay=0.5),
        steps=steps,
        batch=64,
        schedule=WARM,
        evaluations=3,
    )


def words(steps: int = 1500) -> Run:
    """A GPT of 2 blocks of width 64 on characters."""
    return Run(
        Model("gpt", blocks=2),
        Data("novels", context=64),
        Optimizer("adamw", lr=5e-3, weight_decay=0.8, betas=(0.9, 0.95)),
        steps=steps,
        batch=16,
        schedule=CONSTANT_WARM,
        evaluations=3,
    )


def cifar(model: Model = Model("resnet20"), batch: int = 128) -> Run:  # noqa: B008 frozen
    """200 epochs of CIFAR-10."""
    return Run(
        model,
        Data("cifar10"),
        ADAMW,
        steps=200 * 50_000 // batch,
        batch=batch,
        schedule=COSINE,
        every=100,
        evaluations=40,
    )


def openwebtext() -> Run:
    """GPT2-124M on OpenWebText, constant lr."""
    return Run(
        Model("gpt2"),
        Data("openwebtext"),
        Optimizer("adamw", lr=6e-4, weight_decay=0.1, betas=(0.9, 0.95)),
        steps=100_000,
        batch=480,
        schedule=CONSTANT_WARM,
        every=100,
        evaluations=50,
        precision="bf16",
    )


def imagenet(model: Model = Model("resnet50"), batch: int = 256, epochs: int = 90) -> Run:  # noqa: B008 frozen
    """ImageNet-1k with SGDM."""
    return Run(
        model,
        Data("imagenet"),
        Optimizer("sgd", lr=0.1, weight_decay=1e-4),
        steps=epochs * 1_281_167 // batch,
        batch=batch,
        schedule=Schedule("cosine", warmup=5 / epochs),
        every=200,
        evaluations=20,
        precision="bf16",
    )


def arm(label: str, run: Run, seeds: Iterable[int] = SEEDS, **axes: Iterable[Any]) -> Arm:
    """The run at each point of the axes, with each seed."""
    return Arm(label, grid(run, **axes, seed=seeds))


def then(
    label: str,
    run: Run,
    field: str,
    source: str,
    measure: str,
    seeds: Iterable[int] = SEEDS,
    by: str | None = None,
) -> Then:
    """A second stage: what the source measured, at its best point, goes into a field of the run, seed by seed."""
    return Then(label, tuple(run.but(seed=seed) for seed in seeds), field, source, measure, by)


def rotational(run: Run, **options: Any) -> Run:
    """The rotational variant of a run, with the same hyperparameters."""
    return run.but(optimizer__rotational=True, **{f"optimizer__{k}": v for k, v in options.items()})


def gained(run: Run) -> Run:
    """The rotational variant, with a learnable gain for each output, as the paper gives transformers."""
    return rotational(run.but(model=Model(run.model.name, **{**dict(run.model.options), "layers": "gained"})))
