"""The tables that publishers distribute, read as if every image of theirs were there."""

import csv
import gzip
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from mrm.corpora import contract, described, description
from mrm.corpora.contract import Release
from mrm.corpora.options import Options


def published_rows(file: Path) -> list[dict[str, str]]:
    """The rows of a published table, compressed by gzip, as Python's own modules read them."""
    with gzip.open(file, "rt", newline="") as lines:
        return list(csv.DictReader(lines))


def read_as_if_complete(
    corpus: str, folder: Path, table: str, published: Path, image_of: Callable[[Mapping[str, str]], str]
) -> Release:
    """What `corpus` reads of a published table, copied to `folder` as `table`; `image_of` a row names its image."""
    (folder / table).write_bytes(published.read_bytes())
    return read_with_images(corpus, folder, [image_of(row) for row in published_rows(published)])


def read_with_images(corpus: str, folder: Path, names: list[str]) -> Release:
    """What the description of a corpus makes of the tables in a folder, as if images of these names were there."""

    def listed(root: Path, *folders: str, **_: object) -> dict[str, Path]:
        inside = tuple(f"{f}/" for f in folders) or ("",)
        return {name: root / name for name in names if name.startswith(inside)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "list_images", listed)
        return described.read(description.load(corpus), folder, Options())
