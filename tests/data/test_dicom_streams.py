"""Pixel data that are longer or shorter than they should be: zeros left out, no delimiter, and streams that stop early."""

import struct
import warnings

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from mrm.data import dicom_streams, images
from mrm.system.errors import ImageError
from tests.support.dicom_files import dataset, dicom_bytes, saved

ROUGH = np.random.default_rng(0).integers(0, 256, (90, 120)).astype(np.uint8)
DEEP = np.random.default_rng(1).integers(0, 4096, (90, 120)).astype(np.uint16)
DELIMITER = bytes.fromhex("feffdde000000000")


def compressed(syntax: str, pixels: np.ndarray = ROUGH) -> Dataset:
    made = dataset(pixels)
    if syntax == JPEGBaseline8Bit:
        made.file_meta.TransferSyntaxUID = syntax
        return with_stream(made, images.encode_jpeg(pixels))
    made.compress(syntax, generate_instance_uid=False)
    return made


def with_stream(made: Dataset, stream: bytes) -> Dataset:
    made.PixelData = encapsulate([stream])
    made["PixelData"].is_undefined_length = True
    return made


def stream_of(made: Dataset) -> bytes:
    return next(generate_frames(made.PixelData, number_of_frames=1))


SYNTAXES = pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEG2000Lossless, JPEGLSLossless, RLELossless])

# ---- uncompressed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zeros", [2, 100, 90 * 120, 90 * 120 * 3])
@pytest.mark.parametrize("pixels", [ROUGH, DEEP])
def test_zeros_after_the_last_row_are_left_out_with_a_warning(zeros, pixels):
    """PS3.5, 8.1.1; as many as a whole frame are no second frame."""
    expected = images.read(dicom_bytes(pixels))
    with pytest.warns(UserWarning, match=f"{zeros:,} zero bytes after the last row of pixels are left out"):
        got = images.read(dicom_bytes(pixels, PixelData=pixels.tobytes() + bytes(zeros)))
    np.testing.assert_array_equal(got, expected)


def test_an_odd_number_of_pixels_is_filled_up_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(images.read(dicom_bytes(ROUGH[:3, :5])), ROUGH[:3, :5])
    odd = dicom_bytes(ROUGH[:3, :5], PixelData=ROUGH[:3, :5].tobytes() + bytes(5))
    with pytest.warns(UserWarning, match="4 zero bytes"):
        np.testing.assert_array_equal(images.read(odd), ROUGH[:3, :5])


def test_other_bytes_after_the_last_row_are_refused():
    for tail in (bytes(99) + b"\1", b"\1" + bytes(99)):
        with pytest.raises(ImageError, match="10,900 bytes of pixel data, but 90 x 120 pixels need 10,800"):
            images.read(dicom_bytes(ROUGH, PixelData=ROUGH.tobytes() + tail))


def test_a_file_cut_off_before_its_pixels_is_not_called_a_report():
    whole = dicom_bytes(ROUGH)
    with pytest.raises(ImageError, match="no pixel data, though it states the size of an image; the file is cut off"):
        images.read(whole[: whole.index(ROUGH.tobytes()) - 12])


# ---- the delimiter -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:End of file")
@SYNTAXES
def test_compressed_data_without_a_delimiter_are_read_with_a_warning(syntax):
    pytest.importorskip("openjpeg")
    whole = saved(compressed(syntax))
    assert whole.endswith(DELIMITER)
    with pytest.warns(UserWarning, match="no sequence delimiter"):
        np.testing.assert_array_equal(images.read(whole[:-8]), images.read(whole))
    assert images.size(whole[:-8]) == ROUGH.shape
    for part in range(1, 8):  # half a delimiter
        np.testing.assert_array_equal(images.read(whole[:-part]), images.read(whole))


@pytest.mark.filterwarnings("ignore:End of file", "ignore:.*no sequence delimiter")
@SYNTAXES
@pytest.mark.parametrize("kept", [0.5, 2 / 3, 0.95])
def test_compressed_data_cut_off_are_called_so(syntax, kept):
    pytest.importorskip("openjpeg")
    whole = saved(compressed(syntax))
    with pytest.raises(ImageError, match=r"cut off, [\d,]+ bytes of the pixel data are missing"):
        images.read(whole[: int(len(whole) * kept)])


# ---- streams that stop early, but have their end marker ----------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "missing"),
    [
        (0.3, "the data of about 64% of the rows"),
        (0.6, "the data of about 29% of the rows"),
        (0.95, "some of the data"),
    ],
)
def test_a_jpeg_that_stops_early_is_refused_with_the_share_of_rows(kept, missing):
    """12 rows of blocks take equal shares of noise: 4, 8 and 12 of them are begun, and end with rows 32, 64 and 90 of 90."""
    stream = images.encode_jpeg(ROUGH)
    scan = stream.index(b"\xff\xda")
    short = stream[: scan + int((len(stream) - scan) * kept)] + b"\xff\xd9"
    for data in (short, saved(with_stream(compressed(JPEGBaseline8Bit), short))):
        with pytest.raises(ImageError, match=f"cut off or damaged, {missing} are missing"):
            images.read(data)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("pixels", [ROUGH, DEEP])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_jpeg_2000_and_jpeg_ls_that_stop_early_are_refused(syntax, pixels, kept):
    pytest.importorskip("openjpeg")
    made = compressed(syntax, pixels)
    stream = stream_of(made)
    np.testing.assert_array_equal(images.read(saved(made)), images.read(dicom_bytes(pixels)))
    with pytest.raises(ImageError, match="cut off or damaged"):
        images.read(saved(with_stream(made, stream[: int(len(stream) * kept)] + b"\xff\xd9")))


def test_jpeg_2000_of_which_a_tile_is_missing_is_refused():
    """Two tiles are announced, and the stream ends after the first, as it should."""
    size = struct.pack(">HHHIIIIIIIIHBBB", 0xFF51, 41, 0, 120, 90, 0, 0, 60, 90, 0, 0, 1, 7, 1, 1)
    tile = struct.pack(">HHHIBB", 0xFF90, 10, 0, 14, 0, 1) + b"\xff\x93"
    with pytest.raises(ImageError, match="hold 1 of 2 tiles"):
        dicom_streams.check(b"\xff\x4f" + size + tile + b"\xff\xd9", (90, 120, 1), JPEG2000Lossless, "x.dcm")
    two = tile + tile[:5] + b"\1" + tile[6:]
    dicom_streams.check(b"\xff\x4f" + size + two + b"\xff\xd9", (90, 120, 1), JPEG2000Lossless, "x.dcm")


def test_a_jpeg_2000_image_may_begin_anywhere_on_its_grid():
    """Its width and height are what lies between its first and its last sample (ITU-T T.800, B.2)."""
    size = struct.pack(">HHHIIIIIIIIHBBB", 0xFF51, 41, 0, 125, 97, 5, 7, 200, 200, 0, 0, 1, 7, 1, 1)
    tile = struct.pack(">HHHIBB", 0xFF90, 10, 0, 14, 0, 1) + b"\xff\x93"
    stream = b"\xff\x4f" + size + tile + b"\xff\xd9"
    dicom_streams.check(stream, (90, 120, 1), JPEG2000Lossless, "x.dcm")
    with pytest.raises(ImageError, match="has 90 x 120 pixels, but the header says 97 x 125 pixels"):
        dicom_streams.check(stream, (97, 125, 1), JPEG2000Lossless, "x.dcm")


@pytest.mark.filterwarnings("ignore:.*modality", "ignore:.*series", "ignore:Invalid value for VR")
@pytest.mark.parametrize("name", ["JPGExtended.dcm", "CR-ModalitySequenceLUT.dcm"])
def test_lossless_and_12_bit_jpeg_that_stop_early_are_refused(name, shared_data):
    """Both end in constant rows, so the second decoding takes place for the whole one too."""
    pytest.importorskip("libjpeg")
    path = get_testdata_file(name, download=False) or shared_data / "dicom" / name
    made = pydicom.dcmread(path)
    stream = stream_of(made)
    stream = stream[: stream.rindex(b"\xff\xd9")]
    assert images.read(path).any()
    for kept in (0.5, 0.97):
        with pytest.raises(ImageError, match="cut off, the JPEG data stop before the last row"):
            images.read(saved(with_stream(made, stream[: int(len(stream) * kept)] + b"\xff\xd9")))


def jpeg_header(process: int, bits: int) -> bytes:
    """A JPEG of 4 x 200 grey pixels up to its data: the frame header of a process and a scan by the first predictor."""
    frame = b"\xff\xd8\xff" + bytes([process]) + struct.pack(">HBHHBBBB", 11, bits, 4, 200, 1, 1, 0x11, 0)
    return frame + b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 1, 0, 0)


@pytest.mark.parametrize(
    ("process", "bits", "sampled"),
    [(0xC0, 8, True), (0xC1, 8, True), (0xC2, 8, True), (0xC1, 12, False), (0xC2, 12, False), (0xC3, 8, False), (0xF7, 8, False)],
)  # fmt: skip
def test_jpeg_of_eight_bits_by_a_lossy_process_is_decoded_as_a_jpeg_file(process, bits, sampled):
    """Baseline, extended and progressive (ITU-T T.81, table B.1); C3 is lossless, and F7 is JPEG-LS."""
    assert dicom_streams.is_sampled_jpeg(jpeg_header(process, bits), "x") is sampled
    assert not dicom_streams.is_sampled_jpeg(b"\xff\x4f\xff\x51" + bytes(20), "x")


def test_the_second_decoding_is_left_out_where_the_last_row_is_no_filling():
    grey = np.random.default_rng(0).integers(0, 4096, (4, 200))
    frame = jpeg_header(0xC3, 12)
    for stream in (frame, jpeg_header(0xC1, 12)):
        assert not dicom_streams.may_be_short(stream, grey, "x")
        assert dicom_streams.may_be_short(stream, np.zeros_like(grey), "x")
    assert not dicom_streams.may_be_short(jpeg_header(0xF7, 12), np.zeros_like(grey), "x")  # its decoder tells
    assert not dicom_streams.may_be_short(jpeg_header(0xC0, 8), np.zeros_like(grey), "x")  # so does that of JPEG files
    for steps, short in ((16, True), (17, False)):  # 1, 2, 3, ... and from then on the last again
        grey[-1] = np.cumsum(np.minimum(np.arange(200), steps))
        assert dicom_streams.may_be_short(frame, grey, "x") is short
    seventh = frame[:-3] + b"\7\0\0"  # its made-up rows may look like any others
    assert dicom_streams.may_be_short(seventh, grey, "x")


# ---- elements that are absent or empty ---------------------------------------------------------------------


@pytest.mark.parametrize("syntax", ["raw", RLELossless, JPEGBaseline8Bit])
@pytest.mark.parametrize(
    "keyword", ["HighBit", "BitsStored", "SamplesPerPixel", "PixelRepresentation", "NumberOfFrames"]
)
def test_an_empty_element_takes_the_only_or_usual_value(keyword, syntax):
    made = dataset(ROUGH) if syntax == "raw" else compressed(syntax)
    expected = images.read(saved(made))
    setattr(made, keyword, None)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        np.testing.assert_array_equal(images.read(saved(made)), expected)
    assert [keyword in str(warning.message) for warning in told] == [True] * (
        keyword in ("BitsStored", "PixelRepresentation")
    )


def test_an_empty_high_bit_of_deep_pixels():
    tags = {"BitsStored": 12, "WindowCenter": 2048, "WindowWidth": 4096}
    np.testing.assert_array_equal(
        images.read(dicom_bytes(DEEP, **tags, HighBit=None)), images.read(dicom_bytes(DEEP, **tags, HighBit=11))
    )
    made = dataset(DEEP, **tags)
    made.HighBit = None  # present, but empty
    np.testing.assert_array_equal(images.read(saved(made)), images.read(dicom_bytes(DEEP, **tags, HighBit=11)))


@pytest.mark.parametrize(
    ("keyword", "message"),
    [("PhotometricInterpretation", "whether 0 is black or white"), ("BitsAllocated", "how many bits a pixel has")],
)
def test_what_cannot_be_assumed_is_refused(keyword, message):
    made = dataset(ROUGH)
    setattr(made, keyword, None)
    with pytest.raises(ImageError, match=message):
        images.read(saved(made))


# ---- encodings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("first", ["SpecificCharacterSet", "ImageType", "SOPClassUID"])
def test_files_without_meta_header_and_preamble(syntax, first, tmp_path):
    """The body alone, in either byte order, whatever element it begins with."""
    big = syntax == ExplicitVRBigEndian
    made = dataset(DEEP.byteswap() if big else DEEP)
    made.file_meta.TransferSyntaxUID = syntax
    made.SpecificCharacterSet, made.ImageType = "ISO_IR 100", ["ORIGINAL", "PRIMARY"]
    data = saved(made)
    start = data.rindex(struct.pack(">HH" if big else "<HH", made[first].tag.group, made[first].tag.element))
    (tmp_path / "bare").write_bytes(data[start:])
    np.testing.assert_array_equal(images.read(tmp_path / "bare"), images.read(dicom_bytes(DEEP)))
    assert images.size(tmp_path / "bare") == DEEP.shape
