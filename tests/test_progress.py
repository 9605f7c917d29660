"""Laws of progress: long work says how far it is and when it ends, short work says nothing."""

from __future__ import annotations

import re
import threading
import time

import pytest

from steer.base.progress import Lines, Phase, duration, silent
from steer.cli import output


def test_the_time_left_goes_on_at_the_pace_so_far() -> None:
    phase = Phase("reading", 40, started=100.0)
    assert phase.remaining(110.0) is None
    phase.advance(10, "layer 3")
    assert phase.remaining(110.0) == pytest.approx(30)
    assert phase.line(110.0) == "reading: 10 of 40, layer 3, about 30 s left"
    phase.advance(30)
    assert phase.remaining(150.0) == 0


def test_a_short_phase_writes_no_line() -> None:
    written: list[str] = []
    with Lines(written.append)("reading", 2) as advance:
        advance(1)
        advance(1)
    assert written == []


def test_a_long_unit_writes_lines_while_it_lasts() -> None:
    written: list[str] = []
    with Lines(written.append, quiet=0.01, every=0.02)("reading", 2) as advance:
        time.sleep(0.2)
        silent_lines = len(written)
        advance(1)
        time.sleep(0.1)
    assert silent_lines >= 3
    assert all("so far" in line for line in written[:silent_lines])
    assert "left" in written[-1]


def test_the_end_is_estimated_as_soon_as_it_can_be() -> None:
    written: list[str] = []
    with Lines(written.append, quiet=0.01, every=60)("reading", 2) as advance:
        time.sleep(0.1)
        advance(1)
        time.sleep(0.1)
    assert len(written) == 2
    assert re.fullmatch(r"reading: 1 of 2, about \d+ s left", written[1])


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_runs_on_when_the_phase_is_over(fails: bool) -> None:
    before = threading.active_count()
    written: list[str] = []
    try:
        with Lines(written.append, quiet=0.01, every=0.01)("reading", 2):
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    n_lines = len(written)
    time.sleep(0.05)
    assert (threading.active_count(), len(written)) == (before, n_lines)


def test_the_command_line_reports_to_stderr_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "Lines", lambda write: Lines(write, quiet=0.01))
    with output.progress("reading [bold]", 2) as advance:
        advance(1, "now")
        time.sleep(0.1)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("reading [bold]: 1 of 2, now, about ")
    with silent("x", 1) as advance:
        advance(1)


def test_durations_are_written_as_people_say_them() -> None:
    assert [duration(x) for x in (7.6, 89, 119, 5400)] == ["8 s", "89 s", "2 min", "1 h 30 min"]
