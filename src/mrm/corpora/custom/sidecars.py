"""The text files that lie beside images of their name: `scan.txt` is the report of `scan.png`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mrm.data.sections import select_sections
from mrm.system.tables import stated
from mrm.system.text_files import decode


@dataclass
class Sidecars:
    """The text files that lie beside images of their name."""

    files: Mapping[str, Path]
    replaced: int = 0
    guessed: int = 0

    def report(self, image: str, sections: Sequence[str]) -> str:
        """The text beside the image; empty if there is none."""
        plain = PurePosixPath(image).with_suffix("").as_posix()
        file = self.files.get(f"{plain}.txt") or self.files.get(f"{image}.txt")
        if file is None:
            return ""
        decoded = decode(file.read_bytes(), str(file))
        self.replaced += bool(decoded.replaced)
        self.guessed += decoded.guessed
        return select_sections(stated(decoded.text), sections)

    def notes(self) -> list[str]:
        """Warns if any text was not UTF-8, and returns the warnings as notes for `corpus.json`."""
        notes = []
        if self.guessed:
            notes.append(f"{self.guessed} report files are read as Windows-1252")
        if self.replaced:
            notes.append(f"{self.replaced} report files have bytes that are not UTF-8, replaced by \ufffd")
        for note in notes:
            warnings.warn(note, stacklevel=3)
        return notes
