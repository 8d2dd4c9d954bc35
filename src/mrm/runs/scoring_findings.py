"""Findings without labels: a pre-trained model scores sentences that state or deny them (`mrm zero-shot`)."""

# Shapes: N test images, F findings, S sentences
from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from mrm.data.finding_files import records_at
from mrm.data.records import Records
from mrm.inference import predict
from mrm.inference.prediction_table import KNOWN, NOTES
from mrm.inference.report_filling import tokenizer_of
from mrm.inference.zero_shot import Findings, can_be_told, read_findings, sentence_function
from mrm.models.mrm import MRM
from mrm.runs.filling_in import load_mrm
from mrm.runs.output_lock import alone_on
from mrm.runs.reading_options import Reading
from mrm.runs.run_folder import spare_inputs
from mrm.runs.work import Work
from mrm.runs.written import Written
from mrm.statistics import ranking
from mrm.statistics.intervals import Estimate
from mrm.system.errors import RecordError, RunError
from mrm.system.partial_results import Row
from mrm.system.table_files import check_suffix, write_table
from mrm.system.text_table import ESTIMATE_HEAD, estimate_cells, text_table


@alone_on("out")
def zero_shot(
    model: Path,
    paths: Sequence[Path | str],
    findings: Path | str,
    out: Path,
    test: Path | None = None,
    others: Sequence[Path] = (),
    seed: int = 0,
    tokenizer: Path | None = None,
    reading: Reading = Reading(),
) -> Written:
    """Score the findings of a YAML file on images, a row for each image, and write the table.

    Labelled records in `test` tell first whether each finding can be told: AUROC with an interval by patient. A finding
    whose interval includes 0.5 gets no scores. Scores are relative to the test images, else to `others`, else to the
    scored images themselves. Raises RunError where no finding can be told, where no image can be read and for both a test
    and others; ConfigError, RecordError, ReportError.
    """
    check_suffix(Path(out))
    if test and others:
        raise RunError("--test and --others both say what scores are relative to; give one of them")
    if reading.precision == "int8":
        raise RunError(
            "--precision int8 is for images; the words of reports are computed in fp32, bf16 or fp16, choose one of these"
        )
    asked = read_findings(findings)
    network = load_mrm(model, tokenizer, reading.device)
    tokenizer_of(network)
    compute = sentence_function(network, asked.sentences, seed)
    records = records_at(paths, reading.images)
    spare_inputs([*paths, *([test] if test else [])], records, [Path(out)])
    reference = records_at(others, reading.images) if others else None
    told = tuple(asked.findings)
    if test:
        reference = _labelled(asked, test, reading)
    reference_NS = likelihoods(network, reference, asked, compute, reading) if reference else None
    if test and reference and reference_NS is not None:
        told = told_findings(asked, reference, reference_NS)
    else:
        warnings.warn(
            "these scores are not tested: give labelled records with --test to learn whether the model can tell the findings",
            stacklevel=2,
        )
    work = Work(
        "scoring", network, model, records, Path(out), reading, {"sentences": asked.sentences, "seed": seed},
        len(asked.sentences),
    )  # fmt: skip
    work.run(lambda rows, values: None, compute)
    columns = {**KNOWN, **dict.fromkeys(asked.findings, float), **NOTES}

    def write(rows: Callable[[], Iterator[Row]]) -> None:
        reference_S = mean_of(work) if reference_NS is None else np.nanmean(reference_NS, axis=0)
        score = partial(scored, asked, told, reference_S)
        write_table(Path(out), columns, map(score, work.with_features(rows())), work.facts())

    return work.finish(write)


def scored(asked: Findings, told: Sequence[str], reference_S: np.ndarray, row: Row) -> Row:
    """The row of an image with a score for each finding that can be told."""
    if row.get("error"):
        return row
    scores_F = asked.scores(np.asarray(row.pop("feature"), dtype=float)[None], reference_S)[0]
    return row | {name: float(s) for name, s in zip(asked.findings, scores_F, strict=True) if name in told}


def mean_of(work: Work) -> np.ndarray:
    """The mean (S,) over the images of a command that could be read."""
    total_S, count = np.zeros(work.width), 0
    for values_S in work.partial.values(work.keys):
        if np.isfinite(values_S).all():
            total_S, count = total_S + values_S, count + 1
    return total_S / max(count, 1)


def likelihoods(
    network: MRM, records: Records, asked: Findings, compute: Callable[[Tensor], Tensor], reading: Reading
) -> np.ndarray:
    """The mean ln p a word (N, S) of each sentence with each image, NaN where it cannot be read. Raises RunError."""
    likelihoods_NS, unreadable = predict.values_over(
        network, records, compute, (len(asked.sentences),), reading.batch, reading.workers, reading.precision,
        reading.crop_borders,
    )  # fmt: skip
    for reason in list(unreadable.values())[:5]:
        warnings.warn(f"left out {reason}", stacklevel=3)
    if len(unreadable) == len(records):
        raise RunError(f"{records.source}: none of the {len(records)} images could be read")
    return likelihoods_NS


def _labelled(asked: Findings, test: Path, reading: Reading) -> Records:
    """The labelled records of the test. Raises RecordError if they know none of the findings."""
    records = Records.load(test, None, images=reading.images)
    if set(asked.findings).isdisjoint(records.classes):
        raise RecordError(
            f"{test}: has labels of {', '.join(records.classes) or 'nothing'}, and of none of the findings "
            f"{', '.join(asked.findings)}; name the findings as the columns are named"
        )
    return records


def told_findings(asked: Findings, tested: Records, likelihoods_NS: np.ndarray) -> tuple[str, ...]:
    """The findings whose AUROC on the test is above chance; prints a table of all. Raises RunError if there is none."""
    readable_N = np.isfinite(likelihoods_NS).all(axis=1)
    scores_NF = asked.scores(likelihoods_NS[readable_N], np.nanmean(likelihoods_NS, axis=0))
    rows = [r for r, readable in zip(tested, readable_N, strict=True) if readable]
    labels_NC = np.array([r.labels for r in rows])
    groups = [p for p, readable in zip(tested.patients, readable_N, strict=True) if readable]
    estimates: dict[str, Estimate] = {}
    for name, scores_N in zip(asked.findings, scores_NF.T, strict=True):
        if name in tested.classes:
            labels_N = labels_NC[:, tested.classes.index(name)]
            estimates[name] = ranking.interval(labels_N, scores_N, groups=groups)
    print(verdicts(asked, estimates))
    told = tuple(name for name, e in estimates.items() if can_be_told(e))
    if not told:
        raise RunError(
            "none of the findings can be told: by the table above, scores might be chance; reword the "
            "sentences as the reports do, pre-train for longer, or fine-tune with labels"
        )
    return told


def why_not(estimate: Estimate) -> str:
    """Why a finding with this AUROC gets no scores."""
    turned = replace(estimate, value=1 - estimate.value, low=1 - estimate.high, high=1 - estimate.low)
    if can_be_told(turned):
        return "worse than chance"
    return "0.5 is in the interval" if math.isfinite(estimate.low) else "too few records to tell"


def verdicts(asked: Findings, estimates: Mapping[str, Estimate]) -> str:
    """The table of AUROC and of what follows, a row for each finding."""
    rows = []
    for name in asked.findings:
        if name not in estimates:
            rows.append([name, "not scored: the test has no labels of it", *[""] * len(ESTIMATE_HEAD)])
            continue
        estimate = estimates[name]
        verdict = "scored" if can_be_told(estimate) else f"not scored: {why_not(estimate)}"
        rows.append([name, verdict, *estimate_cells(estimate.to_dict())])
    return text_table(["finding", "", *ESTIMATE_HEAD], rows, text_columns=2)
