"""Values for a viewer that sets the window itself: what is shown first is what `images.read` gives, and the values are the file's."""

import cv2
import numpy as np
import pytest
import tifffile
from pydicom.sequence import Sequence

from mrm.data import display, grey_levels, images
from mrm.data.grey_levels import Window
from mrm.system.errors import ImageError
from tests.support.dicom_files import dicom_bytes, lookup_table

DEEP = np.random.default_rng(0).integers(0, 4096, (40, 30)).astype(np.uint16)
TWELVE = {"BitsStored": 12, "HighBit": 11}
SIGNED = (DEEP.astype(np.int32) - 2000).astype(np.int16)


def levels_of(data: bytes):
    return display.levels_of(images.open_image(data))


def values_of(grey) -> np.ndarray:
    return grey.low + grey.step * (grey.levels_HW.astype(float) - 1)


def tiff(pixels, path, **options) -> bytes:
    tifffile.imwrite(path, pixels, **options)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("pixels", "tags", "window"),
    [
        (DEEP, {**TWELVE, "WindowCenter": 1500, "WindowWidth": 900}, Window(1500, 900, "LINEAR")),
        (DEEP, {**TWELVE, "WindowCenter": 1500, "WindowWidth": 900, "VOILUTFunction": "SIGMOID"}, Window(1500, 900, "SIGMOID")),
        (DEEP, {**TWELVE, "PhotometricInterpretation": "MONOCHROME1"}, Window.of_range(DEEP.min(), DEEP.max())),
        (DEEP, {**TWELVE, "VOILUTSequence": Sequence([lookup_table(range(0, 4096, 2), 1000, 12)])}, Window.of_range(DEEP.min(), DEEP.max())),
        ((DEEP % 256).astype(np.uint8), {}, Window.of_range(0, 255)),
        (SIGNED, {}, Window.of_range(SIGNED.min(), SIGNED.max())),
    ],
    ids=["window", "sigmoid", "monochrome1", "VOI table", "8 bits", "signed"],
)  # fmt: skip
def test_a_dicom_is_shown_first_as_it_is_read_and_keeps_its_values(pixels, tags, window):
    data = dicom_bytes(pixels, **tags)
    grey = levels_of(data)
    np.testing.assert_array_equal(grey.image_HW, images.read(data))
    np.testing.assert_array_equal(values_of(grey), pixels)
    assert grey.window == window
    assert grey.inverted == (tags.get("PhotometricInterpretation") == "MONOCHROME1")


def test_values_are_those_after_rescaling_or_the_modality_table():
    rescaled = levels_of(dicom_bytes(DEEP, **TWELVE, RescaleSlope="-0.5", RescaleIntercept="100"))
    np.testing.assert_allclose(values_of(rescaled), DEEP * -0.5 + 100)
    table = np.arange(4096)[::-1] * 3
    tags = {"ModalityLUTSequence": Sequence([lookup_table(table, 0, 16)]), **TWELVE}
    looked_up = levels_of(dicom_bytes(DEEP, **tags))
    np.testing.assert_allclose(values_of(looked_up), table[DEEP])
    np.testing.assert_array_equal(looked_up.image_HW, images.read(dicom_bytes(DEEP, **tags)))


def test_all_sixteen_bits_fit_within_one_value():
    full = np.arange(65536).astype(np.uint16).reshape(256, 256)
    data = dicom_bytes(full)
    grey = levels_of(data)
    assert grey.levels_HW.min() == 1
    assert np.abs(values_of(grey) - full).max() == 1  # 65,536 values, 65,535 levels beside that of padding
    assert np.abs(grey.image_HW.astype(int) - images.read(data)).max() <= 1


def test_padding_is_level_0_and_black():
    padded = DEEP.copy()
    padded[:5] = 0
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        data = dicom_bytes(padded, **TWELVE, PixelPaddingValue=0, PhotometricInterpretation=photometric)
        grey = levels_of(data)
        np.testing.assert_array_equal(grey.levels_HW == 0, padded == 0)
        np.testing.assert_array_equal(grey.image_HW, images.read(data))
        assert (grey.shrunk(20).levels_HW[:3, :] == 0).mean() > 0.5
    nothing = levels_of(dicom_bytes(np.zeros((4, 4), np.uint16), PixelPaddingValue=0))
    assert not nothing.image_HW.any()


def test_deep_png_and_tiff_keep_their_values(tmp_path):
    png = cv2.imencode(".png", DEEP)[1].tobytes()
    deep_tiff = tiff(DEEP, tmp_path / "a.tif")
    white_is_zero = tiff(DEEP, tmp_path / "b.tif", photometric="miniswhite")
    floats = tiff((DEEP / 4096).astype(np.float32), tmp_path / "c.tif")
    for data, expected, tolerance in ((png, DEEP, 0), (deep_tiff, DEEP, 0), (white_is_zero, DEEP, 0), (floats, DEEP / 4096, 1e-5)):  # fmt: skip
        grey = levels_of(data)
        np.testing.assert_allclose(values_of(grey), expected, atol=tolerance)
        assert np.abs(grey.image_HW.astype(int) - images.read(data)).max() <= 1
    assert levels_of(white_is_zero).inverted


def test_eight_bits_and_colour_are_shown_as_they_are():
    radiograph = (DEEP % 256).astype(np.uint8)
    for data in (images.encode_png(radiograph), images.encode_jpeg(radiograph)):
        np.testing.assert_array_equal(levels_of(data).image_HW, images.read(data))
    colour = dicom_bytes(np.dstack([radiograph, radiograph // 2, radiograph // 3]))
    np.testing.assert_array_equal(levels_of(colour).image_HW, images.read(colour))


def test_a_constant_image_is_one_level():
    grey = grey_levels.of_range(np.full((3, 3), 700, np.uint16))
    assert values_of(grey).tolist() == [[700] * 3] * 3
    assert not grey.image_HW.any()


def test_shrinking_takes_means_of_values():
    grey = levels_of(dicom_bytes(DEEP, **TWELVE)).shrunk(20)
    assert grey.levels_HW.shape == (20, 15)
    means = DEEP.reshape(20, 2, 15, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(values_of(grey), means, atol=0.51)


def test_what_cannot_be_read_is_refused_as_ever(monkeypatch):
    with pytest.raises(ImageError, match="bytes of pixel data"):
        levels_of(dicom_bytes(DEEP, Rows=41))
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with pytest.raises(ImageError, match="more than 100"):
        levels_of(dicom_bytes(DEEP))
