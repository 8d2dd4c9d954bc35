"""Losses. Each returns `Term(sum, count)`: the step divides by the count of all micro-batches and ranks.

A mean of means weighs a short report's words more than a long one's, and changes with the number of
processes; a sum and a count do not.
"""

# Shapes: B samples, M masked patches, P values of one patch, W masked words, V vocabulary, C classes
from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Term(NamedTuple):
    """A loss as its sum and the number of things summed over; both are scalars on the device."""

    sum: Tensor
    count: Tensor

    def mean(self) -> Tensor:
        """The mean loss; zero where there was nothing to sum."""
        return self.sum / self.count.clamp(min=1)


def normalise_patches(patches_BMP: Tensor, eps: float = 1e-6) -> Tensor:
    """Each patch less its mean, over its deviation (unbiased variance). MAE, section 3, arXiv:2111.06377."""
    mean = patches_BMP.mean(dim=-1, keepdim=True)
    return (patches_BMP - mean) / (patches_BMP.var(dim=-1, keepdim=True) + eps) ** 0.5


def masked_patch_loss(predicted_BMP: Tensor, target_BMP: Tensor, normalise: bool = True) -> Term:
    """Squared error of each masked patch, averaged over its values; counts patches. MRM, section 3.2."""
    target = normalise_patches(target_BMP) if normalise else target_BMP
    error_BM = (predicted_BMP.float() - target).square().mean(dim=-1)
    return Term(error_BM.sum(), error_BM.new_tensor(error_BM.numel()))


def masked_token_loss(logits_WV: Tensor, targets_W: Tensor) -> Term:
    """Cross-entropy of the words asked for, natural logarithm; counts words. MRM, section 3.3."""
    error = F.cross_entropy(logits_WV.float(), targets_W, reduction="sum")
    return Term(error, error.new_tensor(targets_W.numel()))


def label_loss(logits_BC: Tensor, labels_BC: Tensor) -> Term:
    """Binary cross-entropy over the labels that are stated (not NaN); counts labels."""
    stated = ~labels_BC.isnan()
    error_BC = F.binary_cross_entropy_with_logits(logits_BC.float(), labels_BC.nan_to_num(), reduction="none")
    return Term((error_BC * stated).sum(), stated.sum().to(error_BC.dtype))
