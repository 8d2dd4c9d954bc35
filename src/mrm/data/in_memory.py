"""Images that a program holds in memory, to what `mrm.data.images` reads: arrays, PIL images, DICOM datasets, bytes.

What is white in an array follows the rule of files of the same depth (`mrm.data.images`): 8-bit values stay as they are,
0 black and 255 white; of all other numbers the least of the image becomes black and the greatest white. So an array, the
PNG and the DICOM file made of it are the same image. Where the values have a fixed scale, a value range says so.

PIL, pydicom and PyTorch are not imported here: who gives an image of theirs has imported them.
"""

# Shapes: H W pixels
from __future__ import annotations

import copy
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mrm.data import images
from mrm.data.headers import Bytes, Header
from mrm.data.images import ImageFile
from mrm.data.records import Record
from mrm.system.errors import ConfigError, ImageError

if TYPE_CHECKING:
    import pydicom

KINDS = "an array, a PIL image, a pydicom dataset, the bytes of a file, a path or a record"
ValueRange = tuple[float, float]


class Given(NamedTuple):
    """One image as it was given, its position and its name."""

    index: int  # type: ignore[assignment]
    name: str
    image: Any

    def source(self, value_range: ValueRange | None = None) -> images.Source:
        """What the functions of `mrm.data.images` read. Raises ImageError."""
        return source_of(self.image, self.name, value_range)


class NamedBytes:
    """The bytes of an image file, with a name for messages."""

    def __init__(self, name: str, data: Bytes) -> None:
        self.name, self.data = name, data

    def read_bytes(self) -> Bytes:
        """The encoded image."""
        return self.data

    def __str__(self) -> str:
        return self.name


# ---- what is given -----------------------------------------------------------------------------------------


def given(what: Any, names: Iterable[str] | None = None) -> Iterator[Given]:
    """One image, or each of several, with its name: as stated, its file's, or `image 3` for the fourth.

    An iterator is consumed as the result is. Raises ImageError for what is neither, or for another number of names.
    """
    every = [what] if is_one(what) else _several(what)
    stated = None if names is None else iter(names)
    for index, image in enumerate(every):
        name = _name(image, index) if stated is None else next(stated, None)
        if name is None:
            raise ImageError(f"there are {index} names and more images; give a name for each image")
        yield Given(index, str(name), image)
    if stated is not None and next(stated, None) is not None:
        raise ImageError("there are more names than images; give a name for each image")


def is_one(what: Any) -> bool:
    """Whether this is a single image, as far as its type tells."""
    encoded = str | os.PathLike | bytes | bytearray | memoryview | Record
    return isinstance(what, encoded) or _is_pil(what) or _is_dataset(what) or hasattr(what, "__array__")


def _several(what: Any) -> Iterable[Any]:
    if hasattr(what, "read"):  # its lines are no images
        raise ImageError("an open file was given; give its path, or the bytes that its read() returns")
    if isinstance(what, Mapping):
        raise ImageError("a mapping was given; give its values() as the images and its keys() as the names")
    if not isinstance(what, Iterable):
        raise ImageError(f"{type(what).__name__} is not an image; expected {KINDS}, or several of them")
    return what


def _name(image: Any, index: int) -> str:
    """The name of an image: of a record, its own; of one that was read from a file, the file's."""
    if isinstance(image, Record):
        return image.name
    place = image if isinstance(image, str | os.PathLike) else None
    if _is_pil(image) or _is_dataset(image):
        place = getattr(image, "filename", None)
    named = isinstance(place, str | os.PathLike) and str(place)
    return str(place) if named else f"image {index}"


def _is_pil(image: Any) -> bool:
    return _is_instance(image, "PIL.Image", "Image")


def _is_dataset(image: Any) -> bool:
    return _is_instance(image, "pydicom.dataset", "Dataset")


def _is_instance(image: Any, module: str, name: str) -> bool:
    """Whether this is an object of a class in a module that may not have been imported."""
    imported = sys.modules.get(module)
    return imported is not None and isinstance(image, getattr(imported, name))


# ---- one image ---------------------------------------------------------------------------------------------


def source_of(image: Any, name: str, value_range: ValueRange | None = None) -> images.Source:
    """What the functions of `mrm.data.images` read, for an image of any of KINDS; it is left as it is.

    `value_range` says which values of arrays and PIL images are black and white. Warns where the encoding of a dataset
    had to be assumed. Raises ImageError, with the name, for an array that is no image, and for another kind of object.
    """
    if isinstance(image, Record):
        image = image.image
    if isinstance(image, str | os.PathLike):
        return Path(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return NamedBytes(name, memoryview(image))
    if _is_dataset(image):
        return _dicom(image, name)
    if _is_pil(image):
        return _grey(_pil_values(image), name, value_range)
    if hasattr(image, "read_bytes"):  # a record's place in a shard
        return image
    if hasattr(image, "__array__"):
        return _grey(_values(image, name), name, value_range)
    raise ImageError(f"{name}: {type(image).__name__} is not an image; expected {KINDS}")


def check_range(value_range: ValueRange | None) -> None:
    """Raises ConfigError unless the value range is two finite numbers, the smaller one first."""
    if value_range is not None and not (len(value_range) == 2 and -np.inf < value_range[0] < value_range[1] < np.inf):
        raise ConfigError(
            f"value_range is {value_range}; expected two numbers, the value that is black and the greater one that is white"
        )


def _values(image: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(image)
    except (RuntimeError, TypeError, ValueError) as error:  # a tensor on a GPU, or of a type that NumPy lacks
        raise ImageError(f"{name}: cannot be taken as a NumPy array ({error})") from error


def _pil_values(image: Any) -> np.ndarray:
    """The values of a PIL image; palettes and other colour spaces become red, green, blue."""
    grey_or_colour = image.mode in ("1", "L", "LA", "I", "F", "RGB", "RGBA") or image.mode.startswith("I;16")
    return np.asarray(image if grey_or_colour else image.convert("RGB"))


def _grey(array: np.ndarray, name: str, value_range: ValueRange | None) -> np.ndarray:
    """An array as (H, W) uint8."""
    if array.ndim == 3 and array.shape[2] > 4:
        raise ImageError(
            f"{name}: {array.dtype} of shape {array.shape} is not an image; expected numbers of shape (H, W) or "
            "(H, W, 3). Give several images as a list, and channels last: np.moveaxis(image, 0, -1)"
        )
    if array.dtype.kind in "biuf" and value_range is not None:
        array = _scaled(array, name, value_range)
    elif array.dtype.kind == "f" and (array < 0).any():
        raise ImageError(
            f"{name}: float values below 0, the least {np.nanmin(array):g}, so the image may be normalised already; give it "
            "as it was before, or say with value_range=(black, white) what its values mean"
        )
    return images.grey_array(array, name)


def _scaled(array: np.ndarray, name: str, value_range: ValueRange) -> np.ndarray:
    """The values from black to white as 0 to 255."""
    low, high = value_range
    if array.size and not (low <= array.min() and array.max() <= high):  # NaN is not
        raise ImageError(
            f"{name}: values from {array.min():g} to {array.max():g} do not lie in the value range {low:g} to {high:g}; "
            "give the range that the values have, or clip them to it"
        )
    kind: Any = np.float32 if array.dtype.itemsize <= 2 else np.float64
    return np.rint((array.astype(kind) - kind(low)) * (255 / (high - low))).astype(np.uint8)


def _dicom(dataset: pydicom.Dataset, name: str) -> ImageFile:
    """A dataset as a parsed file. Its elements are copied, since decoding completes some of them."""
    import pydicom

    from mrm.data import dicom

    dataset.get("PixelData")  # pydicom may have left it in the file until now
    copied = pydicom.Dataset({tag: copy.copy(element) for tag, element in dataset.items()})
    copied.file_meta = pydicom.dataset.FileMetaDataset(dict(getattr(dataset, "file_meta", {}).items()))
    implicit, little = dataset.original_encoding
    if little is None and "TransferSyntaxUID" not in copied.file_meta:  # it was made in memory
        implicit, little = False, True
        warnings.warn(f"{name}: no transfer syntax is stated; taken as uncompressed, little endian", stacklevel=2)
    copied.set_original_encoding(implicit, little, dataset.original_character_set)
    return ImageFile(name, b"", Header("dicom", *dicom.size(copied, name)), copied)
