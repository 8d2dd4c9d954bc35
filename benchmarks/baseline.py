"""What the published code does, written plainly: the loader and the training step to compare ours with.

Loader: PIL decodes to RGB, torchvision crops, flips, greys, scales and normalises, one sample at a time. Network:
attention with its matrix of weights written out, every position through the vocabulary layer, every patch through the
pixel head, reports padded to their full length. Its parameters have our names, so that it takes our weights, and it has the
same losses for the same inputs (`tests/benchmarks/test_benchmarks.py`).
"""

# Shapes: B studies, H W pixels, L patches, K kept patches, S = K + 1, D width of a network, T report tokens, V
# vocabulary, P values of one target patch, h heads
from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from mrm.models.config import ModelConfig
from mrm.models.mrm import patchify
from mrm.models.start import sine_cosine


def image_transform(size: int = 448, mean: float = 0.4978, std: float = 0.2449) -> transforms.Compose:
    """A PIL image to the normalised float tensor (3, size, size) of a training sample."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, (0.2, 1.0), interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.Grayscale(3),
            transforms.ToTensor(),
            transforms.Normalize([mean] * 3, [std] * 3),
        ]
    )


def load(path: Path, transform: transforms.Compose) -> Tensor:
    """One sample's image."""
    return transform(Image.open(path).convert("RGB"))


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V, with every matrix computed in full."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BLD: Tensor, mask_B11L: Tensor | None = None) -> Tensor:
        """`mask_B11L` is added to the scores."""
        batch, length, width = x_BLD.shape
        qkv = self.qkv(x_BLD).reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        scores_BhLL = q @ k.transpose(-2, -1) / math.sqrt(width // self.heads)
        if mask_B11L is not None:
            scores_BhLL = scores_BhLL + mask_B11L
        mixed = scores_BhLL.softmax(dim=-1) @ v
        return self.proj(mixed.transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    """Two layers with GELU between them."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Each row by itself."""
        return self.fc2(F.gelu(self.fc1(x_BLD)))


class VitBlock(nn.Module):
    """Pre-norm transformer block of a ViT."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-6), Mlp(width, 4 * width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Attention, then the MLP."""
        x_BLD = x_BLD + self.attn(self.norm1(x_BLD))
        return x_BLD + self.mlp(self.norm2(x_BLD))


class BertLayer(nn.Module):
    """Post-norm transformer block of BERT, with dropout on both branches."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.report_width
        self.attn = Attention(width, config.report_heads)
        self.mlp = Mlp(width, config.report_mlp)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(config.report_dropout)

    def forward(self, x_BTD: Tensor, mask_B11T: Tensor) -> Tensor:
        """Attention, then the MLP."""
        x_BTD = self.norm1(x_BTD + self.dropout(self.attn(x_BTD, mask_B11T)))
        return self.norm2(x_BTD + self.dropout(self.mlp(x_BTD)))


class Encoder(nn.Module):
    """MAE's encoder: all patches embedded, the kept ones encoded."""

    def __init__(self, width: int, depth: int, heads: int, patch: int, grid: int) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        positions = torch.cat([torch.zeros(1, width), sine_cosine(width, grid)])[None]
        self.pos_embed = nn.Parameter(positions, requires_grad=False)
        self.blocks = nn.ModuleList(VitBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, image_BCHW: Tensor, kept_BK: Tensor) -> Tensor:
        """Class token and kept patches, (B, S, D)."""
        x_BLD = self.patch_embed(image_BCHW).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        x_BKD = torch.gather(x_BLD, 1, kept_BK[:, :, None].repeat(1, 1, x_BLD.shape[-1]))
        class_B1D = (self.cls_token + self.pos_embed[:, :1]).expand(len(x_BKD), -1, -1)
        x_BSD = torch.cat([class_B1D, x_BKD], dim=1)
        for block in self.blocks:
            x_BSD = block(x_BSD)
        return self.norm(x_BSD)


class PixelDecoder(nn.Module):
    """MAE's decoder: every patch restored, hidden or not."""

    def __init__(self, config: ModelConfig, width: int, patch: int, grid: int) -> None:
        super().__init__()
        inner = config.decoder_width
        self.embed = nn.Linear(width, inner)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, inner))
        self.register_buffer("positions", sine_cosine(inner, grid)[None], persistent=False)
        self.blocks = nn.ModuleList(VitBlock(inner, config.decoder_heads) for _ in range(config.decoder_depth))
        self.norm = nn.LayerNorm(inner, eps=1e-6)
        self.pixels = nn.Linear(inner, (patch * config.target_scale) ** 2 * 3)

    def forward(self, features_BSD: Tensor, back_BL: Tensor) -> Tensor:
        """Pixels of all patches (B, L, P); `back_BL` says where each patch stands after the kept ones come first."""
        x_BSD = self.embed(features_BSD)
        batch, length = back_BL.shape
        masks = self.mask_token.repeat(batch, length + 1 - x_BSD.shape[1], 1)
        x_BLD = torch.cat([x_BSD[:, 1:], masks], dim=1)
        x_BLD = torch.gather(x_BLD, 1, back_BL[:, :, None].repeat(1, 1, x_BLD.shape[-1])) + self.positions
        x_BLD = torch.cat([x_BSD[:, :1], x_BLD], dim=1)
        for block in self.blocks:
            x_BLD = block(x_BLD)
        return self.pixels(self.norm(x_BLD))[:, 1:]


class Bert(nn.Module):
    """BERT with the image added to every position: logits of every position."""

    def __init__(self, config: ModelConfig, image_width: int) -> None:
        super().__init__()
        width = config.report_width
        self.from_image = nn.Linear(image_width, width)
        self.words = nn.Embedding(config.vocabulary, width, padding_idx=0)
        self.positions = nn.Embedding(config.report_length, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.ModuleList(BertLayer(config) for _ in range(config.report_depth))
        self.dropout = nn.Dropout(config.report_dropout)
        self.transform = nn.Linear(width, width)
        self.transform_norm = nn.LayerNorm(width, eps=1e-12)
        self.word_bias = nn.Parameter(torch.zeros(config.vocabulary))
        self.word_output = None if config.tied_words else nn.Parameter(torch.zeros(config.vocabulary, width))

    def forward(self, features_BSD: Tensor, tokens_BT: Tensor, attention_BT: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        numbers_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        x_BTD = self.dropout(self.norm(self.words(tokens_BT) + self.positions(numbers_T)))
        x_BTD = x_BTD + self.from_image(features_BSD[:, 1:]).mean(dim=1)[:, None]
        mask_B11T = (1.0 - attention_BT[:, None, None, :].float()) * torch.finfo(torch.float32).min
        for block in self.blocks:
            x_BTD = block(x_BTD, mask_B11T)
        x_BTD = self.transform_norm(F.gelu(self.transform(x_BTD)))
        return F.linear(x_BTD, self.words.weight if self.word_output is None else self.word_output, self.word_bias)


class Baseline(nn.Module):
    """The pre-training network and its two losses, with the shape of a `ModelConfig` and a plain ViT encoder."""

    def __init__(self, config: ModelConfig, depth: int, heads: int, width: int, patch: int = 16) -> None:
        super().__init__()
        self.config, self.side = config, patch * config.target_scale
        grid = config.image_size // patch
        self.encoder = Encoder(width, depth, heads, patch, grid)
        self.image_decoder = PixelDecoder(config, width, patch, grid)
        self.report_decoder = Bert(config, width)

    def forward(
        self,
        crop_BCHW: Tensor,
        kept_BK: Tensor,
        tokens_BT: Tensor,
        attention_BT: Tensor,
        targets_BT: Tensor,
        masked_BT: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Mean losses of the masked patches and of the masked positions (`masked_BT`, bool)."""
        size = self.config.image_size
        image_BCHW = F.interpolate(crop_BCHW, size=(size, size), mode="bicubic")
        length = self.image_decoder.positions.shape[1]
        masked_BL = torch.ones(len(kept_BK), length, device=kept_BK.device).scatter(1, kept_BK, 0.0)
        back_BL = masked_BL.argsort(dim=1, stable=True).argsort(dim=1)
        features_BSD = self.encoder(image_BCHW, kept_BK)
        pixels_BLP = self.image_decoder(features_BSD, back_BL)
        target_BLP = patchify(crop_BCHW, self.side)
        if self.config.norm_pix:
            mean, var = target_BLP.mean(dim=-1, keepdim=True), target_BLP.var(dim=-1, keepdim=True)
            target_BLP = (target_BLP - mean) / (var + 1e-6) ** 0.5
        error_BL = ((pixels_BLP - target_BLP) ** 2).mean(dim=-1)
        logits_BTV = self.report_decoder(features_BSD, tokens_BT, attention_BT)
        entropy_N = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="none")
        masked_N = masked_BT.flatten().float()
        return (error_BL * masked_BL).sum() / masked_BL.sum(), (entropy_N * masked_N).sum() / masked_N.sum()


def like(model: nn.Module) -> Baseline:
    """The baseline of an `mrm.MRM` with a plain ViT encoder and the full decoder, with its weights."""
    encoder, config = model.encoder, model.config
    plain = Baseline(config, len(encoder.blocks), encoder.blocks[0].attn.num_heads, encoder.embed_dim, model.patch_size)
    plain.load_state_dict({_name(k): v for k, v in model.state_dict().items()})
    return plain


def build_optimizer(model: nn.Module, lr: float = 1.5e-4) -> torch.optim.AdamW:
    """Plain AdamW: one parameter after the other."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.95), weight_decay=0.05, foreach=False, fused=False)


def _name(ours: str) -> str:
    """The name that a tensor of ours has here."""
    if ours.startswith("report_decoder.blocks."):
        for part, there in (
            (".qkv.", ".attn.qkv."),
            (".out.", ".attn.proj."),
            (".fc1.", ".mlp.fc1."),
            (".fc2.", ".mlp.fc2."),
        ):
            ours = ours.replace(part, there)
    return ours.replace("patch_embed.proj.", "patch_embed.")
