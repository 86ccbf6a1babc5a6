"""The task of the demo: the next character of a text, by a small GPT."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rotational.lab.declare import Run
from rotational.lab.gpt import GPT, Shape
from rotational.lab.tasks import Split, Task
from rotational.lab.text import VOCABULARY, Corpus

SHAPE = Shape(VOCABULARY)
"""The model of the demo: 208,128 parameters."""

WINDOWS = 512
"""How many windows of validation text the loss is taken on."""


class Characters(Task):
    """Windows at random places of the training text; the loss is in nats a character.

    One generator draws the weights and one the batches, both from the run's seed, so that runs which train side by
    side share both.

    >>> from rotational.lab import text
    >>> from rotational.lab.declare import Data, Model, Optimizer
    >>> run = Run(Model("gpt"), Data("text"), Optimizer("adamw", 1e-3, 0.1), steps=10, batch=8)
    >>> task = Characters(run, text.corpus())
    >>> [tuple(x.shape) for x in task.batch(3)]
    [(8, 64), (8, 64)]
    """

    def __init__(self, run: Run, corpus: Corpus, shape: Shape = SHAPE) -> None:
        super().__init__(run, GPT(shape, torch.Generator().manual_seed(run.seed)))
        self._corpus, self._context = corpus, shape.context
        self._held_out = corpus.held_out(WINDOWS, shape.context)
        self._next, self._batches = 0, torch.Generator().manual_seed(run.seed)

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Inputs and targets [batch, context] of a step, counted from 0."""
        if step < self._next:
            self._next, self._batches = 0, self._batches.manual_seed(self.run.seed)
        while self._next < step:  # what comes before is drawn again and dropped
            self._draw()
        return self._draw()

    def _draw(self) -> tuple[Tensor, Tensor]:
        self._next += 1
        return self._corpus.batch(self.run.batch, self._context, self._batches)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """Cross entropy of the next character."""
        inputs, targets = batch
        return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    def measured(self, model: nn.Module, split: Split) -> dict[str, float]:
        """The loss over windows of the validation text, which stands for both splits."""
        inputs, targets = (x.to(next(model.parameters()).device) for x in self._held_out)
        parts = zip(inputs.split(64), targets.split(64), strict=True)
        return {"loss": sum(self.loss(model, (x, y)).item() * len(x) for x, y in parts) / len(inputs)}
