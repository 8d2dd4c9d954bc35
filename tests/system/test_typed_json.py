"""What a command keeps for its next start comes back as it was, or not at all."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from mrm.system.files import write_json
from mrm.system.typed_json import read_as


@dataclass(frozen=True)
class Part:
    name: str
    stamp: tuple[int, int]


@dataclass(frozen=True)
class Kept:
    version: int
    part: Part
    seconds: float
    known: int | None
    lines: list[str]


KEPT = Kept(3, Part("a", (1, 2)), 0.5, None, ["x", ""])
WRONG = {
    "no field": lambda v: v.pop("seconds"),
    "another field": lambda v: v.update(more=1),
    "text for a number": lambda v: v.update(seconds="1"),
    "number for text": lambda v: v["part"].update(name=1),
    "truth value for a number": lambda v: v.update(known=True),
    "fraction for a whole number": lambda v: v.update(known=1.5),
    "too few values": lambda v: v["part"].update(stamp=[1]),
    "list for a part": lambda v: v.update(part=[]),
    "number in a list of texts": lambda v: v.update(lines=[1]),
    "no version": lambda v: v.pop("version"),
}


def test_what_was_written_comes_back(tmp_path):
    assert read_as(Kept, write_json(tmp_path / "kept.json", asdict(KEPT)), 3) == KEPT


@pytest.mark.parametrize("change", WRONG)
def test_other_types_and_fields_are_damage(tmp_path, change):
    values = json.loads(json.dumps(asdict(KEPT)))
    WRONG[change](values)
    with pytest.raises(ValueError, match=r"^kept\.json is damaged \(\w+\)$"):
        read_as(Kept, write_json(tmp_path / "kept.json", values), 3)


@pytest.mark.parametrize("content", ["", "[1]", "{", "null", '"version"', "7"])
def test_other_json_is_damage(tmp_path, content):
    file = Path(tmp_path / "kept.json")
    file.write_text(content)
    with pytest.raises(ValueError, match=r"kept\.json is damaged"):
        read_as(Kept, file, 3)


def test_another_version_is_named_whatever_its_fields(tmp_path):
    with pytest.raises(ValueError, match=r"^kept\.json is of version 2, and this mrm writes version 3$"):
        read_as(Kept, write_json(tmp_path / "kept.json", {"version": 2}), 3)
