"""The folder that all images are in, by which a share that is gone is told from images that are absent."""

from pathlib import Path

import pytest

from mrm.data.reach import common_folder
from mrm.data.record import Record

FOLDERS = [
    ([], None),
    (["/d/a.png"], None),
    (["/d/a.png", "/d/a.png"], None),  # one file twice tells nothing
    (["/d/a.png", "/d/b.png"], "/d"),
    (["/d/e/a.png", "/d/e/f/b.png", "/d/e/g/c.png"], "/d/e"),
    (["/d/one/a.png", "/d/on/b.png"], "/d"),  # a name that begins alike is no folder
    (["/d/a.png", "/e/b.png"], "/"),
    (["/d/e/../a.png", "/d/b.png"], "/d"),
]


@pytest.mark.parametrize(("files", "folder"), FOLDERS)
def test_the_common_folder_is_the_deepest_that_holds_all(files, folder):
    records = [Record(Path(file)) for file in files] + [Record(b"in memory")]
    for order in (records, records[::-1]):
        assert common_folder(order) == (Path(folder) if folder else None)
