"""A table of any number of records with reports, patients and studies; the images are few and shared.

    python benchmarks/scale/table.py --records 400000 --out DIR

`DIR/training.csv` is as `mrm prepare mimic` writes it, with some 60 words a report and 1.65 images a study. Each record has an
image path of its own, but there are 64 images: `images/00/17/42/0003.jpg` leads through the folders `00` to `99`, which are
links to the folder that they are in. So 10 million records take no more files than a thousand.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mrm.data import images

IMAGES, SIDE = 64, 256
IMAGES_PER_STUDY, STUDIES_PER_PATIENT = 1.655, 3.5  # MIMIC-CXR: 377,110 images, 227,835 studies, 65,379 patients
VALIDATION = 2_000  # records
FINDINGS = tuple(f"finding{number}" for number in range(14))
BODIES, ENDS = 4_000, 1_000  # different findings and impressions, of which reports are combined
SENTENCES = (
    "The heart is normal in size.",
    "The cardiac silhouette is mildly enlarged, unchanged from prior.",
    "Mediastinal and hilar contours are within normal limits.",
    "The lungs are clear without focal consolidation.",
    "There is a small {side} pleural effusion with adjacent atelectasis.",
    "No pleural effusion or pneumothorax is seen.",
    "Patchy opacity at the {side} lung base may reflect aspiration or developing pneumonia.",
    "A {side} PICC line terminates in the mid SVC.",
    "The endotracheal tube ends {number} cm above the carina.",
    "A nasogastric tube courses below the diaphragm and out of view.",
    "There is mild pulmonary vascular congestion without overt oedema.",
    "Linear scarring is again noted in the {side} mid lung zone.",
    "No acute osseous abnormality; degenerative changes of the thoracic spine.",
    "A {number} mm nodule projects over the {side} upper lobe.",
    "Low lung volumes accentuate the bronchovascular markings.",
    "Status post median sternotomy with intact wires.",
)


def main() -> None:
    """Write the images and the table, and say how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--labels", action="store_true", help="write labels.csv and val.csv instead, without reports")
    options = parser.parse_args()
    start = time.perf_counter()
    write_images(options.out / "images", options.seed)
    if options.labels:
        write_labels(options.out / "val.csv", VALIDATION, options.seed + 1)
        file = write_labels(options.out / "labels.csv", options.records, options.seed)
    else:
        file = write_table(options.out / "training.csv", options.records, options.seed)
    print(f"{file}: {options.records:,} records, {file.stat().st_size:,} bytes, {time.perf_counter() - start:.0f} s")


def write_images(folder: Path, seed: int) -> None:
    """The shared images, and a hundred links to their folder inside it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(IMAGES):
        noise_HW = rng.normal(128, 40, (SIDE, SIDE)).clip(0, 255).astype(np.uint8)
        (folder / f"{number:04}.png").write_bytes(images.encode_png(noise_HW))
    for number in range(100):
        link = folder / f"{number:02}"
        if not link.is_symlink():
            link.symlink_to(".")


def write_table(file: Path, count: int, seed: int) -> Path:
    """The table of `count` records. Returns its path."""
    with open(file, "w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(("image_path", "report_content", "patient_id", "study_id", "view"))
        writer.writerows(rows(count, seed))
    return file


def write_labels(file: Path, count: int, seed: int) -> Path:
    """A table of `count` records without reports, with labels as CheXpert has them: 1, 0, -1 or not stated."""
    cells = np.random.default_rng([seed, 1]).choice(
        ("1", "0", "-1", ""), (count, len(FINDINGS)), p=(0.2, 0.5, 0.05, 0.25)
    )
    with open(file, "w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(("image_path", "patient_id", "study_id", "view", *FINDINGS))
        for (path, _, *stated), labels in zip(rows(count, seed), cells, strict=True):
            writer.writerow((path, *stated, *labels))
    return file


def rows(count: int, seed: int) -> Iterator[tuple[str, str, str, str, str]]:
    """Path, report, patient, study and view of each record; the records of a study and of a patient are neighbours."""
    rng = np.random.default_rng(seed)
    bodies = [_text(rng, int(rng.integers(3, 7))) for _ in range(BODIES)]
    ends = [_text(rng, int(rng.integers(1, 3))) for _ in range(ENDS)]
    views = ("AP", "PA", "LATERAL")
    for number in range(count):
        study = int(number / IMAGES_PER_STUDY)
        # A multiplicative hash, so that a report depends on its study alone
        mixed = (study * 2_654_435_761 + seed) % 2**32
        report = f"FINDINGS: {bodies[mixed % BODIES]}\nIMPRESSION: {ends[mixed // BODIES % ENDS]}"
        yield (
            path_of(number, mixed % IMAGES),
            report,
            str(10_000_000 + int(study / STUDIES_PER_PATIENT)),
            str(50_000_000 + study),
            views[number % 3],
        )


def path_of(number: int, image: int) -> str:
    """A path that no other record has, to one of the shared images."""
    folders = (number // 10**4 % 100, number // 100 % 100, number % 100, number // 10**6)
    return f"images/{'/'.join(f'{folder:02}' for folder in folders)}/{image:04}.png"


def _text(rng: np.random.Generator, sentences: int) -> str:
    chosen = rng.choice(len(SENTENCES), sentences, replace=False)
    side, number = rng.choice(("left", "right")), int(rng.integers(2, 30))
    return " ".join(SENTENCES[i].format(side=side, number=number) for i in chosen)


if __name__ == "__main__":
    main()
