"""The weights of real models, as shapes, and what their neurons are."""

from __future__ import annotations

from rotational.neurons import ROWS, WHOLE, Neurons

Shape = tuple[int, ...]
Weights = list[tuple[Shape, Neurons]]

EXPERTS = Neurons(axes=(0, 1))
COLUMNS = Neurons(axes=(1,))


def rows(*shapes: Shape) -> Weights:
    return [(shape, ROWS) for shape in shapes]


def gpt(vocabulary: int, width: int, blocks: int, context: int) -> list[Shape]:
    """A GPT with a tied head: projections without biases, norms with them."""
    norm: list[Shape] = [(width,), (width,)]
    block = [*norm, (3 * width, width), (width, width), *norm, (4 * width, width), (width, 4 * width)]
    return [(vocabulary, width), (context, width), *block * blocks, *norm]


def resnet50() -> list[Shape]:
    """Bottlenecks of He et al. 2016, 25.6M parameters in 161 tensors."""
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    wide = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            for out, into, k in ((width, wide, 1), (width, width, 3), (4 * width, width, 1)):
                shapes += [(out, into, k, k), (out,), (out,)]
            if block == 0:
                shapes += [(4 * width, wide, 1, 1), (4 * width,), (4 * width,)]
            wide = 4 * width
    return [*shapes, (1000, wide), (1000,)]


def resnet20() -> list[Shape]:
    """The CIFAR form, 0.27M parameters: small tensors, where what surrounds the arithmetic is most of the time."""
    shapes: list[Shape] = [(16, 3, 3, 3), (16,), (16,)]
    before = 16
    for width in (16, 32, 64):
        for block in range(3):
            shapes += [(width, before, 3, 3), (width,), (width,), (width, width, 3, 3), (width,), (width,)]
            if block == 0 and width != before:
                shapes += [(width, before, 1, 1), (width,), (width,)]
            before = width
    return [*shapes, (10, 64), (10,)]


def vit(width: int = 192, blocks: int = 12) -> list[Shape]:
    """DeiT-tiny, 5.7M parameters."""
    norm: list[Shape] = [(width,), (width,)]
    attention: list[Shape] = [(3 * width, width), (3 * width,), (width, width), (width,)]
    mlp: list[Shape] = [(4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    ends: list[Shape] = [(1, 1, width), (1, 197, width), (width, 3, 16, 16), (width,), *norm, (1000, width), (1000,)]
    return [*ends, *[*norm, *attention, *norm, *mlp] * blocks]


def moe(width: int = 384, experts: int = 8, blocks: int = 3) -> Weights:
    """Blocks of eight experts, which lie in one tensor: [expert, out, in]."""
    block = [((experts, 4 * width, width), EXPERTS), ((experts, width, 4 * width), EXPERTS)]
    return (rows((3 * width, width), (width, width), (width,), (experts, width)) + block) * blocks


SHAPES: dict[str, Weights] = {
    "gpt2-30m": rows(*gpt(vocabulary=50304, width=384, blocks=6, context=1024)),
    "gpt2-124m": rows(*gpt(vocabulary=50304, width=768, blocks=12, context=1024)),
    "resnet50": rows(*resnet50()),
    "resnet20": rows(*resnet20()),
    "vit": rows(*vit()),
    "moe": moe(),
    "rows of 9": rows(*[(40_000, 1, 3, 3)] * 10),
    "rows of 27": rows(*[(40_000, 3, 3, 3)] * 4),
    "whole tensors": [((1024, 1024), WHOLE)] * 4,
    "columns": [((768, 768), COLUMNS)] * 8,
}
