"""One radiograph and what is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mrm.data.headers import StoredImage
from mrm.system.errors import printable

RESERVED = ("image_path", "report_content", "patient_id", "study_id", "view")


@dataclass(frozen=True, slots=True)
class Record:
    """One radiograph and what is known about it.

    `image` is a path, the encoded image itself, or its place in a shard. A label of NaN is not stated; what others mean
    is said by the `kind` of the `Records`: a finding is 1 for present, 0 for absent, or -1 for uncertain. An empty
    `patient` means unknown.
    """

    image: Path | bytes | StoredImage
    report: str = ""
    patient: str = ""
    study: str = ""
    view: str = ""
    labels: tuple[float, ...] = ()
    extra: Mapping[str, str] = field(default_factory=dict)
    name: str = ""  # used in messages: the path as written in the file of records

    def __post_init__(self) -> None:
        name = self.name or (str(self.image) if isinstance(self.image, Path) else "image in memory")
        object.__setattr__(self, "name", printable(name))
