"""DICOM: the same image whatever the encoding, the standard's transformations, and clear refusals."""

import itertools
import struct
import subprocess
import sys
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    MPEG2MPML,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from mrm.data import dicom, images
from mrm.data.config import CropConfig
from mrm.data.eval_view import EvalView
from mrm.data.records import Record, Records
from mrm.data.samples import ImageData, LabelData
from mrm.system.errors import ImageError
from tests.support.dicom_files import dataset, dicom_bytes, saved


@pytest.fixture(scope="module")
def radiograph() -> np.ndarray:
    y, x = np.mgrid[0:90, 0:120]
    return (128 + 60 * np.sin(x / 17) + 60 * np.cos(y / 11 + x / 90)).astype(np.uint8)


def table(values: list[int], first: int, bits: int) -> Dataset:
    lut = Dataset()
    lut.add_new("LUTDescriptor", "US", [len(values), first, bits])
    lut.add_new("LUTData", "US", values)
    return lut


def close(got: np.ndarray, expected: np.ndarray, by: float = 0.51) -> None:
    assert got.dtype == np.uint8
    assert np.abs(got.astype(float) - expected).max() <= by


DEEP = np.arange(0, 4096, 7, dtype=np.uint16)[:585].reshape(15, 39)


# ---- the same image --------------------------------------------------------------------------------------


def test_eight_bits_equal_the_jpeg_they_were_made_from(radiograph):
    jpeg = images.read(images.encode_jpeg(radiograph))
    np.testing.assert_array_equal(images.read(dicom_bytes(jpeg)), jpeg)
    turned = dicom_bytes(255 - jpeg, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(images.read(turned), jpeg)


def test_jpeg_data_inside_a_dicom_equal_the_jpeg(radiograph):
    jpeg = images.encode_jpeg(radiograph)
    made = dataset(radiograph)
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    made.PixelData = encapsulate([jpeg])
    made["PixelData"].is_undefined_length = True
    np.testing.assert_array_equal(images.read(saved(made)), images.read(jpeg))


def test_path_string_and_bytes_agree(radiograph, tmp_path):
    path = tmp_path / "radiograph.png"  # the content decides
    path.write_bytes(dicom_bytes(radiograph))
    for source in (path, str(path), path.read_bytes(), memoryview(path.read_bytes())):
        np.testing.assert_array_equal(images.read(source), radiograph)
        assert images.size(source) == radiograph.shape
    opened = images.open_image(path)
    np.testing.assert_array_equal(dicom.decode(opened.dataset, opened.name), radiograph)
    assert dicom.size(opened.dataset, opened.name) == radiograph.shape


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["DICOM", "JPEG"])
def test_a_file_is_parsed_once_however_much_is_asked_of_it(kind, radiograph, tmp_path, monkeypatch):
    """For a training sample, a prediction, and an upload, of which the service also wants the size and the doubts."""
    data = dicom_bytes(radiograph, Modality="CT") if kind == "DICOM" else images.encode_jpeg(radiograph)
    path = tmp_path / "radiograph"
    path.write_bytes(data)
    parses = Counter()
    for module, function in ((pydicom, "dcmread"), (images, "parse"), (images, "kind_of")):
        monkeypatch.setattr(module, function, counted(getattr(module, function), parses))
    once = {"dcmread" if kind == "DICOM" else "parse": 1, "kind_of": 1}

    records = Records([Record(path)])
    for samples in (LabelData(records, EvalView(32), CropConfig()), ImageData(records, EvalView(32))):
        parses.clear()
        assert samples.sample(0, 0)["image"].shape == (32, 32)
        assert parses == once

    parses.clear()
    upload = images.open_image(data)
    assert images.size(upload) == radiograph.shape
    assert bool(images.doubts(upload)) == (kind == "DICOM")
    assert images.eval_image(upload, 32).shape == (32, 32)
    whole = images.read(upload)
    assert parses == once
    np.testing.assert_array_equal(whole, images.read(path))


def counted(function, counts: Counter):
    """The function, which adds one to the count of its name with each call."""

    def call(*args, **options):
        counts[function.__name__] += 1
        return function(*args, **options)

    return call


def test_encodings_agree():
    made = dataset(DEEP)
    expected = images.read(saved(made))
    made.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    np.testing.assert_array_equal(images.read(saved(made)), expected)
    big = dataset(DEEP.byteswap())
    big.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    np.testing.assert_array_equal(images.read(saved(big)), expected)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
@pytest.mark.parametrize("meta", [True, False])
def test_files_without_preamble(radiograph, syntax, meta):
    made = dataset(radiograph)
    made.file_meta.TransferSyntaxUID = syntax
    whole = saved(made)
    start = 132 if meta else whole.index(b"\x08\0\x16\0")  # SOP class, the first element of the body
    np.testing.assert_array_equal(images.read(whole[start:]), radiograph)
    assert images.size(whole[start:]) == radiograph.shape


def test_compressed_files_agree_with_raw_ones():
    pytest.importorskip("openjpeg")
    for syntax in (RLELossless, JPEG2000Lossless):
        made = dataset(np.tile(DEEP, (8, 3)), BitsStored=12, HighBit=11)
        expected = images.read(saved(made))
        made.compress(syntax, generate_instance_uid=False)
        np.testing.assert_array_equal(images.read(saved(made)), expected)


@pytest.mark.filterwarnings("ignore:.*modality is MR")
def test_jpeg_ls_agrees_with_raw():
    pytest.importorskip("libjpeg")
    raw = get_testdata_file("MR_small.dcm", download=False)
    packed = get_testdata_file("MR_small_jpeg_ls_lossless.dcm", download=False)
    np.testing.assert_array_equal(images.read(packed), images.read(raw))


def test_colour_becomes_luma(radiograph):
    colour = np.dstack([radiograph, radiograph[::-1], 255 - radiograph])
    luma = colour @ np.array([0.299, 0.587, 0.114])
    close(images.read(dicom_bytes(colour)), luma, 1)
    close(images.read(dicom_bytes(colour.astype(np.uint16) * 257)), luma, 1)
    ybr = np.dstack([radiograph, np.full_like(radiograph, 128), np.full_like(radiograph, 128)])
    close(images.read(dicom_bytes(ybr, PhotometricInterpretation="YBR_FULL")), radiograph, 1)


def test_palette_colour(radiograph):
    ramp = [i * 257 for i in range(255, -1, -1)]  # a palette that turns grey around
    tags = {}
    for name in ("Red", "Green", "Blue"):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = np.array(ramp, "<u2").tobytes()
    got = images.read(dicom_bytes(radiograph, PhotometricInterpretation="PALETTE COLOR", **tags))
    close(got, 255 - radiograph.astype(int), 1)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_in_segments(radiograph, bits):
    """PS3.3, C.7.9.2: white as it is, then a line of 255 entries down to black."""
    tags, kind = {}, f"<u{bits // 8}"
    for name in ("Red", "Green", "Blue"):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        segments = np.array([0, 1, 2**bits - 1, 1, 255, 0], kind).tobytes()
        tags[f"Segmented{name}PaletteColorLookupTableData"] = segments
    got = images.read(dicom_bytes(radiograph, PhotometricInterpretation="PALETTE COLOR", **tags))
    close(got, 255 - radiograph.astype(int), 1)


def test_sixteen_bits_of_a_palette_in_segments_are_scaled_by_all_of_them():
    """65,406 of 65,535 is 254.498 of 255."""
    tags = {}
    for name in ("Red", "Green", "Blue"):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [2, 0, 16]
        tags[f"Segmented{name}PaletteColorLookupTableData"] = np.array([0, 2, 65406, 65535], "<u2").tobytes()
    indices = np.array([[0, 1]], np.uint8)
    got = images.read(dicom_bytes(indices, PhotometricInterpretation="PALETTE COLOR", **tags))
    np.testing.assert_array_equal(got, [[254, 255]])


def test_a_palette_that_begins_far_up():
    """At 40,000, the bits of a negative number, which its descriptor is written as; indices are never negative."""
    tags, indices = {}, np.array([[0, 39_999, 40_000, 40_100, 40_255, 65_535]], np.uint16)
    shown = np.clip(indices.astype(int) - 40_000, 0, 255)
    made = dataset(indices, PhotometricInterpretation="PALETTE COLOR", **tags)
    for name in ("Red", "Green", "Blue"):
        made.add_new(f"{name}PaletteColorLookupTableDescriptor", "SS", [256, 40_000 - 65_536, 16])
        made.add_new(f"{name}PaletteColorLookupTableData", "OW", (np.arange(256) * 257).astype("<u2").tobytes())
    close(images.read(saved(made)), shown, 1)


# ---- values ------------------------------------------------------------------------------------------------


def test_eight_bits_are_not_stretched_and_deeper_ones_are():
    np.testing.assert_array_equal(images.read(dicom_bytes(np.full((4, 4), 77, np.uint8))), 77)
    close(images.read(dicom_bytes(DEEP + 300)), DEEP.astype(float) * 255 / DEEP.max())
    assert not images.read(dicom_bytes(np.full((4, 4), 900, np.uint16))).any()


def test_few_bits_use_their_full_range():
    few = np.arange(16, dtype=np.uint8).reshape(4, 4)
    np.testing.assert_array_equal(images.read(dicom_bytes(few, BitsStored=4, HighBit=3)), few * 17)
    packed = dataset(np.zeros((4, 8), np.uint8), BitsAllocated=1, BitsStored=1, HighBit=0)
    packed.PixelData = bytes([0b00000101] * 4)
    np.testing.assert_array_equal(images.read(saved(packed))[0], [255, 0, 255, 0, 0, 0, 0, 0])


def linear(x, c, w):
    if x <= c - 0.5 - (w - 1) / 2:
        return 0.0
    return 255.0 if x > c - 0.5 + (w - 1) / 2 else ((x - (c - 0.5)) / (w - 1) + 0.5) * 255


@pytest.mark.parametrize(
    ("function", "reference"),
    [
        ("LINEAR", linear),
        ("", linear),
        ("LINEAR_EXACT", lambda x, c, w: min(255.0, max(0.0, ((x - c) / w + 0.5) * 255))),
        ("SIGMOID", lambda x, c, w: 255 / (1 + np.exp(-4 * (x - c) / w))),
    ],
)
@pytest.mark.parametrize(("center", "width"), [(2048, 4096), (1000, 400.5), (60, 1)])
def test_window_functions_are_those_of_the_standard(function, reference, center, width):
    """PS3.3, C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2, one value at a time."""
    got = images.read(dicom_bytes(DEEP, WindowCenter=center, WindowWidth=width, VOILUTFunction=function))
    close(got, np.array([[reference(float(x), center, width) for x in row] for row in DEEP]))


def test_the_first_of_several_windows_counts():
    one = dicom_bytes(DEEP, WindowCenter=1000, WindowWidth=500)
    several = dicom_bytes(DEEP, WindowCenter=[1000, 3000], WindowWidth=[500, 10])
    np.testing.assert_array_equal(images.read(several), images.read(one))


def test_a_window_that_cannot_be_used_is_ignored_with_a_warning():
    for tags in ({"WindowWidth": 0}, {"WindowWidth": 100, "VOILUTFunction": "CUBIC"}):
        with pytest.warns(UserWarning, match="is not valid and is ignored"):
            got = images.read(dicom_bytes(DEEP, WindowCenter=100, **tags))
        np.testing.assert_array_equal(got, images.read(dicom_bytes(DEEP)))


def test_rescale_comes_before_the_window():
    data = dicom_bytes(DEEP, RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400)
    values = DEEP.astype(float) * 2 - 1024
    close(images.read(data), np.clip((values - 39.5) / 399 + 0.5, 0, 1) * 255)


def test_a_negative_slope_turns_the_image(radiograph):
    got = images.read(dicom_bytes(radiograph, RescaleSlope=-1, RescaleIntercept=255))
    np.testing.assert_array_equal(got, 255 - radiograph)


def test_modality_and_voi_tables():
    stored = np.array([[0, 1, 2, 3]], np.uint16)
    modality = [table([40, 30, 20, 10], 0, 16)]
    got = images.read(dicom_bytes(stored, ModalityLUTSequence=modality, BitsStored=12, HighBit=11))
    np.testing.assert_array_equal(got, [[255, 170, 85, 0]])
    voi = [table([0, 1000, 4095], 1, 12)]  # values up to 1 map to the first entry, from 3 on to the last
    got = images.read(dicom_bytes(stored, VOILUTSequence=voi, WindowCenter=1, WindowWidth=2))
    np.testing.assert_array_equal(got, [[0, 0, 62, 255]])


def test_bits_outside_the_stored_ones_are_masked():
    tags = {"BitsStored": 12, "HighBit": 11}
    clean = images.read(dicom_bytes(DEEP, **tags))
    np.testing.assert_array_equal(images.read(dicom_bytes(DEEP | 0xF000, **tags)), clean)
    high = (DEEP << 4) | 0x000F
    np.testing.assert_array_equal(images.read(dicom_bytes(high, BitsStored=12, HighBit=15)), clean)


def test_signed_values_keep_their_sign():
    signed = DEEP.astype(np.int16) - 2048
    masked = (signed.view(np.uint16) & 0x0FFF).view(np.int16)
    tags = {"BitsStored": 12, "HighBit": 11, "WindowCenter": 0, "WindowWidth": 1000}
    got = images.read(dicom_bytes(masked, **tags))
    close(got, np.clip((signed + 0.5) / 999 + 0.5, 0, 1) * 255)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_count_for_the_range(photometric):
    padded = DEEP + 500
    padded[:3] = 60000
    padded[3] = 60005
    tags = {"PixelPaddingValue": 60010, "PixelPaddingRangeLimit": 60000}
    got = images.read(dicom_bytes(padded, PhotometricInterpretation=photometric, **tags))
    assert not got[:4].any()
    rest = DEEP[4:].astype(float)
    expected = (rest - rest.min()) / (rest.max() - rest.min()) * 255
    close(got[4:], expected if photometric == "MONOCHROME2" else 255 - expected)


def test_padding_written_as_the_wrong_sign_and_nothing_but_padding():
    signed = DEEP.astype(np.int16)
    signed[0] = -2000
    made = dataset(signed)
    made.add_new("PixelPaddingValue", "US", 65536 - 2000)
    assert not images.read(saved(made))[0].any()
    assert images.read(saved(made))[1].any()
    assert not images.read(dicom_bytes(np.full((4, 4), 5, np.uint16), PixelPaddingValue=5)).any()


# ---- refusals ----------------------------------------------------------------------------------------------


def test_several_frames_are_refused(radiograph):
    data = dicom_bytes(np.concatenate([radiograph, radiograph]), Rows=90, NumberOfFrames=2)
    with pytest.raises(ImageError, match="modality CR, 2 frames"):
        images.read(data)


@pytest.mark.parametrize("frames", [0, 1])
def test_one_frame_and_a_number_of_none_are_read(radiograph, frames):
    np.testing.assert_array_equal(images.read(dicom_bytes(radiograph, NumberOfFrames=frames)), radiograph)


def test_no_image_is_refused(radiograph):
    empty = dataset(radiograph)
    del empty.PixelData
    with pytest.raises(ImageError, match="no pixel data, though it states the size of an image"):
        images.read(saved(empty))
    for side in ("Rows", "Columns"):  # the header of a report has neither, or no more than one
        other = dataset(radiograph, **{side: None})
        del other.PixelData
        with pytest.raises(ImageError, match="no pixel data; choose the image objects, not reports or maps"):
            dicom.decode(other, "a.dcm")
    with pytest.raises(ImageError, match="no Rows and Columns"):
        images.size(dicom_bytes(radiograph, Rows=None))


@pytest.mark.parametrize("rows", [89, 91, 45, 200])
def test_a_length_that_disagrees_is_refused(radiograph, rows):
    with pytest.raises(ImageError, match=r"10,800 bytes of pixel data, but \d+ x 120 pixels need"):
        images.read(dicom_bytes(radiograph, Rows=rows))


@pytest.mark.filterwarnings("ignore:End of file")
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_cut_off_files_are_refused(radiograph, kept):
    pytest.importorskip("libjpeg")
    made = dataset(radiograph)
    made.compress(RLELossless, generate_instance_uid=False)
    jpeg = dataset(radiograph)
    jpeg.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    jpeg.PixelData = encapsulate([images.encode_jpeg(radiograph)])
    jpeg["PixelData"].is_undefined_length = True
    for data in (dicom_bytes(radiograph), saved(made), saved(jpeg)):
        with pytest.raises(ImageError):
            images.read(data[: int(len(data) * kept)])


def test_a_stream_cut_off_inside_a_whole_file_is_refused(radiograph):
    pytest.importorskip("openjpeg")
    packed = dataset(radiograph)
    packed.compress(JPEG2000Lossless, generate_instance_uid=False)
    j2k = next(generate_frames(packed.PixelData, number_of_frames=1))
    streams = {JPEGBaseline8Bit: images.encode_jpeg(radiograph), JPEG2000Lossless: j2k}
    for syntax, stream in streams.items():
        made = dataset(radiograph)
        made.file_meta.TransferSyntaxUID = syntax
        made.PixelData = encapsulate([stream[: len(stream) // 2]])
        made["PixelData"].is_undefined_length = True
        with pytest.raises(ImageError, match="cut off"):
            images.read(saved(made))


def rle(*segments: bytes) -> bytes:
    """An RLE frame of segments as they are (PS3.5, G.5)."""
    starts = itertools.accumulate(map(len, segments[:-1]), initial=64)
    return struct.pack("<16I", len(segments), *starts, *[0] * (15 - len(segments))) + b"".join(segments)


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        (b"\x81\0" * 169, "more than 21,600 bytes, but the header says 10,800"),  # 2 bytes for 128
        (b"\x80" * 9 + b"\x7f" + bytes(128) + b"\x81\0" * 3, "only 512 bytes, but the header says 10,800"),
        (b"", "only 0 bytes"),
    ],
)
def test_run_lengths_that_disagree_with_the_header_are_refused_before_decoding(
    radiograph, segment, message, monkeypatch
):
    monkeypatch.setattr(dicom, "pixel_array", lambda *a, **k: pytest.fail("it was decoded"))
    with pytest.raises(ImageError, match=message):
        images.read(dicom_bytes(radiograph, RLELossless, rle(segment)))


def literal(plane: bytes) -> bytes:
    """A plane of bytes as an RLE segment that repeats nothing (PS3.5, G.3.1)."""
    parts = [plane[at : at + 128] for at in range(0, len(plane), 128)]
    return b"".join(bytes([len(part) - 1]) + part for part in parts)


def test_the_high_bit_counts_where_the_decoder_gives_all_bits_of_the_file():
    """Run lengths hold the bits as they are; other compressed pixels are values, which no bit is to be taken from."""
    clean = images.read(dicom_bytes(DEEP, BitsStored=12, HighBit=11))
    high = ((DEEP << 4) | 0x000F).astype(">u2")
    planes = high.view(np.uint8).reshape(*DEEP.shape, 2)
    frame = rle(literal(planes[..., 0].tobytes()), literal(planes[..., 1].tobytes()))
    np.testing.assert_array_equal(images.read(dicom_bytes(DEEP, RLELossless, frame, BitsStored=12, HighBit=15)), clean)
    pytest.importorskip("openjpeg")
    packed = dataset(np.tile(DEEP, (8, 3)), BitsStored=12, HighBit=11)
    expected = images.read(saved(packed))
    packed.compress(JPEG2000Lossless, generate_instance_uid=False)
    packed.HighBit = 15
    np.testing.assert_array_equal(images.read(saved(packed)), expected)


def test_two_pixels_that_share_their_colour_are_two_thirds_of_the_bytes(radiograph):
    """YBR_FULL_422 uncompressed: Y, Y, CB, CR for each pair of pixels (PS3.3, C.7.6.3.1.2)."""
    pairs = radiograph.reshape(-1, 2)
    content = np.hstack([pairs, np.full_like(pairs, 128)]).tobytes()
    shape, tags = np.zeros((*radiograph.shape, 3), np.uint8), {"PhotometricInterpretation": "YBR_FULL_422"}
    close(images.read(dicom_bytes(shape, **tags, PixelData=content)), radiograph, 1)
    for wrong in (content[:-2], content + b"\1\1"):
        with pytest.raises(ImageError, match=f"pixels need {radiograph.size * 2:,}"):
            images.read(dicom_bytes(shape, **tags, PixelData=wrong))


@pytest.mark.parametrize(("slope", "intercept", "shown"), [(-0.5, 3, [255, 128, 0]), (2, -7, [0, 128, 255])])
def test_the_range_of_eight_signed_bits_is_that_after_rescaling(slope, intercept, shown):
    """-128 is one end of the range and 127 the other, whatever they become; 0 lies in its middle."""
    signed = dicom_bytes(np.array([[-128, 0, 127]], np.int8), RescaleSlope=slope, RescaleIntercept=intercept)
    assert np.abs(images.read(signed)[0].astype(int) - shown).max() <= 1


def test_run_lengths_are_counted_as_they_are_decoded():
    runs = b"\x80" + b"\xf7\x05" + b"\x02abc" + b"\x81\xff" + b"\x7f" + bytes(range(128))  # 10 + 3 + 128 + 128
    shape = np.zeros((1, 269), np.uint8)
    expected = [5] * 10 + [*b"abc"] + [255] * 128 + [*range(128)]
    np.testing.assert_array_equal(images.read(dicom_bytes(shape, RLELossless, rle(runs)))[0], expected)
    filled_up = dicom_bytes(shape, RLELossless, rle(runs + bytes(64)))  # as some writers do
    np.testing.assert_array_equal(images.read(filled_up)[0], expected)
    with pytest.raises(ImageError, match="only 141 bytes"):
        images.read(dicom_bytes(shape, RLELossless, rle(runs[:-129])))


def test_a_bomb_of_run_lengths_costs_no_memory(radiograph, tmp_path):
    """What 16 MB unpack to would be 1 GB, in the decoder that every installation has; a process of its own counts."""
    (tmp_path / "good.dcm").write_bytes(dicom_bytes(radiograph, RLELossless, rle(b"\x81\0" * 84 + b"\xd1\0")))
    (tmp_path / "bomb.dcm").write_bytes(dicom_bytes(radiograph, RLELossless, rle(b"\x81\0" * 8_000_000)))
    program = (
        "import resource, sys; from mrm.data import dicom, images\nfrom mrm.system.errors import ImageError\n"
        "array = dicom.pixel_array\n"
        "dicom.pixel_array = lambda d, **o: array(d, **{**o, 'decoding_plugin': 'pydicom'})  # others stop by themselves\n"
        "held = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == 'linux' else 1048576)\n"
        "images.read(sys.argv[1] + '/good.dcm'); before = held()\n"
        "try: images.read(sys.argv[1] + '/bomb.dcm')\n"
        "except ImageError as error: print(held() - before, error)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    grown, reason = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(" ", 1)
    assert "unpacks to more than 21,600 bytes" in reason
    assert int(grown) < 128  # MiB: the file, a few times


def test_streams_of_more_channels_than_the_header_says_are_refused_before_decoding(radiograph, monkeypatch):
    monkeypatch.setattr(dicom, "pixel_array", lambda *a, **k: pytest.fail("it was decoded"))
    jpeg = bytearray(images.encode_jpeg(radiograph))
    jpeg[jpeg.index(b"\xff\xc0") + 9] = 200  # components of the frame
    with pytest.raises(ImageError, match="90 x 120 pixels of 200 channels, but the header says 90 x 120 pixels;"):
        images.read(dicom_bytes(radiograph, JPEGBaseline8Bit, bytes(jpeg)))
    size = struct.pack(">HHHIIIIIIIIH", 0xFF51, 41, 0, 120, 90, 0, 0, 120, 90, 0, 0, 16384)
    with pytest.raises(ImageError, match="of 16384 channels"):
        images.read(dicom_bytes(radiograph, JPEG2000Lossless, b"\xff\x4f" + size + bytes(60) + b"\xff\xd9"))


def test_a_missing_plugin_names_the_extra(radiograph, monkeypatch):
    made = dataset(radiograph)
    made.compress(RLELossless, generate_instance_uid=False)
    monkeypatch.setattr(dicom, "get_decoder", lambda syntax: type("Decoder", (), {"is_available": False}))
    with pytest.raises(ImageError, match=r"RLE Lossless needs a plugin: pip .*\[dicom\]"):
        images.read(saved(made))


def test_a_syntax_nobody_decodes_is_refused(radiograph):
    made = dataset(radiograph)
    made.file_meta.TransferSyntaxUID = MPEG2MPML
    made.PixelData = encapsulate([b"\0\0"])
    made["PixelData"].is_undefined_length = True
    with pytest.raises(ImageError, match=r"MPEG2 .* cannot be decoded"):
        images.read(saved(made))


def test_damaged_elements_are_refused(radiograph):
    with pytest.raises(ImageError, match="rescale slope 0"):
        images.read(dicom_bytes(radiograph, RescaleSlope=0, RescaleIntercept=0))
    with pytest.raises(ImageError, match="does not say whether 0 is black or white"):
        images.read(dicom_bytes(radiograph, PhotometricInterpretation=None))
    with pytest.raises(ImageError, match="a PNG file, not DICOM"):
        dicom.parse(images.encode_png(radiograph), "radiograph.png")
    with pytest.raises(ImageError, match="no such file"):
        images.open_image(Path("gone.dcm"))


@pytest.mark.filterwarnings("ignore")
def test_random_damage_gives_an_image_or_an_image_error(radiograph, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 1_000_000)
    generator = np.random.default_rng(0)
    whole = np.frombuffer(dicom_bytes(radiograph, WindowCenter=100, WindowWidth=200, PixelPaddingValue=0), np.uint8)
    readable = 0
    for _ in range(150):
        data = whole.copy()
        data[generator.integers(132, 700, 4)] = generator.integers(0, 256, 4)
        with suppress(ImageError):
            readable += images.read(data.tobytes()).ndim == 2
    assert 0 < readable < 150


def test_the_pixel_limit_holds_for_dicom(radiograph, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with pytest.raises(ImageError, match="more than 100"):
        images.read(dicom_bytes(radiograph))


def test_size_when_the_header_is_long(radiograph, tmp_path):
    made = dataset(radiograph)
    block = made.private_block(0x0009, "mrm test", create=True)
    block.add_new(1, "OB", bytes(images.HEAD_BYTES))
    path = tmp_path / "long.dcm"
    path.write_bytes(saved(made))
    assert images.size(path) == radiograph.shape


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"Modality": "CT"}, "modality is CT, not CR, DX or RG;"),
        ({"BodyPartExamined": "KNEE"}, "body part is KNEE, not CHEST;"),
        ({"Modality": "MR", "BodyPartExamined": "HEAD"}, "MR.* and body part is HEAD"),
    ],
)
def test_what_is_no_chest_radiograph_is_read_with_a_warning(radiograph, tags, message):
    with pytest.warns(UserWarning, match=message):
        np.testing.assert_array_equal(images.read(dicom_bytes(radiograph, **tags)), radiograph)


def test_chest_radiographs_and_unstated_ones_give_no_warning(radiograph):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for modality in ("CR", "DX", "RG", "OT", "SC", None):
            images.read(dicom_bytes(radiograph, Modality=modality))
        for part in ("CHEST", "PORT CHEST", None):
            images.read(dicom_bytes(radiograph, BodyPartExamined=part))


# ---- borders -----------------------------------------------------------------------------------------------


def test_borders_are_removed_on_request(radiograph):
    framed = np.pad(radiograph.clip(20, 230), ((3, 5), (7, 2)), constant_values=255)
    framed = np.pad(framed, ((4, 0), (0, 6)), constant_values=2)
    assert images.read(dicom_bytes(framed)).shape == framed.shape
    np.testing.assert_array_equal(images.read(dicom_bytes(framed), crop_borders=True), radiograph.clip(20, 230))


# ---- real files --------------------------------------------------------------------------------------------


def test_real_radiographs(shared_data):
    folder = shared_data / "dicom"
    upright = images.read(folder / "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm")
    turned = images.read(folder / "Fake_MONOHR1.dcm")  # the same kind of file, declared MONOCHROME1
    assert upright.shape == turned.shape == (1024, 1024)
    stored = images.read(
        next(generate_frames(pydicom.dcmread(folder / "Fake_MONOHR1.dcm").PixelData, number_of_frames=1))
    )
    np.testing.assert_array_equal(turned, 255 - stored)
    assert upright[300:600, 480:560].mean() > upright[300:600, 250:400].mean()  # mediastinum over lung
    with pytest.warns(UserWarning, match="modality is CT.* body part is ABDOMEN"):
        slice_ = images.read(folder / "anon_apct.dcm")
    assert not slice_[:50].any()  # air is below the window
