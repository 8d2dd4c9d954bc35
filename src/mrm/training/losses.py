"""Losses. Each returns `Term(sum, count)`: the step divides by the count of all micro-batches and ranks.

A mean of means weighs a short report's words more than a long one's, and changes with the world size; a sum
and a count do not.
"""

# Shapes: B samples, M masked patches, P values predicted of one patch, Q values of its target, W masked words, V vocabulary, C classes or channels, H W pixels
from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mrm.data.masks import IGNORED
from mrm.data.reports import NO_WORD
from mrm.models.mrm import normalise_patches


class Term(NamedTuple):
    """A loss as its sum and the number of things summed over; both are scalars on the device."""

    sum: Tensor
    count: Tensor  # type: ignore[assignment]  # shadows tuple.count, which is not used

    def mean(self) -> Tensor:
        """The mean loss; zero where there was nothing to sum."""
        return self.sum / self.count.clamp(min=1)


def masked_patch_loss(predicted_BMP: Tensor, target_BMQ: Tensor, normalise: bool = True) -> Term:
    """Squared error of each masked patch, averaged over its values; counts patches. MRM, section 3.2.

    A target of fewer values than the prediction is grey: each of its values stands for that of all channels.
    """
    size = predicted_BMP.shape[-1]
    repeats = size // target_BMQ.shape[-1]
    target_BMQ = normalise_patches(target_BMQ, repeats) if normalise else target_BMQ
    difference_BMQC = predicted_BMP.float().unflatten(-1, (-1, repeats)) - target_BMQ[..., None]
    error = difference_BMQC.square().sum() / size
    return Term(error, error.new_full((), target_BMQ[..., 0].numel()))


def masked_token_loss(logits_WV: Tensor, targets_W: Tensor) -> Term:
    """Cross-entropy of the words asked for, natural logarithm; counts words. MRM, section 3.3.

    A target of NO_WORD fills up a batch and does not count.
    """
    error = F.cross_entropy(logits_WV.float(), targets_W, reduction="sum", ignore_index=NO_WORD)
    return Term(error, (targets_W != NO_WORD).sum().to(error.dtype))


def label_loss(logits_BC: Tensor, labels_BC: Tensor) -> Term:
    """Binary cross-entropy over the labels that are stated (not NaN); counts labels."""
    stated = ~labels_BC.isnan()
    error_BC = F.binary_cross_entropy_with_logits(logits_BC.float(), labels_BC.nan_to_num(), reduction="none")
    return Term((error_BC * stated).sum(), stated.sum().to(error_BC.dtype))


def focal_loss(logits_BCHW: Tensor, mask_BHW: Tensor, gamma: float = 2.0, alpha: float = 0.5) -> Term:
    """Binary cross-entropy of each class, weighted by (1 - p of the truth)^gamma; counts labelled pixels x classes.

    Lin et al. 2017, arXiv:1708.02002, equation 5; `alpha` weighs the lesion, 1 - alpha the rest: 0.5 both alike.
    `mask_BHW` has 0 background, 1 to C the classes, 255 ignored.
    """
    target_BCHW, labelled_B1HW = class_masks(mask_BHW, logits_BCHW.shape[1])
    entropy = F.binary_cross_entropy_with_logits(logits_BCHW.float(), target_BCHW, reduction="none")
    weight = (alpha * target_BCHW + (1 - alpha) * (1 - target_BCHW)) * (1 - (-entropy).exp()) ** gamma
    labelled = labelled_B1HW.expand_as(entropy)
    return Term((weight * entropy * labelled).sum(), labelled.sum().to(entropy.dtype))


def dice_loss(logits_BCHW: Tensor, mask_BHW: Tensor, smooth: float = 1.0) -> Term:
    """1 - Dice of each class in each image, background left out; counts images x classes.

    Squares in the denominator, as in V-Net (arXiv:1606.04797, equation 3), and `smooth` pixels on both sides, so
    that an image without lesion asks for nothing to be predicted. Each image has its own Dice, so the loss of a
    step does not depend on how it is divided. An image that is ignored as a whole does not count.
    """
    target_BCHW, labelled_B1HW = class_masks(mask_BHW, logits_BCHW.shape[1])
    p_BCHW = logits_BCHW.float().sigmoid() * labelled_B1HW
    both_BC = (p_BCHW * target_BCHW).sum(dim=(2, 3))
    each_BC = (p_BCHW.square() + target_BCHW).sum(dim=(2, 3))  # the target is 0 or 1: its own square
    loss_BC = 1 - (2 * both_BC + smooth) / (each_BC + smooth)
    counted_BC = labelled_B1HW.flatten(1).any(dim=1, keepdim=True).expand_as(loss_BC)
    return Term((loss_BC * counted_BC).sum(), counted_BC.sum().to(loss_BC.dtype))


def class_masks(mask_BHW: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """1 where a class is, float (B, C, H, W), and whether a pixel is labelled at all, bool (B, 1, H, W)."""
    numbers = torch.arange(1, classes + 1, device=mask_BHW.device)[:, None, None]
    return (mask_BHW[:, None] == numbers).float(), (mask_BHW != IGNORED)[:, None]
