"""The images of an export and what is known about each without a table: its name, its folders, its DICOM header."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from mrm.corpora.contract import UNNAMED, Exclusion, file_stem, inside, plain_age
from mrm.data.folders import IMAGES, every_file, is_image, is_system_file, may_be_image, system_note
from mrm.data.header_index import Header, HeaderIndex, identity
from mrm.system.errors import RecordError

OTHER_FORMATS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".pgm")
EXTRA = ("sex", "age", "date", "accession")
NO_PIXELS = f"{UNNAMED}pixels, such as a structured report"
BY_FILE, BY_FOLDER = "file name", "folder"


@dataclass(frozen=True)
class Archive:
    """The images below a folder: name (path relative to the folder) -> file, and the header of each that is DICOM."""

    source: Path
    images: Mapping[str, Path]
    headers: HeaderIndex

    def header(self, image: str) -> Header:
        """What the header of an image states, by our names; empty if it is no DICOM."""
        return self.headers.get(self.images[image])

    def by(self, what: str) -> Mapping[str, list[str]]:
        """The images that have each value of a header, file name (without suffix) or folder."""
        if what not in self._by:
            groups: dict[str, list[str]] = {}
            for image in self.images:
                for value in self.values(image, what):
                    groups.setdefault(value, []).append(image)
            self._by[what] = groups
        return self._by[what]

    def values(self, image: str, what: str) -> Iterable[str]:
        """The values that an image is known by: of its header, its file name or its folders."""
        if what == BY_FILE:
            return [file_stem(image)]
        if what == BY_FOLDER:
            return dict.fromkeys(PurePosixPath(image).parent.parts)
        return filter(None, [self.header(image).get(what, "")])

    @cached_property
    def _by(self) -> dict[str, Mapping[str, list[str]]]:
        return {}

    def count(self, images: Iterable[str], what: str) -> Counter[str]:
        """How many of the images have each value of a header; those that state none are left out."""
        return Counter(value for image in images if (value := self.header(image).get(what, "")))

    def why_unstated(self, image: str) -> str:
        """Why the header of an image says nothing: it cannot be read, or there is none; empty if there is one."""
        file = self.images[image]
        return self.headers.errors.get(file, "" if self.header(image) else "the file has no DICOM header")

    def facts(self, image: str) -> dict[str, str]:
        """Patient, study, view, sex, age, accession and date of an image, as far as its header states them."""
        header = self.header(image)
        facts = {"view": header.get("view", ""), "sex": header.get("sex", ""), "age": plain_age(header.get("age", ""))}
        return {**identity(header), **{name: value for name, value in facts.items() if value}}


def read_archive(
    source: Path, headers: HeaderIndex, workers: int, with_headers: bool
) -> tuple[Archive, list[Exclusion], list[str]]:
    """The images below a folder, the DICOM objects that are no images, and notes that count other files.

    Raises RecordError for a folder without images.
    """
    images, notes = find_images(source)
    if with_headers:
        headers.read([file for name, file in images.items() if may_be_dicom(name)], workers)
    objects = [
        Exclusion(name, NO_PIXELS, f"modality {header.get('modality') or 'not stated'}")
        for name, file in images.items()
        if (header := headers.get(file)) and not {"height", "width"} & header.keys()
    ]
    names = {e.name for e in objects}
    images = {name: file for name, file in images.items() if name not in names}
    if not images:
        raise RecordError(f"{source}: has no images; expected PNG, JPEG, TIFF or DICOM files")
    return Archive(source, images, headers), objects, notes


def extra_of(split: str, facts: Mapping[str, str]) -> dict[str, str]:
    """What a record keeps beside patient, study and view, as far as it is stated."""
    stated = {"split": split, **{name: facts.get(name, "") for name in EXTRA}}
    stated["age"] = plain_age(stated["age"])
    return {name: value for name, value in stated.items() if value}


def find_images(source: Path) -> tuple[dict[str, Path], list[str]]:
    """The images under the source, and notes that count the other files.

    DICOM from a PACS or a CD often has no suffix, or a number as its suffix: where the name does not tell, the first
    bytes of the file do.
    """
    images: dict[str, Path] = {}
    system, others = list[str](), list[str]()
    for name, file in every_file(source).items():
        path = PurePosixPath(name)
        if is_system_file(name):
            system.append(name)
        elif path.name.startswith(".") or not may_be_image(path):
            continue
        elif name.lower().endswith(IMAGES) or is_image(file):
            images[name] = file
        else:
            others.append(name)
    notes = [system_note(system)] if system else []
    if others:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        notes.append(f"{len(others):,} files that are no images by name or content are left out ({shown})")
    return images, notes


def may_be_dicom(name: str) -> bool:
    """Whether an image may be DICOM by its name: any suffix but those of other formats."""
    return not name.lower().endswith(OTHER_FORMATS)


# Paths and names of files -----------------------------------------------------------------------------------


def path_finder(archive: Archive, beside: str) -> Callable[[str, str], list[str]]:
    """A function of (name in a table, place of its row) -> the images that the name fits.

    A name is a path from the source or from the table's folder `beside`, or a unique name. The function raises
    RecordError for a path that leads out of the source.
    """
    by_stem = archive.by(BY_FILE)

    def find(text: str, where: str) -> list[str]:
        name = inside(archive.source, text, where)
        for candidate in (name, (PurePosixPath(beside) / name).as_posix()):
            if candidate in archive.images:
                return [candidate]
        return [image for image in by_stem.get(file_stem(name), []) if _fits(image, name)]

    return find


def _fits(image: str, name: str) -> bool:
    """Whether the image has the folders and the suffix in the name, if it has any."""
    name_path, image_path = PurePosixPath(name), PurePosixPath(image)
    folders = name_path.parent.parts
    both_have_suffix = file_stem(name) != name_path.name and file_stem(image) != image_path.name
    if both_have_suffix and name_path.suffix.lower() != image_path.suffix.lower():
        return False
    return not folders or image_path.parent.parts[-len(folders) :] == folders
