"""The process of a command: its streams, interrupts, and torchrun.

Of the processes that torchrun starts, only the first prints and writes files. All of them compute,
each with its part of the weights, and all get the same numbers.
"""

from __future__ import annotations

import codecs
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


def several() -> bool:
    """Whether torchrun started this process; other programs set RANK too."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def follows() -> bool:
    """Whether another process prints and writes files for this one."""
    return several() and os.environ.get("RANK", "0") != "0"


def silence_followers() -> None:
    """Silence all processes but the first; a failure shows in the exit status of each."""
    if follows():
        sys.stdout = sys.stderr = Path(os.devnull).open(  # noqa: SIM115  (to the end)
            "w", encoding="utf-8"
        )


def restart_in_utf8() -> None:
    """Restart this process in Python's UTF-8 mode if its locale is ASCII only.

    Command-line texts, file names and both streams are then UTF-8, as in other modern locales.
    """
    if codecs.lookup(sys.getfilesystemencoding()).name == "ascii" and not sys.flags.utf8_mode:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


@contextmanager
def hearing_interrupts() -> Iterator[None]:
    """Make Ctrl-C end the block, even if a library that is being imported catches the exception.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, whatever the block did with it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupted = False

    def hear(_number: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, hear)
    try:
        yield
    except BaseException:
        if interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted:
        raise KeyboardInterrupt


def hear_termination() -> None:
    """Make SIGTERM end this process as Ctrl-C does, so that finished work is kept and no file is
    left half written."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def open_streams() -> None:
    """Open closed standard streams, and escape characters that a stream cannot encode."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            devnull = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115  (to the end)
            setattr(sys, name, devnull)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # files


def silence_stdout() -> None:
    """Discard output that could not be written, so that it is not tried again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
