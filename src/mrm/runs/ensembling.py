"""Several classifiers as one model folder: `mrm ensemble`.

The folder is a model like any other: `mrm predict`, `evaluate`, `calibrate` and `serve` take it. It holds the weights of its
members, and fingerprints of all records that any of them has seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mrm.evaluation.classifier_test import CALIBRATED_ON
from mrm.models import model_folder
from mrm.models.classifier import Classifier
from mrm.models.ensemble import ensemble_of
from mrm.runs.output_lock import alone_in
from mrm.system.errors import OutputError, RunError
from mrm.system.files import write_whole
from mrm.system.output_folder import make_folder, writing


@alone_in("out")
def ensemble(models: Sequence[Path], out: Path) -> Path:
    """Write an ensemble of classifiers to the folder `out`. Returns it.

    Raises RunError for models that do not belong together, OutputError for a folder that holds something else.
    """
    models, out = [Path(model) for model in models], Path(out)
    require_free(out)
    if twice := {str(m) for m in models if sum(m.resolve() == other.resolve() for other in models) > 1}:
        raise RunError(f"{sorted(twice)[0]}: is given twice; a model counts once in an ensemble")
    joined = ensemble_of({str(model): model_folder.load_as(model, Classifier) for model in models})
    card = replace(joined.card, origin={"members": [str(model) for model in models]})
    make_folder(out)
    with writing(out):
        for model in models:
            copy_fingerprints(model, out)
        model_folder.write_into(out, joined, card)
    return out


def require_free(out: Path) -> None:
    """Raises OutputError for a folder that holds anything but an ensemble, which would be replaced."""
    ours = {"config.json", "model.safetensors", "seen", CALIBRATED_ON}
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")} if out.is_dir() else set()
    if names - ours or ("config.json" in names and model_folder.kind_at(out) != "ensemble"):
        raise OutputError(f"{out}: holds something else; choose another --out, or remove it")


def copy_fingerprints(model: Path, out: Path) -> None:
    """Copy what a member has seen; members that were trained on the same records have one file of them."""
    folder = model_folder.find_model(model)
    for part in ("seen", CALIBRATED_ON):
        for file in sorted((folder / part).glob("*.npz")):
            content, number = file.read_bytes(), 1
            target = out / part / file.name
            while target.is_file() and target.read_bytes() != content:
                number += 1
                target = target.with_name(f"{file.stem}-{number}.npz")
            write_whole(target, content)
