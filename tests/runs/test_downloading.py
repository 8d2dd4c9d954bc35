"""`mrm prepare CORPUS --download` from a server of this test: the question, the disk, what is verified, unpacked and resumed."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest

from mrm import runs
from mrm.corpora import downloads as table
from mrm.corpora.downloads import Download, Source
from mrm.data.records import Records
from mrm.runs import downloading
from mrm.system import downloads
from mrm.system.errors import ConfigError, DownloadError, LostSourceError, OutputError
from tests.support.commands import run_cli
from tests.support.corpora.downloads import write_download
from tests.support.file_server import Served, file_server
from tests.support.waiting import until

NAME = "NLM-MontgomeryCXRSet.zip"


def packed(folder, top: str) -> bytes:
    """A .zip of a folder's files below `top`."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, f"{top}/{file.relative_to(folder).as_posix()}")
    return content.getvalue()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0.001)


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> bytes:
    """The made-up download of Montgomery, as its publisher packs it."""
    return packed(write_download("montgomery", tmp_path_factory.mktemp("montgomery")), "MontgomerySet")


@pytest.fixture
def server(archive):
    with file_server({NAME: Served(archive), "notes.txt": Served(b"notes")}) as started:
        yield started


@pytest.fixture
def offered(server, archive, monkeypatch):
    """The download of Montgomery from the server: an archive and a file beside it."""
    files = (
        Source(NAME, (server.url(NAME),), sha256=digest(archive), unpack="."),
        Source("notes.txt", (server.url("notes.txt"),)),
    )
    known = {"montgomery": Download("https://a.org/page", "free for research", files)}
    monkeypatch.setattr(table, "table", lambda: known)
    return known


def test_a_corpus_is_downloaded_unpacked_and_prepared_by_one_command(server, offered, tmp_path, capsys):
    source, out = tmp_path / "new" / "source", tmp_path / "out"
    words = ("prepare", "montgomery", "--download", "--yes", "--source", str(source), "--out", str(out))
    code, printed, error = run_cli(capsys, *words, "--val", "0", "--test", "0", "--fractions")
    assert code == 0, error
    assert "  licence: free for research\n  page: https://a.org/page" in printed
    assert {(r.name.rpartition("/")[2], *r.labels) for r in Records.load(out / "records.csv", ("Tuberculosis",))} == {
        ("MCUCXR_0001_0.png", 0.0),
        ("MCUCXR_0104_1.png", 1.0),
    }
    assert not list(source.rglob("*.zip"))  # removed once it was unpacked
    assert (source / "notes.txt").read_bytes() == b"notes"
    server.asked.clear()
    assert run_cli(capsys, *words[:6])[:2] == (
        0,
        f"{source}: all files of Montgomery County tuberculosis set are there\n"
        f"next: mrm prepare montgomery --source {source} --out DIR\n",
    )
    assert server.asked == []
    shutil.rmtree(source / "MontgomerySet")  # what was unpacked is fetched again where it is gone
    runs.download("montgomery", source, yes=True)
    assert [name for method, name, *_ in server.asked if method == "GET"] == [NAME]


def test_nothing_is_downloaded_without_consent(server, offered, tmp_path, capsys, monkeypatch):
    words = ("prepare", "montgomery", "--download", "--source", str(tmp_path / "source"))
    code, printed, error = run_cli(capsys, *words)
    assert (code, error.count("\n")) == (2, 1)
    assert "nobody can be asked here; give --yes to agree to the licence" in error
    size = sum(len(file.content) for file in server.files.values())
    assert f"files: {NAME}, notes.txt\n  from: 127.0.0.1:{server.server_port}\n  size: {size / 1e9:.2f} GB; " in printed
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    for answer in ("", "n", "yess"):
        monkeypatch.setattr("builtins.input", lambda text, answer=answer: answer)
        with pytest.raises(ConfigError, match="nothing was downloaded, as you did not agree"):
            runs.download("montgomery", tmp_path / "source")
    assert server.starts() == []
    assert not (tmp_path / "source").exists()
    monkeypatch.setattr("builtins.input", lambda text: "Y")
    runs.download("montgomery", tmp_path / "source")
    assert len(server.starts()) == 2
    code, _, error = run_cli(capsys, "prepare", "montgomery", "--yes", "--source", str(tmp_path / "source"))
    assert (code, "--yes agrees to a download, so it needs --download" in error) == (2, True)


def test_a_disk_without_room_is_known_before_anything_is_fetched(server, offered, archive, tmp_path, monkeypatch):
    needed = len(archive) + 1.1 * len(archive) + len(b"notes")  # the archive beside its content, and the notes
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda _: usage._replace(free=int(needed) - 1))
    with pytest.raises(OutputError, match=r"are needed, to unpack as well, and .* GB are free; free disk space"):
        runs.download("montgomery", tmp_path / "source", yes=True)
    assert server.starts() == []
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda _: usage._replace(free=int(needed) + 1))
    runs.download("montgomery", tmp_path / "source", yes=True)


def test_sizes_and_checksums_of_a_record_are_those_that_it_states(
    server, offered, archive, tmp_path, monkeypatch, capsys
):
    files = tuple(replace(file, urls=(), sha256="") for file in offered["montgomery"].files)
    offered["montgomery"] = Download("https://a.org", "free", files, record=server.url("record"))

    def state(**changes):
        entries = [
            {
                "key": name,
                "size": len(file.content),
                "checksum": f"md5:{hashlib.md5(file.content).hexdigest()}",
                "links": {"self": server.url(name)},
                **changes,
            }
            for name, file in server.files.items()
            if name != "record"
        ]
        server.files["record"] = Served(json.dumps({"files": entries}).encode())

    state(checksum="md5:" + "0" * 32)
    with pytest.raises(DownloadError, match="its MD5 is"):
        runs.download("montgomery", tmp_path / "source", yes=True)
    for changes in ({"key": "other.zip"}, {"checksum": "crc32:1"}, {"size": "large"}, {"links": {}}):
        state(**changes)
        with pytest.raises(DownloadError, match="record: does not state the files as it did"):
            runs.download("montgomery", tmp_path / "source", yes=True)
    state()
    runs.download("montgomery", tmp_path / "source", yes=True)
    assert len(list(tmp_path.rglob("MCUCXR_*.txt"))) == 2
    server.files["record"].failures = [(503, {})] * downloads.ATTEMPTS
    with pytest.raises(LostSourceError, match="record: cannot be read"):
        runs.download("montgomery", tmp_path / "again", yes=True)


def test_a_damaged_archive_without_a_checksum_is_removed_and_fetched_again(server, offered, archive, tmp_path):
    offered["montgomery"] = replace(offered["montgomery"], files=(replace(offered["montgomery"].files[0], sha256=""),))
    server.files[NAME].content = archive[: len(archive) // 2]  # it says nothing of the rest
    with pytest.raises(
        DownloadError, match=r"is damaged \(.*It was removed: run the same command again.*https://a.org/page"
    ):
        runs.download("montgomery", tmp_path / "source", yes=True)
    assert not (tmp_path / "source" / NAME).exists()
    server.files[NAME].content = archive
    runs.download("montgomery", tmp_path / "source", yes=True)
    offered["montgomery"] = replace(
        offered["montgomery"], files=(replace(offered["montgomery"].files[0], sha256="", top="elsewhere"),)
    )
    with pytest.raises(DownloadError, match="holds none of the files that it is for"):
        runs.download("montgomery", tmp_path / "other", yes=True)


def test_a_file_of_the_users_own_is_not_written_over(server, offered, tmp_path):
    offered["montgomery"] = replace(
        offered["montgomery"],
        files=(Source("notes.txt", (server.url("notes.txt"),), md5=hashlib.md5(b"notes").hexdigest()),),
    )
    (tmp_path / "notes.txt").write_text("my own")
    with pytest.raises(DownloadError, match=r"notes.txt: is another file"):
        runs.download("montgomery", tmp_path, yes=True)
    assert (tmp_path / "notes.txt").read_text() == "my own"


def test_a_command_that_is_killed_resumes_in_the_middle_of_the_file(server, archive, tmp_path):
    """The whole command in a process of its own, which is killed while the server stalls."""
    server.files[NAME].stalls = [len(archive) // 2]
    program = f"""
from mrm import cli
from mrm.corpora import downloads
files = (downloads.Source({NAME!r}, ({server.url(NAME)!r},), sha256={digest(archive)!r}, unpack="."),)
downloads.table = lambda: {{"montgomery": downloads.Download("https://a.org", "free", files)}}
cli.main(["prepare", "montgomery", "--download", "--yes", "--source", {str(tmp_path / "source")!r}])
"""
    part = tmp_path / "source" / f".{NAME}.part"
    first = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "MRM_DOWNLOAD_TIMEOUT": "60"})
    until(lambda: part.exists() and part.stat().st_size, running=first)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    arrived = part.stat().st_size
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert server.starts() == ["", f"bytes={arrived}-"]
    assert len(list((tmp_path / "source" / "MontgomerySet" / "CXR_png").iterdir())) == 2
    assert not part.exists()
