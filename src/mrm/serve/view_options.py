"""Which views the service uses, as options state it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mrm.system.errors import ConfigError

if TYPE_CHECKING:
    from mrm.serve.views import ViewRule


@dataclass(frozen=True)
class ViewOptions:
    """Which images are used, and what guesses the view of those that state none."""

    views: Literal["all", "frontal"] = "all"  # frontal leaves lateral images out, as --watch and --dicom-port always do
    view_classifier: Path | None = None  # a file of `mrm views`, which guesses the view of images that state none

    def rule(self, unattended: bool, is_classifier: bool, name: str) -> ViewRule:
        """What the service named `name` does by these options; `unattended` is whether it writes reports unasked.

        Raises ConfigError for options without a use, and for a file that is no view classifier.
        """
        from mrm.inference import view_classifier
        from mrm.serve.views import ViewRule

        if not is_classifier and self != ViewOptions():
            raise ConfigError(f"--views and --view-classifier are for classifiers, and {name} is none; leave them out")
        if self.view_classifier is None:
            return ViewRule(self.views)
        if self.views != "frontal" and not unattended:
            raise ConfigError(
                "--view-classifier guesses which images are lateral, to leave them out: add --views frontal"
            )
        return ViewRule(self.views, view_classifier.load(self.view_classifier))
