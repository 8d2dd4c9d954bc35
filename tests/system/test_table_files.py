"""Tables as files."""

import json

import pyarrow.parquet

from mrm.system import table_files


def test_a_table_without_rows_is_whole(tmp_path):
    for name in ("a.csv", "a.parquet", "a.json", "a.jsonl"):
        table_files.write_table(tmp_path / name, {"x": str, "y": float}, [])
    assert (tmp_path / "a.csv").read_text() == "x,y\n"
    assert pyarrow.parquet.read_table(tmp_path / "a.parquet").column_names == ["x", "y"]
    assert json.loads((tmp_path / "a.json").read_text()) == []
    assert not (tmp_path / "a.jsonl").read_text()
