"""Which files of a folder may be images, and which are left there by operating systems, viewers and archives."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePath

from mrm.data.headers import kind_of, load
from mrm.data.placed_images import PlacedImage
from mrm.system import object_store, tables
from mrm.system.errors import ImageError, UnreachableError

SYSTEM_FILES = frozenset(  # in small letters
    (
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "iconcache.db", "autorun.inf"),
        *(".ds_store", ".directory", ".localized", ".apdisk", "icon\r", "dicomdir", "lockfile"),
    )
)
SYSTEM_FOLDERS = frozenset(  # of the macOS archiver, of Synology and QNAP storage (thumbnails), and of bins
    (
        *("__macosx", "@eadir", ".@__thumb", "#recycle", "$recycle.bin", "system volume information", "lost+found"),
        *(".trashes", ".fseventsd", ".spotlight-v100", ".appledouble"),
    )
)
IMAGES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".ima", ".tif", ".tiff", ".pgm")
LISTS = (".txt",)
OTHER_SUFFIXES = (  # of files that are no images; DICOM often has no suffix or a number, so the others may be some
    *(*tables.SUFFIXES, *LISTS),
    *(".json", ".jsonl", ".npy", ".npz", ".md", ".html", ".htm", ".xml", ".yaml", ".yml", ".log", ".pdf", ".py"),
    *(".sh", ".doc", ".docx", ".rtf", ".exe", ".dll", ".jar", ".bat", ".cmd", ".inf", ".ini", ".chm", ".css", ".js"),
    *(".lnk", ".url", ".tmp", ".bak", ".md5", ".sha256", ".hl7", ".oru"),
)


def image_key(name: str) -> str:
    """`train/p1/view1.JPG` -> `train/p1/view1`: the path of an image, whatever format it has been converted to."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGES else name


def is_system_file(name: str) -> bool:
    """Whether a file, by its path with slashes, is one that a system or a program left, such as Thumbs.db or ._scan.dcm."""
    *folders, file = name.lower().split("/")
    return file in SYSTEM_FILES or file.startswith("._") or not SYSTEM_FOLDERS.isdisjoint(folders)


def may_be_image(path: PurePath) -> bool:
    """Whether the suffix of a file does not say that it is something else."""
    return path.suffix.lower() not in OTHER_SUFFIXES


def is_image(path: Path) -> bool:
    """Whether a file begins as an image of a known format does."""
    try:
        kind_of(load(path, 132), str(path))
    except ImageError:
        return False
    return True


def system_note(left_out: Sequence[str]) -> str:
    """A note that counts system files by their names: `3 system files are left out (Thumbs.db, ._a.dcm)`."""
    names = list(dict.fromkeys(PurePath(name).name.strip() for name in left_out))
    more = ", ..." if len(names) > 3 else ""
    files = "1 system file is" if len(left_out) == 1 else f"{len(left_out):,} system files are"
    return f"{files} left out ({', '.join(names[:3])}{more})"


def list_images(source: Path, *folders: str, suffixes: Sequence[str] = IMAGES) -> dict[str, Path]:
    """Every image under `folders` of the source (all of it unless given): relative path -> file, sorted.

    The folders are listed once, because testing for each of 100,000 files in a table would be slow. Raises as `every_file` does.
    """
    every = every_file(source, *folders)
    return {name: file for name, file in every.items() if name.lower().endswith(tuple(suffixes)) and not _left(name)}


def list_stored_images(
    address: str, source: Path, root: Path, *folders: str, suffixes: Sequence[str] = IMAGES
) -> dict[str, PlacedImage]:
    """The images of an object store whose folders are as those of `source`: path below `root` -> object, as `list_images`.

    Raises StoreError.
    """
    below = "" if root == source else f"{root.relative_to(source).as_posix()}/"
    within = tuple(f"{below}{folder}/" for folder in folders if folder != ".") or (below,)
    return {
        name.removeprefix(below): PlacedImage(object_store.within(address, name), 0, size)
        for name, size in object_store.sizes_below(address).items()
        if name.startswith(within) and name.lower().endswith(tuple(suffixes)) and not _left(name)
    }


def _left(name: str) -> bool:
    """Whether a system left the file, or it is hidden."""
    return name.rpartition("/")[2].startswith(".") or is_system_file(name)


def every_file(source: Path, *folders: str) -> dict[str, Path]:
    """Every file under `folders` of the source, whatever it is: relative path -> file, sorted.

    Links are followed; a folder that is reached twice is listed once. Raises UnreachableError for a folder that is there
    and cannot be listed, unless it is hidden or a system's own.
    """
    found: dict[str, Path] = {}
    seen: set[tuple[int, int]] = set()
    for folder in folders or (".",):
        top = source / folder
        todo = [(str(top), f"{top.relative_to(source).as_posix()}/".removeprefix("./"))]
        while todo:
            place, before = todo.pop()
            below, files = _entries(place, before, seen)
            todo += [(os.path.join(place, name), f"{before}{name}/") for name in sorted(below, reverse=True)]
            if files:
                path = Path(place)
                found.update({before + name: path / name for name in sorted(files)})
    return found


def _entries(place: str, before: str, seen: set[tuple[int, int]]) -> tuple[list[str], list[str]]:
    """The folders and the files in a folder; none where it was `seen`. `before` is its path in the source, with a slash."""
    below, files = list[str](), list[str]()
    try:
        state = os.stat(place)
        if (state.st_dev, state.st_ino) not in seen:
            seen.add((state.st_dev, state.st_ino))
            with os.scandir(place) as entries:
                for entry in entries:
                    (below if _is_folder(entry) else files).append(entry.name)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        if not (is_system_file(before) or any(part.startswith(".") for part in before.split("/"))):
            raise UnreachableError(
                f"{place}: this folder cannot be listed ({error.strerror}), so its images would be missing; make it "
                "readable, or move it elsewhere"
            ) from error
    return below, files


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or leads to one; a link that leads nowhere is a file, which says so once it is opened."""
    try:
        return entry.is_dir()
    except OSError:
        return False
