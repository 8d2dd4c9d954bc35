"""Predictions of files as a hospital has them, in this process, and stopped in the middle."""

import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np

from mrm.data import images
from mrm.data.headers import MAX_BYTES
from mrm.runs import predicting
from mrm.runs.reading_options import Reading
from mrm.system.partial_results import Partial
from tests.support.dicom_files import dicom_bytes
from tests.support.run_files import table

IN_PROCESS = Reading(batch=8, workers=0)  # read in this process: the tests are many, and small


def predicted_rows(model: Path, paths, out: Path, reading: Reading = IN_PROCESS) -> list[dict[str, str]]:
    predicting.predict_table(model, paths, out, reading)
    return table(out)


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", b"x" * 999)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in some thousand bytes."""
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))  # noqa: E731
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(60_001) * 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def nan_tiff() -> bytes:
    values = np.ones((40, 40), np.float32)
    values[3, 4] = np.nan
    return cv2.imencode(".tif", values)[1].tobytes()


def write_awkward_files(folder: Path, phantoms: Path) -> Path:
    radiograph = images.read(phantoms / "images" / "S0-000000.jpg")
    good = (phantoms / "images" / "S0-000000.jpg").read_bytes()
    contents = {
        "00-good.jpg": good,
        "01-zero-bytes.png": b"",
        "02-truncated.jpg": good[: len(good) // 2],
        "03-truncated.png": images.encode_png(radiograph)[:900],
        "04-text.jpg": b"patient,finding\n1,none\n" * 9,
        "05-bomb.png": bomb(),
        "06-zip.png": zipped(),
        "07-nan.tif": nan_tiff(),
        "08-no-pixels.dcm": dicom_bytes(radiograph, PixelData=None),
        "09-frames.dcm": dicom_bytes(
            np.concatenate([radiograph, radiograph]), Rows=radiograph.shape[0], NumberOfFrames=2
        ),
        "10-lies.dcm": dicom_bytes(radiograph, Rows=radiograph.shape[0] + 9),
        "20-wrong-extension.png": good,
        "21-one-pixel.png": images.encode_png(np.full((1, 1), 7, np.uint8)),
        "22-all-black.png": images.encode_png(np.zeros((50, 60), np.uint8)),
        "23-ct.dcm": dicom_bytes(radiograph, Modality="CT", BodyPartExamined="ABDOMEN"),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "11-gone.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "12-pipe.png")
    with open(folder / "13-video.dcm", "wb") as file:
        file.truncate(MAX_BYTES + 1)  # takes no room on the disk
    return folder


class Stopped(Exception):
    pass


def stop_after(monkeypatch, batches: int) -> None:
    """Die in the middle of the batch after so many."""
    real, count = Partial.add, iter(range(10_000))

    def add(self, rows, values=None):
        if next(count) == batches:
            with open(self.part, "ab") as file:
                file.write(b'[["half a li')  # as a kill leaves it
            raise Stopped
        real(self, rows, values)

    monkeypatch.setattr(Partial, "add", add)
