"""Downloads from a server of this test that stalls, stops, forgets ranges, changes its files and lies about their length."""

import hashlib
import random

import pytest

from mrm.system import downloads
from mrm.system.downloads import RemoteFile, download, read_small, silence, size_of
from mrm.system.errors import ConfigError, DownloadError, LostSourceError
from tests.support.file_server import Served, file_server

CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
MD5, SHA256 = hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0.001)
    monkeypatch.setenv("MRM_DOWNLOAD_TIMEOUT", "20")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # which no request to this machine may take
    monkeypatch.delenv("no_proxy", raising=False)


@pytest.fixture
def server():
    with file_server({"a.zip": Served(CONTENT)}) as started:
        yield started


def remote(server, *names, **known) -> RemoteFile:
    return RemoteFile("a.zip", tuple(server.url(name) for name in names or ("a.zip",)), **known)


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_arrives_under_its_name_once(server, tmp_path):
    seen = []
    file = remote(server, bytes=len(CONTENT), sha256=SHA256)
    assert download(file, tmp_path / "new", lambda *done: seen.append(done)).read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    download(file, tmp_path / "new")
    assert (len(server.asked), names(tmp_path / "new")) == (1, {"a.zip"})


@pytest.mark.parametrize("cuts", [[100_000], [1, 0, 70_000], [299_999]])
def test_a_connection_that_ends_is_resumed_where_it_ended(cuts, server, tmp_path):
    server.files["a.zip"].cuts = list(cuts)
    assert download(remote(server), tmp_path).read_bytes() == CONTENT
    there, expected = 0, [""]
    for cut in cuts:
        there += cut
        expected.append(f"bytes={there}-" if there else "")
    assert server.starts() == expected
    assert {known for _, _, wanted, known in server.asked if wanted} == {'"1"'}


def test_a_call_that_failed_is_resumed_by_the_next_one(server, tmp_path):
    server.files["a.zip"].cuts = [200_000, *[0] * downloads.ATTEMPTS]
    with pytest.raises(
        LostSourceError, match=r"ended after 200,000 of 300,000 bytes\).*kept: run the same command"
    ) as error:
        download(remote(server), tmp_path)
    assert error.value.status == 3
    assert names(tmp_path) == {".a.zip.part", ".a.zip.part.json"}
    server.files["a.zip"].cuts, server.asked[:] = [], []
    assert download(remote(server), tmp_path).read_bytes() == CONTENT
    assert (server.starts(), names(tmp_path)) == (["bytes=200000-"], {"a.zip"})


@pytest.mark.parametrize(("before", "now"), [('"1"', '"2"'), ("", ""), ('W/"1"', 'W/"1"')])
def test_a_file_that_has_changed_or_may_have_starts_anew(before, now, server, tmp_path):
    server.files["a.zip"] = Served(CONTENT, before, cuts=[100_000, *[0] * downloads.ATTEMPTS])
    with pytest.raises(LostSourceError):
        download(remote(server), tmp_path)
    server.files["a.zip"] = Served(OTHER, now)
    assert download(remote(server), tmp_path).read_bytes() == OTHER


def test_a_server_that_sends_the_rest_of_another_version_is_noticed(server, tmp_path):
    server.files["a.zip"].cuts = [100_000, *[0] * downloads.ATTEMPTS]
    with pytest.raises(LostSourceError):
        download(remote(server), tmp_path)
    state = tmp_path / ".a.zip.part.json"
    server.files["a.zip"] = Served(OTHER, '"1"', headers={"ETag": '"2"'})  # it takes If-Range "1", and sends "2"
    assert download(remote(server), tmp_path).read_bytes() == OTHER
    assert not state.exists()


def test_a_server_without_ranges_sends_the_whole_file_again(server, tmp_path):
    server.files["a.zip"].ranges, server.files["a.zip"].cuts = False, [100_000]
    assert download(remote(server, md5=MD5), tmp_path).read_bytes() == CONTENT
    assert server.starts() == ["", "bytes=100000-"]


def test_a_server_that_stalls_is_left_and_asked_for_the_rest(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MRM_DOWNLOAD_TIMEOUT", "0.3")
    server.files["a.zip"].stalls = [100_000]
    assert download(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.starts() == ["", "bytes=100000-"]


def test_a_server_that_trickles_counts_as_one_that_stalls(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MRM_DOWNLOAD_TIMEOUT", "0.2")
    monkeypatch.setattr(downloads, "SLOWEST", 10_000)
    monkeypatch.setattr(downloads, "ATTEMPTS", 2)
    server.files["a.zip"].trickle = 0.02
    with pytest.raises(LostSourceError, match=r"only [\d,]+ bytes came in 0.2 s"):
        download(remote(server), tmp_path)


@pytest.mark.parametrize(
    ("length", "known", "reason"),
    [
        (400_000, {}, "the connection ended after 300,000 of 400,000 bytes"),
        (400_000, {"bytes": 300_000}, "it offers 400,000 bytes, and 300,000 are expected"),
        (200_000, {"md5": MD5}, f"its MD5 is {hashlib.md5(CONTENT[:200_000]).hexdigest()}, and {MD5} is expected"),
        (-1, {"bytes": 200_000}, "it sends more bytes than the file has"),
        (-1, {"bytes": 400_000}, "the connection ended after 300,000 of 400,000 bytes"),
    ],
)
def test_a_server_that_lies_about_the_length_is_not_believed(length, known, reason, server, tmp_path):
    server.files["a.zip"].length, server.files["a.zip"].ranges = length, False
    with pytest.raises(DownloadError) as error:
        download(remote(server, **known), tmp_path)
    assert reason in str(error.value)
    assert "a.zip" not in names(tmp_path)


def test_a_wrong_file_is_never_kept_under_its_name(server, tmp_path):
    server.files["a.zip"] = Served(OTHER)
    with pytest.raises(
        DownloadError, match=f"its SHA256 is {hashlib.sha256(OTHER).hexdigest()}, and {SHA256} is ex"
    ) as error:
        download(remote(server, sha256=SHA256, md5=MD5), tmp_path)
    assert "Get it by hand, and put it into" in str(error.value)
    assert (error.value.status, names(tmp_path)) == (2, set())
    (tmp_path / "a.zip").write_bytes(OTHER)
    with pytest.raises(
        DownloadError, match=r"a.zip: is another file \(its MD5 is .*; remove it, and run the same command"
    ):
        download(remote(server, md5=MD5), tmp_path)
    assert (tmp_path / "a.zip").read_bytes() == OTHER


def test_a_beginning_of_another_version_costs_one_more_attempt(server, tmp_path):
    (tmp_path / ".a.zip.part").write_bytes(OTHER[:100_000])
    assert download(remote(server, md5=MD5), tmp_path).read_bytes() == CONTENT
    assert server.starts() == ["bytes=100000-", ""]


def test_a_file_that_arrived_before_its_name_was_given_is_not_fetched_again(server, tmp_path):
    (tmp_path / ".a.zip.part").write_bytes(CONTENT)
    assert download(remote(server, md5=MD5), tmp_path).read_bytes() == CONTENT
    assert server.starts() == ["bytes=300000-"]  # answered by 416
    (tmp_path / "a.zip").unlink()
    (tmp_path / ".a.zip.part").write_bytes(CONTENT + b"more")
    assert download(remote(server, md5=MD5), tmp_path).read_bytes() == CONTENT


def test_the_next_mirror_is_asked_for_the_rest(server, tmp_path):
    server.files["a.zip"].cuts = [100_000, *[0] * downloads.ATTEMPTS]
    server.files["b.zip"] = Served(CONTENT, '"of the mirror"')
    assert download(remote(server, "gone.zip", "a.zip", "b.zip", md5=MD5), tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == ("GET", "b.zip", "bytes=100000-", "")


def test_all_mirrors_are_named_with_their_reasons(server, tmp_path):
    server.files["page.zip"] = Served(b"<html>sign in</html>", kind="text/html; charset=utf-8")
    with pytest.raises(DownloadError) as error:
        download(remote(server, "gone.zip", "page.zip"), tmp_path)
    host = f"127.0.0.1:{server.server_port}"
    assert f"({host}: 404 Not Found; {host}: it answers with a web page, not with the file)" in str(error.value)
    with pytest.raises(LostSourceError, match=r"\(127\.0\.0\.1:9: \[Errno 111\] Connection refused\)"):
        download(RemoteFile("a.zip", ("http://127.0.0.1:9/a.zip",)), tmp_path)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again_when_it_says(status, server, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(downloads.time, "sleep", pauses.append)
    server.files["a.zip"].failures = [(status, {"Retry-After": "7"}), (status, {})]
    assert download(remote(server), tmp_path).read_bytes() == CONTENT
    assert pauses == [7.0, 0.002]
    server.files["a.zip"].failures = [(status, {"Retry-After": "86400"})]
    with pytest.raises(LostSourceError, match=f"{status} .*, again after 86,400 s"):
        download(remote(server), tmp_path / "again")


def test_a_redirect_is_followed_but_not_out_of_encryption(server, tmp_path):
    server.files["old.zip"] = Served(b"", failures=[(302, {"Location": server.url("a.zip")})])
    assert download(remote(server, "old.zip"), tmp_path).read_bytes() == CONTENT
    request = downloads.urllib.request.Request("https://a.org/a.zip")
    with pytest.raises(downloads._Refused, match="leads from https to http, which"):
        downloads._Redirects().redirect_request(request, None, 302, "", {}, "http://b.org/a.zip")


def test_a_disk_that_is_full_is_no_fault_of_the_server(server, tmp_path, monkeypatch):
    def full(done, total):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        download(remote(server), tmp_path, full)
    assert len(server.asked) == 1


def test_sizes_and_small_files_are_read_before_anything_is_fetched(server):
    assert (size_of(server.url("a.zip")), size_of(server.url("gone.zip"))) == (300_000, 0)
    assert server.starts() == []
    server.files["record"] = Served(b'{"files": []}', failures=[(503, {})])
    assert read_small(server.url("record")) == {"files": []}
    server.files["record"] = Served(b"<html>")
    with pytest.raises(DownloadError, match="is not what was expected"):
        read_small(server.url("record"))
    with pytest.raises(DownloadError, match="more bytes than the file has"):
        read_small(server.url("a.zip"), 1000)


@pytest.mark.parametrize("text", ["", "0", "-1", "soon", "1e9"])
def test_a_time_that_is_none_is_refused(text, monkeypatch):
    monkeypatch.setenv("MRM_DOWNLOAD_TIMEOUT", text)
    with pytest.raises(ConfigError, match="MRM_DOWNLOAD_TIMEOUT must be a number of seconds above 0"):
        silence()
