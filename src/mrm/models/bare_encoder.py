"""An encoder alone, as another program has trained it: what `--init` takes, to embed, to probe, or to start from.

It keeps the norm that it was trained with, so its features are those of its own program: the mean of the patches after
the last norm (or before it, where its program norms the mean), and for ConvNeXt and Swin what timm pools.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from mrm.data.config import GREY_MEAN, GREY_STD
from mrm.data.reports import Tokenizer
from mrm.models import encoder
from mrm.models.card import Card
from mrm.models.limits import Levels, check_encoder, check_fields


@dataclass(frozen=True)
class BareEncoderConfig:
    """Architecture and preprocessing of an encoder; kept in its model folder."""

    encoder: str
    encoder_options: dict[str, Any] = field(default_factory=dict)
    image_size: int = 224
    mean: Levels = GREY_MEAN
    std: Levels = GREY_STD
    norm_mean: bool = False  # the last norm is that of the mean of the patches (timm's `fc_norm`), not of each patch

    def __post_init__(self) -> None:
        check_fields(self)
        check_encoder(self.encoder, self.encoder_options)


class BareEncoder(nn.Module):
    """Normalised images to pooled features. `encoder` is a timm VisionTransformer, Eva, ConvNeXt or Swin."""

    encoder: Any  # of timm, without a head
    card: Card  # what its model folder knows of it, or the file that it was read from
    tokenizer: Tokenizer | None = None  # it reads no reports, so it never has one

    def __init__(self, config: BareEncoderConfig) -> None:
        super().__init__()
        self.config, self.card = config, Card("encoder", asdict(config))
        norm = {"vit": {"fc_norm": config.norm_mean}, "eva": {"use_fc_norm": config.norm_mean}}
        settings: dict[str, Any] = norm.get(encoder.family_of(config.encoder), {})
        self.encoder = encoder.create(
            config.encoder, config.encoder_options, config.image_size, num_classes=0, global_pool="avg", **settings
        )

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Pooled features (B, D)."""
        return self.encoder.forward_head(self.encoder.forward_features(image_BCHW), pre_logits=True)
