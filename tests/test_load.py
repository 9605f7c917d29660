"""A short load: what `tests/benchmarks/serve.py` does at length."""

from __future__ import annotations

import loading


def test_a_server_under_load_answers_each_client_rightly() -> None:
    known = loading.cases(16, max_tokens=16)
    assert len({case.text for case in known}) > 10
    with loading.serving() as server:
        report = loading.load_server(server, known, 60, 16)
    assert report.wrong == []
    assert sum(report.counts.values()) == 60
    assert len(report.counts) == 5
    assert report.memory[-1] < report.memory[0] + 200_000_000
