"""Files, folders, patterns, lists and tables: which images they name."""

import os
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
    with pytest.warns(UserWarning, match=r"1 system file is left out \(DICOMDIR\)"):
        found = finding_files.records_at([tmp_path])
    assert [r.name for r in found] == [str(tmp_path / n) for n in ("a.jpg", "b", "c.123")]
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


def test_what_systems_leave_in_folders_is_left_out_and_counted(phantoms, tmp_path):
    one = (phantoms / "images" / "S0-000000.jpg").read_bytes()
    left = [
        "Thumbs.db",
        ".DS_Store",
        "dicomdir",
        "Desktop.ini",
        "._a.jpg",
        "__MACOSX/._b.jpg",
        "@eaDir/a.jpg",
        "setup.EXE",
    ]
    for name in ("a.jpg", "deep/b.JPG", *left):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(one)
    with pytest.warns(UserWarning, match=r"7 system files are left out \("):
        found = finding_files.records_at([tmp_path])
    assert [r.name for r in found] == [str(tmp_path / n) for n in ("a.jpg", "deep/b.JPG")]


def test_a_name_that_is_not_utf8_does_not_cost_the_folder(phantoms, tmp_path):
    one = (phantoms / "images" / "S0-000000.jpg").read_bytes()
    for name in (b"a.jpg", b"r\xf6ntgen.jpg"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(one)
    found = finding_files.records_at([tmp_path])
    assert [r.name for r in found] == [f"{tmp_path}/a.jpg", rf"{tmp_path}/r\xf6ntgen.jpg"]
    assert all(Path(r.image).read_bytes() == one for r in found)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_list_of_paths_is_read_in_every_form_of_unicode(tmp_path, encoding):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "list.txt").write_text("a.png\nnan\n", encoding=encoding)
    assert [r.name for r in finding_files.records_at([tmp_path / "list.txt"])] == ["a.png"]


def test_a_nul_byte_in_a_list_of_paths_is_named(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"a.png\0\n")
    with pytest.raises(RecordError, match="NUL byte"):
        finding_files.records_at([tmp_path / "list.txt"])


def test_a_path_that_is_too_long_for_a_file_is_not_found_like_any_other(tmp_path):
    (tmp_path / "paths.txt").write_text(f"folder/{'9' * 5000}.png\n")
    with pytest.raises(RecordError, match="none of its 1 images was found"):
        finding_files.records_at([tmp_path / "paths.txt"])
