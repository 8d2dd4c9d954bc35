"""Files are written whole or not at all, by one function for each kind."""

import json
import math
from pathlib import Path

import pytest

from mrm.system.files import write_by, write_csv, write_json, write_whole
from mrm.system.tables import read_csv_rows


def test_json_has_null_for_what_is_not_a_number_and_text_for_paths(tmp_path):
    value = {"a": [math.nan, math.inf, 1.5, 2], "b": (Path("x/y"), None, True), "c": {"ä": -math.inf}}
    path = write_json(tmp_path / "new" / "a.json", value)
    assert json.loads(path.read_bytes()) == {"a": [None, None, 1.5, 2], "b": ["x/y", None, True], "c": {"ä": None}}
    assert path.read_text(encoding="utf-8").endswith('"ä": null\n  }\n}\n')


def test_what_json_cannot_hold_is_refused_and_leaves_the_old_file(tmp_path):
    path = write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"a": object()})
    assert json.loads(path.read_bytes()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_rows_of_a_csv_are_sequences_or_mappings(tmp_path):
    rows = [["a", 1, None], {"x": "b", "z": 0.5}, {"y": "two\r\nlines", "x": 'say "c"'}]
    path = write_csv(tmp_path / "a.csv", ["x", "y", "z"], iter(rows))
    assert path.read_bytes() == b'x,y,z\na,1,\nb,,0.5\n"say ""c""","two\r\nlines",""\n'
    header, lines = read_csv_rows(path)
    assert header == ["x", "y", "z"]
    assert [fields for _, fields in lines] == [["a", "1", ""], ["b", "", "0.5"], ['say "c"', "two\r\nlines", ""]]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("bad"), KeyboardInterrupt()])
def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = write_whole(tmp_path / "a.bin", b"old")

    def write(temporary):
        temporary.write_bytes(b"half")
        raise error

    with pytest.raises(type(error)):
        write_by(path, write)
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert path.read_bytes() == b"old"


def test_readers_never_see_half_a_file(tmp_path):
    path = write_whole(tmp_path / "a.bin", b"old")

    def write(temporary):
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"

    assert write_by(path, write) == path
    assert path.read_bytes() == b"new"
