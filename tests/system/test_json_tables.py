"""Tables in JSON: lists of objects, objects a line, objects by name, COCO, and files that are none of these."""

import json

import pytest

from mrm.system.errors import RecordError
from mrm.system.json_tables import read_json_rows


def rows(tmp_path, text: str) -> list[dict[str, str]]:
    (tmp_path / "t.json").write_text(text, encoding="utf-8-sig")
    header, lines = read_json_rows(tmp_path / "t.json")
    return [dict(zip(header, cells, strict=True)) for _, cells in lines]


@pytest.mark.parametrize(
    "text",
    ['[{"a": 1, "b": null}, {"a": "x", "b": 0.5}]', '{"a": 1, "b": null}\n\n{"a": "x", "b": 0.5}\n'],
)
def test_objects_are_rows_in_a_list_or_a_line_each(tmp_path, text):
    assert rows(tmp_path, text) == [{"a": "1", "b": ""}, {"a": "x", "b": "0.5"}]


def test_objects_by_name_have_it_as_their_key_and_one_object_is_one_row(tmp_path):
    assert rows(tmp_path, '{"s1": {"a": 1}, "s2": {"a": 2}}') == [{"key": "s1", "a": "1"}, {"key": "s2", "a": "2"}]
    assert rows(tmp_path, '{"a": 1}') == [{"a": "1"}]


def test_lists_become_rows_of_their_places_and_nested_ones_stay_json(tmp_path):
    text = '[{"f": "a", "syms": ["x", "y"], "boxes": [[1, 2], [3, 4]]}, {"f": "b", "syms": [], "boxes": []}, {"f": "c", "syms": ["z"], "boxes": []}]'
    assert rows(tmp_path, text) == [
        {"f": "a", "syms": "x", "boxes": "[1, 2]"},
        {"f": "a", "syms": "y", "boxes": "[3, 4]"},
        {"f": "b", "syms": "", "boxes": ""},
        {"f": "c", "syms": "z", "boxes": ""},
    ]


def test_coco_has_a_row_for_each_annotation_and_for_each_image_without_one(tmp_path):
    coco = {
        "categories": [{"id": 1, "name": "TB"}],
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "b.png"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2.5, 3, 4]}],
    }
    found = rows(tmp_path, json.dumps(coco))
    assert [(r["file_name"], r["category"], r["bbox"]) for r in found] == [
        ("a.png", "TB", "[1, 2.5, 3, 4]"),
        ("b.png", "", ""),
    ]


@pytest.mark.parametrize(
    "text",
    ["", "[1, 2]", '[{"a": 1}', "7", '{"a": 1}\n{"a": ', '{"images": [1], "annotations": [], "categories": []}',
     '{"images": [], "annotations": [{"image_id": {}}], "categories": []}', "[" * 100_000],
)  # fmt: skip
def test_other_files_are_refused_in_words(tmp_path, text):
    with pytest.raises(RecordError, match=r"t\.json: (is not JSON, or was cut off|expected a list of objects)"):
        rows(tmp_path, text)
