"""From the stored values of a grey DICOM image to (H, W) uint8, as a viewer shows it first (PS3.4, N.2).

The steps: the used bits of the stored values; modality table or rescaling; the first VOI table that can be used, else the
first window with its function; MONOCHROME1 inverted; pixel padding black. Without a window, 8-bit images keep their full
range, so a DICOM made from a JPEG equals the JPEG, and deeper ones are scaled from their minimum to their maximum valid value.

`mrm.data.dicom` calls this module.
"""

import math
import warnings
from itertools import zip_longest

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRBigEndian

from mrm.data import lookup_tables
from mrm.data.grey_levels import MOST_LEVELS, GreyLevels, Window, numbered
from mrm.system.errors import ImageError

ROWS = 64  # that are looked up at a time


def to_uint8(dataset: pydicom.Dataset, pixels: np.ndarray, name: str, raw: bool) -> np.ndarray:
    """The image of the stored values (H, W) of a monochrome file.

    `raw` says that the unused bits come from the file, and may hold overlays. Warns of windows and VOI tables that cannot
    be used; raises `ImageError` where the values have no meaning.
    """
    stored = _used_bits(dataset, pixels, raw)
    padding = _padding(dataset, pixels, stored)
    if stored.dtype.itemsize > 2:
        grey = _voi(dataset, _modality(dataset, stored, name), padding, name)
    else:
        grey = _by_level(dataset, stored, padding, name)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grey = 255 - grey
    grey[padding] = 0
    return grey


def _by_level(dataset: pydicom.Dataset, stored: np.ndarray, padding: np.ndarray, name: str) -> np.ndarray:
    """The same by computing each of the at most 65,536 stored values once: faster, and 8 bytes a pixel in place of 40."""
    lowest = stored.min()
    levels = np.arange(int(lowest), int(stored.max()) + 1).astype(stored.dtype)
    index = (stored - lowest).view(f"u{stored.dtype.itemsize}")  # what overflows in signed values is right as unsigned
    is_absent, grey = np.ones(len(levels), bool), np.empty(stored.shape, np.uint8)
    for at in range(0, len(index), ROWS):
        is_absent[index[at : at + ROWS][~padding[at : at + ROWS]]] = False
    shown = _voi(dataset, _modality(dataset, levels, name), is_absent, name)
    for at in range(0, len(index), ROWS):
        grey[at : at + ROWS] = shown[index[at : at + ROWS]]
    return grey


def levels(dataset: pydicom.Dataset, pixels: np.ndarray, name: str, raw: bool) -> GreyLevels:
    """The values after the modality step, and the window that `to_uint8` shows them with; its arguments and errors."""
    stored = _used_bits(dataset, pixels, raw)
    padding = _padding(dataset, pixels, stored)
    if padding.all():
        return GreyLevels(np.zeros(stored.shape, np.uint16), 0, 1, np.zeros(1, np.uint8), Window.of_range(0, 1))
    by_table = bool(dataset.get("ModalityLUTSequence"))
    if stored.dtype.itemsize > 2 or by_table:
        values = _modality(dataset, stored, name)
        low, high = float(values[~padding].min()), float(values[~padding].max())
        levels_HW, step = numbered(values, low, high, whole=by_table)
    else:
        slope, intercept = _rescale(dataset, name)
        valid = stored[~padding] if padding.any() else stored
        lowest, highest = int(valid.min()), int(valid.max())
        stride = -(-(highest - lowest + 1) // MOST_LEVELS)  # 2 where all 16 bits are used
        levels_HW = (stored - stored.dtype.type(lowest)).view(f"u{stored.dtype.itemsize}").astype(np.uint16)
        levels_HW //= stride
        levels_HW += 1
        low, step = lowest * slope + intercept, stride * slope
    levels_HW[padding] = 0
    values = low + step * np.arange(int(levels_HW.max()))
    shown = _voi(dataset, values, np.zeros(len(values), bool), name)
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    shown = np.concatenate([np.zeros(1, np.uint8), 255 - shown if inverted else shown])
    return GreyLevels(levels_HW, low, step, shown, _first_window(dataset, values, name), inverted)


def _first_window(dataset: pydicom.Dataset, values: np.ndarray, name: str) -> Window:
    """The window of the file; where it has none, or a VOI table, one that shows the whole range."""
    if _voi_table(dataset, name) is None and (window := _window(dataset, name)) is not None:
        return Window(*window)
    return Window.of_range(*_shown_range(dataset, values, name))


def bits(dataset: pydicom.Dataset) -> int:
    """The number of bits that hold a value."""
    return int(dataset.get("BitsStored") or dataset.BitsAllocated)


def to_bytes(share: np.ndarray) -> np.ndarray:
    """Values of 0 to 1 as 0 to 255; others are clipped."""
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)


def numbers(dataset: pydicom.Dataset, keyword: str) -> list[float | None]:
    """The values of a decimal string, None for each that is empty or not a finite number.

    A comma may stand for the decimal point. The text itself is read, because pydicom refuses the whole element otherwise.
    """
    element = dataset.get_item(keyword)
    if element is None or element.value is None:
        return []
    value = element.value
    if isinstance(value, bytes):
        parts = value.decode("latin-1").split("\\")
    elif isinstance(value, str):
        parts = value.split("\\")
    else:
        parts = [str(part) for part in (value if isinstance(value, list | pydicom.multival.MultiValue) else [value])]
    return [_number(part) for part in parts] if any(part.strip(" \0") for part in parts) else []


def _number(text: str) -> float | None:
    text = text.strip(" \0")
    if "," in text:  # the decimal sign is the last of the two
        text = text.replace(".", "").replace(",", ".") if text.rfind(",") > text.rfind(".") else text.replace(",", "")
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


# ---- stored values -----------------------------------------------------------------------------------------


def _used_bits(dataset: pydicom.Dataset, pixels: np.ndarray, raw: bool) -> np.ndarray:
    """The bits that hold the value; the others may hold overlays. A signed value keeps its sign."""
    used, size = bits(dataset), pixels.dtype.itemsize * 8
    stated = dataset.get("HighBit")
    high = int(stated) if raw and stated is not None else used - 1
    if used >= size or not used - 1 <= high < size:
        return pixels
    return (pixels << (size - 1 - high)) >> (size - used)


def _stored_range(dataset: pydicom.Dataset) -> tuple[int, int]:
    """The smallest and the largest value that the used bits can hold."""
    low = -(2 ** (bits(dataset) - 1)) if dataset.get("PixelRepresentation") else 0
    return low, low + 2 ** bits(dataset) - 1


def _padding(dataset: pydicom.Dataset, pixels: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """Which pixels are padding: PixelPaddingValue, or the range from it to its limit (PS3.3, C.7.5.1.1.2).

    A value that the used bits cannot hold stands in all bits of the pixels, so it is sought there.
    """
    first, last = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    ends = np.array([end for end in (first, last) if isinstance(end, int)], np.int64)
    half = 2 ** (stored.dtype.itemsize * 8 - 1)
    if not isinstance(first, int) or ends.min() < -half or ends.max() >= 2 * half:
        return np.zeros(stored.shape, bool)
    ends = ends.astype(stored.dtype)  # some files have a signed value written as unsigned
    low, high = _stored_range(dataset)
    values = stored if low <= int(ends.min()) and int(ends.max()) <= high else pixels
    return (values >= ends.min()) & (values <= ends.max())


# ---- modality ----------------------------------------------------------------------------------------------


def _modality(dataset: pydicom.Dataset, stored: np.ndarray, name: str) -> np.ndarray:
    if dataset.get("ModalityLUTSequence"):
        item, ends = dataset.ModalityLUTSequence[0], _stored_range(dataset)
        table = lookup_tables.read(item, *ends, big_endian=_is_big_endian(dataset), name=name, kind="modality")
        return table.apply(stored).astype(np.float64)
    slope, intercept = _rescale(dataset, name)
    return stored * slope + intercept


def _rescale(dataset: pydicom.Dataset, name: str) -> tuple[float, float]:
    slopes, intercepts = numbers(dataset, "RescaleSlope") or [1.0], numbers(dataset, "RescaleIntercept") or [0.0]
    slope, intercept = slopes[0], intercepts[0]
    if slope is None or intercept is None or slope == 0 or not math.isfinite(slope * intercept):
        stated = " and intercept ".join(_shown(dataset, key) for key in ("RescaleSlope", "RescaleIntercept"))
        raise ImageError(f"{name}: rescale slope {stated} cannot give an image; correct them")
    return slope, intercept


def _shown(dataset: pydicom.Dataset, keyword: str) -> str:
    """The value of a decimal string as the file has it."""
    value = getattr(dataset.get_item(keyword), "value", None)
    return value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else str(value)


def _range(dataset: pydicom.Dataset, name: str) -> tuple[float, float]:
    """The smallest and the largest value that the modality step can give."""
    if dataset.get("ModalityLUTSequence"):
        return 0, 2**16 - 1
    slope, intercept = _rescale(dataset, name)
    low, high = sorted(end * slope + intercept for end in _stored_range(dataset))
    return low, high


# ---- VOI ---------------------------------------------------------------------------------------------------


def _voi(dataset: pydicom.Dataset, values: np.ndarray, padding: np.ndarray, name: str) -> np.ndarray:
    """Values as 0..255, by the VOI table, else the window, else the full or the valid range."""
    if (table := _voi_table(dataset, name)) is not None:
        return to_bytes(table.apply(np.rint(values)) / table.largest_output)
    if (window := _window(dataset, name)) is not None:
        return to_bytes(_windowed(values, *window))
    if padding.all():
        return np.zeros(values.shape, np.uint8)
    low, high = _shown_range(dataset, values[~padding], name)
    return to_bytes((values - low) / (high - low or 1))


def _shown_range(dataset: pydicom.Dataset, values: np.ndarray, name: str) -> tuple[float, float]:
    """The values that are black and white without a table or window: 8 bits in full, deeper ones as far as they are used."""
    if bits(dataset) <= 8 and not dataset.get("ModalityLUTSequence"):
        return _range(dataset, name)
    return float(values.min()), float(values.max())


def _voi_table(dataset: pydicom.Dataset, name: str) -> lookup_tables.LookupTable | None:
    """The first VOI table that can be used. It only shows the image, so a broken one is ignored with a warning."""
    for item in dataset.get("VOILUTSequence") or ():
        try:
            ends = _range(dataset, name)
            return lookup_tables.read(item, *ends, big_endian=_is_big_endian(dataset), name=name, kind="VOI")
        except ImageError as error:
            warnings.warn(f"{error}; it is ignored", stacklevel=6)
    return None


def _window(dataset: pydicom.Dataset, name: str) -> tuple[float, float, str] | None:
    """Centre, width and function of the first window that can be used; those before it are ignored with a warning."""
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    lowest = {"LINEAR": 1.0, "LINEAR_EXACT": math.ulp(0.0), "SIGMOID": math.ulp(0.0)}.get(function, math.inf)
    for center, width in zip_longest(numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth")):
        if center is not None and width is not None and width >= lowest:
            return center, width, function
        stated = " / ".join("not a number" if value is None else f"{value:g}" for value in (center, width))
        warnings.warn(f"{name}: window {stated} {function} is not valid and is ignored", stacklevel=6)
    return None


def _windowed(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Values as 0..1 by the window functions of PS3.3, C.11.2.1.2 and C.11.2.1.3."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return (values > center).astype(np.float64)
    return (values - center) / width + 0.5


def _is_big_endian(dataset: pydicom.Dataset) -> bool:
    return dataset.file_meta.TransferSyntaxUID == ExplicitVRBigEndian
