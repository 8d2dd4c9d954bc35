"""Settings of the data: which part of an image a sample shows, how it is changed, and what text a report gives.

Nothing heavy is imported here, so that a command answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mrm.system.errors import AugmentError, PackError

LARGEST_FILE = 1 << 30  # bytes of a file of packed images
OnError = Literal["stop", "skip"]  # what a record that cannot be used does to a run


@dataclass(frozen=True)
class CropConfig:
    """Random resized crop and flip of training images. The defaults are the published ones."""

    area: tuple[float, float] = (0.2, 1.0)  # share of the image
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5  # probability


@dataclass(frozen=True)
class ReportConfig:
    """Which text a record's report gives, and how much of it is masked."""

    sections: tuple[str, ...] = ()  # findings, impression, ...; none = the whole report
    mask: float = 0.5  # probability, per word
    loss: Literal["masked", "all"] = "masked"  # the paper's; "all" is what the published code trained on


@dataclass(frozen=True)
class AugmentConfig:
    """How far images are changed; every amount is the largest, and 0 leaves that change out."""

    rotate: float = 0.0  # degrees, either way
    brightness: float = 0.0  # share of the grey scale, up or down
    contrast: float = 0.0  # 0.3 draws a factor from 1/1.3 to 1.3
    gamma: float = 0.0  # 0.3 draws an exponent from 1/1.3 to 1.3
    blur: float = 0.0  # pixels, standard deviation; on half of the images
    noise: float = 0.0  # share of the grey scale, standard deviation; on half of the images
    erase: float = 0.0  # probability of a rectangle of noise, a fiftieth to a fifth of the image

    def __post_init__(self) -> None:
        for name, most in (("rotate", 180.0), ("brightness", 1.0), ("noise", 1.0), ("erase", 1.0)):
            if not 0 <= getattr(self, name) <= most:
                raise AugmentError(f"augmentation: {name} must be from 0 to {most:g}, not {getattr(self, name):g}")
        for name in ("contrast", "gamma", "blur"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise AugmentError(f"augmentation: {name} must be 0 or more, not {getattr(self, name):g}")


NONE = AugmentConfig()
STRONG = AugmentConfig(rotate=10, brightness=0.15, contrast=0.3, gamma=0.3, blur=1.0, noise=0.03, erase=0.25)


@dataclass(frozen=True)
class PackConfig:
    """How images are packed into shards."""

    size: int = 512  # pixels of the shorter side; smaller images stay as they are
    format: Literal["jpeg", "png"] = "jpeg"
    quality: int = 90  # of JPEG
    rows: int | None = None  # images per file; None = 2048, fewer where a file might grow beyond 1 GB

    def __post_init__(self) -> None:
        if self.size < 16:
            raise PackError(f"size is {self.size}; at least 16 pixels are expected")
        if self.format not in ("jpeg", "png"):
            raise PackError(f"format is {self.format!r}; jpeg or png is expected")
        if not 1 <= self.quality <= 100:
            raise PackError(f"quality is {self.quality}; 1 to 100 is expected")
        if self.rows is not None and self.rows < 1:
            raise PackError(f"rows is {self.rows}; at least one image per file is expected")

    def rows_per_file(self) -> int:
        """Images per file. By default a file stays below 1 GB even if nothing compresses and images are 1:2 in shape."""
        return self.rows or max(1, min(2048, LARGEST_FILE // (2 * self.size**2)))
