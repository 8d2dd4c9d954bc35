"""What every request passes: who may ask, how many at once, for how long; and what every answer carries."""

from __future__ import annotations

import asyncio
import hmac
import sys
import time
import traceback
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mrm.serve.counts import Counts
from mrm.serve.limits import Limits, Refused, Room

OPEN = ("/", "/page.css", "/page.js", "/health", "/openapi.json")  # what needs no token: nothing of the model is in it
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
class Policy:
    """Who may ask. Without a token only by one of the `hosts`' names, lest a web page reaches a service on loopback

    by a name of its own that it makes point there (DNS rebinding). No hosts: any name.
    """

    token: str | None = None
    hosts: frozenset[str] = frozenset()

    def admit(self, path: str, headers: Headers) -> None:
        """Raises Refused: 401 without the token, 421 by another name."""
        if self.token is not None and path not in OPEN:
            given = headers.get("authorization", "").encode("latin-1")
            if not hmac.compare_digest(given, f"Bearer {self.token}".encode("latin-1")):
                reason = "this service wants its token: Authorization: Bearer TOKEN"
                raise Refused(401, reason, {"WWW-Authenticate": "Bearer"})
        if self.token is None and self.hosts and _host_name(headers.get("host", "")) not in self.hosts:
            raise Refused(421, "this service answers to its own name only; ask for it by the address it printed")


class Gate:
    """Around the whole application: admission, places, the time limit, headers, counts, and what nobody foresaw."""

    def __init__(
        self, app: ASGIApp, policy: Policy, limits: Limits, room: Room, counts: Counts, paths: Collection[str]
    ) -> None:
        self.app, self.policy, self.limits, self.room, self.counts, self.paths = (
            app, policy, limits, room, counts, paths,
        )  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, answer = time.perf_counter(), _Answer(send)
        scope.setdefault("state", {})["uploading"] = scope["method"] == "POST"
        try:
            await self._within_limits(scope, receive, answer)
        except Refused as refused:
            await answer.refuse(scope, refused)
        except Exception as error:
            log(error)
            await answer.refuse(scope, Refused(500, "the service failed; its log says where"))
        path = scope["path"] if scope["path"] in self.paths else "other"
        self.counts.add(path, answer.status, time.perf_counter() - began)

    async def _within_limits(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        self.policy.admit(scope["path"], Headers(scope=scope))
        try:
            async with asyncio.timeout(self.limits.seconds):
                with self.room.place() if scope["method"] == "POST" else nullcontext() as hold:
                    scope["state"]["hold"] = hold
                    await self.app(scope, receive, answer)
        except TimeoutError:
            if scope["state"]["uploading"]:
                raise Refused(408, f"the request took more than {self.limits.seconds:g} s to arrive") from None
            raise Refused(504, f"the answer takes more than {self.limits.seconds:g} s; try again later") from None


class _Answer:
    """Sends an answer with the headers that each carries, and remembers its status."""

    def __init__(self, send: Send) -> None:
        self._send, self.status, self.begun = send, 500, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun, self.status = True, message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
        await self._send(message)

    async def refuse(self, scope: Scope, refused: Refused) -> None:
        """Say no, unless the answer has begun: then the connection breaks off, and the sender sees that."""
        if not self.begun:
            await error_answer(refused)(scope, _nothing, self)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def error_answer(refused: Refused) -> JSONResponse:
    """A refusal as JSON: {"error": reason}."""
    return JSONResponse({"error": refused.reason}, refused.status, refused.headers)


def log(error: BaseException) -> None:
    """Kind and place of an error; never its message, which may quote an image or a report."""
    last: Any = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" at {last[0].filename}:{last[0].lineno}" if last else ""
    print(f"mrm: error: a request failed with {type(error).__name__}{where}", file=sys.stderr, flush=True)


def _host_name(host: str) -> str:
    """`localhost` of `localhost:8000`, `[::1]` of `[::1]:8000`."""
    return host[: host.find("]") + 1] if host.startswith("[") else host.split(":")[0].lower()
