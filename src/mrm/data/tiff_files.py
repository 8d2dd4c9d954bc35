"""TIFF files: the first directory (TIFF 6.0, section 2; BigTIFF), and the decoding of every layout of samples.

Pillow reads them, and refuses damaged data, where OpenCV makes up rows. Of deeper samples neither reads every layout (in
one plane or several, either byte order, differences between pixels). So Pillow reads their bytes, as a grey 8-bit image
that is several times as wide, and the numbers are put together here. For that a second directory is added to the file,
which describes the same data that way.

`mrm.data.headers` and `mrm.data.images` call this module.
"""

import io
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from mrm.system.errors import ImageError

MAX_BYTES = 1 << 28  # of the samples of an image of more than 8 bits
# Types as characters of `struct`
INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
SIZES = {2: 1, 5: 8, 7: 1, 10: 8, 11: 4, 12: 8}  # bytes of a value of the other types
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION, SAMPLES = 256, 257, 258, 259, 262, 274, 277
PLANAR, PREDICTOR, COLOUR_MAP, TILE_WIDTH, EXTRA_SAMPLES, FORMAT = 284, 317, 320, 322, 338, 339
TABLES, JPEG_COMPRESSION, DEFLATED = 347, 7, (8, 32946)
OFFSETS, COUNTS = (273, 324), (279, 325)  # of strips and of tiles

NUMBERS = {  # tags that hold whole numbers, at least one
    *(
        WIDTH,
        HEIGHT,
        BITS,
        COMPRESSION,
        PHOTOMETRIC,
        ORIENTATION,
        SAMPLES,
        PLANAR,
        PREDICTOR,
        TILE_WIDTH,
        EXTRA_SAMPLES,
    ),
    *(FORMAT, *OFFSETS, *COUNTS),
}


@dataclass(frozen=True)
class Entry:
    """The value of a tag: its type, the number of values, and their bytes in the order of the file."""

    kind: int
    count: int
    raw: bytes


@dataclass(frozen=True)
class Directory:
    order: str  # "<" or ">"
    big: bool  # BigTIFF
    entries: dict[int, Entry]

    def values(self, tag: int, default: int = 1) -> tuple[int, ...]:
        """The integers of a tag, or `default` where it is not stated."""
        entry = self.entries.get(tag)
        return struct.unpack(f"{self.order}{entry.count}{INTEGERS[entry.kind]}", entry.raw) if entry else (default,)

    def value(self, tag: int, default: int = 1) -> int:
        return self.values(tag, default)[0]

    @cached_property
    def samples(self) -> int:
        return self.value(SAMPLES)


def directory(data: bytes | memoryview) -> Directory:
    """The first directory. Raises struct.error, KeyError or IndexError where it is damaged or cut off."""
    order = "<" if bytes(data[:2]) == b"II" else ">"
    big = 43 in (data[2], data[3])
    word, step = ("Q", 20) if big else ("I", 12)
    inline = struct.calcsize(order + word)
    (start,) = struct.unpack_from(order + word, data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    first = start + (8 if big else 2)
    entries: dict[int, Entry] = {}
    for at in range(first, first + min(count, 4096) * step, step):
        tag, kind, length = struct.unpack_from(order + "HH" + word, data, at)
        size = length * (struct.calcsize(INTEGERS[kind]) if kind in INTEGERS else SIZES.get(kind, 1))
        place = at + step - inline
        if size > inline:
            (place,) = struct.unpack_from(order + word, data, place)
        if tag not in entries:  # libtiff takes the first of repeated tags, so that one counts
            entries[tag] = Entry(kind, length, bytes(data[place : place + size]))
    for tag in entries.keys() & NUMBERS:
        entry = entries[tag]
        if not entry.count or len(entry.raw) < entry.count * struct.calcsize(INTEGERS[entry.kind]):
            raise IndexError(f"tag {tag} is cut off")
    return Directory(order, big, entries)


def decode(data: bytes | memoryview, name: str) -> np.ndarray:
    """The values of the first page as they are stored: (H, W), or (H, W, samples); alpha is a sample like others.

    Black is 0 in images of up to 8 bits; in deeper ones it is what the file says. Raises `ImageError`.
    """
    found = directory(data)
    try:
        _check_deflated(data, found)
        if max(found.values(BITS)) <= 8 and {*found.values(FORMAT)} == {1} and found.value(PLANAR) == 1:
            return _shallow(data, found)
        return _deep(data, found, name)
    except ImageError:
        raise
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())[:100]
        raise ImageError(
            f"{name}: damaged, or a kind of TIFF that cannot be decoded ({reason}); download or copy the file again, or "
            "save it as an 8- or 16-bit PNG"
        ) from error


def _shallow(data: bytes | memoryview, found: Directory) -> np.ndarray:
    """Up to 8 bits: red, green and blue of a palette; the inks of CMYK and the like become colours."""
    alpha = (
        {EXTRA_SAMPLES: _numbers(found, 2)} if EXTRA_SAMPLES in found.entries else {}
    )  # one that Pillow does not apply
    with Image.open(io.BytesIO(_changed(data, found, {ORIENTATION: None, **alpha}))) as image:
        plain = image.mode in ("1", "L", "LA", "RGB", "RGBA", "RGBX")
        values = np.asarray(image if plain else image.convert("RGB"))
    return values.astype(np.uint8) * 255 if values.dtype == bool else values


def _deep(data: bytes | memoryview, found: Directory, name: str) -> np.ndarray:
    """Samples of any depth and type: their bytes are read as a grey 8-bit image, plane by plane, and put together here."""
    if len({*found.values(BITS)}) > 1 or len({*found.values(FORMAT)}) > 1:
        raise ImageError(f"{name}: the samples of a pixel differ in depth or type; save it as a grey 16-bit PNG")
    size = found.value(HEIGHT) * found.value(WIDTH) * found.samples * found.value(BITS) // 8
    if size > MAX_BYTES:
        raise ImageError(
            f"{name}: its samples take {size >> 20:,} MiB, more than {MAX_BYTES >> 20}; save it as a grey PNG"
        )
    planes, together = (found.samples, 1) if found.value(PLANAR) == 2 else (1, found.samples)
    parts = [
        _values(_bytes_of_rows(data, found, together, plane, planes), found, together, name) for plane in range(planes)
    ]
    values = np.concatenate(parts, axis=2)
    return values[:, :, 0] if found.samples == 1 else values


def _bytes_of_rows(data: bytes | memoryview, found: Directory, together: int, plane: int, planes: int) -> np.ndarray:
    """The bytes (H, bytes of a row) of a plane, before differences between pixels are added up."""
    width = -(-found.value(WIDTH) * together * found.value(BITS) // 8)
    grey: dict[int, Entry | None] = dict.fromkeys((PLANAR, EXTRA_SAMPLES, COLOUR_MAP, ORIENTATION, PREDICTOR, FORMAT))
    grey |= {tag: _numbers(found, 1) for tag in (SAMPLES, PHOTOMETRIC)}
    grey |= {BITS: _numbers(found, 8), WIDTH: _numbers(found, width)}
    if TILE_WIDTH in found.entries:
        grey[TILE_WIDTH] = _numbers(found, found.value(TILE_WIDTH) * together * found.value(BITS) // 8)
    for tag in (*OFFSETS, *COUNTS):  # the strips or tiles of a plane follow those of the plane before
        if tag in found.entries:
            numbers = found.values(tag)
            count = len(numbers) // planes
            grey[tag] = _numbers(found, *numbers[plane * count : (plane + 1) * count])
    with Image.open(io.BytesIO(_changed(data, found, grey))) as image:
        return np.asarray(image)


def _values(rows: np.ndarray, found: Directory, together: int, name: str) -> np.ndarray:
    """Numbers (H, W, samples) from the bytes of rows."""
    bits, letter = found.value(BITS), {1: "u", 2: "i", 3: "f"}[found.value(FORMAT)]
    shape = (len(rows), found.value(WIDTH), together)
    if bits not in (8, 16, 32, 64):
        if letter != "u" or bits > 16 or found.value(PREDICTOR) != 1:
            raise ValueError(f"{bits} bits of type {letter} a sample")
        digits = np.unpackbits(rows, axis=1)[:, : math.prod(shape[1:]) * bits].reshape(*shape, bits)
        return digits @ (1 << np.arange(bits)[::-1]).astype(np.uint16)
    step = found.value(TILE_WIDTH, shape[1])  # a tile, or the whole row, begins anew
    if found.value(PREDICTOR) == 3:
        rows = _float_rows(rows, step, together, bits // 8)
    order = ">" if found.value(PREDICTOR) == 3 else found.order
    stored = np.dtype(f"{order}{letter}{bits // 8}")
    values = np.ascontiguousarray(rows).view(stored).reshape(shape).astype(stored.newbyteorder("="))
    if found.value(PREDICTOR) == 2:
        words = values.view(f"u{bits // 8}")
        parts = [words[:, at : at + step].cumsum(axis=1, dtype=words.dtype) for at in range(0, shape[1], step)]
        values = np.concatenate(parts, axis=1).view(values.dtype)
    return values


def _float_rows(rows: np.ndarray, step: int, together: int, size: int) -> np.ndarray:
    """Rows of big endian floats from those of predictor 3: byte differences, all highest bytes first (TIFF note 3)."""
    if rows.shape[1] % (step * together * size):
        raise ValueError("tiles with a floating point predictor that do not divide the width")
    parts = rows.reshape(len(rows), -1, step * size, together).cumsum(axis=2, dtype=np.uint8)
    return np.ascontiguousarray(parts.reshape(len(rows), -1, size, step * together).swapaxes(2, 3)).reshape(rows.shape)


def jpeg_streams(data: bytes | memoryview) -> Iterator[bytes]:
    """The strips or tiles of a file compressed by JPEG, each as a JPEG file of its own; Pillow makes up what they lack."""
    found = directory(data)
    if found.value(COMPRESSION) != JPEG_COMPRESSION or {*found.values(BITS)} != {8}:
        return
    tables = found.entries[TABLES].raw[:-2] if TABLES in found.entries else b""
    for stream in _pieces(data, found):
        yield tables + bytes(stream[2:]) if tables else bytes(stream)


def _pieces(data: bytes | memoryview, found: Directory) -> Iterator[bytes | memoryview]:
    """The strips or tiles as they are stored."""
    places, sizes = (
        next((found.values(tag) for tag in tags if tag in found.entries), ()) for tags in (OFFSETS, COUNTS)
    )
    for place, size in zip(places, sizes, strict=False):
        yield data[place : place + size]


def _check_deflated(data: bytes | memoryview, found: Directory) -> None:
    """Raise ValueError for deflated strips without their end or checksum: libtiff stops at the last pixel."""
    if found.value(COMPRESSION) not in DEFLATED:
        return
    for piece in _pieces(data, found):
        inflate, left = zlib.decompressobj(), bytes(piece)
        try:
            while left and not inflate.eof:
                inflate.decompress(left, 1 << 20)
                left = inflate.unconsumed_tail
        except zlib.error as error:
            raise ValueError(f"{error}") from error
        if not inflate.eof:
            raise ValueError("deflated data without their end")


def _numbers(found: Directory, *values: int) -> Entry:
    """An entry of 32-bit numbers."""
    return Entry(4, len(values), struct.pack(f"{found.order}{len(values)}I", *values))


def _changed(
    data: bytes | memoryview, found: Directory, changes: dict[int, Entry | None]
) -> bytes | memoryview | bytearray:
    """The file after `changes` to its first directory; None takes a tag away. BigTIFF becomes TIFF."""
    entries = {tag: entry for tag, entry in {**found.entries, **changes}.items() if entry is not None}
    return data if entries == found.entries and not found.big else with_directory(data, found, entries)


def with_directory(data: bytes | memoryview, found: Directory, entries: dict[int, Entry]) -> bytearray:
    """The file with another first directory, which stands at its end; not as BigTIFF, which files of 2 GB do not need."""
    whole = bytearray(data)
    whole += bytes(-len(whole) % 8)
    lines = []
    for tag, entry in sorted(entries.items()):
        if entry.kind in (13, 16, 17, 18):  # 64-bit numbers
            entry = _numbers(found, *found.values(tag))
        value = entry.raw
        if len(value) > 4:
            value = struct.pack(found.order + "I", len(whole))
            whole += entry.raw + bytes(-len(entry.raw) % 8)
        lines.append(struct.pack(found.order + "HHI", tag, entry.kind, entry.count) + value.ljust(4, b"\0"))
    struct.pack_into(found.order + "HI", whole, 2, 42, len(whole))
    whole += struct.pack(found.order + "H", len(lines)) + b"".join(lines) + bytes(4)
    return whole
