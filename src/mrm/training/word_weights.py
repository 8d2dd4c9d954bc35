"""How much each piece of the vocabulary counts in the report loss: all alike, the rare more, or what the image tells more.

Most masked words follow from the words around them. What only the image can tell is where a model is surer of the true
word with the report's own image than with another one; the model measures that itself, in any language.

Weights have a mean of 1 over the words of the training reports, so that the report loss as a whole keeps its share.
"""

# Shapes: V vocabulary, W masked words, B studies
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mrm.data.reports import NO_WORD
from mrm.data.samples import PretrainBatch
from mrm.models.mrm import normalise

LEAST = 0.5  # the part of its weight that no word loses
PRIOR = 20  # words of no gain that each piece starts with: one that is seldom seen keeps close to the others


def by_rarity(counts_V: Tensor) -> Tensor:
    """Weights (V,) in proportion to ln(N / n) for a piece that is n of all N pieces of the reports."""
    total = counts_V.sum()
    return _mean_one((total / counts_V.clamp(min=1)).log(), counts_V)


def by_gain(nats_V: Tensor, words_V: Tensor, counts_V: Tensor) -> Tensor:
    """Weights (V,) from the nats that the true image saved on each piece, summed over `words_V` words of it.

    Half of a weight is the same for all, the other half in proportion to the mean gain, where that is above 0. All are 1
    while the image saves nothing.
    """
    gain_V = (nats_V / (words_V + PRIOR)).clamp(min=0)
    if (gain_V * counts_V).sum() == 0:
        return torch.ones_like(gain_V)
    return LEAST + (1 - LEAST) * _mean_one(gain_V, counts_V)


def _mean_one(weights_V: Tensor, counts_V: Tensor) -> Tensor:
    """Scaled to a mean of 1 over all words that `counts_V` counts."""
    return weights_V * counts_V.sum() / (weights_V * counts_V).sum()


@torch.no_grad()
def image_gain(model: Any, batch: PretrainBatch) -> tuple[Tensor, Tensor]:
    """Nats (V,) that each record's own image saves against that of the next record of the batch, and the words (V,).

    Both images are seen through their own visible patches, and the words are those that the batch masks.
    """
    crop_BCHW = normalise(batch.image_BHW, model.config.mean, model.config.std)
    own_BIR = model.context(model.encode(model.shrink(crop_BCHW), batch.kept_BK))
    asked_W = batch.targets_W != NO_WORD
    words_W, targets_W = batch.words_W[asked_W], batch.targets_W[asked_W]
    own_W, other_W = (
        model.name_words(context_BIR, batch.tokens_BT, batch.attention_BT, words_W, None, batch.rows_N)
        .float().log_softmax(-1).gather(1, targets_W[:, None])[:, 0].double()
        for context_BIR in (own_BIR, own_BIR.roll(-1, 0))
    )  # fmt: skip
    nats_V = torch.zeros(model.config.vocabulary, dtype=torch.float64, device=own_W.device)
    return nats_V.index_add(0, targets_W, own_W - other_W), nats_V.index_add(0, targets_W, torch.ones_like(own_W))
