"""Contrast of images and reports: a pair belongs together more than either does with the pairs of earlier steps.

The pairs to tell apart come from a queue of earlier steps alone, never from the batch, so that the loss of a sample does not
depend on how a step is divided into micro-batches and ranks. Pairs with the same report are not told apart.

InfoNCE, arXiv:1807.03748; memory across batches, arXiv:1912.06798.
"""

# Shapes: B studies, E width of a vector, Q pairs in the queue, T report tokens
from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrm.data.reports import CLS, NO_WORD, PAD
from mrm.data.samples import PretrainBatch
from mrm.training.losses import Term

QUEUE = 4096  # pairs
TEMPERATURE = 0.1
MULTIPLIER = 6_364_136_223_846_793_005  # of the hash of a report: Knuth's, for arithmetic modulo 2^64


class ContrastQueue(nn.Module):
    """Vectors of earlier images and reports, equal on all ranks, and the contrast of new ones with them."""

    image_QE: Tensor
    report_QE: Tensor
    text_Q: Tensor
    filled: Tensor

    def __init__(self, width: int, size: int = QUEUE) -> None:
        super().__init__()
        self.register_buffer("image_QE", torch.zeros(size, width), persistent=False)
        self.register_buffer("report_QE", torch.zeros(size, width), persistent=False)
        self.register_buffer("text_Q", torch.zeros(size, dtype=torch.int64), persistent=False)
        self.register_buffer("filled", torch.zeros(1, dtype=torch.int64), persistent=False)
        self.new: list[tuple[Tensor, ...]] = []  # pairs of this step's micro-batches, on this rank

    def term(self, image_BE: Tensor, report_BE: Tensor, text_B: Tensor, keys_B: Tensor, told_B: Tensor) -> Term:
        """Cross-entropy of the true pair among it and the queue, the mean of both directions; counts pairs.

        `text_B` are hashes of the reports, `told_B` whether a record has one, `keys_B` the samples' keys.
        """
        image_BE, report_BE = image_BE.float(), report_BE.float()
        self.new.append((image_BE.detach(), report_BE.detach(), text_B, keys_B, told_B))
        own_B1 = (image_BE * report_BE).sum(-1, keepdim=True)
        unknown_Q = torch.arange(len(self.text_Q), device=text_B.device) >= self.filled
        left_out_BQ = unknown_Q | (text_B[:, None] == self.text_Q)
        error_B = sum(
            F.cross_entropy(
                self._logits(own_B1, each_BE @ queue_QE.T, left_out_BQ), self._first(text_B), reduction="none"
            )
            for each_BE, queue_QE in ((image_BE, self.report_QE), (report_BE, self.image_QE))
        )
        return Term((error_B * told_B).sum() / 2, told_B.sum().to(image_BE.dtype))

    @staticmethod
    def _logits(own_B1: Tensor, others_BQ: Tensor, left_out_BQ: Tensor) -> Tensor:
        return torch.cat([own_B1, others_BQ.masked_fill(left_out_BQ, -torch.inf)], dim=1) / TEMPERATURE

    @staticmethod
    def _first(text_B: Tensor) -> Tensor:
        return torch.zeros_like(text_B)

    @torch.no_grad()
    def end_step(self, state: Any) -> None:
        """Put the pairs of this step in front, in the order of their keys, which no division of the step changes."""
        parts = [torch.cat(p) for p in zip(*self.new, strict=True)]
        self.new = []
        image_BE, report_BE, text_B, keys_B, told_B = (state.gather(p) if state.num_processes > 1 else p for p in parts)
        order = keys_B.argsort(stable=True)
        order = order[told_B[order]]
        image_BE, report_BE, text_B = image_BE[order], report_BE[order], text_B[order]
        if not (image_BE.isfinite().all() and report_BE.isfinite().all()):
            return  # this step's update is skipped too
        size = len(self.text_Q)
        for queue, new in ((self.image_QE, image_BE), (self.report_QE, report_BE), (self.text_Q, text_B)):
            queue.copy_(torch.cat([new, queue])[:size])
        self.filled.copy_((self.filled + len(text_B)).clamp(max=size))


def whole_reports(batch: PretrainBatch) -> Tensor:
    """The tokens (B, T) of a batch before they were masked."""
    asked_W = batch.targets_W != NO_WORD
    whole_L = batch.tokens_BT.flatten().clone()
    whole_L[batch.words_W[asked_W]] = batch.targets_W[asked_W]
    return whole_L.view_as(batch.tokens_BT)


def text_hashes(whole_BT: Tensor) -> Tensor:
    """A number (B,) for each report, the same for equal reports whatever the padding. int64 wraps everywhere alike."""
    hash_B = torch.zeros_like(whole_BT[:, 0])
    for token_B in whole_BT.unbind(1):
        hash_B = torch.where(token_B == PAD, hash_B, hash_B * MULTIPLIER + token_B + 1)
    return hash_B


def has_words(whole_BT: Tensor) -> Tensor:
    """Whether a record has a report, (B,): more than `[CLS]`."""
    return ((whole_BT != PAD) & (whole_BT != CLS)).any(dim=1)
