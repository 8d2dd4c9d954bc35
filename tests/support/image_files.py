"""Images made up, as arrays and as files."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from mrm.data import images


def radiograph(seed: int, side: int = 256) -> np.ndarray:
    """A smooth made-up image with a darker middle, every seed another."""
    rng = np.random.default_rng(seed)
    rough = cv2.resize(rng.standard_normal((12, 12)), (side, side), interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    return images.to_uint8(rough + 2 * (x**2 + y**2))


def random_image(seed: int, height: int = 24, width: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def write_image(path: Path, seed: int, height: int = 24, width: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encode = images.encode_png if path.suffix == ".png" else images.encode_jpeg
    path.write_bytes(encode(random_image(seed, height, width)))


def png_of_size(height, width) -> bytes:
    """A black PNG of any size, without holding it."""
    chunk = lambda kind, data: (  # noqa: E731
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    )
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, to see that nothing was written into it."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
