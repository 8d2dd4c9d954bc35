"""Model folders and published weights.

A model folder is all there is to a model: `model.safetensors`, `config.json` (what it is, how it wants
pictures, its classes and policies, where it came from, what it was tested on) and, if it reads reports,
`tokenizer.json`. Published weights (`MRM.pth`, MAE's ViT) come in and go out by name, with a report of
what matched.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mrm.classifier import Classifier, ClassifierConfig, build_encoder
from mrm.model import MRM, ModelConfig
from mrm.reports import Tokenizer
from mrm.segmenter import Segmenter, SegmenterConfig

KINDS: dict[str, tuple[type[nn.Module], type]] = {
    "mrm": (MRM, ModelConfig),
    "classifier": (Classifier, ClassifierConfig),
    "segmenter": (Segmenter, SegmenterConfig),
}


class CheckpointError(ValueError):
    """A model that cannot be loaded or written. The message says which file, why, and what to do."""


@dataclass(frozen=True)
class Card:
    """What a model folder knows beside its weights."""

    kind: str
    architecture: dict[str, Any]
    origin: dict[str, Any] = field(default_factory=dict)  # data, initial weights, steps, versions
    tested: list[dict[str, Any]] = field(default_factory=list)
    thresholds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class KeyReport:
    """How a state dict met a model: names that matched, and for the others why not."""

    matched: list[str]
    missing: list[str]  # the model has it, the file has not
    unexpected: list[str]  # the file has it, the model has no use for it
    mismatched: dict[str, str]  # name: "file (30000, 384), model (98, 64)"

    def __str__(self) -> str:
        lines = [f"{len(self.matched)} tensors matched"]
        lines += [f"not in the file ({len(self.missing)}): {_short(self.missing)}"] if self.missing else []
        lines += [f"not used ({len(self.unexpected)}): {_short(self.unexpected)}"] if self.unexpected else []
        lines += [f"other shape: {name}: {why}" for name, why in self.mismatched.items()]
        return "\n".join(lines)


# Model folders ----------------------------------------------------------------------------------------


def save(folder: Path, model: nn.Module, card: Card | None = None, tokenizer: Tokenizer | None = None) -> Path:
    """Write a model folder; it exists either whole or not at all. An existing one is replaced.

    What a loaded model knows of itself (`card`, `tokenizer`) is kept. Raises CheckpointError.
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        write_into(temporary, model, card, tokenizer)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"{folder}: cannot be written ({error}); what was there is kept") from error
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(temporary, folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def write_into(folder: Path, model: nn.Module, card: Card | None = None, tokenizer: Tokenizer | None = None) -> None:
    """The files of a model folder, written into `folder` as they come (see `save`). Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    card = card or getattr(model, "card", None) or Card(kind_of(model), asdict(model.config))
    tokenizer = tokenizer or getattr(model, "tokenizer", None)
    try:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    except safetensors.SafetensorError as error:  # what a full disk is to it
        raise OSError(f"{folder / 'model.safetensors'}: {error}") from error
    (folder / "config.json").write_text(json.dumps(asdict(card), indent=2) + "\n")
    if tokenizer is not None:
        (folder / "tokenizer.json").write_text(tokenizer.to_json())


def load(path: Path | str) -> Any:
    """The model in a model folder, a run (its best, else its last checkpoint) or a published `.pth`.

    In evaluation mode, on the CPU. Its `card` is what the folder knows of it, its `tokenizer` a
    `Tokenizer` or None. Raises CheckpointError.
    """
    path = Path(path)
    if path.is_file():
        return load_published(path)
    folder = find_model(path)
    card = read_card(folder)
    model = build(card, folder)
    load_strict(model, read_weights(folder / "model.safetensors"), folder / "model.safetensors")
    tokens = folder / "tokenizer.json"
    return _ready(model, card, Tokenizer.load(tokens) if tokens.is_file() else None)


def find_model(path: Path) -> Path:
    """The model folder at `path`: itself, or a run's `best`, else its `last` checkpoint."""
    for folder in (path, path / "best", path / "last"):
        if (folder / "config.json").is_file():
            if not (folder / "model.safetensors").is_file():
                raise CheckpointError(
                    f"{folder}: has config.json but no model.safetensors; the model folder is incomplete"
                )
            return folder
    what = "no such file or folder" if not path.exists() else "no config.json in it, nor in best/ or last/"
    raise CheckpointError(f"{path}: {what}; a model folder, a run or a .pth file is expected")


def kind_at(path: Path | str) -> str:
    """What kind of model is at `path`, by its card; a file is a published MRM. Raises CheckpointError."""
    path = Path(path)
    return "mrm" if path.is_file() else read_card(find_model(path)).kind


def read_card(folder: Path) -> Card:
    """A model folder's `config.json`. Raises CheckpointError for another file of that name."""
    try:
        content = json.loads((folder / "config.json").read_text())
        card = Card(**{k: content[k] for k in content if k in {f.name for f in fields(Card)}})
        if not (isinstance(card.kind, str) and isinstance(card.architecture, dict)):
            raise TypeError("kind is no name, or architecture no mapping")
    except (json.JSONDecodeError, TypeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: not a model's config.json ({error})") from error
    if card.kind not in KINDS:
        raise CheckpointError(f"{folder / 'config.json'}: kind {card.kind!r} is not one of {', '.join(KINDS)}")
    return card


def write_card(folder: Path, card: Card) -> None:
    """Replace a model folder's `config.json`, whole or not at all."""
    temporary = folder / ".config.json.tmp"
    temporary.write_text(json.dumps(asdict(card), indent=2) + "\n")
    os.replace(temporary, folder / "config.json")


def build(card: Card, source: Path | str = "config.json") -> nn.Module:
    """A model of the card's architecture, with weights still to be loaded."""
    config = read_config(card.kind, card.architecture, source)
    try:
        return KINDS[card.kind][0](config)
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: no model can be built of its settings ({_first_line(error)})") from error


def read_config(kind: str, settings: Mapping[str, Any], source: Path | str) -> Any:
    """The configuration that was written as `settings`. Raises CheckpointError for settings it does not have."""
    config_class = KINDS[kind][1]
    if unknown := set(settings) - {f.name for f in fields(config_class)}:
        raise CheckpointError(f"{source}: unknown settings {sorted(unknown)}; written by a newer version of mrm?")
    try:
        return config_class(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})
    except TypeError as error:
        raise CheckpointError(f"{source}: settings are missing ({error})") from error


def kind_of(model: nn.Module) -> str:
    """The name of a model's class in `config.json`."""
    return next(kind for kind, (cls, _) in KINDS.items() if isinstance(model, cls))


# Reading and matching weights --------------------------------------------------------------------------


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name from `.safetensors`, or from a `.pth` that holds nothing but data.

    A `.pth` may be a state dict or hold one under "model" or "state_dict". A file that would run code
    when unpickled is refused. Raises CheckpointError.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file of weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return _state_dict(read_pickle(path), path)
    except (safetensors.SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(
            f"{path}: truncated or not a file of weights ({_first_line(error)}); copy it again"
        ) from error


def read_pickle(path: Path) -> Any:
    """What `torch.load` gives of a `.pth`, without running code. argparse's Namespace is let through as data."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if not asked:
            raise CheckpointError(
                f"{path}: no file of weights that torch can read as plain data; get it again"
            ) from error
        raise CheckpointError(
            f"{path}: refused, it asks for {asked[1]}, which is more than tensors and plain data, and loading "
            "it could run code; ask its author for .safetensors"
        ) from error


def load_strict(model: nn.Module, weights: Mapping[str, Tensor], source: Path | str) -> None:
    """Load weights that must fit exactly. Raises CheckpointError with a KeyReport."""
    report = match(model, weights)
    if report.missing or report.unexpected or report.mismatched:
        raise CheckpointError(f"{source}: weights of another architecture\n{report}")
    model.load_state_dict(dict(weights), strict=True)


def match(model: nn.Module, weights: Mapping[str, Tensor]) -> KeyReport:
    """Compare names and shapes of `weights` with the model's, loading nothing."""
    own = model.state_dict()
    mismatched = {
        k: f"file {tuple(weights[k].shape)}, model {tuple(own[k].shape)}"
        for k in own
        if k in weights and weights[k].shape != own[k].shape
    }
    return KeyReport(
        matched=[k for k in own if k in weights and k not in mismatched],
        missing=[k for k in own if k not in weights],
        unexpected=[k for k in weights if k not in own],
        mismatched=mismatched,
    )


def start_from(model: nn.Module, path: Path | str) -> KeyReport:
    """Start `model` from the weights at `path`: what fits is loaded, the report says what was left.

    `path` is a model folder, a run, `MRM.pth`, MAE's or any timm ViT weights. Positions of another grid
    are resampled as timm does. Raises CheckpointError if the encoder's blocks do not fit.
    """
    weights = own_names(_weights_of(Path(path)))
    if hasattr(model, "encoder"):
        weights = _fit_positions(model.encoder, weights)
    report = match(model, weights)
    blocks = [k for k in model.state_dict() if k.startswith("encoder.blocks.")]
    if unfit := [k for k in blocks if k not in report.matched]:
        raise CheckpointError(
            f"{path}: weights of another encoder; {len(unfit)} of {len(blocks)} block tensors do not fit, "
            f"first {unfit[0]} ({report.mismatched.get(unfit[0], 'not in the file')})"
        )
    model.load_state_dict({k: weights[k] for k in report.matched}, strict=False)
    return report


def load_encoder(path: Path | str, num_classes: int = 0, drop_path_rate: float = 0.0) -> VisionTransformer:
    """A timm VisionTransformer (patch mean, `fc_norm`, head) with the encoder at `path`, ready to fine-tune.

    Takes what `load` takes, and MAE or timm weights of a ViT-B/16. Raises CheckpointError.
    """
    holder = nn.Module()
    holder.encoder = build_encoder(architecture(path), num_classes, drop_path_rate)
    start_from(holder, path)
    return holder.encoder


def architecture(path: Path | str) -> Any:
    """The configuration of the encoder at `path` (what `load_encoder` takes), without its weights."""
    path = Path(path)
    if path.is_file():
        return published_config(_weights_of(path), path)
    folder = find_model(path)
    card = read_card(folder)
    return read_config(card.kind, card.architecture, folder)


# The published layout -----------------------------------------------------------------------------------

BERT = "bert_encoder.model.bert."
HEAD = "bert_encoder.model.cls.predictions."
NAMES = {  # ours to theirs, by prefix; the longest wins
    "encoder.": "",
    "image_decoder.mask_token": "mask_token",
    "image_decoder.embed.": "decoder_embed.",
    "image_decoder.blocks.": "decoder_blocks.",
    "image_decoder.norm.": "decoder_norm.",
    "image_decoder.pixels.": "decoder_pred.",
    "report_decoder.from_image.": "bert_mlp.",
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
    "fc1.": "intermediate.dense.",
    "fc2.": "output.dense.",
    "norm2.": "output.LayerNorm.",
}
COMPUTED = ("decoder_pos_embed",)  # in a published file, not read: the model computes it


def to_published(model: MRM) -> dict[str, Tensor]:
    """The model's weights under the names of the published `checkpoint["model"]`."""
    theirs: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if ".qkv." in name and name.startswith("report_decoder."):
            _, _, layer, _, part = name.split(".")
            for which, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                theirs[f"{BERT}encoder.layer.{layer}.attention.self.{which}.{part}"] = third
        else:
            theirs[_their_name(name)] = value
    width, length = model.config.report_width, model.config.report_length
    grid = model.image_decoder.positions_LE
    theirs["decoder_pos_embed"] = torch.cat([torch.zeros_like(grid[:1]), grid])[None]
    # What the published model has besides: position numbers, the (folded) token types, an unused pooler, ties.
    theirs[f"{BERT}embeddings.position_ids"] = torch.arange(length)[None]
    theirs[f"{BERT}embeddings.token_type_embeddings.weight"] = torch.zeros(2, width)
    theirs[f"{BERT}pooler.dense.weight"] = torch.zeros(width, width)
    theirs[f"{BERT}pooler.dense.bias"] = torch.zeros(width)
    theirs.setdefault(f"{HEAD}decoder.weight", model.report_decoder.words.weight.detach())
    theirs[f"{HEAD}decoder.bias"] = model.report_decoder.word_bias.detach()
    return {k: v.clone().contiguous() for k, v in theirs.items()}


def own_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by our names, from ours, the published layout, or a plain ViT's (MAE, timm)."""
    if any(k.startswith("encoder.blocks.") for k in weights):
        return dict(weights)
    ours: dict[str, Tensor] = {}
    for name, value in weights.items():
        if own := _own_name(name):
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


def export_published(model: MRM, path: Path | str) -> Path:
    """Write the published `MRM.pth` layout: `torch.load(path)["model"]` loads into timm with `strict=False`.

    The architecture goes along under "config", which the published readers ignore and `load` uses.
    """
    path = Path(path)
    if not isinstance(model, MRM):
        raise CheckpointError(f"only a pre-trained MRM has the published layout, not a {kind_of(model)}")
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        torch.save({"model": to_published(model), "config": asdict(model.config)}, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: cannot be written ({_first_line(error)})") from error
    return path


def load_published(path: Path) -> MRM:
    """The MRM in a `.pth` of the published layout. Raises CheckpointError if it is none."""
    content = read_weights(path)
    if not any(k.startswith(BERT) for k in content):
        raise CheckpointError(
            f"{path}: no report decoder in it, so no MRM; for an encoder alone use load_encoder or --init"
        )
    config = published_config(content, path)
    model = MRM(config)
    load_strict(model, own_names(content), path)
    return _ready(model, Card("mrm", asdict(config), {"file": path.name}), None)


def published_config(weights: Mapping[str, Tensor], path: Path) -> ModelConfig:
    """The architecture of a file of weights: as written beside them, else the published one."""
    content = read_pickle(path) if path.suffix != ".safetensors" else {}
    if isinstance(content, dict) and isinstance(content.get("config"), dict):
        return read_config("mrm", content["config"], path)
    width = {tuple(v.shape) for k, v in weights.items() if k.endswith("patch_embed.proj.weight")}
    if width != {(768, 3, 16, 16)}:
        raise CheckpointError(
            f"{path}: not a ViT-B/16 (patch weights {sorted(width)}) and says nothing of its architecture"
        )
    words = weights.get(f"{BERT}embeddings.word_embeddings.weight")
    if words is None:
        return ModelConfig()
    tied = torch.equal(words, weights.get(f"{HEAD}decoder.weight", words))
    return replace(ModelConfig(), vocabulary=len(words), tied_words=tied)


def _their_name(name: str) -> str:
    ours = max((p for p in NAMES if name.startswith(p)), key=len)
    rest = name[len(ours) :]
    if ours == "report_decoder.blocks.":
        layer, inside = rest.split(".", 1)
        short = next(p for p in IN_BLOCK if inside.startswith(p))
        rest = f"{layer}.{IN_BLOCK[short]}{inside[len(short) :]}"
    return NAMES[ours] + rest


def _own_name(name: str) -> str | None:
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


def _weights_of(path: Path) -> dict[str, Tensor]:
    return read_weights(path if path.is_file() else find_model(path) / "model.safetensors")


def _fit_positions(encoder: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Resample learned positions to the encoder's grid, as timm does."""
    given, own = weights.get("encoder.pos_embed"), encoder.pos_embed
    if given is None or own is None or given.shape == own.shape or given.shape[-1] != own.shape[-1]:
        return weights
    from timm.layers import resample_abs_pos_embed

    prefix = own.shape[1] - encoder.patch_embed.num_patches
    if math.isqrt(given.shape[1] - prefix) ** 2 != given.shape[1] - prefix:  # with other prefix tokens
        return weights
    resampled = resample_abs_pos_embed(given, new_size=encoder.patch_embed.grid_size, num_prefix_tokens=prefix)
    return {**weights, "encoder.pos_embed": resampled}


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f'{path}: no state dict in it (a mapping of names to tensors, or one under "model")')
    return {k.removeprefix("module."): v for k, v in content.items()}


def _ready(model: nn.Module, card: Card, tokenizer: Tokenizer | None) -> Any:
    model.card, model.tokenizer = card, tokenizer
    return model.eval().requires_grad_(False)


def _short(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
