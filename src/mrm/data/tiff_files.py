"""TIFF files: the first directory (TIFF 6.0, section 2; BigTIFF), and the decoding of every layout of samples.

Pillow reads up to 8 bits and refuses damaged data, where OpenCV makes up rows. Deeper samples are read by OpenCV, which is
right for one sample; several, in one plane or in separate ones, it reads wrong or not at all. So they are given to it as
grey images: each plane by itself, or the samples of a row side by side as one wider row. For that a second directory is
added to the file, which describes the same data that way.

`mrm.data.headers` and `mrm.data.images` call this module.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from PIL import Image

from mrm.system.errors import ImageError

MAX_BYTES = 1 << 28  # of several samples of more than 8 bits; radiographs have one
INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q", 17: "q"}  # types as characters of `struct`
SIZES = {2: 1, 5: 8, 7: 1, 10: 8, 11: 4, 12: 8, 13: 4, 18: 8}  # bytes of a value of the other types
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION, SAMPLES = 256, 257, 258, 259, 262, 274, 277
PLANAR, PREDICTOR, COLOUR_MAP, TILE_WIDTH, EXTRA_SAMPLES, FORMAT = 284, 317, 320, 322, 338, 339
TABLES, JPEG_COMPRESSION = 347, 7
OFFSETS, COUNTS = (273, 324), (279, 325)  # of strips and of tiles


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
    return Directory(order, big, entries)


def decode(data: bytes | memoryview, name: str) -> np.ndarray:
    """The values of the first page as they are stored: (H, W), or (H, W, samples); alpha is a sample like others.

    Black is 0 in images of up to 8 bits; in deeper ones it is what the file says. Raises `ImageError`.
    """
    found = directory(data)
    try:
        separate = found.value(PLANAR) == 2
        if max(found.values(BITS)) <= 8 and {*found.values(FORMAT)} == {1} and not (separate and found.samples == 2):
            return _shallow(data, found)
        if found.samples == 1:
            return _decode(data, found, {})
        if len({*found.values(BITS)}) > 1 or len({*found.values(FORMAT)}) > 1:
            raise ImageError(f"{name}: the samples of a pixel differ in depth or type; save it as a grey 16-bit PNG")
        size = found.value(HEIGHT) * found.value(WIDTH) * found.samples * found.value(BITS) // 8
        if size > MAX_BYTES:
            raise ImageError(
                f"{name}: its samples take {size >> 20:,} MiB, more than {MAX_BYTES >> 20}; save it as a grey PNG"
            )
        return _planes(data, found) if separate else _side_by_side(data, found, name)
    except (cv2.error, OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())[:100]
        raise ImageError(
            f"{name}: damaged, or a kind of TIFF that cannot be decoded ({reason}); download or copy the file again, or "
            "save it as an 8- or 16-bit PNG"
        ) from error


def _shallow(data: bytes | memoryview, found: Directory) -> np.ndarray:
    """Up to 8 bits, by Pillow: red, green and blue of a palette; the inks of CMYK and the like become colours."""
    with Image.open(io.BytesIO(_changed(data, found, {ORIENTATION: None}))) as image:
        plain = image.mode in ("1", "L", "LA", "RGB", "RGBA", "RGBX", "RGBa")
        values = np.asarray(image if plain else image.convert("RGB"))
    return values.astype(np.uint8) * 255 if values.dtype == bool else values


def jpeg_streams(data: bytes | memoryview) -> Iterator[bytes]:
    """The strips or tiles of a file compressed by JPEG, each as a JPEG file of its own; OpenCV makes up what they lack."""
    found = directory(data)
    if found.value(COMPRESSION) != JPEG_COMPRESSION or {*found.values(BITS)} != {8}:
        return
    tables = found.entries[TABLES].raw[:-2] if TABLES in found.entries else b""
    for offset, count in zip(*(_stated(found, tags) for tags in (OFFSETS, COUNTS)), strict=False):
        stream = bytes(data[offset : offset + count])
        yield tables + stream[2:] if tables else stream


def _stated(found: Directory, tags: tuple[int, ...]) -> tuple[int, ...]:
    return next((found.values(tag) for tag in tags if tag in found.entries), ())


def _word(value: int, order: str) -> Entry:
    if value < 1 << 16:
        return Entry(3, 1, struct.pack(order + "H", value))
    return Entry(4, 1, struct.pack(order + "I", value))


def _as_grey(found: Directory) -> dict[int, Entry | None]:
    """Changes to a directory after which each sample is a grey pixel."""
    one = {tag: _word(found.value(tag), found.order) for tag in (BITS, FORMAT) if tag in found.entries}
    grey = {SAMPLES: _word(1, found.order), PHOTOMETRIC: _word(1, found.order)}
    return {**one, **grey, **dict.fromkeys((PLANAR, EXTRA_SAMPLES, COLOUR_MAP, ORIENTATION))}


def _planes(data: bytes | memoryview, found: Directory) -> np.ndarray:
    """Each plane read as a grey image: its strips or tiles follow those of the plane before."""
    planes = []
    for sample in range(min(found.samples, 4)):
        changes = _as_grey(found)
        for tag in (*OFFSETS, *COUNTS):
            if entry := found.entries.get(tag):
                count, size = entry.count // found.samples, len(entry.raw) // found.samples
                changes[tag] = Entry(entry.kind, count, entry.raw[sample * size : (sample + 1) * size])
        planes.append(_decode(data, found, changes))
    return np.dstack(planes)


def _side_by_side(data: bytes | memoryview, found: Directory, name: str) -> np.ndarray:
    """The samples of a row read as one grey row, then parted; differences to the pixel before are added up here."""
    changes = {**_as_grey(found), WIDTH: _word(found.value(WIDTH) * found.samples, found.order), PREDICTOR: None}
    if TILE_WIDTH in found.entries:
        changes[TILE_WIDTH] = _word(found.value(TILE_WIDTH) * found.samples, found.order)
    wide = _decode(data, found, changes)
    values = wide.reshape(len(wide), -1, found.samples)
    if (predictor := found.value(PREDICTOR)) == 1:
        return values
    if predictor != 2:
        raise ImageError(f"{name}: a floating point predictor with several samples; save it without compression")
    whole = values.view(f"u{values.dtype.itemsize}")
    step = found.value(TILE_WIDTH, whole.shape[1])
    parts = [whole[:, at : at + step].cumsum(axis=1, dtype=whole.dtype) for at in range(0, whole.shape[1], step)]
    return np.concatenate(parts, axis=1).view(values.dtype)


def _decode(data: bytes | memoryview, found: Directory, changes: dict[int, Entry | None]) -> np.ndarray:
    """What OpenCV reads after `changes` to the directory. Raises ValueError."""
    file = np.frombuffer(_changed(data, found, {ORIENTATION: None, **changes}), np.uint8)
    if (values := cv2.imdecode(file, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)) is None:
        raise ValueError("OpenCV cannot read it")
    return values


def _changed(
    data: bytes | memoryview, found: Directory, changes: dict[int, Entry | None]
) -> bytes | memoryview | bytearray:
    """The file after `changes` to its first directory; None takes a tag away."""
    entries = {tag: entry for tag, entry in {**found.entries, **changes}.items() if entry is not None}
    return data if entries == found.entries else _with_directory(data, Directory(found.order, found.big, entries))


def _with_directory(data: bytes | memoryview, new: Directory) -> bytearray:
    """The file with another first directory, which stands at its end."""
    word, order = ("Q" if new.big else "I"), new.order
    inline = struct.calcsize(order + word)
    whole = bytearray(data)
    whole += bytes(-len(whole) % 8)
    lines = []
    for tag, entry in sorted(new.entries.items()):
        value = entry.raw
        if len(value) > inline:
            value = struct.pack(order + word, len(whole))
            whole += entry.raw + bytes(-len(entry.raw) % 8)
        lines.append(struct.pack(order + "HH" + word, tag, entry.kind, entry.count) + value.ljust(inline, b"\0"))
    struct.pack_into(order + word, whole, 8 if new.big else 4, len(whole))
    whole += struct.pack(order + ("Q" if new.big else "H"), len(lines)) + b"".join(lines) + bytes(inline)
    return whole
