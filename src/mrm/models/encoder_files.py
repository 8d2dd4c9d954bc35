"""Encoders of other programs, as files: timm folders, transformers folders, and checkpoints as they were published.

| what | told by | read as |
| --- | --- | --- |
| `timm:NAME=PATH` | the name | that model of timm, by timm's own reader of published checkpoints |
| folder of timm | `architecture` in `config.json` | the same, with the settings of the folder |
| folder of transformers | `model_type` in `config.json` | ViT, ViTMAE, DINOv2 (RAD-DINO), see `transformers_layout` |
| file | the names of its tensors | ViT (MAE, Medical MAE, MGCA, MoCo v3, DeiT), DINOv2, EVA-02 (EVA-X), see `checkpoint_layouts` |

Every tensor that the encoder has must be in the file, and every tensor of the file's blocks must have a place. Other
parts (heads, decoders, text encoders) are left out and listed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
from torch import Tensor

from mrm.models import checkpoint_layouts, encoder, published_layout, transformers_layout
from mrm.models.bare_encoder import BareEncoder, BareEncoderConfig
from mrm.models.init_paths import init_path
from mrm.models.limits import Levels, as_levels
from mrm.models.name_prefixes import without_prefixes
from mrm.models.published_layout import BERT
from mrm.models.shapes_alone import shapes_alone, weights_to_come
from mrm.models.weights import KeyReport, compare, read_stored, read_weights
from mrm.system.errors import CheckpointError, ConfigError, first_line
from mrm.system.files import read_json

FILES = ("model.safetensors", "pytorch_model.bin")  # of weights in a folder; or several, with an index
HEADS = ("head_dist.", "lm_head.", "classifier.", "predictions.")  # for other classes than those here
CHOSEN = ("img_size", "num_classes", "global_pool", "in_chans", "fc_norm", "use_fc_norm", "drop_path_rate", "drop_rate")


@dataclass(frozen=True)
class EncoderFile:
    """An encoder of another program: how it is built, and its weights by timm's names."""

    config: BareEncoderConfig
    weights: dict[str, Tensor]
    layout: str  # in words
    antialias: bool = True  # when positions are resampled
    note: str = ""  # on what the file does not say

    def __str__(self) -> str:
        config = self.config
        options = "".join(f", {name}={value}" for name, value in config.encoder_options.items())
        return (
            f"{self.layout} ({config.encoder}{options}; images of {config.image_size} pixels, mean {_shown(config.mean)}, "
            f"deviation {_shown(config.std)}{self.note})"
        )


def _shown(level: Levels) -> str:
    return " ".join(f"{value:g}" for value in (level if isinstance(level, tuple) else (level,)))


def read(path: Path | str) -> EncoderFile | None:
    """The encoder of another program at `path`; None for what `mrm` or the published MRM wrote, or nothing.

    Raises CheckpointError for files that cannot be read as an encoder, ConfigError for timm models that cannot be one.
    """
    place = init_path(path)
    if place.timm_name:
        return _checked(_of_timm(place.path, place.timm_name), path)
    if place.path.is_file():
        file = _checkpoint(place.path)
        return file and _checked(file, path)
    settings = foreign_settings(place.path)
    if settings is None:
        return None
    if "architecture" in settings:
        return _checked(_of_timm(place.path, str(settings["architecture"])), path)
    return _checked(_of_transformers(place.path, settings), path)


def is_foreign(path: Path | str) -> bool:
    """Whether another program wrote what is at `path`, told without reading weights, so a file never is."""
    place = init_path(path)
    return bool(place.timm_name) or foreign_settings(place.path) is not None


def foreign_settings(folder: Path) -> dict[str, Any] | None:
    """The `config.json` of another program's folder; None where there is none, or it is one of ours.

    Raises CheckpointError for a `config.json` of neither kind.
    """
    file = folder / "config.json"
    if not file.is_file() or (folder / "mrm.json").is_file():
        return None
    try:
        settings = read_json(file)
        known = {name: isinstance(settings.get(name), str) for name in ("kind", "architecture", "model_type")}
    except (AttributeError, OSError, ValueError) as error:
        raise CheckpointError(f"{file}: not a model's config.json ({error})") from error
    if known["kind"]:
        return None
    if not (known["architecture"] or known["model_type"]):
        keys = ", ".join(sorted(map(str, settings))[:8]) or "none"
        raise CheckpointError(
            f"{file}: not a model's config.json: neither one of mrm (kind), nor of timm (architecture) or transformers "
            f"(model_type); its keys: {keys}. Choose another folder, or give weights as timm:NAME=FILE"
        )
    return dict(settings)


def weights_files(path: Path | str) -> list[Path]:
    """The files of weights that an `--init` of another program names. Raises CheckpointError."""
    place = init_path(path)
    if not place.path.is_dir():
        return [place.path]
    for name in FILES:
        if (place.path / name).is_file():
            return [place.path / name]
        index = place.path / f"{name}.index.json"
        if index.is_file():
            return [place.path / file for file in sorted(set(_weight_map(index).values()))]
    raise CheckpointError(f"{place.path}: no {' or '.join(FILES)} in it; the folder is incomplete")


def _weight_map(index: Path) -> dict[str, str]:
    """Which file has which tensor. Raises CheckpointError for names that lead out of the folder."""
    try:
        files = {str(name): str(file) for name, file in read_json(index)["weight_map"].items()}
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"{index}: not an index of files of weights ({error!r})") from error
    if outside := [file for file in files.values() if Path(file).name != file]:
        raise CheckpointError(f"{index}: {outside[0][:100]!r} is not the name of a file beside it")
    return files


# Each kind --------------------------------------------------------------------------------------------


def _of_transformers(folder: Path, settings: Mapping[str, Any]) -> EncoderFile:
    name, options = transformers_layout.architecture(settings, folder / "config.json")
    size, mean, std = transformers_layout.preparation(folder, settings)
    weights = transformers_layout.timm_names(_stored(folder))
    kind = str(settings["model_type"])
    config = _config(folder, name, options, size, mean, std)
    return EncoderFile(
        config, weights, transformers_layout.MODEL_TYPES[kind], antialias=kind == "dinov2_with_registers"
    )


def _of_timm(path: Path, name: str) -> EncoderFile:
    """A model of timm: settings from the folder's `config.json`, else those that timm has for the name."""
    encoder.family_of(name)
    settings = (foreign_settings(path) or {}) if path.is_dir() else {}
    if (stated := settings.get("architecture", name)) != name:
        raise CheckpointError(f"{path / 'config.json'}: is of {stated!r}, not of {name!r}")
    known = timm.get_pretrained_cfg(name)
    usual = known.to_dict() if known else {}
    try:
        asked = {**usual, **settings.get("pretrained_cfg", {})}
        channels, height, width = asked.get("input_size", (3, 224, 224))
        mean, std = as_levels(asked.get("mean", 0.5)), as_levels(asked.get("std", 0.5))
        options = {k: v for k, v in settings.get("model_args", {}).items() if k not in CHOSEN and v is not None}
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its settings are not those of a timm model ({error!r})") from error
    if channels != 3 or height != width:
        raise CheckpointError(
            f"{path}: expected square images of three channels, found {channels} x {height} x {width}"
        )
    config = _config(path, name, options, height, mean, std)
    return _converted(EncoderFile(config, _stored(path), "a model of timm"), path)


def _checkpoint(path: Path) -> EncoderFile | None:
    """A file, known by the names in it; None for the published MRM, and for a ViT whose architecture is unknown."""
    stored = read_stored(path)
    if any(name.startswith((BERT, "report_decoder.")) for name in stored):
        return None
    guess = checkpoint_layouts.guess(without_prefixes(stored, path), stored, path)
    if guess is None:
        return None
    config = _config(path, guess.name, guess.options, guess.image_size, *guess.preparation)
    return _converted(EncoderFile(config, dict(guess.weights), guess.layout, note=guess.note), path)


def _config(path: Path, name: str, options: Mapping[str, Any], size: int, mean: Any, std: Any) -> BareEncoderConfig:
    """The configuration, with the source in the error for one that cannot be. Raises CheckpointError."""
    try:
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        return BareEncoderConfig(name, dict(options), size, mean, std)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _stored(path: Path) -> dict[str, Tensor]:
    """The tensors of all files of weights, by the names that they have without known prefixes."""
    return {name: value for file in weights_files(path) for name, value in read_weights(file).items()}


def _converted(file: EncoderFile, path: Path) -> EncoderFile:
    """Names of published checkpoints as timm reads them, by the function that timm has for it in the encoder's module."""
    model = _outline(file.config, path)
    convert = getattr(sys.modules[type(model.encoder).__module__], "checkpoint_filter_fn", None)
    apart = ("decoder_", *_heads(file.config))
    weights = {name: value for name, value in file.weights.items() if not name.startswith(apart)}
    positions = weights.pop("pos_embed", None) if "register_tokens" not in weights else None
    try:
        renamed = convert(dict(weights), model.encoder) if convert else weights
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: timm cannot read it as weights of {file.config.encoder} ({first_line(error)})"
        ) from error
    if positions is not None:  # timm would resample them to one size; they are resampled to the size of each use
        renamed["pos_embed"] = positions
    unused = {name: value for name, value in file.weights.items() if name not in weights and name != "pos_embed"}
    return replace(file, weights={**renamed, **unused})


# Checks -----------------------------------------------------------------------------------------------


def _outline(config: BareEncoderConfig, path: Path | str) -> BareEncoder:
    """The encoder with shapes and no values. Raises CheckpointError where there is none."""
    try:
        with shapes_alone():
            return BareEncoder(config)
    except (
        ConfigError,
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        ValueError,
    ) as error:
        raise CheckpointError(f"{path}: no encoder can be built from its settings ({first_line(error)})") from error


def _checked(file: EncoderFile, path: Path | str) -> EncoderFile:
    """The file with its norm in place, if it has everything that the encoder has. Raises CheckpointError."""
    norm_mean = "fc_norm.weight" in file.weights and "norm.weight" not in file.weights
    file = replace(file, config=replace(file.config, norm_mean=norm_mean))
    report = _report(_outline(file.config, path), file)
    strange = [name for name in report.unexpected if name.startswith(encoder.BODY)]
    if report.missing or report.mismatched or strange:
        unplaced = f"; {len(strange)} tensors of its blocks have no place, first {strange[0]}" if strange else ""
        raise CheckpointError(
            f"{path}: not the weights of {file}: {len(report.missing)} of {len(report.matched) + len(report.missing)} "
            f"tensors are missing{unplaced}\n{report}\nIf it is another model, give its name: timm:NAME=PATH"
        )
    return file


def _report(model: BareEncoder, file: EncoderFile) -> KeyReport:
    weights = encoder.fit_positions(model.encoder, file.weights, file.antialias)
    return compare(model.encoder.state_dict(), {name: value.shape for name, value in weights.items()})


def load(file: EncoderFile, path: Path | str) -> BareEncoder:
    """The encoder with its weights, and a card that says where they are from."""
    with weights_to_come():
        model = BareEncoder(file.config)
    weights = encoder.fit_positions(model.encoder, file.weights, file.antialias)
    report = replace(_report(model, file), read_as=str(file))
    model.encoder.load_state_dict({name: weights[name] for name in report.matched})
    origin = {"file": init_path(path).path.name, "read_as": str(file), "keys": str(report)}
    model.card = replace(model.card, origin=origin)
    return model


def own_names(file: EncoderFile) -> dict[str, Tensor]:
    """The weights by the names that they have in our models, without heads, which are for other classes."""
    heads = _heads(file.config)
    return published_layout.own_names({k: v for k, v in file.weights.items() if not k.startswith(heads)})


def _heads(config: BareEncoderConfig) -> tuple[str, ...]:
    """Before the names of what classifies; the head of ConvNeXt and Swin has a norm of the features too."""
    return (*HEADS, "head." if encoder.family_of(config.encoder) in encoder.WITH_PATCHES else "head.fc.")
