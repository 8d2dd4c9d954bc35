"""Checkpoints of a run: each exists whole or not at all; the newest and the best are kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from mrm.system.errors import TrainingError

STATE = "training.pt"  # in a checkpoint: what a run resumes from, besides its model


class Checkpoints:
    """`checkpoints/step-*` of a run, and the links `last` and `best` to two of them. One rank writes."""

    def __init__(self, run: Path, keep: int) -> None:
        self.run, self.keep = run, keep

    def newest(self) -> Path | None:
        """The last checkpoint that was finished; None where there is none."""
        return max((self.run / "checkpoints").glob("step-*"), default=None)

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.run / "checkpoints" / f"step-{step:08d}"

    def relink_last(self) -> None:
        """Link the newest checkpoint as `last`, if there is one: a kill may have come between its name and its link."""
        newest = self.newest()
        if newest is not None and (self.run / "last").resolve() != newest.resolve():
            _link(self.run / "last", newest)

    def tidy(self, best: int) -> None:
        """Complete what else a kill interrupted after a checkpoint had its name: `best`, and the removal of others.

        `best` is the step that the newest checkpoint knows as the best so far, 0 where no validation has chosen one.
        """
        if best and self.path(best).is_dir():
            _link(self.run / "best", self.path(best))
        for unfinished in (self.run / "checkpoints").glob(".step-*.tmp"):
            shutil.rmtree(unfinished, ignore_errors=True)
        self._prune()

    def write(self, step: int, fill: Callable[[Path], None], best: bool = False) -> None:
        """Have `fill` write a folder under another name, flush it to the disk, rename and link it, then remove old ones.

        Raises TrainingError if it cannot be written; earlier checkpoints are kept.
        """
        folder = self.path(step)
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            fill(temporary)
            _flush(temporary)
        except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
            shutil.rmtree(temporary, ignore_errors=True)
            raise TrainingError(f"{folder}: cannot write a checkpoint ({error}); the last one is kept") from error
        if folder.exists():  # left whole by a run that was killed before it could link it
            shutil.rmtree(temporary)
        else:
            os.replace(temporary, folder)
        _link(self.run / "last", folder)
        if best:
            _link(self.run / "best", folder)
        self._prune()

    def _prune(self) -> None:
        """Keep the newest checkpoints and the best."""
        safe = {(self.run / name).resolve() for name in ("last", "best")}
        for folder in sorted((self.run / "checkpoints").glob("step-*"))[: -self.keep]:
            if folder.resolve() not in safe:
                shutil.rmtree(folder)


def _flush(folder: Path) -> None:
    """Wait until the files are on the disk: a name that outlives a machine's crash must not lead to half a file."""
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())


def _link(link: Path, folder: Path) -> None:
    """Point a relative symbolic link at `folder`, replacing an old one in one move."""
    temporary = link.with_name(f".{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.relative_to(link.parent))
    os.replace(temporary, link)
