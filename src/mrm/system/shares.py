"""The shares of a command's work that several processes do, on one machine or on many that see one output folder.

A command divides its work into units (files of images, batches of images) that do not depend on the number of
processes, and share i of n does every n-th of them. What is done lies in files that each share writes for itself into the
output folder, and the share that finds all units there puts the result together. Nothing is sent between processes:
shares may run at the same time or one after the other, may be killed and started again, and the rest may be divided anew.

Which share a process does is said by `--share 2/8`, by `--share array` in a SLURM job array, and by `torchrun`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mrm.system.errors import ConfigError

ARRAY = "array"  # what stands for the share of a task of a SLURM job array
SLURM = "SLURM_ARRAY_TASK_"  # followed by ID, COUNT, MIN, MAX, STEP


@dataclass(frozen=True)
class Share:
    """Share `number` (from 1) of `count`. Raises ConfigError for a number that is out of range."""

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ConfigError(f"there is no share {self.number}/{self.count}; shares count from 1/N to N/N")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def label(self) -> str:
        """The share in the name of a file."""
        return f"{self.number}-of-{self.count}"

    def has(self, unit: int) -> bool:
        """Whether a unit of the work, which are numbered from 0, belongs to this share."""
        return unit % self.count == self.number - 1

    def among(self, rank: int, world_size: int) -> Share:
        """The part of this share that one of several ranks does, which are numbered from 0."""
        return Share((self.number - 1) * world_size + rank + 1, self.count * world_size)

    def is_done(self, out: Path, left: int, of: str, begun: str = "") -> str:
        """The sentence about a share that is done while `left` units ("of 48 images") are still to do by others."""
        return (
            f"{out}: share {self} is done; {left:,} {of} are left to other shares{begun}, and whichever is last puts the results "
            "together. If they have all ended, run the same commands again, with --out on storage that all machines share"
        )

    def is_merged(self, out: Path) -> str:
        """The sentence about a share that is done after another one has put the results together."""
        return f"{out}: share {self} is done; another share has put the results together"


WHOLE = Share()


def torchrun_rank(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Rank and world size as `torchrun` states them; 0 and 1 outside of it."""
    return int(environment.get("RANK") or 0), int(environment.get("WORLD_SIZE") or 1)


def share_of(text: str | None, environment: Mapping[str, str] = os.environ) -> Share:
    """The share that `--share` names: "2/8", or "array" for that of a task of a SLURM job array. Raises ConfigError."""
    if not text:
        return WHOLE
    if text == ARRAY:
        return _of_array(environment)
    if not (match := re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())):
        raise ConfigError(f"--share {text}: expected a number and a count such as 2/8, or {ARRAY} in a SLURM job array")
    return Share(int(match[1]), int(match[2]))


def _of_array(environment: Mapping[str, str]) -> Share:
    numbers = {name: environment.get(SLURM + name, "") for name in ("ID", "COUNT", "MIN", "MAX")}
    if missing := [SLURM + name for name, text in numbers.items() if not text.isdigit()]:
        raise ConfigError(
            f"--share {ARRAY}: this is no task of a SLURM job array ({missing[0]} is not set); submit it with sbatch "
            "--array=1-8, or give a number and a count such as --share 1/8"
        )
    task, count, first, last = (int(text) for text in numbers.values())
    step = int(environment.get(f"{SLURM}STEP") or 1)
    if (last - first) // step + 1 != count:
        raise ConfigError(
            f"--share {ARRAY}: the {count} tasks of this job array, {first} to {last}, are not evenly spaced, so their place "
            "among the shares is not known; submit them without gaps, such as --array=1-8 (what is done is not done again)"
        )
    return Share((task - first) // step + 1, count)
