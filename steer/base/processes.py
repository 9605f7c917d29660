"""What a command finds as it starts: its streams, and whether others run it at the same time.

Of the processes that torchrun starts the first one speaks and writes. All of them compute, each
with its part of the weights, and all get the same numbers.
"""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from steer.base.errors import UsageError


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


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse arguments with bytes that are no text, except for names of files that are there.

    Raises:
        UsageError: naming the argument.
    """
    for argument in arguments:
        value = argument.partition("=")[2] if argument.startswith("-") else argument
        try:
            argument.encode()
        except UnicodeEncodeError:
            if not os.path.lexists(value):
                raise UsageError(
                    f"the argument {argument!r} has bytes that are not text in"
                    f" {sys.getfilesystemencoding()}",
                    hint="write it in UTF-8; a file with such a name has to be renamed",
                ) from None


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
