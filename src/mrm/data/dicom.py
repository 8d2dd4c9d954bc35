"""From a DICOM radiograph to (H, W) uint8, as a viewer shows it first: bright bone on a black background.

The steps follow the standard (PS3.4, N.2): the used bits of the stored values; modality table or rescaling; the first
VOI table, or the first window with its function; MONOCHROME1 inverted; pixel padding black. Without a window, 8-bit
images keep their full range, so a DICOM made from a JPEG equals the JPEG, and deeper ones are scaled from their minimum
to their maximum valid value. Colour captures become luma. Compressed files need the plugins of the `dicom` extra.

`mrm.data.images` calls this module for DICOM files.
"""

import io
import itertools
import math
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import pydicom
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, get_decoder, pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from mrm.data.headers import Bytes, kind_of
from mrm.data.headers import parse as parse_header
from mrm.system.errors import ImageError

RADIOGRAPHS = {"CR", "DX", "RG"}
TOLERATED = {"", "OT", "SC"}  # captures and converted files, which do not state what they show
MAX_INFLATED = 1 << 28  # bytes of a deflated file once inflated; the largest radiographs have a quarter of that
JPEG_2000 = b"\xff\x4f\xff\x51"  # the markers SOC and SIZ, with which a codestream starts
CHEST = ("CHEST", "THORAX", "TORAX", "LUNG")


def parse(data: Bytes, name: str, header_only: bool = False) -> pydicom.Dataset:
    """The parsed file. With `header_only` it has only the size, and the end of the data may be missing.

    Raises `ImageError`.
    """
    with _as_image_error(name):
        head = bytes(data[:132])
        if (kind := kind_of(head, name)) != "dicom":
            raise ImageError(f"{name}: a {kind.upper()} file, not DICOM; read it with mrm.data.images.read")
        _check_deflated(data, head, name)
        file, force = io.BytesIO(data), head[128:] != b"DICM"
        if header_only:
            return pydicom.dcmread(file, force=force, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
        return pydicom.dcmread(file, force=force)


def size(dataset: pydicom.Dataset, name: str) -> tuple[int, int]:
    """Height and width according to the header. Raises `ImageError`."""
    with _as_image_error(name):
        return _shape(dataset, name)


def doubts(dataset: pydicom.Dataset, name: str) -> list[str]:
    """Reasons in the header to doubt that this is a chest radiograph: its modality or body part. Raises `ImageError`."""
    with _as_image_error(name):
        return _doubts(dataset)


def decode(dataset: pydicom.Dataset, name: str) -> np.ndarray:
    """The only frame of a parsed file as (H, W) uint8.

    Warns if the modality or the body part is not that of a chest radiograph. Raises `ImageError`.
    """
    with _as_image_error(name):
        _check(dataset, name)
        _warn_unless_chest(dataset, name)
        pixels = _pixels(dataset, name)
        return _grey(dataset, pixels, name) if pixels.ndim == 2 else _luma(dataset, pixels)


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


def _check_deflated(data: Bytes, head: bytes, name: str) -> None:
    """Refuse a deflated file that inflates to more than MAX_INFLATED: pydicom inflates all of it in memory."""
    if head[128:] != b"DICM":
        return
    with io.BytesIO(data) as file:
        file.seek(132)
        meta = pydicom.filereader.read_dataset(file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return
        inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while piece := inflate.unconsumed_tail or file.read(1 << 16):
            total += len(inflate.decompress(piece, 1 << 20))
            if total > MAX_INFLATED:
                raise ImageError(
                    f"{name}: inflates to more than {MAX_INFLATED >> 20} MiB; save it without deflate compression"
                )


def _shape(dataset: pydicom.Dataset, name: str) -> tuple[int, int]:
    rows, columns = dataset.get("Rows"), dataset.get("Columns")
    if not rows or not columns:
        raise ImageError(f"{name}: this DICOM has no image (no Rows and Columns); choose the image objects")
    return int(rows), int(columns)


def _check(dataset: pydicom.Dataset, name: str) -> None:
    subject = f"{name}: modality {dataset.get('Modality') or 'not stated'},"
    if "PixelData" not in dataset:
        raise ImageError(f"{subject} this DICOM has no pixel data; choose the image objects, not reports or maps")
    rows, columns = _shape(dataset, name)
    if (frames := int(dataset.get("NumberOfFrames") or 1)) > 1:
        raise ImageError(f"{subject} {frames} frames, but a radiograph has one; save the frame you need by itself")
    if _syntax(dataset).is_compressed:
        _check_decoder(_syntax(dataset), name)
        if _syntax(dataset) != RLELossless and b"\xff\xd9" not in dataset.PixelData:
            raise ImageError(f"{name}: cut off, the pixel data have no end marker; download or copy the file again")
        _check_stream(next(generate_frames(dataset.PixelData, number_of_frames=1)), dataset, name)
        return
    halved = dataset.get("PhotometricInterpretation") == "YBR_FULL_422"  # two pixels share their two chroma values
    samples = int(dataset.get("SamplesPerPixel") or 1) - halved
    expected = math.ceil(rows * columns * samples * int(dataset.get("BitsAllocated") or 8) / 8)
    if not expected <= len(dataset.PixelData) <= expected + 1:  # an odd length is padded to even
        raise ImageError(
            f"{name}: {len(dataset.PixelData):,} bytes of pixel data, but {rows} x {columns} pixels need "
            f"{expected:,}; the file is cut off or its header is wrong, download or copy it again"
        )


def _check_stream(frame: bytes, dataset: pydicom.Dataset, name: str) -> None:
    """Refuse a stream whose size differs from that in the header, before decoding it costs memory."""
    if _syntax(dataset) == RLELossless:
        _check_runs(frame, math.prod(_shape(dataset, name)), name)
        return
    expected = (*_shape(dataset, name), int(dataset.get("SamplesPerPixel") or 1))
    sizes = [expected]
    if frame.startswith(b"\xff\xd8"):
        stream = parse_header(frame, name, "jpeg")
        sizes = [(stream.height, stream.width, stream.channels)]
    elif JPEG_2000 in frame:  # a bare codestream, or one inside a JP2 file, where every occurrence is checked
        starts = [0] if frame.startswith(JPEG_2000) else [m.start() for m in re.finditer(JPEG_2000, frame)]
        areas = [struct.unpack_from(">4I16xH", frame, at + 8) for at in starts]  # SIZ, ITU-T T.800, A.5.1
        sizes = [(bottom - top, right - left, channels) for right, bottom, left, top, channels in areas]
    if wrong := [size for size in sizes if size != expected]:
        raise ImageError(
            f"{name}: the compressed image has {_size_text(wrong[0])}, but the header says {_size_text(expected)}; "
            "download or copy the file again"
        )


def _size_text(size: tuple[int, int, int]) -> str:
    height, width, channels = size
    return f"{height} x {width} pixels" + (f" of {channels} channels" if channels > 1 else "")


def _check_runs(frame: bytes, pixels: int, name: str) -> None:
    """Refuse RLE whose segments unpack to less than a byte a pixel, or to far more: 2 bytes can encode 128 (PS3.5, G.3).

    Some programs pad the segments, so only twice the size and more is refused.
    """
    count, *starts = struct.unpack_from("<16I", frame)
    for start, end in itertools.pairwise([*starts[:count], len(frame)]):
        size = _unpacked_size(frame[start:end], 2 * pixels)
        if not pixels <= size <= 2 * pixels:
            count_text = f"only {size:,}" if size < pixels else f"more than {2 * pixels:,}"
            raise ImageError(
                f"{name}: an RLE segment unpacks to {count_text} bytes, but the header says {pixels:,}; the file is cut "
                "off or its header is wrong, download or copy it again"
            )


def _unpacked_size(segment: bytes, limit: int) -> int:
    """The number of bytes that an RLE segment unpacks to, counted until it exceeds `limit`."""
    at = size = 0
    while at < len(segment) and size <= limit:
        first = segment[at]
        if first < 128:  # first + 1 literal bytes follow
            at, size = at + first + 2, size + first + 1
        elif first > 128:  # the next byte is repeated 257 - first times
            at, size = at + 2, size + 257 - first
        else:  # 128 is a no-op
            at += 1
    return size - max(0, at - len(segment))  # the last run may be cut off


def _syntax(dataset: pydicom.Dataset) -> pydicom.uid.UID:
    """The transfer syntax; if the file does not state it, the encoding it was read with."""
    stated = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID")
    if stated:
        return stated
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta = getattr(dataset, "file_meta", None) or pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset.file_meta.TransferSyntaxUID


def _check_decoder(syntax: pydicom.uid.UID, name: str) -> None:
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        raise ImageError(f"{name}: {syntax.name} cannot be decoded; convert it to JPEG 2000 or uncompressed") from None
    if not available:
        raise ImageError(f"{name}: {syntax.name} needs a plugin: pip install 'mrm-radiograph[dicom]'")


def _warn_unless_chest(dataset: pydicom.Dataset, name: str) -> None:
    for doubt in _doubts(dataset):
        warnings.warn(f"{name}: {doubt}", stacklevel=3)


def _doubts(dataset: pydicom.Dataset) -> list[str]:
    modality = str(dataset.get("Modality") or "").strip().upper()
    part = str(dataset.get("BodyPartExamined") or "").strip().upper()
    differences = []
    if modality not in RADIOGRAPHS | TOLERATED:
        differences.append(f"modality is {modality}, not CR, DX or RG")
    if part and not any(word in part for word in CHEST):
        differences.append(f"body part is {part}, not CHEST")
    if not differences:
        return []
    return [f"{' and '.join(differences)}; the output of a chest radiograph model is meaningless for it"]


# ---- pixels ------------------------------------------------------------------------------------------------


def _pixels(dataset: pydicom.Dataset, name: str) -> np.ndarray:
    """Stored values (H, W), or red, green, blue (H, W, 3)."""
    pixels = pixel_array(dataset, correct_unused_bits=False)  # pydicom would assume the high bit; see _used_bits
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
    if pixels.shape[:2] != _shape(dataset, name) or pixels.ndim > 3:
        raise ImageError(f"{name}: the pixel data have shape {pixels.shape}, not the size in the header")
    return pixels


def _bits(dataset: pydicom.Dataset) -> int:
    return int(dataset.get("BitsStored") or dataset.get("BitsAllocated") or 8)


def _luma(dataset: pydicom.Dataset, pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return cv2.cvtColor(pixels[:, :, :3].astype(np.uint8), cv2.COLOR_RGB2GRAY)
    bits = 16 if dataset.PhotometricInterpretation == "PALETTE COLOR" else _bits(dataset)
    deep = cv2.cvtColor(pixels[:, :, :3].astype(np.float32), cv2.COLOR_RGB2GRAY)
    return _to_bytes(deep / (2**bits - 1))


def _grey(dataset: pydicom.Dataset, pixels: np.ndarray, name: str) -> np.ndarray:
    stored = _used_bits(dataset, pixels)
    padding = _padding(dataset, stored)
    grey = _voi(dataset, _modality(dataset, stored, name), padding, name)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grey = 255 - grey
    grey[padding] = 0
    return grey


def _used_bits(dataset: pydicom.Dataset, pixels: np.ndarray) -> np.ndarray:
    """The bits that hold the value; the others may hold overlays. A signed value keeps its sign."""
    bits, size = _bits(dataset), pixels.dtype.itemsize * 8
    raw = not _syntax(dataset).is_compressed or _syntax(dataset) == RLELossless
    high = int(dataset.get("HighBit", bits - 1)) if raw else bits - 1
    if bits >= size or not bits - 1 <= high < size:
        return pixels
    return (pixels << (size - 1 - high)) >> (size - bits)


def _padding(dataset: pydicom.Dataset, stored: np.ndarray) -> np.ndarray:
    """Which pixels are padding: PixelPaddingValue, or the range from it to its limit (PS3.3, C.7.5.1.1.2)."""
    first, last = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    ends = np.array([end for end in (first, last) if isinstance(end, int)], np.int64)
    half = 2 ** (stored.dtype.itemsize * 8 - 1)
    if not isinstance(first, int) or ends.min() < -half or ends.max() >= 2 * half:
        return np.zeros(stored.shape, bool)
    ends = ends.astype(stored.dtype)  # some files have a signed value written as unsigned
    return (stored >= ends.min()) & (stored <= ends.max())


def _rescale(dataset: pydicom.Dataset, name: str) -> tuple[float, float]:
    slope, intercept = _first(dataset.get("RescaleSlope")), _first(dataset.get("RescaleIntercept"))
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    if slope == 0 or not math.isfinite(slope * intercept):
        raise ImageError(f"{name}: rescale slope {slope} and intercept {intercept} cannot give an image")
    return slope, intercept


def _modality(dataset: pydicom.Dataset, stored: np.ndarray, name: str) -> np.ndarray:
    if dataset.get("ModalityLUTSequence"):
        return apply_modality_lut(stored, dataset).astype(np.float64)
    slope, intercept = _rescale(dataset, name)
    return stored * slope + intercept


def _voi(dataset: pydicom.Dataset, values: np.ndarray, padding: np.ndarray, name: str) -> np.ndarray:
    """Values as 0..255, by the VOI table, else the window, else the full or the valid range."""
    if dataset.get("VOILUTSequence"):
        depth = max(1, int(dataset.VOILUTSequence[0].LUTDescriptor[2]))
        return _to_bytes(apply_voi(np.rint(values).astype(np.int64), dataset) / (2**depth - 1))
    window = _window(dataset, name)
    if window is not None:
        return _to_bytes(_windowed(values, *window))
    if _bits(dataset) <= 8 and not dataset.get("ModalityLUTSequence"):
        low, high = _full_range(dataset, name)
    elif padding.all():
        return np.zeros(values.shape, np.uint8)
    else:
        low, high = values[~padding].min(), values[~padding].max()
    return _to_bytes((values - low) / (high - low or 1))


def _full_range(dataset: pydicom.Dataset, name: str) -> tuple[float, float]:
    slope, intercept = _rescale(dataset, name)
    low = -(2 ** (_bits(dataset) - 1)) if dataset.get("PixelRepresentation") else 0
    ends = (low * slope + intercept, (low + 2 ** _bits(dataset) - 1) * slope + intercept)
    return min(ends), max(ends)


def _window(dataset: pydicom.Dataset, name: str) -> tuple[float, float, str] | None:
    """Centre, width and function of the first window."""
    center, width = (_first(dataset.get(key)) for key in ("WindowCenter", "WindowWidth"))
    if center is None or width is None:
        return None
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    valid = {"LINEAR": width >= 1, "LINEAR_EXACT": width > 0, "SIGMOID": width > 0}
    if not valid.get(function):
        warnings.warn(f"{name}: window {center} / {width} {function} is not valid and is ignored", stacklevel=5)
        return None
    return center, width, function


def _first(value: object) -> float | None:
    if value is None or value == "":
        return None
    if isinstance(value, pydicom.multival.MultiValue):
        return float(value[0]) if len(value) else None
    return float(value)  # type: ignore[arg-type]


def _windowed(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Values as 0..1 by the window functions of PS3.3, C.11.2.1.2 and C.11.2.1.3."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return (values > center).astype(np.float64)
    return (values - center) / width + 0.5


def _to_bytes(share: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)
