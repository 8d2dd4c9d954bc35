"""JPEG: equal to OpenCV at every scale, missing data refused, harmless oddities read with a warning."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from mrm.data import images
from mrm.system.errors import ImageError

Y, X = np.mgrid[0:150, 0:203]
SMOOTH = (128 + 60 * np.sin(X / 17) + 60 * np.cos(Y / 11 + X / 90)).astype(np.uint8)
COLOUR = np.dstack([SMOOTH, SMOOTH[::-1], 255 - SMOOTH])
FLAGS = {
    1: cv2.IMREAD_GRAYSCALE,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


def jpeg(array: np.ndarray, mode: str | None = None, **options) -> bytes:
    file, image = io.BytesIO(), Image.fromarray(array)
    (image.convert(mode) if mode else image).save(file, "JPEG", quality=92, **options)
    return file.getvalue()


KINDS = {
    "grey": jpeg(SMOOTH),
    "progressive": jpeg(SMOOTH, progressive=True),
    "restart markers": jpeg(SMOOTH, restart_marker_rows=2),
    "colour": jpeg(COLOUR),
    "colour, 4:4:4": jpeg(COLOUR, subsampling=0),
    "RGB": jpeg(COLOUR, keep_rgb=True),
}


@pytest.mark.parametrize("factor", FLAGS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_equals_what_opencv_decodes(kind, factor):
    expected = cv2.imdecode(np.frombuffer(KINDS[kind], np.uint8), FLAGS[factor])
    np.testing.assert_array_equal(images.read(KINDS[kind], min_side=150 // factor), expected)


def test_inks_become_luma():
    inks = jpeg(COLOUR, "CMYK")
    with Image.open(io.BytesIO(inks)) as image:
        expected = np.asarray(image.convert("L")).astype(int)
    assert np.abs(images.read(inks) - expected).max() <= 1


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", [*KINDS, "CMYK"])
def test_data_that_stop_early_are_refused_at_every_scale(kind, kept):
    data = KINDS[kind] if kind in KINDS else jpeg(COLOUR, "CMYK")
    scan = data.rindex(b"\xff\xda")
    short = data[: scan + 20 + int((len(data) - scan - 20) * kept)] + b"\xff\xd9"
    for min_side in (None, 75, 18):
        with pytest.raises(ImageError, match=r"cut off or damaged, .* missing"):
            images.read(short, min_side)


def test_rows_that_are_missing_in_the_middle_are_refused():
    """A part between two restart markers is gone: what follows would stand in its place."""
    data = KINDS["restart markers"]
    first, third = data.index(b"\xff\xd1"), data.index(b"\xff\xd3")
    with pytest.raises(ImageError, match="cut off or damaged"):
        images.read(data[:first] + data[third:])


@pytest.mark.parametrize("kind", ["grey", "progressive"])
def test_bytes_too_many_are_read_with_a_warning(kind):
    data = KINDS[kind]
    with pytest.warns(UserWarning, match="not quite regular .*extraneous bytes.*; all its pixels were read"):
        got = images.read(data[:-2] + bytes(range(1, 90)) + data[-2:])
    np.testing.assert_array_equal(got, images.read(data))


def test_other_codings_are_refused_in_words():
    data = bytearray(KINDS["grey"])
    data[data.index(b"\xff\xc0") + 4] = 12  # bits of a sample
    with pytest.raises(ImageError, match="damaged, or a kind of JPEG that cannot be decoded"):
        images.read(bytes(data))
