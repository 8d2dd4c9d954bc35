"""What a DICOM file costs to read is bounded, whatever it claims; and the bounds change no image."""

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit

from benchmarks import serve_attacks
from benchmarks.serve_attacks import element
from mrm.data import dicom_limits, images
from mrm.system.errors import ImageError
from tests.support.dicom_files import dataset, dicom_bytes, saved
from tests.support.odd_images import assert_refused_quickly

IMAGE = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
ITEM, END = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF), struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
TOO_MANY = "far more data elements, items or fragments"


def with_element(raw: bytes) -> bytes:
    """A good radiograph with one more element at its place, before the pixel data."""
    whole = dicom_bytes(IMAGE)
    at = whole.index(struct.pack("<HH", 0x7FE0, 0x10))
    return whole[:at] + raw + whole[at:]


def undefined_sequence(count: int, depth: int = 1) -> bytes:
    """A private sequence of undefined length: `count` items, each `depth` sequences deep."""
    start = struct.pack("<HH2sHL", 0x0029, 0x1001, b"SQ", 0, 0xFFFFFFFF) + ITEM
    item_end = struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
    return start * depth + (item_end + ITEM) * count + (item_end + END) * depth


def many_fragments(count: int) -> bytes:
    made = dataset(IMAGE)
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    made.PixelData = encapsulate([images.encode_jpeg(IMAGE)]) + struct.pack("<HHL", 0xFFFE, 0xE000, 0) * count
    made["PixelData"].is_undefined_length = True
    return saved(made)


ATTACKS = {
    "deflated, without preamble": (lambda: serve_attacks.deflated(300), "inflates to more than 256 MiB"),
    "deflated, with preamble": (lambda: serve_attacks.deflated(300, preamble=True), "inflates to more than 256 MiB"),
    "deflated elements": (
        lambda: serve_attacks.deflated(3, content=serve_attacks.private_elements(125_000)),
        TOO_MANY,
    ),
    "elements": (lambda: serve_attacks.elements(5_900_000), TOO_MANY),
    "elements without preamble": (lambda: serve_attacks.elements(300_000)[132:], TOO_MANY),
    "items of a sequence": (lambda: with_element(undefined_sequence(300_000)), TOO_MANY),
    "sequences in sequences": (lambda: with_element(undefined_sequence(1, depth=20_000)), "damaged DICOM"),
    "window centres": (
        lambda: with_element(struct.pack("<HH2sHL", 0x28, 0x1050, b"UT", 0, 8_000_000) + b"1\\\\1 " * 2_000_000),
        r"\(0028,1050\) has 8,000,000 bytes",
    ),
    "a table of a million items": (
        lambda: with_element(element(0x28, 0x3010, b"SQ", struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 1_000_000)),
        r"\(0028,3010\) has 8,000,000 bytes",
    ),
    "fragments": (lambda: many_fragments(1_000_000), TOO_MANY),
}  # fmt: skip


@pytest.fixture(scope="module")
def attacks(tmp_path_factory) -> Path:
    """A folder with the file of each attack, by its place among them."""
    folder = tmp_path_factory.mktemp("attacks")
    for number, (make, _) in enumerate(ATTACKS.values()):
        (folder / f"{number}.dcm").write_bytes(make())
    return folder


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_quickly(attacks, name):
    file = attacks / f"{list(ATTACKS).index(name)}.dcm"
    assert_refused_quickly(file.read_bytes(), ATTACKS[name][1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_all_attacks_together_need_little_memory(attacks):
    """In a process of its own: the most that it ever held, of which 80 MB are libraries and 50 MB the largest file."""
    script = """
import pathlib, re, sys, warnings
from mrm.data import images
from mrm.system.errors import ImageError
warnings.simplefilter("ignore")
refused = 0
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        images.read(path)
    except ImageError:
        refused += 1
most = re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())
print(refused, int(most[1]) // 1024)
"""
    ended = subprocess.run([sys.executable, "-c", script, attacks], capture_output=True, text=True, timeout=120)
    refused, megabytes = (int(word) for word in ended.stdout.split())
    assert refused == len(ATTACKS)
    assert megabytes < 400


@pytest.mark.parametrize("preamble", [True, False])
def test_an_ordinary_deflated_file_is_read_with_and_without_preamble(preamble):
    data = dicom_bytes(IMAGE, DeflatedExplicitVRLittleEndian)
    np.testing.assert_array_equal(images.read(data if preamble else data[132:]), IMAGE)
    np.testing.assert_array_equal(pydicom.dcmread(io.BytesIO(data)).pixel_array, IMAGE)  # by another reader


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_deflated_file_that_is_cut_off_says_so(share):
    data = dicom_bytes(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8), DeflatedExplicitVRLittleEndian)
    with pytest.raises(ImageError, match="cut off"):
        images.read(data[: round(share * len(data))])


def test_as_many_elements_and_bytes_as_the_limits_allow_are_read():
    values = b"".join(element(0x29, number, b"UL", b"") for number in range(0x1000, 0x1000 + 20_000))
    np.testing.assert_array_equal(images.read(with_element(values)), IMAGE)
    private = with_element(element(0x29, 0x1000, b"OB", bytes(4 * dicom_limits.MAX_VALUE)))  # describes no image
    np.testing.assert_array_equal(images.read(private), IMAGE)
