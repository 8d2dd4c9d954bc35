"""A model folder that other libraries open too: what `mrm export --format hub` writes, and how it is read.

| file | what it holds |
| --- | --- |
| `config.json` | timm's layout, which transformers reads as well: architecture, arguments, labels, how images are prepared |
| `model.safetensors` | the encoder, with the head of a classifier, under timm's own names |
| `decoders.safetensors` | all other weights of a pre-trained model or a segmenter, under the names that they have in mrm |
| `mrm.json` | the card, of which timm's layout has only a part |

A folder that timm or transformers saved has the first two files alone. A classifier is read from these too; what only the
card knows, such as thresholds, is then unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import timm
import torch
from torch import Tensor

from mrm.models.card import Card
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.models.encoder import family_of
from mrm.models.limits import Levels, as_levels, check_classes, check_value, per_channel
from mrm.models.mrm import MRM
from mrm.models.segmenter import Segmenter
from mrm.models.weights import read_shapes, read_weights
from mrm.system.errors import CheckpointError, ConfigError
from mrm.system.files import read_json

CONFIG, CARD, WEIGHTS, DECODERS = "config.json", "mrm.json", "model.safetensors", "decoders.safetensors"
WEIGHT_FILES = (WEIGHTS, "pytorch_model.bin")  # what timm saves without `safe_serialization=True`
ENCODER = "encoder."  # before the names of an encoder's weights in mrm
CROP_MODES = {"whole": "squash", "centre": "center", "fit": "border"}  # timm's names of the views
FILTERS = {"area": "hamming", "bilinear": "bilinear", "bicubic": "bicubic"}  # timm's filter nearest to each of ours
POOLING = {"avg": "mean", "map": "attention"}
Value = TypeVar("Value")


# Writing ------------------------------------------------------------------------------------------------


def split(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of a model as those of its encoder, under timm's names, and all others."""
    native = {name.removeprefix(ENCODER): value for name, value in weights.items() if name.startswith(ENCODER)}
    return native, {name: value for name, value in weights.items() if not name.startswith(ENCODER)}


def is_native(model: MRM | Classifier | Segmenter) -> bool:
    """Whether timm opens the encoder of this model.

    It has no head that pools for each class, no relative positions for a plain ViT, and no Eva cut short.
    """
    if isinstance(model, Classifier):
        return model.config.pooling != "class"
    return not isinstance(model, Segmenter) or (
        not model.config.relative_positions and family_of(model.config.encoder) == "vit"
    )


def timm_config(model: MRM | Classifier | Segmenter, license: str | None = None) -> dict[str, Any]:
    """The `config.json` by which timm and transformers create the encoder of a model and prepare its images."""
    classes = list(model.config.classes) if isinstance(model, Classifier) else []
    arguments = timm_arguments(model)
    config = {
        "architecture": model.config.encoder.split(".")[0],
        "num_classes": len(classes),
        "num_features": model.encoder.num_features,
        "global_pool": arguments["global_pool"],
        "model_args": arguments,
        "pretrained_cfg": _preparation(model, len(classes)) | ({"license": license} if license else {}),
    }
    return config | ({"label_names": classes, "problem_type": "multi_label_classification"} if classes else {})


def timm_arguments(model: MRM | Classifier | Segmenter) -> dict[str, Any]:
    """The arguments by which `timm.create_model` creates the encoder, without the number of classes.

    An encoder without a head pools its patches as `mrm embed` does: the norm comes before the mean.
    """
    config = model.config
    arguments = {k: v for k, v in config.encoder_options.items() if v is not None and k != "norm_eps"}  # timm has none
    if isinstance(model, Classifier):
        pool = next((theirs for theirs, ours in POOLING.items() if ours == model.config.pooling), "avg")
        arguments |= {} if family_of(config.encoder) == "convnext" else {"img_size": config.image_size}
        return {**arguments, "global_pool": pool}
    if isinstance(model, Segmenter):  # which has no blocks after the last that its head reads, and no norm
        arguments |= {} if model.config.layer_scale is None else {"init_values": model.config.layer_scale}
        arguments |= {"depth": len(model.encoder.blocks), "final_norm": False}
    size = config.image_size
    return {
        **arguments,
        "img_size": size if isinstance(size, int) else list(size),
        "global_pool": "avg",
        "fc_norm": False,
    }


def _preparation(model: MRM | Classifier | Segmenter, classes: int) -> dict[str, Any]:
    """How timm prepares an image, as near to what mrm does as timm's transforms come."""
    config, known = model.config, model.encoder.pretrained_cfg
    size = config.image_size
    view = getattr(config, "view", "fit" if isinstance(model, Segmenter) else "whole")
    return {
        "input_size": [3, size, size] if isinstance(size, int) else [3, *size],
        "fixed_input_size": bool(known.get("fixed_input_size")) and not config.encoder_options.get("dynamic_img_size"),
        "interpolation": FILTERS[getattr(config, "resize", "area")],
        "crop_pct": 1.0,
        "crop_mode": CROP_MODES[view],
        "mean": per_channel(config.mean),
        "std": per_channel(config.std),
        "num_classes": classes,
        "pool_size": None,
        "first_conv": known["first_conv"],
        "classifier": known["classifier"],
    }


# Reading ------------------------------------------------------------------------------------------------


def is_timm(content: Any) -> bool:
    """Whether the content of a `config.json` is timm's layout."""
    return isinstance(content, dict) and isinstance(content.get("architecture"), str)


def is_labelled(content: Any) -> bool:
    """Whether the content of a `config.json` is timm's layout with names for the classes: it is a classifier."""
    if not is_timm(content):
        return False
    prepared = content.get("pretrained_cfg")
    stated = {**(prepared if isinstance(prepared, dict) else {}), **content}
    return bool(stated.get("num_classes") and stated.get("label_names"))


def is_hub_folder(folder: Path) -> bool:
    """Whether a model folder has the layout of this module. Raises CheckpointError for a `config.json` that is no JSON."""
    if (folder / CARD).is_file():
        return True
    try:
        return is_timm(read_json(folder / CONFIG))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG}: not a model's config.json ({error})") from error


def weights_file(folder: Path) -> Path:
    """The file with the weights of a model folder, or with those of its encoder. Raises CheckpointError where none is."""
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder}: has config.json but no model.safetensors; the model folder is incomplete")


def weights_files(folder: Path) -> list[Path]:
    """All files with weights of a model folder. Raises CheckpointError."""
    decoders = folder / DECODERS
    return [weights_file(folder), *([decoders] if decoders.is_file() else [])]


def weights_of(folder: Path) -> dict[str, Tensor]:
    """The weights of a model folder of either layout by their names in mrm. Raises CheckpointError."""
    return _by_own_names(folder, read_weights)


def shapes_of(folder: Path) -> dict[str, torch.Size]:
    """The shapes of the weights of a model folder by their names in mrm. Raises CheckpointError."""
    return _by_own_names(folder, _shapes)


def _by_own_names(folder: Path, read: Callable[[Path], dict[str, Value]]) -> dict[str, Value]:
    """What `read` gives of each tensor in the files of a model folder, by the names that the tensors have in mrm."""
    first, *others = weights_files(folder)
    values = read(first)
    if is_hub_folder(folder):
        values = {ENCODER + name: value for name, value in values.items()}
    for file in others:
        values |= read(file)
    return values


def _shapes(file: Path) -> dict[str, torch.Size]:
    """The shapes of the tensors in a file; all of it is read where it has no header."""
    if file.suffix == ".safetensors":
        return read_shapes(file)
    return {name: value.shape for name, value in read_weights(file).items()}


def card_from(config: Mapping[str, Any]) -> Card:
    """The card of a classifier from timm's `config.json` alone. Raises ConfigError for what mrm has no model for."""
    prepared = config.get("pretrained_cfg", {})
    check_value("pretrained_cfg", prepared, dict[str, Any])
    arguments = config.get("model_args") or {}
    check_value("model_args", arguments, dict[str, Any])
    classes, options = label_names(config), {**arguments}
    pool = options.pop("global_pool", config.get("global_pool", prepared.get("global_pool")))
    if pool not in POOLING:
        raise ConfigError(
            f"global_pool {pool!r} is not one that a classifier of mrm has; choose from {_listed(POOLING)}"
        )
    _take_known(options, pool)
    size = options.pop("img_size", None) or prepared.get("input_size", [3, 224, 224])[1:]
    settings = {
        "encoder": _known_architecture(config["architecture"]),
        "image_size": _side(size),
        "mean": _levels("mean", prepared.get("mean")),
        "std": _levels("std", prepared.get("std")),
        "drop_path": options.pop("drop_path_rate", 0.0),
        "pooling": POOLING[pool],
        "view": _view(prepared),
        "resize": _named("interpolation", prepared.get("interpolation", "bicubic"), FILTERS),
        "encoder_options": options,  # what is left
    }
    return Card("classifier", asdict(ClassifierConfig(classes, **settings)))


def label_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes in timm's `config.json`. Raises ConfigError where they do not match the head."""
    prepared = config.get("pretrained_cfg", {})
    count = config.get("num_classes", prepared.get("num_classes"))
    check_value("num_classes", count, int)
    if not count:
        raise ConfigError(
            "an encoder without classes (num_classes is 0), and no mrm.json beside it; start from it with --init, or give "
            "the folder that `mrm export --format hub` wrote"
        )
    names = config.get("label_names") or prepared.get("label_names")
    if isinstance(names, Mapping):  # timm's other form: by number
        names = [names[key] for key in sorted(names, key=int)]
    if not names:
        raise ConfigError(f'the {count} classes have no names; add "label_names": a list of {count} names')
    check_value("label_names", names, list[str])
    check_classes(names)
    if len(names) != count:
        raise ConfigError(f"label_names has {len(names)} names, but num_classes is {count}; name each class once")
    return tuple(names)


def check_same_model(config: Any, card: Card) -> None:
    """Raises ConfigError where timm's `config.json` and the card beside it belong to different models."""
    if not is_timm(config):
        raise ConfigError("not timm's layout, which the folder of an mrm.json has; export the model again")
    encoder = str(card.architecture.get("encoder", "")).split(".")[0]
    if config["architecture"] != encoder:
        raise ConfigError(f"its architecture is {config['architecture']!r}, but that of mrm.json is {encoder!r}")
    if card.kind == "classifier" and list(label_names(config)) != list(card.architecture.get("classes", ())):
        raise ConfigError(
            f"its label_names ({_listed(label_names(config))}) are not the classes of mrm.json "
            f"({_listed(card.architecture.get('classes', ()))}); the two files belong to different models"
        )


def _known_architecture(name: str) -> str:
    """The name, where timm has a model of it; one that is no name at all is refused where it is used."""
    if name.replace("_", "").replace(".", "").isalnum() and not timm.is_model(name):
        raise ConfigError(f"architecture {name[:60]!r} is unknown to timm {timm.__version__}; a newer timm may have it")
    return name


def _take_known(options: dict[str, Any], pool: str) -> None:
    """Take from timm's arguments those that say nothing more. Raises ConfigError where they say something else."""
    options.pop("num_classes", None)
    channels, norm = options.pop("in_chans", 3), options.pop("fc_norm", None)
    if channels != 3:
        raise ConfigError(f"in_chans is {channels!r}, but a model of mrm takes three equal channels")
    if norm is not None and norm != (pool == "avg"):
        raise ConfigError(f"fc_norm is {norm!r} with global_pool {pool!r}, which no classifier of mrm has")


def _side(size: Any) -> int:
    """The side of square images."""
    sides = [size] if isinstance(size, int) else size
    check_value("img_size", sides, list[int])
    if len(set(sides)) != 1:
        raise ConfigError(
            f"img_size {' x '.join(map(str, sides))} is not square, as the images of a classifier of mrm are"
        )
    return sides[0]


def _levels(name: str, values: Any) -> Levels:
    """A mean or deviation of three channels; one value where they are equal."""
    check_value(name, values, list[float])
    return as_levels(values)


def _view(prepared: Mapping[str, Any]) -> str:
    """The view of mrm that shows what timm's transform shows."""
    mode, share = _named("crop_mode", prepared.get("crop_mode", "center"), CROP_MODES), prepared.get("crop_pct", 0.875)
    if mode == "fit" or share != 1:
        raise ConfigError(
            f"crop_mode {prepared.get('crop_mode', 'center')!r} with crop_pct {share!r} is not a view of mrm; squash and "
            "center with crop_pct 1.0 are"
        )
    return mode


def _named(name: str, theirs: Any, names: Mapping[str, str]) -> str:
    """Our name of one of timm's choices."""
    for ours, other in names.items():
        if other == theirs:
            return ours
    raise ConfigError(f"{name} {theirs!r} is not one that mrm has; choose from {_listed(names.values())}")


def _listed(names: Any) -> str:
    shown: Sequence[str] = list(names)
    return ", ".join(shown[:20]) + (f", and {len(shown) - 20} more" if len(shown) > 20 else "")
