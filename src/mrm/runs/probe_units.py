"""One unit of a probe: its test scores from a linear probe, from neighbours or from fine-tuning, kept in a file."""

# Shapes: N records, C classes, D features
from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mrm import recipes
from mrm.data.records import Records
from mrm.evaluation import floors, probes
from mrm.evaluation.probes import Labelled
from mrm.inference import predict
from mrm.models import model_folder, noise
from mrm.models.bare_encoder import BareEncoder
from mrm.models.classifier import Classifier
from mrm.models.image_sizes import at_size
from mrm.models.mrm import MRM
from mrm.recipes import FinetuneConfig
from mrm.runs.finetuning import finetune
from mrm.runs.kept_models import is_only_model, read_arrays, with_small_batch, write_arrays, write_list
from mrm.runs.probe_plan import FLOOR, SETS, ProbeConfig, Unit, one_label_only
from mrm.runs.reading_options import device_named
from mrm.runs.run_folder import warn_of
from mrm.statistics import ranking
from mrm.system.errors import RunError


def unit_file(config: ProbeConfig, unit: Unit) -> Path:
    """The file with the scores of a unit."""
    return Path(config.out) / "units" / f"{unit.name}.npz"


# Probes on frozen features ----------------------------------------------------------------------------


def features_of(
    config: ProbeConfig, name: str, path: Path | None, records: Mapping[str, Records]
) -> dict[str, np.ndarray]:
    """Pooled features (N, D) of the three sets, NaN where an image cannot be read; computed once and kept in a file."""
    file = Path(config.out) / "features" / f"{name.replace('/', '_')}.npz"
    if not file.is_file():
        network = load_or_randomise(config, path).to(device_named(config.device))
        if path and isinstance(network, BareEncoder):
            print(f"{path}: {network.card.origin['keys']}")
        computed = {}
        for part, rows in records.items():
            features_ND, unreadable = predict.features(network, rows, workers=config.workers, complete=True)
            if len(unreadable) == len(rows):
                first, reason = next(iter(unreadable.items()))
                source = getattr(config, part)
                raise RunError(
                    f"{source}: none of the {len(rows)} images could be read; first error: {first}: {reason}"
                )
            warn_of([f"{part}: left out {record}: {reason}" for record, reason in unreadable.items()])
            computed[part] = features_ND.astype(np.float32)
        write_arrays(file, computed)
    return {part: features_ND.astype(np.float64) for part, features_ND in read_arrays(file).items()}


def floors_of(config: ProbeConfig, records: Mapping[str, Records]) -> dict[str, dict[str, np.ndarray]]:
    """The features (N, F) of the three sets by floor, NaN where an image cannot be read; computed once and kept in files."""
    kept = {floor: Path(config.out) / "features" / f"{floor}.npz" for floor in floors.FLOORS}
    if not all(file.is_file() for file in kept.values()):
        computed = {part: floors.features(rows, config.workers)[0] for part, rows in records.items()}
        for floor, file in kept.items():
            write_arrays(file, {part: values[floor] for part, values in computed.items()})
    return {floor: {p: v.astype(np.float64) for p, v in read_arrays(file).items()} for floor, file in kept.items()}


def load_or_randomise(config: ProbeConfig, path: Path | None) -> MRM | Classifier | BareEncoder:
    """The encoder at `path`; for None the architecture of the first one with random weights."""
    model = at_size(model_folder.load_as(path or Path(config.init[0]), MRM, Classifier, BareEncoder), config.image_size)
    if path is None:
        with noise.seeded(0):
            model = type(model)(model.config).eval()  # type: ignore[arg-type]
    return model


def probed(
    unit: Unit, features: Mapping[str, np.ndarray], records: Mapping[str, Records], chosen: np.ndarray
) -> dict[str, np.ndarray]:
    """The test scores of a linear probe or of neighbours; NaN for images that could not be read."""
    readable = {name: ~np.isnan(features[name]).any(axis=1) for name in SETS}
    usable = chosen[readable["train"][chosen]]
    labels = {name: records[name].labels_NC for name in SETS}
    train = Labelled(features["train"][usable], labels["train"][usable])
    val, test = (Labelled(features[n][readable[n]], labels[n][readable[n]]) for n in ("val", "test"))
    result = (probes.linear if unit.method == FLOOR else probes.METHODS[unit.method])(train, val, test)
    scores_NC = np.full(labels["test"].shape, np.nan)
    scores_NC[readable["test"]] = result.scores_NC
    return {
        "scores": scores_NC,
        "val_auroc": np.array(result.val_auroc),
        "setting": np.array(result.setting),
        "n": np.array(len(usable)),
        "untaught": np.array(result.untaught, dtype=np.intp),
        "note": np.array(result.note),
    }


# Fine-tuning ------------------------------------------------------------------------------------------


def fine_tuned(
    config: ProbeConfig, unit: Unit, path: Path | None, records: Mapping[str, Records], chosen: np.ndarray
) -> dict[str, np.ndarray]:
    """The test scores of a fine-tuned model. Its run is under `runs/`, its label lists are under `lists/`."""
    train = records["train"].select(chosen)
    settings, note = fine_tuning(config, unit, path, train, records["val"])
    if not is_only_model(settings.out):
        finetune(settings)
    network = model_folder.load_as(settings.out, Classifier).to(device_named(config.device))
    val_NC, test_NC = (
        predict.classify(network, records[name], workers=config.workers, complete=True).logits_NC
        for name in ("val", "test")
    )
    readable_N = ~np.isnan(val_NC).any(axis=1)
    pairs = zip(records["val"].labels_NC[readable_N].T, val_NC[readable_N].T, strict=True)
    card = model_folder.read_card(model_folder.find_model(settings.out))
    return {
        "scores": test_NC,
        "val_auroc": np.array(np.nanmean([ranking.auroc(*pair) for pair in pairs])),
        "setting": np.array(card.origin.get("step", math.nan)),
        "n": np.array(len(chosen)),
        "untaught": np.array(one_label_only(train.labels_NC), dtype=np.intp),
        "note": np.array(note),
    }


def fine_tuning(
    config: ProbeConfig, unit: Unit, path: Path | None, train: Records, val: Records
) -> tuple[FinetuneConfig, str]:
    """The settings of a unit's fine-tuning, and a note on where they differ from the recipe."""
    settings = recipes.find(recipes.FINETUNE, config.finetune).make(
        write_list(config.out, f"train-{100 * unit.fraction:g}-seed{unit.seed}", train),
        write_list(config.out, "val", val),
        path or Path(config.init[0]),
        run_of(config, unit),
        scratch=path is None,
        seed=unit.seed,
        classes=train.classes,
        on_error="skip",
        floors=False,
        max_steps=config.max_steps,
        image_size=config.image_size,
    )
    return with_small_batch(settings, len(train), config.workers)


def run_of(config: ProbeConfig, unit: Unit) -> Path:
    """The run folder of a unit's fine-tuning."""
    return Path(config.out) / "runs" / unit.name
