"""The fine-tuned classifier: a plain timm encoder with a head, and how it wants its images."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrm.data.config import GREY_MEAN, GREY_STD, Greys, Resize
from mrm.data.reports import Tokenizer
from mrm.models import encoder
from mrm.models.card import Card
from mrm.models.config import Pooling, TargetName
from mrm.models.limits import Levels, check_classes, check_encoder, check_fields
from mrm.system.errors import ConfigError

# Shapes: B images, L patches, D width, C classes


@dataclass(frozen=True)
class ClassifierConfig:
    """Architecture and preprocessing of a classifier; kept in its model folder."""

    classes: tuple[str, ...]
    encoder: str = "vit_base_patch16_224"
    encoder_options: dict[str, Any] = field(default_factory=dict)
    image_size: int = 224
    mean: Levels = GREY_MEAN
    std: Levels = GREY_STD
    drop_path: float = 0.1
    pooling: Pooling = "mean"  # of the patch features
    view: Literal["whole", "centre"] = "whole"  # of a radiograph that is not square; the published test cut its sides
    resize: Resize = "area"  # of training and test images; the published one is "bilinear"
    crop_borders: bool = False  # of black and white that was burned in, in training and test images
    greys: Greys = "stored"  # of training and test images
    uncertain: dict[str, str] = field(default_factory=dict)  # what uncertain labels became, per class
    target: TargetName = "multilabel"  # what the classes are: see mrm.targets
    centre: tuple[float, ...] = ()  # of a regression: the mean of the training labels, per class
    spread: tuple[float, ...] = ()  # of a regression: their standard deviation, which is one unit of a logit

    def __post_init__(self) -> None:
        check_fields(self)
        check_encoder(self.encoder, self.encoder_options)
        check_classes(self.classes)
        scaled = len(self.classes) if self.target == "regression" else 0
        if (len(self.centre), len(self.spread)) != (scaled, scaled):
            raise ConfigError(
                f"centre and spread must have {scaled} numbers each, one for each class of a regression, not "
                f"{len(self.centre)} and {len(self.spread)}"
            )


class Classifier(nn.Module):
    """Features pooled, one logit a class. `encoder` is a timm VisionTransformer, Eva, ConvNeXt or Swin.

    Of a Vision Transformer, the mean of the patches is followed by a fresh norm, as published; attention (timm's `map`)
    pools what the encoder's own norm gives; with "class" each class pools for itself (`ClassQueries`), from the mean on,
    and a fresh norm follows too. ConvNeXt and Swin pool and normalise as timm does.
    """

    encoder: Any  # of timm, head included
    card: Card  # what its model folder knows of it
    tokenizer: Tokenizer | None = None  # it reads no reports, so it never has one

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config, self.card = config, Card("classifier", asdict(config))
        self.encoder = build_encoder(config, num_classes=len(config.classes), drop_path_rate=config.drop_path)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Logits (B, C) of normalised images."""
        return self.encoder(image_BCHW)

    def group_matcher(self, coarse: bool = False) -> dict:
        """Layers as timm numbers them for layer-wise decay of the learning rate: stem, blocks, and the rest on top."""
        if encoder.family_of(self.config.encoder) != "vit":
            return encoder.layer_groups(self.encoder, coarse)
        return {
            "stem": r"^encoder\.(?:cls_token|reg_token|pos_embed|patch_embed)",
            "blocks": [(r"^encoder\.blocks\.(\d+)", None), (r"^encoder\.norm", (99999,))],
        }


class ClassQueries(nn.Module):
    """Attention pooling by a query for each class: where a class looks is learnt with it.

    Attention goes over the patches, normalised to equal length, by their product with the query; what is pooled are the
    patches as they are. A query starts at 0, so that every class starts from the mean of all patches.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(classes, width))

    def attention(self, patches_BLD: Tensor) -> Tensor:
        """The share of each patch for each class, (B, C, L)."""
        keys_BLD = F.layer_norm(patches_BLD, patches_BLD.shape[-1:])
        scores_BLC = F.linear(keys_BLD, self.query) / math.sqrt(patches_BLD.shape[-1])
        return scores_BLC.transpose(1, 2).softmax(-1)

    def forward(self, patches_BLD: Tensor) -> Tensor:
        """The features of each class, (B, C, D)."""
        return self.attention(patches_BLD).to(patches_BLD.dtype) @ patches_BLD


class ClassHead(nn.Linear):
    """A linear head that takes for each class features of its own, (B, C, D), and gives its logit, (B, C)."""

    def forward(self, features_BCD: Tensor) -> Tensor:
        """The product of each class's features and weights."""
        return (features_BCD * self.weight).sum(-1) + self.bias


def build_encoder(config, num_classes: int, drop_path_rate: float = 0.0) -> Any:
    """A timm encoder by a config's `encoder`, `encoder_options`, `image_size` and `pooling`, to pool and classify.

    The head starts at std 2e-5, so that a new classifier starts from nearly equal odds. MAE, appendix A.1. Raises
    ConfigError for attention pooling of an encoder without patches.
    """
    pooling: Pooling = getattr(config, "pooling", "mean")
    if pooling != "mean":
        encoder.require_family(config.encoder, ("vit",), "attention pooling; leave --pooling out")
    built = encoder.create(
        config.encoder,
        config.encoder_options,
        config.image_size,
        num_classes=num_classes,
        global_pool="map" if pooling == "attention" else "avg",
        drop_path_rate=drop_path_rate,
    )
    if num_classes and pooling == "class":
        built.attn_pool = ClassQueries(num_classes, built.embed_dim)
        built.head = ClassHead(built.embed_dim, num_classes)
    if num_classes:
        head = built.get_classifier()
        nn.init.normal_(head.weight, std=2e-5)
        nn.init.zeros_(head.bias)
    return built
