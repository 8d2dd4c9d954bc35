"""Stored values to grey: every legal form of a display, against values computed here by the formulas of the standard."""

import functools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from mrm.data import images, lookup_tables
from mrm.system.errors import ImageError
from tests.support.dicom_files import dataset, dicom_bytes, lookup_table, saved

RAMP = np.tile(np.arange(0, 4096, 32, dtype=np.uint16), (4, 1))  # 12 bits
TWELVE = {"BitsStored": 12, "HighBit": 11}
FULL = np.rint(RAMP / 4095 * 255)


def grey(pixels: np.ndarray, **tags) -> np.ndarray:
    return images.read(dicom_bytes(pixels, **tags)).astype(int)


def close(got: np.ndarray, expected) -> None:
    assert np.abs(got - np.asarray(expected, float)).max() <= 0.51


# ---- the conformance table ---------------------------------------------------------------------------------


def linear(x: float, center: float, width: float) -> float:
    """PS3.3, C.11.2.1.2.1."""
    if x <= center - 0.5 - (width - 1) / 2:
        return 0.0
    return 1.0 if x > center - 0.5 + (width - 1) / 2 else (x - (center - 0.5)) / (width - 1) + 0.5


def linear_exact(x: float, center: float, width: float) -> float:
    """PS3.3, C.11.2.1.3.2."""
    return min(1.0, max(0.0, (x - center) / width + 0.5))


def sigmoid(x: float, center: float, width: float) -> float:
    """PS3.3, C.11.2.1.3.1."""
    return 1 / (1 + math.exp(-4 * (x - center) / width))


def between(x: float, lowest: float, highest: float) -> float:
    return (x - lowest) / (highest - lowest)


def windows(low: int, high: int) -> dict:
    """Name: (tags, share of white for a value after the modality step)."""
    center, width = (low + high) / 2, (high - low) / 2
    one = {"WindowCenter": center, "WindowWidth": width}
    several = {"WindowCenter": [center, 1], "WindowWidth": [width, 10], "WindowCenterWidthExplanation": ["A", "B"]}
    return {
        "linear": (one, lambda x: linear(x, center, width)),
        "several": (several, lambda x: linear(x, center, width)),
        "named": (one | {"VOILUTFunction": "LINEAR"}, lambda x: linear(x, center, width)),
        "exact": (one | {"VOILUTFunction": "LINEAR_EXACT"}, lambda x: linear_exact(x, center, width)),
        "sigmoid": (one | {"VOILUTFunction": "SIGMOID"}, lambda x: sigmoid(x, center, width)),
    }


def tables(low: int, high: int, signed: bool) -> dict:
    """The same for VOI tables over the whole range: depth of the entries, depth declared, bytes or words."""
    count, forms = high - low + 1, {}
    for depth, declared, packed in (
        (8, 8, True),
        (8, 8, False),
        (8, 16, False),
        (10, 10, False),
        (12, 12, False),
        (12, 16, False),
        (14, 16, False),
        (16, 16, False),
    ):
        top = 2**depth - 1
        entries = [top - round(i * top / (count - 1)) for i in range(count)]  # falling
        item = lookup_table(entries, low, declared, "SS" if signed else "US", packed)
        shown = lambda x, entries=entries, top=top: entries[min(max(round(x) - low, 0), count - 1)] / top  # noqa: E731
        forms[f"table of {depth} in {declared}, {'bytes' if packed else 'words'}"] = ({"VOILUTSequence": [item]}, shown)
    return forms


def padded(low: int, bits: int, signed: bool) -> dict:
    """Name: (value of the padding, as it stands in all bits of a pixel)."""
    forms = {"none": None, "inside": low + 3}
    if bits < 16:
        forms["outside"] = -32768 if signed else 65535
    return forms


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", range(8, 17))
def test_every_legal_form_of_display(bits, signed):
    """Bits, sign, padding and photometric interpretation with every window and table; and none, min to max."""
    low = -(2 ** (bits - 1)) if signed else 0
    high = low + 2**bits - 1
    values = np.unique(np.rint(np.linspace(low, high, 45))).astype(int)
    forms = {**windows(low, high), **tables(low, high, signed)}
    if bits > 8:
        forms["none"] = ({}, None)
    for (name, (tags, share)), (place, padding) in (
        (form, pad) for form in forms.items() for pad in padded(low, bits, signed).items()
    ):
        stored = np.append(values, values[-1] if padding is None else padding)[None]
        valid = [int(x) for x in stored[0] if x != padding]
        shown = share or functools.partial(between, lowest=min(valid), highest=max(valid))
        white = np.array([[0.0 if x == padding else shown(int(x)) for x in stored[0]]])
        tags = {**tags, "BitsStored": bits, "HighBit": bits - 1}
        if padding is not None:
            tags["PixelPaddingValue"] = int(padding)
        words = stored.astype(np.int16 if signed else np.uint16)
        for photometric in ("MONOCHROME2", "MONOCHROME1"):
            expected = white if photometric == "MONOCHROME2" else 1 - white
            expected = np.where(stored == padding, 0, expected)
            got = grey(words, PhotometricInterpretation=photometric, **tags)
            assert np.abs(got - expected * 255).max() <= 0.51, (name, place, photometric)


QUARTERS = st.integers(-4000, 4000).map(lambda n: n / 4)  # decimal strings hold them exactly


@settings(max_examples=40)
@given(
    st.integers(2, 16),
    st.booleans(),
    st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    st.sampled_from(["LINEAR", "LINEAR_EXACT", None]),
    QUARTERS.filter(lambda slope: slope != 0),
    QUARTERS,
    st.lists(st.floats(0, 1), min_size=3, max_size=12),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_window_is_monotone_and_exact_at_both_ends(
    bits, signed, photometric, function, slope, intercept, shares, place
):
    """Black up to its lower end, white from its upper end on, and never the other way between; without one, from end to end."""
    low = -(2 ** (bits - 1)) if signed else 0
    stored = np.unique([low, low + 2**bits - 1, *(low + round(share * (2**bits - 1)) for share in shares)])
    values = stored * slope + intercept
    begin, end = sorted(values.min() + share * np.ptp(values) for share in place)
    tags = {"BitsStored": bits, "HighBit": bits - 1, "RescaleSlope": slope, "RescaleIntercept": intercept}
    if function:
        width = max(1.0, round(end - begin))
        tags |= {"WindowCenter": round((begin + end) / 2), "WindowWidth": width, "VOILUTFunction": function}
        begin, end = tags["WindowCenter"] - width / 2, tags["WindowCenter"] + width / 2
        begin, end = (begin, end - 1) if function == "LINEAR" else (begin, end)
    else:
        begin, end = values.min(), values.max()
    words = stored[None].astype(np.int16 if signed else np.uint16)
    shown = grey(words, PhotometricInterpretation=photometric, **tags)[0][np.argsort(values)]
    shown = 255 - shown if photometric == "MONOCHROME1" else shown
    assert (np.diff(shown) >= 0).all()
    assert not shown[np.sort(values) <= begin].any()
    assert (shown[np.sort(values) > end] == 255).all()
    if function != "LINEAR" or width > 1:
        assert (shown[np.sort(values) >= end] == 255).all()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_modality_tables_come_before_windows_and_voi_tables(bits, signed):
    low, count = (-(2 ** (bits - 1)) if signed else 0), 2**bits
    stored = np.unique(np.rint(np.linspace(low, low + count - 1, 30))).astype(np.int16 if signed else np.uint16)[None]
    outputs = [40_000 - round(i * 30_000 / (count - 1)) for i in range(count)]
    modality = lookup_table(outputs, low, 16, "SS" if signed else "US")
    after = np.array([[outputs[int(x) - low] for x in stored[0]]])
    tags = {"ModalityLUTSequence": [modality], "BitsStored": bits, "HighBit": bits - 1}
    got = grey(stored, **tags, WindowCenter=25_000, WindowWidth=20_000)
    close(got, [[linear(x, 25_000, 20_000) * 255 for x in after[0]]])
    got = grey(stored, **tags, VOILUTSequence=[lookup_table([0, 100, 255], 25_000, 8, packed=True)])
    close(got, [[0 if x <= 25_000 else 255 if x >= 25_002 else 100 for x in after[0]]])
    got = grey(stored, **tags)
    close(got, (after - after.min()) / (after.max() - after.min()) * 255)


def test_a_table_that_begins_where_rescaled_values_are_negative():
    """Unsigned pixels, but values from -1024 on: the first value is signed, also where it is written as unsigned."""
    entries = range(4096)
    for first, kind in ((-1024, "SS"), (65536 - 1024, "US")):
        voi = [lookup_table(entries, first, 12, kind)]
        close(grey(RAMP, RescaleIntercept=-1024, VOILUTSequence=voi, **TWELVE), FULL)


@pytest.mark.parametrize(
    ("count", "lowest", "highest", "kind", "first"),
    [
        (100, 0, 65535, "US", 40000),  # only as a positive number does the table meet the values
        (100, 0, 65535, "SS", 40000),
        (100, -32768, 32767, "US", -25536),  # only as a negative one
        (100, 0, 40000, "SS", 40000),  # its first value is their highest
        (100, 0, 39999, "SS", -25536),  # neither: the sign of the descriptor counts
        (100, 0, 255, "US", 40000),
        (100, -128, 127, "US", -25536),  # neither, and the values can be negative
        (25536, 0, 50000, "SS", 40000),  # the last of the negative values is -1
        (25537, 0, 50000, "SS", -25536),  # it is 0: both meet the values
        (25537, 0, 50000, "US", 40000),
        (30000, -1000, 50000, "US", -25536),
    ],
)
def test_a_first_value_of_two_readings_is_the_one_by_which_the_table_meets_the_values(
    count, lowest, highest, kind, first
):
    """The bits of 40,000 are those of -25,536."""
    item = lookup_table(np.arange(count), 40000 if kind == "US" else -25536, 16, kind)
    table = lookup_tables.read(item, lowest, highest, big_endian=False, name="a.dcm", kind="VOI")
    assert table.first == first
    assert table.apply(np.array([first - 9, first + 5])).tolist() == [0, 5]


def test_a_table_may_begin_at_the_highest_value_of_a_modality_table():
    """At 65,535, the bits of -1: all values below it have its first entry, and so has the value itself."""
    modality, voi = [lookup_table([0, 65_534, 65_535], 0, 16)], [lookup_table([0, 255], 65_535, 8)]
    stored = np.array([[0, 1, 2]], np.uint16)
    close(grey(stored, ModalityLUTSequence=modality, VOILUTSequence=voi), [[0, 0, 0]])


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_65536_entries_with_signed_pixels(photometric):
    pixels = np.array([[-32768, -1, 0, 1, 32767]], np.int16)
    voi = [lookup_table(np.arange(65536), -32768, 16, "SS")]
    expected = np.array([[0, 32767, 32768, 32769, 65535]]) / 65535 * 255
    got = grey(pixels, VOILUTSequence=voi, PhotometricInterpretation=photometric)
    close(got, expected if photometric == "MONOCHROME2" else 255 - expected)


# ---- tables as they are written ----------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("kind", ["OW", "US"])
@pytest.mark.parametrize("packed", [False, True])
def test_tables_in_every_encoding(syntax, kind, packed):
    """8-bit entries as words and two to a word, as raw words and as numbers, in either byte order."""
    big = syntax == ExplicitVRBigEndian
    entries = np.arange(256)[::-1]
    words = entries.astype("u1").view("<u2") if packed else entries.astype("<u2")
    item = lookup_table(entries, 0, 8)
    item.add_new("LUTData", kind, words.astype(">u2" if big else "<u2").tobytes() if kind == "OW" else words.tolist())
    pixels = np.arange(256, dtype=np.uint16).reshape(4, 64)
    made = dataset(pixels.byteswap() if big else pixels, VOILUTSequence=[item], BitsStored=8, HighBit=7)
    made.file_meta.TransferSyntaxUID = syntax
    np.testing.assert_array_equal(images.read(saved(made)), 255 - pixels)


def test_odd_numbers_of_bytes_are_filled_up():
    voi = [lookup_table([0, 50, 255], 0, 8, packed=True)]
    np.testing.assert_array_equal(grey(np.array([[0, 1, 2, 3]], np.uint8), VOILUTSequence=voi), [[0, 50, 255, 255]])


def test_a_voi_table_that_cannot_be_used_is_ignored_with_a_warning():
    short = lookup_table(range(4096), 0, 12)
    short.LUTData = short.LUTData[:5000]
    without = lookup_table(range(4), 0, 12)
    del without.LUTDescriptor
    two, four = lookup_table(range(4), 0, 12), lookup_table(range(4), 0, 12)
    two.LUTDescriptor, four.LUTDescriptor = [4, 0], [4, 0, 12, 1]
    for item, reason in (
        (short, "5,000 bytes, but its descriptor says 4,096 entries"),
        *((item, "not three numbers") for item in (without, two, four)),
    ):
        with pytest.warns(UserWarning, match=f"the VOI lookup table has .*{reason}.*; it is ignored"):
            got = grey(RAMP, VOILUTSequence=[item], WindowCenter=2048, WindowWidth=4096, **TWELVE)
        close(got, FULL)
    with pytest.warns(UserWarning, match="it is ignored"):  # the next table of the sequence
        close(grey(RAMP, VOILUTSequence=[short, lookup_table(range(4096), 0, 12)], **TWELVE), FULL)


def test_a_modality_table_that_cannot_be_used_is_refused():
    item = lookup_table(range(4096), 0, 12)
    item.LUTData = item.LUTData[:5000]
    with pytest.raises(ImageError, match="the modality lookup table has 5,000 bytes"):
        grey(RAMP, ModalityLUTSequence=[item], **TWELVE)


# ---- windows and rescale values as they are written --------------------------------------------------------


def written(**texts: bytes) -> bytes:
    """The ramp with these texts in place of numbers, which pydicom would not write."""
    places = {key: f"{1000 + i}.000000" for i, key in enumerate(texts)}
    data = dicom_bytes(RAMP, **TWELVE, **places)
    for key, text in texts.items():
        data = data.replace(places[key].encode().ljust(12), text.ljust(12))
    return data


@pytest.mark.parametrize(
    ("center", "width"),
    [
        (b"2048,0", b"4096,0"),
        (b"2048", b"4.096,0"),
        (b"2,048.0", b"4096"),
        (b"2048,0\\1", b"4096,0\\1"),
        (b"2.048E3", b"+4096"),
    ],
)
def test_decimal_commas(center, width):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        close(images.read(written(WindowCenter=center, WindowWidth=width)), FULL)
    two = written(RescaleSlope=b"2,0", RescaleIntercept=b"-1,0", WindowCenter=b"4096", WindowWidth=b"8192")
    close(images.read(two), [[linear(2 * float(x) - 1, 4096, 8192) * 255 for x in RAMP[0]]] * 4)


@pytest.mark.parametrize(
    ("center", "width"),
    [(b"none", b"none"), (b"2048", b"none"), (b"2048", b""), (b"NaN", b"4096"), (b"inf", b"4096"), (b"\\\\", b"4096")],
)
def test_a_window_that_says_nothing_is_ignored_with_a_warning(center, width):
    with pytest.warns(UserWarning, match="window .*not a number.* is not valid and is ignored"):
        got = images.read(written(WindowCenter=center, WindowWidth=width))
    close(got, RAMP / RAMP.max() * 255)


@pytest.mark.parametrize(
    ("center", "width"), [(b"\\2048", b"\\4096"), (b"1\\2048", b"0\\4096"), (b"x\\2048", b"9\\4096")]
)
def test_the_first_window_that_says_something_counts(center, width):
    with pytest.warns(UserWarning, match="is not valid and is ignored"):
        close(images.read(written(WindowCenter=center, WindowWidth=width)), FULL)


def test_empty_windows_are_no_windows():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        close(images.read(written(WindowCenter=b"", WindowWidth=b"")), RAMP / RAMP.max() * 255)
        close(images.read(written(RescaleSlope=b"", RescaleIntercept=b"")), RAMP / RAMP.max() * 255)


@pytest.mark.parametrize(("slope", "intercept"), [(b"none", b"0"), (b"1", b"-1024 HU"), (b"0,0", b"0")])
def test_rescale_values_that_are_no_numbers_are_refused_as_written(slope, intercept):
    with pytest.raises(
        ImageError, match=f"rescale slope {slope.decode()} and intercept {intercept.decode()} cannot give"
    ):
        images.read(written(RescaleSlope=slope, RescaleIntercept=intercept))
