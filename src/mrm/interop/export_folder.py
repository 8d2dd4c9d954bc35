"""A folder that a model is exported to: it exists whole or not at all, and nothing else is replaced by it."""

# Shapes: B images, H W pixels, D encoder width or C classes
from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from mrm.inference.predict import feature_function
from mrm.models import hub_layout, model_folder
from mrm.models.card import Card
from mrm.models.classifier import Classifier
from mrm.models.model_folder import Model
from mrm.models.mrm import MRM
from mrm.system.errors import CheckpointError, first_line

TOLERANCE = 1e-5  # by which another library may differ from mrm, as a share of the largest value or of 1


@dataclass(frozen=True)
class Files:
    """What a kind of folder holds, by paths in it: a folder of just these may be replaced by a new export."""

    kind: str  # in words
    needed: frozenset[str]
    possible: frozenset[str] = frozenset()  # besides


def write_folder(source: Path, out: Path, files: Files, write: Callable[[Path, Model, Card], None]) -> Path:
    """Load the model at `source` and let `write` fill a folder, which then becomes `out`. Returns `out`.

    `write` gets a temporary folder, the model, and its card without traces of this machine. Raises CheckpointError where
    `out` is the model itself, holds something else or cannot be written, RunError for an encoder of another program, and what
    `write` raises; nothing is left behind.
    """
    out, source = Path(out), Path(source)
    if out.exists() and not _replaceable(out, files):
        raise CheckpointError(f"{out}: exists and holds more than a {files.kind}; choose another --out")
    if out.resolve() == (source if source.is_file() else model_folder.find_model(source)).resolve():
        raise CheckpointError(f"{out}: is the model itself; choose another --out")
    model = model_folder.load_as(source, *model_folder.TRAINED)
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        write(temporary, model, shareable(model.card))
        shutil.rmtree(out, ignore_errors=True)
        os.replace(temporary, out)
    except (OSError, SafetensorError) as error:  # the latter is how safetensors reports a full disk
        raise CheckpointError(f"{out}: cannot be written ({error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _replaceable(folder: Path, files: Files) -> bool:
    """Whether a folder is empty, or holds the files of this kind of folder and no others."""
    if not folder.is_dir():
        return False
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return not names or files.needed <= names <= files.needed | files.possible


def shareable(card: Card) -> Card:
    """A card without traces of the machine that it was made on: the command line, and folders of records."""
    origin = {k: v for k, v in card.origin.items() if k != "command"}
    tested = [replace(test, records=Path(test.records).name) for test in card.tested]
    return replace(card, origin=origin, tested=tested)


@torch.inference_mode()
def require_same(model: Model, opened: Callable[[], nn.Module], out: Path) -> None:
    """Raises CheckpointError where what another library `opened` fails, or computes something else than the model.

    Compared are logits of a classifier, and of others the mean of the encoder's patch features, of two images of noise.
    """
    height, width = hub_layout.timm_config(model)["pretrained_cfg"]["input_size"][1:]
    image_BCHW = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    try:
        given = opened().eval()(image_BCHW)
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{out}: timm {timm.__version__} cannot open the encoder of this model ({first_line(error)}); the folder was not kept"
        ) from error
    own = _computed(model, image_BCHW)
    difference = float((given - own).abs().max() / own.abs().max().clamp(min=1))
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"{out}: what timm computes differs from the model by {difference:.2g} of its values, more than {TOLERANCE:g}; "
            "the folder was not kept"
        )


def _computed(model: Model, image_BCHW: Tensor) -> Tensor:
    """What timm should compute of the model's encoder: logits, or the mean of the patch features."""
    if isinstance(model, Classifier):
        return model(image_BCHW)
    if isinstance(model, MRM):
        return feature_function(model, "pooled")(image_BCHW)
    tokens_BLD = model.encoder.forward_features(image_BCHW)
    return tokens_BLD[:, model.encoder.num_prefix_tokens :].mean(1)
