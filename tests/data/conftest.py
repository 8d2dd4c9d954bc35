"""Records that the tests of samples and of the loader share; nothing may change them."""

import pytest

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
