"""Which unusual images a model's outlier score tells: `python -m benchmarks.outlier_kinds MODEL DATA`.

DATA is the folder of real data beside the checkout (`../shared/data`). The reference is learned from 450 of its 662
radiographs of the tuberculosis set; others of them, changed and unchanged, and other images are then scored.
"""

import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import mrm
from mrm.data import images
from mrm.data.records import Record, Records
from mrm.inference import outliers, predict

KNOWN, NEW = 450, 150


def features(model, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Pooled features (N, D) of grey images."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.png" for number in range(len(arrays))]
        for path, array in zip(paths, arrays, strict=True):
            path.write_bytes(images.encode_png(np.ascontiguousarray(array)))
        return predict.features(model, Records([Record(path) for path in paths]), workers=0)[0]


def patterns(side: int = 320) -> list[np.ndarray]:
    """Chessboards, ramps, constant images and noise."""
    y, x = np.mgrid[0:side, 0:side]
    boards = [((x // step + y // step) % 2 * 255).astype(np.uint8) for step in (4, 16, 40, 80)]
    constant = [np.full((side, side), value, np.uint8) for value in (0, 128, 255)]
    ramps = [(axis * 255 // side).astype(np.uint8) for axis in (x, y)]
    return [*boards, *ramps, *constant, np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)]


def read_all(folder: Path, step: int = 1) -> list[np.ndarray]:
    return [images.read(path) for path in sorted(folder.iterdir())[::step]]


def main(place: str, data: Path) -> None:
    model = mrm.load(place)
    chests = read_all(data / "tuberculosis" / "images")
    chests = [chests[number] for number in np.random.default_rng(0).permutation(len(chests))]
    reference = outliers.reference(features(model, chests[:KNOWN]))
    new = chests[KNOWN : KNOWN + NEW]
    kinds = {
        "new, same hospital": new,
        "negatives of these": [255 - image for image in new],
        "upside down": [image[::-1] for image in new],
        "mirrored": [image[:, ::-1] for image in new],
        "another hospital (covid-cxr)": read_all(data / "covid-cxr" / "images", 6),
        "children (pneumonia-cxr)": read_all(data / "pneumonia-cxr" / "images", 60),
        "test patterns": patterns(),
        "teeth": [images.read(data / "dicom" / "CR-ModalitySequenceLUT.dcm")],
        "dog": [images.read(data / "dicom" / "dx_image.dcm")],
        "CT slice": [images.read(data / "dicom" / "anon_apct.dcm")],
    }
    print(f"threshold {reference.threshold:.2f}; median score and share above it")
    for kind, arrays in kinds.items():
        scores = outliers.outlying(features(model, arrays), reference)
        print(f"{kind:30} n {len(scores):3}  {np.median(scores):.2f}  {np.mean(scores > reference.threshold):.0%}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], Path(sys.argv[2]))
