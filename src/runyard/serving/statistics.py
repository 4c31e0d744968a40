"""What a front counts: requests, failures, rows, and latencies in buckets; in a microsecond a request."""

from bisect import bisect_left
from typing import Any, Dict, List

from runyard.protocol.services import Latency, ServiceStatistics

#: Upper ends of the buckets, seconds: 1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.3, 8 times each power of ten.
_STEPS = (1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0, 5.0, 6.3, 8.0)
BUCKETS = tuple(step * 10.0**power for power in range(-5, 2) for step in _STEPS)


class Statistics:
    """Counts of one front."""

    def __init__(self) -> None:
        self.by_status: Dict[int, int] = {}
        self.in_flight = 0
        self.rows = 0
        self._counts: List[int] = [0] * (len(BUCKETS) + 1)
        self._sum_s = 0.0
        self._most_s = 0.0

    def finished(self, status: int, seconds: float) -> None:
        """A request was answered."""
        self.by_status[status] = self.by_status.get(status, 0) + 1
        self._counts[bisect_left(BUCKETS, seconds)] += 1
        self._sum_s += seconds
        if seconds > self._most_s:
            self._most_s = seconds

    def percentile(self, share: float) -> float:
        """The end of the bucket in which that share of the requests is reached, seconds; within a quarter of it."""
        left = share * sum(self._counts)
        if not left:
            return 0.0
        for number, count in enumerate(self._counts):
            left -= count
            if left <= 0:
                return min(BUCKETS[number], self._most_s) if number < len(BUCKETS) else self._most_s
        return self._most_s

    def seen(self) -> ServiceStatistics:
        """All in short."""
        return ServiceStatistics(
            requests=sum(self.by_status.values()),
            failed=sum(count for status, count in self.by_status.items() if status >= 500),
            in_flight=self.in_flight,
            rows=self.rows,
            latency=Latency(self.percentile(0.5), self.percentile(0.9), self.percentile(0.99), self._most_s),
        )

    def exposition(self, service: str, replicas: int) -> str:
        """As Prometheus reads it (text format 0.0.4)."""
        label = f'service="{service}"'
        lines = ["# HELP runyard_requests_total Requests answered.", "# TYPE runyard_requests_total counter"]
        for status, count in sorted(self.by_status.items()):
            lines.append(f'runyard_requests_total{{{label},status="{status}"}} {count}')
        lines += ["# HELP runyard_request_seconds How long they took.", "# TYPE runyard_request_seconds histogram"]
        total = 0
        for end, count in zip(BUCKETS, self._counts, strict=False):
            total += count
            # Each of them, always: one that came up with its first request would hide that from rate().
            lines.append(f'runyard_request_seconds_bucket{{{label},le="{end:g}"}} {total}')
        total += self._counts[-1]
        lines.append(f'runyard_request_seconds_bucket{{{label},le="+Inf"}} {total}')
        lines.append(f"runyard_request_seconds_sum{{{label}}} {self._sum_s:.6f}")
        lines.append(f"runyard_request_seconds_count{{{label}}} {total}")
        gauges: Dict[str, Any] = {"in_flight": self.in_flight, "replicas": replicas}
        for name, value in gauges.items():
            lines += [f"# TYPE runyard_{name} gauge", f"runyard_{name}{{{label}}} {value}"]
        lines += ["# TYPE runyard_rows_total counter", f"runyard_rows_total{{{label}}} {self.rows}"]
        return "\n".join(lines) + "\n"
