"""Losses. Each returns `Term(sum, count)`: the step divides by the count of all micro-batches and ranks.

A mean of means weighs a short report's words more than a long one's, and changes with the world size; a sum
and a count do not.
"""

# Shapes: B samples, M masked patches, P values predicted of one patch, Q values of its target, W masked words, V vocabulary, C classes or channels, H W pixels
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrm.data.masks import IGNORED
from mrm.data.reports import NO_WORD
from mrm.models.mrm import normalise_patches
from mrm.training.config import LabelLossName


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


def masked_token_loss(logits_WV: Tensor, targets_W: Tensor, weights_V: Tensor | None = None) -> Term:
    """Cross-entropy of the words asked for, natural logarithm; counts words. MRM, section 3.3.

    A target of NO_WORD fills up a batch and does not count. `weights_V` says how much each word of the vocabulary counts
    in the sum (`mrm.training.word_weights`); the count stays the number of words.
    """
    error = F.cross_entropy(logits_WV.float(), targets_W, weights_V, reduction="sum", ignore_index=NO_WORD)
    return Term(error, (targets_W != NO_WORD).sum().to(error.dtype))


def label_loss(logits_BC: Tensor, labels_BC: Tensor) -> Term:
    """Binary cross-entropy over the labels that are stated (not NaN); counts labels."""
    return _over_stated(_cross_entropy, logits_BC, labels_BC)


class LabelLoss(nn.Module):
    """The loss of labels by its name; labels that are not stated (NaN) do not count.

    | name | of a positive, of a negative | source |
    | --- | --- | --- |
    | bce | -log p, -log(1 - p) | |
    | weighted | n / 2P and n / 2N times as much in a class of P positives and N negatives, n in all | King and Zeng 2001, doi:10.1093/oxfordjournals.pan.a004868 |
    | focal | 0.25 (1 - p)^2 and 0.75 p^2 times as much | Lin et al. 2017, arXiv:1708.02002, equation 5 |
    | asymmetric | -log p, and -q^4 log(1 - q) where q = max(p - 0.05, 0) | Ridnik et al. 2021, arXiv:2009.14119, equation 7 |

    Weights are those of the training labels: positives and negatives of a class then count alike, and a class as much as
    without weights. A class with one label value keeps weights of 1. A label of 0.7 (a soft one) is 0.7 of a positive and
    0.3 of a negative. `error` is that of a target (`mrm.targets`), for "bce" alone; by default that of findings.
    """

    weights_2C: Tensor

    def __init__(
        self,
        name: LabelLossName,
        labels_NC: np.ndarray,
        error: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.name, self.plain = name, error or _cross_entropy
        self.register_buffer("weights_2C", balanced_weights(labels_NC))

    def forward(self, logits_BC: Tensor, labels_BC: Tensor) -> Term:
        """The loss of a batch."""
        return _over_stated(self._error, logits_BC, labels_BC)

    def _error(self, logits_BC: Tensor, target_BC: Tensor) -> Tensor:
        if self.name == "focal":
            return _focal(logits_BC, target_BC)
        if self.name == "asymmetric":
            return _asymmetric(logits_BC, target_BC)
        if self.name == "weighted":
            return _weighted(logits_BC, target_BC, self.weights_2C)
        return self.plain(logits_BC, target_BC)


def balanced_weights(labels_NC: np.ndarray) -> Tensor:
    """For each class the weight of a negative and of a positive, (2, C), with which both count alike."""
    counts_2C = np.stack([np.nansum(1 - labels_NC, axis=0), np.nansum(labels_NC, axis=0)])
    weights_2C = np.where((counts_2C > 0).all(0), counts_2C.sum(0) / (2 * np.where(counts_2C > 0, counts_2C, 1.0)), 1.0)
    return torch.from_numpy(weights_2C).float()


def _over_stated(loss: Callable[[Tensor, Tensor], Tensor], logits_BC: Tensor, labels_BC: Tensor) -> Term:
    stated = ~labels_BC.isnan()
    error_BC = loss(logits_BC.float(), labels_BC.nan_to_num())
    return Term((error_BC * stated).sum(), stated.sum().to(error_BC.dtype))


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def _weighted(logits: Tensor, target: Tensor, weights_2C: Tensor) -> Tensor:
    """Cross-entropy with a weight for the part of a label that is negative, and one for that which is positive."""
    return weights_2C[1] * target * F.softplus(-logits) + weights_2C[0] * (1 - target) * F.softplus(logits)


def _focal(logits: Tensor, target: Tensor, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    entropy = _cross_entropy(logits, target)
    return (alpha * target + (1 - alpha) * (1 - target)) * (1 - (-entropy).exp()) ** gamma * entropy


def _asymmetric(logits: Tensor, target: Tensor, gamma: float = 4.0, margin: float = 0.05) -> Tensor:
    """`gamma` focuses negatives, positives are not focused; a negative below the `margin` costs nothing."""
    q = (logits.sigmoid() - margin).clamp(min=0)
    return target * F.softplus(-logits) - (1 - target) * q**gamma * torch.log1p(-q)


def focal_loss(logits_BCHW: Tensor, mask_BHW: Tensor, gamma: float = 2.0, alpha: float = 0.5) -> Term:
    """Binary cross-entropy of each class, weighted by (1 - p of the truth)^gamma; counts labelled pixels x classes.

    Lin et al. 2017, arXiv:1708.02002, equation 5; `alpha` weighs the lesion, 1 - alpha the rest: 0.5 both alike.
    `mask_BHW` has 0 background, 1 to C the classes, 255 ignored.
    """
    target_BCHW, labelled_B1HW = class_masks(mask_BHW, logits_BCHW.shape[1])
    error_BCHW = _focal(logits_BCHW.float(), target_BCHW, gamma, alpha)
    labelled = labelled_B1HW.expand_as(error_BCHW)
    return Term((error_BCHW * labelled).sum(), labelled.sum().to(error_BCHW.dtype))


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
