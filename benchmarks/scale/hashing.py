"""How many images a core hashes in a second, beside those that it only decodes; and what halving large images does to a hash.

    python benchmarks/scale/hashing.py --images DIR --out hashing.json

Radiographs in DIR are enlarged to 2544 x 3056 with a little noise, and shrunk to 512 pixels, as JPEG of quality 95. All is done in
one thread, and times are those of the processor. Beside the hash that the audit takes stands that of the whole image without
halving: how many bits lie between the two, and how many copies each of them finds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mrm.audit.perceptual_hashes import (
    THRESHOLD,
    content_hash,
    distance,
    perceptual_hash,
    perceptual_hashes,
    without_border,
)
from mrm.data import images

LARGE, SMALL = (3056, 2544), 512
NOISE = 3.0  # standard deviation, in grey levels
COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "resizing to 224": lambda x: shrunk(x, 224),
    "resizing to 1000": lambda x: shrunk(x, 1000),
    "JPEG quality 50": lambda x: images.read(images.encode_jpeg(x, 50)),
    "inversion": lambda x: 255 - x,
    "mirroring": lambda x: x[:, ::-1].copy(),
    "crop of 1 %": lambda x: x[15:-15, 13:-12].copy(),
    "an odd number of rows": lambda x: x[1:].copy(),
}


def main() -> None:
    """Measure, print the results, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=40, help="images")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    files = sorted(options.images.iterdir())
    originals = [images.read(file) for file in files[:: max(1, len(files) // options.count)][: options.count]]
    report: dict[str, Any] = {"images": len(originals), "milliseconds of the processor": {}}
    large = [enlarged(image, seed) for seed, image in enumerate(originals)]
    sizes = {"2544 x 3056": large, "512": [shrunk(image, SMALL) for image in originals]}
    for size, some in sizes.items():
        report["milliseconds of the processor"][size] = speed([bytes(images.encode_jpeg(image, 95)) for image in some])
        print(json.dumps(report, indent=1), flush=True)
    for size, some in sizes.items():
        bits = [int(distance(whole(image)[0], perceptual_hashes(image)[0])) for image in some]
        report[f"{size}: bits by which halving changes a hash"] = {
            "median": float(np.median(bits)),
            "maximum": max(bits),
        }
        report[f"{size}: copies"] = {name: found(some, change) for name, change in COPIES.items()}
    print(json.dumps(report, indent=1))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


def enlarged(image: np.ndarray, seed: int) -> np.ndarray:
    """The image at 2544 x 3056 pixels, with noise."""
    large = cv2.resize(image, LARGE[::-1], interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(seed).standard_normal(LARGE, np.float32)
    return np.clip(np.rint(large + NOISE * noise), 0, 255).astype(np.uint8)


def shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """The image at a shorter side of so many pixels."""
    scale = side / min(image.shape)
    return images.resize(image, round(image.shape[0] * scale), round(image.shape[1] * scale))


def speed(encoded: Sequence[bytes]) -> dict[str, float]:
    """What an image takes, in milliseconds, and how many of them a core reads and hashes in a second."""
    decoded = [images.read(data) for data in encoded]
    took = {
        "decoding": milliseconds(images.read, encoded),
        "exact hash": milliseconds(content_hash, decoded),
        "perceptual hashes": milliseconds(perceptual_hashes, decoded),
        "perceptual hashes without halving": milliseconds(whole, decoded),
    }
    all_of_it = took["decoding"] + took["exact hash"] + took["perceptual hashes"]
    per_second = {"images a second, decoded": 1000 / took["decoding"], "images a second, hashed": 1000 / all_of_it}
    return {name: round(value, 2) for name, value in (took | per_second).items()}


def milliseconds(work: Callable[[Any], object], items: Sequence[Any]) -> float:
    """The time of the processor that an item takes."""
    work(items[0])
    start = time.process_time()
    for item in items:
        work(item)
    return 1000 * (time.process_time() - start) / len(items)


def whole(image: np.ndarray) -> np.ndarray:
    """The hashes (2, 4) of an image that is not halved."""
    return np.stack([perceptual_hash(image), perceptual_hash(without_border(image))])


def found(originals: Sequence[np.ndarray], change: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
    """How many copies lie within the threshold of their originals, and the most bits between the two, with and without halving."""
    result = {}
    for name, hashes in (("halved", perceptual_hashes), ("not halved", whole)):
        bits = [nearest(hashes(image), hashes(change(image))) for image in originals]
        result[name] = {
            "found": sum(b <= THRESHOLD for b in bits),
            "median": float(np.median(bits)),
            "maximum": max(bits),
        }
    return result


def nearest(first_24: np.ndarray, second_24: np.ndarray) -> int:
    """The fewest bits between either hash of one image and either of another."""
    return min(int(distance(a, b)) for a in first_24 for b in second_24)


if __name__ == "__main__":
    main()
