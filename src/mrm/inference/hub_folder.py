"""A model as a folder for the Hugging Face hub: the model folder, and a model card written from what it knows."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import mrm
from mrm.inference.model_card import model_card
from mrm.models import model_folder
from mrm.models.card import Card
from mrm.system.errors import CheckpointError, first_line
from mrm.system.files import write_whole

HUB_FILES = {"README.md", "config.json", "model.safetensors", "tokenizer.json"}


def write_hub_folder(source: Path, out: Path) -> Path:
    """Write the model at `source` as a folder for the Hugging Face hub. Returns `out`.

    Fingerprints of the training records and the command line (which holds paths) are left out. `mrm.load` reads the
    folder as it is. Raises CheckpointError where `out` holds something else, or cannot be written.
    """
    out = Path(out)
    if out.exists() and not _replaceable(out):
        raise CheckpointError(f"{out}: exists and holds more than a hub folder; choose another --out")
    if out.resolve() == (Path(source) if Path(source).is_file() else model_folder.find_model(Path(source))).resolve():
        raise CheckpointError(f"{out}: is the model itself; choose another --out")
    model = model_folder.load(source)
    card = shareable(model.card)
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model_folder.write_into(temporary, model, card)
        write_whole(temporary / "README.md", model_card(model, card, out.name).encode())
        shutil.rmtree(out, ignore_errors=True)
        os.replace(temporary, out)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"{out}: cannot be written ({error})") from error
    return out


def _replaceable(folder: Path) -> bool:
    """Whether a folder is empty, or holds the files of a hub folder and nothing else."""
    if not folder.is_dir():
        return False
    names = {p.name for p in folder.iterdir()}
    return not names or HUB_FILES - {"tokenizer.json"} <= names <= HUB_FILES


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
