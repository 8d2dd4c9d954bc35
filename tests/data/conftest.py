"""Records and shards that tests of this folder share; nothing may change them."""

from pathlib import Path

import pytest

from mrm.data.config import PackConfig
from mrm.data.packing import open_source, pack
from mrm.data.records import Records
from tests.support.samples import labelled_records, report_records


@pytest.fixture(scope="module")
def records() -> Records:
    """Records with reports."""
    return report_records()


@pytest.fixture(scope="module")
def labelled() -> Records:
    """Records with labels."""
    return labelled_records()


@pytest.fixture(scope="session")
def packed(phantoms, tmp_path_factory) -> Path:
    """The 48 phantoms at 96 pixels, in five files of shards."""
    out = tmp_path_factory.mktemp("packed") / "shards"
    pack(open_source(phantoms / "records.csv"), out, PackConfig(96, rows=10), workers=1)
    return out
