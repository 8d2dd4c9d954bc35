"""A model as a folder for the Hugging Face hub, which timm and transformers open (see `mrm.models.hub_layout`).

The folder is opened with timm and compared with the model before it gets its name; one that differs is not left behind.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import timm
from safetensors.torch import save_file

import mrm
from mrm.interop.export_folder import Files, require_same, shareable, write_folder
from mrm.interop.front_matter import stated
from mrm.interop.model_card import model_card
from mrm.interop.publication import Publication
from mrm.models import hub_layout, model_folder
from mrm.models.card import Card
from mrm.models.model_folder import Model
from mrm.system.errors import CheckpointError, first_line
from mrm.system.files import write_json, write_whole
from mrm.system.permissions import restricted
from mrm.targets import target_of

README = "README.md"
FILES = Files(
    "hub folder",
    frozenset((README, hub_layout.CONFIG, hub_layout.CARD, hub_layout.WEIGHTS)),
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
        write_whole(folder / README, model_card(model, card, out.name, publication).encode())
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


@contextmanager
def readme_kept_true(folder: Path) -> Iterator[None]:
    """While the card of a model folder is changed; the README.md of a hub folder then says what the new card says.

    One that is not as mrm wrote it for the old card, since somebody has changed it, stays as it is, with a warning.
    """
    readme = folder / README
    if not (hub_layout.is_hub_folder(folder) and readme.is_file()):
        yield
        return
    text = readme.read_text(encoding="utf-8", errors="replace")
    publisher = stated(text)
    own = publisher is not None and text == _readme(folder, *publisher)
    yield
    if publisher is not None and own:
        write_whole(readme, _readme(folder, *publisher).encode())
    else:
        warnings.warn(
            f"{readme}: is not as mrm {mrm.__version__} wrote it, so it was left as it is, and may say what no longer holds of "
            "thresholds and tests; change it, or export the model again",
            stacklevel=3,
        )


def _readme(folder: Path, name: str, publication: Publication) -> str:
    """What the README.md of a hub folder has to say now."""
    model = model_folder.load_as(folder, *model_folder.TRAINED)
    return model_card(model, shareable(model.card), name, publication)


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
