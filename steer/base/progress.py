"""Progress reports of long work: what it is doing, and how long it will take.

Library functions take a `Progress` and open a phase for each kind of work:

    with progress("sampling texts", 240) as advance:
        for batch in batches:
            ...
            advance(len(batch))

The command line shows a bar on a terminal and `Lines` elsewhere; `silent` shows nothing. In a
notebook `steer.Lines(print)` prints a line now and then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

#: A phase that ends sooner than this many seconds writes no line.
QUIET = 3.0
#: Seconds between the lines of a phase.
EVERY = 30.0


#: Draws the progress as a rich renderable of a given width, in columns.
Picture = Callable[[int], Any]


class Advance(Protocol):
    """Counts finished units of a phase.

    note: the current step. picture: what a terminal may draw beside the bar.
    """

    def __call__(
        self, count: float, note: str | None = None, picture: Picture | None = None
    ) -> None: ...


class Progress(Protocol):
    """Opens a phase of `total` units; the phase ends with the block."""

    def __call__(self, activity: str, total: int, /) -> AbstractContextManager[Advance]: ...


@contextmanager
def silent(activity: str, total: int) -> Iterator[Advance]:
    """A `Progress` that shows nothing."""
    yield lambda count, note=None, picture=None: None


class Phase:
    """The progress of a phase, and an estimate of the time that remains.

    started: in seconds, by the same clock as the argument of `line`.
    """

    def __init__(self, activity: str, total: int, started: float) -> None:
        self.activity, self.total, self.started = activity, total, started
        self.done, self.note = 0.0, ""

    def advance(self, count: float, note: str | None = None) -> None:
        """Count finished units."""
        self.done += count
        if note is not None:
            self.note = note

    def remaining(self, now: float) -> float | None:
        """Seconds that remain at the pace so far; None before the first unit is finished."""
        if self.done <= 0:
            return None
        return (now - self.started) * max(0, self.total - self.done) / self.done

    def line(self, now: float) -> str:
        """`sampling texts: 64 of 240, about 2 min left`."""
        left = self.remaining(now)
        parts = [f"{self.done:,.0f} of {self.total:,}"]
        parts += [self.note] if self.note else []
        if left is None:
            parts.append(f"{duration(now - self.started)} so far")
        else:
            parts.append(f"about {duration(left)} left")
        return f"{self.activity}: {', '.join(parts)}"


class Lines:
    """A `Progress` of plain lines, for a log.

    The first line comes after `quiet` seconds, the next as soon as the end can be estimated, and
    then one every `every` seconds, even while a single unit takes longer.
    """

    def __init__(
        self, write: Callable[[str], None], *, quiet: float = QUIET, every: float = EVERY
    ) -> None:
        self._write, self._quiet, self._every = write, quiet, every

    @contextmanager
    def __call__(self, activity: str, total: int, /) -> Iterator[Advance]:
        phase = Phase(activity, total, time.monotonic())
        changed, over = threading.Condition(), False

        def is_over() -> bool:
            return over

        def says_more() -> bool:
            return over or phase.done > 0

        def report() -> None:
            with changed:
                changed.wait_for(is_over, self._quiet)
                while not over:
                    self._write(phase.line(time.monotonic()))
                    # A line before the first finished unit has no estimate: print one soon.
                    changed.wait_for(is_over if phase.done else says_more, self._every)

        def advance(count: float, note: str | None = None, picture: Picture | None = None) -> None:
            with changed:
                phase.advance(count, note)
                changed.notify()

        reporter = threading.Thread(target=report, daemon=True)
        reporter.start()
        try:
            yield advance
        finally:
            with changed:
                over = True
                changed.notify()
            reporter.join()


@contextmanager
def slow(write: Callable[[str], None], activity: str, quiet: float = QUIET) -> Iterator[None]:
    """Write one line if the block takes longer than `quiet` seconds."""
    timer = threading.Timer(quiet, write, [f"{activity} ..."])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def duration(seconds: float) -> str:
    """`8 s`, `2 min`, `1 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
