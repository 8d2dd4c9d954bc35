"""How a model is shown images: the same for files, uploads and images in memory, and in training but for the crop.

Nothing of PyTorch is imported here, since the processes that decode uploads use it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mrm.data import images
from mrm.data.blank_images import warn_of_blank
from mrm.data.borders import Box, border_box
from mrm.data.config import CropConfig, Greys, Resize
from mrm.data.grey_matching import matched
from mrm.system.caught_warnings import caught_warnings
from mrm.system.errors import ImageError, UnreachableError


@dataclass(frozen=True)
class EvalView:
    """Size and part of an image, how it gets that size, and its greys; see `images.eval_image`."""

    size: int
    view: str = "whole"
    crop_borders: bool = False
    resize: Resize = "area"
    greys: Greys = "stored"

    @classmethod
    def of(cls, config: Any, crop_borders: bool = False) -> EvalView:
        """What the configuration of a classifier or of a pre-trained MRM says; the latter sees whole images."""
        settings = {name: getattr(config, name) for name in ("view", "resize", "greys") if hasattr(config, name)}
        return cls(config.image_size, crop_borders=crop_borders or getattr(config, "crop_borders", False), **settings)

    def image(self, source: images.Source) -> np.ndarray:
        """The image as it is tested on, (size, size) uint8. Raises ImageError."""
        return images.eval_image(self._first(source), self.size, self.view, self.resize)

    def part(self, image_HW: np.ndarray) -> Box:
        """Which part of a decoded image that is."""
        box = border_box(image_HW) if self.crop_borders else Box(0, 0, *image_HW.shape)
        return box.inner(images.center_box(box.height, box.width)) if self.view == "centre" else box

    @property
    def changes(self) -> str:
        """What is done to an image besides resizing it, in words; empty if nothing is."""
        done = ["its black and white borders cut off"] if self.crop_borders else []
        done += ["its greys matched (mrm.data.grey_matching.matched)"] if self.greys == "matched" else []
        return " and ".join(done)

    @property
    def whole_first(self) -> bool:
        """Whether the whole image is needed first, at its full size, which takes longer than to decode what is shown."""
        return bool(self.changes)

    def whole(self, source: images.Source) -> np.ndarray:
        """The image (H, W) uint8 without its borders and with other greys, where asked for. Raises ImageError."""
        image_HW = images.read(source, crop_borders=self.crop_borders)
        return matched(image_HW) if self.greys == "matched" else image_HW

    def train_image(self, source: images.Source, rng: np.random.Generator, crop: CropConfig) -> np.ndarray:
        """A random resized crop of the image, flipped or not: (size, size) uint8. Raises ImageError."""
        image_HW = images.read_crop(self._first(source), rng, self.size, crop.area, crop.aspect, self.resize)
        return images.flip(image_HW) if rng.random() < crop.flip else image_HW

    def _first(self, source: images.Source) -> images.Source:
        return self.whole(source) if self.whole_first else source

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
