"""The report decoder: BERT that names the masked words of a report, given an image. MRM section 3.3.

The image enters as the mean of its visible patches, added to every position, as published. Beside it, words may attend to
the patches themselves (`report_sees="patches"`), and the mean may be normalised and scaled by a learnt gain
(`context_gain`): its root mean square is otherwise a tenth of that of the embeddings it is added to.
"""

# Shapes: B studies, K visible patches, D encoder width, I rows of the image's context (its mean, then its patches, if words
# attend to them), R report width, T report tokens, N positions computed of all B x T, W words asked for, V vocabulary
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrm.data.reports import PAD
from mrm.models import noise
from mrm.models.config import ModelConfig
from mrm.models.start import start_report_decoder


class ReportDecoder(nn.Module):
    """BERT that sees the image as one vector added to every position, and as patches where words attend to them."""

    def __init__(self, config: ModelConfig, image_width: int) -> None:
        super().__init__()
        width = config.report_width
        self.dropout = config.report_dropout
        self.from_image = nn.Linear(image_width, width)
        self.patches_from_image = nn.Linear(image_width, width) if config.report_sees == "patches" else None
        gain = config.context_gain
        self.context_gain = None if gain is None else nn.Parameter(torch.tensor([float(gain)]))
        self.words = nn.Embedding(config.vocabulary, width, padding_idx=PAD)
        self.positions = nn.Embedding(config.report_length, width)  # holds the token-type vector, always type 0
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.ModuleList(ReportBlock(config, f"report.{i}") for i in range(config.report_depth))
        self.transform = nn.Linear(width, width)
        self.transform_norm = nn.LayerNorm(width, eps=1e-12)
        self.word_bias = nn.Parameter(torch.zeros(config.vocabulary))
        self.word_output = None if config.tied_words else nn.Parameter(torch.zeros(config.vocabulary, width))
        start_report_decoder(self, config.start)

    def context(self, features_BKD: Tensor) -> Tensor:
        """The image for `forward`, (B, I, R), from the features of its visible patches, class token left out."""
        mean_B1R = self.from_image(features_BKD.mean(dim=1, keepdim=True))  # linear: before or after the mean
        if self.context_gain is not None:
            mean_B1R = F.layer_norm(mean_B1R, mean_B1R.shape[-1:], eps=1e-12) * self.context_gain
        if self.patches_from_image is None:
            return mean_B1R
        return torch.cat([mean_B1R, self.patches_from_image(features_BKD)], dim=1)

    def forward(
        self,
        context_BIR: Tensor,
        tokens_BT: Tensor,
        attention_BT: Tensor,
        words_W: Tensor,
        keys_B: Tensor | None,
        rows_N: Tensor | None,
        run,
    ) -> Tensor:
        """Logits (W, V) of the positions `words_W`; these and `rows_N` (None: all) index the flattened (B, T)."""
        if rows_N is None:
            rows_N = torch.arange(tokens_BT.numel(), device=tokens_BT.device)
        x_NR = self._understood(context_BIR, tokens_BT, attention_BT, keys_B, rows_N, run)
        places_N = torch.arange(len(rows_N), device=rows_N.device)
        place_L = torch.zeros_like(tokens_BT.flatten()).scatter(0, rows_N, places_N)
        asked_WR = rows_of(x_NR, place_L[words_W])
        asked_WR = self.transform_norm(F.gelu(self.transform(asked_WR)))
        return F.linear(asked_WR, self.words.weight if self.word_output is None else self.word_output, self.word_bias)

    def summary(self, tokens_BT: Tensor, attention_BT: Tensor, run) -> Tensor:
        """The mean (B, R) over the words of a text that is read without an image."""
        rows_N = torch.arange(tokens_BT.numel(), device=tokens_BT.device)
        none_B1R = self.positions.weight.new_zeros(len(tokens_BT), 1, self.positions.weight.shape[1])
        x_NR = self._understood(none_B1R, tokens_BT, attention_BT, None, rows_N, run)
        held_BT1 = attention_BT[:, :, None].to(x_NR.dtype)
        return (x_NR.view(*tokens_BT.shape, -1) * held_BT1).sum(dim=1) / held_BT1.sum(dim=1)

    def _understood(
        self,
        context_BIR: Tensor,
        tokens_BT: Tensor,
        attention_BT: Tensor,
        keys_B: Tensor | None,
        rows_N: Tensor,
        run,
    ) -> Tensor:
        """The positions `rows_N` after all layers, (N, R)."""
        length = tokens_BT.shape[1]
        x_NR = self.norm(self.words(tokens_BT.flatten()[rows_N]) + self.positions(rows_N % length))
        x_NR = noise.dropout_rows(x_NR, self.dropout, keys_B, "report.embedding", rows_N, length)
        x_NR = x_NR + rows_of(context_BIR[:, 0], rows_N // length)
        seen_B11T = attention_BT[:, None, None, :].bool()
        for block in self.blocks:
            x_NR = run(block, x_NR, rows_N, seen_B11T, keys_B, context_BIR[:, 1:])
        return x_NR


class ReportBlock(nn.Module):
    """Post-norm transformer layer. BERT, arXiv:1810.04805; dropout on all branches' outputs."""

    def __init__(self, config: ModelConfig, site: str) -> None:
        super().__init__()
        width = config.report_width
        self.site, self.heads, self.dropout = site, config.report_heads, config.report_dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps=1e-12)
        self.look = LookAtPatches(width, config.report_heads) if config.report_sees == "patches" else None
        self.fc1 = nn.Linear(width, config.report_mlp)
        self.fc2 = nn.Linear(config.report_mlp, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-12)

    def forward(
        self, x_NR: Tensor, rows_N: Tensor, seen_B11T: Tensor, keys_B: Tensor | None, patches_BKR: Tensor
    ) -> Tensor:
        """Attend to the positions that are seen, to the patches if any, then the two-layer network."""
        batch, length = len(seen_B11T), seen_B11T.shape[-1]
        q, k, v = (
            _whole(self.qkv(x_NR), rows_N, batch, length).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen_B11T).transpose(1, 2)
        branch = self.out(attended.reshape(batch * length, -1)[rows_N])
        x_NR = self.norm1(x_NR + self._dropped(branch, keys_B, "attention", rows_N, length))
        if self.look is not None and patches_BKR.shape[1]:  # a text may be read without an image
            branch = self.look(x_NR, rows_N, patches_BKR, length)
            x_NR = self.look.norm(x_NR + self._dropped(branch, keys_B, "look", rows_N, length))
        branch = self.fc2(F.gelu(self.fc1(x_NR)))
        return self.norm2(x_NR + self._dropped(branch, keys_B, "mlp", rows_N, length))

    def _dropped(self, branch_NR: Tensor, keys_B: Tensor | None, part: str, rows_N: Tensor, length: int) -> Tensor:
        return noise.dropout_rows(branch_NR, self.dropout, keys_B, f"{self.site}.{part}", rows_N, length)


class LookAtPatches(nn.Module):
    """Attention of words to the visible patches, as of a decoder to its encoder. arXiv:1706.03762, section 3.2.3."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x_NR: Tensor, rows_N: Tensor, patches_BKR: Tensor, length: int) -> Tensor:
        """What each of the words (N, R) sees, (N, R). Only attention needs (B, T) whole."""
        batch = len(patches_BKR)
        q = _whole(self.query(x_NR), rows_N, batch, length).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(patches_BKR).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out(attended.reshape(batch * length, -1)[rows_N])


def rows_of(table_NX: Tensor, places_M: Tensor) -> Tensor:
    """The rows (M, X) at these places, which may name a row several times.

    The gradient of such a row is added up in a fixed order, as that of an embedding is. That of plain indexing is not, in
    several threads of a CPU, and then a run does not repeat to the bit.
    """
    return F.embedding(places_M, table_NX)


def _whole(rows_NX: Tensor, rows_N: Tensor, batch: int, length: int) -> Tensor:
    """The rows at their places in (B, T, X), zeros elsewhere."""
    empty_LX = rows_NX.new_zeros(batch * length, rows_NX.shape[-1])
    return empty_LX.index_copy(0, rows_N, rows_NX).view(batch, length, -1)
