"""Connections: how many there may be, how long each may take to say what it wants, and which gives way to a new one.

A connection costs nothing to open and, left alone, may stay for ever. So the headers of a request have a deadline, and
so has an answer that is not taken. If there are too many connections, the new one takes the place of the one that
has been waiting longest without a request of its own; connections whose request is in progress are never closed for others.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mrm.serve.limits import Limits


class Connections:
    """The open connections of the service. Used by the event loop only, so without a lock."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.closed_early = 0
        self._open: dict[GuardedProtocol, None] = {}  # in the order in which they were last used
        self._by_address: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def protocol(self, **options: Any) -> GuardedProtocol:
        """A protocol for one connection: what uvicorn calls for each."""
        return GuardedProtocol(self, **options)

    def add(self, connection: GuardedProtocol) -> None:
        """Count a new connection, and close another one if there are too many, of its address or altogether."""
        self._open[connection] = None
        self._by_address[connection.address] += 1
        if self._by_address[connection.address] > self.limits.connections_per_address:
            self._close_one(connection.address)
        elif len(self._open) > self.limits.connections:
            self._close_one(None)

    def used(self, connection: GuardedProtocol) -> None:
        """Note that a connection has received a whole request."""
        if connection in self._open:
            self._open[connection] = self._open.pop(connection)

    def remove(self, connection: GuardedProtocol) -> None:
        """Forget a connection that has ended."""
        if connection in self._open:
            del self._open[connection]
            self._by_address -= Counter([connection.address])

    def _close_one(self, address: str | None) -> None:
        """Close the connection that has waited longest without a request; the newest, if all others have one."""
        idle = (c for c in self._open if not c.busy and address in (None, c.address))
        connection = next(idle, None) or next(reversed(self._open))
        self.closed_early += 1
        self.remove(connection)
        connection.transport.abort()


class GuardedProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, with deadlines for headers, for refused bodies, and for answers that nobody takes."""

    def __init__(self, guard: Connections, **options: Any) -> None:
        super().__init__(**options)
        self._guard = guard
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self.address = ""

    @property
    def busy(self) -> bool:
        """Whether a request is being received or answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.address = peer[0] if isinstance(peer, tuple) else ""
        self._expect_headers()
        self._guard.add(self)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._guard.used(self)
        self._expect_headers()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._guard.remove(self)
        for timer in (self._deadline, self._stalled):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self._guard.limits.timeout_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        # What is left of the answer is sent first; a client that does not take it has as long as for headers.
        self.loop.call_later(self._guard.limits.headers_seconds, self.transport.abort)

    def _expect_headers(self) -> None:
        """Set a deadline if a request has begun and its headers are not complete, or if it was refused and still arrives."""
        state = self.conn.their_state
        begun = state is h11.IDLE and (self.cycle is None or bool(self.conn.trailing_data[0]))
        refused = state is h11.SEND_BODY and not self.busy
        if not (begun or refused):
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self._guard.limits.headers_seconds, self.transport.abort)


def allow_open_files(count: int) -> None:
    """Raise this process's own limit of open files, where the system allows it: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
