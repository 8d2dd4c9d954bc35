"""Reports to label by hand: `mrm label sample` draws them so that rare findings are among them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from mrm.data.records import Records
from mrm.runs.labelling import SUFFIXES, rows_as_reports
from mrm.runs.output_lock import alone_on
from mrm.runs.run_folder import spare_inputs
from mrm.statistics.sampling import chances, systematic_sample
from mrm.system.errors import RunError
from mrm.system.output_folder import writing
from mrm.system.table_files import check_suffix

WEIGHT = "sampling_weight"  # the inverse of a report's chance to be drawn


@alone_on("out")
def sample_labels(labelled: Path, out: Path, count: int = 100, seed: int = 0, classes: tuple[str, ...] = ()) -> Records:
    """Draw `count` reports of labelled records to label by hand, and write them with empty labels.

    Rare findings have a higher chance, which the column `sampling_weight` makes up for in `check_labels`. The labels are left
    out, so that they influence nobody. Equal arguments draw equal reports. Raises RunError for fewer reports.
    """
    check_suffix(out, SUFFIXES)
    records = Records.load(labelled, classes or None)
    spare_inputs([labelled], records, [out])
    reports = replace(records, rows=[row for row in rows_as_reports(records) if row.report])
    if count < 1 or len(reports) < count:
        raise RunError(
            f"{labelled}: has {len(reports):,} reports; --n must be from 1 to {len(reports):,}, not {count:,}"
        )
    chance_N = chances(reports.labels_NC, count)
    empty = tuple(math.nan for _ in records.classes)
    drawn = [
        replace(reports.rows[i], labels=empty, extra={**reports.rows[i].extra, WEIGHT: f"{1 / chance_N[i]:.6g}"})
        for i in systematic_sample(chance_N, seed).tolist()
    ]
    sample = replace(records, rows=drawn, source=str(out))
    with writing(out):
        sample.to_csv(out) if out.suffix == ".csv" else sample.to_parquet(out)
    print(
        f"{out}: {len(sample):,} reports of {len(reports):,}, {len(set(sample.people)):,} patients; weights from "
        f"{1 / np.max(chance_N):.3g} to {1 / np.min(chance_N):.3g}"
    )
    return sample
