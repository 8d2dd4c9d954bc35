"""Tables in JSON: a list of objects, an object for each line, or an annotation file of COCO."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mrm.system.errors import RecordError
from mrm.system.table_form import Rows

COCO = ("images", "annotations", "categories")


def read_json_rows(path: Path) -> tuple[list[str], Rows]:
    """Names of columns and (number, fields as text) of a JSON file; a value that is a list is its JSON.

    Lists in one object, such as `syms` and `boxes` of ChestX-Det, become a row for each place; an object whose lists are
    empty is one row. Of COCO, each annotation is a row with its image's `file_name` and its `category`, and
    an image without annotation is one. An object of objects has their names in the column `key`. Raises RecordError.
    """
    try:
        items = _items(path.read_text(encoding="utf-8-sig"))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:  # also an id that is a list, say
        raise RecordError(f"{path}: is not JSON, or was cut off ({error}); download it again") from error
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise RecordError(f"{path}: expected a list of objects; check that this is the publisher's file")
    rows = [row for item in items for row in _exploded(item)]
    header = list(dict.fromkeys(name for row in rows for name in row))
    return header, ((number, [_text(row.get(name)) for name in header]) for number, row in enumerate(rows, 1))


def _items(text: str) -> Any:
    """The objects in the text of a file."""
    try:
        whole = json.loads(text)
    except ValueError:
        first, *_ = text.lstrip().splitlines() or [""]
        if not first.rstrip().endswith("}"):
            raise
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    if not isinstance(whole, dict):
        return whole
    if all(isinstance(whole.get(part), list) for part in COCO):
        return list(_coco(whole))
    if all(isinstance(item, dict) for item in whole.values()):
        return [{"key": name, **item} for name, item in whole.items()]
    return [whole]  # one line


def _coco(file: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each annotation, and for each image without one."""
    names = {category.get("id"): category.get("name") for category in file["categories"]}
    of_image: dict[Any, list[dict[str, Any]]] = {}
    for annotation in file["annotations"]:
        of_image.setdefault(annotation.get("image_id"), []).append(annotation)
    for image in file["images"]:
        for annotation in of_image.get(image.get("id"), [{}]):
            yield {"bbox": None, **annotation, **image, "category": names.get(annotation.get("category_id"), "")}


def _exploded(item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each place of the lists of an object; the object itself where there are none, or it has a `bbox`."""
    lists = {name: value for name, value in item.items() if isinstance(value, list)}
    if "bbox" in lists or not lists:
        yield item
        return
    rest = {name: value for name, value in item.items() if name not in lists}
    for values in itertools.zip_longest(*lists.values()) if any(lists.values()) else [[None] * len(lists)]:
        yield {**rest, **dict(zip(lists, values, strict=True))}


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
