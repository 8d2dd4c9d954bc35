"""Images that are read while the work on earlier ones goes on."""

import threading
from pathlib import Path

import numpy as np
import pytest

from mrm.data import images, reading_ahead
from mrm.data.reading_ahead import read_ahead
from mrm.data.records import Record
from mrm.system.errors import ImageError, UnexpectedError


@pytest.fixture
def records(tmp_path):
    """Twelve images, each of one grey value, its number; the fourth does not exist."""
    for number in range(12):
        (tmp_path / f"{number}.png").write_bytes(images.encode_png(np.full((4, 4), number, np.uint8)))
    (tmp_path / "3.png").unlink()
    return [Record(tmp_path / f"{number}.png") for number in range(12)]


@pytest.mark.parametrize("workers", [0, 1, 3, None])
def test_images_come_in_order_and_what_cannot_be_read_is_its_reason(records, workers):
    results = list(read_ahead(records, workers))
    assert [int(r[0, 0]) for i, r in enumerate(results) if i != 3] == [0, 1, 2, *range(4, 12)]
    assert isinstance(results[3], ImageError)
    assert "no such file" in str(results[3])


def test_no_more_than_two_images_per_worker_are_read_ahead(records, monkeypatch):
    reads: list[Path] = []
    enough = threading.Event()
    read = images.read

    def noted(source):
        reads.append(source)
        if len(reads) >= 4:
            enough.set()
        return read(source)

    monkeypatch.setattr(reading_ahead.images, "read", noted)
    results = read_ahead(records, 2)
    next(results)
    assert enough.wait(10)
    assert len(reads) <= 5  # the one returned, two for each worker
    results.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unforeseen_fault_ends_the_reading_with_its_record(records, monkeypatch, workers):
    def faulty(source):
        raise TypeError("no such thing")

    monkeypatch.setattr(reading_ahead.images, "read", faulty)
    with pytest.raises(UnexpectedError, match=r"record .*0\.png: .*TypeError: no such thing"):
        list(read_ahead(records, workers))
