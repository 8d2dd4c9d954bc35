"""The published layout of MRM's weights, `torch.load("MRM.pth")["model"]`: its names, and ours for them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mrm.models.mrm import MRM

BERT = "bert_encoder.model.bert."
HEAD = "bert_encoder.model.cls.predictions."
NAMES = {  # ours to theirs, by prefix; the longest wins
    "encoder.": "",
    "image_decoder.mask_token": "mask_token",
    "image_decoder.embed.": "decoder_embed.",
    "image_decoder.blocks.": "decoder_blocks.",
    "image_decoder.norm.": "decoder_norm.",
    "image_decoder.pixels.": "decoder_pred.",
    "image_decoder.mix": "decoder_mix",  # this and the next are not in the published model
    "image_decoder.features.": "decoder_features.",
    "report_decoder.from_image.": "bert_mlp.",
    "report_decoder.patches_from_image.": "bert_patches.",  # this and the next three are not in the published model
    "report_decoder.context_gain": "bert_context_gain",
    "contrast.image.": "contrast_image.",
    "contrast.report.": "contrast_report.",
    "report_decoder.words.": f"{BERT}embeddings.word_embeddings.",
    "report_decoder.positions.": f"{BERT}embeddings.position_embeddings.",
    "report_decoder.norm.": f"{BERT}embeddings.LayerNorm.",
    "report_decoder.blocks.": f"{BERT}encoder.layer.",
    "report_decoder.transform.": f"{HEAD}transform.dense.",
    "report_decoder.transform_norm.": f"{HEAD}transform.LayerNorm.",
    "report_decoder.word_bias": f"{HEAD}bias",
    "report_decoder.word_output": f"{HEAD}decoder.weight",
}
IN_BLOCK = {
    "out.": "attention.output.dense.",
    "norm1.": "attention.output.LayerNorm.",
    "look.": "crossattention.",
    "fc1.": "intermediate.dense.",
    "fc2.": "output.dense.",
    "norm2.": "output.LayerNorm.",
}
COMPUTED = ("decoder_pos_embed",)  # in a published file, but not read: the model computes it


def to_published(model: MRM) -> dict[str, Tensor]:
    """The model's weights under the names of the published `checkpoint["model"]`."""
    theirs: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if ".qkv." in name and name.startswith("report_decoder."):
            _, _, layer, _, part = name.split(".")
            for which, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                theirs[f"{BERT}encoder.layer.{layer}.attention.self.{which}.{part}"] = third
        else:
            theirs[their_name(name)] = value
    width, length = model.config.report_width, model.config.report_length
    grid = model.image_decoder.positions_LE
    theirs["decoder_pos_embed"] = torch.cat([torch.zeros_like(grid[:1]), grid])[None]
    # What else the published model has: position numbers, the (folded) token types, an unused pooler, tied weights.
    theirs[f"{BERT}embeddings.position_ids"] = torch.arange(length)[None]
    theirs[f"{BERT}embeddings.token_type_embeddings.weight"] = torch.zeros(2, width)
    theirs[f"{BERT}pooler.dense.weight"] = torch.zeros(width, width)
    theirs[f"{BERT}pooler.dense.bias"] = torch.zeros(width)
    theirs.setdefault(f"{HEAD}decoder.weight", model.report_decoder.words.weight.detach())
    theirs[f"{HEAD}decoder.bias"] = model.report_decoder.word_bias.detach()
    return {k: v.clone().contiguous() for k, v in theirs.items()}


def own_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under our names, from our own, the published layout, or a plain ViT (MAE, timm)."""
    if any(k.startswith("encoder.blocks.") for k in weights):
        return dict(weights)
    ours: dict[str, Tensor] = {}
    for name, value in weights.items():
        if own := own_name(name):
            ours[own] = value
    for part in ("weight", "bias"):
        for layer in {k.split(".")[5] for k in weights if k.startswith(f"{BERT}encoder.layer.")}:
            stem = f"{BERT}encoder.layer.{layer}.attention.self."
            names = [f"{stem}{which}.{part}" for which in ("query", "key", "value")]
            if all(name in weights for name in names):
                ours[f"report_decoder.blocks.{layer}.qkv.{part}"] = torch.cat([weights[name] for name in names])
    types, positions = weights.get(f"{BERT}embeddings.token_type_embeddings.weight"), "report_decoder.positions.weight"
    if types is not None and positions in ours:
        ours[positions] = ours[positions] + types[0]
    output, words = ours.get("report_decoder.word_output"), ours.get("report_decoder.words.weight")
    if output is not None and words is not None and torch.equal(output, words):
        del ours["report_decoder.word_output"]  # tied, as the model has it
    return ours


def their_name(name: str) -> str:
    """The published name of one of our tensors."""
    ours = max((p for p in NAMES if name.startswith(p)), key=len)
    rest = name[len(ours) :]
    if ours == "report_decoder.blocks.":
        layer, inside = rest.split(".", 1)
        short = next(p for p in IN_BLOCK if inside.startswith(p))
        rest = f"{layer}.{IN_BLOCK[short]}{inside[len(short) :]}"
    return NAMES[ours] + rest


def own_name(name: str) -> str | None:
    """Our name of a published tensor; None for what we compute, tie, fold or never use."""
    if name in COMPUTED or name.endswith(("position_ids", "token_type_ids")) or ".attention.self." in name:
        return None
    if name.startswith(f"{BERT}encoder.layer."):
        layer, inside = name.removeprefix(f"{BERT}encoder.layer.").split(".", 1)
        short = next((s for s, t in IN_BLOCK.items() if inside.startswith(t)), "")
        return f"report_decoder.blocks.{layer}.{short}{inside.removeprefix(IN_BLOCK.get(short, ''))}"
    theirs = max(((o, t) for o, t in NAMES.items() if t and name.startswith(t)), key=lambda p: len(p[1]), default=None)
    if theirs:
        return theirs[0] + name[len(theirs[1]) :]
    unused = name.startswith(("bert_encoder.", "decoder_"))
    return None if unused else f"encoder.{name}"
