"""A folder as MIMIC-CXR-JPG is downloaded, of any size, for `mrm prepare mimic`; its images share their bytes.

    python -m benchmarks.scale.mimic_tree --studies 227835 --out DIR
    mrm prepare mimic --source DIR --out PREPARED --check none

Each image is a hard link to one of 64 files of 390 x 320 pixels, so a tree of the real size takes little more room than its names.
Tables have the columns of the real ones, reports are those of `table.py`, in `mimic-cxr-reports.zip` or, with `--report-files`, each
in a file of its own. 227,835 studies, as MIMIC-CXR-JPG 2.0.0 has, make some 377,000 images.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.scale.table import IMAGES, IMAGES_PER_STUDY, rows
from mrm.corpora.mimic import CLASSES
from mrm.data import images

HEIGHT, WIDTH = 390, 320
METADATA = (
    *(
        "dicom_id",
        "subject_id",
        "study_id",
        "PerformedProcedureStepDescription",
        "ViewPosition",
        "Rows",
        "Columns",
        "StudyDate",
    ),
    *("StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning"),
    "PatientOrientationCodeSequence_CodeMeaning",
)
SPLITS, SHARES = ("train", "validate", "test"), (0.978, 0.008, 0.014)  # as the real split has them


def main() -> None:
    """Write the tree, and say how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--report-files", action="store_true", help="reports as files instead of an archive")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    count = write(options.out, options.studies, options.report_files, options.seed)
    print(f"{options.out}: {count:,} images of {options.studies:,} studies, {time.perf_counter() - start:.0f} s")


def write(folder: Path, studies: int, report_files: bool, seed: int) -> int:
    """Images, tables and reports. Returns the number of images."""
    folder.mkdir(parents=True)
    originals = write_originals(folder, seed)
    rng = np.random.default_rng(seed)
    metadata, split, reports = [], [], {}
    for number, (_, report, patient, study, view) in enumerate(rows(int(studies * IMAGES_PER_STUDY), seed)):
        if f"p{patient[:2]}/p{patient}/s{study}" not in reports:
            reports[f"p{patient[:2]}/p{patient}/s{study}"] = report
            part = rng.choice(SPLITS, p=SHARES)
        words = rng.integers(0, 2**32, 5)
        dicom = "-".join(f"{word:08x}" for word in words)
        image = folder / "files" / f"p{patient[:2]}" / f"p{patient}" / f"s{study}" / f"{dicom}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        os.link(originals[number % IMAGES], image)
        described = (
            "CHEST (PA AND LAT)",
            view,
            HEIGHT,
            WIDTH,
            "21800506",
            "213014.531",
            "CHEST (PA AND LAT)",
            "postero-anterior",
        )
        metadata.append((dicom, patient, study, *described, "Erect"))
        split.append((dicom, study, patient, part))
    write_table(folder / "mimic-cxr-2.0.0-metadata.csv", METADATA, metadata)
    write_table(folder / "mimic-cxr-2.0.0-split.csv", ("dicom_id", "study_id", "subject_id", "split"), split)
    write_table(folder / "mimic-cxr-2.0.0-chexpert.csv", ("subject_id", "study_id", *CLASSES), labels(reports, seed))
    write_reports(folder, reports, report_files)
    return len(metadata)


def write_originals(folder: Path, seed: int) -> list[Path]:
    """The 64 images that all paths lead to: a bright oval in noise."""
    rng = np.random.default_rng(seed)
    rows_H1, columns_1W = np.ogrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    oval_HW = 160 * np.exp(-2 * (rows_H1**2 + columns_1W**2))
    (folder / "shared").mkdir()
    originals = []
    for number in range(IMAGES):
        image_HW = (oval_HW + rng.normal(48, 12, (HEIGHT, WIDTH))).clip(0, 255).astype(np.uint8)
        originals.append(folder / "shared" / f"{number:02}.jpg")
        originals[-1].write_bytes(images.encode_jpeg(image_HW))
    return originals


def labels(reports: Iterable[str], seed: int) -> Iterable[tuple[str, ...]]:
    """Patient, study and the labels of each study: 1.0, 0.0, -1.0 or empty."""
    rng = np.random.default_rng([seed, 1])
    for place in reports:
        _, patient, study = place.split("/")
        yield patient[1:], study[1:], *rng.choice(("1.0", "0.0", "-1.0", ""), len(CLASSES), p=(0.15, 0.05, 0.05, 0.75))


def write_table(file: Path, columns: Iterable[str], lines: Iterable[tuple[object, ...]]) -> None:
    """One table with a header."""
    with open(file, "w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(lines)


def write_reports(folder: Path, reports: dict[str, str], as_files: bool) -> None:
    """`files/p10/p10000000/s50000000.txt` and so on, in the archive or in the folder `mimic-cxr-reports`."""
    if as_files:
        for place, report in reports.items():
            file = folder / "mimic-cxr-reports" / "files" / f"{place}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(report)
        return
    with zipfile.ZipFile(folder / "mimic-cxr-reports.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for place, report in reports.items():
            archive.writestr(f"files/{place}.txt", report)


if __name__ == "__main__":
    main()
