"""The images of an index that are nearest to other images, or to a text."""

# Shapes: Q queries, N rows of an index, D features, E width of the vectors that contrast trained, T neighbours
from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mrm.data.finding_files import records_at
from mrm.inference import neighbours, predict, text_search
from mrm.inference.prediction_table import KNOWN
from mrm.models import model_folder
from mrm.models.bare_encoder import BareEncoder
from mrm.models.classifier import Classifier
from mrm.models.image_sizes import at_size
from mrm.models.mrm import MRM
from mrm.runs.reading_options import Reading, placed
from mrm.system.errors import RunError
from mrm.system.partial_results import Row

SIMILAR: dict[str, type] = {"query": str, "rank": int, "cosine": float, **KNOWN}


def similar(
    queries: Sequence[Path | str],
    index: Path,
    model: Path | None = None,
    top: int = 5,
    reading: Reading = Reading(),
    texts: Sequence[str] = (),
) -> list[Row]:
    """The images of an index nearest to each query, exact, best first: by the cosine of pooled features, or to a text.

    A query is a row of the index, given by its path there, or an image; images need the `model` that made the index.
    `texts` instead of queries find images by the cosine of the vectors that contrast trained, and need that model too.
    Rows have `query, rank, cosine, path, patient_id, study_id`; a row of the index does not match itself. Raises
    RunError for another model, a file that is not an index, or a query that cannot be read; ReportError for a text that the
    model cannot read.
    """
    if top < 1:
        raise RunError(f"--top must be at least 1, not {top}")
    if bool(queries) == bool(texts):
        raise RunError("give either images to search for, or a text with --text")
    features = neighbours.read_index(Path(index))
    if texts:
        queries_QE, blocks = text_search_in(features, texts, model, reading)
        return matches(features, list(texts), neighbours.nearest(queries_QE, blocks, top, np.full(len(texts), -1)))
    row_by_path = {row["path"]: number for number, row in reversed(list(enumerate(features.rows)))}
    paths = [str(query) for query in queries if str(query) in row_by_path]
    images = [query for query in queries if str(query) not in row_by_path]
    rows = [row_by_path[path] for path in paths]
    features_QD = neighbours.take(features, rows)
    if images:
        images_QD, names = image_features(features, images, model, reading)
        features_QD, paths = np.concatenate([features_QD, images_QD]), [*paths, *names]
    own_Q = np.array([*rows, *[-1] * (len(paths) - len(rows))])  # an image has no row of its own
    return matches(features, paths, neighbours.nearest(features_QD, features.blocks(), top, own_Q))


def matches(index: neighbours.Index, queries: Sequence[str], nearest: tuple[np.ndarray, np.ndarray]) -> list[Row]:
    """A row for each neighbour of each query, from cosines (Q, T) and rows of the index (Q, T)."""
    answers = []
    for query, cosine_T, row_T in zip(queries, *nearest, strict=True):
        for rank, (cosine, number) in enumerate(zip(cosine_T, row_T, strict=True), 1):
            if number >= 0:
                known = {column: index.rows[number][column] for column in KNOWN}
                answers.append({"query": query, "rank": rank, "cosine": round(float(cosine), 6), **known})
    return answers


def text_search_in(
    index: neighbours.Index, texts: Sequence[str], model: Path | None, reading: Reading
) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """Vectors (Q, E) of texts, and those of the index, some rows at a time. Raises RunError and ReportError."""
    if model is None:
        raise RunError(f"{index.path}: to search with a text, give the model that made it with --model")
    network = model_folder.load_as(model, MRM)
    require_maker(index, model)
    placed(network, reading)
    blocks = (text_search.image_vectors(network, block_ND) for block_ND in index.blocks())
    return text_search.text_vectors(network, texts), blocks


def require_maker(index: neighbours.Index, model: Path) -> None:
    """Raises RunError unless this model made the index."""
    if model_folder.weights_digest(model) != index.facts["model"]:
        raise RunError(f"{index.path}: made by another model than {model}; features of two models cannot be compared")


def image_features(
    index: neighbours.Index, images: Sequence[Path | str], model: Path | None, reading: Reading
) -> tuple[np.ndarray, list[str]]:
    """Features (Q, D) of images computed as those of the index were, and the names of the images. Raises RunError."""
    if model is None:
        raise RunError(f"{images[0]}: not a row of {index.path}; to search for an image, give its --model too")
    network = at_size(model_folder.load_as(model, MRM, Classifier, BareEncoder), index.facts.get("image_size"))
    require_maker(index, model)
    for key, value in (("precision", reading.precision), ("crop_borders", reading.crop_borders)):
        if index.facts[key] != value:
            raise RunError(f"{index.path}: made with {key} {index.facts[key]!r}, so use the same, not {value!r}")
    records = records_at(images, reading.images)
    workers = 0 if len(records) < 8 else reading.workers  # starting workers takes longer than reading a few images
    features_QD, unreadable = predict.features(
        placed(network, reading), records, "pooled", reading.batch, workers, reading.precision,
        reading.crop_borders,
    )  # fmt: skip
    if unreadable:
        raise RunError(next(iter(unreadable.values())))
    return features_QD.astype(np.float32), [r.name for r in records]
