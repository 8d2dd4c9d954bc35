"""Tables as files."""

import csv
import json
import math
from pathlib import Path

import pyarrow.parquet
import pytest

from mrm.system import table_files
from mrm.system.errors import OutputError, RecordError


def test_a_table_without_rows_is_whole(tmp_path):
    for name in ("a.csv", "a.parquet", "a.json", "a.jsonl"):
        table_files.write_table(tmp_path / name, {"x": str, "y": float}, [])
    assert (tmp_path / "a.csv").read_text() == "x,y\n"
    assert pyarrow.parquet.read_table(tmp_path / "a.parquet").column_names == ["x", "y"]
    assert json.loads((tmp_path / "a.json").read_text()) == []
    assert not (tmp_path / "a.jsonl").read_text()


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl", "a.parquet"])
def test_a_table_of_many_rows_comes_back(tmp_path, name):
    """More rows than one row group of Parquet has; the last one has no number, and another no text."""
    rows = [{"x": f"n{i}", "y": i / 2} for i in range(2500)]
    path = table_files.write_table(tmp_path / name, {"x": str, "y": float}, iter([*rows, {"y": None}, ["z", math.nan]]))
    again = read(path)
    assert again[:2500] == rows
    assert again[2500] in ({"x": None, "y": None}, {"x": "", "y": ""})
    assert again[2501]["x"] == "z"
    assert again[2501]["y"] in (None, "nan") or math.isnan(again[2501]["y"])


def read(path: Path) -> list[dict]:
    """The rows of a table in any of the formats."""
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix == ".json":
        return json.loads(path.read_bytes())
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return [{**row, "y": float(row["y"]) if row["y"] not in ("", "nan") else row["y"]} for row in rows]


def test_a_table_that_cannot_be_written_is_named_and_the_old_one_stays(tmp_path):
    path = table_files.write_table(tmp_path / "a.csv", {"x": str}, [["old"]])

    def rows():
        yield ["new"]
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"a\.csv: cannot be written \(No space left on device\)"):
        table_files.write_table(path, {"x": str}, rows())
    assert path.read_text() == "x\nold\n"


@pytest.mark.parametrize(
    ("name", "message"), [("a.xlsx", r"unknown suffix '\.xlsx'; .* \.npy"), ("b.csv", "is a folder")]
)
def test_a_name_that_no_table_can_have_is_refused(tmp_path, name, message):
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(RecordError, match=message):
        table_files.check_suffix(tmp_path / name, [".csv", ".npy"])
