"""Which files a folder has, whatever it links to and whoever may read it."""

import errno
import os
from pathlib import Path

import pytest

from mrm.data.finding_files import records_at
from mrm.data.folders import every_file, list_images
from mrm.system.errors import UnreachableError
from tests.support.image_files import write_image


def test_images_are_listed_once_also_where_links_go_round(tmp_path):
    write_image(tmp_path / "a/b/1.png", 1)
    write_image(tmp_path / "a/2.JPG", 1)
    (tmp_path / "a/.3.png").write_bytes(b"")
    (tmp_path / "a/b/loop").symlink_to(tmp_path / "a")
    assert list(list_images(tmp_path)) == ["a/2.JPG", "a/b/1.png"]
    assert list(list_images(tmp_path, "a/b", "nowhere", suffixes=(".png",))) == ["a/b/1.png"]


def test_a_linked_folder_is_listed_and_one_that_is_reached_twice_once(tmp_path):
    write_image(tmp_path / "store/1.png", 1)
    (tmp_path / "asked").mkdir()
    for name in ("first", "second"):
        (tmp_path / "asked" / name).symlink_to(tmp_path / "store")
    assert list(list_images(tmp_path / "asked")) == ["first/1.png"]
    assert [r.name for r in records_at([tmp_path / "asked"])] == [str(tmp_path / "asked/first/1.png")]


def test_files_come_before_folders_and_links_that_lead_nowhere_are_files(tmp_path):
    for name in ("b/2.png", "b/1.png", "a/3.png", "c.png"):
        write_image(tmp_path / name, 1)
    (tmp_path / "b/nowhere.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "b/round.png").symlink_to(tmp_path / "b/round.png")
    wanted = ["c.png", "a/3.png", "b/1.png", "b/2.png", "b/nowhere.png", "b/round.png"]
    assert list(every_file(tmp_path)) == wanted
    assert list(every_file(tmp_path).values()) == [tmp_path / name for name in wanted]


def test_a_folder_that_cannot_be_listed_is_named_and_not_passed_over(tmp_path, monkeypatch):
    write_image(tmp_path / "read/1.png", 1)
    write_image(tmp_path / "closed/ward/2.png", 1)
    refuse(monkeypatch, tmp_path / "closed/ward")
    for listed in (every_file, list_images, lambda folder: records_at([folder])):
        with pytest.raises(
            UnreachableError, match=f"{tmp_path}/closed/ward: this folder cannot be listed .Permission denied"
        ):
            listed(tmp_path)


@pytest.mark.parametrize("name", ["lost+found", "System Volume Information", ".snapshot", "a/.Trashes/501"])
def test_a_closed_folder_of_a_system_or_a_hidden_one_is_passed_over(name, tmp_path, monkeypatch):
    write_image(tmp_path / "1.png", 1)
    write_image(tmp_path / name / "2.png", 1)
    refuse(monkeypatch, tmp_path / name)
    assert list(every_file(tmp_path)) == ["1.png"]


def refuse(monkeypatch: pytest.MonkeyPatch, closed: Path) -> None:
    """Let a folder refuse to be listed, which it does not do for the superuser by its permissions."""
    scandir = os.scandir

    def listed(folder):
        if Path(folder) == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", listed)
