"""A measurement fits itself into a time, and says what it leaves out."""

from __future__ import annotations

import itertools

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from steer.base.durations import duration, seconds_of
from steer.base.errors import UsageError
from steer.distillation import time_limit
from steer.distillation.settings import DistillSettings
from steer.evaluation import evaluations, suites, sweeps
from steer.generate.pace import Pace, Size, largest_size, left_out, pace, sizes

counts = st.integers(1, 200)
wholes = st.builds(Size, counts, counts, counts, st.none() | counts)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("5 min", 300), ("1.5h", 5400)]
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds
    assert duration(seconds)


@pytest.mark.parametrize("text", ["", "0", "-5m", "5d", "soon", "nan", "1e9", "5m5s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a time"):
        seconds_of(text)


def work(size: Size) -> float:
    return (size.items + size.samples) * size.max_tokens * (size.layers or 1)


@given(wholes, st.floats(1, 1e6), st.floats(1, 1e6))
def test_more_time_never_leaves_more_out(full: Size, shorter: float, other: float) -> None:
    every = sizes(full)
    assert every[0] == full
    for before, after in itertools.pairwise(every):
        assert work(after) <= work(before)
    less, more = (largest_size(every, work, time)[0] for time in sorted((shorter, other)))
    assert work(less) <= work(more)
    assert largest_size(every, work, 1e9)[0] == full and left_out(full, full, full.layers) == ""
    smallest = largest_size(every, work, 1e-9)[0]
    assert smallest == every[-1]
    assert (left_out(full, smallest, full.layers) == "") == (smallest == full)


def test_a_pace_is_positive() -> None:
    speed = pace(tiny.model("llama"))
    assert speed.read > 0 and speed.written > 0


@pytest.mark.parametrize("method", ["ridge", "descent"])
def test_a_distillation_takes_what_fits(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "pace", lambda model, rows: Pace(read=1000.0, written=100.0))
    settings = DistillSettings(name="x", method=method, samples=100, held_out=20, max_tokens=40)
    notes: list[str] = []
    short, longer, every = (
        time_limit.fit_to_time(time, tiny.model("llama"), settings, notes.append)
        for time in (2, 60, 1e7)
    )
    assert every == settings and "all of it" in notes[2]
    assert short.samples <= longer.samples <= settings.samples and short.samples < settings.samples
    assert 1 <= short.steps <= longer.steps <= settings.steps
    assert ("of 300 steps" in notes[0]) == (method == "descent")


def test_a_suite_takes_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "pace", lambda model: Pace(read=1000.0, written=100.0))
    settings = suites.Settings(("pca",), samples=40, max_tokens=50)
    notes: list[str] = []
    short, every = (
        suites._fit_to_time(time, tiny.model("llama"), 3, settings, notes.append)
        for time in (1, 1e7)
    )
    assert every == settings and "all of it" in notes[1]
    assert (short.samples, short.max_tokens) == (8, 16)
    assert "8 of 40 written texts" in notes[0] and "held-out" not in notes[0]


@pytest.mark.parametrize("module", [sweeps, evaluations])
def test_a_short_time_measures_less_and_says_so(
    module: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "pace", lambda model: Pace(read=100.0, written=10.0))
    model = tiny.model("llama")
    vector = tiny.vector(model, layers=(0, 1))
    rows = [{"positive": f"w5 w{30 + i}", "negative": f"w7 w{30 + i}"} for i in range(20)]
    notes: list[str] = []
    settings = {"samples": 10, "max_tokens": 18, "note": notes.append, "warn": lambda text: None}
    run = module.sweep if module is sweeps else module.evaluate  # type: ignore[attr-defined]
    few = run(model, vector, rows, budget="1s", **settings).to_dict()
    assert few["n"]["texts"] == 8
    [line] = [note for note in notes if "--budget" in note]
    assert "8 of 20 held-out items" in line and "8 of 10 written texts" in line
    notes.clear()
    every = run(model, vector, rows, budget="9h", **settings).to_dict()
    assert every["n"]["texts"] == 10
    assert any("all of it" in note for note in notes)
    with pytest.raises(UsageError, match="not a time"):
        run(model, vector, rows, budget="soon", **settings)
