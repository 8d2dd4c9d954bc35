"""A server of files on this machine that stalls, stops, forgets ranges, changes its files, and lies about their length."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RANGE = re.compile(r"bytes=(\d+)-")


@dataclass
class Served:
    """A file, and how it is served. What is listed by answer is taken from the front; nothing left: as it should be."""

    content: bytes
    version: str = '"1"'  # the ETag; empty: none
    ranges: bool = True
    kind: str = "application/octet-stream"
    length: int | None = None  # what Content-Length says; None: the truth, -1: nothing
    headers: dict[str, str] = field(default_factory=dict)
    failures: list[tuple[int, dict[str, str]]] = field(default_factory=list)  # status and headers
    cuts: list[int] = field(default_factory=list)  # bytes after which the connection ends
    stalls: list[int] = field(default_factory=list)  # bytes after which nothing comes any more
    trickle: float = 0.0  # seconds between ten bytes and the next ten


class FileServer(ThreadingHTTPServer):
    """The server: its files by name, and what it was asked for: method, name, Range, If-Range."""

    daemon_threads = True
    files: dict[str, Served]
    asked: list[tuple[str, str, str, str]]
    stopped: threading.Event

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def starts(self) -> list[str]:
        """The Range of each GET."""
        return [wanted for method, _, wanted, _ in self.asked if method == "GET"]


class Answer(BaseHTTPRequestHandler):
    """What the server says of a file, and the file."""

    server: FileServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        content, file = self._answer()
        if file is None:
            return
        with suppress(ConnectionError):  # the client has seen enough
            self._send(content, file)
        self.close_connection = True

    def _send(self, content: bytes, file: Served) -> None:
        if file.stalls:
            self.wfile.write(content[: file.stalls.pop(0)])
            self.wfile.flush()
            self.server.stopped.wait(60)
        elif file.trickle:
            for start in range(0, len(content), 10):
                self.wfile.write(content[start : start + 10])
                if self.server.stopped.wait(file.trickle):
                    return
        elif file.cuts:
            self.wfile.write(content[: file.cuts.pop(0)])
        else:
            self.wfile.write(content)

    def _answer(self) -> tuple[bytes, Served | None]:
        name, wanted, known = self.path.lstrip("/"), self.headers.get("Range", ""), self.headers.get("If-Range", "")
        self.server.asked.append((self.command, name, wanted, known))
        file = self.server.files.get(name)
        if file is None:
            return self._failed(404, {})
        if file.failures and self.command == "GET":
            return self._failed(*file.failures.pop(0))
        match, content, total = RANGE.fullmatch(wanted), file.content, len(file.content)
        start = int(match[1]) if match and file.ranges and known in ("", file.version) else 0
        if start and start >= total:
            return self._failed(416, {"Content-Range": f"bytes */{total}"})
        content = content[start:]
        self.send_response(206 if start else 200)
        length = len(content) if file.length is None else file.length
        headers = {
            "Content-Type": file.kind,
            "ETag": file.version,
            "Content-Length": str(length) if length >= 0 else "",
        }
        headers |= {"Content-Range": f"bytes {start}-{total - 1}/{total}"} if start else {}
        self._headers(headers | file.headers)
        return content, file

    def _failed(self, status: int, headers: dict[str, str]) -> tuple[bytes, None]:
        self.send_response(status)
        self._headers({"Content-Length": "0", **headers})
        return b"", None

    def _headers(self, headers: dict[str, str]) -> None:
        for key, value in headers.items():
            if value:
                self.send_header(key, value)
        self.end_headers()

    def log_message(self, *_) -> None:
        """Nothing on the screen."""


@contextmanager
def file_server(files: dict[str, Served] | None = None) -> Iterator[FileServer]:
    """A server of these files, while the block lasts."""
    server = FileServer(("127.0.0.1", 0), Answer)
    server.files, server.asked, server.stopped = files or {}, [], threading.Event()
    threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True).start()
    try:
        yield server
    finally:
        server.stopped.set()
        server.shutdown()
        server.server_close()
