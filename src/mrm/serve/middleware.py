"""What every request passes: access, admission, the time limit and metrics; and what every answer carries."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mrm.serve.admission import Admission, Refused, Reservation
from mrm.serve.limits import Limits
from mrm.serve.log import Log
from mrm.serve.metrics import RequestMetrics
from mrm.serve.page_files import PATHS

PIECE_BYTES = 1 << 16  # of a long answer
# What needs no token: nothing of the model is in it
PUBLIC_PATHS = frozenset({"/health", *PATHS})
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class AccessPolicy:
    """Who may send requests: whoever has the bearer token, and in a browser the pages of this service alone.

    Without a token, requests must address the service by one of the names in `hosts`. Otherwise a web page could reach
    a service on the loopback address by pointing a name of its own there (DNS rebinding). No hosts: any name will do.
    """

    token: str | None = None
    hosts: frozenset[str] = frozenset()

    def check(self, path: str, headers: Headers) -> None:
        """Raises Refused: 401 without the bearer token, 403 for a page of another site, 421 for another host name."""
        if _is_foreign(headers):
            raise Refused(403, "sent by a page of another site; only the page of this service may send requests")
        if self.token is None:
            if self.hosts and _host_name(headers.get("host", "")) not in self.hosts:
                raise Refused(421, "unknown host name; use the address that the service printed when it started")
            return
        if path in PUBLIC_PATHS:
            return
        authorization = headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(authorization, f"Bearer {self.token}".encode("latin-1")):
            reason = "a bearer token is required; send the header Authorization: Bearer TOKEN"
            raise Refused(401, reason, {"WWW-Authenticate": "Bearer"})


class LimitsMiddleware:
    """Wraps the whole application: access, admission, time limit, headers, metrics, and unexpected errors."""

    def __init__(
        self,
        app: ASGIApp,
        policy: AccessPolicy,
        limits: Limits,
        admission: Admission,
        metrics: RequestMetrics,
        log: Log,
        paths: Collection[str],
    ) -> None:
        self.app, self.policy, self.limits = app, policy, limits
        self.admission, self.metrics, self.log, self.paths = admission, metrics, log, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, answer = time.perf_counter(), _Answer(send)
        scope.setdefault("state", {})["uploading"] = scope["method"] == "POST"
        try:
            await self._within_limits(scope, receive, answer)
        except Refused as refused:
            await answer.refuse(scope, refused)
        except Exception as error:
            self.log.failure(error)
            await answer.refuse(scope, Refused(500, "internal error; the log of the service has the details"))
        path = scope["path"] if scope["path"] in self.paths else "other"
        self.metrics.add(path, answer.status, time.perf_counter() - start)

    async def _within_limits(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        headers = Headers(scope=scope)
        _refuse_two_lengths(headers)
        self.policy.check(scope["path"], headers)
        try:
            async with asyncio.timeout(self.limits.timeout_seconds):
                await self._admitted(scope, receive, answer)
        except TimeoutError:
            seconds = f"{self.limits.timeout_seconds:g} s"
            if scope["state"]["uploading"]:
                raise Refused(408, f"the request took more than {seconds} to arrive") from None
            raise Refused(504, f"the answer took more than {seconds}; try again later") from None

    async def _admitted(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        if scope["method"] != "POST":  # reads no image, so it is answered even if the service is busy
            await self.app(scope, receive, answer)
            return
        with self.admission.admit((scope.get("client") or ("",))[0]) as reservation:
            scope["state"]["reservation"] = answer.reservation = reservation
            try:
                await self.app(scope, receive, answer)
            finally:
                answer.reservation = None


class _Answer:
    """Sends an answer with the headers that every answer carries, and remembers its status.

    A long answer is sent in pieces, each when the client has taken the one before, so that it counts as in progress, in
    memory and in time, until it is taken.
    """

    def __init__(self, send: Send) -> None:
        self._send, self.status, self.started = send, 500, False
        self.reservation: Reservation | None = None
        self._replaced = False

    async def __call__(self, message: Message) -> None:
        if self._replaced:
            return
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            headers = MutableHeaders(scope=message)
            if self.reservation is not None and (refused := self._without_memory(headers)):
                self.reservation = None
                await self.refuse({"type": "http"}, refused, again=True)
                self._replaced = True
                return
            for name, value in HEADERS.items():
                headers[name] = value
        elif len(body := message.get("body", b"")) > PIECE_BYTES:
            more, end = message.get("more_body", False), len(body)
            for at in range(0, end, PIECE_BYTES):
                is_last = at + PIECE_BYTES >= end
                piece = body[at : at + PIECE_BYTES]
                await self._send({"type": message["type"], "body": piece, "more_body": more or not is_last})
            return
        await self._send(message)

    def _without_memory(self, headers: MutableHeaders) -> Refused | None:
        """Reserve the memory of the answer; the refusal if there is not enough."""
        assert self.reservation is not None
        try:
            self.reservation.add(int(headers.get("content-length", "0")))
        except Refused as refused:
            return refused
        return None

    async def refuse(self, scope: Scope, refused: Refused, again: bool = False) -> None:
        """Answer with the reason. If an answer has already started, the connection ends, which the client notices."""
        if again or not self.started:
            await error_answer(refused)(scope, _nothing, self)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def error_answer(refused: Refused) -> JSONResponse:
    """A refusal as JSON: {"error": reason}."""
    return JSONResponse({"error": refused.reason}, refused.status, refused.headers)


def _refuse_two_lengths(headers: Headers) -> None:
    """Refuse a request whose end is stated twice: a proxy may believe the other one and take the rest for a new request.

    The connection is closed, so that nothing that follows is read (RFC 9112, 6.1). Raises Refused (400).
    """
    if "content-length" in headers and "transfer-encoding" in headers:
        reason = "the request has Content-Length and Transfer-Encoding; send one of them"
        raise Refused(400, reason, {"Connection": "close"})


def _is_foreign(headers: Headers) -> bool:
    """Whether a browser says that a page of another site sent this. Following a link to the page is not foreign."""
    site = headers.get("sec-fetch-site")
    if site is not None:  # a browser sets it, and no page can change it
        is_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        return site not in ("same-origin", "none") and not (is_link and "origin" not in headers)
    origin = headers.get("origin")
    return origin is not None and not _is_own(origin, headers.get("host", ""))


def _is_own(origin: str, host: str) -> bool:
    """Whether an origin, `http://localhost:8000`, has the host and port that the request addresses."""
    try:
        theirs, ours = urlsplit(origin), urlsplit(f"//{host}")
        default = {"http": 80, "https": 443}[theirs.scheme]
        return bool(ours.hostname) and (
            (theirs.hostname, theirs.port or default) == (ours.hostname, ours.port or default)
        )
    except (ValueError, KeyError):
        return False


def _host_name(host: str) -> str:
    """`localhost` of `localhost:8000`, `[::1]` of `[::1]:8000`."""
    return host[: host.find("]") + 1] if host.startswith("[") else host.split(":")[0].lower()
