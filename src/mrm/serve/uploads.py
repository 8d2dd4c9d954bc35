"""An uploaded image: its header is parsed once and its size checked before it is decoded. What fails is the client's.

This runs in the processes that decode (`mrm.serve.decoding`), so nothing here imports PyTorch.
"""

# Shapes: H W pixels
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mrm.data import display, images
from mrm.data.blank_images import BLANK, is_blank
from mrm.data.eval_view import EvalView
from mrm.data.images import ImageFile
from mrm.serve.admission import Refused
from mrm.serve.answers import Preview, png
from mrm.serve.limits import Limits
from mrm.system.errors import ImageError

T = TypeVar("T")


@dataclass(frozen=True)
class DecodedImage:
    """An image (H, W) uint8, the size of the original, and warnings: what the file says of itself, and whether it is blank."""

    image_HW: np.ndarray
    height: int
    width: int
    warnings: list[str]


def decode(data: bytes, limits: Limits, eval_view: EvalView | None = None) -> DecodedImage:
    """Decode an upload, whole or as a classifier is evaluated on it. Raises Refused (422)."""
    image = _open(data, limits)
    image_HW = refuse_if_unreadable(lambda: eval_view.image(image) if eval_view else images.read(image))
    said = refuse_if_unreadable(lambda: images.doubts(image)) + [BLANK] * is_blank(image_HW)
    return DecodedImage(image_HW, *images.size(image), said)


def preview(data: bytes, limits: Limits, side: int) -> Preview:
    """An upload as decoded for the model, at most `side` pixels large. Raises Refused (422)."""
    upload = decode(data, limits)
    return Preview(png(display.shrink(upload.image_HW, side)), upload.height, upload.width, upload.warnings)


def _open(data: bytes, limits: Limits) -> ImageFile:
    """The upload with its header parsed, not decoded. Raises Refused (422) if it is not an image, or is too large."""
    image = refuse_if_unreadable(lambda: images.open_image(data))
    height, width = images.size(image)
    if height * width > limits.pixels:
        raise Refused(
            422,
            f"the image has {height:,} x {width:,} pixels, and this service accepts at most {limits.megapixels:g} "
            "megapixels; shrink it first",
        )
    return image


def refuse_if_unreadable(read: Callable[[], T]) -> T:
    """What `read` returns; whatever a file makes a decoder raise becomes Refused (422), with the reason."""
    try:
        return read()
    except ImageError as error:
        raise Refused(422, str(error).removeprefix("image in memory: ")) from None
    except MemoryError:
        raise Refused(
            422, "decoding the file takes more memory than this service allows; shrink the image first"
        ) from None
    except Exception as error:  # from several decoding libraries; no file may cause a 500
        raise Refused(422, f"the file is damaged and cannot be decoded ({type(error).__name__})") from None
