"""Lines `pretraining` and `mrm-step`: a step of masked image modelling, and of MRM with reports.

`pretraining` is MAE (arXiv:2111.06377) with ViT-B/16 at 224: 49 of 196 patches kept, its decoder of 8 blocks of width 512,
targets normalised by patch. All ways have the same weights, images, kept patches and fused AdamW, and the same loss at
their first step. Ours is the pre-training task with `--report-weight 0`; the report decoder is then neither run nor
trained. `floor` is forward and backward pass of the blocks alone, without embeddings, pixel head, loss and optimiser.
`mrm-step` is the whole of MRM as published, with 448-pixel targets and reports, against `benchmarks/baseline.py`.
"""

# Shapes: B images, L patches, K kept patches, D width, S = K + 1
from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import speed
import torch
from torch import Tensor, nn

from benchmarks.peers.turns import OURS, Gate, Line, Setting, relative
from mrm import recipes
from mrm.data.samples import PretrainBatch
from mrm.models import noise
from mrm.models.config import ModelConfig
from mrm.models.mrm import MRM, normalise
from mrm.system.hardware import keep_freed_memory
from mrm.training.config import TrainConfig
from mrm.training.optimization import build_optimizer
from mrm.training.tasks import PretrainTask

BATCH = 4
MAE = {"decoder_width": 512, "decoder_depth": 8, "decoder_heads": 16, "target_scale": 1}
CPU = torch.device("cpu")


def network(setting: Setting) -> MRM:
    """The same network, with the same weights, for every way; with a report decoder that plays no part."""
    shape = recipes.TINY_MODEL if setting.quick else ModelConfig()
    with noise.seeded(0):
        return MRM(replace(shape, **({"target_scale": 1} if setting.quick else MAE)))


def images_of(model: MRM, batch: PretrainBatch) -> Tensor:
    """The normalised images that the other ways get, (B, 3, H, W)."""
    return normalise(batch.image_BHW, model.config.mean, model.config.std).contiguous()


def stepping(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], float]:
    """One update with fused AdamW; returns the loss before it."""
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1.5e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=True
    )

    def run() -> float:
        value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value.item()

    return run


def ours(gate: Gate, setting: Setting) -> None:
    """The pre-training task, as the training loop steps it."""
    keep_freed_memory(CPU)
    model = network(setting)
    model.report_decoder.requires_grad_(False)
    batch, task = speed.batch_for(model, BATCH), PretrainTask(model, report_weight=0.0).train()
    optimizer = build_optimizer(model, TrainConfig())

    def run() -> float:
        term = task(batch)["image"]
        loss = term.sum / batch.hidden_BM.numel()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    gate.repeat(run)


def huggingface(gate: Gate, setting: Setting) -> None:
    """`ViTMAEForPreTraining` of transformers, with attention by `scaled_dot_product_attention`."""
    model = network(setting)
    batch = speed.batch_for(model, BATCH)
    peer, noise_BL = vit_mae(model).train(), noise_that_keeps(batch.kept_BK, model.patches)
    image_BCHW = images_of(model, batch)
    gate.repeat(stepping(peer, lambda: peer(pixel_values=image_BCHW, noise=noise_BL).loss))


def noise_that_keeps(kept_BK: Tensor, patches: int) -> Tensor:
    """The noise (B, L) by whose order ViTMAE keeps these patches."""
    return torch.ones(len(kept_BK), patches).scatter(
        1, kept_BK, torch.linspace(0, 0.5, kept_BK.shape[1]).expand_as(kept_BK)
    )


def vit_mae(model: MRM) -> Any:
    """transformers' network of the same shape, with the weights of ours."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    encoder, config = model.encoder, model.config
    peer = ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=encoder.embed_dim,
            num_hidden_layers=len(encoder.blocks),
            num_attention_heads=encoder.blocks[0].attn.num_heads,
            intermediate_size=4 * encoder.embed_dim,
            image_size=config.image_size,
            decoder_hidden_size=config.decoder_width,
            decoder_num_hidden_layers=config.decoder_depth,
            decoder_num_attention_heads=config.decoder_heads,
            decoder_intermediate_size=4 * config.decoder_width,
            mask_ratio=1 - (config.keep + 0.5) / model.patches,
            norm_pix_loss=True,
            layer_norm_eps=1e-6,
            attn_implementation="sdpa",
        )
    )
    blank = torch.zeros(1, config.decoder_width)
    weights = {"decoder.decoder_pos_embed": torch.cat([blank, model.image_decoder.positions_LE])[None]}
    for name, value in model.state_dict().items():
        weights |= vit_mae_names(name, value)
    peer.load_state_dict(weights)
    return peer


NAMES = (
    (r"^encoder\.cls_token", "vit.embeddings.cls_token"),
    (r"^encoder\.pos_embed", "vit.embeddings.position_embeddings"),
    (r"^encoder\.patch_embed\.proj", "vit.embeddings.patch_embeddings.projection"),
    (r"^encoder\.blocks", "vit.layers"),
    (r"^encoder\.norm", "vit.layernorm"),
    (r"^image_decoder\.embed", "decoder.decoder_embed"),
    (r"^image_decoder\.mask_token", "decoder.mask_token"),
    (r"^image_decoder\.blocks", "decoder.decoder_layers"),
    (r"^image_decoder\.norm", "decoder.decoder_norm"),
    (r"^image_decoder\.pixels", "decoder.decoder_pred"),
    (r"\.attn\.proj", ".attention.o_proj"),
    (r"\.norm1", ".layernorm_before"),
    (r"\.norm2", ".layernorm_after"),
)


def vit_mae_names(name: str, value: Tensor) -> dict[str, Tensor]:
    """What transformers has of a tensor of ours, by its names there; queries, keys and values are three."""
    if not name.startswith(("encoder.", "image_decoder.")):
        return {}
    for pattern, theirs in NAMES:
        name = re.sub(pattern, theirs, name)
    if ".attn.qkv." not in name:
        return {name: value}
    parts = zip("qkv", value.chunk(3), strict=True)
    return {name.replace("attn.qkv", f"attention.{which}_proj"): part for which, part in parts}


def lightly(gate: Gate, setting: Setting) -> None:
    """lightly's parts, joined as its MAE example joins them; targets are normalised by patch with its own function."""
    from lightly.models import utils

    model = network(setting)
    batch = speed.batch_for(model, BATCH)
    peer, image_BCHW = LightlyMAE(model).train(), images_of(model, batch)

    def loss() -> Tensor:
        predicted_BMP = peer(image_BCHW, batch.kept_BK + 1, batch.hidden_BM + 1)
        target_BMP = utils.get_at_index(utils.patchify(image_BCHW, model.patch_size), batch.hidden_BM)
        return nn.functional.mse_loss(predicted_BMP, utils.normalize_mean_var(target_BMP))

    gate.repeat(stepping(peer, loss))


class LightlyMAE(nn.Module):
    """`MaskedVisionTransformerTIMM` and `MaskedVisionTransformerDecoderTIMM` with the weights of ours."""

    def __init__(self, model: MRM) -> None:
        super().__init__()
        from lightly.models.modules.masked_vision_transformer_decoder_timm import MaskedVisionTransformerDecoderTIMM
        from lightly.models.modules.masked_vision_transformer_timm import MaskedVisionTransformerTIMM

        ours, config = model.image_decoder, model.config
        self.backbone = MaskedVisionTransformerTIMM(
            copy.deepcopy(model.encoder), weight_initialization="skip", pos_embed_initialization="skip"
        )
        self.backbone.mask_token.requires_grad_(False)  # of another method
        self.embed, self.pixels = copy.deepcopy(ours.embed), copy.deepcopy(ours.pixels)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            model.patches, config.decoder_width, config.decoder_depth, config.decoder_heads
        )
        blank = torch.zeros(1, config.decoder_width)
        weights = {name: value for name, value in ours.state_dict().items() if name.startswith(("blocks.", "norm."))}
        weights |= {"mask_token": ours.mask_token, "pos_embed": torch.cat([blank, ours.positions_LE])[None]}
        self.decoder.load_state_dict(weights)

    def forward(self, image_BCHW: Tensor, keep_BK: Tensor, hidden_BM: Tensor) -> Tensor:
        """Pixels of the hidden patches (B, M, P). Indices count the class token, which is kept."""
        from lightly.models import utils

        keep_BS = torch.cat([torch.zeros_like(keep_BK[:, :1]), keep_BK], dim=1)
        seen_BSE = self.embed(self.backbone.encode(image_BCHW, idx_keep=keep_BS))
        blank_BLE = utils.repeat_token(self.decoder.mask_token, (len(image_BCHW), self.backbone.sequence_length))
        decoded_BLE = self.decoder(utils.set_at_index(blank_BLE, keep_BS, seen_BSE))
        return self.pixels(utils.get_at_index(decoded_BLE, hidden_BM))


def floor(gate: Gate, setting: Setting) -> None:
    """Forward and backward pass of the encoder's and the decoder's blocks, of timm, and nothing else."""
    keep_freed_memory(CPU)
    model = network(setting).train()
    encoder, decoder = model.encoder, model.image_decoder
    for parameter in (model.report_decoder.parameters(), model.encoder.patch_embed.parameters()):
        for p in parameter:
            p.requires_grad_(False)
    seen_BSD = torch.randn(BATCH, model.config.keep + 1, encoder.embed_dim, requires_grad=True)
    every_BLE = torch.randn(BATCH, model.patches + 1, model.config.decoder_width, requires_grad=True)

    def run() -> float:
        for rows, blocks in ((seen_BSD, encoder.blocks), (every_BLE, decoder.blocks)):
            for block in blocks:
                rows = block(rows)
            rows.mean().backward()
        model.zero_grad(set_to_none=True)
        return np.nan  # nothing to compare

    gate.repeat(run)


def mrm_step(name: str) -> Callable[[Gate, Setting], None]:
    """A variant of `speed.py`."""

    def way(gate: Gate, setting: Setting) -> None:
        run = speed.variant(name, setting.quick, BATCH)
        gate.repeat(lambda: (run(), np.nan)[1])  # losses and gradients are compared in tests/benchmarks

    return way


LINES = {
    "pretraining": Line(
        f"a step of MAE, ViT-B/16 at 224, decoder of 8 blocks of 512, 49 of 196 patches kept, batches of {BATCH}, fp32",
        "seconds a step",
        {OURS: ours, "transformers": huggingface, "lightly": lightly, "floor": floor},
        relative,
        1e-4,
        shares=("floor",),
    ),
    "mrm-step": Line(
        f"a step of MRM as published, ViT-B/16, 224 to 448, with reports of 70 tokens on average, batches of {BATCH}, fp32",
        "seconds a step",
        {OURS: mrm_step("fp32 full"), "published": mrm_step("baseline")},
        relative,
        1e-4,
        repeats=5,
    ),
}
