"""Which images of a study the service takes for its answers, by their view.

A view that the header of an image states counts; where it states none, a view classifier guesses (`mrm views`). Requests of
people use all images unless `--views frontal` is given; reports of studies that come unasked are of frontal images in any case.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mrm.inference.studies import GUESSED_LATERAL, Views, is_lateral

if TYPE_CHECKING:
    from mrm.inference.view_classifier import ViewClassifier


@dataclass(frozen=True)
class ViewRule:
    """Which views are used, and what guesses the view of an image that states none."""

    keep: Views = "all"
    classifier: ViewClassifier | None = None

    @property
    def unattended(self) -> ViewRule:
        """The rule for studies that nobody chose images of."""
        return replace(self, keep="frontal")

    def against(self, view: str) -> str:
        """Why an image of this view is not used, as what is said of the image; empty where it is used."""
        if self.keep == "all" or not is_lateral(view):
            return ""
        if view == GUESSED_LATERAL:
            return "states no view, and the view classifier took it for lateral, which this service leaves out"
        return f"is a lateral view ({view.strip()}), which this service leaves out"


EVERY_VIEW = ViewRule()
