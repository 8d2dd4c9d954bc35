"""The study as the unit: the images of one study give one answer, and lateral views are used or left out.

What is pooled are the values that a classifier computes of each image: of the logits the mean or, for each finding, the
largest; of the features the mean. All that follows (temperature, threshold, outliers) is that of a single image.
"""

# Shapes: N images, S studies, C classes, K values of an image: C logits, and features if the model knows outliers
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Pool = Literal["mean", "max"]
Views = Literal["all", "frontal"]

# As tables write it, and as DICOM's ViewPosition does: LL and RL are lateral views, decubitus views are frontal
LATERAL = re.compile(r"l|ll|rl|lat|.*lateral(?!.*decub).*", re.IGNORECASE)
GUESSED_LATERAL, GUESSED_FRONTAL = "lateral (guessed)", "frontal (guessed)"  # views of images that state none
UNSTATED = "states no view, so it was taken for frontal"
LOOKS_FRONTAL = "states no view, and the view classifier took it for frontal"
ONLY_LATERAL = "only lateral images, which --views frontal leaves out"


def is_lateral(view: str) -> bool:
    """Whether a view, as a table or the header of a file states it, is a lateral one; a view that is not stated is not."""
    return bool(LATERAL.fullmatch(view.strip()))


def note_of_view(view: str, keep: Views) -> str:
    """A note on an image that is used though it states no view, where lateral ones are left out; else nothing."""
    if keep == "all":
        return ""
    return {"": UNSTATED, GUESSED_FRONTAL: LOOKS_FRONTAL}.get(view.strip(), "")


def note_unstated(views: Sequence[str], keep: Views) -> list[str]:
    """A sentence on images that state no view, where lateral ones are to be left out: they stay, whatever they show."""
    unstated = sum(not view.strip() for view in views)
    if keep == "all" or not unstated:
        return []
    return [
        f"{unstated:,} of {len(views):,} images state no view, so --views frontal took them for frontal; look through them, or "
        "state it in a column `view`"
    ]


def study_key(patient: str | None, study: str | None, name: str) -> str:
    """What tells the study of an image from others; an image that states no study is one of its own."""
    return f"study\0{patient or ''}\0{study}" if study else f"image\0{name}"


@dataclass(frozen=True)
class Study:
    """The images of one study, by their numbers: those that give the answer, and those that are left out."""

    used: tuple[int, ...]
    lateral: tuple[int, ...]  # left out because of their view
    unreadable: tuple[int, ...]

    @property
    def images(self) -> tuple[int, ...]:
        """All of them, in their order."""
        return tuple(sorted((*self.used, *self.lateral, *self.unreadable)))


def studies_of(keys: Sequence[str], views: Sequence[str], readable: Sequence[bool], keep: Views) -> list[Study]:
    """The studies of N images in the order of their first images, by `study_key`."""
    members: dict[str, list[int]] = {}
    for number, key in enumerate(keys):
        members.setdefault(key, []).append(number)
    studies = []
    for numbers in members.values():
        lateral = tuple(n for n in numbers if keep == "frontal" and is_lateral(views[n]))
        rest = [n for n in numbers if n not in lateral]
        studies.append(Study(tuple(n for n in rest if readable[n]), lateral, tuple(n for n in rest if not readable[n])))
    return studies


def pooled(values_NK: np.ndarray, classes: int, pool: Pool) -> np.ndarray:
    """The values (K,) of a study from those of its images: logits by mean or largest, features by mean."""
    logits_NC, features_ND = np.split(np.asarray(values_NK, dtype=np.float64), [classes], axis=1)
    logits_C = logits_NC.mean(axis=0) if pool == "mean" else logits_NC.max(axis=0)
    return np.concatenate([logits_C, features_ND.mean(axis=0)])
