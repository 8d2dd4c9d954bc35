"""Images in memory: the same pixels as the file of the same depth, and one line for what is no image."""

import io

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image

from mrm.data import images, in_memory
from mrm.data.records import Record
from mrm.system.errors import ConfigError, ImageError
from tests.support.dicom_files import dataset, saved
from tests.support.image_files import radiograph


def read(image, value_range=None) -> np.ndarray:
    return images.read(in_memory.source_of(image, "image 0", value_range))


def deep(dtype) -> np.ndarray:
    """A 12-bit radiograph that has values from 100 to 4000, or for signed types from -1000 to 2900."""
    values = 100 + radiograph(0, 64).astype(np.int64) * 3900 // 255
    return (values - (1100 if np.dtype(dtype).kind == "i" else 0)).astype(dtype)


def tiff(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, format="TIFF")
    return file.getvalue()


# ---- what is white -------------------------------------------------------------------------------------------


def test_8_bits_stay_as_they_are():
    image = radiograph(0, 64)
    for same in (image, image[:, :, None], np.dstack([image] * 3), torch.from_numpy(image), Image.fromarray(image)):
        np.testing.assert_array_equal(read(same), image)
    np.testing.assert_array_equal(read(image[:, ::-1].T), image[:, ::-1].T)  # not contiguous


@pytest.mark.parametrize("dtype", ["u2", ">u2", "i2", "i4", "f2", "f4", "f8"])
def test_the_least_value_of_a_deeper_array_is_black_and_the_greatest_white(dtype):
    values = deep(dtype)
    exact = values.astype(np.float64)
    expected = (exact - exact.min()) / (exact.max() - exact.min()) * 255
    assert np.abs(read(values) - expected).max() <= 0.51
    np.testing.assert_array_equal(read(np.dstack([values] * 3)), read(values))


def test_a_16_bit_array_its_png_and_its_dicom_are_the_same():
    values = deep(np.uint16)
    png, dicom = io.BytesIO(), saved(dataset(values))
    Image.fromarray(values).save(png, format="PNG")
    for file in (png.getvalue(), dicom, tiff(values)):
        np.testing.assert_array_equal(images.read(file), read(values))


def test_a_value_range_says_what_is_black_and_white():
    unit = np.array([[0.0, 0.2], [0.4, 0.6]], np.float32)
    np.testing.assert_array_equal(read(unit, (0, 1)), [[0, 51], [102, 153]])
    np.testing.assert_array_equal(read(unit), [[0, 85], [170, 255]])
    np.testing.assert_array_equal(read(unit - 0.2, (-0.2, 0.8)), [[0, 51], [102, 153]])
    image = radiograph(0, 64)
    np.testing.assert_array_equal(read(image.astype(np.float32), (0, 255)), image)
    np.testing.assert_array_equal(read(Image.fromarray(image / np.float32(255)), (0, 1)), image)


# ---- PIL and DICOM -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F"])
def test_every_mode_of_pil_is_read(mode):
    grey = Image.fromarray(np.where(radiograph(0, 32) > 99, 255, 0).astype(np.uint8))  # no mode loses anything of it
    if mode in ("I", "I;16", "F"):
        kind = {"I": np.int32, "I;16": np.uint16, "F": np.float32}[mode]
        converted = Image.fromarray(np.asarray(grey).astype(kind))
    else:
        converted = grey.convert("RGB" if mode in ("CMYK", "YCbCr", "RGBA") else "L").convert(mode)
    assert converted.mode == mode
    assert np.abs(read(converted).astype(int) - np.asarray(grey)).max() <= 1


def test_a_dataset_is_read_as_its_file_and_left_as_it_is():
    values = deep(np.uint16)
    for tags in ({}, {"PhotometricInterpretation": "MONOCHROME1"}, {"WindowCenter": 2000, "WindowWidth": 900}):
        file = saved(dataset(values, **tags))
        parsed = pydicom.dcmread(io.BytesIO(file))
        before = saved(parsed)
        np.testing.assert_array_equal(read(parsed), images.read(file))
        assert saved(parsed) == before
    bare = dataset(values, BitsStored=None, HighBit=None)
    with pytest.warns(UserWarning, match="BitsStored is not stated"):
        read(bare)
    assert "BitsStored" not in bare


def test_a_dataset_that_was_made_in_memory_is_taken_as_uncompressed_with_a_warning():
    made = dataset(deep(np.uint16))
    expected = images.read(saved(made))
    del made.file_meta
    with pytest.warns(UserWarning, match="image 0: no transfer syntax is stated; taken as uncompressed"):
        np.testing.assert_array_equal(read(made), expected)
    assert not hasattr(made, "file_meta")


def test_a_dataset_whose_pixels_are_still_in_the_file_is_read(tmp_path):
    (tmp_path / "a.dcm").write_bytes(saved(dataset(deep(np.uint16))))
    parsed = pydicom.dcmread(tmp_path / "a.dcm", defer_size=1000)
    np.testing.assert_array_equal(read(parsed), images.read(tmp_path / "a.dcm"))


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ({"PixelData": None}, "no pixel data, though it states the size"),
        ({"Rows": None, "PixelData": None}, r"no image \(no Rows and Columns\)"),
        ({"PixelData": b"\0" * 10}, "10 bytes of pixel data"),
    ],
)
def test_a_dataset_without_pixels_is_refused(removed, message):
    with pytest.raises(ImageError, match=rf"image 0.*{message}"):
        read(dataset(deep(np.uint16), **removed))


# ---- names -----------------------------------------------------------------------------------------------------


def test_images_are_named_by_their_files_else_by_their_position(tmp_path):
    image, file = radiograph(0, 32), tmp_path / "a.png"
    file.write_bytes(images.encode_png(image))
    (tmp_path / "a.dcm").write_bytes(saved(dataset(image)))
    what = [
        image,
        file,
        str(file),
        Record(file, name="a record"),
        Image.open(file),
        pydicom.dcmread(tmp_path / "a.dcm"),
        file.read_bytes(),
    ]
    names = [given.name for given in in_memory.given(what)]
    path = str(file)
    assert names == ["image 0", path, path, "a record", path, str(tmp_path / "a.dcm"), "image 6"]
    for given in in_memory.given(what):
        np.testing.assert_array_equal(images.read(given.source()), image)
    assert [given.name for given in in_memory.given(what, "tuvwxyz")] == list("tuvwxyz")
    for several, stated in (([image], []), ([image], ["a", "b"])):
        with pytest.raises(ImageError, match="give a name for each image"):
            list(in_memory.given(several, stated))


# ---- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros(5), r"float64 of shape \(5,\) is not an image; expected numbers of shape \(H, W\)"),
        (np.zeros((0, 4), np.uint8), r"uint8 of shape \(0, 4\) is not an image"),
        (np.zeros((10, 8, 8), np.uint8), r"shape \(10, 8, 8\) is not an image.*Give several images as a list"),
        (np.zeros((3, 8, 8), np.float32), r"shape \(3, 8, 8\) is not an image.*channels last"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"shape \(2, 8, 8, 3\) is not an image"),
        (np.array([[1, None], [2, 3]], dtype=object), "object of shape .* is not an image"),
        (np.array(["a", "b"]), "is not an image"),
        (np.zeros((4, 4), complex), "complex128 of shape"),
        (np.array([[0.1, -1.25], [0.5, 1]]), r"float values below 0, the least -1\.25, .*value_range"),
        (np.array([[0.1, np.nan], [0.5, 1]]), "1 of 4 pixels are NaN or infinite"),
        (np.array([[0.1, np.inf], [0.5, 1]]), "1 of 4 pixels are NaN or infinite"),
        (np.full((4, 4), np.nan), "16 of 16 pixels are NaN"),
        (torch.zeros(4, 4, dtype=torch.bfloat16), "cannot be taken as a NumPy array"),
        (b"", r"empty \(0 bytes\)"),
        (b"not an image", "not a JPEG, PNG, TIFF, PGM or DICOM file"),
        ([[1, 2], [3, 4]], "list is not an image; expected an array"),
        (None, "NoneType is not an image"),
    ],
)
def test_what_is_no_image_is_one_line(image, message):
    with pytest.raises(ImageError, match=f"^image 0: .*{message}") as refused:
        read(image)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("values", [[[0.0, 1.5]], [[-0.5, 1.0]], [[0.5, np.nan]]])
def test_values_outside_their_range_are_refused(values):
    with pytest.raises(ImageError, match="do not lie in the value range 0 to 1"):
        read(np.array(values), (0, 1))


@pytest.mark.parametrize("value_range", [(1, 0), (0, 0), (0, float("nan")), (0, float("inf")), (1, 2, 3)])
def test_a_value_range_must_be_two_numbers_in_order(value_range):
    with pytest.raises(ConfigError, match="expected two numbers"):
        in_memory.check_range(value_range)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (io.BytesIO(b"x"), "an open file was given"),
        ({"a": 1}, "a mapping was given"),
        (5, "int is not an image"),
    ],
)
def test_what_holds_no_images_is_one_line(what, message):
    with pytest.raises(ImageError, match=message):
        list(in_memory.given(what))
