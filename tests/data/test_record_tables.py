"""Tables of records: where their images are said to be."""

from pathlib import Path

from mrm.data.record import Record
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
