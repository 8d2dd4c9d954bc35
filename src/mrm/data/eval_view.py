"""How a model is shown test images: the same for files, uploads and images in memory.

Nothing of PyTorch is imported here, since the processes that decode uploads use it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mrm.data import images
from mrm.data.blank_images import warn_of_blank
from mrm.data.config import Resize
from mrm.system.caught_warnings import caught_warnings
from mrm.system.errors import ImageError, UnreachableError


@dataclass(frozen=True)
class EvalView:
    """Size and part of a test image, and how it gets that size; see `images.eval_image`."""

    size: int
    view: str = "whole"
    crop_borders: bool = False
    resize: Resize = "area"

    @classmethod
    def of(cls, config: Any, crop_borders: bool = False) -> EvalView:
        """What the configuration of a classifier or of a pre-trained MRM says; the latter sees whole images."""
        return cls(config.image_size, getattr(config, "view", "whole"), crop_borders, getattr(config, "resize", "area"))

    def image(self, source: images.Source) -> np.ndarray:
        """The image (size, size) uint8. Raises ImageError."""
        return images.eval_image(source, self.size, self.view, self.crop_borders, self.resize)

    def sample(self, index: int, name: str, source: Callable[[], images.Source]) -> dict[str, Any]:
        """The image that `source` returns, or the reason why it cannot be read; with the warnings raised meanwhile.

        "identity" is what the header of a DICOM file says of patient and study.
        """
        image, reason, again = None, "", False
        identity: dict[str, str] = {}
        with caught_warnings() as warned:
            try:
                opened = source()
                if not isinstance(opened, np.ndarray):
                    opened = images.open_image(opened)
                identity = images.identity(opened)
                image = self.image(opened)
                warn_of_blank(image, name)
            except (ImageError, OSError, MemoryError) as error:
                reason = str(error) or "not enough memory to read the image"
                again = isinstance(error, UnreachableError | OSError)
        notes = {"reason": reason, "again": again, "warned": "; ".join(warned), "identity": identity}
        return {"image": image, "index": index, "name": name, **notes}
