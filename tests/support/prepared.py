"""Prepared corpora, made up: what the suites of `mrm benchmark` need, with tiny images."""

from pathlib import Path

import numpy as np

from mrm.corpora import class_names
from mrm.data import images
from mrm.recipes.suites import Suite
from tests.support.image_files import random_image, write_image

CLASSES = {  # of the recipes; other entries name their own
    "nih": class_names.NIH,
    "chexpert": class_names.CHEXPERT,
    "chexpert-test": class_names.CHEXPERT,
    "rsna": class_names.RSNA,
}


BATCH = 96  # of the published fine-tunings, which need as many records
SEEDS = {"train": 1000, "train_10": 2000, "train_1": 3000, "val": 4000, "test": 5000}  # of the images of a set


def write_prepared(suite: Suite, root: Path, count: int = 8) -> Path:
    """Every set and segmentation folder that a suite needs, of patients with one image, classes present in turns.

    Sets for validation and tests have `count` images, those for training enough for a batch.
    """
    for entry in suite.runnable:
        if entry.kind == "segment":
            _write_masks(root / entry.folder, count)
            continue
        for name in (entry.train, entry.val, entry.test):
            corpus = name.split("/")[0]
            _write_set(root, name, entry.classes or CLASSES[corpus], count)
    return root


def _write_set(root: Path, name: str, classes: tuple[str, ...], count: int) -> None:
    file = root / f"{name}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(BATCH if file.stem.startswith("train") else count):
        image = f"files/{file.stem}{i}.png"
        write_image(file.parent / image, seed=SEEDS[file.stem] + i)
        labels = ",".join(str((i + c) % 2) for c in range(len(classes)))
        rows.append(f"{image},{file.stem}{i},{labels}")
    columns = ",".join(classes)
    file.write_text("\n".join([f"image_path,patient_id,{columns}", *rows]) + "\n")


def _write_masks(folder: Path, count: int) -> None:
    for number, split in enumerate(("training", "validation", "test")):
        for i in range(max(count, 2 * count * (split == "training"))):
            mask = np.zeros((24, 20), np.uint8)
            mask[4:12, 3:9] = i % 2
            for kind, pixels in (("images", random_image(100 * number + i)), ("annotations", mask)):
                file = folder / kind / split / f"{split}{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(images.encode_png(pixels))
