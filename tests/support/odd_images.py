"""Images as a hospital's export may hold them, in the place of a good one; and how an attack has to be refused."""

import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data import images
from mrm.data.records import Records
from mrm.system.errors import ImageError


def write_odd_image(path: Path, kind: str, good: bytes) -> None:
    """A file that a hospital's export may hold."""
    rng = np.random.default_rng(0)
    content = {
        "missing": None,
        "empty": b"",
        "truncated": good[: len(good) // 2],
        "text": b"this is not an image",
    }
    arrays = {
        "16-bit": rng.integers(0, 4096, (90, 70), dtype=np.uint16),
        "RGBA": rng.integers(0, 255, (90, 70, 4), dtype=np.uint8),
        "1 x N": rng.integers(0, 255, (1, 70), dtype=np.uint8),
    }
    if kind in arrays:
        cv2.imwrite(str(path.with_suffix(".png")), arrays[kind])
        path.with_suffix(".png").rename(path)
    elif kind == "palette":
        from PIL import Image

        Image.fromarray(rng.integers(0, 255, (90, 70), dtype=np.uint8)).convert("P").save(path, format="PNG")
    elif content[kind] is not None:
        path.write_bytes(content[kind])


def records_with(phantoms: Path, folder: Path, kind: str) -> Path:
    """Sixteen phantoms, one of them replaced."""
    rows = list(Records.load(phantoms / "records.csv", FINDINGS))[:16]
    file = folder / "images" / "odd.jpg"
    file.parent.mkdir(parents=True)
    write_odd_image(file, kind, rows[5].image.read_bytes())
    rows[5] = replace(rows[5], image=file, name="images/odd.jpg")
    return Records(rows, FINDINGS).to_csv(folder / "records.csv")


def assert_refused_quickly(data: bytes, reason: str) -> None:
    """A file that would take minutes to read is refused for a reason; 1 s at most was measured."""
    began = time.process_time()
    with pytest.raises(ImageError, match=reason):
        images.read(data)
    assert time.process_time() - began < 3
