"""SIIM-ACR Pneumothorax's download, made up."""

from pathlib import Path

import numpy as np

from mrm.data.masks import encode
from tests.support.dicom_files import write_dicom

HEIGHT, WIDTH = 24, 20
ID = "1.2.276.0.7230010.3.1.4.8323329.{}.15178"


def lesion(number: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[2 : 5 + number % 4, 10:13] = True
    return mask


def write_tree(root: Path) -> Path:
    """24 images as the challenge lays them out, every third with a lesion, number 0 with two."""
    rows = ["ImageId, EncodedPixels"]
    for number in range(24):
        name = ID.format(number)
        tags = {"PatientID": f"p{number // 2}", "ViewPosition": "PA", "PatientSex": "M"}
        write_dicom(root / f"dicom-images-train/1.2.{number}/1.3.{number}/{name}.dcm", number, **tags)
        rows.append(f"{name},{encode(lesion(number)) if number % 3 == 0 else ' -1'}")
    second = np.zeros((HEIGHT, WIDTH), dtype=bool)
    second[20:23, 1:4] = True
    (root / "train-rle.csv").write_text("\n".join([*rows, f"{ID.format(0)},{encode(second)}"]) + "\n")
    return root
