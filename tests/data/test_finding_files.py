"""Files, folders, patterns, lists and tables: which images they name."""

from pathlib import Path

import pytest

from mrm.data import finding_files
from mrm.system.errors import RecordError


def test_files_folders_globs_lists_and_tables_name_the_same_images(phantoms, tmp_path):
    files = sorted((phantoms / "images").iterdir())
    plain, listed, label_list = tmp_path / "plain.txt", tmp_path / "list.csv", tmp_path / "labels.txt"
    plain.write_text("\n".join(f.name for f in files))
    listed.write_text("\n".join(str(f) for f in files) + "\n")
    label_list.write_text("".join(f"{f.name} 0 1 0\n" for f in files))
    ways = [files, [phantoms / "images"], [str(phantoms / "images" / "*.jpg")], [plain], [listed], [label_list]]
    for given in ways:
        found = finding_files.records_at(given, phantoms / "images" if given[0] in (plain, label_list) else None)
        assert [Path(r.image).resolve() for r in found] == [f.resolve() for f in files], given
    known = finding_files.records_at([phantoms / "records.csv"])
    assert {Path(r.image).name for r in known} == {f.name for f in files}
    assert all(r.patient and r.study for r in known)


def test_a_folder_leaves_out_what_is_no_image_and_an_image_may_have_any_name(phantoms, tmp_path):
    one = (phantoms / "images" / "S0-000000.jpg").read_bytes()
    for name in ("a.jpg", "b", "c.123", "labels.csv", "notes.txt", ".hidden.jpg", "DICOMDIR"):
        (tmp_path / name).write_bytes(one)
    assert [r.name for r in finding_files.records_at([tmp_path])] == [
        str(tmp_path / n) for n in ("a.jpg", "b", "c.123")
    ]
    assert [r.name for r in finding_files.records_at([tmp_path / "notes.txt"])] == [str(tmp_path / "notes.txt")]


def test_a_pattern_that_matches_folders_and_what_is_in_them_names_each_image_once(phantoms, tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    one = (phantoms / "images" / "S0-000000.jpg").read_bytes()
    wanted = [tmp_path / "in" / name for name in ("a.jpg", "deep/b.jpg")]
    for file in wanted:
        file.write_bytes(one)
    for pattern in ("in/**", "**", "*", "**/*.jpg"):
        assert [r.image for r in finding_files.records_at([str(tmp_path / pattern)])] == wanted


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(RecordError, match="this folder has no images"):
        finding_files.records_at([tmp_path])
