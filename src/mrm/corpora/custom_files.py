"""Which files a custom corpus means: the picture that a table names, the text beside a picture."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mrm.corpora.contract import Row, file_stem, inside
from mrm.sections import select_sections


@dataclass(frozen=True)
class Finder:
    """Which picture a table means: a path from the source or the table's folder, or a name that is unique."""

    source: Path
    beside: str  # the table's folder from the source, empty if it lies elsewhere
    pictures: Mapping[str, Path]
    by_stem: Mapping[str, list[str]]

    @classmethod
    def of(cls, source: Path, table: Path, pictures: Mapping[str, Path]) -> Finder:
        folder, root = table.absolute().parent, source.absolute()
        by_stem: dict[str, list[str]] = {}
        for name in pictures:
            by_stem.setdefault(file_stem(name), []).append(name)
        return cls(
            source,
            folder.relative_to(root).as_posix() if folder.is_relative_to(root) else "",
            pictures,
            by_stem,
        )

    def __call__(self, row: Row, name: str) -> list[str]:
        """The pictures that the name fits. Raises RecordError if it leads out of the source."""
        name = inside(self.source, name, row.where)
        for candidate in (name, (PurePosixPath(self.beside) / name).as_posix()):
            if candidate in self.pictures:
                return [candidate]
        return [p for p in self.by_stem.get(file_stem(name), []) if _fits(p, name)]


def _fits(picture: str, name: str) -> bool:
    """Whether the folders and the suffix that the name gives are the picture's."""
    wanted, has = PurePosixPath(name), PurePosixPath(picture)
    folders = wanted.parent.parts
    if file_stem(name) != wanted.name and wanted.suffix.lower() != has.suffix.lower():
        return False
    return not folders or has.parent.parts[-len(folders) :] == folders


@dataclass
class Sidecars:
    """The text files that lie beside pictures of their name."""

    files: Mapping[str, Path]
    replaced: int = 0

    def report(self, picture: str, sections: Sequence[str]) -> str:
        """The text beside the picture, empty where there is none."""
        plain = PurePosixPath(picture).with_suffix("").as_posix()
        file = self.files.get(f"{plain}.txt") or self.files.get(f"{picture}.txt")
        if file is None:
            return ""
        text = file.read_bytes().decode("utf-8-sig", errors="replace").strip()
        self.replaced += "\ufffd" in text
        return select_sections(text, sections)

    def notes(self) -> list[str]:
        """A warning, and the same for `corpus.json`, if any text was not UTF-8."""
        if not self.replaced:
            return []
        note = f"{self.replaced} report files hold bytes that are not UTF-8; shown as \ufffd"
        warnings.warn(note, stacklevel=3)
        return [note]
