"""A model as a folder for the Hugging Face hub, which timm and transformers open (see `mrm.models.hub_layout`).

The folder is opened with timm and compared with the model before it gets its name; one that differs is not left behind.
"""

from __future__ import annotations

from pathlib import Path

import timm
from safetensors.torch import save_file

import mrm
from mrm.interop.export_folder import Files, require_same, write_folder
from mrm.interop.model_card import model_card
from mrm.interop.publication import Publication
from mrm.models import hub_layout
from mrm.models.card import Card
from mrm.models.model_folder import Model
from mrm.system.errors import CheckpointError, first_line
from mrm.system.files import write_json, write_whole
from mrm.system.permissions import restricted
from mrm.targets import target_of

FILES = Files(
    "hub folder",
    frozenset(("README.md", hub_layout.CONFIG, hub_layout.CARD, hub_layout.WEIGHTS)),
    frozenset((hub_layout.DECODERS, "tokenizer.json")),
)


def write_hub_folder(source: Path, out: Path, publication: Publication = Publication()) -> Path:
    """Write the model at `source` as a folder for the Hugging Face hub. Returns `out`.

    Fingerprints of the training records and the command line (which holds paths) are left out. `mrm.load`, timm and
    transformers read the folder as it is. Raises CheckpointError where `out` holds something else or cannot be written, and
    where what timm makes of it differs from the model; nothing is left behind then.
    """

    def write(folder: Path, model: Model, card: Card) -> None:
        target_of(card.architecture).require_independent(
            f"{source}: a hub folder, which transformers read as findings,", CheckpointError
        )
        _write_model(folder, model, card, publication)
        write_whole(folder / "README.md", model_card(model, card, out.name, publication).encode())
        if hub_layout.is_native(model):
            require_same(model, lambda: timm.create_model(f"local-dir:{folder}", pretrained=True), out)

    return write_folder(source, out, FILES, write)


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
