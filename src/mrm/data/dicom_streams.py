"""The compressed image inside a DICOM file: whether all of it is there, and whether it is of the size that the header says.

Everything here is checked before a decoder runs, because decoders believe the stream: a size beyond the header's costs
memory, and what is missing is made up. `mrm.data.dicom` calls this module.
"""

import itertools
import re
import struct

import numpy as np
from pydicom.encaps import generate_frames
from pydicom.uid import UID, RLELossless

from mrm.data import headers, jpeg_files
from mrm.system.errors import ImageError

JPEG_2000 = b"\xff\x4f\xff\x51"  # the markers SOC and SIZ, with which a codestream starts
ITEM = b"\xfe\xff\x00\xe0"  # the tag before each fragment (PS3.5, A.4)
LOSSLESS = 0xC3  # frame marker
FILLING = bytes(range(1, 251)) * 4
SAMPLED = (0xC0, 0xC1, 0xC2)  # frame markers of the lossy JPEG processes, which simplejpeg decodes if they have 8 bits

Shape = tuple[int, int, int]  # height, width, samples


def only_frame(pixel_data: bytes, syntax: UID, name: str) -> bytes:
    """The compressed stream of a file with one frame. Raises `ImageError` where it is cut off."""
    at = 0
    while pixel_data.startswith(ITEM, at):
        at += 8 + int.from_bytes(pixel_data[at + 4 : at + 8], "little")
    if at > len(pixel_data):
        raise ImageError(
            f"{name}: cut off, {at - len(pixel_data):,} bytes of the pixel data are missing; download or copy the file again"
        )
    if syntax != RLELossless and b"\xff\xd9" not in pixel_data:
        raise ImageError(f"{name}: cut off, the pixel data have no end marker; download or copy the file again")
    return next(generate_frames(pixel_data, number_of_frames=1))


def is_sampled_jpeg(frame: bytes, name: str) -> bool:
    """Whether this is JPEG of 8 bits by a lossy process."""
    if not frame.startswith(b"\xff\xd8"):
        return False
    stream = headers.parse(frame, name, "jpeg")
    return stream.process in SAMPLED and stream.bits == 8


def may_be_short(frame: bytes, pixels: np.ndarray, name: str) -> bool:
    """Whether JPEG that simplejpeg does not decode may end before the last row of the `pixels` decoded from it.

    Made-up rows differ little from pixel to pixel, except by the predictors of lossless JPEG other than the first.
    """
    if not frame.startswith(b"\xff\xd8") or is_sampled_jpeg(frame, name):
        return False
    stream = headers.parse(frame, name, "jpeg")
    if stream.process not in (0xC1, LOSSLESS) or (stream.process == LOSSLESS and frame[stream.scan - 3] != 1):
        return stream.process != 0xF7  # JPEG-LS, whose decoder tells
    return len(np.unique(np.diff(pixels[-1].astype(np.int64), axis=0))) <= 16


def with_filling(frame: bytes) -> bytes:
    """The stream with bytes before its end marker, which a decoder that has all data does not look at."""
    end = frame.rindex(b"\xff\xd9")
    return frame[:end] + FILLING + frame[end:]


def check(frame: bytes, expected: Shape, syntax: UID, name: str) -> None:
    """Refuse a stream that is not of the `expected` size, or not whole. Raises `ImageError`."""
    if syntax == RLELossless:
        _check_runs(frame, expected[0] * expected[1], name)
        return
    sizes = [expected]
    if frame.startswith(b"\xff\xd8"):
        stream = headers.parse(frame, name, "jpeg")
        headers.check_scans(frame, stream, name)
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
    if JPEG_2000 in frame and not frame.startswith(b"\xff\xd8"):
        _check_tiles(frame[frame.index(JPEG_2000) :], name)
    elif is_sampled_jpeg(frame, name) and expected[2] > 1:  # grey ones are decoded by jpeg_files, which checks them
        jpeg_files.check(frame, headers.parse(frame, name, "jpeg"), name)


def _check_tiles(codestream: bytes, name: str) -> None:
    """Refuse JPEG 2000 data of which a tile part is not as long as it says, or a tile is missing (ITU-T T.800, A.4.2)."""
    width, height, _, _, tile_width, tile_height, first, above = struct.unpack_from(">8I", codestream, 8)
    tiles = -(-(width - first) // tile_width) * -(-(height - above) // tile_height)
    at, seen = 2, set()
    try:
        while (marker := codestream[at : at + 2]) != b"\xff\xd9":
            (length,) = struct.unpack_from(">H", codestream, at + 2)
            if marker == b"\xff\x90":  # a tile part: its tile and its length, 0 for all that is left
                tile, length = struct.unpack_from(">HI", codestream, at + 4)
                seen.add(tile)
                at = at + length if length else codestream.rindex(b"\xff\xd9")
            else:
                at += 2 + length
            if codestream[at : at + 1] != b"\xff":
                raise ValueError("no marker")
    except (struct.error, ValueError):
        raise ImageError(
            f"{name}: the JPEG 2000 data are cut off or damaged; download or copy the file again"
        ) from None
    if len(seen) != tiles:
        raise ImageError(
            f"{name}: the JPEG 2000 data hold {len(seen)} of {tiles} tiles; download or copy the file again"
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
