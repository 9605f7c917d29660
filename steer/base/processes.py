"""What a command finds as it starts: its streams, and whether others run it at the same time.

Of the processes that torchrun starts the first one speaks and writes. All of them compute, each
with its part of the weights, and all get the same numbers.
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
    """Whether another process speaks and writes for this one."""
    return several() and os.environ.get("RANK", "0") != "0"


def silence_followers() -> None:
    """Let only the first process be heard; a failure shows in the exit status of each."""
    if follows():
        sys.stdout = sys.stderr = Path(os.devnull).open(  # noqa: SIM115  (to the end)
            "w", encoding="utf-8"
        )


def restart_in_utf8() -> None:
    """Start this process again in Python's UTF-8 mode, where its locale knows ASCII alone.

    Texts on the command line, names of files and both streams are UTF-8 then, as they are in all
    other locales of today. Does nothing where the locale can say more.
    """
    if codecs.lookup(sys.getfilesystemencoding()).name == "ascii" and not sys.flags.utf8_mode:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


@contextmanager
def hearing_interrupts() -> Iterator[None]:
    """For the block Ctrl-C is heard, also where a library that is being imported catches it.

    Raises:
        KeyboardInterrupt: it came, whatever the block made of it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = False

    def hear(_number: int, _frame: FrameType | None) -> None:
        nonlocal came
        came = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, hear)
    try:
        yield
    except BaseException:
        if came:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def open_streams() -> None:
    """Have each stream, also one that was closed; what one cannot encode is escaped."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            devnull = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115  (to the end)
            setattr(sys, name, devnull)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # files


def silence_stdout() -> None:
    """Let what could not be written be forgotten, so that the end does not try it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
