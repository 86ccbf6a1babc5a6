"""The runs that figures vary. A run at laptop scale is sized for one core, so that no figure takes two more than ten
minutes; `rotational reproduce --list` says what each took.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from rotational.lab.declare import Data, Model, Optimizer, Run, Schedule, grid
from rotational.lab.figures import Arm, Then

SEEDS = (0, 1, 2)
MORE_SEEDS = (0, 1, 2, 3, 4)
"""At laptop scale, where short runs differ by little and three seeds decide few claims; the paper's own for Adam+L2."""
FEW = (0, 1)
"""Seeds at tiny scale: as many as an interval needs."""

# The schedules of the paper: warm-up over 5 of 200 epochs on images, then cosine, updated at every step. Its own code
# begins the cosine with the warm-up, not after it: at 5 of 200 epochs lr is 0.15% less there.
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


TUNED = 45_000
"""Images of an epoch where the paper, too, holds a tenth of CIFAR's training images out, to choose by: its sweeps."""


def cifar(model: Model = Model("resnet20"), batch: int = 128, images: int = 50_000) -> Run:  # noqa: B008 frozen
    """200 epochs of CIFAR-10, in steps: where the paper trains on all 50,000 images, a tenth is held out here all the
    same, and the steps are the paper's. In float32, as there.

    ResNets normalise after the convolution, as in He et al. 2016; the authors' code has them before it in J.6, J.7 and
    for weight standardization.
    """
    return Run(
        model,
        Data("cifar10"),
        ADAMW,
        steps=200 * images // batch,
        batch=batch,
        schedule=COSINE,
        every=100,
        evaluations=40,
    )


def openwebtext() -> Run:
    """GPT2-124M on OpenWebText, constant lr without warm-up; the half million tokens of a step are nanoGPT's.

    As there, linear layers have no biases. nanoGPT's layer norms have none either, and its gradients are clipped at
    length 1: neither is so here.
    """
    return Run(
        Model("gpt2", bias=False),
        Data("openwebtext"),
        Optimizer("adamw", lr=6e-4, weight_decay=0.1, betas=(0.9, 0.95)),
        steps=100_000,
        batch=480,
        schedule=CONSTANT,
        every=100,
        evaluations=50,
        precision="bf16",
    )


def short_openwebtext() -> Run:
    """The same over 5,000 steps, 20 tokens for each parameter: warm-up over 5%, then a cosine to 0."""
    return openwebtext().but(steps=5_000, schedule=WARM)


def wikitext() -> Run:
    """A GPT of GPT-2's size on Wikitext-103: 15,000 steps of 3 times 55 sequences of 512 tokens, with dropout.

    Embeddings decay, and are held, as all matrices are here; in the authors' code they are not. Its warm-up is half a
    cosine from lr/100 on, here a line from 0.
    """
    return Run(
        Model("gpt", width=768, blocks=12, heads=12, std=0.02, residual=True, dropout=0.2),
        Data("wikitext103", context=512),
        Optimizer("adamw", lr=5e-3, weight_decay=0.5, betas=(0.9, 0.95)),
        steps=15_000,
        batch=165,
        schedule=Schedule("cosine", warmup=0.02, floor=1e-6),
        every=50,
        evaluations=20,
        precision="bf16",
    )


def imagenet(
    model: Model = Model("resnet50"),  # noqa: B008 frozen
    batch: int = 256,
    epochs: int = 90,
    warm: int = 1,
) -> Run:
    """ImageNet-1k with SGDM, lr rising over `warm` epochs; bf16 where the paper has mixed float16."""
    return Run(
        model,
        Data("imagenet"),
        Optimizer("sgd", lr=0.1, weight_decay=1e-4),
        steps=epochs * 1_281_167 // batch,
        batch=batch,
        schedule=Schedule("cosine", warmup=warm / epochs),
        every=200,
        evaluations=20,
        precision="bf16",
    )


def ending(run: Run, lr: float = 1e-5) -> Run:
    """The run with a schedule that ends at this lr: the paper's cosines on images end at 1e-5."""
    return run.but(schedule__floor=float(f"{lr / run.optimizer.lr:.6g}"))


def ends(arms: Iterable[Arm | Then]) -> tuple[Arm | Then, ...]:
    """The arms with every run's schedule ending at that lr, whatever its own."""
    return tuple(replace(a, runs=tuple(ending(r) for r in a.runs if isinstance(r, Run))) for a in arms)


def arm(label: str, run: Run, seeds: Iterable[int] = SEEDS, **axes: Iterable[Any]) -> Arm:
    """The run at each point of the axes, with each seed."""
    return Arm(label, grid(run, **axes, seed=seeds))


def at_product(label: str, run: Run, product: float, lrs: Iterable[float], seeds: Iterable[int]) -> Arm:
    """The run at each lr, with the weight decay that keeps their product."""
    points = [run.but(optimizer__lr=lr, optimizer__weight_decay=float(f"{product / lr:.6g}")) for lr in lrs]
    return Arm(label, tuple(r for point in points for r in grid(point, seed=seeds)))


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
