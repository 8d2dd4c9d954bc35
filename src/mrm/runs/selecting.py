"""What to label next: `mrm select` chooses images of a pool that a model doubts and that differ from each other."""

# Shapes: N images, C classes, K values of an image: C logits, and features
from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mrm.data.finding_files import records_at
from mrm.inference import predict, selection
from mrm.inference.decisions import DecisionRules
from mrm.inference.prediction_table import KNOWN
from mrm.models import model_folder
from mrm.models.bare_encoder import BareEncoder
from mrm.models.classifier import Classifier
from mrm.models.mrm import MRM
from mrm.runs.output_lock import alone_on
from mrm.runs.reading_options import Reading, placed
from mrm.runs.run_folder import spare_inputs
from mrm.runs.work import Work
from mrm.runs.written import Written
from mrm.system.errors import RunError
from mrm.system.partial_results import Row
from mrm.system.table_files import check_suffix, write_table


@alone_on("out")
def select(
    model: Path, paths: Sequence[Path | str], out: Path, count: int = 50, reading: Reading = Reading()
) -> Written:
    """Choose `count` images to label next, by the rule of `mrm.inference.selection`; writes a table, best first.

    The model is a classifier, by whose probabilities images are doubtful, or a pre-trained model. Raises RunError for a pool
    of fewer images.
    """
    check_suffix(Path(out))
    if count < 1:
        raise RunError(f"--n must be at least 1, not {count}")
    network = placed(model_folder.load_as(model, Classifier, MRM, BareEncoder), reading)
    records = records_at(paths, reading.images)
    if len(records) < count:
        raise RunError(
            f"the pool has {len(records):,} images, fewer than the {count:,} asked for; ask for fewer with --n, or add images"
        )
    spare_inputs(paths, records, [Path(out)])
    classes = network.config.classes if isinstance(network, Classifier) else ()
    rules = DecisionRules.of(network.card, classes)
    rules.target.require_probabilities(f"{model}: the doubt of an image")
    compute = (
        predict.scores_and_features(network)
        if isinstance(network, Classifier)
        else predict.feature_function(network, "pooled")
    )
    width = len(classes) + predict.feature_shape(network, "pooled")[0]
    work = Work("selecting", network, model, records, Path(out), reading, {"n": count}, width)
    work.run(lambda rows, values: None, compute)  # the values are kept, and the rows need nothing of them
    columns: dict[str, type] = {
        "rank": int,
        **KNOWN,
        "doubt": float,
        "distance": float,
        **dict.fromkeys(classes, float),
    }
    return work.finish(
        lambda rows: write_table(Path(out), columns, chosen_rows(work, list(rows()), rules, count), work.facts())
    )


def chosen_rows(work: Work, rows: Sequence[Row], rules: DecisionRules, count: int) -> Iterator[Row]:
    """The rows of the images chosen, best first, with their doubt, distance and probabilities."""
    readable = [number for number, row in enumerate(rows) if "error" not in row]
    values_NK = np.stack(list(work.values()))[readable].astype(np.float64)
    logits_NC, features_ND = np.split(values_NK, [len(rules.classes)], axis=1)
    probability_NC = rules.probabilities(logits_NC)
    doubt_N = selection.doubt_of(probability_NC) if rules.classes else np.ones(len(readable))
    patients = [rows[number].get("patient_id") or "" for number in readable]
    for rank, choice in enumerate(selection.choose(doubt_N, features_ND, patients, count), 1):
        known = {name: rows[readable[choice.image]].get(name) for name in KNOWN}
        said = dict(zip(rules.classes, probability_NC[choice.image].tolist(), strict=True))
        yield {"rank": rank, **known, "doubt": choice.doubt, "distance": choice.distance, **said}
