"""Beam search: the sentence that a model finds most probable, per symbol.

score = sum of log-probabilities / length      the end of the sentence counts as a symbol (fairseq's lenpen 1)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rotational.lab.models.seq2seq import BOS, EOS, PAD, Seq2Seq


@torch.no_grad()
def search(model: Seq2Seq, source: Tensor, beam: int = 5, ratio: float = 1.2, extra: int = 10) -> list[list[int]]:
    """Translations of sources [batch, time], as lists of symbols without BOS and EOS.

    A translation has at most ratio*time + extra symbols. `beam=1` takes the most probable symbol each time.
    The model should be in evaluation mode.
    """
    batch, limit = len(source), int(ratio * source.shape[1]) + extra
    encoded, hidden = model.encode(source)
    encoded, hidden = encoded.repeat_interleave(beam, 0), hidden.repeat_interleave(beam, 0)
    words = torch.full((batch, beam, 1), BOS, device=source.device)
    # At first all hypotheses of a sentence are the same: only one may be continued.
    total = torch.tensor([0.0] + [-math.inf] * (beam - 1), device=source.device).repeat(batch, 1)
    alive = torch.arange(batch, device=source.device)
    best: list[tuple[float, list[int]]] = [(-math.inf, [])] * batch
    for length in range(1, limit + 1):
        logits = model.decode(words.flatten(0, 1), encoded, hidden, last=True)[:, 0].float()
        logits[:, [PAD, BOS]] = -math.inf
        chances = logits.log_softmax(1)
        if length == limit:
            ends = chances[:, EOS].clone()
            chances.fill_(-math.inf)[:, EOS] = ends
        # Twice the beam, since the ends among them leave it.
        chance = total[..., None] + chances.view(len(alive), beam, -1)
        value, place = chance.flatten(1).topk(min(2 * beam, chance.shape[2] * beam), 1)
        origin, symbol = place // chance.shape[2], place % chance.shape[2]
        ended = symbol == EOS
        _keep(best, alive, words, value / length, origin, ended & _within(ended, beam))
        kept = value.masked_fill(ended, -math.inf).topk(beam, 1)
        total, origin = kept.values, origin.gather(1, kept.indices)
        symbol = symbol.gather(1, kept.indices)
        words = torch.cat([words.gather(1, origin[..., None].expand(-1, -1, length)), symbol[..., None]], 2)
        # Log-probabilities only fall, and the longest sentence divides by the most: nothing better can come.
        reach = total[:, 0] / limit
        going = torch.tensor([best[int(i)][0] for i in alive], device=source.device) < reach
        if not going.any():
            break
        if not going.all():
            alive, words, total = alive[going], words[going], total[going]
            rows = going.repeat_interleave(beam)
            encoded, hidden = encoded[rows], hidden[rows]
    return [symbols for _, symbols in best]


def _within(ended: Tensor, beam: int) -> Tensor:
    """Whether a candidate is among the first `beam`: an end below them is no candidate."""
    return (torch.arange(ended.shape[1], device=ended.device) < beam).expand_as(ended)


def _keep(
    best: list[tuple[float, list[int]]], alive: Tensor, words: Tensor, score: Tensor, origin: Tensor, ended: Tensor
) -> None:
    """Note sentences that ended with a better score than any before."""
    for row, place in ended.nonzero().tolist():
        sentence, value = int(alive[row]), float(score[row, place])
        if value > best[sentence][0]:
            best[sentence] = value, words[row, int(origin[row, place]), 1:].tolist()
