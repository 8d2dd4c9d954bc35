"""The floating-point operations of an MRM model."""

from __future__ import annotations

from typing import Any

from torch import nn

from mrm.data.samples import PretrainBatch
from mrm.models.mrm import MRM


def flops_of_step(model: MRM, batch: PretrainBatch) -> float:
    """Floating-point operations of a training step with this batch, a sample: forward and backward."""
    size, length = batch.tokens_BT.shape
    return 3 * flops_per_sample(model, len(batch.rows_N) / size, len(batch.words_W) / size, size, length)


def flops_per_sample(model: MRM, tokens: float, words: float, batch: int = 1, length: int | None = None) -> float:
    """Floating-point operations of one sample's forward pass, a multiplication and an addition counted as two.

    `tokens` of the report, padded to `length` (None: not at all) for attention; `words` asked for; `batch` samples
    share what does not depend on the image. Only products of matrices count. Forward and backward are three times
    as many, though the backward pass spares the gradient of the image and computes attention again.
    """
    config, encoder = model.config, model.encoder
    seen, patches, asked = config.keep + model.prefix, model.patches, model.predicted
    width, inner, report = encoder.embed_dim, config.decoder_width, config.report_width
    embedding = 2 * patches * encoder.patch_embed.proj.weight.numel()
    encoding = sum(2 * seen * _weights(block) + 4 * seen * seen * width for block in encoder.blocks)
    decoder: Any = model.image_decoder
    embedded = len(decoder.blocks) if config.image_decoder == "cross-blocks" else 1
    restoring = 2 * seen * embedded * _weights(decoder.embed) + 2 * asked * _weights(decoder.pixels)
    if config.image_decoder != "full":
        for block in decoder.blocks:
            keys = _weights(block.key_value)
            restoring += 2 * seen * keys + 2 * asked * (_weights(block) - keys) + 4 * asked * seen * inner
    else:
        rows = patches + model.prefix
        for number, block in enumerate(decoder.blocks):
            projected = seen + patches / batch if number == 0 else rows
            computed = asked if number == len(decoder.blocks) - 1 else rows
            keys = _weights(block.attn.qkv)
            restoring += 2 * projected * keys + 2 * computed * (_weights(block) - keys) + 4 * computed * rows * inner
    reading = config.report_depth * 4 * (length or tokens) ** 2 * report
    reading += 2 * tokens * _weights(model.report_decoder.blocks) + 2 * _weights(model.report_decoder.from_image)
    naming = 2 * words * (_weights(model.report_decoder.transform) + config.vocabulary * report)
    return embedding + encoding + restoring + reading + naming


def _weights(module: Any) -> int:
    """Weights of a module's linear layers."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))
