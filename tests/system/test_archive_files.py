"""Archives from a stranger: what is in them arrives whole, and nothing leaves the folder."""

import gzip
import io
import os
import random
import stat
import tarfile
import zipfile

import pytest

from mrm.system.archive_files import is_archive, unpack
from mrm.system.errors import DownloadError

NOISE = random.Random(0).randbytes(200_000)
FILES = {"set/images/a.png": NOISE, "set/images/b.png": b"", "set/table.csv": b"a,b\n1,2\n"}


def zipped(path, files, links=()):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        for name in links:
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, "/etc/passwd")
    return path


def tarred(path, files, links=()):
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(info)
    return path


MAKERS = {"a.zip": zipped, "a.tar.gz": tarred, "a.tgz": tarred, "a.tar": tarred}


@pytest.fixture(params=MAKERS)
def make(request, tmp_path):
    """An archive of these files."""
    return lambda files, links=(): MAKERS[request.param](tmp_path / request.param, files, links)


@pytest.fixture(params=["a.zip", "a.tar.gz"])
def make_packed(request, tmp_path):
    """A compressed archive of these files; a .tar has neither checksums nor a ratio."""
    return lambda files: MAKERS[request.param](tmp_path / request.param, files)


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_file_arrives_with_its_content(make, tmp_path):
    seen = []
    left_by_systems = {"__MACOSX/set/._a.png": b"x", "set/.DS_Store": b"x", "set/images/._b.png": b"x"}
    archive = make({**FILES, **left_by_systems})
    written = unpack(archive, tmp_path / "out", shown=lambda *done: seen.append(done))
    assert contents(tmp_path / "out") == FILES
    assert [p.relative_to(tmp_path / "out").as_posix() for p in written] == list(FILES)
    assert seen[-1] == (archive.stat().st_size,) * 2
    assert unpack(archive, tmp_path / "out")  # again over what is there
    assert contents(tmp_path / "out") == FILES


def test_the_content_of_one_folder_is_taken(make, tmp_path):
    unpack(make({**FILES, "other/c.png": b"x", "setting.txt": b"x"}), tmp_path / "out", "set")
    assert set(contents(tmp_path / "out")) == {"images/a.png", "images/b.png", "table.csv"}


@pytest.mark.parametrize("name", ["../out.txt", "set/../../out.txt", "/tmp/out.txt", "..\\out.txt", "C:\\out.txt"])
def test_a_name_that_leads_out_of_the_folder_is_refused(name, make, tmp_path):
    with pytest.raises(DownloadError, match="leads out of its folder, so the archive is not to be trusted"):
        unpack(make({name: b"x"}), tmp_path / "out")
    assert not list(tmp_path.rglob("out.txt"))


def test_a_link_is_refused(make, tmp_path):
    with pytest.raises(DownloadError, match="'set/link' is a link or a device"):
        unpack(make(FILES, ["set/link"]), tmp_path / "out")
    assert not any(p.is_symlink() for p in tmp_path.rglob("*"))


def test_a_file_without_a_name_is_damage(tmp_path):
    place = zipped(tmp_path / "a.zip", {"only.txt": b"1"})
    place.write_bytes(place.read_bytes().replace(b"only.txt", b"\0nly.txt"))  # a name ends at a zero
    with pytest.raises(DownloadError, match=r"a\.zip: is damaged \(a file in it has no name\)"):
        unpack(place, tmp_path / "out")


def test_a_device_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("null")
        info.type, info.devmajor, info.devminor = tarfile.CHRTYPE, 1, 3
        archive.addfile(info)
    with pytest.raises(DownloadError, match="'null' is a link or a device"):
        unpack(tmp_path / "a.tar", tmp_path / "out")


@pytest.mark.parametrize("left", [0.0, 0.2, 0.5, 0.95, 0.9999])
def test_an_archive_that_is_cut_off_is_damaged_and_no_half_file_is_left(left, make, tmp_path):
    archive = make(FILES)
    content = archive.read_bytes()
    if archive.suffix == ".tar":  # its last ten kilobytes are padding
        content = content[: 512 * 4 + 200_000]
    archive.write_bytes(content[: int(left * len(content))])
    with pytest.raises(DownloadError, match=r"a\.\w+(\.gz)?: is damaged \("):
        unpack(archive, tmp_path / "out")
    there = contents(tmp_path / "out") if (tmp_path / "out").exists() else {}
    assert all(FILES.get(name) == content for name, content in there.items())


def test_a_changed_byte_is_noticed(make_packed, tmp_path):
    archive = make_packed(FILES)
    content = bytearray(archive.read_bytes())
    content[100_000] ^= 255
    archive.write_bytes(content)
    with pytest.raises(DownloadError, match="is damaged"):
        unpack(archive, tmp_path / "out")


def test_a_bomb_is_refused(make_packed, tmp_path, monkeypatch):
    monkeypatch.setenv("MRM_MAX_UNPACKED_MB", "1")
    archive = make_packed({"a": bytes(3 << 20)})
    with pytest.raises(DownloadError, match="unpack to more than 1 MiB"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_header_that_claims_gigabytes_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("MRM_MAX_UNPACKED_MB", "1")
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 7 << 30
    (tmp_path / "a.tgz").write_bytes(gzip.compress(info.tobuf(tarfile.USTAR_FORMAT) + bytes(2 << 20)))
    with pytest.raises(DownloadError, match="unpack to more than 1 MiB"):
        unpack(tmp_path / "a.tgz", tmp_path / "out")


def test_a_disk_that_is_full_is_no_damage(make, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    archive = make(FILES)
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        unpack(archive, tmp_path / "out")
    assert contents(tmp_path / "out") == {}


def test_archives_are_known_by_their_names():
    assert [is_archive(name) for name in ("a.ZIP", "a.tgz", "a.tar.gz", "a.csv.gz", "a.csv")] == [True] * 3 + [
        False
    ] * 2
