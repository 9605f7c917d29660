"""The server's metrics, in Prometheus' format. No torch."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

#: Upper bounds of the histogram's bins, in seconds.
_BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_HELP = {
    "steer_requests_total": ("counter", "Requests, by path and status."),
    "steer_prompt_tokens_total": ("counter", "Prompt tokens."),
    "steer_generated_tokens_total": ("counter", "Generated tokens."),
    "steer_steered_texts_total": ("counter", "Texts generated under a steer."),
    "steer_idle_steers_total": ("counter", "Steers without effect in a text."),
    "steer_texts_running": ("gauge", "Texts in generation."),
    "steer_texts_waiting": ("gauge", "Waiting texts."),
}


class Metrics:
    """Counters and gauges; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._seconds: Counter[float] = Counter()
        self._gauges: dict[str, Callable[[], float]] = {}

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        """Add to a counter."""
        inside = ",".join(f'{key}="{text}"' for key, text in labels.items())
        with self._lock:
            self._counts[f"{name}{{{inside}}}" if inside else name] += value  # type: ignore[assignment]

    def gauge(self, name: str, value: Callable[[], float]) -> None:
        """Register a gauge. value: a function that returns its current value."""
        self._gauges[name] = value

    def observe(self, seconds: float) -> None:
        """Record the duration of a request."""
        with self._lock:
            self._seconds.update(
                [next((bound for bound in _BOUNDS if seconds <= bound), float("inf"))]
            )
            self._counts["steer_request_seconds_sum"] += seconds  # type: ignore[assignment]
            self._counts["steer_request_seconds_count"] += 1

    def text(self) -> str:
        """All metrics in Prometheus' text format."""
        with self._lock:
            counts, seconds = dict(self._counts), dict(self._seconds)
        lines = []
        for name, (kind, description) in _HELP.items():
            lines += [f"# HELP {name} {description}", f"# TYPE {name} {kind}"]
            if name in self._gauges:
                lines.append(f"{name} {self._gauges[name]():g}")
            elif kind == "counter":
                own = {key: n for key, n in counts.items() if key.partition("{")[0] == name}
                lines += [
                    f"{key} {value:.10g}" for key, value in sorted((own or {name: 0}).items())
                ]
        lines.append(
            "# HELP steer_request_seconds Seconds from a request to the end of its answer."
        )
        lines.append("# TYPE steer_request_seconds histogram")
        total = 0
        for bound in (*_BOUNDS, float("inf")):
            total += seconds.get(bound, 0)
            label = "+Inf" if bound == float("inf") else f"{bound:g}"
            lines.append(f'steer_request_seconds_bucket{{le="{label}"}} {total}')
        lines.append(f"steer_request_seconds_sum {counts.get('steer_request_seconds_sum', 0):.6g}")
        lines.append(f"steer_request_seconds_count {total}")
        return "\n".join(lines) + "\n"
