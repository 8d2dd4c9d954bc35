"""Which images of a study the service takes for its answers, by their view.

A view that the header of an image states counts; where it states none, a view classifier guesses (`mrm views`). Requests of
people use all images unless `--views frontal` is given; reports of studies that come unasked are of frontal images in any case.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mrm.inference.studies import GUESSED_LATERAL, Views, is_lateral
from mrm.system.errors import ConfigError

if TYPE_CHECKING:
    from mrm.inference.view_classifier import ViewClassifier


@dataclass(frozen=True)
class ViewOptions:
    """Which views are used, as options state it."""

    views: Views = "all"  # frontal refuses lateral images, and leaves them out of a study; reports of --watch and --dicom-port are of frontal images in any case
    view_classifier: Path | None = None  # a file of `mrm views`, which guesses the view of images that state none

    def rule(self, unattended: bool, is_classifier: bool, name: str) -> ViewRule:
        """What the service named `name` does by these options; `unattended` is whether it writes reports unasked.

        Raises ConfigError for options without a use, and for a file that is no view classifier.
        """
        if not is_classifier and self != ViewOptions():
            raise ConfigError(f"--views and --view-classifier are for classifiers, and {name} is none; leave them out")
        if self.view_classifier is None:
            return ViewRule(self.views)
        if self.views != "frontal" and not unattended:
            raise ConfigError(
                "--view-classifier guesses which images are lateral, to leave them out: add --views frontal"
            )
        from mrm.inference import view_classifier

        return ViewRule(self.views, view_classifier.load(self.view_classifier))


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
