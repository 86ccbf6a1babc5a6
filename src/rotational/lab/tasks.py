"""What a run learns: its model, its batches, its loss, and how well it does on held-out data.

    task = build(run, where)                    where: the folder of data
    task.loss(task.model, task.batch(step))     a batch depends on the run's seed and the step alone

So a run may go on at any step without the state of a generator. Every epoch is a permutation of the training set.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rotational.lab import data as _data
from rotational.lab import models
from rotational.lab.data import Images, Pairs, Text, available
from rotational.lab.data.images import EVERY
from rotational.lab.data.mixing import opposite
from rotational.lab.data.pairs import Part, by_tokens
from rotational.lab.declare import Run
from rotational.lab.models import beam
from rotational.lab.models.seq2seq import PAD, Seq2Seq

Split = Literal["validation", "test"]

AT_ONCE = 256
"""Held-out examples that a model sees at once."""

POOL = 50
"""Batches of sentences that are sorted by length together, so that a batch needs little padding."""

__all__ = ["Classification", "Language", "Order", "Task", "Translation", "available", "build"]


class Task(ABC):
    """What is learned; the weights of `model` are drawn from the run's seed.

    score, higher   the metric by which runs are compared, and whether more of it is better
    """

    score: str = "loss"
    higher: bool = False

    def __init__(self, run: Run, model: nn.Module) -> None:
        self.run, self.model = run, model

    @property
    def sizes(self) -> Sequence[int]:
        """Rows of every batch that there is, in order: `run.batch`, where data do not have it otherwise."""
        return (self.run.batch,)

    @abstractmethod
    def batch(self, step: int) -> tuple[Tensor, ...]:
        """The batch of a step, counted from 0, on the CPU; all tensors have as many rows, one of `sizes`."""

    def part(self, step: int, rows: slice) -> tuple[Tensor, ...]:
        """Some rows of the batch of a step, as they are in the whole one; what costs most is done for them alone."""
        return tuple(x[rows] for x in self.batch(step))

    @abstractmethod
    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """The training loss of a batch, a scalar; with label smoothing, where there is any."""

    @abstractmethod
    def measured(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Metrics of a model in evaluation mode."""

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Metrics on held-out data: "loss" in nats (never smoothed), and what else the task measures.

        "accuracy" is in percent; "bleu", from 0 to 100, is of the test split only. Data goes to the model's device.
        """
        training = model.training
        model.eval()
        try:
            return self.measured(model, split)
        finally:
            model.train(training)


def build(run: Run, where: Path | None) -> Task:
    """The task of a run, with data from the folder `where`.

    Raises FileNotFoundError for data that is not there, ValueError and TypeError for names and options that do not
    exist or do not fit each other, each as one sentence.

    >>> from rotational.lab.declare import Data, Model, Optimizer
    >>> run = Run(Model("mlp"), Data("blobs"), Optimizer("adamw", 1e-3, 0.1), steps=10, batch=8)
    >>> task = build(run, None)
    >>> [tuple(x.shape) for x in task.batch(3)], task.score
    ([(8, 3, 8, 8), (8,)], 'accuracy')
    """
    data = _data.load(run.data, where)
    model = models.build(run.model, data.form, run.seed)
    if isinstance(data, Images):
        return Classification(run, model, data)
    return Language(run, model, data) if isinstance(data, Text) else Translation(run, model, data)


class Order:
    """Which examples a step takes: epochs one after the other, each a permutation of its own.

    >>> order = Order(count=4, batch=3, seed=0)
    >>> taken = torch.cat([order.at(step)[0] for step in range(4)])
    >>> [sorted(taken[e : e + 4].tolist()) for e in (0, 4, 8)]
    [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    """

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self.count, self.batch, self.seed = count, batch, seed
        self._kept: dict[int, Tensor] = {}

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Examples of a step, and the epoch of each, [batch]: a batch may end one epoch and begin the next."""
        place = torch.arange(step * self.batch, (step + 1) * self.batch)
        epoch, within = place // self.count, place % self.count
        index = torch.empty_like(place)
        for e in range(int(epoch[0]), int(epoch[-1]) + 1):
            here = epoch == e
            index[here] = self._permutation(e)[within[here]]
        return index, epoch

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._kept:
            # The epoch before may still be asked for by a batch that spans two.
            self._kept = {e: p for e, p in self._kept.items() if e == epoch - 1}
            self._kept[epoch] = torch.randperm(self.count, generator=generator(self.seed, 1, epoch))
        return self._kept[epoch]


def generator(seed: int, purpose: int, number: int) -> torch.Generator:
    """Random numbers of a step or an epoch, for one purpose: the same at every call.

    >>> float(torch.rand((), generator=generator(0, 1, 2))) == float(torch.rand((), generator=generator(0, 1, 2)))
    True
    """
    # Odd constants far from each other, modulo 2^63: what differs in any of the three differs in the sum.
    mixed = seed * 0x9E3779B97F4A7C15 + purpose * 0xD1B54A32D192ED03 + number * 0xBF58476D1CE4E5B9
    return torch.Generator().manual_seed(mixed % (1 << 63))


class Classification(Task):
    """Images and their classes; runs are compared by accuracy."""

    score, higher = "accuracy", True

    def __init__(self, run: Run, model: nn.Module, data: Images) -> None:
        super().__init__(run, model)
        self.data = data
        self._order = Order(len(data.train.labels), run.batch, run.seed)

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Pixels, uint8 [batch, channels, side, side], cropped and mirrored already; classes [batch].

        Where images are mixed, the class of the other one follows, and the share of the first.
        """
        return self.part(step, EVERY)

    def part(self, step: int, rows: slice) -> tuple[Tensor, ...]:
        """Images that are not among the rows, or mixed into them, are not read."""
        index, _ = self._order.at(step)
        train, mixing, taking = self.data.train, self.data.mixing, generator(self.run.seed, 2, step)
        if not mixing:
            return train.take(index, taking, rows), train.labels[index[rows]]
        places = torch.arange(len(index))
        own, other = places[rows], opposite(places)[rows]
        wanted, where = torch.cat([own, other]).unique(return_inverse=True)
        random = generator(self.run.seed, 5, step)
        noise = torch.randint(1 << 62, (len(index),), generator=random)
        read = mixing.erased(train.take(index, taking, wanted), noise[wanted].tolist(), self.data.statistics)
        mine, theirs = read[where].chunk(2)
        pixels, share = mixing.mixed(mine, theirs, random)
        return pixels, train.labels[index[own]], train.labels[index[other]], torch.full((len(own),), share)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """Cross entropy; of both classes, by their shares, where images are mixed."""
        pixels, labels, *mixed = batch
        logits, smoothing = model(self.data.floats(pixels)), self.data.smoothing
        if not mixed:
            return F.cross_entropy(logits, labels, label_smoothing=smoothing)
        other, share = mixed
        first, second = (
            F.cross_entropy(logits, y, label_smoothing=smoothing, reduction="none") for y in (labels, other)
        )
        return (share * first + (1 - share) * second).mean()

    def measured(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Loss, and accuracy in percent."""
        part, device = getattr(self.data, split), _device(model)
        loss, right, count = 0.0, 0, len(part.labels)
        for index in torch.arange(count).split(AT_ONCE):
            labels = part.labels[index].to(device)
            logits = model(self.data.floats(part.take(index, None).to(device))).float()
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            right += int((logits.argmax(1) == labels).sum())
        return {"loss": loss / count, "accuracy": 100 * right / count}


class Language(Task):
    """The next symbol of a text: an epoch is the text in windows that do not overlap, from another start each time."""

    def __init__(self, run: Run, model: nn.Module, data: Text) -> None:
        super().__init__(run, model)
        self.data, self._context = data, data.form.context
        # One window less than fits, so that there is room for the start.
        self._order = Order(max(1, (len(data.train) - 1) // self._context - 1), run.batch, run.seed)

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Inputs and targets, int64 [batch, context] each."""
        index, epoch = self._order.at(step)
        room = min(self._context, len(self.data.train) - self._order.count * self._context)
        starts = {
            e: int(torch.randint(room, (), generator=generator(self.run.seed, 3, e))) for e in set(epoch.tolist())
        }
        return self.data.windows(
            self.data.train, index * self._context + torch.tensor([starts[e] for e in epoch.tolist()])
        )

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """Cross entropy of the next symbol."""
        inputs, targets = batch
        return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    def measured(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Loss per symbol, and its exponential."""
        part, device, loss = getattr(self.data, split), _device(model), 0.0
        starts = self.data.held_out(part)
        # As many symbols at once as images elsewhere: logits of 50,000 symbols fill the memory.
        for start in starts.split(max(1, AT_ONCE * 64 // self._context)):
            inputs, targets = (x.to(device) for x in self.data.windows(part, start))
            logits = model(inputs).float().flatten(0, 1)
            loss += float(F.cross_entropy(logits, targets.flatten(), reduction="sum")) / self._context
        loss /= len(starts)
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}


class Translation(Task):
    """Sentences and their translations: compared by the loss, and tested by BLEU too; an epoch has `epoch` steps."""

    def __init__(self, run: Run, model: nn.Module, data: Pairs) -> None:
        super().__init__(run, model)
        self.data = data
        if run.batch > len(data.train.source):
            raise ValueError(f"Run(batch={run.batch}): {run.data!r} has {len(data.train.source)} training sentences.")
        self._by_tokens = self._composed() if data.tokens else []
        self.epoch = len(self._by_tokens) or len(data.train.source) // run.batch
        self._kept: tuple[int, list[Tensor]] = (-1, [])

    @property
    def sizes(self) -> Sequence[int]:
        """By tokens, sentences of the batches that an epoch has."""
        return sorted({len(index) for index in self._by_tokens}) or super().sizes

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Sources and targets, int64 [batch, longest], padded; sentences of about one length.

        By tokens, batches have as many sentences as have room, `run.batch` at most, and are the same in all epochs.
        """
        epoch, within = divmod(step, self.epoch)
        if self._kept[0] != epoch:
            self._kept = epoch, self._ordered(epoch)
        index = self._kept[1][within]
        return self.data.train.source.padded(index), self.data.train.target.padded(index)

    def _composed(self) -> list[Tensor]:
        part = self.data.train
        lengths = torch.maximum(part.source.lengths, part.target.lengths - 1)  # what the decoder reads or is to say
        order = torch.randperm(len(lengths), generator=generator(self.run.seed, 4, 0))
        return by_tokens(lengths, order, self.data.tokens, self.run.batch)

    def _ordered(self, epoch: int) -> list[Tensor]:
        """The batches of an epoch; the few sentences that fill none are left out of it."""
        part, random = self.data.train, generator(self.run.seed, 1, epoch)
        if self._by_tokens:
            return [self._by_tokens[i] for i in torch.randperm(self.epoch, generator=random).tolist()]
        lengths = part.source.lengths * 1000 + part.target.lengths
        order = torch.randperm(len(lengths), generator=random)[: self.epoch * self.run.batch]
        pools = order.split(POOL * self.run.batch)
        batches = [b for pool in pools for b in pool[lengths[pool].argsort(stable=True)].split(self.run.batch)]
        return [batches[i] for i in torch.randperm(len(batches), generator=random).tolist()]

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """Cross entropy of the next word of the target, mean over words, with label smoothing."""
        source, target = batch
        logits = model(source, target[:, :-1]).flatten(0, 1)
        return F.cross_entropy(
            logits, target[:, 1:].flatten(), ignore_index=PAD, label_smoothing=self.data.smoothing
        )  # fmt: skip

    def measured(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Loss per word, end of the sentence included; on the test split BLEU of a beam search."""
        part, device = cast(Part, getattr(self.data, split)), _device(model)
        loss, words = 0.0, 0
        order = part.source.lengths.argsort(stable=True)
        for index in order.split(AT_ONCE // 2):
            source, target = (x.padded(index).to(device) for x in (part.source, part.target))
            logits, true = model(source, target[:, :-1]).float().flatten(0, 1), target[:, 1:].flatten()
            loss += float(F.cross_entropy(logits, true, ignore_index=PAD, reduction="sum"))
            words += int((true != PAD).sum())
        found = {"loss": loss / words}
        return {**found, "bleu": self.bleu(model, part)} if split == "test" else found

    def bleu(self, model: nn.Module, part: Part) -> float:
        """BLEU of the words as they stand in the data (in small letters for Multi30k), not of detokenised text."""
        from sacrebleu import corpus_bleu

        device, said = _device(model), [""] * len(part.source)
        for index in part.source.lengths.argsort(stable=True).split(AT_ONCE // 2):
            found = beam.search(cast(Seq2Seq, model), part.source.padded(index).to(device), self.data.beam)
            for i, symbols in zip(index.tolist(), found, strict=True):
                said[i] = self.data.written(symbols)
        return corpus_bleu(said, [part.references], tokenize="none", force=True).score


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
