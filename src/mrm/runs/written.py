"""What a command over many images has written, for its last line and its exit status."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mrm.system.shares import WHOLE, Share


@dataclass(frozen=True)
class Written:
    """What a command has written: where, for how many images, and how many of them could not be read.

    A share of the work has not `written` anything there while `left` images of others are still to do; `shares` are those
    that have begun. Nor has it where another share has put the results together.
    """

    out: Path
    n: int
    unreadable: int
    again: int = 0  # those of the unreadable that could not be reached: the same command tries them again
    share: Share = WHOLE
    written: bool = True
    left: int = 0
    shares: tuple[str, ...] = ()

    def __str__(self) -> str:
        images = "1 image" if self.n == 1 else f"{self.n:,} images"
        if not self.written:
            return self._of_share(images)
        if not self.unreadable:
            return f"{self.out}: {images}"
        told = f"{self.out}: {images}; {self.unreadable:,} could not be read, see the column error"
        return (
            f"{told}; run the same command again to try the {self.again:,} that could not be reached"
            if self.again
            else told
        )

    def _of_share(self, images: str) -> str:
        if not self.left:
            return self.share.is_merged(self.out)
        begun = f" (begun here: {', '.join(self.shares) or 'none'})"
        return self.share.is_done(self.out, self.left, f"of {images}", begun)
