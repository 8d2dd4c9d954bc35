"""Contrast of images and reports: a pair belongs together more than either does with the other pairs of its step.

Every pair of the step is told from every other one, over all micro-batches and ranks, so the loss does not depend on how the
step is divided. A micro-batch of a divided step is given the vectors of the whole step, which were computed before without
gradients, and takes the gradient of the whole loss by its own vectors; added up, these are the gradient of the undivided
step (GradCache, arXiv:2101.06983). Pairs with the same report are not told apart.

The loss is that of CLIP, arXiv:2103.00020, section 2.3: InfoNCE (arXiv:1807.03748) in both directions, at a fixed temperature.
"""

# Shapes: B pairs of a micro-batch, N pairs compared (those of the step), E width of a vector, T report tokens
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mrm.data.reports import CLS, NO_WORD, PAD
from mrm.data.samples import PretrainBatch
from mrm.training.losses import Term

TEMPERATURE = 0.1  # as ConVIRT has it, arXiv:2010.00747
MULTIPLIER = 6_364_136_223_846_793_005  # of the hash of a report: Knuth's, for arithmetic modulo 2^64


class Pairs(NamedTuple):
    """Images and reports as vectors of length 1, with hashes of the reports and whether a record has one."""

    image_NE: Tensor
    report_NE: Tensor
    text_N: Tensor
    has_report_N: Tensor


class Step(NamedTuple):
    """All pairs of a step, without gradients, and which of them are those of one micro-batch."""

    pairs: Pairs
    rows_B: Tensor


def whole_step(parts: Sequence[Pairs], state: Any) -> list[Step]:
    """What each micro-batch of this rank is given, from the pairs of all of them; `state` is the Accelerator."""
    own = [torch.cat(values) for values in zip(*parts, strict=True)]
    pairs = Pairs(*(state.gather(values) if state.num_processes > 1 else values for values in own))
    rows_N = torch.arange(len(own[0]), device=own[0].device) + state.process_index * len(own[0])
    return [Step(pairs, rows_B) for rows_B in rows_N.split([len(part.text_N) for part in parts])]


def contrast_loss(own: Pairs, step: Step | None = None) -> Term:
    """Cross-entropy of each true pair of a micro-batch among all pairs of the step, the mean of both directions; counts pairs.

    Its gradient is that of the whole step by the vectors of the micro-batch. Without `step`, the micro-batch is all of it.
    """
    count = own.has_report_N.sum().to(torch.float32)
    if step is None:
        return Term(_errors(own).sum(), count)
    image_NE, report_NE = (
        known_NE.float().index_copy(0, step.rows_B, own_BE.float())
        for known_NE, own_BE in ((step.pairs.image_NE, own.image_NE), (step.pairs.report_NE, own.report_NE))
    )
    error_N = _errors(step.pairs._replace(image_NE=image_NE, report_NE=report_NE))
    value = error_N[step.rows_B].sum()
    others = error_N.sum() - value  # the other micro-batches count them, but their gradient reaches these vectors too
    return Term(value + (others - others.detach()), count)


def _errors(pairs: Pairs) -> Tensor:
    """The error of each pair, (N,): 0 for a record without a report."""
    image_NE, report_NE, text_N, has_report_N = pairs
    true_N = torch.arange(len(text_N), device=text_N.device)
    left_out_NN = ((text_N[:, None] == text_N) | ~has_report_N) & (true_N[:, None] != true_N)
    logits_NN = image_NE.float() @ report_NE.float().T / TEMPERATURE
    to_report_N, to_image_N = (
        F.cross_entropy(each_NN.masked_fill(left_out_NN, -torch.inf), true_N, reduction="none")
        for each_NN in (logits_NN, logits_NN.T)
    )
    return torch.where(has_report_N, (to_report_N + to_image_N) / 2, 0.0)


def whole_reports(batch: PretrainBatch) -> Tensor:
    """The tokens (B, T) of a batch before they were masked. Waits for no device."""
    tokens_L = batch.tokens_BT.flatten()
    true_W = torch.where(batch.targets_W == NO_WORD, tokens_L[batch.words_W], batch.targets_W)
    return tokens_L.scatter(0, batch.words_W, true_W).view_as(batch.tokens_BT)  # padding writes `[CLS]` over itself


def text_hashes(whole_BT: Tensor) -> Tensor:
    """A number (B,) for each report, the same for equal reports whatever the padding. int64 wraps everywhere alike."""
    hash_B = torch.zeros_like(whole_BT[:, 0])
    for token_B in whole_BT.unbind(1):
        hash_B = torch.where(token_B == PAD, hash_B, hash_B * MULTIPLIER + token_B + 1)
    return hash_B


def has_words(whole_BT: Tensor) -> Tensor:
    """Whether a record has a report, (B,): more than `[CLS]`."""
    return ((whole_BT != PAD) & (whole_BT != CLS)).any(dim=1)
