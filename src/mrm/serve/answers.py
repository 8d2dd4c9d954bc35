"""What the service returns: the fields of its JSON answers."""

# Shapes: H W pixels
from __future__ import annotations

import base64
from dataclasses import dataclass, field

import numpy as np

from mrm.data import display
from mrm.data.grey_levels import GreyLevels

NOTICE = "Research software, not for clinical use. Do not use anything in this answer to guide patient care."


@dataclass(frozen=True)
class Finding:
    """One finding of an image. `decision` is whether the probability reaches its threshold.

    Threshold and decision are null if the model has no threshold for the finding, the decision also if the model
    abstains. `set` is what is not ruled out: "present", "absent", "either" or "neither"; null if the model has no sets, and if
    it abstains. For a segmenter, `probability` is the greatest of all pixels and `area` the share of the image outlined.
    """

    finding: str
    probability: float
    threshold: float | None
    decision: bool | None
    area: float | None = None
    set: str | None = None


@dataclass(frozen=True)
class Prediction:
    """All findings of an image of `height` x `width` pixels, or of a study of several `images`; from a segmenter also the mask and an overlay as PNG.

    `views` is the view of each image that was sent, as its header states it or "(guessed)" from the image; empty where it is
    not known. `left_out` numbers the images, from 1, that do not count since they are lateral. `outlier` is how unlike the
    model's known images this one is; if it is too unlike them, the model abstains from decisions. Both are null if the model
    cannot tell.
    """

    model: str
    findings: list[Finding]
    warnings: list[str]
    height: int
    width: int
    mask: str | None = None
    overlay: str | None = None
    outlier: float | None = None
    abstain: bool | None = None
    images: int = 1
    views: list[str] = field(default_factory=list)
    left_out: list[int] = field(default_factory=list)
    notice: str = NOTICE


@dataclass(frozen=True)
class Explanation:
    """What in the image raises a finding's number, as base64.

    Either `heat_map` (grey PNG) and `overlay` (PNG), or `array` (float32, little-endian, row by row).
    """

    model: str
    finding: str
    method: str
    height: int
    width: int
    heat_map: str | None
    overlay: str | None
    array: str | None
    warnings: list[str]
    notice: str = NOTICE


@dataclass(frozen=True)
class Word:
    """A word and its probability."""

    word: str
    probability: float


@dataclass(frozen=True)
class FilledBlank:
    """A blank of the text, from character `start` to `end`, and its likeliest words with the image and without it."""

    start: int
    end: int
    with_image: list[Word]
    without_image: list[Word]


@dataclass(frozen=True)
class FilledReport:
    """The blanks of a report in order."""

    model: str
    blanks: list[FilledBlank]
    warnings: list[str]
    notice: str = NOTICE


@dataclass(frozen=True)
class Reconstruction:
    """Four PNG images: with patches masked, restored, the original, and the difference of the last two.

    `error` is the mean squared error of the masked patches, normalised as in training.
    """

    model: str
    masked: str
    restored: str
    original: str
    residual: str
    error: float
    warnings: list[str]
    notice: str = NOTICE


@dataclass(frozen=True)
class Values:
    """The values of an image at its own depth, from which the client sets window and level. Both arrays are base64.

    `levels` (uint16, little-endian, row by row): 0 is padding, level k stands for the value `low` + `step` * (k - 1).
    `shown` (uint8): for each level the grey it is shown in first. `center`, `width` and `function` (LINEAR, LINEAR_EXACT
    or SIGMOID, as DICOM defines them) are the window of the file, else one of the whole range. With `inverted`, low values are white.
    """

    levels: str
    height: int
    width: int
    low: float
    step: float
    shown: str
    center: float
    window_width: float
    function: str
    inverted: bool


@dataclass(frozen=True)
class Preview:
    """The image at most `side` pixels large, the size of the original, and what the header of a DICOM file states.

    Either `image`, as decoded for the model (grey PNG, base64), or `values`. `patient` tells patients apart as long as this
    service runs: it is a keyed hash of the id, not the id. Where no view is stated, `view` may be a guess, and says so;
    `left_out` is why the image would not count for an answer, else empty.
    """

    image: str | None
    values: Values | None
    height: int
    width: int
    warnings: list[str]
    is_dicom: bool = False
    view: str = ""
    date: str = ""
    patient: str = ""
    left_out: str = ""


@dataclass(frozen=True)
class About:
    """Which models the service runs, what it can do, and its limits."""

    model: str
    kind: str
    pretrained: str | None
    capabilities: list[str]
    findings: list[str]
    thresholds: dict[str, float]
    methods: list[str]
    limits: dict[str, float]
    study_images: int  # the maximum number of images of one study
    views: str  # "all", or "frontal" where lateral images do not count
    version: str
    notice: str = NOTICE


def png(image: np.ndarray) -> str:
    """(H, W) or (H, W, 3) uint8 as PNG, in base64."""
    return base64.b64encode(display.encode_png(image)).decode()


def values(grey: GreyLevels) -> Values:
    """The levels of an image with its first window."""
    height, width = grey.levels_HW.shape
    return Values(
        base64.b64encode(grey.levels_HW.astype("<u2").tobytes()).decode(),
        *(height, width, grey.low, grey.step),
        base64.b64encode(grey.shown.tobytes()).decode(),
        *(grey.window.center, grey.window.width, grey.window.function, grey.inverted),
    )
