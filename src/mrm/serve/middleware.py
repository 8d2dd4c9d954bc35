"""What every request passes: access, admission, the time limit and metrics; and what every answer carries."""

from __future__ import annotations

import asyncio
import hmac
import sys
import time
import traceback
from collections.abc import Collection
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mrm.serve.admission import Admission, Refused
from mrm.serve.limits import Limits
from mrm.serve.metrics import RequestMetrics

# What needs no token: nothing of the model is in it
PUBLIC_PATHS = ("/", "/page.css", "/page.js", "/palette.js", "/health", "/openapi.json")
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
    """Who may send requests: whoever has the bearer token.

    Without a token, requests must address the service by one of the names in `hosts`. Otherwise a web page could reach
    a service on the loopback address by pointing a name of its own there (DNS rebinding). No hosts: any name will do.
    """

    token: str | None = None
    hosts: frozenset[str] = frozenset()

    def check(self, path: str, headers: Headers) -> None:
        """Raises Refused: 401 without the bearer token, 421 for another host name."""
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
        paths: Collection[str],
    ) -> None:
        self.app, self.policy, self.limits = app, policy, limits
        self.admission, self.metrics, self.paths = admission, metrics, paths

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
            log_error(error)
            await answer.refuse(scope, Refused(500, "internal error; the log of the service has the details"))
        path = scope["path"] if scope["path"] in self.paths else "other"
        self.metrics.add(path, answer.status, time.perf_counter() - start)

    async def _within_limits(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        self.policy.check(scope["path"], Headers(scope=scope))
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
        with self.admission.admit() as reservation:
            scope["state"]["reservation"] = reservation
            await self.app(scope, receive, answer)


class _Answer:
    """Sends an answer with the headers that every answer carries, and remembers its status."""

    def __init__(self, send: Send) -> None:
        self._send, self.status, self.started = send, 500, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
        await self._send(message)

    async def refuse(self, scope: Scope, refused: Refused) -> None:
        """Answer with the reason. If an answer has already started, the connection ends, which the client notices."""
        if not self.started:
            await error_answer(refused)(scope, _nothing, self)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def error_answer(refused: Refused) -> JSONResponse:
    """A refusal as JSON: {"error": reason}."""
    return JSONResponse({"error": refused.reason}, refused.status, refused.headers)


def log_error(error: BaseException) -> None:
    """Log the type and place of an error, but never its message, which may quote an image or a report."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    print(f"mrm: error: a request failed with {type(error).__name__}{place}", file=sys.stderr, flush=True)


def _host_name(host: str) -> str:
    """`localhost` of `localhost:8000`, `[::1]` of `[::1]:8000`."""
    return host[: host.find("]") + 1] if host.startswith("[") else host.split(":")[0].lower()
