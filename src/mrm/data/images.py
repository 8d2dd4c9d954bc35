"""From a file or an array to one-channel uint8, and the crops that training and testing need.

The format is told from the content of a file, never from its name: JPEG, PNG (1 to 16 bit), TIFF (integer or float,
first page), binary PGM (8 or 16 bit) and DICOM. Every reading function returns (H, W) uint8 or raises `ImageError`:

* colour becomes luma (0.299 R + 0.587 G + 0.114 B), an alpha channel is dropped, and orientation tags are
  ignored (a camera's EXIF rotation means nothing on a radiograph);
* 8-bit values stay as they are; deeper ones are scaled linearly from the image's own minimum to its maximum,
  and a constant image becomes 0;
* files that cannot be trusted are refused: those cut off (a JPEG also where only its data stop early), with NaN, or of
  more than `MAX_PIXELS`.

A file is opened and its header parsed once: `open_image` returns an `ImageFile`, and all reading functions take one.

This module uses `mrm.data.headers`, one module for each format and, from the first DICOM file on, `mrm.data.dicom`. Nothing here keeps state, so
threads and forked workers may call every function. The caller decides how many threads OpenCV uses. In a forked worker
call `cv2.setNumThreads(0)`: 1 hangs if the parent process has used OpenCV's threads before.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mrm.data import jpeg_files, tiff_files
from mrm.data.borders import Box, border_box
from mrm.data.config import Resize
from mrm.data.headers import Bytes, Header, StoredImage, decodable, kind_of, load, parse
from mrm.system.errors import ImageError

if TYPE_CHECKING:  # pydicom takes a while to import, and most data sets have no DICOM
    import pydicom

MAX_PIXELS = 100_000_000  # five times the largest radiograph detector; more is an error or an attack
SCALED = 1 << 22  # values that are scaled at a time
MIN_DECODE_SCALE = 3  # a JPEG decoded at 3 times the target size or more is within 3 grey levels of a full decode
HEAD_BYTES = 1 << 18  # read first if only the size is needed; enough for nearly every header


@dataclass(frozen=True)
class ImageFile:
    """An encoded image whose header has been parsed, and which has not been decoded.

    `open_image` creates it. The size, the doubts and the pixels all come from it, so a file is parsed once, however many
    of them are needed. Every reading function takes one as its source, and it can be the image of a `Record`.
    """

    name: str
    data: Bytes
    header: Header
    dataset: "pydicom.Dataset | None" = None  # the parsed file, if it is DICOM

    def read_bytes(self) -> Bytes:
        """The encoded image."""
        return self.data

    def __str__(self) -> str:
        return self.name


Source = Path | str | bytes | memoryview | StoredImage | ImageFile | np.ndarray


# ---- reading -----------------------------------------------------------------------------------------------


def open_image(source: Path | str | Bytes | StoredImage | ImageFile) -> ImageFile:
    """Load a file, or take its bytes, and parse its header; nothing is decoded. Raises `ImageError`."""
    if isinstance(source, ImageFile):
        return source
    name, data = _name(source), load(source)
    kind = kind_of(data, name)
    if kind != "dicom":
        return ImageFile(name, data, parse(data, name, kind))
    from mrm.data import dicom

    dataset = dicom.parse(data, name)
    return ImageFile(name, data, Header("dicom", *dicom.size(dataset, name)), dataset)


def doubts(image: ImageFile) -> list[str]:
    """Reasons in the header of a DICOM file to doubt that it is a chest radiograph: its modality or body part."""
    if image.dataset is None:
        return []
    from mrm.data import dicom

    return dicom.doubts(image.dataset, image.name)


def identity(image: ImageFile | np.ndarray) -> dict[str, str]:
    """patient_id, study_id, accession, date and view, as far as a DICOM header states them; empty for other formats."""
    if isinstance(image, np.ndarray) or image.dataset is None:
        return {}
    from mrm.data import dicom

    return dicom.identity(image.dataset)


def read(source: Source, min_side: int | None = None, crop_borders: bool = False) -> np.ndarray:
    """An image as (H, W) uint8.

    With `min_side`, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, which is several times faster, as
    long as the shorter side keeps at least that many pixels. `crop_borders` removes burned-in borders (see
    `mrm.data.borders`). Arrays are (H, W) or (H, W, channels) with colour in the order red, green, blue. Raises
    `ImageError`.
    """
    if crop_borders:  # of the image at full size: shrinking mixes the edge of a border with its neighbours
        image_HW = read(source)
        return np.ascontiguousarray(crop(image_HW, border_box(image_HW)))
    if isinstance(source, np.ndarray):
        return grey_array(source, _name(source))
    image = open_image(source)
    header = image.header
    return _decode(image, _reduction(header, min(header.height, header.width), min_side))


def size(source: Source) -> tuple[int, int]:
    """Height and width from the header alone; nothing is decoded. Raises `ImageError`."""
    name = _name(source)
    if isinstance(source, np.ndarray):
        _check_array(source, name)
        return source.shape[0], source.shape[1]
    if isinstance(source, ImageFile):
        return source.header.height, source.header.width
    if not isinstance(source, Path | str):
        return _encoded_size(load(source), name)
    try:
        return _encoded_size(load(source, HEAD_BYTES), name)
    except ImageError:  # the header may be longer or, in a TIFF, at the end of the file
        return _encoded_size(load(source), name)


def read_crop(
    source: Source,
    rng: np.random.Generator,
    size: int,
    area: tuple[float, float] = (0.2, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
    method: Resize = "area",
) -> np.ndarray:
    """`random_crop(read(source), ...)`, but faster with "area": a JPEG is decoded no larger than the crop needs.

    The box follows from `rng` and the size in the header alone, so the same part of the image is cropped at any
    decoding scale; its edges are then rounded to pixels of that scale.
    """
    if isinstance(source, np.ndarray):
        return random_crop(grey_array(source, _name(source)), rng, size, area, aspect, method)
    image = open_image(source)
    box = random_resized_box(image.header.height, image.header.width, rng, area, aspect)
    factor = _reduction(image.header, min(box.height, box.width), size if method == "area" else None)
    return resize(crop(_decode(image, factor), _scaled(box, factor)), size, size, method)


def eval_image(source: Source, size: int, view: str = "whole", method: Resize = "area") -> np.ndarray:
    """The image as a classifier is tested on it, (size, size) uint8. Raises `ImageError`.

    The view "whole" resizes the whole radiograph to the square, within the aspect ratios seen in training; "centre" is
    the published test crop, which cuts the sides of radiographs that are not square. With a `method` other than "area" a
    JPEG is decoded at its full size.
    """
    min_side = MIN_DECODE_SCALE * size if method == "area" else None
    image = read(source, min_side=min_side)
    if view == "centre":
        image = crop(image, center_box(*image.shape))
    return resize(image, size, size, method)


def _reduction(header: Header, side: int, min_side: int | None) -> int:
    """The largest factor of 8, 4, 2 and 1 that leaves at least `min_side` of `side` pixels; 1 unless it is a JPEG."""
    if min_side is None or header.kind != "jpeg":
        return 1
    return next((factor for factor in (8, 4, 2) if side // factor >= min_side), 1)


def _scaled(box: Box, factor: int) -> Box:
    """The box in an image `factor` times smaller; halves round up, so a side never drops below `side // factor`."""
    edges = (box.top, box.left, box.top + box.height, box.left + box.width)
    top, left, bottom, right = ((2 * edge + factor) // (2 * factor) for edge in edges)
    return Box(top, left, bottom - top, right - left)


def _name(source: Source) -> str:
    if isinstance(source, np.ndarray):
        return "array"
    return "image in memory" if isinstance(source, bytes | memoryview) else str(source)


def _encoded_size(data: Bytes, name: str) -> tuple[int, int]:
    """Height and width of an encoded image, which may be cut off after its header."""
    kind = kind_of(data, name)
    if kind != "dicom":
        header = parse(data, name, kind)
        return header.height, header.width
    from mrm.data import dicom

    return dicom.size(dicom.parse(data, name, header_only=True), name)


def _decode(image: ImageFile, factor: int) -> np.ndarray:
    """The pixels as (H, W) uint8; those of a JPEG at 1 / `factor` of its size."""
    check_size(image)
    if image.dataset is not None:
        from mrm.data import dicom

        return dicom.decode(image.dataset, image.name)
    return grey_array(stored(image, factor), image.name, image.header.inverted)


def check_size(image: ImageFile) -> None:
    """Raises `ImageError` for an image of more than `MAX_PIXELS`."""
    header = image.header
    if header.height * header.width > MAX_PIXELS:
        raise ImageError(
            f"{image.name}: the header says {header.height} x {header.width} pixels, more than {MAX_PIXELS:,}; "
            "shrink the image first, or raise mrm.data.images.MAX_PIXELS if it is genuine"
        )


def stored(image: ImageFile, factor: int = 1) -> np.ndarray:
    """The pixels of a file that is no DICOM, of any depth and number of channels; a JPEG is luma. Raises `ImageError`."""
    header, name = image.header, image.name
    data = decodable(image.data, header, name)
    if header.kind == "jpeg":
        return jpeg_files.decode(data, header, factor, name)
    if header.kind == "pgm":
        big_endian = np.frombuffer(data, f">u{header.bits // 8}", header.height * header.width, header.scan)
        return big_endian.reshape(header.height, header.width).astype(f"u{header.bits // 8}")
    if header.kind == "tiff":
        for stream in tiff_files.jpeg_streams(data):
            jpeg_files.check(stream, parse(stream, name, "jpeg"), name)
    pixels = tiff_files.decode(data, name) if header.kind == "tiff" else _png(data)
    if pixels is None or pixels.shape[:2] != (header.height, header.width):
        raise ImageError(
            f"{name}: damaged, or a kind of {header.kind.upper()} that OpenCV cannot decode; download or copy the file "
            "again, or save it as an ordinary 8-bit JPEG or 8- or 16-bit PNG"
        )
    return pixels


def _png(data: Bytes) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None


# ---- values ------------------------------------------------------------------------------------------------


def to_uint8(image: np.ndarray, name: str = "array", inverted: bool = False) -> np.ndarray:
    """Values as 0..255: uint8 unchanged, booleans 0 and 255, others scaled linearly from minimum to maximum.

    With `inverted` the scaled ones count down. Some rows at a time, as floats of a whole image take much memory.
    """
    if image.dtype == np.uint8:
        return image
    if image.dtype == bool:
        return image.astype(np.uint8) * 255
    kind: Any = np.float32 if image.dtype.itemsize <= 2 else np.float64
    step = max(1, SCALED * image.shape[0] // max(1, image.size))
    parts = [slice(start, start + step) for start in range(0, image.shape[0], step)]
    if image.dtype.kind == "f":
        bad = sum(image[part].size - np.count_nonzero(np.isfinite(image[part])) for part in parts)
        if bad:
            raise ImageError(f"{name}: {bad:,} of {image.size:,} pixels are NaN or infinite; leave the image out")
    grey = np.zeros(image.shape, np.uint8)
    if not image.size or image.min() == image.max():
        return grey
    low, high = kind(image.min()), kind(image.max())
    for part in parts:
        values = image[part].astype(kind)
        grey[part] = np.rint((high - values if inverted else values - low) * (255 / (high - low)))
    return grey


def _check_array(array: np.ndarray, name: str) -> None:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype.kind not in "buif" or array.ndim not in (2, 3) or 0 in array.shape or channels > 4:
        raise ImageError(
            f"{name}: {array.dtype} of shape {array.shape} is not an image; expected numbers of shape (H, W) or (H, W, 3)"
        )


def grey_array(array: np.ndarray, name: str, inverted: bool = False) -> np.ndarray:
    """An array of numbers, grey or in the order red, green, blue, as (H, W) uint8 (see `to_uint8`). Raises `ImageError`."""
    _check_array(array, name)
    if array.ndim == 3 and array.shape[2] < 3:  # grey, or grey with alpha
        array = array[:, :, 0]
    if array.ndim == 2:
        return np.ascontiguousarray(to_uint8(array, name, inverted))
    colour = array[:, :, :3] if array.dtype in (np.uint8, np.uint16) else array[:, :, :3].astype(np.float32)
    return to_uint8(cv2.cvtColor(np.ascontiguousarray(colour), cv2.COLOR_RGB2GRAY), name)


# ---- geometry ----------------------------------------------------------------------------------------------


def random_resized_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    area: tuple[float, float] = (0.2, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """The box of a random resized crop (Inception; Szegedy et al. 2014, section 6).

    The area is a uniform share of the image, the aspect (width / height) log-uniform. After ten draws that do not
    fit, it is the largest central box within the aspect range.
    """
    for _ in range(10):
        pixels = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        h, w = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < h <= height and 0 < w <= width:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            return Box(int(top), int(left), h, w)
    h = max(1, min(height, round(width / aspect[0])))
    w = max(1, min(width, round(height * aspect[1])))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def center_box(height: int, width: int) -> Box:
    """The largest central square: the published test crop, which cuts the sides of radiographs that are not square."""
    side = min(height, width)
    return Box((height - side) // 2, (width - side) // 2, side, side)


def crop(image: np.ndarray, box: Box) -> np.ndarray:
    """The part of the image in the box, as a view."""
    bottom, right = box.top + box.height, box.left + box.width
    outside = min(box.top, box.left) < 0 or bottom > image.shape[0] or right > image.shape[1]
    if outside or min(box.height, box.width) < 1:
        raise ValueError(f"{box} does not lie in an image of shape {image.shape}")
    return image[box.top : bottom, box.left : right]


def flip(image: np.ndarray) -> np.ndarray:
    """The image mirrored left to right."""
    return np.ascontiguousarray(image[:, ::-1])


def resize(image: np.ndarray, height: int, width: int, method: Resize = "area") -> np.ndarray:
    """The image (H, W) uint8 at another size.

    With "area" a side that shrinks is averaged by area, and one that grows is bicubic (a = -0.75): OpenCV has no
    anti-aliased bicubic filter, and the plain one would alias fine lung structure when shrinking. "bilinear" and
    "bicubic" are Pillow's filters, which widen with the factor, as the published code has them.
    """
    if method != "area":
        from PIL import Image  # only where it is asked for, so that a command answers at once

        return np.array(Image.fromarray(image).resize((width, height), Image.Resampling[method.upper()]))
    shrunk = min(image.shape[0], height), min(image.shape[1], width)
    if shrunk != image.shape:
        image = cv2.resize(image, shrunk[::-1], interpolation=cv2.INTER_AREA)
    if shrunk != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(image)


def random_crop(
    image: np.ndarray,
    rng: np.random.Generator,
    size: int,
    area: tuple[float, float] = (0.2, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
    method: Resize = "area",
) -> np.ndarray:
    """A random resized crop, (size, size) uint8."""
    height, width = image.shape
    return resize(crop(image, random_resized_box(height, width, rng, area, aspect)), size, size, method)


def pad_to_square(image: np.ndarray) -> tuple[np.ndarray, Box]:
    """The image in the centre of a black square, and the box it fills."""
    height, width = image.shape
    side = max(height, width)
    box = Box((side - height) // 2, (side - width) // 2, height, width)
    square = np.zeros((side, side), image.dtype)
    crop(square, box)[:] = image
    return square, box


def fit(image: np.ndarray, size: int) -> tuple[np.ndarray, Box]:
    """The whole image in (size, size), its aspect ratio kept and the rest black; and the box it fills."""
    scale = size / max(image.shape)
    height, width = (max(1, round(side * scale)) for side in image.shape)
    return pad_to_square(resize(image, height, width))


# ---- writing -----------------------------------------------------------------------------------------------


def encode_jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    """(H, W) uint8 as a grey JPEG file."""
    return _encode(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_png(image: np.ndarray) -> bytes:
    """(H, W) uint8 as a lossless grey PNG file."""
    return _encode(image, ".png", [])


def encode_pgm(image: np.ndarray) -> bytes:
    """(H, W) uint8 as a grey PGM file, which is not compressed."""
    return _encode(image, ".pgm", [])


def _encode(image: np.ndarray, suffix: str, options: list[int]) -> bytes:
    if image.dtype != np.uint8 or image.ndim != 2 or 0 in image.shape:
        raise ImageError(f"only (H, W) uint8 can be written, not {image.dtype} of shape {image.shape}")
    return cv2.imencode(suffix, image, options)[1].tobytes()
