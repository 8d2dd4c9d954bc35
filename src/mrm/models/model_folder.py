"""Model folders: everything that makes a model.

`model.safetensors`, `config.json` (its architecture, how it expects images, its classes and policies, where it
came from, what it was tested on: see `card`) and, if it reads reports, `tokenizer.json`. Encoders of other programs can
start a model too (`encoder_files`).
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar, overload

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mrm.data.reports import Tokenizer
from mrm.models import encoder_files, hub_layout, noise
from mrm.models.bare_encoder import BareEncoder, BareEncoderConfig
from mrm.models.card import Card
from mrm.models.classifier import Classifier, ClassifierConfig, build_encoder
from mrm.models.config import ModelConfig
from mrm.models.encoder import BODY, fit_positions
from mrm.models.ensemble import Ensemble, EnsembleConfig
from mrm.models.mrm import MRM
from mrm.models.name_prefixes import example_name
from mrm.models.published_layout import BERT, HEAD, own_names, to_published
from mrm.models.segmenter import Segmenter, SegmenterConfig
from mrm.models.shapes_alone import shapes_alone, weights_to_come
from mrm.models.weights import (
    KeyReport,
    load_strict,
    match,
    read_pickle,
    read_weights,
    require_match,
)
from mrm.system.errors import CheckpointError, ConfigError, RunError, first_line
from mrm.system.files import read_json, write_by, write_json, write_whole
from mrm.system.lock import in_turn
from mrm.system.permissions import restricted

WORDS, OUTPUT = "report_decoder.words.weight", "report_decoder.word_output"
Model = MRM | Classifier | Segmenter
AnyModel = Model | BareEncoder
TRAINED = (MRM, Classifier, Segmenter)
Loaded = TypeVar("Loaded", MRM, Classifier, Segmenter, BareEncoder, AnyModel)
KINDS: dict[str, tuple[type[AnyModel], type]] = {
    "mrm": (MRM, ModelConfig),
    "ensemble": (Ensemble, EnsembleConfig),  # before the classifier, which it also is
    "classifier": (Classifier, ClassifierConfig),
    "segmenter": (Segmenter, SegmenterConfig),
    "encoder": (BareEncoder, BareEncoderConfig),
}
NAMES = {
    "mrm": "an MRM model",
    "ensemble": "an ensemble",
    "classifier": "a classifier",
    "segmenter": "a segmenter",
    "encoder": "an encoder",
}
WHERE_FROM = {  # said where another kind of model is given
    "mrm": "give the run of `mrm pretrain` that it came from, or MRM.pth",
    "classifier": "fine-tune it first with `mrm finetune`",
    "segmenter": "train one with `mrm segment`",
    "ensemble": "make one of classifiers with `mrm ensemble`",
    "encoder": "give an encoder of timm or transformers",
}
First = TypeVar("First", bound=nn.Module)
Second = TypeVar("Second", bound=nn.Module)
Third = TypeVar("Third", bound=nn.Module)
Content = TypeVar("Content")


# Model folders ----------------------------------------------------------------------------------------


def save(folder: Path, model: AnyModel, card: Card | None = None, tokenizer: Tokenizer | None = None) -> Path:
    """Write a model folder; it exists either whole or not at all. An existing one is replaced.

    Without `card` and `tokenizer` those of the model are written. Raises CheckpointError.
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        write_into(temporary, model, card, tokenizer)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"{folder}: cannot be written ({error}); the folder that was there is unchanged"
        ) from error
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(temporary, folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def write_into(folder: Path, model: AnyModel, card: Card | None = None, tokenizer: Tokenizer | None = None) -> None:
    """The files of a model folder, written into `folder` as they come (see `save`). Raises OSError."""
    card, tokenizer = card or model.card, tokenizer or model.tokenizer
    try:
        with restricted():
            folder.mkdir(parents=True, exist_ok=True)
            save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    except safetensors.SafetensorError as error:  # safetensors reports a full disk so
        raise OSError(f"{folder / 'model.safetensors'}: {error}") from error
    write_json(folder / "config.json", card.to_dict())
    if tokenizer is not None:
        write_whole(folder / "tokenizer.json", tokenizer.to_json().encode())


def load(path: Path | str) -> AnyModel:
    """The model in a model folder, a run (its best, else its last checkpoint) or a published `.pth`.

    The encoder of another program (`timm:NAME=PATH`, a folder of timm or transformers, a checkpoint) is a BareEncoder.
    In evaluation mode, on the CPU. Its `card` holds what the folder knows of it, its `tokenizer` the
    `Tokenizer` of its reports or None. Raises CheckpointError, and ConfigError for a timm model that cannot be used.
    """
    if not _is_labelled(path) and (file := encoder_files.read(path)) is not None:
        encoder = encoder_files.load(file, path)
        return _ready(encoder, encoder.card, None)
    path = Path(path)
    if path.is_file():
        return load_published(path)
    card = read_card(folder := find_model(path))
    config = read_checked_config(folder, card)
    with weights_to_come():
        model = build(card.kind, config, folder)
    load_strict(model, hub_layout.weights_of(folder), folder / "model.safetensors")
    tokens = folder / "tokenizer.json"
    return _ready(model, card, Tokenizer.load(tokens) if tokens.is_file() else None)


@overload
def load_as(path: Path | str, expected: type[First], /) -> First: ...
@overload
def load_as(path: Path | str, expected: type[First], alternative: type[Second], /) -> First | Second: ...
@overload
def load_as(
    path: Path | str, expected: type[First], second: type[Second], third: type[Third], /
) -> First | Second | Third: ...
def load_as(path: Path | str, /, *classes: type) -> Any:
    """The model at `path`, as `load` gives it. Raises RunError if it is of none of the classes, CheckpointError."""
    model: Any = load(path)
    if isinstance(model, classes):
        return model
    kinds = [kind for kind, (cls, _) in KINDS.items() if cls in classes]
    expected = " or ".join(NAMES[kind] for kind in kinds)
    raise RunError(f"{path}: expected {expected}, found {NAMES[kind_of(model)]}; {WHERE_FROM[kinds[0]]}")


def find_model(path: Path) -> Path:
    """The model folder at `path`: itself, or a run's `best`, else its `last` checkpoint."""
    for folder in (path, path / "best", path / "last"):
        if (folder / "config.json").is_file():
            hub_layout.weights_file(folder)
            return folder
    what = "no such file or folder" if not path.exists() else "no config.json in it, nor in best/ or last/"
    raise CheckpointError(f"{path}: {what}; a model folder, a run or a .pth file is expected")


def kind_at(path: Path | str) -> str:
    """The kind of the model at `path`, by its card; a file is a published MRM. Raises CheckpointError."""
    if encoder_files.is_foreign(path):
        return "classifier" if _is_labelled(path) else "encoder"
    path = Path(path)
    return "mrm" if path.is_file() else read_card(find_model(path)).kind


def _is_labelled(path: Path | str) -> bool:
    """Whether this is a folder of timm with the names of its classes, which is read as a classifier (`hub_layout`)."""
    return hub_layout.is_labelled(encoder_files.foreign_settings(Path(path)))


def weights_digest(path: Path | str) -> str:
    """Sixteen hex digits that change with any weight of the model at `path`. Raises CheckpointError."""
    if Path(path).is_file() or encoder_files.is_foreign(path):
        files = encoder_files.weights_files(path)
    else:
        files = hub_layout.weights_files(find_model(Path(path)))
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        with open(file, "rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def seen_at(path: Path | str) -> Path | None:
    """The folder with fingerprints of the records that the model at `path` has seen; None where another program wrote it."""
    place = Path(path)
    if not place.is_dir() or encoder_files.is_foreign(path):
        return None
    return find_model(place) / "seen"


def read_card(folder: Path) -> Card:
    """The card of a model folder: its `mrm.json`, else its `config.json`, which may be timm's (see `hub_layout`).

    Raises CheckpointError for another file of that name, and for impossible values.
    """
    file = folder / hub_layout.CARD
    if not file.is_file():
        return _read_by(_card_of, folder / hub_layout.CONFIG)
    card = _read_by(_own_card, file)
    _read_by(lambda config: hub_layout.check_same_model(config, card), folder / hub_layout.CONFIG)
    return card


def _card_of(content: Any) -> Card:
    """The card that a `config.json` is, or that can be made of timm's."""
    if hub_layout.is_timm(content):
        return hub_layout.card_from(content)
    return _own_card(content)


def _own_card(content: Any) -> Card:
    """The card in mrm's own layout."""
    card = Card.of(content)
    if card.kind not in KINDS:
        raise ConfigError(f"unknown kind {card.kind!r}; expected one of {', '.join(KINDS)}")
    return card


def _read_by(read: Callable[[Any], Content], file: Path) -> Content:
    """What `read` makes of the content of a JSON file. Raises CheckpointError."""
    try:
        return read(read_json(file))
    except ConfigError as error:
        raise CheckpointError(f"{file}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:  # ValueError: neither JSON nor UTF-8
        raise CheckpointError(f"{file}: not a model's {file.name} ({error})") from error


def change_card(folder: Path, change: Callable[[Card], Card]) -> None:
    """Replace a model folder's card by what `change` makes of it, whole or not at all.

    Of several processes that change the same card, each waits for its turn.
    """
    with in_turn(folder / ".config.json.lock"):
        card = change(read_card(folder))
        name = hub_layout.CARD if hub_layout.is_hub_folder(folder) else hub_layout.CONFIG
        write_json(folder / name, card.to_dict())


def build(kind: str, config: Any, source: Path | str) -> AnyModel:
    """A model of this architecture, with weights still to be loaded. Raises CheckpointError where there is none."""
    try:
        return KINDS[kind][0](config)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: no model can be built from its settings ({first_line(error)})") from error


def read_checked_config(folder: Path, card: Card) -> Any:
    """The configuration on the card of a model folder, whose weights have the names and shapes that it asks for.

    They are compared by the header of the file and an outline of the model that has shapes and no values, so that
    neither memory nor time is spent on a model that does not fit. Raises CheckpointError.
    """
    config = read_config(card.kind, card.architecture, folder)
    shapes = hub_layout.shapes_of(folder)
    head = shapes.get("encoder.head.weight", ())
    if card.kind == "classifier" and head and head[0] != len(config.classes):
        raise CheckpointError(
            f"{folder}: {len(config.classes)} classes are named, but the head of the model has {head[0]}; name each class once"
        )
    require_match(outline(card.kind, config, folder).state_dict(), shapes, folder / hub_layout.WEIGHTS)
    return config


def outline(kind: str, config: Any, source: Path | str) -> AnyModel:
    """A model of this architecture with shapes and no values. Raises CheckpointError where there is none."""
    with shapes_alone():
        return build(kind, config, source)


def read_config(kind: str, settings: Mapping[str, Any], source: Path | str) -> Any:
    """The configuration that was written as `settings`. Raises CheckpointError for unknown or missing settings."""
    config_class = KINDS[kind][1]
    if unknown := set(settings) - {f.name for f in fields(config_class)}:
        raise CheckpointError(f"{source}: unknown settings {sorted(unknown)}; written by a newer version of mrm?")
    try:
        return config_class(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})
    except ConfigError as error:
        raise CheckpointError(f"{source}: no model can be built from its settings ({error})") from error
    except TypeError as error:
        raise CheckpointError(f"{source}: settings are missing ({error})") from error


def kind_of(model: nn.Module) -> str:
    """The name of a model's class in `config.json`."""
    return next(kind for kind, (cls, _) in KINDS.items() if isinstance(model, cls))


# Starting from weights ---------------------------------------------------------------------------------


def start_from(model: nn.Module, path: Path | str) -> KeyReport:
    """Start `model` from the weights at `path`: what fits is loaded, the report lists what was left out.

    `path` is a model folder, a run, `MRM.pth`, or an encoder of another program (`encoder_files`). Positions of another
    grid are resampled as timm does. If the output words of the file are its word embeddings, those of the model start from
    them. Raises CheckpointError if the encoder's patches and blocks do not fit.
    """
    file = encoder_files.read(path)
    stored = file.weights if file else _weights_of(Path(path))
    weights = encoder_files.own_names(file) if file else own_names(stored)
    weights = _fit_positions(model.get_submodule("encoder"), weights, file.antialias if file else True)
    weights = _with_output_words(model, weights)
    own = model.state_dict()
    report = replace(match(model, weights), read_as=str(file or ""))
    added: frozenset[str] = getattr(model, "added_weights", frozenset())
    body = tuple(f"encoder.{part}" for part in BODY)
    needed = [k for k in own if k.startswith(body) and k not in added]
    unfit = [k for k in needed if k not in report.matched]
    if file:  # an encoder with layer scales, or more blocks, would not be the same without them
        unfit += [k for k in report.unexpected if k.startswith(body)]
    if unfit:
        raise CheckpointError(
            f"{path}: weights of another encoder{f', {file}' if file else ''}; {len(unfit)} of {len(needed)} tensors of "
            f"patches and blocks do not fit, first {unfit[0]} ({_why_unfit(report, unfit[0])}); the file has names such as "
            f"{example_name(stored)}"
        )
    model.load_state_dict({k: weights[k] for k in report.matched}, strict=False)
    return report


def _why_unfit(report: KeyReport, name: str) -> str:
    default = "not in the model" if name in report.unexpected else "not in the file"
    return report.mismatched.get(name, default)


def load_encoder(path: Path | str, num_classes: int = 0, drop_path_rate: float = 0.0) -> Any:
    """A timm encoder with the weights at `path`, ready to fine-tune: of a ViT with patch mean, `fc_norm` and head.

    Takes what `load` takes. Raises CheckpointError, and ConfigError for a timm model that cannot be used.
    """
    with noise.seeded(0):  # for the weights of the new head; all others are loaded
        encoder = build_encoder(architecture(path), num_classes, drop_path_rate)
    start_from(nn.ModuleDict({"encoder": encoder}), path)
    return encoder


def architecture(path: Path | str) -> Any:
    """The configuration of the encoder at `path` (what `load_encoder` takes), without its weights."""
    if (file := encoder_files.read(path)) is not None:
        return file.config
    path = Path(path)
    if path.is_file():
        weights = _weights_of(path)
        config = published_config(weights, path)
        encoder = outline("mrm", config, path).get_submodule("encoder").state_dict(prefix="encoder.")
        own = {name: value.shape for name, value in own_names(weights).items() if name in encoder}
        require_match(encoder, own, path)
        return config
    folder = find_model(path)
    card = read_card(folder)
    if card.kind == "ensemble":
        raise CheckpointError(f"{path}: an ensemble has no encoder of its own; give one of its members")
    return read_checked_config(folder, card)


# The published file -------------------------------------------------------------------------------------


def export_published(model: Model, path: Path | str) -> Path:
    """Write the published `MRM.pth` layout: `torch.load(path)["model"]` loads into timm with `strict=False`.

    The architecture is stored under "config", which the published readers ignore and `load` uses. Raises
    CheckpointError.
    """
    path = Path(path)
    if not isinstance(model, MRM):
        raise CheckpointError(f"only a pre-trained MRM has the published layout, not a {kind_of(model)}")
    content = {"model": to_published(model), "config": asdict(model.config)}
    try:
        write_by(path, lambda temporary: torch.save(content, temporary))
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise CheckpointError(f"{path}: cannot be written ({first_line(error)})") from error
    return path


def load_published(path: Path) -> MRM:
    """The MRM in a `.pth` of the published layout. Raises CheckpointError for another file."""
    content = read_weights(path)
    if not any(k.startswith(BERT) for k in content):
        raise CheckpointError(
            f"{path}: not an MRM model, since it has no report decoder; for an encoder alone use load_encoder or --init"
        )
    config = published_config(content, path)
    shapes = outline("mrm", config, path)
    weights = _with_output_words(shapes, own_names(content))
    require_match(shapes.state_dict(), {k: v.shape for k, v in weights.items()}, path)
    with weights_to_come():
        model = build("mrm", config, path)
    load_strict(model, weights, path)
    assert isinstance(model, MRM)
    return _ready(model, Card("mrm", asdict(config), {"file": path.name}), None)


def published_config(weights: Mapping[str, Tensor], path: Path) -> ModelConfig:
    """The architecture of a file of weights: the one stored with them, else the published one."""
    content = read_pickle(path) if path.suffix != ".safetensors" else {}
    if isinstance(content, dict) and isinstance(content.get("config"), dict):
        return read_config("mrm", content["config"], path)
    width = {tuple(v.shape) for k, v in weights.items() if k.endswith("patch_embed.proj.weight")}
    if width != {(768, 3, 16, 16)}:
        raise CheckpointError(
            f"{path}: not a ViT-B/16 (patch weights {sorted(width)}), and its architecture is not stored in it; name it: "
            "timm:NAME=FILE"
        )
    words = weights.get(f"{BERT}embeddings.word_embeddings.weight")
    if words is None:
        return ModelConfig()
    tied = torch.equal(words, weights.get(f"{HEAD}decoder.weight", words))
    return replace(ModelConfig(), vocabulary=len(words), tied_words=tied)


def _weights_of(path: Path) -> dict[str, Tensor]:
    return read_weights(path) if path.is_file() else hub_layout.weights_of(find_model(path))


def _with_output_words(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a file, and for a model with output words of its own those that the file has as embeddings only."""
    if OUTPUT in model.state_dict() and WORDS in weights:
        return {OUTPUT: weights[WORDS], **weights}
    return weights


def _fit_positions(encoder: nn.Module, weights: dict[str, Tensor], antialias: bool) -> dict[str, Tensor]:
    """Resample learned positions to the encoder's grid, as timm does."""
    if "encoder.pos_embed" not in weights:
        return weights
    fitted = fit_positions(encoder, {"pos_embed": weights["encoder.pos_embed"]}, antialias)
    return {**weights, "encoder.pos_embed": fitted["pos_embed"]}


def _ready(model: Loaded, card: Card, tokenizer: Tokenizer | None) -> Loaded:
    model.card, model.tokenizer = card, tokenizer
    return model.eval().requires_grad_(False)
