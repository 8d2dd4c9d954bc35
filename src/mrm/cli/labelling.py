"""Commands that read labels from reports: label, label check, label sample."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mrm.cli.command import commands
from mrm.cli.shared_options import Draws, Images


def label(
    records: Path,
    /,
    findings: str,
    out: Path,
    not_mentioned: Literal["empty", "absent"] = "empty",
    images: Images = None,
) -> None:
    """Read labels from reports: present, absent or uncertain, each with its sentence.

    A finding file says which words name, deny and doubt each finding; english and german are ready ones for the 14
    findings of CheXpert. Labels are 1 present, 0 denied, -1 uncertain, empty not mentioned. OUT with .sentences.csv in
    place of its suffix has the sentence that decided each label. Test the labels with `mrm label sample` and
    `mrm label check` before you trust them.

    Example:
        mrm label prepared/records.csv --findings english --out labelled.csv

    Data:
        records: a CSV or Parquet file with the columns image_path and report_content.
        findings: english, german, or a YAML file of your own (docs/label.md).
        out: the records to write, with a column for each finding: .csv or .parquet.

    Labels:
        not_mentioned: empty leaves out what a report does not mention; absent writes 0.
    """
    from mrm import runs

    runs.label(records, findings, out, not_mentioned, images)
    print(f"next: mrm label sample {out} --n 100 --out to-label.csv")


def check(
    labelled: Path,
    /,
    truth: Path,
    out: Path | None = None,
    uncertain: Literal["ignore", "ones", "zeros"] = "ignore",
    draws: Draws = 2000,
    seed: int = 0,
) -> None:
    """Compare labels with those given by hand: kappa, sensitivity, precision, F1.

    Each has its interval by patient. A cell that is empty counts as absent in both files; rows without any label are not
    labelled yet and left out. Weights of `mrm label sample` are used, so that the numbers hold for all reports.

    Example:
        mrm label check labelled.csv --truth to-label.csv --out agreement

    Data:
        labelled: records that `mrm label` wrote.
        truth: the same records, or some of them, with labels given by hand: 1, 0, -1 or empty.
        out: also write agreement.json and disagreements.csv, with the sentences that decided, into this folder.

    Statistics:
        uncertain: what labels of -1 become in both files; ignore leaves them out.
        seed: of the resamples.
    """
    from mrm import runs

    runs.check_labels(labelled, truth, out, uncertain, draws, seed)
    if out:
        print(f"see {out / 'disagreements.csv'}")


def sample(labelled: Path, /, out: Path, n: int = 100, seed: int = 0, classes: tuple[str, ...] = ()) -> None:
    """Draw reports to label by hand, so that rare findings are among them.

    Fill in 1, 0 or -1 in the columns of the findings and give the file to `mrm label check`. The labels that were read from
    the reports are left out. The same command draws the same reports.

    Example:
        mrm label sample labelled.csv --n 100 --out to-label.csv

    Data:
        labelled: records that `mrm label` wrote.
        out: the reports to write: .csv or .parquet.
        classes: findings to label; by default all numeric columns.

    Sample:
        n: reports.
        seed: another seed draws other reports.
    """
    from mrm import runs

    runs.sample_labels(labelled, out, n, seed, classes)
    print(f"next: fill in its labels, then mrm label check {labelled} --truth {out}")


COMMANDS = {**commands(label), **commands(check, sample, under="label")}
