"""Whether images can still be reached: a network share that is gone must stop a command, not fill its results with errors.

A damaged image stays damaged and is left out. An image that cannot be reached may be there later.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mrm.data.records import Record
from mrm.system.errors import UnreachableError

IN_A_ROW = 50  # images out of reach, one after the other, that stop a command


class Reach:
    """What a command counts of the images it reads one after the other."""

    def __init__(self, records: Sequence[Record], any_number: bool = False) -> None:
        """`any_number` of images may be absent, as asked for; only a folder that is gone then stops the command."""
        self.records, self.any_number, self.in_a_row, self.missed = records, any_number, 0, 0
        self.root: Path | None = None

    def reached(self) -> None:
        """Note an image that was read, or that is damaged."""
        self.in_a_row = 0

    def miss(self, reason: str) -> None:
        """Note an image out of reach. Raises UnreachableError where its folder is gone, or after many in a row."""
        self.in_a_row += 1
        self.missed += 1
        self.root = self.root or common_folder(self.records)
        if self.root and is_gone(self.root):
            raise UnreachableError(
                f"{self.root}: the folder of the images is not there, or empty; is a disk or a share not connected? What "
                f"is done so far is kept, so run the same command again when it is back. First error: {reason}"
            )
        if self.in_a_row >= IN_A_ROW and not self.any_number:
            raise UnreachableError(
                f"{self.in_a_row} images in a row could not be reached, the last: {reason}. What is done so far is kept. "
                "If a disk or a share was gone, run the same command again; leave images that do not exist out of the list"
            )


def common_folder(records: Sequence[Record]) -> Path | None:
    """The deepest folder that all images in files are in; None where fewer than two are."""
    files = (os.path.abspath(r.image) for r in records if isinstance(r.image, Path))
    first = next(files, "")
    folder, several = os.path.dirname(first), False
    for file in files:
        several |= file != first
        if not file.startswith(os.path.join(folder, "")):
            folder = os.path.commonpath([folder, os.path.dirname(file)])
    return Path(folder) if several else None


def is_gone(folder: Path) -> bool:
    """Whether a folder is not there, does not answer, or is empty as the place of a share that is not mounted."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return True
