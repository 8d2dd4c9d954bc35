"""How much the service takes on at once, and how it says no."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

from mrm.system.errors import ConfigError

MEGA = 1_000_000
LATER = {"Retry-After": "1"}  # seconds; a place is free again as soon as one request is answered


@dataclass(frozen=True)
class Limits:
    """How much the service takes on; what goes beyond is refused with a reason. Raises ConfigError."""

    body_mb: float = 64.0  # megabytes of one request; more is answered 413
    megapixels: float = 32.0  # of one image, by its header, before it is decoded; more is answered 422
    seconds: float = 30.0  # for one request, from its first byte to its answer; more is answered 504
    queue: int = 64  # requests taken in at once; others are answered 503 and may try again
    held_mb: float = 512.0  # megabytes of requests and images held at once; others are answered 503
    batch: int = 16  # images that go through a classifier together
    wait_ms: float = 5.0  # milliseconds for which an image waits for others to make a batch
    readers: int = 2  # images decoded at once

    def __post_init__(self) -> None:
        for one in fields(self):
            value, least = getattr(self, one.name), 0 if one.name == "wait_ms" else 1e-3
            if not least <= value < float("inf"):
                raise ConfigError(f"limits: {one.name} must be above 0, not {value}")
        if self.held_mb < self.body_mb:
            raise ConfigError(f"limits: held_mb ({self.held_mb:g}) leaves no room for one body of {self.body_mb:g}")

    @property
    def body_bytes(self) -> int:
        """The most bytes of one request."""
        return round(self.body_mb * MEGA)

    @property
    def pixels(self) -> int:
        """The most pixels of one image."""
        return round(self.megapixels * MEGA)


class Refused(Exception):
    """A request that is not done: the HTTP status, and the reason that its sender is told."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, dict(headers or {})


@dataclass
class Room:
    """Who is inside, and how many bytes they hold. Used by the event loop alone, so it needs no lock."""

    limits: Limits
    inside: int = 0
    held: int = 0

    @contextmanager
    def place(self) -> Iterator[Hold]:
        """A place for one request. Raises Refused (503) where all are taken."""
        if self.inside >= self.limits.queue:
            raise Refused(503, f"{self.inside} requests are being worked on; try again", LATER)
        self.inside += 1
        hold = Hold(self)
        try:
            yield hold
        finally:
            self.inside -= 1
            self.held -= hold.bytes


@dataclass
class Hold:
    """The bytes that one request holds; given back when it leaves its place."""

    room: Room
    bytes: int = field(default=0, init=False)

    def add(self, count: int) -> None:
        """Hold `count` bytes more. Raises Refused (503) where others hold too many."""
        if self.room.held + count > self.room.limits.held_mb * MEGA:
            raise Refused(503, "the requests being worked on hold all the memory set aside; try again", LATER)
        self.room.held += count
        self.bytes += count
