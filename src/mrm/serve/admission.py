"""Which requests are admitted, how much memory they reserve, and how one is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mrm.serve.limits import Limits

RETRY_LATER = {"Retry-After": "1"}  # seconds; the next place is free as soon as one request is answered


class Refused(Exception):
    """A request that is refused: its HTTP status, and the reason that the client is told."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, dict(headers or {})

    def __reduce__(self) -> tuple[Any, ...]:
        """For the way back from the process that decodes."""
        return Refused, (self.status, self.reason, self.headers)


@dataclass
class Admission:
    """How many requests are in progress, and how many bytes they hold. Used by the event loop only, so without a lock."""

    limits: Limits
    in_progress: int = 0
    reserved_bytes: int = 0
    by_address: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def admit(self, address: str = "") -> Iterator[Reservation]:
        """Admit one request while the context lasts. Raises Refused (503) if too many are in progress."""
        if self.in_progress >= self.limits.max_requests:
            raise Refused(503, f"{self.in_progress} requests are in progress; try again later", RETRY_LATER)
        if self.by_address[address] >= self.limits.requests_per_address:
            reason = f"{self.by_address[address]} requests from this address are in progress; try again later"
            raise Refused(503, reason, RETRY_LATER)
        self.in_progress += 1
        self.by_address[address] += 1
        reservation = Reservation(self)
        try:
            yield reservation
        finally:
            self.in_progress -= 1
            self.by_address -= Counter([address])
            self.reserved_bytes -= reservation.bytes


@dataclass
class Reservation:
    """The bytes that one request holds; released when the request ends."""

    admission: Admission
    bytes: int = field(default=0, init=False)

    def add(self, count: int) -> None:
        """Reserve `count` more bytes. Raises Refused (503) if all requests together would hold too many."""
        if self.admission.reserved_bytes + count > self.admission.limits.memory_bytes:
            reason = "the requests in progress hold all the memory set aside for them; try again later"
            raise Refused(503, reason, RETRY_LATER)
        self.admission.reserved_bytes += count
        self.bytes += count
