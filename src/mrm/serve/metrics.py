"""Metrics of the service in the text format of Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds
REQUESTS, DURATION = "mrm_requests_total", "mrm_request_duration_seconds"


@dataclass(frozen=True)
class Metric:
    """A value at this moment."""

    name: str
    kind: str  # "gauge" or "counter"
    help: str
    value: float


class RequestMetrics:
    """Requests by path and status, and their duration. Paths are the service's own routes, never what a client sent."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.buckets: dict[str, list[int]] = {}

    def add(self, path: str, status: int, seconds: float) -> None:
        """Count one answer."""
        self.requests[path, status] += 1
        self.seconds[path] += seconds
        self.buckets.setdefault(path, [0] * (len(BOUNDS) + 1))[bisect_left(BOUNDS, seconds)] += 1

    def text(self, others: Sequence[Metric]) -> str:
        """These metrics, then `others`, as Prometheus reads them."""
        lines = _head(REQUESTS, "counter", "Requests answered, by path and HTTP status.")
        for (path, status), count in sorted(self.requests.items()):
            lines.append(f'{REQUESTS}{{path="{path}",status="{status}"}} {count}')
        lines += _head(DURATION, "histogram", "Time from the first byte of a request to its answer.")
        for path, buckets in sorted(self.buckets.items()):
            lines += _histogram(path, buckets, self.seconds[path])
        for metric in others:
            lines += [*_head(metric.name, metric.kind, metric.help), f"{metric.name} {metric.value:g}"]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, about: str) -> list[str]:
    return [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]


def _histogram(path: str, buckets: list[int], seconds: float) -> list[str]:
    lines, total = [], 0
    upper_bounds = [f"{bound:g}" for bound in BOUNDS] + ["+Inf"]
    for bound, count in zip(upper_bounds, buckets, strict=True):
        total += count
        lines.append(f'{DURATION}_bucket{{path="{path}",le="{bound}"}} {total}')
    return [*lines, f'{DURATION}_sum{{path="{path}"}} {seconds:.6f}', f'{DURATION}_count{{path="{path}"}} {total}']
