"""How long runs at the paper's scale may take on a GPU: an estimate from multiplications, without torch.

    hours = steps * max(10 ms, 3 * batch * FLOPs of an example forward / (FLOPs a second))

A backward pass takes twice a forward one. FLOPs are two for each multiplication of weights, and of attention, with
values; all else is left out. Rates are what such networks reach on one A100, a fifth of its peak, and steps below 10 ms
are those of small networks, where starting kernels takes the time. A factor of two either way is to be expected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from rotational.lab.declare import Precision, Run, Value

GPU = "A100"
RATE: Mapping[Precision, float] = {"bf16": 6e13, "float32": 2e13}
"""FLOPs a second; cuDNN's convolutions in float32 use TF32."""
SHORTEST = 0.01
"""Seconds of a step."""

Options: TypeAlias = Mapping[str, Value]
SIDES = {"cifar10": (32, 10), "cifar100": (32, 100), "imagenet": (224, 1000)}
"""Side of an image, and classes."""
CONTEXTS = {"openwebtext": 1024, "wikitext103": 512}
GPT2 = 50_257
"""Symbols of GPT-2's vocabulary."""
WORDS = 6_632
"""Target symbols of IWSLT14 as fairseq prepares it."""


def hours(run: Run) -> float | None:
    """Hours of a run on one GPU; None for models and data that no figure has at the paper's scale.

    >>> from rotational.lab.declare import Data, Model, Optimizer
    >>> run = Run(Model("resnet50"), Data("imagenet"), Optimizer("sgd", 0.1, 1e-4), 450_000, 256, precision="bf16")
    >>> round(hours(run))
    13
    """
    each = forward(run)
    if each is None:
        return None
    seconds = max(SHORTEST, 3 * examples(run) * each / RATE[run.precision])
    return run.steps * seconds / 3600


def examples(run: Run) -> float:
    """Rows of a batch; pairs of tokens where a batch is given by tokens."""
    tokens = dict(run.data.options).get("tokens", 0)
    return float(tokens) if isinstance(tokens, int | float) and tokens else run.batch


def forward(run: Run) -> float | None:
    """FLOPs of an image, of a sequence, or of a pair of tokens in the forward pass; None as of `hours`.

    >>> from rotational.lab.declare import Data, Model, Optimizer
    >>> run = Run(Model("resnet20"), Data("cifar10"), Optimizer("sgd", 0.1, 1e-4), 1, 1)
    >>> round(forward(run) / 1e6, 1)  # 40.8 million multiplications
    81.6
    """
    options, data = dict(run.model.options), dict(run.data.options)
    if run.model.name in IMAGES and run.data.name in SIDES:
        side, classes = SIDES[run.data.name]
        return 2 * IMAGES[run.model.name](int(data.get("side") or side), classes, options)
    if run.model.name in ("gpt", "gpt2") and run.data.name in CONTEXTS:
        context = int(data.get("context") or CONTEXTS[run.data.name])
        width, blocks = (int(options.get(k) or v) for k, v in (("width", 768), ("blocks", 12)))
        return 2 * context * (blocks * _block(width, context) + width * GPT2)
    if run.model.name == "transformer" and run.data.name == "iwslt14":
        width, inner, blocks = (int(options.get(k) or v) for k, v in (("width", 512), ("inner", 1024), ("blocks", 6)))
        # Self-attention of both, attention of one to the other, and two MLPs; scores over some 25 tokens cost little.
        return 2 * (blocks * (12 * width**2 + 4 * width * inner) + width * WORDS)
    return None


def _block(width: int, places: int) -> int:
    """Multiplications for one place: q, k, v, out and an MLP of four times the width; scores and their sum."""
    return 12 * width**2 + 2 * places * width


def _residual(
    side: int, classes: int, *, blocks: tuple[int, ...], width: int, expansion: int = 1, large: bool = False
) -> int:
    """Multiplications of a residual network; bottlenecks stride in their middle."""
    inputs = width
    side = side // 2 if large else side
    total = (49 if large else 9) * 3 * width * side**2
    side = side // 2 if large else side
    for stage, count in enumerate(blocks):
        inner = width * 2**stage
        outputs = inner * expansion
        for block in range(count):
            strided = block == 0 and stage > 0
            before, side = side**2, side // 2 if strided else side
            after = side**2
            if expansion == 1:
                total += 9 * inner * (inputs + inner) * after
            else:
                total += inputs * inner * before + (9 * inner**2 + inner * outputs) * after
            total += inputs * outputs * after if strided or inputs != outputs else 0
            inputs = outputs
    return total + inputs * classes


def _narrow(side: int, classes: int, options: Options) -> int:
    blocks, width = int(options.get("blocks") or 3), round(16 * float(options.get("width") or 1))
    return _residual(side, classes, blocks=(blocks,) * 3, width=width)


def _wide(side: int, classes: int, options: Options) -> int:
    blocks, width = int(options.get("blocks") or 2), round(64 * float(options.get("width") or 1))
    return _residual(side, classes, blocks=(blocks,) * 4, width=width)


def _deep(side: int, classes: int, _: Options) -> int:
    return _residual(side, classes, blocks=(3, 4, 6, 3), width=64, expansion=4, large=True)


def _vgg13(side: int, classes: int, _: Options) -> int:
    total, inputs = 0, 3
    for outputs in (64, 128, 256, 512, 512):
        total += 9 * outputs * (inputs + outputs) * side**2
        inputs, side = outputs, side // 2
    return total + 2 * 512 * 512 + 512 * classes


def _deit_tiny(side: int, classes: int, _: Options) -> int:
    width, patches = 192, (side // 16) ** 2
    places = patches + 1
    return patches * 3 * 16**2 * width + 12 * places * _block(width, places) + width * classes


IMAGES: Mapping[str, Callable[[int, int, Options], int]] = {
    "resnet20": _narrow,
    "resnet18": _wide,
    "resnet50": _deep,
    "vgg13": _vgg13,
    "deit_tiny": _deit_tiny,
}
"""Multiplications of an image, by model."""
