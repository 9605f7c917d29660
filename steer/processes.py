"""One command in several processes, as torchrun starts them: the first one speaks and writes.

All of them compute, each with its part of the weights, and all get the same numbers.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def several() -> bool:
    """Whether torchrun started this process; other programs set RANK too."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def follows() -> bool:
    """Whether another process speaks and writes for this one."""
    return several() and os.environ.get("RANK", "0") != "0"


def silence_followers() -> None:
    """Let only the first process be heard; a failure shows in the exit status of each."""
    if follows():
        sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  (to the end)
