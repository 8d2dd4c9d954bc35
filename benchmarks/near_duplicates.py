"""Which copies of a radiograph does the audit find? Perceptual hashes of real images, changed as copies are.

    python benchmarks/near_duplicates.py --adults covid-cxr --children pneumonia-cxr

ADULTS is the COVID-19 Image Data Collection (`images/`), CHILDREN the paediatric set of Kermany et al. (`images/`,
`labels.csv` with image_path and patient_id). Prints, for every change, how many bits of the hash it changes and how many
copies stay within the audit's threshold; then how near the images of different patients come. Writes
`benchmarks/results/near_duplicates.json`. About a minute on one core.
"""

# Shapes: N images
from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mrm.audit.perceptual_hashes import THRESHOLD, distance, perceptual_hashes
from mrm.data import images
from mrm.data.records import Records
from mrm.system import hardware
from mrm.system.files import write_json

Change = Callable[[np.ndarray], np.ndarray]
NEAR = (36, 39, 44, 52, 60)  # bits at which pairs of different patients are counted
SIDE = 512  # images are shrunk to this shorter side, as public sets are


def window(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """The image in a window whose ends are these percentiles of its grey values."""
    start, end = np.percentile(image, [low, high])
    return np.rint(np.clip((image - start) / max(end - start, 1.0), 0, 1) * 255).astype(np.uint8)


def gamma(image: np.ndarray, power: float) -> np.ndarray:
    """The image with another contrast curve."""
    return np.rint(255 * (image / 255) ** power).astype(np.uint8)


def bordered(image: np.ndarray, share: float, grey: int) -> np.ndarray:
    """The image in a frame whose width is a share of its longer side."""
    width = round(share * max(image.shape))
    return cv2.copyMakeBorder(image, *[width] * 4, cv2.BORDER_CONSTANT, value=grey)


def squared(image: np.ndarray, grey: int = 0) -> np.ndarray:
    """The image padded to a square."""
    height, width = image.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return cv2.copyMakeBorder(
        image, top, side - height - top, left, side - width - left, cv2.BORDER_CONSTANT, value=grey
    )


def cropped(image: np.ndarray, share: float) -> np.ndarray:
    """The image without this share of its rows and columns, half of it at each edge."""
    y, x = (round(share / 2 * side) for side in image.shape)
    return image[y : image.shape[0] - y, x : image.shape[1] - x].copy()


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """The image after lossy compression."""
    return images.read(images.encode_jpeg(image, quality))


def shrunk(image: np.ndarray, side: int = 224) -> np.ndarray:
    """The image at a shorter side of so many pixels."""
    scale = side / min(image.shape)
    return images.resize(image, round(image.shape[0] * scale), round(image.shape[1] * scale))


CHANGES: dict[str, Change] = {
    "resizing to 224": shrunk,
    "JPEG quality 50": lambda x: jpeg(x, 50),
    "JPEG quality 20": lambda x: jpeg(x, 20),
    "gamma 0.6": lambda x: gamma(x, 0.6),
    "gamma 1.6": lambda x: gamma(x, 1.6),
    "window, 10 % black and 10 % white": lambda x: window(x, 10, 90),
    "window, 5 % black and 30 % white": lambda x: window(x, 5, 70),
    "inversion": lambda x: 255 - x,
    "resizing, gamma 1.4, window and JPEG 50 together": lambda x: jpeg(window(gamma(shrunk(x), 1.4), 5, 95), 50),
    "local contrast enhancement (CLAHE)": lambda x: cv2.createCLAHE(2.0, (8, 8)).apply(x),
    "padding to a square, black": squared,
    "padding to a square, white": lambda x: squared(x, 255),
    "padding to a square, grey, and JPEG 50": lambda x: jpeg(squared(x, 114), 50),
    "black border of 5 %": lambda x: bordered(x, 0.05, 0),
    "black border of 5 %, JPEG 50, resizing": lambda x: shrunk(jpeg(bordered(x, 0.05, 0), 50)),
    "mirroring": lambda x: x[:, ::-1].copy(),
    "mirroring, inversion, black border, JPEG 50": lambda x: jpeg(bordered(255 - x[:, ::-1], 0.05, 0), 50),
    "crop of 1 %": lambda x: cropped(x, 0.01),
    "crop of 2 %": lambda x: cropped(x, 0.02),
    "crop of 5 %": lambda x: cropped(x, 0.05),
    "rotation by 2 degrees": lambda x: cv2.warpAffine(
        x, cv2.getRotationMatrix2D((x.shape[1] / 2, x.shape[0] / 2), 2, 1), x.shape[::-1], flags=cv2.INTER_LINEAR
    ),
}


def copies(files: list[Path]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The hashes (N, 2, 4) of images, and of every change of them."""

    def one(file: Path) -> list[np.ndarray]:
        image = images.read(file)
        image = shrunk(image, SIDE) if min(image.shape) > SIDE else image
        return [perceptual_hashes(image), *(perceptual_hashes(change(image)) for change in CHANGES.values())]

    with ThreadPoolExecutor(hardware.cores()) as pool:
        hashes = np.array(list(pool.map(one, files)))
    return hashes[:, 0], {name: hashes[:, i] for i, name in enumerate(CHANGES, 1)}


def nearest(first_N24: np.ndarray, second_N24: np.ndarray) -> np.ndarray:
    """The fewest bits (N,) in which either hash of an image differs from either hash of another."""
    bits = [distance(first_N24[..., i, :], second_N24[..., j, :]) for i in range(2) for j in range(2)]
    return np.minimum.reduce(bits)


def changed_bits(original_N24: np.ndarray, changed_N24: np.ndarray) -> dict[str, Any]:
    """How far the copies lie from their originals, and how many the audit finds."""
    bits_N = nearest(original_N24, changed_N24)
    low, high = np.percentile(bits_N, [50, 99])
    found = int((bits_N <= THRESHOLD).sum())
    return {
        "n": len(bits_N), "median": float(low), "99 %": float(high), "maximum": int(bits_N.max()),
        "found": found, "share": found / len(bits_N),
    }  # fmt: skip


def different(first_N24: np.ndarray, second_M24: np.ndarray, differ: Callable[[int], np.ndarray]) -> dict[str, Any]:
    """How near the images of different patients come; `differ(i)` masks the images compared with image i."""
    histogram = np.zeros(257, np.int64)
    for i, one in enumerate(first_N24):
        histogram += np.bincount(nearest(one[None], second_M24[differ(i)]), minlength=257)
    below = histogram.cumsum()
    near = {f"at most {bits}": int(below[bits]) for bits in NEAR}
    return {"pairs": int(below[-1]), **near, "median": int(np.searchsorted(below, below[-1] / 2))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adults", type=Path, required=True)
    parser.add_argument("--children", type=Path, required=True)
    parser.add_argument("--every", type=int, default=10, help="of the children, so many are changed")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "near_duplicates.json")
    options = parser.parse_args()
    report: dict[str, Any] = {"threshold": THRESHOLD, "changes": {}}
    children = Records.load(options.children / "labels.csv")
    files = [r.image for r in children if isinstance(r.image, Path)]
    adults_N24, by_change = copies(sorted((options.adults / "images").iterdir()))
    some_N24, by_change_of_children = copies(files[:: options.every])
    for name in CHANGES:
        report["changes"][name] = {
            "adults": changed_bits(adults_N24, by_change[name]),
            "children": changed_bits(some_N24, by_change_of_children[name]),
        }
        a, c = report["changes"][name]["adults"], report["changes"][name]["children"]
        print(
            f"{name:52} {a['median']:4.0f} {a['99 %']:4.0f} {a['maximum']:4d}  found {a['share']:7.1%} of {a['n']} adult "
            f"and {c['share']:7.1%} of {c['n']} children's images",
            flush=True,
        )
    with ThreadPoolExecutor(hardware.cores()) as pool:
        hashes_N24 = np.array(list(pool.map(lambda file: perceptual_hashes(images.read(file)), files)))
    patient_N = np.array([r.patient for r in children])
    place_N = np.arange(len(patient_N))
    report["different patients"] = {
        "children": different(hashes_N24, hashes_N24, lambda i: (patient_N != patient_N[i]) & (place_N > i)),
        "a child and an adult": different(hashes_N24, adults_N24, lambda i: np.ones(len(adults_N24), bool)),
    }
    for name, counts in report["different patients"].items():
        print(f"{name}: {counts}")
    write_json(options.out, report)


if __name__ == "__main__":
    main()
