"""What the service counts of its work, as Prometheus reads it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping

BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds


class Counts:
    """Requests by path and status, and how long they took. Paths are those of the service, never what was asked."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.buckets: dict[str, list[int]] = {}

    def add(self, path: str, status: int, seconds: float) -> None:
        """Count one answer."""
        self.requests[path, status] += 1
        self.seconds[path] += seconds
        self.buckets.setdefault(path, [0] * (len(BOUNDS) + 1))[bisect_left(BOUNDS, seconds)] += 1

    def text(self, gauges: Mapping[str, tuple[str, str, float]]) -> str:
        """Prometheus text; `gauges` are other values by name, each with its type, what it is, and its value."""
        lines = _head("mrm_requests_total", "counter", "Requests answered, by path and HTTP status.")
        for (path, status), count in sorted(self.requests.items()):
            lines.append(f'mrm_requests_total{{path="{path}",status="{status}"}} {count}')
        lines += _head("mrm_request_seconds", "histogram", "Time from the first byte of a request to its answer.")
        for path, buckets in sorted(self.buckets.items()):
            lines += _histogram("mrm_request_seconds", path, buckets, self.seconds[path])
        for name, (kind, about, value) in gauges.items():
            lines += [*_head(name, kind, about), f"{name} {value:g}"]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, about: str) -> list[str]:
    return [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]


def _histogram(name: str, path: str, buckets: list[int], seconds: float) -> list[str]:
    lines, total = [], 0
    for bound, count in zip([*(f"{b:g}" for b in BOUNDS), "+Inf"], buckets, strict=True):
        total += count
        lines.append(f'{name}_bucket{{path="{path}",le="{bound}"}} {total}')
    return [*lines, f'{name}_sum{{path="{path}"}} {seconds:.6f}', f'{name}_count{{path="{path}"}} {total}']
