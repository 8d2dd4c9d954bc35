"""Which files of a folder may be images, and which are left there by operating systems, viewers and archives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

from mrm.data.headers import kind_of, load
from mrm.system import tables
from mrm.system.errors import ImageError

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
LISTS = (".txt",)
OTHER_SUFFIXES = (  # of files that are no images; DICOM often has no suffix or a number, so the others may be some
    *(*tables.SUFFIXES, *LISTS),
    *(".json", ".jsonl", ".npy", ".npz", ".md", ".html", ".htm", ".xml", ".yaml", ".yml", ".log", ".pdf", ".py"),
    *(".sh", ".doc", ".docx", ".rtf", ".exe", ".dll", ".jar", ".bat", ".cmd", ".inf", ".ini", ".chm", ".css", ".js"),
    *(".lnk", ".url", ".tmp", ".bak", ".md5", ".sha256", ".hl7", ".oru"),
)


def is_system_file(path: PurePath) -> bool:
    """Whether a file is one that a system or a program left in the folder, such as Thumbs.db, DICOMDIR or ._scan.dcm."""
    *folders, name = path.parts
    return (
        name.lower() in SYSTEM_FILES or name.startswith("._") or any(part.lower() in SYSTEM_FOLDERS for part in folders)
    )


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
