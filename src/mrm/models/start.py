"""The weights that an MRM starts from: the published start, and the one of BERT beside it.

| what | published start |
| --- | --- |
| every linear layer, and the patch projection as one | Xavier uniform, biases 0 |
| BERT's queries, keys and values | Xavier uniform, each as a layer of its own |
| word and position embeddings | normal, standard deviation 0.02; the row of `[PAD]` is 0 |
| class token and mask token | normal, standard deviation 0.02 |
| norms | weights 1, biases 0 |
| positions of the image | fixed sines and cosines |

All draws come from the global generator, so create a model within `noise.seeded`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mrm.data.reports import PAD

STD = 0.02  # of embeddings and tokens; and, with the start "normal", of the report decoder's linear layers


def start_encoder(encoder: Any) -> None:
    """The published start of a timm ViT, its positions left as they are."""
    start_linear_layers(encoder)
    projection = encoder.patch_embed.proj
    nn.init.xavier_uniform_(projection.weight.view(projection.weight.shape[0], -1))
    if projection.bias is not None:
        nn.init.zeros_(projection.bias)
    if encoder.cls_token is not None:
        nn.init.normal_(encoder.cls_token, std=STD)


def start_linear_layers(module: nn.Module) -> None:
    """Xavier uniform (Glorot and Bengio 2010, equation 16) on every linear layer in `module`; biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def start_report_decoder(decoder: Any, start: str) -> None:
    """The start of the report decoder: "xavier" as published, or "normal" (standard deviation 0.02), as in BERT."""
    for layer in decoder.modules():
        if isinstance(layer, nn.Linear | nn.Embedding):
            nn.init.normal_(layer.weight, std=STD)
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
    with torch.no_grad():
        decoder.words.weight[PAD] = 0
    if decoder.word_output is not None:
        nn.init.normal_(decoder.word_output, std=STD)
    if start == "xavier":
        _start_report_layers(decoder)


def _start_report_layers(decoder: Any) -> None:
    """Xavier uniform on the linear layers of the report decoder, and on its output words where they are untied."""
    start_linear_layers(decoder)
    for block in decoder.blocks:  # three layers of the published BERT lie in one here: each has its own range
        for part in block.qkv.weight.chunk(3):
            nn.init.xavier_uniform_(part)
    if decoder.word_output is not None:
        nn.init.xavier_uniform_(decoder.word_output)


def sine_cosine(width: int, grid: int) -> Tensor:
    """Fixed 2-D positions (grid * grid, width): half for the column, half for the row, each sines then cosines.

    Frequencies 10000^(-i / width), i < width / 4: what the published MRM computes. MAE divides i by
    width / 4 instead; its own table comes along with its weights and replaces this one (`start_from`).
    """
    frequencies = 10_000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / width)
    place = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([place.sin(), place.cos()], dim=1)  # (grid, width / 2)
    columns, rows = line[None].expand(grid, -1, -1), line[:, None].expand(-1, grid, -1)
    return torch.cat([columns, rows], dim=2).reshape(grid * grid, width).float()


def fix_positions(encoder: Any) -> None:
    """Give a timm ViT fixed 2-D sine-cosine positions (zero for its class token) that do not train."""
    positions = encoder.pos_embed
    grid = encoder.patch_embed.grid_size[0]
    table = torch.zeros_like(positions)
    table[0, positions.shape[1] - grid * grid :] = sine_cosine(positions.shape[-1], grid)
    encoder.pos_embed = nn.Parameter(table, requires_grad=False)
