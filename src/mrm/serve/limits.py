"""How much the service takes on."""

from __future__ import annotations

from dataclasses import dataclass, fields

from mrm.system.errors import ConfigError

MEGA = 1_000_000
CONNECTIONS_PER_REQUEST = 8  # open connections for each request that may be in progress
MAY_BE_ZERO = ("batch_wait_ms",)


@dataclass(frozen=True)
class Limits:
    """How much the service takes on; requests beyond a limit are refused with a reason. Raises ConfigError."""

    body_mb: float = 64.0  # megabytes of one request; a larger one is answered 413
    megapixels: float = 32.0  # of one image, read from its header before it is decoded; a larger one is answered 422
    timeout_seconds: float = 30.0  # for one request, from its first byte to its answer; then it is answered 504
    max_requests: int = 64  # requests in progress at once; further ones are answered 503 and may try again
    memory_mb: float = 512.0  # megabytes of requests and images held at once; further requests are answered 503
    batch_size: int = 16  # images that go through a classifier together, at most
    batch_wait_ms: float = 5.0  # milliseconds that an image waits for others to form a batch
    decode_processes: int = 2  # images decoded at once
    decode_seconds: float = 10.0  # for decoding one image; then its process is killed and the request answered 422
    decode_memory_mb: float = 640.0  # megabytes to decode one image; 32 megapixels of 16 bits take about 400
    headers_seconds: float = 10.0  # for the headers of a request to arrive; then the connection is closed
    requests_per_address: int = 32  # requests in progress from one address; further ones are answered 503

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in MAY_BE_ZERO and value == 0:
                continue
            if not 1e-3 <= value < float("inf"):
                raise ConfigError(f"limits: {field.name} must be a number above 0, not {value}")
        if self.memory_mb < self.body_mb:
            raise ConfigError(
                f"limits: memory_mb ({self.memory_mb:g}) must be at least body_mb ({self.body_mb:g}), "
                "or no request of that size could be taken"
            )

    @property
    def body_bytes(self) -> int:
        """The maximum number of bytes of one request."""
        return round(self.body_mb * MEGA)

    @property
    def memory_bytes(self) -> float:
        """The maximum number of bytes held by all requests together."""
        return self.memory_mb * MEGA

    @property
    def decode_memory_bytes(self) -> int:
        """The maximum number of bytes that decoding one image may take."""
        return round(self.decode_memory_mb * MEGA)

    @property
    def connections(self) -> int:
        """The maximum number of open connections; beyond it, a new one takes the place of one without a request."""
        return CONNECTIONS_PER_REQUEST * self.max_requests

    @property
    def connections_per_address(self) -> int:
        """The maximum number of open connections from one address."""
        return max(1, self.connections // 2)

    @property
    def pixels(self) -> int:
        """The maximum number of pixels of one image."""
        return round(self.megapixels * MEGA)
