"""Tables of records: where their images are said to be, and their labels."""

import hashlib
import math
from pathlib import Path

from mrm.data.record import Record
from mrm.data.record_facts import fingerprints_of
from mrm.data.record_tables import header_of, row_maker


def paths(images: list[Path | bytes], beside: Path | None) -> list[str]:
    """The first cell of the row of each image."""
    records = [Record(image, name=f"name {i}") for i, image in enumerate(images)]
    row_of = row_maker(header_of(records, ()), 0, beside)
    return [row_of(record)[0] for record in records]


def test_images_below_the_folder_are_named_from_there_and_others_absolutely(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = [
        tmp_path / "out" / "a" / "1.png",
        tmp_path / "out-2" / "1.png",
        Path("out/2.png"),
        Path("3.png"),
        b"encoded",
    ]
    assert paths(images, tmp_path / "out") == [
        "a/1.png",
        f"{tmp_path}/out-2/1.png",
        "2.png",
        f"{tmp_path}/3.png",
        "name 4",
    ]
    assert paths(images, Path("out")) == paths(images, tmp_path / "out")
    assert paths(images[:1], Path("/")) == [f"{tmp_path}/out/a/1.png"[1:]]
    assert paths(images, None) == [f"name {i}" for i in range(5)]


def test_labels_are_written_with_fifteen_digits_and_without_a_sign_of_zero():
    labels = (-0.0, 0.0, 1, math.nan, float("nan"), -1.0, 1 / 3, 62.5)
    row_of = row_maker(header_of([record := Record(b"", labels=labels)], "abcdefgh"), 8, None)
    assert row_of(record)[5:] == ["0", "0", "1", "", "", "-1", "0.333333333333333", "62.5"]


def test_a_fingerprint_is_that_of_the_facts_and_labels_as_python_shows_them():
    several = [(-0.0, 0.0, 1), (math.nan, float("nan"), -1.0), (1 / 3, 62.5, 1e300)]
    records = [Record(b"", f'it\'s "{i}"\n', "p", "s", "PA", labels, name=f"{i}") for i, labels in enumerate(several)]
    for classes in ("abc", "a", ""):
        cut = [Record(b"", r.report, "p", "s", "PA", r.labels[: len(classes)], name=r.name) for r in records]
        ordered, total = hashlib.blake2b(repr(tuple(classes)).encode(), digest_size=8), 0
        for r in cut:
            shown = repr((r.name, r.report, "p", "s", "PA", tuple(float(v) + 0.0 for v in r.labels))).encode()
            ordered.update(shown)
            total += int.from_bytes(hashlib.blake2b(shown, digest_size=16).digest(), "little")
        assert fingerprints_of(cut, tuple(classes)) == (ordered.hexdigest(), f"{total % 2**128:032x}")
