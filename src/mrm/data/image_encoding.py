"""Images as they are packed: decoded, shrunk to a shorter side, made grey and encoded once; on several processes."""

# Shapes: H W pixels
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import cv2
import numpy as np

from mrm.data import images, masks, personal_marks
from mrm.data.config import PackConfig
from mrm.system.errors import ImageError, MaskError, UnreachableError
from mrm.system.worker_pool import named_faults, worker_pool

CHUNK = 32  # images that a process encodes at a time
AHEAD = 3  # chunks per process that wait for the writer

HashImage = Callable[[np.ndarray], Sequence[int]]  # the hashes of an (H, W) uint8 image; it can be pickled


class Encoded(NamedTuple):
    """An image as it is packed, with its mask; or the reason why it cannot be."""

    image: bytes = b""
    mask: bytes = b""
    reason: str = ""
    again: bool = False  # out of reach, not damaged: it may be read later
    hashes: Sequence[int] = ()  # of the image as whoever reads the packed one sees it


def encode(item: Any, config: PackConfig, hash_image: HashImage | None = None) -> Encoded:
    """An image, or a `MaskedImage`, as it is packed, with its hashes if asked for; one that cannot be read gives the reason."""
    has_mask = hasattr(item, "mask")
    try:
        image = images.open_image(item.image if has_mask else item)
        if config.deidentified and (marks := personal_marks.marks(image)):
            return Encoded(reason=f"{image.name}: may name a person: {'; '.join(marks)}")
        height, width = images.size(image)
        packed_size = shrunk(height, width, config.size)
        image_HW = images.resize(images.read(image, min_side=min(packed_size)), *packed_size)
        mask = images.encode_png(_shrunk_mask(item, (height, width), packed_size)) if has_mask else b""
    except (ImageError, OSError) as error:
        return Encoded(reason=str(error), again=isinstance(error, UnreachableError | OSError))
    content = _content(image_HW, config)
    if not hash_image:
        return Encoded(content, mask)
    seen_HW = images.read(content) if config.format == "jpeg" else image_HW  # the other formats change no pixel
    return Encoded(content, mask, hashes=hash_image(seen_HW))


def _content(image_HW: np.ndarray, config: PackConfig) -> bytes:
    if config.format == "jpeg":
        return images.encode_jpeg(image_HW, config.quality)
    return (images.encode_pgm if config.format == "pgm" else images.encode_png)(image_HW)


def shrunk(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width once the shorter side is `size`; smaller images are not enlarged."""
    scale = min(1.0, size / min(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _shrunk_mask(item: Any, image_size: tuple[int, int], packed_size: tuple[int, int]) -> np.ndarray:
    """The mask's values at the size of the packed image, by nearest neighbour. Raises MaskError."""
    mask_HW = masks.read_mask(item)
    if mask_HW.shape != image_size:
        raise MaskError(f"{item.mask}: the mask has {mask_HW.shape} pixels, but its image has {image_size}")
    return cv2.resize(mask_HW, packed_size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def encode_all(
    chunks: Sequence[Sequence[Any]], config: PackConfig, workers: int, hash_image: HashImage | None = None
) -> Generator[list[Encoded], None, None]:
    """The encoded images of each chunk, in order; the worker processes stay a few chunks ahead."""
    if workers == 1 or len(chunks) < 2:
        with named_faults("packing"):
            yield from (_encode_chunk(chunk, config, hash_image) for chunk in chunks)
        return
    with named_faults("packing"), worker_pool(min(workers, len(chunks))) as pool:
        waiting: deque[Future[list[Encoded]]] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(_encode_chunk, chunk, config, hash_image))
                if len(waiting) > AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _encode_chunk(items: Sequence[Any], config: PackConfig, hash_image: HashImage | None) -> list[Encoded]:
    return [encode(item, config, hash_image) for item in items]
