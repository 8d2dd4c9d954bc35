"""From a DICOM radiograph to (H, W) uint8, as a viewer shows it first: bright bone on a black background.

A file is parsed, its header is checked against its pixel data (`mrm.data.dicom_streams` for compressed ones) and against
what a chest radiograph says (`mrm.data.chest_tags`), and its stored values become grey (`mrm.data.grayscale`); colour
captures become luma. Compressed files other than 8-bit JPEG need the plugins of the `dicom` extra.

`mrm.data.images` calls this module for DICOM files.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np
import pydicom
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut, get_decoder, pixel_array
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from mrm.data import (
    chest_tags,
    dicom_limits,
    dicom_streams,
    grayscale,
    header_index,
    headers,
    jpeg_files,
    lookup_tables,
)
from mrm.data.archive import ArchivedImage
from mrm.data.grey_levels import GreyLevels, of_bytes
from mrm.data.headers import Bytes, kind_of
from mrm.system.errors import ImageError

DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"  # after the last fragment of compressed pixel data (PS3.5, A.4)
JPEG = (JPEGBaseline8Bit, JPEGExtended12Bit)
JPEG_LS = (JPEGLSLossless, JPEGLSNearLossless)
COLOURS = ("Red", "Green", "Blue")


def parse(data: Bytes, name: str, header_only: bool = False) -> pydicom.Dataset:
    """The parsed file. With `header_only` it has only the size, and the end of the data may be missing.

    Raises `ImageError`.
    """
    with _as_image_error(name):
        head = bytes(data[:132])
        if (kind := kind_of(head, name)) != "dicom":
            raise ImageError(f"{name}: a {kind.upper()} file, not DICOM; read it with mrm.data.images.read")
        if header_only:
            return dicom_limits.read(data, name, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
        return _read_whole(data, name)


def header(source: Path | bytes | headers.StoredImage, name: str) -> pydicom.Dataset | None:
    """All that a file states before its pixels; None for a file of another format. Raises `ImageError`."""
    if isinstance(source, ArchivedImage):
        return source.header()
    data = headers.load(source)
    if kind_of(data, name) != "dicom":
        return None
    with _as_image_error(name):
        return dicom_limits.read(data, name, stop_before_pixels=True)


def size(dataset: pydicom.Dataset, name: str) -> tuple[int, int]:
    """Height and width according to the header. Raises `ImageError`."""
    with _as_image_error(name):
        return _shape(dataset, name)


def doubts(dataset: pydicom.Dataset, name: str) -> list[str]:
    """Reasons in the header to doubt that this is a chest radiograph, see `mrm.data.chest_tags`. Raises `ImageError`."""
    with _as_image_error(name):
        return chest_tags.doubts(dataset)


def identity(dataset: pydicom.Dataset) -> dict[str, str]:
    """Patient, study, accession, date and view, as `mrm.data.header_index` names them; a damaged value counts as not stated."""
    header: dict[str, str] = {}
    for name in (*header_index.WHOSE, "view"):
        with suppress(Exception):  # damaged values make pydicom raise a dozen kinds
            header |= header_index.stated_in(dataset, [name])
    return header_index.identity(header) | ({"view": header["view"]} if header.get("view") else {})


def transfer_syntax(dataset: pydicom.Dataset) -> pydicom.uid.UID:
    """The transfer syntax; if the file does not state it, the encoding it was read with."""
    stated = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID")
    if stated:
        return stated
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta = getattr(dataset, "file_meta", None) or pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset.file_meta.TransferSyntaxUID


def decode(dataset: pydicom.Dataset, name: str) -> np.ndarray:
    """The only frame of a parsed file as (H, W) uint8.

    Warns of reasons to doubt that it is a chest radiograph, and of what had to be assumed. Raises `ImageError`.
    """
    with _as_image_error(name):
        _check(dataset, name)
        for doubt in chest_tags.doubts(dataset):
            warnings.warn(f"{name}: {doubt}", stacklevel=3)
        pixels = _pixels(dataset, name)
        if pixels.ndim == 3:
            return _luma(dataset, pixels)
        return grayscale.to_uint8(dataset, pixels, name, _has_all_bits(dataset))


def grey_levels(dataset: pydicom.Dataset, name: str) -> GreyLevels:
    """The only frame of a parsed file with its values and its window; colour as 8-bit luma. Raises `ImageError`."""
    with _as_image_error(name):
        _check(dataset, name)
        pixels = _pixels(dataset, name)
        if pixels.ndim == 3:
            return of_bytes(_luma(dataset, pixels))
        return grayscale.levels(dataset, pixels, name, _has_all_bits(dataset))


def _has_all_bits(dataset: pydicom.Dataset) -> bool:
    """Whether the decoded pixels have the unused bits of the file, which may hold overlays."""
    return not transfer_syntax(dataset).is_compressed or transfer_syntax(dataset) == RLELossless


# ---- checks of the header ---------------------------------------------------------------------------------


@contextmanager
def _as_image_error(name: str) -> Iterator[None]:
    """Turn every error inside into an `ImageError`: damaged files make pydicom raise a dozen kinds of exceptions."""
    try:
        yield
    except (ImageError, MemoryError, Warning):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ImageError(f"{name}: damaged DICOM ({reason}); download or copy the file again") from error


def _read_whole(data: Bytes, name: str) -> pydicom.Dataset:
    """All elements. Where compressed pixel data have no end, pydicom leaves all elements out: it is added with a warning."""
    dataset = dicom_limits.read(data, name)
    if "PixelData" in dataset or not transfer_syntax(dataset).is_compressed:
        return dataset
    ended = dicom_limits.read(bytes(data) + DELIMITER, name)
    if "PixelData" in ended:
        warnings.warn(f"{name}: the pixel data have no sequence delimiter; it is added", stacklevel=4)
    return ended


def _shape(dataset: pydicom.Dataset, name: str) -> tuple[int, int]:
    rows, columns = dataset.get("Rows"), dataset.get("Columns")
    if not rows or not columns:
        raise ImageError(f"{name}: this DICOM has no image (no Rows and Columns); choose the image objects")
    return int(rows), int(columns)


def _check(dataset: pydicom.Dataset, name: str) -> None:
    subject = f"{name}: modality {dataset.get('Modality') or 'not stated'},"
    if not dataset.get("PixelData"):
        if dataset.get("Rows") and dataset.get("Columns"):
            raise ImageError(
                f"{subject} this DICOM has no pixel data, though it states the size of an image; the file is cut off or its "
                "pixels were removed, download or copy it again"
            )
        raise ImageError(f"{subject} this DICOM has no pixel data; choose the image objects, not reports or maps")
    frames = (grayscale.numbers(dataset, "NumberOfFrames") or [1])[0] or 1
    if frames > 1:
        raise ImageError(f"{subject} {frames:g} frames, but a radiograph has one; save the frame you need by itself")
    _fill_in(dataset, name)
    if transfer_syntax(dataset).is_compressed:
        if not _is_grey_jpeg(dataset, name):
            _check_decoder(transfer_syntax(dataset), name)
        expected = (*_shape(dataset, name), int(dataset.SamplesPerPixel))
        dicom_streams.check(_frame(dataset, name), expected, transfer_syntax(dataset), name)
    else:
        _check_length(dataset, name)


def _fill_in(dataset: pydicom.Dataset, name: str) -> None:
    """Give elements that are absent or empty the only value that they can have, or the usual one with a warning."""
    photometric = str(dataset.get("PhotometricInterpretation") or "").strip().upper()
    if not photometric:
        raise ImageError(
            f"{name}: does not say whether 0 is black or white (no Photometric Interpretation); set it, or export the image again"
        )
    dataset.PhotometricInterpretation = photometric
    if not dataset.get("BitsAllocated"):
        raise ImageError(f"{name}: does not say how many bits a pixel has (no Bits Allocated); export the image again")
    if not dataset.get("SamplesPerPixel"):
        dataset.SamplesPerPixel = 1 if photometric.startswith(("MONOCHROME", "PALETTE")) else 3
    usual = {"BitsStored": dataset.BitsAllocated, "PixelRepresentation": 0}
    if dataset.SamplesPerPixel > 1:
        usual["PlanarConfiguration"] = 0
    for keyword, value in usual.items():
        if dataset.get(keyword) is None:
            setattr(dataset, keyword, value)
            warnings.warn(f"{name}: {keyword} is not stated and is taken as {value}", stacklevel=4)
    if "NumberOfFrames" in dataset:
        dataset.NumberOfFrames = 1
    if dataset.get("HighBit") is None:
        dataset.HighBit = dataset.BitsStored - 1


def _check_length(dataset: pydicom.Dataset, name: str) -> None:
    """Refuse uncompressed pixel data that are too short or too long; zeros after the last row are left out (PS3.5, 8.1.1)."""
    rows, columns = _shape(dataset, name)
    halved = dataset.PhotometricInterpretation == "YBR_FULL_422"  # two pixels share their two chroma values
    samples = int(dataset.SamplesPerPixel) - halved
    expected = math.ceil(rows * columns * samples * int(dataset.BitsAllocated) / 8)
    actual, even = len(dataset.PixelData), expected + expected % 2
    if actual > even and not any(dataset.PixelData[expected:]):
        dataset.PixelData = dataset.PixelData[:even]
        warnings.warn(f"{name}: {actual - even:,} zero bytes after the last row of pixels are left out", stacklevel=4)
    elif not expected <= actual <= even:
        raise ImageError(
            f"{name}: {actual:,} bytes of pixel data, but {rows} x {columns} pixels need "
            f"{expected:,}; the file is cut off or its header is wrong, download or copy it again"
        )


def _frame(dataset: pydicom.Dataset, name: str) -> bytes:
    return dicom_streams.only_frame(dataset.PixelData, transfer_syntax(dataset), name)


def _is_grey_jpeg(dataset: pydicom.Dataset, name: str) -> bool:
    """Whether the pixels are 8-bit JPEG of one channel, which is decoded as a JPEG file is."""
    grey = dataset.SamplesPerPixel == 1 and dataset.BitsAllocated == 8 and not dataset.PixelRepresentation
    return grey and transfer_syntax(dataset) in JPEG and dicom_streams.is_sampled_jpeg(_frame(dataset, name), name)


def _check_decoder(syntax: pydicom.uid.UID, name: str) -> None:
    try:
        decoder = get_decoder(syntax)
        available = "pyjpegls" in decoder.available_plugins if syntax in JPEG_LS else decoder.is_available
    except NotImplementedError:
        raise ImageError(f"{name}: {syntax.name} cannot be decoded; convert it to JPEG 2000 or uncompressed") from None
    if not available:
        raise ImageError(f"{name}: {syntax.name} needs a plugin: pip install 'mrm-radiograph[dicom]'")


# ---- pixels ------------------------------------------------------------------------------------------------


def _pixels(dataset: pydicom.Dataset, name: str) -> np.ndarray:
    """Stored values (H, W), or red, green, blue (H, W, 3)."""
    if _is_grey_jpeg(dataset, name):
        frame = _frame(dataset, name)
        pixels = jpeg_files.decode(frame, headers.parse(frame, name, "jpeg"), 1, name)
    else:
        pixels = _decoded(dataset, name)
        _check_not_made_up(dataset, pixels, name)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        pixels = _colours(dataset, pixels, name)
    if pixels.shape[:2] != _shape(dataset, name) or pixels.ndim > 3:
        raise ImageError(f"{name}: the pixel data have shape {pixels.shape}, not the size in the header")
    return pixels


def _decoded(dataset: pydicom.Dataset, name: str) -> np.ndarray:
    plugin = (
        "pyjpegls" if transfer_syntax(dataset) in JPEG_LS else ""
    )  # the only one that tells of missing JPEG-LS data
    try:  # pydicom would assume the high bit; see grayscale
        return pixel_array(dataset, correct_unused_bits=False, decoding_plugin=plugin)
    except RuntimeError as error:
        if not plugin:
            raise
        reason = str(error).rsplit(": ", 1)[-1]
        raise ImageError(
            f"{name}: the JPEG-LS data are cut off or damaged ({reason}); download or copy the file again"
        ) from error


def _check_not_made_up(dataset: pydicom.Dataset, pixels: np.ndarray, name: str) -> None:
    """Refuse lossless and 12-bit JPEG that stops early, of which its decoder does not tell.

    It then takes what follows for data, so that bytes put before the end marker change the pixels. The second decoding
    costs as much as the first, and is left out where the last row has more different steps than a made-up one.
    """
    if not transfer_syntax(dataset).is_compressed or not dicom_streams.may_be_short(
        _frame(dataset, name), pixels, name
    ):
        return
    longer = dataset.group_dataset(0x0028)
    longer.file_meta = dataset.file_meta
    longer.PixelData = encapsulate([dicom_streams.with_filling(_frame(dataset, name))])
    longer["PixelData"].is_undefined_length = True
    try:
        same = np.array_equal(_decoded(longer, name), pixels)
    except Exception:  # each decoder has its own; it has decoded the same data without the filling
        same = False
    if not same:
        raise ImageError(f"{name}: cut off, the JPEG data stop before the last row; download or copy the file again")


def _colours(dataset: pydicom.Dataset, indices: np.ndarray, name: str) -> np.ndarray:
    """Red, green and blue (H, W, 3) of a palette, as uint8, or as float32 of 0 to 1."""
    if "SegmentedRedPaletteColorLookupTableData" in dataset:
        colours = apply_color_lut(indices, dataset)
        return colours if colours.dtype == np.uint8 else (colours / np.float32(2**16 - 1)).astype(np.float32)
    big_endian, highest = transfer_syntax(dataset) == ExplicitVRBigEndian, 2 ** grayscale.bits(dataset) - 1
    tables = [lookup_tables.read_palette(dataset, colour, highest, big_endian, name) for colour in COLOURS]
    largest = max(table.largest_output for table in tables)
    return np.dstack([table.apply(indices) / np.float32(largest) for table in tables]).astype(np.float32)


def _luma(dataset: pydicom.Dataset, pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return cv2.cvtColor(np.ascontiguousarray(pixels[:, :, :3]), cv2.COLOR_RGB2GRAY)
    largest = 1 if dataset.PhotometricInterpretation == "PALETTE COLOR" else 2 ** grayscale.bits(dataset) - 1
    return grayscale.to_bytes(cv2.cvtColor(pixels[:, :, :3].astype(np.float32), cv2.COLOR_RGB2GRAY) / largest)
