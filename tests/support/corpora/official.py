"""The tables that publishers distribute, read as if every image of theirs were there."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from mrm.corpora import described, described_tables, description
from mrm.corpora.contract import Release, read_table
from mrm.corpora.options import Options


def read_as_if_complete(
    corpus: str, folder: Path, table: str, published: Path, image_of: Callable[[Mapping[str, str]], str]
) -> Release:
    """What `corpus` reads of a published table, copied to `folder` as `table`; `image_of` a row names its image."""
    (folder / table).write_bytes(published.read_bytes())
    return read_with_images(corpus, folder, [image_of(row) for row in read_table(folder / table, ())])


def read_with_images(corpus: str, folder: Path, names: list[str]) -> Release:
    """What the description of a corpus makes of the tables in a folder, as if images of these names were there."""

    def listed(root: Path, *folders: str, **_: object) -> dict[str, Path]:
        inside = tuple(f"{f}/" for f in folders) or ("",)
        return {name: root / name for name in names if name.startswith(inside)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(described, "list_images", lambda *_, **__: listed(folder))
        patch.setattr(described_tables, "list_images", listed)
        return described.read(description.load(corpus), folder, Options())
