"""What a command over many images has written, for its last line and its exit status."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Written:
    """What a command has written: where, for how many images, and how many of them could not be read."""

    out: Path
    n: int
    unreadable: int
    again: int = 0  # those of the unreadable that could not be reached: the same command tries them again

    def __str__(self) -> str:
        images = "1 image" if self.n == 1 else f"{self.n:,} images"
        if not self.unreadable:
            return f"{self.out}: {images}"
        told = f"{self.out}: {images}; {self.unreadable:,} could not be read, see the column error"
        return (
            f"{told}; run the same command again to try the {self.again:,} that could not be reached"
            if self.again
            else told
        )
