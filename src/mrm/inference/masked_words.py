"""Masked words of a report, named by a pre-trained model that sees the image."""

# Shapes: B images, I rows of a context, R report width, T tokens, V vocabulary
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mrm.data import images
from mrm.data.reports import MASK
from mrm.models.mrm import MRM, normalise


@torch.inference_mode()
def context_of(model: MRM, images_HW: Sequence[np.ndarray]) -> Tensor:
    """Images as the report decoder sees them, all patches visible: (B, I, R)."""
    config = model.config
    size = config.target_size
    stacked = torch.from_numpy(np.stack([images.resize(p, size, size) for p in images_HW]))
    crop = normalise(stacked.to(next(model.parameters()).device), config.mean, config.std)
    return model.context(model.encode(model.shrink(crop)))


@torch.inference_mode()
def word_probabilities(model: MRM, context_1IR: Tensor, ids_T: np.ndarray) -> np.ndarray:
    """Probabilities (blanks, V) of every word at each `[MASK]` of `ids_T`, given an image's context."""
    tokens = torch.from_numpy(ids_T.astype(np.int64))[None].to(context_1IR.device)
    blanks = (tokens[0] == MASK).nonzero().squeeze(1)
    logits = model.name_words(context_1IR, tokens, torch.ones_like(tokens), blanks)
    return logits.float().softmax(-1).cpu().numpy()
