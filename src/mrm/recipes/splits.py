"""Published splits: which images a published number was measured on, and how to tell whether others were tested.

A split is known by its name in `suite_tables/splits.yaml`. The images that were tested are that split if they are as many,
if their names have the form that the corpus gives them, and, where the published list is known, if they are exactly its names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import PurePosixPath

from mrm.data.folders import image_key
from mrm.system.errors import ConfigError
from mrm.system.yaml_files import from_yaml

TABLES = resources.files("mrm.recipes") / "suite_tables"


@dataclass(frozen=True)
class Split:
    """A test set that numbers are published on."""

    corpus: str
    about: str
    images: int | None = None  # None where no source that we have read states how many
    form: str = ""  # a pattern of all of an image's name, as `key_of` makes it
    parts: int = 1  # the last parts of a path that make the name unique
    digest: str = ""  # `digest_of` the names of the published list, where we have it
    unsettled: str = ""  # why no number on it can be compared, where sources contradict each other

    def matches(self, names: Sequence[str]) -> bool:
        """Whether images of these names, paths or not, are this split."""
        if self.images is None or len(names) != self.images:
            return False
        if self.digest:
            return digest_of(names, self.parts) == self.digest
        return all(re.fullmatch(self.form, key_of(name, self.parts)) for name in names)


@dataclass(frozen=True)
class _Table:
    splits: dict[str, Split]


@cache
def known() -> dict[str, Split]:
    """Every published split by its name."""
    table: _Table = from_yaml(_Table, (TABLES / "splits.yaml").read_text(encoding="utf-8"), "splits.yaml")
    return table.splits


def find(name: str) -> Split:
    """The split of that name. Raises ConfigError, which lists the splits, for an unknown name."""
    if name not in known():
        raise ConfigError(f"unknown split {name!r}; choose from {', '.join(known())}")
    return known()[name]


def identify(names: Sequence[str], corpus: str) -> str:
    """The name of the published split of a corpus that images of these names are; "" if they are none of them."""
    return next((name for name, split in known().items() if split.corpus == corpus and split.matches(names)), "")


def key_of(name: str, parts: int = 1) -> str:
    """What identifies an image: the last parts of its path, without the suffix of an image."""
    return image_key("/".join(PurePosixPath(name.replace("\\", "/")).parts[-parts:]))


def digest_of(names: Iterable[str], parts: int = 1) -> str:
    """Sixteen hex digits that depend on every name, in any order."""
    keys = sorted(key_of(name, parts) for name in names)
    return hashlib.blake2b("\n".join(keys).encode(), digest_size=8).hexdigest()


def why_not(published_on: str, names: Sequence[str]) -> str:
    """Why a number published on a split cannot stand beside a test of images of these names; "" if it can.

    Raises ConfigError for a split that is not known.
    """
    split = find(published_on)
    if split.unsettled:
        return f"the published number is on {published_on}, which is not settled: {split.unsettled}"
    if split.matches(names):
        return ""
    wanted = "a number of images that is not stated here" if split.images is None else f"{split.images:,} images"
    tested = identify(names, split.corpus)
    of = f"{tested}: {find(tested).about}" if tested else "no split that numbers are published on"
    if not tested and len(names) == split.images:
        of = "as many, but other images"
    return (
        f"the published number is on {published_on} ({wanted}: {split.about}), tested were {len(names):,} images ({of})"
    )
