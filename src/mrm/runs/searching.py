"""The images of an index that are nearest to others."""

# Shapes: Q queries, D features, T neighbours
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrm.data.finding_files import records_at
from mrm.inference import neighbours, predict
from mrm.inference.prediction_table import KNOWN
from mrm.models import model_folder
from mrm.models.bare_encoder import BareEncoder
from mrm.models.classifier import Classifier
from mrm.models.mrm import MRM
from mrm.runs.reading_options import Reading, device_of
from mrm.system.errors import RunError
from mrm.system.partial_results import Row

SIMILAR: dict[str, type] = {"query": str, "rank": int, "cosine": float, **KNOWN}


def similar(
    queries: Sequence[Path | str], index: Path, model: Path | None = None, top: int = 5, reading: Reading = Reading()
) -> list[Row]:
    """The images of an index nearest to each query by the cosine of their pooled features: exact, best first.

    A query is a row of the index, given by its path there, or an image; images need the `model` that made the index.
    Rows have `query, rank, cosine, path, patient_id, study_id`; a row of the index does not match itself. Raises
    RunError for another model, a file that is not an index, or a query that cannot be read.
    """
    if top < 1:
        raise RunError(f"--top must be at least 1, not {top}")
    features = neighbours.read_index(Path(index))
    row_by_path = {row["path"]: number for number, row in reversed(list(enumerate(features.rows)))}
    paths = [str(query) for query in queries if str(query) in row_by_path]
    images = [query for query in queries if str(query) not in row_by_path]
    rows = [row_by_path[path] for path in paths]
    features_QD = neighbours.take(features, rows)
    if images:
        images_QD, names = image_features(features, images, model, reading)
        features_QD, paths = np.concatenate([features_QD, images_QD]), [*paths, *names]
    own_Q = np.array([*rows, *[-1] * (len(paths) - len(rows))])  # an image has no row of its own
    cosine_QT, row_QT = neighbours.nearest(features_QD, features.blocks(), top, own_Q)
    matches = []
    for path, cosine_T, row_T in zip(paths, cosine_QT, row_QT, strict=True):
        for rank, (cosine, number) in enumerate(zip(cosine_T, row_T, strict=True), 1):
            if number >= 0:
                known = {column: features.rows[number][column] for column in KNOWN}
                matches.append({"query": path, "rank": rank, "cosine": round(float(cosine), 6), **known})
    return matches


def image_features(
    index: neighbours.Index, images: Sequence[Path | str], model: Path | None, reading: Reading
) -> tuple[np.ndarray, list[str]]:
    """Features (Q, D) of images computed as those of the index were, and the names of the images. Raises RunError."""
    if model is None:
        raise RunError(f"{images[0]}: not a row of {index.path}; to search for an image, give its --model too")
    network = model_folder.load_as(model, MRM, Classifier, BareEncoder)
    if model_folder.weights_digest(model) != index.facts["model"]:
        raise RunError(f"{index.path}: made by another model than {model}; features of two models cannot be compared")
    for key, value in (("precision", reading.precision), ("crop_borders", reading.crop_borders)):
        if index.facts[key] != value:
            raise RunError(f"{index.path}: made with {key} {index.facts[key]!r}, so use the same, not {value!r}")
    records = records_at(images, reading.images)
    workers = 0 if len(records) < 8 else reading.workers  # starting workers takes longer than reading a few images
    features_QD, unreadable = predict.features(
        network.to(device_of(reading)), records, "pooled", reading.batch, workers, reading.precision,
        reading.crop_borders,
    )  # fmt: skip
    if unreadable:
        raise RunError(next(iter(unreadable.values())))
    return features_QD.astype(np.float32), [r.name for r in records]
