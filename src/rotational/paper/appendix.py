"""G and H: the assumptions behind the theory on real networks, and weights whose scale matters."""

from __future__ import annotations

from rotational.lab.declare import Model, Optimizer, Run, Schedule
from rotational.lab.figures import Arm, Claim, Figure, Panel
from rotational.lab.quantities import Of
from rotational.paper.base import (
    CONSTANT,
    COSINE,
    FEW,
    MORE_SEEDS,
    SEEDS,
    arm,
    at_product,
    cifar,
    small,
    tiny_images,
    tiny_net,
    tiny_words,
    wikitext,
    words,
)

_RESNET, _GPT = "ResNet", "GPT"
_SERIES = {
    "gradient_weight": "Cosine of gradient and weights",
    "gradient_momentum": "Cosine of gradient and momentum",
    "second_moment": "Second moment, standard deviation over mean",
    "scaled_size": "Size of an entry of the scaled gradient",
    "scaled_weight": "Cosine of scaled gradient and weights",
}


def _probed(images: Run, text: Run, seeds: tuple[int, ...]) -> tuple[Arm, ...]:
    runs = {_RESNET: images, _GPT: text}
    return tuple(arm(name, run.but(schedule=CONSTANT, probes=("alignment",)), seeds) for name, run in runs.items())


ASSUMPTIONS = Figure(
    name="assumptions",
    section="G",
    title="Which assumptions of the random walk hold on real networks",
    sentence="Gradients of normalised layers are orthogonal to the weights; they are nearly independent from step to "
    "step; what Adam divides by varies inside a neuron.",
    tiny=_probed(tiny_net(activation="leaky_relu"), tiny_words(), FEW),
    laptop=_probed(
        small(500, activation="leaky_relu").but(optimizer=Optimizer("adamw", 0.02, 0.5)), words(500), MORE_SEEDS
    ),
    paper=_probed(
        cifar(Model("resnet20", activation="leaky_relu_0.1")).but(optimizer=Optimizer("adamw", 0.01, 0.01, eps=1e-6)),
        wikitext().but(optimizer__lr=5e-4),
        SEEDS,
    ),
    panels=tuple(
        Panel(f"{title}, {name}", "layers", series, arms=(name,))
        for series, title in _SERIES.items()
        for name in (_RESNET, _GPT)
    ),
    claims=(
        Claim(
            "ResNet: the cosine of gradient and weights is below 0.02 (RMS over normalised layers)",
            Of(_RESNET, "gradient_weight"),
            high=0.02,
            expected="0",
        ),
        Claim(
            "ResNet: the cosine of gradient and momentum is below 0.2, as for gradients that are nearly independent",
            Of(_RESNET, "gradient_momentum"),
            high=0.2,
            expected="small",
        ),
        Claim(
            "GPT: the cosine of gradient and weights is below 0.1",
            Of(_GPT, "gradient_weight"),
            high=0.1,
            expected="small",
        ),
        Claim(
            "ResNet: an entry of the scaled gradient is within 10% of 1",
            Of(_RESNET, "scaled_size"),
            low=0.9,
            high=1.1,
            expected="1",
        ),
    ),
)

# H ------------------------------------------------------------------------------------------------------------

_KINDS = {
    "plain": {"layers": "plain", "norm": "none"},
    "standardized weights": {"layers": "ws", "norm": "none"},
    "batch norm": {"layers": "plain", "norm": "batch"},
    "tracked norm": {"layers": "tracked", "norm": "none"},
}
_LR = "optimizer__lr"


def _scales(base: Run, product: float, lrs: tuple[float, ...], seeds: tuple[int, ...]) -> tuple[Arm, ...]:
    made: list[Arm] = []
    for name, kind in _KINDS.items():
        run = base.but(model=Model(base.model.name, **{**dict(base.model.options), **kind}), probes=("radial",))
        made.append(at_product(name, run, product, lrs, seeds))
    return tuple(made)


_sgd = Optimizer("sgd", lr=0.05, weight_decay=5e-4)


SENSITIVE = Figure(
    name="scale-sensitive",
    section="H",
    title="Weights whose scale matters",
    sentence="Without normalisation gradients have a radial part, which acts as weight decay of its own: with its "
    "measured size added, the same formula predicts rotation.",
    tiny=_scales(
        tiny_images(12).but(model=Model("vgg_small", width=0.25), optimizer=_sgd, schedule=CONSTANT),
        1e-3,
        (0.01, 0.02),
        FEW,
    ),
    laptop=_scales(
        # With a product of 1e-3 plain weights decay to nothing before they learn.
        small(1000).but(model=Model("vgg_small", width=0.5), optimizer=_sgd, schedule=CONSTANT),
        2.5e-4,
        (0.0125, 0.025, 0.05, 0.1),
        MORE_SEEDS,
    ),
    # The paper's four splits of its product. Its lr falls along a cosine, with which nothing is at rest: the claim is
    # about rest, so that here lr is constant after the warm-up.
    paper=_scales(
        cifar(Model("vgg13")).but(optimizer=_sgd, schedule=Schedule("constant", warmup=COSINE.warmup)),
        2.5e-5,
        (5e-4, 5e-3, 5e-2, 0.5),
        SEEDS,
    ),
    panels=(
        Panel(
            "Rotation over the formula without the radial part", "sweep", "ratio at rest", x=_LR, log_x=True, log_y=True
        ),
        Panel("Rotation over the formula with the radial part", "sweep", "ratio radial", x=_LR, log_x=True),
        Panel("Test accuracy", "sweep", "accuracy", x=_LR, log_x=True),
    ),
    claims=tuple(
        Claim(
            f"{name}: with the measured radial part, the formula predicts the median layer's rotation within 10% "
            "(best lr)",
            Of(name, "ratio radial", by="accuracy"),
            low=0.9,
            high=1.1,
            expected="1",
        )
        for name in _KINDS
    ),
)
