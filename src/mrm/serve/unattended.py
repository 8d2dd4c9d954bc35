"""Studies that the service reads without being asked by a person: waiting for room, and one report of a study.

What finds the studies is `mrm.serve.watching` (an archive that is searched) and `mrm.serve.receiving` (images that are sent).
"""

# Shapes: N images, K values of an image
from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from mrm.data.archive import Archive
from mrm.data.archive_address import Address
from mrm.inference import dicom_objects
from mrm.inference.studies import Pool, is_lateral
from mrm.models.classifier import Classifier
from mrm.serve import dicom_answers
from mrm.serve.admission import Admission, Refused, Reservation
from mrm.serve.limits import Limits
from mrm.serve.log import Log
from mrm.serve.views import ViewRule
from mrm.system.errors import ConfigError

if TYPE_CHECKING:
    import pydicom

    from mrm.serve.models import Models

T = TypeVar("T")
MOST_IMAGES = 16  # of a study; more are no radiographs of one examination
BUSY_SECONDS = 1.0  # to wait before asking again whether the service has room


class Service(Protocol):
    """What reading studies needs of the service (`mrm.serve.app.AppState`)."""

    models: Models
    limits: Limits
    admission: Admission
    log: Log
    views: ViewRule

    async def in_decoder(self, work: Callable[..., T], *arguments: Any) -> T: ...
    async def classify(self, image_HW: np.ndarray) -> np.ndarray: ...


def pool_of(models: Models, option: str) -> Pool:
    """How the images of a study give one answer: as the model was calibrated, else by their mean.

    Raises ConfigError, which names the `option` that wants reports, for a model that is no classifier; MaskError where
    highdicom is missing.
    """
    if not isinstance(models.model, Classifier):
        raise ConfigError(f"{option} is for classifiers, and {models.name} is a {models.kind}; leave it out")
    dicom_objects.require_highdicom(f"leave out {option}")
    return "max" if models.model.card.calibration.get("by_study") == "max" else "mean"


def settings_of(pool: Pool) -> str:
    """How answers are computed, as reports say it."""
    return f"pooled by study: {pool}, frontal images"


def is_frontal(header: pydicom.Dataset) -> bool:
    """Whether the report is of an image with this header; one that states no view counts as frontal."""
    return not is_lateral(str(header.get("ViewPosition") or ""))


def ask(address: Address) -> None:
    """Search an archive once, so that a wrong address or password is known at the start. Raises ArchiveError."""
    next(iter(Archive(address).studies()), None)


async def admitted(state: Service, client: str, work: Callable[[Reservation], Awaitable[T]]) -> T:
    """What `work` returns, as one request of the service, as soon as it has room.

    Raises Refused for what it does not take at any time.
    """
    while True:
        try:
            with state.admission.admit(client) as reservation:
                return await work(reservation)
        except Refused as error:
            if error.status != 503:
                raise
        await asyncio.sleep(BUSY_SECONDS)


def report(
    models: Models, sources: Sequence[pydicom.Dataset], values_NK: np.ndarray, said: Sequence[str], pool: Pool
) -> pydicom.Dataset:
    """The report of a study from the headers of its images, what `classify` returned for them, and warnings.

    Raises MaskError for images that no report can refer to.
    """
    return dicom_answers.study_report(models, values_NK, sources, said, pool, settings_of(pool))


def anonymous(error: Exception) -> str:
    """The message of an error without the identifiers of studies and images."""
    return re.sub("/(studies|series|instances)/[^ :]*", "/...", str(error))
