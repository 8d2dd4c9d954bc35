"""Settings of the data: which part of an image a sample shows, how it is augmented, and which text of a report is used.

Nothing heavy is imported here, so that a command answers at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mrm.system.errors import AugmentError, ConfigError, PackError, ReportError

LARGEST_FILE = 1 << 30  # bytes of a file of packed images
Layout = Literal["records", "webdataset"]  # of what is packed: a table of records, or tar files of samples
OnError = Literal["stop", "skip"]  # what happens at a record that cannot be used
Resize = Literal["area", "bilinear", "bicubic"]  # how images get their size; see `mrm.data.images.resize`
Greys = Literal["stored", "matched"]  # those of the file, or one distribution for all (`mrm.data.grey_matching`)
GREY_MEAN, GREY_STD = 0.4978, 0.2449  # of grey values from 0 to 1, over the published training radiographs


def check_site_weights(weights: Mapping[str, Any]) -> None:
    """Raises ConfigError for a weight that is no number from 0 on."""
    for site, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise ConfigError(f"site_weights: the weight of {site} must be a number from 0 on, not {weight!r}")


@dataclass(frozen=True)
class CropConfig:
    """Random resized crop and flip of training images. The defaults are those of the published pre-training."""

    area: tuple[float, float] = (0.2, 1.0)  # of the crop, as a share of the image, from and to
    aspect: tuple[float, float] = (3 / 4, 4 / 3)  # width of the crop over its height, from and to
    flip: float = 0.5  # probability of a horizontal flip


FINETUNE_CROP = CropConfig(area=(0.08, 1.0))  # the published one: torchvision's default, not that of pre-training


@dataclass(frozen=True)
class ReportConfig:
    """Which text of a report is used, and how much of it is masked."""

    sections: tuple[str, ...] = ()  # findings, impression, ...; by default the whole report
    mask: float = 0.5  # probability of masking a word, up to 1
    unit: Literal["word", "phrase", "sentence"] = "word"  # what is masked as a whole; phrases end at any punctuation
    loss: Literal["masked", "all"] = "masked"  # tokens in the loss; all, as in the published code, includes padding

    def __post_init__(self) -> None:
        if not 0 <= self.mask <= 1:
            raise ReportError(f"report.mask is a probability from 0 to 1, not {self.mask:g}")
        if self.unit not in ("word", "phrase", "sentence"):
            raise ReportError(f"report.unit must be one of word, phrase, sentence, not {self.unit!r}")


PROBABILITIES = (("erase", 1.0), ("equalise", 1.0), ("frame", 1.0), ("letters", 1.0))  # and the largest of each


@dataclass(frozen=True)
class AugmentConfig:
    """How much images are changed. Amounts are the largest that are drawn; 0 switches a change off."""

    rotate: float = 0.0  # degrees in either direction
    brightness: float = 0.0  # share of the grey scale, up or down
    contrast: float = 0.0  # 0.3 draws a factor from 1/1.3 to 1.3
    gamma: float = 0.0  # 0.3 draws an exponent from 1/1.3 to 1.3
    blur: float = 0.0  # standard deviation in pixels; on half of the images
    noise: float = 0.0  # standard deviation as a share of the grey scale; on half of the images
    erase: float = 0.0  # probability of a rectangle of noise that covers 2 to 20 % of the image
    equalise: float = 0.0  # probability of a share of histogram equalisation, global or local, as devices post-process
    frame: float = 0.0  # probability of a black or white frame of up to 12 % on each side
    letters: float = 0.0  # probability of one or two bright letters near a side, as markers are

    def __post_init__(self) -> None:
        for name, limit in (("rotate", 180.0), ("brightness", 1.0), ("noise", 1.0), *PROBABILITIES):
            if not 0 <= getattr(self, name) <= limit:
                raise AugmentError(f"augmentation: {name} must be from 0 to {limit:g}, not {getattr(self, name):g}")
        for name in ("contrast", "gamma", "blur"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise AugmentError(f"augmentation: {name} must be 0 or more, not {getattr(self, name):g}")


NONE = AugmentConfig()
STRONG = AugmentConfig(rotate=10, brightness=0.15, contrast=0.3, gamma=0.3, blur=1.0, noise=0.03, erase=0.25)


@dataclass(frozen=True)
class PackConfig:
    """How images are packed into shards."""

    # Images
    size: int = 512  # shorter side in pixels, at least the size that models train at; smaller images keep their size
    format: Literal["jpeg", "png", "pgm"] = "jpeg"  # png is lossless, in three times the space; pgm is not compressed
    quality: int = 90  # of JPEG, 1 to 100
    deidentified: bool = False  # leave out images that may name a person, and key ids and file names (docs/privacy.md)
    rows: int | None = None  # images in a file; by default 2048, fewer where a file might grow beyond 1 GB

    def __post_init__(self) -> None:
        if self.size < 16:
            raise PackError(f"size is {self.size}; at least 16 pixels are expected")
        if self.format not in ("jpeg", "png", "pgm"):
            raise PackError(f"unknown format {self.format!r}; choose from jpeg, png, pgm")
        if not 1 <= self.quality <= 100:
            raise PackError(f"quality is {self.quality}; 1 to 100 is expected")
        if self.rows is not None and self.rows < 1:
            raise PackError(f"rows is {self.rows}; at least one image per file is expected")

    def rows_per_file(self) -> int:
        """Images per file. By default a file stays below 1 GB even if nothing compresses and images are 1:2 in shape."""
        return self.rows or max(1, min(2048, LARGEST_FILE // (2 * self.size**2)))
