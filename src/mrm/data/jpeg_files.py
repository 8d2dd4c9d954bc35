"""JPEG data to (H, W) uint8, and whether all of it is there.

libjpeg fills what is missing with grey and only warns, also where the end marker is there. `simplejpeg` (libjpeg-turbo,
as fast as OpenCV and equal to it in every pixel) reports that warning. `mrm.data.images` and `mrm.data.dicom`
decode JPEG data here, or have those checked that another library decodes.
"""

import warnings

import cv2
import numpy as np
import simplejpeg

from mrm.data.headers import Bytes, Header, check_scans
from mrm.system.errors import ImageError

# Warnings of libjpeg after which all pixels are nevertheless those of the data
HARMLESS = ("extraneous bytes", "Adobe color transform", "JFIF revision", "Invalid SOS parameters", "ICC")


def decode(data: Bytes, header: Header, factor: int, name: str) -> np.ndarray:
    """The luma at 1 / `factor` (1, 2, 4, 8) of the size. Raises `ImageError` for damaged data and where data are missing."""
    check_scans(data, header, name)
    size = -(-header.height // factor), -(-header.width // factor)
    try:
        image = _decoded(data, header, size, strict=True)
    except ValueError as error:
        image = _despite(error, data, header, size, name)
    if image.shape != size:
        raise ImageError(
            f"{name}: the JPEG decodes to {image.shape[0]} x {image.shape[1]} pixels, but its header says "
            f"{size[0]} x {size[1]}; download or copy the file again"
        )
    return image


def check(data: Bytes, header: Header, name: str) -> None:
    """Refuse 8-bit JPEG data that are cut off or damaged. They are decoded at an eighth of their size."""
    decode(data, header, 8, name)


def _decoded(data: Bytes, header: Header, size: tuple[int, int], strict: bool) -> np.ndarray:
    """Raises ValueError for damaged data, and with `strict` for what libjpeg warns of."""
    space = "CMYK" if header.channels == 4 else "GRAY"
    factors = {} if size == (header.height, header.width) else {"min_height": size[0], "min_width": size[1]}
    image = simplejpeg.decode_jpeg(data, space, strict=strict, **factors)
    if space == "GRAY":
        return image[:, :, 0]
    inverted = image[:, :, :3].astype(np.uint16) * image[:, :, 3:]  # Adobe stores 255 - ink
    return cv2.cvtColor((inverted // 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)


def _despite(error: ValueError, data: Bytes, header: Header, size: tuple[int, int], name: str) -> np.ndarray:
    """The image where libjpeg's complaint does not touch its pixels; else raises `ImageError`."""
    reason = " ".join(str(error).split())
    try:
        image = _decoded(data, header, size, strict=False)
    except ValueError:
        raise ImageError(
            f"{name}: damaged, or a kind of JPEG that cannot be decoded ({reason}); download or copy the file again, or "
            "save it as an ordinary 8-bit JPEG or 8- or 16-bit PNG"
        ) from error
    if any(words in reason for words in HARMLESS):
        warnings.warn(f"{name}: the JPEG is not quite regular ({reason}); all its pixels were read", stacklevel=4)
        return image
    raise ImageError(
        f"{name}: cut off or damaged, {_missing(image)}({reason}); download or copy the file again"
    ) from error


def _missing(image: np.ndarray) -> str:
    """The share of the last rows that hold only the grey that libjpeg makes up, in words."""
    made_up = (image == image[-1, -1]).all(axis=1)[::-1]
    share = (len(made_up) if made_up.all() else int(made_up.argmin())) / len(made_up)
    return f"the data of about {share:.0%} of the rows are missing " if share else "some of the data are missing "
