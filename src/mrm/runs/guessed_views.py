"""The view of images that state none: what `--view-classifier` does in predict, evaluate and calibrate."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from mrm.data import images
from mrm.data.reading_ahead import work_ahead
from mrm.data.records import Record, Records
from mrm.inference.studies import GUESSED_FRONTAL, GUESSED_LATERAL
from mrm.runs.reading_options import Reading
from mrm.runs.run_folder import warn_of
from mrm.system import hardware
from mrm.system.errors import ImageError, RunError
from mrm.system.progress import Progress

if TYPE_CHECKING:
    from mrm.inference.view_classifier import ViewClassifier


def digest_of(reading: Reading) -> str | None:
    """What changes with the view classifier of a command; None without one."""
    if reading.view_classifier is None:
        return None
    return hashlib.blake2b(reading.view_classifier.read_bytes(), digest_size=8).hexdigest()


def with_guessed_views(records: Records, reading: Reading) -> Records:
    """The records, with a guess where neither they nor the header of their image state a view. Says how many there are.

    An image in an archive is fetched for it, and again for the model. What cannot be read stays without a view. Raises
    ConfigError for a file that is no view classifier, LostArchiveError for an archive that does not answer.
    """
    if reading.view_classifier is None:
        return records
    from mrm.inference import view_classifier

    classifier = view_classifier.load(reading.view_classifier)
    asked = [n for n, record in enumerate(records) if not record.view.strip()]
    rows, guessed = list(records), []
    workers = hardware.cores() - 1 if reading.workers is None else reading.workers
    with Progress("guessing views", len(asked)) as progress:
        views = work_ahead((records[n] for n in asked), lambda record: guess(classifier, record), workers)
        for n, view in zip(asked, views, strict=True):
            rows[n] = replace(rows[n], view=view)
            guessed += [view] if view in (GUESSED_LATERAL, GUESSED_FRONTAL) else []
            progress.add(1)
    if guessed:
        warn_of([
            f"{len(guessed):,} of {len(records):,} images state no view; {reading.view_classifier} takes "
            f"{guessed.count(GUESSED_LATERAL):,} of them for lateral, which are left out"
        ])  # fmt: skip
    return replace(records, rows=rows)


def guess(classifier: ViewClassifier, record: Record) -> str:
    """The view that a header states, else the one that the image looks like; empty where it cannot be read."""
    try:
        return classifier.view_of(images.open_image(record.image))
    except (ImageError, OSError):
        return ""


def require_frontal(reading: Reading) -> None:
    """Raises RunError for a view classifier without a reason to guess views."""
    if reading.view_classifier is not None and reading.views != "frontal":
        raise RunError("--view-classifier guesses which images are lateral, to leave them out: add --views frontal")
