"""The architecture of MRM as settings.

Nothing heavy is imported here, so that a command answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class ModelConfig:
    """The architecture. The defaults are the published model (ViT-B/16 at 224, targets at 448)."""

    encoder: str = "vit_base_patch16_224"  # any timm Vision Transformer
    encoder_options: dict[str, Any] = field(default_factory=dict)  # passed to timm: depth, embed_dim, ...
    image_size: int = 224  # what the encoder sees, in pixels
    target_scale: int = 2  # the restored image is this many times larger
    antialias: bool = False  # of the resize to image_size; the published weights were made without
    keep: int = 49  # visible patches in training
    fixed_positions: bool = True  # 2-D sine-cosine; False keeps the encoder's own
    norm_pix: bool = True  # restored patches are normalised by their own mean and deviation
    decoder_width: int = 768
    decoder_depth: int = 4
    decoder_heads: int = 6
    image_decoder: Literal["full", "cross"] = "full"  # cross: hidden patches attend to the visible ones only
    predicted: int | None = None  # hidden patches restored in training; None: all (full), or as many as `keep` (cross)
    vocabulary: int = 30_000
    report_length: int = 100  # tokens, [CLS] included
    report_width: int = 384
    report_depth: int = 6
    report_heads: int = 6
    report_mlp: int = 1536
    report_dropout: float = 0.1
    tied_words: bool = True  # output weights are the word embeddings; False where a file of weights differs
    mean: float = 0.4978  # of grey values in 0..1, over the training radiographs
    std: float = 0.2449

    @property
    def target_size(self) -> int:
        """Side of the crop whose masked patches are restored, in pixels."""
        return self.image_size * self.target_scale
