"""The architecture of MRM, and of updates of low rank, as settings.

Nothing heavy is imported here, so that a command answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from mrm.data.config import GREY_MEAN, GREY_STD
from mrm.models.limits import check_encoder, check_fields
from mrm.system.errors import ConfigError

TargetName = Literal["multilabel", "multiclass", "regression", "ordinal"]  # what a classifier predicts (mrm.targets)
Pooling = Literal["mean", "attention", "class"]  # of a classifier's patches; in class each class has a query of its own


@dataclass(frozen=True)
class ModelConfig:
    """The architecture and its start. The defaults are the published model (ViT-B/16 at 224, targets at 448)."""

    encoder: str = "vit_base_patch16_224"  # any timm Vision Transformer
    encoder_options: dict[str, Any] = field(default_factory=dict)  # passed to timm: depth=6,embed_dim=192
    image_size: int = 224  # side of the encoder's input in pixels
    target_scale: int = 2  # the restored image is this many times as large
    antialias: bool = False  # in the resize to image_size; the published weights were trained without
    keep: int = 49  # patches that stay visible in training
    fixed_positions: bool = True  # 2-D sine-cosine positions instead of the encoder's own
    norm_pix: bool = True  # normalise each target patch by its own mean and deviation
    decoder_width: int = 768  # of the image decoder
    decoder_depth: int = 4  # blocks of the image decoder
    decoder_heads: int = 6  # attention heads of the image decoder
    image_decoder: Literal["full", "cross", "cross-blocks"] = "full"  # in cross, hidden patches see visible ones only
    predicted: int | None = None  # hidden patches restored in training; by default all, with cross as many as keep
    vocabulary: int = 30_000  # pieces of a new tokenizer
    report_length: int = 100  # tokens, including [CLS]
    report_width: int = 384  # of the report decoder
    report_depth: int = 6  # layers of the report decoder
    report_heads: int = 6  # attention heads of the report decoder
    report_mlp: int = 1536  # width of the report decoder's MLP
    report_dropout: float = 0.1  # of the report decoder
    report_sees: Literal["mean", "patches"] = "mean"  # of the image; patches: words attend to them, beside the mean
    context_gain: float | None = None  # normalise the image's mean and scale it by a learnt gain that starts here
    tied_words: bool = False  # use the word embeddings as output weights; the published model has separate ones
    start: Literal["xavier", "normal"] = "xavier"  # of the report decoder's layers: as published, or as in BERT
    contrast_width: int = 0  # of the vectors that contrast images and reports; 0 leaves them out
    feature_blocks: int = 0  # last blocks of the averaged encoder whose mean features are predicted; 0 leaves it out
    mean: float = GREY_MEAN  # of grey values from 0 to 1, over the training radiographs
    std: float = GREY_STD  # of grey values from 0 to 1, over the training radiographs

    def __post_init__(self) -> None:
        check_fields(self)
        check_encoder(self.encoder, self.encoder_options)

    @property
    def target_size(self) -> int:
        """Side of the crop whose masked patches are restored, in pixels."""
        return self.image_size * self.target_scale


@dataclass(frozen=True)
class LoraConfig:
    """The update of low rank that queries and values learn with `--tune lora` (see `mrm.models.lora`)."""

    rank: int = 8  # of the update; more rank learns more and needs more labels
    alpha: float = 32.0  # the update is multiplied by alpha / rank
    dropout: float = 0.1  # probability of leaving out a value of the update's input in training

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"lora.rank must be at least 1, not {self.rank}")
        if not 0 < self.alpha < float("inf"):
            raise ConfigError(f"lora.alpha must be above 0, not {self.alpha:g}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora.dropout must be at least 0 and below 1, not {self.dropout:g}")
