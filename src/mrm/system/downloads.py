"""Files from web servers: resumed where a connection ended, verified before they get their names, from any of several mirrors.

A file arrives as `.NAME.part` beside its place, and `.NAME.part.json` says from which address and in which version (ETag, else
Last-Modified). A later call asks for the rest alone (`Range` with `If-Range`); a server that has another version now, or
knows no ranges, sends the whole file, which then starts anew. Proxies are those of the environment (`HTTPS_PROXY`,
`NO_PROXY`). `MRM_DOWNLOAD_TIMEOUT` is how many seconds a server may be silent, 60 by default.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from mrm.system.errors import ConfigError, DownloadError, LostSourceError, first_line
from mrm.system.files import parse_json, read_json, write_json
from mrm.system.hosts import is_loopback
from mrm.system.permissions import restricted

VARIABLE, SECONDS = "MRM_DOWNLOAD_TIMEOUT", 60.0
ATTEMPTS = 5  # connections in a row that bring nothing new, after which a mirror counts as lost
PAUSE = 1.0  # seconds before the second attempt; each further pause is twice as long
LONGEST_PAUSE = 120.0  # that a server may ask for (Retry-After); if it asks for more, the next mirror is tried
GAIN = 1 << 16  # bytes that count as something new
SLOWEST = 256  # bytes a second, over the seconds that a server may be silent; a slower one counts as silent
BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers that a server may give once and not the next time
CHUNK = 1 << 20
AGAIN = "What has arrived is kept: run the same command again"
_RANGE = re.compile(r"bytes (\d+)-\d*/(\d+|\*)")

Shown = Callable[[int, int], object]  # called with the bytes that are there, and with those of the whole file or 0


@dataclass(frozen=True)
class RemoteFile:
    """A file on the web, and what is known of it."""

    name: str
    urls: tuple[str, ...]  # the publisher's, then mirrors of the same content
    bytes: int = 0  # 0: not known
    md5: str = ""
    sha256: str = ""

    @property
    def digest(self) -> tuple[str, str]:
        """The kind and the value of its checksum, the stronger if there are two; both empty if none is known."""
        return ("sha256", self.sha256) if self.sha256 else ("md5", self.md5) if self.md5 else ("", "")


class _Interrupted(Exception):
    """A connection that ended early, or did not come about; another attempt may succeed, after `pause` seconds."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class _Refused(Exception):
    """A mirror that does not have the file, or has another one."""


def download(file: RemoteFile, folder: Path, shown: Shown = lambda done, total: None) -> Path:
    """Fetch a file into a folder, unless it is there. Returns its path, under which only the right content ever stands.

    Raises DownloadError for a file that is there with other content and where every mirror has another file, and
    LostSourceError where no mirror answers to the end: what has arrived is kept, and the same call resumes.
    """
    target, seconds = folder / file.name, silence()
    if target.is_file():
        if reason := _difference(target, file):
            raise DownloadError(f"{target}: is another file ({reason}); remove it, and run the same command again")
        return target
    with restricted():
        folder.mkdir(parents=True, exist_ok=True)
    part, reasons, lost = _Part(folder / f".{file.name}.part"), [], False
    for url in file.urls:
        try:
            _fetch(url, file, part, seconds, shown)
            os.replace(part.path, target)
            part.forget()
            return target
        except (_Interrupted, _Refused) as error:
            lost = lost or isinstance(error, _Interrupted)
            reasons.append(f"{urlsplit(url).netloc}: {error}")
    text = f"{file.name}: cannot be downloaded ({'; '.join(reasons)}). "
    if lost:
        raise LostSourceError(f"{text}{AGAIN} later, or set HTTPS_PROXY if this machine needs a proxy")
    raise DownloadError(f"{text}Get it by hand, and put it into {folder}")


def size_of(url: str) -> int:
    """The bytes of the file at an address, as its server says without sending it; 0 if it does not say."""
    try:
        with _answer(url, {}, silence(), "HEAD") as answer:
            return _number(answer.headers.get("Content-Length"))
    except (_Interrupted, _Refused):
        return 0


def read_small(url: str, limit: int = 1 << 22) -> Any:
    """The value in a small JSON file at an address. Raises LostSourceError, and DownloadError for anything else there."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with _answer(url, {}, silence()) as answer:
                return parse_json(b"".join(_chunks(answer, silence(), limit)))
        except _Interrupted as error:
            if attempt == ATTEMPTS:
                raise LostSourceError(f"{url}: cannot be read ({error}); run the same command again later") from None
            time.sleep(_pause(error, attempt))
        except (_Refused, ValueError) as error:
            raise DownloadError(f"{url}: is not what was expected ({first_line(error)})") from None
    raise AssertionError("the last attempt returns or raises")


def silence() -> float:
    """The seconds that a server may be silent. Raises ConfigError for a variable that is no number above 0."""
    text = os.environ.get(VARIABLE, str(SECONDS))
    if not re.fullmatch(r"\d{1,5}(\.\d+)?", text) or not float(text):
        raise ConfigError(f"the environment variable {VARIABLE} must be a number of seconds above 0, not {text[:40]!r}")
    return float(text)


# One mirror --------------------------------------------------------------------------------------------------


@dataclass
class _Part:
    """What has arrived of a file, and where from."""

    path: Path
    known: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.record = self.path.with_name(f"{self.path.name}.json")
        with contextlib.suppress(OSError, ValueError):
            state = read_json(self.record)
            self.known = state if isinstance(state, dict) else {}

    @property
    def size(self) -> int:
        """The bytes that have arrived."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def describe(self, **known: Any) -> None:
        """Record where the content comes from."""
        if known != self.known:
            self.known = known
            write_json(self.record, known)

    def forget(self) -> None:
        """Remove what has arrived."""
        self.path.unlink(missing_ok=True)
        self.record.unlink(missing_ok=True)
        self.known = {}


def _fetch(url: str, file: RemoteFile, part: _Part, seconds: float, shown: Shown) -> None:
    """The whole file in `part`, verified. Raises _Interrupted where attempts in a row bring nothing new, and _Refused."""
    failures, most, resumed = 0, part.size, bool(part.size)
    while True:
        try:
            _receive(url, file, part, seconds, shown)
            reason = _difference(part.path, file)
            if not reason:
                return
            part.forget()
            if not resumed:
                raise _Refused(reason)
            resumed, most = False, 0  # the beginning may have been of another version: once more from there
        except _Interrupted as error:
            gained = part.size >= most + GAIN
            failures = 1 if gained else failures + 1
            most, resumed = max(most, part.size), resumed or part.size > 0
            pause = _pause(error, failures)
            if failures >= ATTEMPTS or pause > LONGEST_PAUSE:
                raise
            time.sleep(pause)


def _receive(url: str, file: RemoteFile, part: _Part, seconds: float, shown: Shown) -> None:
    """Add to `part` what one connection brings, until the file is whole. Raises _Interrupted and _Refused."""
    start, validator = part.size, part.known.get("validator", "") if part.known.get("url") == url else ""
    if start and not (validator or file.digest[1]):  # nothing would tell whether the rest is of the same version
        start = 0
    if start and start == file.bytes:
        return
    headers = {"Range": f"bytes={start}-", **({"If-Range": validator} if validator else {})} if start else {}
    with _answer(url, headers, seconds) as answer:
        if answer.status == 416:  # nothing is left: the file is whole, or is another one now
            if answer.headers.get("Content-Range", "") == f"bytes */{start}":
                return
            part.forget()
            raise _Interrupted("the file there has changed")
        start, total = _extent(answer, start)
        _require_file(answer.headers, file, total)
        if start and validator and _validator(answer.headers) != validator:
            part.forget()
            raise _Interrupted("the file there has changed")
        with restricted(), open(part.path, "r+b" if part.path.exists() else "wb") as out:
            out.truncate(start)
            out.seek(start)
            part.describe(url=url, validator=_validator(answer.headers))
            total = total or file.bytes
            for chunk in _chunks(answer, seconds, total - start if total else None):
                out.write(chunk)
                out.flush()  # a killed command keeps what has arrived
                shown(out.tell(), total)
            arrived = out.tell()
    if total and arrived != total:
        raise _Interrupted(f"the connection ended after {arrived:,} of {total:,} bytes")


def _extent(answer: http.client.HTTPResponse, start: int) -> tuple[int, int]:
    """Where the content of an answer starts, and the bytes of the whole file, or 0. Raises _Interrupted for another range."""
    if answer.status != 206:
        return 0, _number(answer.headers.get("Content-Length"))
    match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if not match or int(match[1]) != start:
        raise _Refused("the server sent another part of the file than it was asked for")
    return start, _number(match[2])


def _require_file(headers: Message, file: RemoteFile, total: int) -> None:
    """Raises _Refused where what is offered cannot be the file."""
    if file.bytes and total and total != file.bytes:
        raise _Refused(f"it offers {total:,} bytes, and {file.bytes:,} are expected")
    if headers.get_content_type() == "text/html" and not file.name.endswith((".html", ".htm")):
        raise _Refused("it answers with a web page, not with the file")


def _validator(headers: Message) -> str:
    """What tells a version of the file from others, for If-Range: a strong ETag, else the time of the last change."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def _difference(path: Path, file: RemoteFile) -> str:
    """How a file differs from what is known of it; empty if it does not."""
    if file.bytes and (size := path.stat().st_size) != file.bytes:
        return f"{size:,} bytes, and {file.bytes:,} are expected"
    kind, expected = file.digest
    if not kind:
        return ""
    with open(path, "rb") as content:
        digest = hashlib.file_digest(content, kind).hexdigest()
    return "" if digest == expected else f"its {kind.upper()} is {digest}, and {expected} is expected"


# The wire ----------------------------------------------------------------------------------------------------


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but none from https to anything else."""

    def redirect_request(self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise _Refused(f"it leads from https to {newurl.partition(':')[0]}, which nobody protects")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextlib.contextmanager
def _answer(url: str, headers: dict[str, str], seconds: float, method: str = "GET") -> Iterator[Any]:
    """An answer with the status 200, 206 or 416. Raises _Interrupted and _Refused for others, and inside the block."""
    local = [urllib.request.ProxyHandler({})] if is_loopback(urlsplit(url).hostname or "") else []
    fields = {"User-Agent": "mrm", "Accept-Encoding": "identity", **headers}
    try:
        opener = urllib.request.build_opener(_Redirects, *local)
        answer = opener.open(urllib.request.Request(url, headers=fields, method=method), timeout=seconds)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            error.close()
            raise _failure(error) from None
        answer = error
    except (OSError, http.client.HTTPException) as error:  # URLError too
        cause = getattr(error, "reason", error)
        raise _Interrupted("no answer in time" if isinstance(cause, TimeoutError) else first_line(cause)) from None
    with answer:
        yield answer


def _failure(error: urllib.error.HTTPError) -> Exception:
    """What an answer with an error status means: another attempt may succeed, or this mirror does not have the file."""
    if error.code not in BUSY:
        return _Refused(f"{error.code} {error.reason}")
    text = error.headers.get("Retry-After", "")
    pause = float(text) if re.fullmatch(r"\d{1,9}", text) else None
    return _Interrupted(f"{error.code} {error.reason}{f', again after {pause:,.0f} s' if pause else ''}", pause)


def _chunks(answer: http.client.HTTPResponse, seconds: float, limit: int | None) -> Iterator[bytes]:
    """The content as it arrives, at most `limit` bytes. Raises _Interrupted where it stalls, and _Refused for more than that."""
    left, since, waited = limit, time.monotonic(), 0
    while True:
        try:
            chunk = answer.read1(CHUNK)
        except TimeoutError:
            raise _Interrupted(f"nothing came for {seconds:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise _Interrupted(f"the connection ended ({first_line(error)})") from None
        if not chunk:
            return
        if left is not None and len(chunk) > left:
            raise _Refused("it sends more bytes than the file has")
        left, waited = left - len(chunk) if left is not None else None, waited + len(chunk)
        yield chunk
        if (now := time.monotonic()) - since > seconds:
            if waited < SLOWEST * seconds:
                raise _Interrupted(f"only {waited:,} bytes came in {seconds:g} s")
            since, waited = now, 0


def _pause(error: _Interrupted, failures: int) -> float:
    """The seconds to wait before the next attempt: those that the server asks for, else twice as many each time."""
    return PAUSE * 2 ** (failures - 1) if error.pause is None else error.pause


def _number(text: str | None) -> int:
    """A number of bytes in a header; 0 if there is none."""
    return int(text) if text and re.fullmatch(r"\d{1,18}", text) else 0
