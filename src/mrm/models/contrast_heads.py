"""Image and report as two vectors that can be compared: what contrast trains, and what a text search uses."""

# Shapes: B studies, D encoder width, R report width, T report tokens, E width of the vectors
from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mrm.models.start import start_linear_layers


class ContrastHeads(nn.Module):
    """A linear layer for either side. CLIP, arXiv:2103.00020, section 2.3."""

    def __init__(self, image_width: int, report_width: int, width: int) -> None:
        super().__init__()
        self.image, self.report = nn.Linear(image_width, width), nn.Linear(report_width, width)
        start_linear_layers(self)

    def of_image(self, pooled_BD: Tensor) -> Tensor:
        """Vectors (B, E) of length 1, from the mean of the patches."""
        return F.normalize(self.image(pooled_BD), dim=-1)

    def of_report(self, decoder: Any, tokens_BT: Tensor, attention_BT: Tensor, run: Any) -> Tensor:
        """Vectors (B, E) of length 1, from the mean of what the report decoder makes of the words without an image."""
        return F.normalize(self.report(decoder.summary(tokens_BT, attention_BT, run)), dim=-1)
