"""A model as a folder for the Hugging Face hub, which timm and transformers open (see `mrm.models.hub_layout`).

The folder is opened with timm and compared with the model before it gets its name; one that differs is not left behind.
"""

# Shapes: B images, H W pixels, D encoder width or C classes
from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

import mrm
from mrm.inference.predict import feature_function
from mrm.interop.model_card import model_card
from mrm.interop.publication import Publication
from mrm.models import hub_layout, model_folder
from mrm.models.card import Card
from mrm.models.classifier import Classifier
from mrm.models.model_folder import Model
from mrm.models.mrm import MRM
from mrm.system.errors import CheckpointError, first_line
from mrm.system.files import write_json, write_whole
from mrm.system.permissions import restricted

NEEDED = {"README.md", hub_layout.CONFIG, hub_layout.CARD, hub_layout.WEIGHTS}
HUB_FILES = NEEDED | {hub_layout.DECODERS, "tokenizer.json"}
TOLERANCE = 1e-5  # by which timm may differ from mrm, as a share of the largest value or of 1


def write_hub_folder(source: Path, out: Path, publication: Publication = Publication()) -> Path:
    """Write the model at `source` as a folder for the Hugging Face hub. Returns `out`.

    Fingerprints of the training records and the command line (which holds paths) are left out. `mrm.load`, timm and
    transformers read the folder as it is. Raises CheckpointError where `out` holds something else or cannot be written, and
    where what timm makes of it differs from the model; nothing is left behind then.
    """
    out = Path(out)
    if out.exists() and not replaceable(out, NEEDED, HUB_FILES):
        raise CheckpointError(f"{out}: exists and holds more than a hub folder; choose another --out")
    if out.resolve() == (Path(source) if Path(source).is_file() else model_folder.find_model(Path(source))).resolve():
        raise CheckpointError(f"{out}: is the model itself; choose another --out")
    model = model_folder.load_as(source, *model_folder.TRAINED)
    card = shareable(model.card)
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _write_model(temporary, model, card, publication)
        write_whole(temporary / "README.md", model_card(model, card, out.name, publication).encode())
        if hub_layout.is_native(model):
            _compare(model, temporary, out)
        shutil.rmtree(out, ignore_errors=True)
        os.replace(temporary, out)
    except (OSError, SafetensorError) as error:  # the latter is how safetensors reports a full disk
        raise CheckpointError(f"{out}: cannot be written ({error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _write_model(folder: Path, model: Model, card: Card, publication: Publication) -> None:
    """All files but the README.md."""
    native, others = hub_layout.split({name: value.contiguous() for name, value in model.state_dict().items()})
    with restricted():
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            native, folder / hub_layout.WEIGHTS, metadata={"format": "pt"}
        )  # without which transformers refuses it
        if others:
            save_file(others, folder / hub_layout.DECODERS, metadata={"format": "pt"})
    write_json(folder / hub_layout.CONFIG, hub_layout.timm_config(model, publication.license))
    write_json(folder / hub_layout.CARD, card.to_dict())
    if model.tokenizer is not None:
        write_whole(folder / "tokenizer.json", model.tokenizer.to_json().encode())


@torch.inference_mode()
def _compare(model: Model, folder: Path, out: Path) -> None:
    """Raises CheckpointError where timm, which opens the folder, computes something else than the model."""
    height, width = hub_layout.timm_config(model)["pretrained_cfg"]["input_size"][1:]
    image_BCHW = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    try:
        theirs: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        given = theirs(image_BCHW)
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


def replaceable(folder: Path, needed: set[str], known: set[str]) -> bool:
    """Whether a folder is empty, or holds the `needed` names and besides them none but the `known` ones."""
    if not folder.is_dir():
        return False
    names = {p.name for p in folder.iterdir()}
    return not names or needed <= names <= known


def shareable(card: Card) -> Card:
    """A card without traces of the machine that it was made on: the command line, and folders of records."""
    origin = {k: v for k, v in card.origin.items() if k != "command"}
    tested = [replace(test, records=Path(test.records).name) for test in card.tested]
    return replace(card, origin=origin, tested=tested)


def push(folder: Path, repository: str) -> str:
    """Upload a hub folder to `repository` (USER/NAME), which is made private if it is new. Returns its address.

    Raises CheckpointError where the hub refuses, or cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = huggingface_hub.HfApi()
    try:
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"Model by mrm {mrm.__version__}")
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise CheckpointError(
            f"{repository}: not uploaded ({first_line(error)}); log in with `hf auth login`, and check that the name is "
            f"USER/NAME; the folder {folder} is complete"
        ) from error
    return str(address)
