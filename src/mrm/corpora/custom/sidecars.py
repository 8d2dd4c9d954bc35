"""The text files that lie beside images of their name: `scan.txt` is the report of `scan.png`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mrm.data.sections import select_sections
from mrm.system.tables import stated
from mrm.system.text_files import encoding_of


@dataclass
class Sidecars:
    """The text files that lie beside images of their name."""

    files: Mapping[str, Path]
    replaced: int = 0

    def report(self, image: str, sections: Sequence[str]) -> str:
        """The text beside the image; empty if there is none."""
        plain = PurePosixPath(image).with_suffix("").as_posix()
        file = self.files.get(f"{plain}.txt") or self.files.get(f"{image}.txt")
        if file is None:
            return ""
        raw = file.read_bytes()
        text = stated(raw.decode(encoding_of(raw), errors="replace"))
        self.replaced += "\ufffd" in text
        return select_sections(text, sections)

    def notes(self) -> list[str]:
        """Warns if any text was not UTF-8, and returns the warning as a note for `corpus.json`."""
        if not self.replaced:
            return []
        note = f"{self.replaced} report files have bytes that are not UTF-8, replaced by \ufffd"
        warnings.warn(note, stacklevel=3)
        return [note]
