"""What a publisher decides about a model, and no model folder knows.

Nothing heavy is imported here, so that a command answers at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mrm.system.errors import ConfigError

LICENSE = re.compile(r"[a-z0-9]+(?:[.+-][a-z0-9]+)*")  # as the hub writes identifiers of licences
REPOSITORY = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Publication:
    """The options of a hub folder. A MONAI bundle takes the licence too."""

    license: str | None = None  # of the weights, as the hub writes it: apache-2.0, cc-by-nc-4.0; --push needs one
    datasets: tuple[str, ...] = ()  # that the model was trained on, by their names on the hub
    base_model: str | None = None  # that the model was trained from, by its name on the hub, USER/NAME
    push: str | None = None  # upload the folder to this repository, USER/NAME; a new one is private

    def __post_init__(self) -> None:
        if self.license is not None and not LICENSE.fullmatch(self.license):
            raise ConfigError(
                f"--license {self.license!r} is not an identifier of a licence as the hub writes them; examples are "
                "apache-2.0, cc-by-nc-4.0 and other"
            )
        named = {"--datasets": self.datasets, "--base-model": [self.base_model], "--push": [self.push]}
        for option, names in named.items():
            for name in names:
                if name is not None and not REPOSITORY.fullmatch(name):
                    raise ConfigError(f"{option} {name!r} is not a name on the hub, such as USER/NAME")

    def check_goes_with(self, format: str) -> None:
        """Raises ConfigError for options that this format of export has no place for."""
        taken = {"hub": ("license", "datasets", "base_model", "push"), "monai": ("license",)}.get(format, ())
        for name in ("license", "datasets", "base_model", "push"):
            if getattr(self, name) and name not in taken:
                formats = "hub or monai" if name == "license" else "hub"
                option = name.replace("_", "-")
                raise ConfigError(f"--{option} goes with --format {formats}, not with --format {format}")
        if self.push and not self.license:
            raise ConfigError("--push needs --license: say under which licence others may use the weights")
