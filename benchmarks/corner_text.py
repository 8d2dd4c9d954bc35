"""Does the check of `mrm pack --deidentified` find names in the corners of radiographs, and does it leave plain ones alone?

    python benchmarks/corner_text.py --images covid-cxr/images pneumonia-cxr/images tuberculosis/images

Of each folder a sample is looked at as it is: how many are refused. (The COVID-19 collection is from publications, and many of
its images do have text.) Into the corners of those that pass, names are drawn in fonts of OpenCV, white, with capitals of 2 to 4.5 % of
the image's height, and it is counted how many are found where the ground is dark. Writes `benchmarks/results/corner_text.json`.
"""

# Shapes: H W pixels
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mrm.data import images
from mrm.data.personal_marks import in_corners
from mrm.statistics.intervals import proportion
from mrm.system.files import write_json

RESULTS = Path(__file__).parent / "results" / "corner_text.json"
TEXTS = ("MUELLER, HANS", "SMITH JOHN 12.03.1955", "Garcia Maria", "DOE^JANE", "Herz-Jesu-Krankenhaus", "ID 0012345")
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX)
CAPITAL = 22  # pixels of a capital at scale 1
DARK = 140  # mean grey of the ground, below which text in white can be read well


def with_name(image_HW: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """The image with a name in one of its corners, and the mean grey of the ground under it."""
    height, width = image_HW.shape
    scale = max(rng.uniform(0.02, 0.045) * height, 9) / CAPITAL
    text, font, thickness = TEXTS[rng.integers(len(TEXTS))], FONTS[rng.integers(len(FONTS))], max(1, round(2 * scale))
    (w, h), _ = cv2.getTextSize(text, font, scale, thickness)
    x, y = (5, max(0, width - w - 5))[rng.integers(2)], (h + 5, height - 8)[rng.integers(2)]
    drawn_HW = cv2.putText(image_HW.copy(), text, (x, y), font, scale, 255, thickness, cv2.LINE_AA)
    return drawn_HW, float(image_HW[max(0, y - h) : y, x : x + w].mean())


def measured(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Shares of a sample that are refused as they are, and of names that are found, with intervals over images."""
    rng = np.random.default_rng(seed)
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    sample = [images.read(files[i]) for i in sorted(rng.permutation(len(files))[:count])]
    refused = [bool(in_corners(image)) for image in sample]
    hits = []
    for image in (image for image, has_text in zip(sample, refused, strict=True) if not has_text):
        drawn, ground = with_name(image, rng)
        if ground < DARK:
            hits.append(bool(in_corners(drawn)))
    return {
        "refused": proportion(refused, sum(refused)).to_dict(),
        "found": proportion(hits, sum(hits)).to_dict(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--n", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    results = {folder.parent.name: measured(folder, args.n, args.seed) for folder in args.images}
    write_json(args.out, {"n": args.n, "seed": args.seed, "folders": results})
    for name, result in results.items():
        print(
            name, {key: (value["positives"], value["n"], value["low"], value["high"]) for key, value in result.items()}
        )


if __name__ == "__main__":
    main()
