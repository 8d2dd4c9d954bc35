"""Images that show nothing: one grey value everywhere. They are predicted as any other, with a warning."""

# Shapes: H W pixels
import warnings

import numpy as np

BLANK = "all pixels have the same value, so there is nothing to see in it"


def is_blank(image_HW: np.ndarray) -> bool:
    """Whether all pixels have the same value."""
    return bool(image_HW.min() == image_HW.max())


def warn_of_blank(image_HW: np.ndarray, name: str) -> None:
    """Warn of an image whose pixels all have the same value."""
    if is_blank(image_HW):
        warnings.warn(f"{name}: {BLANK}", stacklevel=3)
