"""Features as targets: what the averaged encoder makes of the whole image, at the patches that are hidden from the trained one.

The teacher is the moving average of the weights that `training.ema` keeps, at its constant decay. It sees every patch. The
target of a patch is the mean of what the last blocks pass on, each normalised over its width without weights, so that no
block outweighs another and smaller features are no easier to predict. The image decoder predicts it beside the pixels, and the loss is
the mean squared error of each patch. Beside the average, memory is needed for the outputs of these blocks alone, until the
targets are taken: 4 D bytes for each patch of an image and block, 3.6 MB in all for ViT-B/16 at 224 with 6 blocks.

data2vec, arXiv:2202.03555 (mean of the last blocks, normalised without weights); data2vec 2.0, arXiv:2212.07525
(an encoder of visible patches, a decoder, squared error); both raise the decay in the course of a run, here it
stays. EVA-X, arXiv:2405.05237, restores the features of a teacher of radiographs that is trained before.
"""

# Shapes: B studies, H W pixels, L patches, M masked patches, D encoder width
from __future__ import annotations

from collections import deque
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mrm.models.mrm import MRM, take


@torch.no_grad()
def hidden_features(average: MRM, image_BCHW: Tensor, hidden_BM: Tensor) -> Tensor:
    """The targets (B, M, D) of the hidden patches; `image_BCHW` is normalised and of the encoder's size."""
    blocks = average.config.feature_blocks
    passed: deque[Tensor] = deque(maxlen=blocks)  # earlier blocks are freed
    average.encode(image_BCHW, None, passed)
    mean_BSD: Any = sum(F.layer_norm(x_BSD.float(), x_BSD.shape[-1:], eps=1e-6) for x_BSD in passed) / blocks
    return take(mean_BSD[:, average.prefix :], hidden_BM)
