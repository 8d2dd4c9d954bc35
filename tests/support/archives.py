"""Archives for tests: a real Orthanc on this machine, and small servers that misbehave."""

import json
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from tests.support.dicom_files import dicom_bytes
from tests.support.image_files import random_image

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
USER, PASSWORD = "mrm", "a-password-of-tests"


def use_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks an archive gives the account of these, and no token."""
    monkeypatch.delenv("MRM_DICOMWEB_TOKEN", raising=False)
    monkeypatch.setenv("MRM_DICOMWEB_USER", USER)
    monkeypatch.setenv("MRM_DICOMWEB_PASSWORD", PASSWORD)


def radiograph(number: int, study: int = 1, **tags) -> bytes:
    """The DICOM file of image `number`, of patient p1 and study 1.2.1 (where that is `study`); `tags` add or change."""
    known = {"StudyInstanceUID": f"1.2.{study}", "SeriesInstanceUID": f"1.2.{study}.1", "PatientID": f"p{study}"}
    known |= {"SOPInstanceUID": f"1.2.{study}.1.{number}", "StudyDate": "20240102"}
    return dicom_bytes(random_image(number, 40, 32), **(known | tags))


@dataclass
class Orthanc:
    """A running Orthanc: its address for `mrm`, and what a test asks of it directly."""

    port: int
    folder: Path
    process: subprocess.Popen | None = None

    @property
    def address(self) -> str:
        return f"dicomweb://127.0.0.1:{self.port}/dicom-web"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, **options) -> requests.Response:
        answer = requests.request(method, f"{self.url}{path}", auth=(USER, PASSWORD), timeout=20, **options)
        answer.raise_for_status()
        return answer

    def add(self, *files: bytes) -> None:
        """Store DICOM files."""
        for content in files:
            self.ask("POST", "/instances", data=content)

    def instances(self, modality: str) -> list[dict]:
        """The tags of all instances of a modality."""
        query = {"Level": "Series", "Query": {"Modality": modality}, "Expand": True}
        series = self.ask("POST", "/tools/find", json=query).json()
        uids = [uid for one in series for uid in one["Instances"]]
        return [self.ask("GET", f"/instances/{uid}/simplified-tags").json() | {"orthanc": uid} for uid in uids]

    def file(self, instance: str) -> bytes:
        """The DICOM file of an instance, by Orthanc's own name for it."""
        return self.ask("GET", f"/instances/{instance}/file").content

    def delete_study(self, uid: str) -> None:
        (name,) = self.ask("POST", "/tools/find", json={"Level": "Study", "Query": {"StudyInstanceUID": uid}}).json()
        self.ask("DELETE", f"/studies/{name}")

    def start(self) -> None:
        settings = {
            "StorageDirectory": str(self.folder / "db"),
            "IndexDirectory": str(self.folder / "db"),
            "HttpPort": self.port,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (self.folder / "orthanc.json").write_text(json.dumps(settings))
        log = open(self.folder / "log", "ab")  # noqa: SIM115 - the process keeps it
        program = shutil.which("Orthanc")
        assert program
        self.process = subprocess.Popen([program, str(self.folder / "orthanc.json")], stdout=log, stderr=log)
        until = time.monotonic() + 60
        while True:
            try:
                self.ask("GET", "/system")
                return
            except requests.RequestException:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < until
                time.sleep(0.1)

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        assert self.process
        self.process.kill()
        self.process.wait()


@contextmanager
def running_orthanc(folder: Path) -> Iterator[Orthanc]:
    """An Orthanc with its DICOMweb plugin on a free port; the test is skipped where they are not installed."""
    if not shutil.which("Orthanc") or not PLUGIN.is_file():
        pytest.skip("no Orthanc with its DICOMweb plugin on this machine")
    archive = Orthanc(free_port(), folder)
    archive.start()
    try:
        yield archive
    finally:
        archive.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


# A server that misbehaves -------------------------------------------------------------------------------------


@dataclass
class Served:
    """What a server answers: instances by identifier, and functions that answer in place of the usual for a path."""

    instances: dict[str, tuple[dict, bytes]] = field(default_factory=dict)  # DICOM JSON and file
    instead: Callable[[BaseHTTPRequestHandler, str], bool] | None = None  # whether it has answered
    asked: list[str] = field(default_factory=list)
    stored: list[bytes] = field(default_factory=list)  # DICOM files
    keeps: bool = False  # whether what is stored is held from then on
    page: int = 1000
    untold: tuple[str, ...] = ()  # elements that answers to searches leave out
    address: str = ""

    def add(self, content: bytes) -> str:
        """Hold a DICOM file; returns its identifier."""
        import io

        import pydicom

        dataset = pydicom.dcmread(io.BytesIO(content))
        if "PixelData" in dataset:
            del dataset.PixelData
        self.instances[str(dataset.SOPInstanceUID)] = dataset.to_json_dict(), content
        return str(dataset.SOPInstanceUID)


@contextmanager
def serving(served: Served) -> Iterator[Served]:
    """A DICOMweb server on a free port that holds and answers what `served` says; `served.address` is its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            if not (served.instead and served.instead(self, self.path)):
                answer(self, served)

        def do_POST(self) -> None:
            served.asked.append(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if not (served.instead and served.instead(self, self.path)):
                served.stored.append(body[body.index(b"\r\n\r\n") + 4 : body.rindex(b"\r\n--")])
                if served.keeps:
                    served.add(served.stored[-1])
                send(self, 200, b"{}", "application/dicom+json")

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    served.address = f"dicomweb://127.0.0.1:{server.server_port}/dicom-web"
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes, kind: str = "text/plain") -> None:
    """A whole answer."""
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def multipart(*contents: bytes, end: bytes = b"--") -> tuple[bytes, str]:
    """A multipart message of DICOM files, and its type."""
    parts = [b"\r\n--mark\r\nContent-Type: application/dicom\r\n\r\n" + content for content in contents]
    return b"".join(parts) + b"\r\n--mark" + end + b"\r\n", 'multipart/related; type="application/dicom"; boundary=mark'


def answer(handler: BaseHTTPRequestHandler, served: Served) -> None:
    """Answer as the standard wants it, as far as the tests ask."""
    address = urlsplit(handler.path)
    parts, query = address.path.strip("/").split("/")[1:], parse_qs(address.query)
    if len(parts) == 6:
        send(handler, 200, *multipart(served.instances[parts[5]][1]))
        return
    tags = [tags for tags, _ in served.instances.values()]
    if len(parts) == 7:
        found = [served.instances[parts[5]][0]]
    elif len(parts) == 1:
        count = Counter(one["0020000D"]["Value"][0] for one in tags)
        studies = {one["0020000D"]["Value"][0]: one for one in tags}
        found = [one | {"00201208": {"vr": "IS", "Value": [count[uid]]}} for uid, one in studies.items()]
        wanted = query.get("StudyInstanceUID")
        found = [one for one in found if not wanted or one["0020000D"]["Value"] == wanted]
    else:
        wanted = query.get("SOPInstanceUID")
        found = [one for one in tags if one["0020000D"]["Value"][0] == parts[1]]
        found = [one for one in found if not wanted or one["00080018"]["Value"] == wanted]
    offset = int(query.get("offset", ["0"])[0])
    page = found[offset : offset + min(served.page, int(query.get("limit", ["1000"])[0]))]
    if len(parts) < 7:
        page = [{tag: value for tag, value in one.items() if tag not in served.untold} for one in page]
    send(handler, 200, json.dumps(page).encode(), "application/dicom+json")
