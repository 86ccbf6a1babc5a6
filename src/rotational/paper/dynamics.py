"""Section 5.1, first part: rotation settles where the theory says, whatever the norms."""

from __future__ import annotations

from rotational.lab.declare import Model, Optimizer, Run
from rotational.lab.figures import Arm, Claim, Figure, Panel
from rotational.lab.quantities import Of
from rotational.paper.base import (
    CONSTANT,
    FEW,
    MORE_SEEDS,
    SEEDS,
    arm,
    imagenet,
    openwebtext,
    small,
    tiny_net,
    tiny_words,
    words,
)

RESNET, GPT, STANDARDIZED = "ResNet, SGDM", "GPT, AdamW", "GPT standardized, AdamW"


def _arms(images: Run, text: Run, seeds: tuple[int, ...]) -> tuple[Arm, ...]:
    options = dict(text.model.options)
    standardized = text.but(model=Model(text.model.name, **{**options, "layers": "ws"}))
    return arm(RESNET, images, seeds), arm(GPT, text, seeds), arm(STANDARDIZED, standardized, seeds)


# 1/D of SGDM is (1 - momentum)/(lr wd): 200 steps at laptop scale, of which 1200 steps are 6.
_SGD = Optimizer("sgd", lr=0.1, weight_decay=5e-3)

DYNAMICS = Figure(
    name="dynamics",
    section="5.1, figures 4 and 5",
    title="Measured rotation and norms during training",
    sentence="Norms settle at different levels in different layers; rotation settles at one, which lr, weight decay "
    "and betas predict.",
    tiny=_arms(tiny_net().but(optimizer=_SGD, schedule=CONSTANT), tiny_words(), FEW),
    laptop=_arms(small(1200).but(optimizer=_SGD, schedule=CONSTANT), words(1300), MORE_SEEDS),
    # 50 epochs, and 100,000 steps, at a constant lr without warm-up. The authors' ResNet-50 normalises before its
    # convolutions, and ran once, as each GPT did.
    paper=_arms(imagenet(epochs=50).but(schedule=CONSTANT), openwebtext(), SEEDS),
    panels=(
        Panel(
            "Rotation of each layer, ResNet with SGDM",
            "layers",
            "rotation",
            arms=(RESNET,),
            dashed="predicted",
            log_y=True,
        ),
        Panel("Norm of each layer, ResNet with SGDM", "layers", "norm", arms=(RESNET,), log_y=True),
        Panel(
            "Rotation of each layer, GPT with AdamW", "layers", "rotation", arms=(GPT,), dashed="predicted", log_y=True
        ),
        Panel("Norm of each layer, GPT with AdamW", "layers", "norm", arms=(GPT,), log_y=True),
        Panel(
            "Rotation of each layer, standardized GPT",
            "layers",
            "rotation",
            arms=(STANDARDIZED,),
            dashed="predicted",
            log_y=True,
        ),
        Panel("Rotation of the whole model", "lines", "rotation", dashed="predicted", log_y=True),
    ),
    claims=(
        Claim(
            "ResNet with SGDM: every normalised layer turns within 15% of its prediction",
            Of(RESNET, "off"),
            high=15,
            expected="0%",
        ),
        Claim(
            "Standardized GPT with AdamW: every normalised layer turns within 15% of its prediction",
            Of(STANDARDIZED, "off"),
            high=15,
            expected="0%",
        ),
        Claim(
            "Plain GPT with AdamW: RMS rotation of the model within 15% of its prediction",
            Of(GPT, "ratio"),
            low=0.85,
            high=1.15,
            expected="1",
        ),
        Claim(
            "ResNet: rotation differs less than 1.3-fold across normalised layers",
            Of(RESNET, "layer spread"),
            high=1.3,
            expected="1",
        ),
        Claim("ResNet: norms differ more than 2-fold across layers", Of(RESNET, "norm spread"), low=2),
        Claim(
            "Standardized GPT: rotation differs less than 1.3-fold across normalised layers",
            Of(STANDARDIZED, "layer spread"),
            high=1.3,
            expected="1",
        ),
    ),
    remarks=(
        "Normalised are all layers but embeddings and the head, which are drawn all the same: nothing normalises what "
        "the head gives, and rows of an embedding have a gradient only where their token occurs.",
    ),
)
