"""The segmenter: features of a Vision Transformer after several blocks, and a head that outlines classes on them.

    image --> encoder (timm ViT), after blocks 4, 6, 8, 12
                  |      |      |      |
                 x 4    x 2    x 1    x 1/2      the pyramid, in grids of the encoder's patches
                  +------+--+---+------+
                         UPerNet  --> one logit a class and pixel
                            third level --> auxiliary head, in training only

Pyramid as in BEiT (arXiv:2106.08254, appendix) on MAE's ViT; decoder UPerNet (arXiv:1807.10221), or DPT
(arXiv:2103.13413), or one linear layer. Batch norm is nowhere: it fails on one image, and makes a step depend
on how it is divided into micro-batches; group norm (arXiv:1803.08494) takes its place.
"""

# Shapes: B images, C classes, H W pixels of the input, h w pixels of an image's own, D encoder width
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from timm.layers import LayerNorm2d, RelPosBias
from timm.models.vision_transformer_relpos import RelPosAttention
from torch import Tensor, nn

from mrm.data import images
from mrm.data.config import GREY_MEAN, GREY_STD
from mrm.data.masks import fit
from mrm.data.reports import Tokenizer
from mrm.models import encoder
from mrm.models.card import Card
from mrm.models.limits import Levels, check_classes, check_encoder, check_fields
from mrm.models.mrm import normalise
from mrm.system.errors import SegmenterError

SHARES = (1 / 3, 1 / 2, 2 / 3, 1)  # of an encoder's depth: after blocks 4, 6, 8, 12 of 12
GROUPS = 32  # of group norm; fewer where the channels are few, or do not divide by it


@dataclass(frozen=True)
class SegmenterConfig:
    """Architecture and preprocessing of a segmenter; kept in its model folder. The defaults are the published ones."""

    classes: tuple[str, ...]  # without the background
    encoder: str = "vit_base_patch16_224"
    encoder_options: dict[str, Any] = field(default_factory=dict)
    image_size: tuple[int, int] = (512, 512)  # height, width; multiples of the patch
    mean: Levels = GREY_MEAN
    std: Levels = GREY_STD
    blocks: tuple[int, ...] = ()  # features are taken after these four, counted from 1; none = at SHARES of the depth
    head: Literal["upernet", "dpt", "linear"] = "upernet"
    channels: int = 768  # of the decoder
    auxiliary: int = 256  # channels of the auxiliary head; 0 = no such head
    drop_path: float = 0.1
    head_dropout: float = 0.1  # of channels, before the last layer of both heads
    feature_norm: bool = False  # a norm on features before UPerNet and auxiliary head; dpt and linear always have it
    relative_positions: bool = False  # a learnt bias of attention for each distance of two patches, in every block
    layer_scale: float | None = None  # start of a learnt scale of each block's branches; None = as the encoder has it

    def __post_init__(self) -> None:
        check_fields(self)
        check_encoder(self.encoder, self.encoder_options)
        check_classes(self.classes)


class SegmenterOutput(NamedTuple):
    """Logits (B, C, H, W), and those of the auxiliary head, None outside training."""

    logits_BCHW: Tensor
    auxiliary_BCHW: Tensor | None


class Segmenter(nn.Module):
    """A timm ViT (or EVA) and a head. Each class has a logit of its own: the background is where all are low."""

    encoder: Any  # of timm
    card: Card  # what its model folder knows of it
    tokenizer: Tokenizer | None = None  # it reads no reports, so it never has one

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config, self.card = config, Card("segmenter", asdict(config))
        encoder.require_family(config.encoder, encoder.WITH_PATCHES, "outlines: it has no patches of one size")
        self.encoder = encoder.create(
            config.encoder,
            _encoder_options(config),
            config.image_size,
            num_classes=0,
            global_pool="",
            drop_path_rate=config.drop_path,
        )
        self.blocks = feature_blocks(config, len(self.encoder.blocks))
        self.encoder.prune_intermediate_layers([b - 1 for b in self.blocks], prune_norm=True, prune_head=True)
        if config.relative_positions:
            add_relative_positions(self.encoder)
        self.head = HEADS[config.head](config, self.encoder.embed_dim)
        self.auxiliary = AuxiliaryHead(config, self.encoder.embed_dim) if config.auxiliary else None

    @property
    def added_weights(self) -> frozenset[str]:
        """Names of weights that the configuration adds to the encoder's blocks; a file to start from may lack them."""
        added = [".relative_position_bias_table"] * self.config.relative_positions
        added += [".ls1.gamma", ".ls2.gamma"] * (self.config.layer_scale is not None)
        return frozenset(name for name in self.state_dict() if name.endswith(tuple(added)))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's layer groups, for layer decay: the encoder's by depth, the heads on top of them."""
        return encoder.layer_groups(self.encoder, coarse)

    def features(self, image_BCHW: Tensor) -> list[Tensor]:
        """The encoder's features after each of `blocks`, as maps (B, D, H / patch, W / patch); no norm, no class token."""
        numbers = sorted(set(self.blocks))
        maps = self.encoder.forward_intermediates(image_BCHW, [b - 1 for b in numbers], intermediates_only=True)
        return [maps[numbers.index(b)] for b in self.blocks]

    def forward(self, image_BCHW: Tensor) -> SegmenterOutput:
        """Logits of normalised images, at their size."""
        features = self.features(image_BCHW)
        size = image_BCHW.shape[-2:]
        logits_BCHW = enlarge(self.head(features), size)
        if not self.training or self.auxiliary is None:
            return SegmenterOutput(logits_BCHW, None)
        return SegmenterOutput(logits_BCHW, enlarge(self.auxiliary(features[2]), size))


def _encoder_options(config: SegmenterConfig) -> dict[str, Any]:
    """What timm is told of the encoder besides its name."""
    scale = {} if config.layer_scale is None else {"init_values": config.layer_scale}
    return {**config.encoder_options, **scale}


class RelativeAttention(RelPosAttention):
    """Attention with a bias for each distance of two patches (BEiT, section 2.1), for the blocks of a plain ViT."""

    def forward(self, x_BLD: Tensor, *_: None, **__: None) -> Tensor:  # type: ignore[override]
        """The block passes on a mask, which there is none of here."""
        return super().forward(x_BLD)


def add_relative_positions(encoder: Any) -> None:
    """Give every block of a timm ViT its own biases of attention, one a head and distance; all are 0 at first.

    Raises SegmenterError for an encoder whose attention is not the plain one, or that has registers.
    """
    plain = {"qkv.weight", "qkv.bias", "proj.weight", "proj.bias"}
    if encoder.num_prefix_tokens > 1 or any(set(block.attn.state_dict()) != plain for block in encoder.blocks):
        raise SegmenterError(
            "relative_positions needs an encoder with plain attention and at most a class token; "
            "leave out --relative-positions, or choose another encoder"
        )
    for block in encoder.blocks:
        positions: Any = partial(
            RelPosBias, window_size=encoder.patch_embed.grid_size, prefix_tokens=encoder.num_prefix_tokens
        )
        attention: Any = RelativeAttention(
            encoder.embed_dim, block.attn.num_heads, qkv_bias=True, rel_pos_cls=positions
        )
        nn.init.zeros_(attention.rel_pos.relative_position_bias_table)
        attention.load_state_dict(block.attn.state_dict(), strict=False)
        block.attn = attention


def feature_blocks(config: SegmenterConfig, depth: int) -> tuple[int, ...]:
    """The blocks after which features are taken, counted from 1. Raises SegmenterError for blocks that do not exist."""
    blocks = config.blocks or tuple(max(1, round(share * depth)) for share in SHARES)
    if len(blocks) != 4 or list(blocks) != sorted(blocks) or not 1 <= blocks[0] <= blocks[-1] <= depth:
        raise SegmenterError(f"blocks must be four ascending numbers from 1 to {depth}, not {blocks}")
    return blocks


def enlarge(map_BCHW: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, to `size`."""
    return F.interpolate(map_BCHW, size=tuple(size), mode="bilinear", align_corners=False)


# Heads ------------------------------------------------------------------------------------------------


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm over at most GROUPS groups of two channels or more, for UPerNet also pools to a single pixel."""
    groups = next(g for g in range(max(1, min(GROUPS, channels // 2)), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


def without_batch_norm(module: nn.Module) -> nn.Module:
    """The same module with each batch norm replaced by a group norm."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, group_norm(child.num_features))
        else:
            without_batch_norm(child)
    return module


def doubling(width: int) -> nn.ConvTranspose2d:
    """A transposed convolution that doubles height and width."""
    return nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)


class UPerNetHead(nn.Module):
    """The pyramid x4, x2, x1, x1/2 of the four features, and UPerNet's decoder (pooling 1, 2, 3, 6): 1/4 of a patch."""

    def __init__(self, config: SegmenterConfig, width: int) -> None:
        super().__init__()
        self.pyramid = nn.ModuleList(
            [
                nn.Sequential(doubling(width), group_norm(width), nn.GELU(), doubling(width)),
                doubling(width),
                nn.Identity(),
                nn.MaxPool2d(2, ceil_mode=True),
            ]
        )
        channels = config.channels
        decoder = UPerNetDecoder((0, 0, *4 * [width]), decoder_channels=channels)  # takes no features at 1/1 and 1/2
        if not config.feature_norm:
            decoder.feature_norms = nn.ModuleList(nn.Identity() for _ in SHARES)
        self.decoder = without_batch_norm(decoder)
        self.dropout = nn.Dropout2d(config.head_dropout)
        self.classify = nn.Conv2d(channels, len(config.classes), kernel_size=1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Logits (B, C, 4 H / patch, 4 W / patch)."""
        levels = [level(f) for level, f in zip(self.pyramid, features, strict=True)]
        return self.classify(self.dropout(self.decoder([None, None, *levels])))


class DPTHead(nn.Module):
    """DPT's reassembly and fusion, without the class token: lighter than UPerNet at equal channels."""

    def __init__(self, config: SegmenterConfig, width: int) -> None:
        super().__init__()
        channels = config.channels
        self.norms = nn.ModuleList(LayerNorm2d(width) for _ in SHARES)
        decoder = DPTDecoder(
            4 * [width], 4 * [16], readout="ignore", intermediate_channels=4 * [channels], fusion_channels=channels
        )  # 16: the pyramid is relative to the grid of patches, of whatever size they are
        self.decoder = without_batch_norm(decoder)
        self.dropout = nn.Dropout2d(config.head_dropout)
        self.classify = nn.Conv2d(channels, len(config.classes), kernel_size=1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Logits (B, C, 8 H / patch, 8 W / patch)."""
        grid = features[0].shape[-2:]
        even = [side + side % 2 for side in grid]  # its coarsest level halves the grid, and doubles it again
        levels = [
            norm(f if even == list(grid) else enlarge(f, even)) for norm, f in zip(self.norms, features, strict=True)
        ]
        return self.classify(self.dropout(self.decoder(levels, [None] * 4)))


class LinearHead(nn.Module):
    """A norm and one linear layer on the last feature: what the encoder alone knows."""

    def __init__(self, config: SegmenterConfig, width: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(width)
        self.dropout = nn.Dropout2d(config.head_dropout)
        self.classify = nn.Conv2d(width, len(config.classes), kernel_size=1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Logits (B, C, H / patch, W / patch)."""
        return self.classify(self.dropout(self.norm(features[-1])))


class AuxiliaryHead(nn.Module):
    """A convolution on the third feature, which gives the middle of the encoder a gradient of its own."""

    def __init__(self, config: SegmenterConfig, width: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(width) if config.feature_norm else nn.Identity()
        self.convolution = nn.Conv2d(width, config.auxiliary, kernel_size=3, padding=1, bias=False)
        self.group_norm = group_norm(config.auxiliary)
        self.dropout = nn.Dropout2d(config.head_dropout)
        self.classify = nn.Conv2d(config.auxiliary, len(config.classes), kernel_size=1)

    def forward(self, feature_BDHW: Tensor) -> Tensor:
        """Logits (B, C, H, W) of the feature's size."""
        x_BDHW = F.relu(self.group_norm(self.convolution(self.norm(feature_BDHW))))
        return self.classify(self.dropout(x_BDHW))


HEADS: dict[str, type[nn.Module]] = {"upernet": UPerNetHead, "dpt": DPTHead, "linear": LinearHead}


# Inference --------------------------------------------------------------------------------------------


@torch.inference_mode()
def probabilities(model: Segmenter, image_hw: np.ndarray, slide: bool = False, overlap: float = 0.5) -> np.ndarray:
    """Probabilities (C, h, w) float32 of an image (h, w) uint8, at its own size. `model` is in evaluation mode.

    The image is fitted into the input whole, its shape kept. With `slide` it is scaled to cover the input
    instead, and windows that overlap by at least `overlap` of their side are averaged: finer, and slower.
    """
    device, size = next(model.parameters()).device, model.config.image_size
    if not slide:
        fitted_HW, box = fit(image_hw, size)
        logits_CHW = _logits(model, torch.from_numpy(fitted_HW)[None].to(device))[0]
        inside_CHW = logits_CHW[:, box.top : box.top + box.height, box.left : box.left + box.width]
    else:
        inside_CHW = _slide(model, image_hw, overlap, device)
    return enlarge(inside_CHW[None], image_hw.shape)[0].sigmoid().cpu().numpy()


def _slide(model: Segmenter, image_hw: np.ndarray, overlap: float, device: torch.device) -> Tensor:
    """Mean logits (C, H', W') of windows over the image, scaled so that the input just fits into it."""
    height, width = model.config.image_size
    scale = max(height / image_hw.shape[0], width / image_hw.shape[1])
    covering = [max(s, round(p * scale)) for s, p in zip((height, width), image_hw.shape, strict=True)]
    whole = torch.from_numpy(images.resize(image_hw, *covering)).to(device)
    sums_CHW = torch.zeros(len(model.config.classes), *covering, device=device)
    times_HW = torch.zeros(*covering, device=device)
    starts = [window_starts(c, s, overlap) for c, s in zip(covering, (height, width), strict=True)]
    for top, left in product(*starts):
        window = slice(top, top + height), slice(left, left + width)
        sums_CHW[:, *window] += _logits(model, whole[window][None])[0]
        times_HW[window] += 1
    return sums_CHW / times_HW


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Evenly spaced starts of windows that cover `length` and overlap by at least that share of a window."""
    count = 1 + math.ceil((length - window) / max(1, round(window * (1 - overlap))))
    return [round(i * (length - window) / max(1, count - 1)) for i in range(count)]


def _logits(model: Segmenter, image_BHW: Tensor) -> Tensor:
    return model(normalise(image_BHW, model.config.mean, model.config.std)).logits_BCHW.float()
