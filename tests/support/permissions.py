"""The permissions of what was written."""

import stat
from pathlib import Path


def modes_below(folder: Path) -> dict[str, int]:
    """The permissions of every file and folder below one; names of folders end with a slash. Links are left out."""
    below = [path for path in sorted(folder.rglob("*")) if not path.is_symlink()]
    return {
        path.relative_to(folder).as_posix() + "/" * path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in below
    }


def readable_by_others(folder: Path) -> list[str]:
    """Files and folders below one that the group or others may read, write or enter."""
    return [name for name, mode in modes_below(folder).items() if mode & 0o077]
