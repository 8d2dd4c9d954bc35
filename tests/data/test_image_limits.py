"""Small JPEG and PNG files that would take a decoder minutes or gigabytes, or make it print what they say."""

import struct
import time
import zlib

import cv2
import numpy as np
import pytest
from pydicom.uid import JPEGBaseline8Bit

from benchmarks import serve_attacks
from mrm.data import headers, images
from tests.support.dicom_files import dicom_bytes
from tests.support.odd_images import assert_refused_quickly

IMAGE = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(*chunks: bytes) -> bytes:
    """A good PNG with more chunks after its header."""
    whole = images.encode_png(IMAGE)
    return whole[:33] + b"".join(chunks) + whole[33:]


def jpeg_with(segments: bytes) -> bytes:
    """A good JPEG with more segments at its start."""
    whole = images.encode_jpeg(IMAGE)
    return whole[:2] + segments + whole[2:]


ATTACKS = {
    "scans": (lambda: serve_attacks.scans(2000, side=2048), "2,0.. scans, more than 64"),
    "scans inside DICOM": (
        lambda: dicom_bytes(IMAGE, JPEGBaseline8Bit, serve_attacks.scans(2000, side=64)),
        "2,0.. scans, more than 64",
    ),
    "segments": (lambda: jpeg_with(b"\xff\xfe\0\x02" * 5_000_000), "header is cut off or damaged"),
    "fill bytes": (lambda: jpeg_with(b"\xff" * 20_000_000), "header is cut off or damaged"),
    "chunks": (lambda: png_with(chunk(b"tEXt", b"") * 2_000_000), "PNG is cut off or damaged"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_quickly(name):
    make, reason = ATTACKS[name]
    assert_refused_quickly(make(), reason)


@pytest.mark.parametrize("colour", [False, True])
def test_progressive_jpegs_are_read_and_64_scans_are_no_attack(colour):
    pixels = np.dstack([IMAGE, IMAGE.T, 255 - IMAGE]) if colour else IMAGE
    jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    expected = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(images.read(jpeg), expected)
    scans = jpeg.count(b"\xff\xda")
    assert 1 < scans < headers.MAX_SCANS
    most = serve_attacks.scans(headers.MAX_SCANS - scans, side=64)
    headers.check_scans(most, headers.parse(most, "a", "jpeg"), "a")


METADATA = {
    "profile": chunk(b"iCCP", b"Secret^Name\0\0" + zlib.compress(bytes(200))),
    "text bomb": chunk(b"zTXt", b"Secret^Name\0\0" + zlib.compress(bytes(7_000_000))) * 200,
    "suggested palette": chunk(b"sPLT", b"Secret^Name\0\x08" + bytes(5)),
    "calibration": chunk(b"pCAL", b"Secret^Name\0" + bytes(8) + b"\x09\x09"),
}


@pytest.mark.parametrize("kind", METADATA)
def test_what_a_png_says_beside_its_pixels_is_not_unpacked_and_not_printed(kind, capfd):
    data = png_with(METADATA[kind])
    began = time.process_time()
    np.testing.assert_array_equal(images.read(data), IMAGE)
    assert time.process_time() - began < 1
    assert "Secret" not in "".join(capfd.readouterr())


def test_transparency_and_palettes_are_pixels():
    palette = cv2.imencode(".png", cv2.cvtColor(IMAGE, cv2.COLOR_GRAY2BGRA))[1].tobytes()
    np.testing.assert_array_equal(images.read(palette), IMAGE)
    ihdr = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 8, 3, 0, 0, 0))  # two pixels of colours 1 and 0
    rows = chunk(b"PLTE", bytes([10, 10, 10, 200, 200, 200])) + chunk(b"IDAT", zlib.compress(b"\0\1\0"))
    indexed = b"\x89PNG\r\n\x1a\n" + ihdr + chunk(b"tEXt", b"a\0b") + rows + chunk(b"IEND", b"")
    np.testing.assert_array_equal(images.read(indexed), [[200, 10]])
