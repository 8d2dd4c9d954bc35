"""The tables that publishers distribute, read as if every image of theirs were there."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import pytest

from mrm.corpora.contract import Release, read_table
from mrm.corpora.options import Options


def read_as_if_complete(
    corpus: ModuleType, folder: Path, table: str, published: Path, image_of: Callable[[Mapping[str, str]], str]
) -> Release:
    """What `corpus` reads of a published table, copied to `folder` as `table`; `image_of` a row names its image."""
    (folder / table).write_bytes(published.read_bytes())
    names = [image_of(row) for row in read_table(folder / table, corpus.COLUMNS)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "list_images", lambda *_, **__: {name: folder / name for name in names})
        return corpus.read(folder, Options())
