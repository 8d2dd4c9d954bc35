"""The format, the stated size and the completeness of an image file, from its bytes alone.

Nothing is decoded and no decoding library is called, so a file can be refused before it costs memory. This is the
lowest of the modules on images, apart from `mrm.data.tiff_files`: `mrm.data.dicom` and `mrm.data.images` import it.
"""

import errno
import os
import re
import stat
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mrm.data import tiff_files
from mrm.system.errors import ImageError, UnreachableError

Bytes = bytes | memoryview
NEVER = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)  # errors of a path that no file can have
MAX_BYTES = 1 << 31  # of a file: whole files are held in memory, and no radiograph is nearly as large
MAX_PARTS = 100_000  # segments of a JPEG, chunks of a PNG; a large radiograph has a few thousand
MAX_SCANS = 64  # of a JPEG, each of which passes over the whole image; progressive ones have about ten
# A decoder needs these chunks of a PNG. It would unpack the others too, whatever their size, and quote them in warnings.
PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")

SPACE = rb"(?:\s|#[^\n]*\n)+"  # with comments
PGM = re.compile(rb"P5%b(\d{1,6})%b(\d{1,6})%b(\d{1,5})\s" % (SPACE, SPACE, SPACE))  # width, height, largest value
PGM_HEAD = 1 << 12  # bytes that hold it

_OTHERS = {
    b"PK": "a zip archive",
    b"\x1f\x8b": "a gzip file",
    b"%PDF": "a PDF",
    b"BM": "a BMP image",
    b"GIF8": "a GIF image",
    b"RIFF": "a RIFF (WebP) file",
}


class StoredImage(Protocol):
    """An encoded image that is not a file of its own, such as `mrm.data.shards.PackedImage`. `str()` says where it is."""

    def read_bytes(self) -> bytes | memoryview: ...


@dataclass(frozen=True)
class Header:
    kind: str  # "jpeg", "png", "tiff", "pgm" or "dicom"
    height: int
    width: int
    channels: int = 1  # JPEG and TIFF
    scan: int = 0  # JPEG and PGM: where the data start
    process: int = 0  # JPEG: the second byte of the frame marker, such as 0xC0 for baseline
    bits: int = 8  # JPEG and PGM: of a sample
    inverted: bool = False  # TIFF: 0 is white; OpenCV inverts such 8-bit images itself, but not deeper ones


def load(source: Path | str | Bytes | StoredImage, limit: int = -1) -> Bytes:
    """The bytes of a file, or its first `limit` bytes; bytes are returned as they are.

    Raises `UnreachableError` where the file is absent or its disk does not answer, else `ImageError`.
    """
    if not isinstance(source, Path | str) and hasattr(source, "read_bytes"):
        source = source.read_bytes()
    if not isinstance(source, Path | str):
        return source if isinstance(source, bytes) else memoryview(source).cast("B")
    if "\0" in str(source):
        raise ImageError(f"{str(source)!r}: has a NUL byte, which no file name has: the list is damaged")
    try:
        status = os.stat(source)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{source}: is a folder, not an image")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would block, a device might never end
            raise ImageError(f"{source}: is a pipe or a device, not a file")
        if status.st_size > MAX_BYTES:
            raise ImageError(f"{source}: {status.st_size:,} bytes, more than any radiograph has; convert it first")
        with open(source, "rb") as file:
            return file.read(limit)
    except FileNotFoundError:
        raise UnreachableError(f"{source}: no such file; check the path and the folder it is relative to") from None
    except ImageError:  # a ValueError too
        raise
    except OSError as error:
        kind = ImageError if error.errno in NEVER else UnreachableError
        raise kind(f"{source}: cannot be read ({error.strerror or error})") from error


def kind_of(data: Bytes, name: str) -> str:
    """The format according to the first 132 bytes: "jpeg", "png", "tiff", "pgm" or "dicom". Raises `ImageError`."""
    head = bytes(data[:132])
    if not head:
        raise ImageError(f"{name}: empty (0 bytes); download or copy it again")
    if head[128:] == b"DICM":  # before the others: a DICOM preamble may look like a TIFF
        return "dicom"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "tiff"
    if head.startswith(b"P5") and head[2:3].isspace():
        return "pgm"
    if _is_bare_dicom(head):
        return "dicom"
    raise ImageError(f"{name}: not a JPEG, PNG, TIFF, PGM or DICOM file but {_guess(head)}")


def parse(data: Bytes, name: str, kind: str) -> Header:
    """The header of a JPEG, PNG, TIFF or PGM file, as `kind_of` told them apart. Raises `ImageError`."""
    try:
        header = {"jpeg": _jpeg, "png": _png, "tiff": _tiff, "pgm": _pgm}[kind](data)
    except (struct.error, IndexError, KeyError, OverflowError):
        raise ImageError(
            f"{name}: the {kind.upper()} header is cut off or damaged; download or copy the file again"
        ) from None
    if header.height < 1 or header.width < 1:
        raise ImageError(f"{name}: has {header.height} x {header.width} pixels; download or copy the file again")
    return header


def decodable(data: Bytes, header: Header, name: str) -> Bytes:
    """What a decoder needs of a JPEG, PNG, TIFF or PGM file: of a PNG, its pixels without its metadata.

    Refuses a JPEG, PNG or PGM that is cut off, since OpenCV may silently fill the missing part with grey, and one of so many
    parts that it would take minutes to read. Raises `ImageError`.
    """
    if header.kind == "jpeg" and bytes(data).rfind(b"\xff\xd9", header.scan) < 0:
        raise ImageError(f"{name}: cut off, the JPEG has no end marker; download or copy the file again")
    if header.kind == "pgm" and len(data) - header.scan < header.height * header.width * header.bits // 8:
        raise ImageError(f"{name}: cut off, the PGM has too few pixels; download or copy the file again")
    if header.kind == "png":
        try:
            return _png_pixels(data)
        except (struct.error, ValueError):
            raise ImageError(f"{name}: the PNG is cut off or damaged; download or copy the file again") from None
    return data


def check_scans(data: Bytes, header: Header, name: str) -> None:
    """Refuse a JPEG of more scans than an encoder writes: each costs as much as the whole image. Raises `ImageError`."""
    scans = 1 + bytes(data).count(b"\xff\xda", header.scan)  # in compressed data, 0 follows 0xFF (T.81, B.1.1.5)
    if scans > MAX_SCANS:
        raise ImageError(
            f"{name}: the JPEG has {scans:,} scans, more than {MAX_SCANS}; save it as an ordinary (baseline) JPEG"
        )


def _is_bare_dicom(head: bytes) -> bool:
    """Whether this is DICOM without a preamble: group 0002 or 0008, then a value representation or a plausible length.

    Big endian files always state value representations.
    """
    if len(head) < 8:
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    if head[:2] == b"\0\x08":
        return explicit and head[2] == 0
    (element,) = struct.unpack_from("<H", head, 2)
    known = head[:2] in (b"\x02\0", b"\x08\0") and element < 0x100
    return known and (explicit or struct.unpack_from("<I", head, 4)[0] <= 64)


def _guess(head: bytes) -> str:
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            return name
    return f"text, beginning {head[:20]!r}" if head.isascii() else f"something beginning {head[:8]!r}"


def _jpeg(data: Bytes) -> Header:
    """Walk the segments to the frame header and on to the first scan (ITU-T T.81, annex B)."""
    at, shape, process, bits = 2, (0, 0, 0), 0, 8
    for _ in range(MAX_PARTS):
        if data[at] != 0xFF:
            raise IndexError("expected a marker")
        at += 1
        marker = data[at]
        if marker == 0xFF:  # a marker may be preceded by any number of fill bytes
            continue
        (length,) = struct.unpack_from(">H", data, at + 1)
        if marker == 0xDA:
            return Header("jpeg", *shape, scan=at + 1 + length, process=process, bits=bits)
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:  # the last is JPEG-LS
            shape, process, bits = struct.unpack_from(">HHB", data, at + 4), marker, data[at + 3]
        at += 1 + length
    raise IndexError("too many segments")


def _png(data: Bytes) -> Header:
    width, height = struct.unpack_from(">II", data, 16)
    return Header("png", height, width)


def _tiff(data: Bytes) -> Header:
    found = tiff_files.directory(data)
    if not {tiff_files.WIDTH, tiff_files.HEIGHT} <= found.entries.keys():
        raise KeyError("no size")
    height, width = found.value(tiff_files.HEIGHT), found.value(tiff_files.WIDTH)
    return Header("tiff", height, width, found.samples, inverted=found.value(tiff_files.PHOTOMETRIC) == 0)


def _pgm(data: Bytes) -> Header:
    """Width, height and largest value in words, then the pixels (netpbm's binary PGM)."""
    found = PGM.match(bytes(data[:PGM_HEAD]))
    if not found or found[3] not in (b"255", b"65535"):
        raise KeyError("no size, or other grey levels than 256 or 65,536")
    bits = 8 if found[3] == b"255" else 16
    return Header("pgm", int(found[2]), int(found[1]), scan=found.end(), bits=bits)


def _png_pixels(data: Bytes) -> Bytes:
    """The chunks that hold pixels. ValueError unless every chunk is whole and matches its checksum (PNG, section 5.3)."""
    at, whole = 8, memoryview(data)
    kept, left_out = [whole[:8]], False
    for _ in range(MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", whole, at)
        end = at + 12 + length
        (checksum,) = struct.unpack_from(">I", whole, end - 4)
        if zlib.crc32(whole[at + 4 : end - 4]) != checksum:
            raise ValueError("checksum")
        if kind in PNG_PIXELS:
            kept.append(whole[at:end])
        else:
            left_out = True
        if kind == b"IEND":
            return b"".join(kept) if left_out else data
        at = end
    raise ValueError("too many chunks")
