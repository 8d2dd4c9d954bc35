"""An uploaded image: its header is parsed once and its size checked before it is decoded. What fails is the client's.

This runs in the processes that decode (`mrm.serve.decoding`), so nothing here imports PyTorch.
"""

# Shapes: H W pixels
from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pydicom

from mrm.data import dicom, display, images
from mrm.data.blank_images import BLANK, is_blank
from mrm.data.eval_view import EvalView
from mrm.data.images import ImageFile
from mrm.inference.studies import note_of_view
from mrm.serve.admission import Refused
from mrm.serve.answers import Preview, png, values
from mrm.serve.limits import Limits
from mrm.serve.views import EVERY_VIEW, ViewRule
from mrm.system.errors import ImageError

T = TypeVar("T")


@dataclass(frozen=True)
class DecodedImage:
    """An image (H, W) uint8, the size of the original, and warnings: what the file says of itself, and whether it is blank.

    `patient` and `study` are the ids that the header of a DICOM file states, else empty; `view` is the one that it states or
    that was guessed. `left_out` is why the image does not count for an answer; empty where it does.
    """

    image_HW: np.ndarray
    height: int
    width: int
    warnings: list[str]
    patient: str = ""
    study: str = ""
    view: str = ""
    left_out: str = ""


def decode(data: bytes, limits: Limits, eval_view: EvalView | None = None, rule: ViewRule = EVERY_VIEW) -> DecodedImage:
    """Decode an upload, whole or as a classifier is evaluated on it, for an answer by `rule`. Raises Refused (422)."""
    image = _open(data, limits)
    image_HW = refuse_if_unreadable(lambda: eval_view.image(image) if eval_view else images.read(image))
    said, whose, view = _warnings(image, image_HW), images.identity(image), _view(image, rule)
    if note := note_of_view(view, rule.keep):
        said.append(note)
    ids = whose.get("patient_id", ""), whose.get("study_id", "")
    return DecodedImage(image_HW, *images.size(image), said, *ids, view, rule.against(view))


def decode_dicom(
    data: bytes, limits: Limits, eval_view: EvalView | None = None, rule: ViewRule = EVERY_VIEW
) -> tuple[DecodedImage, pydicom.Dataset]:
    """Decode an upload that is DICOM, with what it states beside its pixels. Raises Refused (422) for another format."""
    header = refuse_if_unreadable(lambda: dicom.header(data, "image in memory"))
    if header is None:
        raise Refused(422, "a DICOM object can only be about DICOM images; take the answer of /predict for others")
    return decode(data, limits, eval_view, rule), header


def preview(data: bytes, limits: Limits, side: int, with_values: bool, key: bytes, rule: ViewRule) -> Preview:
    """An upload for a viewer, at most `side` pixels large; `key` hides the id of its patient. Raises Refused (422)."""
    image = _open(data, limits)
    grey = refuse_if_unreadable(lambda: display.levels_of(image)) if with_values else None
    image_HW = grey.image_HW if grey else refuse_if_unreadable(lambda: images.read(image))
    said, whose, view = _warnings(image, image_HW), images.identity(image), _view(image, rule)
    return Preview(
        None if grey else png(display.shrink(image_HW, side)),
        values(grey.shrunk(side)) if grey else None,
        *images.size(image),
        said,
        image.dataset is not None,
        view,
        whose.get("date", ""),
        _hidden(whose.get("patient_id", ""), key),
        rule.against(view),
    )


def _view(image: ImageFile, rule: ViewRule) -> str:
    """The view that the header states, else a guess where the rule has a classifier for it. Raises Refused (422)."""
    classifier = rule.classifier
    if classifier is None:
        return images.identity(image).get("view", "")
    return refuse_if_unreadable(lambda: classifier.view_of(image))


def _warnings(image: ImageFile, image_HW: np.ndarray) -> list[str]:
    """What the file says against itself, and whether the decoded image is blank. Raises Refused (422)."""
    return refuse_if_unreadable(lambda: images.doubts(image)) + [BLANK] * is_blank(image_HW)


def _hidden(patient: str, key: bytes) -> str:
    """A keyed hash of a patient's id; none for no id."""
    return hmac.new(key, patient.encode(), "sha256").hexdigest()[:16] if patient else ""


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
