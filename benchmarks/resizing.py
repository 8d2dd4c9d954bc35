"""What the way of resizing does: area averaging (fast, OpenCV) against Pillow's bilinear filter (the published one).

    python benchmarks/resizing.py --data DIR --out resizing.json

DIR has `pneumonia-cxr` and `covid-cxr`, as tests use them. Grey values are compared at 224 pixels, where the whole radiograph
is resized for a test. Logits are those of a small classifier (the recipe `tiny` from random weights, trained by area
averaging on pneumonia in children), on test images of other patients in either way, and on the images of `covid-cxr`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

import mrm
from mrm import recipes, runs
from mrm.data import images
from mrm.data.records import Record, Records
from mrm.inference import predict
from mrm.models import model_folder, noise
from mrm.models.classifier import Classifier
from mrm.models.mrm import MRM
from mrm.statistics import ranking

TEST, VAL, SIZE = 0.3, 0.1, 224  # shares of the patients; pixels


def main() -> None:
    """Measure, print, and write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=150, help="of fine-tuning, 32 images each")
    parser.add_argument("--limit", type=int, default=None, help="records of each set, for a trial")
    options = parser.parse_args()
    other = [Record(p) for p in sorted((options.data / "covid-cxr" / "images").iterdir())][: options.limit]
    report = {"grey levels at 224 pixels": grey_levels(other), "steps": options.steps}
    with tempfile.TemporaryDirectory() as folder:
        train, val, test = split(options.data / "pneumonia-cxr" / "labels.csv", Path(folder), options.limit)
        model = train_classifier(train, val, Path(folder), options.steps)
        report["pneumonia, other patients"] = logits(model, Records.load(test, ("pneumonia",)))
        report["covid-cxr"] = logits(model, Records(other, ()))
    print(json.dumps(report, indent=1))
    options.out.write_text(json.dumps(report, indent=1) + "\n")


def grey_levels(records: list[Record]) -> dict[str, float]:
    """How far the two ways are apart, over all pixels of all images."""
    differences = []
    for record in records:
        area, bilinear = (images.eval_image(record.image, SIZE, method=m).astype(int) for m in ("area", "bilinear"))
        differences.append(np.abs(area - bilinear).ravel())
    every = np.concatenate(differences)
    return {
        "images": len(records),
        "mean": round(float(every.mean()), 2),
        "99th percentile": float(np.quantile(every, 0.99)),
        "largest": int(every.max()),
        "largest mean of an image": round(max(float(d.mean()) for d in differences), 2),
    }


def split(labels: Path, folder: Path, limit: int | None) -> list[Path]:
    """Training, validation and test records in `folder`; no patient is in two of them."""
    records = Records.load(labels, ("pneumonia",))
    draw = np.random.default_rng(0).permutation(sorted({r.patient for r in records}))
    cuts = np.cumsum([round(share * len(draw)) for share in (TEST, VAL)])
    parts = dict(zip(("test", "val", "train"), map(set, np.split(draw, cuts)), strict=True))
    files = []
    for name in ("train", "val", "test"):
        rows = [r for r in records if r.patient in parts[name]]
        rows = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))[:limit]]
        files.append(replace(records, rows=rows).to_csv(folder / f"{name}.csv"))
    return files


def train_classifier(train: Path, val: Path, folder: Path, steps: int) -> Classifier:
    """The recipe `tiny` from random weights, in so many steps."""
    with noise.seeded(0):
        start = model_folder.save(folder / "start", MRM(recipes.TINY_MODEL))
    config = recipes.tiny_finetune(train, val, start, folder / "run", scratch=True, max_steps=steps, audit="names")
    model = mrm.load(runs.finetune(config))
    assert isinstance(model, Classifier)
    return model


def logits(model: Classifier, records: Records) -> dict[str, float | int]:
    """The logits of one classifier, its images resized in either way."""
    values = {}
    for method in ("area", "bilinear"):
        same = Classifier(replace(model.config, resize=method)).eval()  # type: ignore[arg-type]
        same.load_state_dict(model.state_dict())
        values[method] = predict.classify(same, records).logits_NC[:, 0]
    difference = np.abs(values["area"] - values["bilinear"])
    report: dict[str, float | int] = {
        "images": len(records),
        "deviation of the logits": round(float(values["area"].std()), 3),
        "mean difference": round(float(difference.mean()), 4),
        "largest difference": round(float(difference.max()), 3),
        "decisions that turn at odds of 1": int(((values["area"] > 0) != (values["bilinear"] > 0)).sum()),
    }
    if records.classes:
        for method, logits_N in values.items():
            report[f"AUROC, {method}"] = round(float(ranking.auroc(records.labels_NC[:, 0], logits_N)), 4)
    return report


if __name__ == "__main__":
    main()
