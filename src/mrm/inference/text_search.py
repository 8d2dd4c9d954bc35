"""Texts and images as vectors of one space: a search for images in words.

A model that was pre-trained with contrast (`--contrast-weight`) has a head for images and one for reports. The vector of an
image follows from its pooled features, so an index of features is searched with a text as it is with an image.
"""

# Shapes: N images, Q texts, T tokens, D encoder width, E width of the vectors
from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch

from mrm.data.reports import PAD, UNK
from mrm.inference.report_filling import tokenizer_of
from mrm.models.contrast_heads import ContrastHeads
from mrm.models.mrm import MRM
from mrm.system.errors import ReportError


def heads_of(model: MRM) -> ContrastHeads:
    """The heads that contrast trained. Raises ReportError for a model without them."""
    if model.contrast is None:
        raise ReportError(
            "the model was pre-trained without contrast, so it cannot compare a text with an image; pre-train one with "
            "--contrast-weight and --model.contrast-width"
        )
    return model.contrast


@torch.inference_mode()
def text_vectors(model: MRM, texts: Sequence[str]) -> np.ndarray:
    """Texts in the language of the model's reports as vectors (Q, E) of length 1.

    Warns of words that the tokenizer does not know, and of a text that is longer than the model reads. Raises ReportError for
    a model without contrast or tokenizer, and for a text without a known word.
    """
    heads_of(model)
    tokenizer, length = tokenizer_of(model), model.config.report_length
    device = next(model.parameters()).device
    vectors = []
    for text in texts:
        ids = tokenizer.encode([text], length + 1)[0]
        _check_words(text, ids[1:], length - 1)
        tokens_1T = torch.from_numpy(ids[:length].astype(np.int64))[None].to(device)
        vectors.append(model.report_vector(tokens_1T, tokens_1T != PAD)[0].float().cpu().numpy())
    return np.stack(vectors)


@torch.inference_mode()
def image_vectors(model: MRM, pooled_ND: np.ndarray) -> np.ndarray:
    """Images as vectors (N, E) of length 1, from their pooled features; a row of NaN stays one."""
    pooled = torch.from_numpy(np.asarray(pooled_ND, np.float32)).to(next(model.parameters()).device)
    return heads_of(model).of_image(pooled).cpu().numpy()


def _check_words(text: str, ids_T: np.ndarray, most: int) -> None:
    unknown = int((ids_T == UNK).sum())
    if unknown == len(ids_T):
        raise ReportError(f"{text!r}: the tokenizer knows none of its words; use the words of the reports")
    if unknown:
        warnings.warn(f"{text!r}: the tokenizer does not know {unknown} of its {len(ids_T)} pieces", stacklevel=3)
    if len(ids_T) > most:
        warnings.warn(f"{text!r}: only the first {most} pieces are read", stacklevel=3)
