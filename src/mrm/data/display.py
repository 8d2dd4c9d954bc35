"""How images and masks are shown to people: their size, their colours, and the files they are sent as.

Mask files, pages and the service all draw with what is here, so one class has one colour everywhere.
"""

# Shapes: H W pixels
import base64

import cv2
import numpy as np

from mrm.data import grey_levels, images
from mrm.data.grey_levels import GreyLevels
from mrm.data.images import ImageFile
from mrm.system.errors import ImageError

Colour = tuple[int, int, int]  # red, green, blue

# Colours of classes that people with any kind of colour vision can tell apart (Okabe and Ito 2008)
CLASS_COLOURS: tuple[Colour, ...] = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # green
    (240, 228, 66),  # yellow
    (0, 114, 178),  # blue
    (213, 94, 0),  # vermilion
)
# Colours of figures, on white; in a page they are the CSS variables of the same colour in `pages/style.css`
INK, MUTED, FAINT = "#17222c", "#55616b", "#d3dae0"
SERIES = (  # first model, second model, ...
    *("#0b5c8a", "#b0500f", "#6b3fa0", "#1c6b3c"),
    *("#a3195b", "#5f5a10", "#0a7a7a", "#7a3b2e"),
)


def class_colour(number: int) -> Colour:
    """The colour of class `number`, counted from 1; colours repeat after the sixth class."""
    return CLASS_COLOURS[(number - 1) % len(CLASS_COLOURS)]


def levels_of(image: ImageFile) -> GreyLevels:
    """The values of an image at its own depth, for a viewer that sets window and level. Raises ImageError."""
    images.check_size(image)
    if image.dataset is not None:
        from mrm.data import dicom

        return dicom.grey_levels(image.dataset, image.name)
    stored = images.stored(image)
    grey = stored[..., 0] if stored.ndim == 3 and stored.shape[2] < 3 else stored
    shown_HW = images.grey_array(stored, image.name, image.header.inverted)  # also refuses values that are not finite
    if grey.ndim == 3 or grey.dtype in (np.uint8, bool):
        return grey_levels.of_bytes(shown_HW)
    return grey_levels.of_range(grey, image.header.inverted)


def shrink(image: np.ndarray, longer_side: int) -> np.ndarray:
    """An image (H, W) or (H, W, 3) whose longer side has at most `longer_side` pixels; it is never enlarged."""
    scale = min(1.0, longer_side / max(image.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    if image.ndim == 2:
        return images.resize(image, height, width)
    return np.stack([images.resize(channel, height, width) for channel in np.moveaxis(image, -1, 0)], axis=-1)


def resize_mask(mask_HW: np.ndarray, height: int, width: int) -> np.ndarray:
    """Class numbers at another size; each pixel takes the class of the nearest one."""
    return cv2.resize(mask_HW, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def tint(image_HW3: np.ndarray, inside_HW: np.ndarray, colour: Colour, opacity: float) -> np.ndarray:
    """The image with a region covered by a colour, (H, W, 3) uint8."""
    covered = ((1 - opacity) * image_HW3 + opacity * np.array(colour)).astype(np.uint8)
    return np.where(inside_HW[..., None], covered, image_HW3)


def draw_outline(image_HW3: np.ndarray, inside_HW: np.ndarray, colour: Colour, thickness: int = 1) -> np.ndarray:
    """The image with a line around a region, (H, W, 3) uint8."""
    canvas = np.ascontiguousarray(image_HW3.copy())
    lines, _ = cv2.findContours(inside_HW.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, lines, -1, colour, thickness=thickness)
    return canvas


def draw_classes(image_HW: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """A grey image with each class of a mask tinted and outlined in its colour, (H, W, 3) uint8."""
    canvas = cv2.cvtColor(image_HW, cv2.COLOR_GRAY2RGB)
    for number in range(1, int(mask_HW.max()) + 1):
        inside_HW, colour = mask_HW == number, class_colour(number)
        canvas = draw_outline(tint(canvas, inside_HW, colour, 0.35), inside_HW, colour)
    return canvas


def encode_png(image: np.ndarray) -> bytes:
    """(H, W) or (H, W, 3) uint8 as a PNG file."""
    return images.encode_png(image) if image.ndim == 2 else _encode_colour(image, ".png", [])


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """(H, W) or (H, W, 3) uint8 as a JPEG file."""
    if image.ndim == 2:
        return images.encode_jpeg(image, quality)
    return _encode_colour(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])


def jpeg_data_uri(image: np.ndarray, quality: int = 90) -> str:
    """(H, W) or (H, W, 3) uint8 as a data URI, which a page can hold inside itself."""
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(image, quality)).decode()


def _encode_colour(image_HW3: np.ndarray, suffix: str, options: list[int]) -> bytes:
    if image_HW3.dtype != np.uint8 or image_HW3.shape[2:] != (3,):
        raise ImageError(f"only (H, W, 3) uint8 is written in colour, not {image_HW3.dtype} of {image_HW3.shape}")
    return cv2.imencode(suffix, cv2.cvtColor(image_HW3, cv2.COLOR_RGB2BGR), options)[1].tobytes()
