"""MRM: one encoder of radiographs, one decoder that restores images, one that restores reports.

    448 x 448 crop --resize--> 224 x 224 --patches, 49 of 196 kept--> encoder (timm ViT)
                                                                        |
              +---------------------------------------------------------+
              v                                                         v
    image decoder: mask tokens in the gaps,              mean of the visible patches, added to
    4 blocks, 32 x 32 x 3 pixels per masked patch        every position of a 6-layer BERT that
    of the 448 crop                                      names the masked words (`report_decoder.py`)

"Advancing Radiograph Representation Learning with Masked Record Modeling", ICLR 2023, arXiv:2301.13155.
Nothing here draws random numbers: what is masked comes in as indices, dropout follows sample keys.
"""

# Shapes: B studies, H W pixels, L patches, K kept (visible) patches, S = K and the encoder's prefix tokens
# (class token, registers), M masked patches to restore, P values of one target patch, D encoder width, E image decoder
# width, I rows of the image's context, R report width, T report tokens, N positions computed of all B x T, W words asked for,
# V vocabulary
from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mrm.data.reports import Tokenizer
from mrm.models import encoder
from mrm.models.card import Card
from mrm.models.config import ModelConfig
from mrm.models.contrast_heads import ContrastHeads
from mrm.models.limits import Levels
from mrm.models.report_decoder import ReportDecoder
from mrm.models.start import fix_positions, sine_cosine, start_encoder, start_linear_layers
from mrm.system.errors import ConfigError

LayerNorm = partial(nn.LayerNorm, eps=1e-6)  # as in the ViT; BERT keeps its own 1e-12


def _predicted(config: ModelConfig, hidden: int) -> int:
    """How many of the hidden patches training restores. Raises ConfigError."""
    default = hidden if config.image_decoder == "full" else min(config.keep, hidden)
    predicted = default if config.predicted is None else config.predicted
    if not 0 < predicted <= hidden:
        raise ConfigError(f"predicted must be between 1 and the {hidden} hidden patches, not {predicted}")
    return predicted


class MRMOutput(NamedTuple):
    """What a forward pass gives: pixels of the masked patches, logits of the words asked for, and what it made them from."""

    pixels_BMP: Tensor
    logits_WV: Tensor | None  # where words are asked for
    encoded_BSD: Tensor  # prefix tokens and visible patches
    features_BMD: Tensor | None  # of the masked patches, where the decoder predicts them


class MRM(nn.Module):
    """Encoder and two decoders. `forward` is the pre-training pass; `encode` is what everything else uses."""

    encoder: Any  # a timm VisionTransformer
    card: Card  # what its model folder knows of it
    tokenizer: Tokenizer | None = None  # of the reports that it was trained on, where its folder has one

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.card = config, Card("mrm", asdict(config))
        encoder.require_family(
            config.encoder, ("vit",), "pre-training: MRM drops patches before the first block of a ViT"
        )
        self.encoder = encoder.create(
            config.encoder, config.encoder_options, config.image_size, num_classes=0, global_pool=""
        )
        patch = self.encoder.patch_embed.patch_size[0]
        self.patches = (config.image_size // patch) ** 2
        if not 0 < config.keep < self.patches:
            raise ConfigError(f"keep must be from 1 to {self.patches - 1} of {self.patches} patches, not {config.keep}")
        if config.feature_blocks > len(self.encoder.blocks):
            raise ConfigError(
                f"feature_blocks must be at most the encoder's {len(self.encoder.blocks)}, not {config.feature_blocks}"
            )
        self.predicted = _predicted(config, self.patches - config.keep)
        self.prefix = self.encoder.num_prefix_tokens
        width = self.encoder.embed_dim
        self.image_decoder = IMAGE_DECODERS[config.image_decoder](config, self.encoder)
        self.report_decoder = ReportDecoder(config, width)
        contrast = config.contrast_width
        self.contrast = ContrastHeads(width, config.report_width, contrast) if contrast else None
        self.checkpointing = False  # recompute activations in the backward pass: less memory, a third more time
        self._start()

    def _start(self) -> None:
        """The initial weights, see `mrm.models.start`. The report decoder has given itself its own."""
        start_encoder(self.encoder)
        start_linear_layers(self.image_decoder)
        if self.config.fixed_positions:
            fix_positions(self.encoder)

    @property
    def patch_size(self) -> int:
        """Side of one patch of the encoder's input, in pixels."""
        return self.encoder.patch_embed.patch_size[0]

    def shrink(self, crop_BCHW: Tensor) -> Tensor:
        """The target-sized crop as the encoder sees it: bicubic, without anti-aliasing unless configured."""
        size = self.config.image_size
        if crop_BCHW.shape[-1] == size:
            return crop_BCHW
        channels = crop_BCHW.shape[1]
        if crop_BCHW.stride(1) == 0:  # one grey channel seen three times (`normalise`) is shrunk once
            crop_BCHW = crop_BCHW[:, :1]
        small = F.interpolate(crop_BCHW, size=(size, size), mode="bicubic", antialias=self.config.antialias)
        return small.expand(-1, channels, -1, -1)

    def encode(
        self, image_BCHW: Tensor, kept_BK: Tensor | None = None, passed: MutableSequence[Tensor] | None = None
    ) -> Tensor:
        """Prefix tokens, then features of the kept patches (all without `kept_BK`): (B, S, D), after the last norm.

        `image_BCHW` is normalised and of the encoder's size. MAE section 3, arXiv:2111.06377. `passed`, if there
        is one, receives what each block passes on, (B, S, D), before any norm.
        """
        encoder = self.encoder
        x_BLD = encoder._pos_embed(encoder.patch_embed(image_BCHW))  # prefix tokens and positions, any timm ViT
        if kept_BK is not None:
            x_BLD = torch.cat([x_BLD[:, : self.prefix], take(x_BLD[:, self.prefix :], kept_BK)], dim=1)
        x_BSD = encoder.norm_pre(x_BLD)
        for block in encoder.blocks:
            x_BSD = self._run(block, x_BSD)
            if passed is not None:
                passed.append(x_BSD)
        return encoder.norm(x_BSD)

    def restore(
        self, features_BSD: Tensor, kept_BK: Tensor, hidden_BM: Tensor, passed: Sequence[Tensor] = ()
    ) -> Tensor:
        """Pixels of the hidden patches, (B, M, P): a patch's rows, its columns, three channels.

        `passed` is what `encode` gave of each block; the decoder "cross-blocks" needs it.
        """
        return self.image_decoder.pixels(self.image_decoder(features_BSD, kept_BK, hidden_BM, self._run, passed))

    def context(self, features_BSD: Tensor) -> Tensor:
        """The image as the report decoder sees it, (B, I, R): its mean, and its patches where words attend to them."""
        return self.report_decoder.context(features_BSD[:, self.prefix :])

    def name_words(
        self,
        context_BIR: Tensor,
        tokens_BT: Tensor,
        attention_BT: Tensor,
        words_W: Tensor,
        keys_B: Tensor | None = None,
        rows_N: Tensor | None = None,
    ) -> Tensor:
        """Logits (W, V) of the positions `words_W`, indices into the flattened (B, T), given the image's context.

        `rows_N`, distinct indices of the same kind, names the positions to compute, where not all are needed: those
        that are attended to and those asked for must be among them, padding need not.
        """
        return self.report_decoder(context_BIR, tokens_BT, attention_BT, words_W, keys_B, rows_N, self._run)

    def forward(
        self,
        image_BCHW: Tensor,
        kept_BK: Tensor,
        hidden_BM: Tensor,
        tokens_BT: Tensor,
        attention_BT: Tensor,
        words_W: Tensor,
        keys_B: Tensor | None = None,
        rows_N: Tensor | None = None,
        report_to_encoder: float = 1.0,
        words: bool = True,
    ) -> MRMOutput:
        """The pre-training pass. Pixels and logits are computed only where the losses need them.

        `report_to_encoder` scales the gradient of the words on its way into the encoder, and nothing else. Without `words`
        the report decoder is not run.
        """
        passed: list[Tensor] = []
        features_BSD = self.encode(image_BCHW, kept_BK, passed)
        logits_WV = None
        if words:
            context_BIR = self.context(scale_gradient(features_BSD, report_to_encoder))
            logits_WV = self.name_words(context_BIR, tokens_BT, attention_BT, words_W, keys_B, rows_N)
        decoder = self.image_decoder
        rows_BME = decoder(features_BSD, kept_BK, hidden_BM, self._run, passed)
        return MRMOutput(
            decoder.pixels(rows_BME),
            logits_WV,
            features_BSD,
            None if decoder.features is None else decoder.features(rows_BME),
        )

    def image_vector(self, features_BSD: Tensor) -> Tensor:
        """Images as vectors (B, E) of length 1. Needs `contrast_width`."""
        assert self.contrast is not None
        return self.contrast.of_image(features_BSD[:, self.prefix :].mean(dim=1))

    def report_vector(self, tokens_BT: Tensor, attention_BT: Tensor) -> Tensor:
        """Reports as vectors (B, E) of length 1, whose product with an image's says how well they fit."""
        assert self.contrast is not None
        return self.contrast.of_report(self.report_decoder, tokens_BT, attention_BT, self._run)

    def _run(self, block: nn.Module, *inputs: Tensor | None) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
        return block(*inputs)


class DecoderBlock(Block):
    """timm's pre-norm transformer block, for decoders that know more about their rows than timm does."""

    norm1: Any
    attn: Any

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads, qkv_bias=True, norm_layer=LayerNorm)  # type: ignore[arg-type]

    def project(self, x_BLE: Tensor) -> Tensor:
        """Queries, keys and values of rows, side by side: (B, L, 3 E)."""
        return self.attn.qkv(self.norm1(x_BLE))

    def forward(  # type: ignore[override]
        self, x_BLE: Tensor, qkv_BLG: Tensor | None = None, asked_BM: Tensor | None = None
    ) -> Tensor:
        """Attention and the two-layer network. `qkv_BLG` if it is known already; only the rows `asked_BM` if given."""
        qkv_BLG = self.project(x_BLE) if qkv_BLG is None else qkv_BLG
        q_BLE, kv_BLF = qkv_BLG.split((x_BLE.shape[-1], 2 * x_BLE.shape[-1]), dim=-1)
        if asked_BM is not None:  # the other rows serve as keys and values alone
            x_BLE, q_BLE = take(x_BLE, asked_BM), take(q_BLE, asked_BM)
        x_BLE = x_BLE + self.attn.proj(attend(q_BLE, kv_BLF, self.attn.num_heads))
        return x_BLE + self.mlp(self.norm2(x_BLE))


class CrossBlock(nn.Module):
    """Hidden patches attend to the visible ones and never to each other. CrossMAE section 3.2, arXiv:2401.14391."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_norm, self.seen_norm = LayerNorm(width), LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.mlp_norm = LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_BME: Tensor, seen_BSE: Tensor) -> Tensor:
        """Attend to what is seen, then the two-layer network; the cost grows with M x S, not with L x L."""
        kv_BSF = self.key_value(self.seen_norm(seen_BSE))
        x_BME = x_BME + self.out(attend(self.query(self.query_norm(x_BME)), kv_BSF, self.heads))
        return x_BME + self.fc2(F.gelu(self.fc1(self.mlp_norm(x_BME))))


class ImageDecoder(nn.Module):
    """Mask tokens take the hidden patches' places; a small ViT restores them. MAE section 3."""

    positions_LE: Tensor
    block: type[nn.Module] = DecoderBlock

    def __init__(self, config: ModelConfig, encoder: Any) -> None:
        super().__init__()
        inner, target_patch = config.decoder_width, encoder.patch_embed.patch_size[0] * config.target_scale
        self.prefix = encoder.num_prefix_tokens  # class token and registers, which the hidden patches may attend to
        self.embed = nn.Linear(encoder.embed_dim, inner)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, inner).normal_(std=0.02))
        self.register_buffer("positions_LE", sine_cosine(inner, encoder.patch_embed.grid_size[0]), persistent=False)
        self.blocks = nn.ModuleList(self.block(inner, config.decoder_heads) for _ in range(config.decoder_depth))
        self.norm = LayerNorm(inner)
        self.pixels = nn.Linear(inner, target_patch**2 * 3)
        self.features = nn.Linear(inner, encoder.embed_dim) if config.feature_blocks else None

    def forward(
        self, features_BSD: Tensor, kept_BK: Tensor, hidden_BM: Tensor, run, passed: Sequence[Tensor] = ()
    ) -> Tensor:
        """Rows (B, M, E) of the hidden patches, from which `pixels` restores them.

        Two savings do not change the result: before the first block a hidden patch is the same in every image, so its
        queries, keys and values are computed once; and the last block computes only the rows that are asked for.
        """
        seen_BSE, blank_LE = self.seen(features_BSD, kept_BK), self.mask_token[0] + self.positions_LE
        first: Any = self.blocks[0]
        last = len(self.blocks) - 1
        x_BLE = self._filled(seen_BSE, blank_LE, kept_BK)
        qkv_BLG = self._filled(first.project(seen_BSE), first.project(blank_LE), kept_BK)
        for number, block in enumerate(self.blocks):
            asked_BM = hidden_BM + self.prefix if number == last else None
            x_BLE = run(block, x_BLE, qkv_BLG if number == 0 else None, asked_BM)
        return self.norm(x_BLE)

    def seen(self, features_BSD: Tensor, kept_BK: Tensor) -> Tensor:
        """The encoder's features in the decoder's width, the patches with their positions: (B, S, E)."""
        x_BSE = self.embed(features_BSD)
        return torch.cat([x_BSE[:, : self.prefix], x_BSE[:, self.prefix :] + self.positions_LE[kept_BK]], dim=1)

    def _filled(self, seen_BSX: Tensor, blank_LX: Tensor, kept_BK: Tensor) -> Tensor:
        """Rows of all patches, (B, L, X) behind the prefix: the kept ones from what was seen, the others blank."""
        index_BKX = kept_BK[:, :, None].expand(-1, -1, blank_LX.shape[-1])
        prefix_BX, kept_BKX = seen_BSX.split((self.prefix, kept_BK.shape[1]), dim=1)
        blank_BLX = blank_LX.to(seen_BSX.dtype).expand(len(seen_BSX), -1, -1)
        return torch.cat([prefix_BX, blank_BLX.scatter(1, index_BKX, kept_BKX)], dim=1)


class CrossDecoder(ImageDecoder):
    """The efficient one: mask tokens of the patches asked for attend to the visible features. arXiv:2401.14391.

    A patch is restored alike whichever others are asked for, so training may ask for a part of them. All decoder blocks
    see the encoder's last features.
    """

    block = CrossBlock

    def forward(
        self, features_BSD: Tensor, kept_BK: Tensor, hidden_BM: Tensor, run, passed: Sequence[Tensor] = ()
    ) -> Tensor:
        """Rows (B, M, E) of the hidden patches, from which `pixels` restores them."""
        x_BME = self.mask_token + self.positions_LE[hidden_BM]
        for block, seen_BSE in zip(self.blocks, self.seen_by_blocks(features_BSD, kept_BK, passed), strict=True):
            x_BME = run(block, x_BME, seen_BSE)
        return self.norm(x_BME)

    def seen_by_blocks(self, features_BSD: Tensor, kept_BK: Tensor, passed: Sequence[Tensor]) -> list[Tensor]:
        """What each block of the decoder sees, (B, S, E)."""
        return [self.seen(features_BSD, kept_BK)] * len(self.blocks)


class CrossBlocksDecoder(CrossDecoder):
    """The same with inter-block attention: each block sees its own mix of the features of all encoder blocks.

    CrossMAE section 3.3, arXiv:2401.14391. The mix starts at the last features, as `CrossDecoder` has them. Those of
    earlier blocks are normalised without weights, since their scale grows from block to block.
    """

    def __init__(self, config: ModelConfig, encoder: Any) -> None:
        super().__init__(config, encoder)
        start = torch.zeros(config.decoder_depth, len(encoder.blocks))
        start[:, -1] = 1.0
        self.mix = nn.Parameter(start)  # of encoder blocks, for each block of the decoder

    def seen_by_blocks(self, features_BSD: Tensor, kept_BK: Tensor, passed: Sequence[Tensor]) -> list[Tensor]:
        """What each block of the decoder sees, (B, S, E)."""
        earlier = [F.layer_norm(x_BSD, x_BSD.shape[-1:], eps=1e-6) for x_BSD in passed[:-1]]
        every = [*earlier, features_BSD]
        mixed = [torch.stack([w * x_BSD for w, x_BSD in zip(row, every, strict=True)]).sum(dim=0) for row in self.mix]
        return [self.seen(one_BSD, kept_BK) for one_BSD in mixed]


IMAGE_DECODERS: dict[str, type[ImageDecoder]] = {
    "full": ImageDecoder,
    "cross": CrossDecoder,
    "cross-blocks": CrossBlocksDecoder,
}


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """The tensor itself, whose gradient is multiplied by `factor` on its way back."""
    return x if factor == 1.0 else _ScaledGradient.apply(x, factor)


def normalise(image_BHW: Tensor, mean: Levels, std: Levels) -> Tensor:
    """Grey uint8 images (B, H, W) as three normalised channels, float32 (B, 3, H, W)."""
    return three_channels(image_BHW.float() / 255.0, mean, std)


def three_channels(grey_BHW: Tensor, mean: Levels, std: Levels) -> Tensor:
    """Grey values from 0 to 1, float32 (B, H, W), as three normalised channels (B, 3, H, W).

    With one mean and one deviation the channels are equal: one, seen three times. Encoders of colour images have three.
    """
    if isinstance(mean, tuple) or isinstance(std, tuple):
        mean_311, std_311 = (grey_BHW.new_tensor(level).expand(3)[:, None, None] for level in (mean, std))
        return (grey_BHW[:, None] - mean_311) / std_311
    return ((grey_BHW - mean) / std)[:, None].expand(-1, 3, -1, -1)


def take(x_BLD: Tensor, index_BK: Tensor) -> Tensor:
    """The rows `index_BK` of each sample: (B, K, D)."""
    return x_BLD.gather(1, index_BK[:, :, None].expand(-1, -1, x_BLD.shape[-1]))


def attend(q_BME: Tensor, kv_BLF: Tensor, heads: int) -> Tensor:
    """Multi-head attention of queries to keys and values that lie side by side (F = 2 E): (B, M, E)."""
    q = q_BME.unflatten(-1, (heads, -1)).transpose(1, 2)
    k, v = kv_BLF.unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def complement(index_BK: Tensor, length: int) -> Tensor:
    """The indices in 0..length-1 that each sample does not have, ascending: (B, length - K)."""
    absent_BL = torch.ones(index_BK.shape[0], length, dtype=torch.bool, device=index_BK.device)
    absent_BL = absent_BL.scatter(1, index_BK, False)
    return absent_BL.nonzero()[:, 1].view(index_BK.shape[0], -1)


def patchify(image_BCHW: Tensor, side: int) -> Tensor:
    """Square patches in reading order, each as its rows, columns, channels: (B, L, side * side * C)."""
    batch, channels, height, width = image_BCHW.shape
    cut = image_BCHW.reshape(batch, channels, height // side, side, width // side, side)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, side * side * channels)


def unpatchify(patches_BLP: Tensor, side: int) -> Tensor:
    """The square image (B, C, H, W) that `patchify` cut into these patches."""
    batch, length, values = patches_BLP.shape
    grid, channels = int(length**0.5), values // side**2
    cut = patches_BLP.reshape(batch, grid, grid, side, side, channels)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, grid * side, grid * side)


def target_patches(image_BCHW: Tensor, side: int, hidden_BM: Tensor) -> Tensor:
    """What the image decoder is to restore: the hidden patches of the large crop, (B, M, P).

    Of three equal channels one is enough: (B, M, P / 3).
    """
    return take(patchify(image_BCHW, side), hidden_BM)


def normalise_patches(patches_BMQ: Tensor, repeats: int = 1, eps: float = 1e-6) -> Tensor:
    """Each patch less its mean, over its deviation (unbiased variance). MAE, section 3, arXiv:2111.06377.

    Each value counts `repeats` times, as that of a grey patch does for three equal channels.
    """
    centred = patches_BMQ - patches_BMQ.mean(dim=-1, keepdim=True)
    variance = centred.square().sum(dim=-1, keepdim=True) / (patches_BMQ.shape[-1] - 1 / repeats)
    return centred / (variance + eps).sqrt()
