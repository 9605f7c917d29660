"""What the server counts, as Prometheus reads it. No torch."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

#: Seconds, upper bounds of the classes of a histogram.
_BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_HELP = {
    "steer_requests_total": ("counter", "Requests, by path and status."),
    "steer_prompt_tokens_total": ("counter", "Tokens of prompts that were read."),
    "steer_generated_tokens_total": ("counter", "Tokens that were written."),
    "steer_steered_texts_total": ("counter", "Texts that were written under a steer."),
    "steer_idle_steers_total": ("counter", "Steers that acted nowhere in a text."),
    "steer_texts_running": ("gauge", "Texts that are being written."),
    "steer_texts_waiting": ("gauge", "Texts that wait for their turn."),
}


class Metrics:
    """Counters and gauges, for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._seconds: Counter[float] = Counter()
        self._gauges: dict[str, Callable[[], float]] = {}

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        """Count."""
        inside = ",".join(f'{key}="{text}"' for key, text in labels.items())
        with self._lock:
            self._counts[f"{name}{{{inside}}}" if inside else name] += value  # type: ignore[assignment]

    def gauge(self, name: str, value: Callable[[], float]) -> None:
        """What is asked when somebody looks."""
        self._gauges[name] = value

    def observe(self, seconds: float) -> None:
        """How long a request took."""
        with self._lock:
            self._seconds.update([next((one for one in _BOUNDS if seconds <= one), float("inf"))])
            self._counts["steer_request_seconds_sum"] += seconds  # type: ignore[assignment]
            self._counts["steer_request_seconds_count"] += 1

    def text(self) -> str:
        """All of it, in Prometheus' text format."""
        with self._lock:
            counts, seconds = dict(self._counts), dict(self._seconds)
        lines = []
        for name, (kind, told) in _HELP.items():
            lines += [f"# HELP {name} {told}", f"# TYPE {name} {kind}"]
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
