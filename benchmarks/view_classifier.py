"""How often `mrm views` tells lateral from frontal images: on real images whose view is stated, and on other sets.

    python benchmarks/view_classifier.py --data DIR --out FILE

DIR has `covid-cxr`, whose `metadata.csv` states the view of each image; a classifier is learned from them, held out by patient.
It is then tried on images of other sets: `rocov2-cxr`, by what captions say (a caption of a lateral radiograph that names no other
view; a caption that names a frontal view and no lateral one), and `tuberculosis` and `pneumonia-cxr`, which are frontal. Captions
are now and then wrong, and some of these laterals are of children or animals. About a minute.
"""

from __future__ import annotations

import argparse
import csv
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mrm import runs
from mrm.data.records import Record, Records
from mrm.inference import view_classifier
from mrm.statistics.intervals import proportion
from mrm.system.files import write_json

LATERAL = re.compile(r"\blateral (?:chest|view|radiograph|x-ray|film|projection)", re.IGNORECASE)
FRONTAL = re.compile(r"postero-?anterior|antero-?posterior|frontal|\bPA\b|\bAP\b", re.IGNORECASE)
OTHERS = 300  # images of a set that is frontal, spread evenly


def stated(folder: Path) -> Records:
    """The images of the COVID-19 Image Data Collection with their patient and view."""
    files = {file.stem: file for file in (folder / "images").iterdir()}
    with open(folder / "metadata.csv", newline="", encoding="utf-8", errors="replace") as text:
        rows = [row for row in csv.DictReader(text) if Path(row["filename"]).stem in files]
    records = [
        Record(files[Path(row["filename"]).stem], patient=row["patientid"], view=row["view"], name=row["filename"])
        for row in rows
    ]
    return Records(records, ())


def captioned(folder: Path) -> dict[str, list[Path]]:
    """Images of ROCOv2 whose caption says that they are lateral, or that they are frontal."""
    with open(folder / "training.csv", newline="", encoding="utf-8") as text:
        rows = [(folder / row["image_path"], row["report_content"]) for row in csv.DictReader(text)]
    lateral = [image for image, caption in rows if LATERAL.search(caption) and not FRONTAL.search(caption)]
    frontal = [image for image, caption in rows if FRONTAL.search(caption) and "lateral" not in caption.lower()]
    return {"lateral": lateral, "frontal": frontal}


def spread(files: Sequence[Path]) -> list[Path]:
    """`OTHERS` of the files, evenly."""
    return list(files)[:: max(1, len(files) // OTHERS)][:OTHERS]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True, help="the folder of the sets")
    arguments.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as place:
        table, file = Path(place) / "records.csv", Path(place) / "views.json"
        stated(options.data / "covid-cxr").to_csv(table)
        results = {"held out": runs.learn_views(table, file, workers=0)}
        classifier = view_classifier.load(file)
    captions = captioned(options.data / "rocov2-cxr")
    sets = {
        "rocov2, lateral by caption": captions["lateral"],
        "rocov2, frontal by caption": captions["frontal"],
        "tuberculosis, frontal": spread(sorted((options.data / "tuberculosis" / "images").iterdir())),
        "pneumonia in children, frontal": spread(sorted((options.data / "pneumonia-cxr" / "images").iterdir())),
    }
    for name, files in sets.items():
        hits = [classifier.is_lateral(image) for image in files]
        called = proportion(hits, sum(hits))
        results[name] = called.to_dict()
        print(f"{name}: called lateral {called}")
    write_json(options.out, results)


if __name__ == "__main__":
    main()
