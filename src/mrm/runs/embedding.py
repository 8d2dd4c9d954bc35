"""Features of images, to search in or to learn from."""

# Shapes: N images, D features
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrm.data.finding_files import records_at
from mrm.inference import predict
from mrm.inference.predict import Kind
from mrm.inference.prediction_table import KNOWN, NOTES
from mrm.models import model_folder
from mrm.models.bare_encoder import BareEncoder
from mrm.models.classifier import Classifier
from mrm.models.image_sizes import at_size
from mrm.models.mrm import MRM
from mrm.runs.output_lock import alone_on
from mrm.runs.reading_options import Reading, placed
from mrm.runs.run_folder import spare_inputs
from mrm.runs.work import Work
from mrm.runs.written import Written
from mrm.system.files import reserve, write_by, write_json
from mrm.system.output_folder import writing
from mrm.system.partial_results import Row
from mrm.system.table_files import FEATURE_SUFFIXES, check_suffix, write_table

BESIDE = {".npy": (".csv", ".json")}  # the suffixes of the files that are written beside features


@alone_on("out", BESIDE, share="reading.share")
def embed(
    model: Path,
    paths: Sequence[Path | str],
    out: Path,
    kind: Kind = "pooled",
    reading: Reading = Reading(),
    image_size: int | None = None,
) -> Written:
    """Features of images as NPY, with their names in a CSV and the facts in a JSON beside it, or as Parquet.

    Row i of the array is row i of the CSV; an image that could not be read is NaN (null in Parquet). `image_size` is another
    one than the model was trained at. Raises as `predict_table` does, and ConfigError for a size that the model cannot take.
    """
    suffix = check_suffix(Path(out), FEATURE_SUFFIXES)
    network = at_size(model_folder.load_as(model, MRM, Classifier, BareEncoder), image_size)
    if isinstance(network, BareEncoder):
        print(f"{model}: {network.card.origin['keys']}")
    placed(network, reading)
    shape = predict.feature_shape(network, kind)
    compute = predict.feature_function(network, kind)
    settings = {"kind": kind, "shape": list(shape), "image_size": network.config.image_size}
    records = records_at(paths, reading.images)
    spare_inputs(paths, records, [Path(out).with_suffix(s) for s in (suffix, *BESIDE.get(suffix, ()))])
    work = Work("embedding", network, model, records, Path(out), reading, settings, int(np.prod(shape)))
    work.run(lambda rows, values: None, compute)  # the values are kept, and the rows need nothing of them
    columns: dict[str, Any] = {**KNOWN, **NOTES}
    if suffix == ".parquet":
        wide = columns | {"feature": work.width}
        return work.finish(lambda rows: write_table(Path(out), wide, work.with_features(rows()), work.facts()))
    return work.finish(lambda rows: _write_npy(work, shape, columns, rows()))


def _write_npy(work: Work, shape: Sequence[int], columns: Mapping[str, type], rows: Iterator[Row]) -> None:
    """Write names and facts first and the array last, so that where the array is, the other files are too."""
    write_table(work.out.with_suffix(".csv"), columns, rows)
    write_json(work.out.with_suffix(".json"), work.facts())

    def write(temporary: Path) -> None:
        full = (len(work.keys), *shape)
        with open(temporary, "wb") as file:  # not mapped: a write to a full disk is then an error, not a SIGBUS
            header = {"descr": "<f4", "fortran_order": False, "shape": full}
            np.lib.format.write_array_header_1_0(file, header)
            reserve(file, file.tell() + 4 * math.prod(full))
            for values in work.partial.values(work.keys):
                file.write(values.tobytes())

    with writing(work.out):
        write_by(work.out, write)
