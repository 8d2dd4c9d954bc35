"""The images of an index that are nearest to others."""

# Shapes: Q queries, D features, T neighbours
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrm.data.finding_files import records_at
from mrm.inference import neighbours, predict
from mrm.models import model_folder
from mrm.models.classifier import Classifier
from mrm.models.mrm import MRM
from mrm.runs.reading_options import Reading, device_of
from mrm.runs.work import KNOWN
from mrm.system.errors import RunError
from mrm.system.partial_results import Row

SIMILAR: dict[str, type] = {"query": str, "rank": int, "cosine": float, **KNOWN}


def similar(
    queries: Sequence[Path | str], index: Path, model: Path | None = None, top: int = 5, reading: Reading = Reading()
) -> list[Row]:
    """The images of an index nearest to each query by the cosine of their pooled features, exactly, best first.

    A query is a row of the index, by its path there, or an image (then `model` must be the one that made the index).
    Rows have `query, rank, cosine, path, patient_id, study_id`; a row of the index does not find itself. Raises RunError for
    another model, an index that is none, or a query that cannot be read.
    """
    if top < 1:
        raise RunError(f"--top must be at least 1, not {top}")
    found = neighbours.read_index(Path(index))
    at = {row["path"]: number for number, row in reversed(list(enumerate(found.rows)))}
    own = [at.get(str(query)) for query in queries]
    images = [query for query, number in zip(queries, own, strict=True) if number is None]
    features_QD, names, own_Q = _query_features(found, own, queries, images, model, reading)
    cosine_QT, row_QT = neighbours.nearest(features_QD, found.blocks(), top, own_Q)
    answers = []
    for name, cosine_T, row_T in zip(names, cosine_QT, row_QT, strict=True):
        for rank, (cosine, number) in enumerate(zip(cosine_T, row_T, strict=True), 1):
            if number >= 0:
                known = {k: found.rows[number][k] for k in KNOWN}
                answers.append({"query": name, "rank": rank, "cosine": round(float(cosine), 6), **known})
    return answers


def _query_features(
    index: neighbours.Index,
    own: Sequence[int | None],
    queries: Sequence[Path | str],
    images: Sequence[Path | str],
    model: Path | None,
    reading: Reading,
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Features (Q, D) of the queries, how each is called, and its row of the index or -1."""
    names = [str(query) for query, number in zip(queries, own, strict=True) if number is not None]
    rows = [number for number in own if number is not None]
    features = neighbours.take(index, rows)
    if images:
        if model is None:
            raise RunError(f"{images[0]}: no row of {index.path}; to look for an image, give its --model too")
        network = model_folder.load_as(model, MRM, Classifier)
        if model_folder.weights_digest(model) != index.facts["model"]:
            raise RunError(
                f"{index.path}: made by another model than {model}; features of two models cannot be compared"
            )
        records = records_at(images, reading.images)
        for key, now in (("precision", reading.precision), ("crop_borders", reading.crop_borders)):
            if index.facts[key] != now:
                raise RunError(f"{index.path}: made with {key} {index.facts[key]!r}, so give the same, not {now!r}")
        new_QD, unreadable = predict.features(
            network.to(device_of(reading)), records, "pooled", reading.batch, 0 if len(records) < 8 else reading.workers,
            reading.precision, reading.crop_borders,
        )  # fmt: skip
        if unreadable:
            raise RunError(next(iter(unreadable.values())))
        features = np.concatenate([features, new_QD.astype(np.float32)])
        names += [r.name for r in records]
    own_Q = np.array([*rows, *[-1] * (len(names) - len(rows))])
    return features, names, own_Q
