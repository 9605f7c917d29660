"""Commands that are killed at any moment leave what was there, or what they were to write.

A few times of each; `make kills` does it 200 times, and with servers elsewhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

N = 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks")
def test_kill_9_leaves_old_files_or_new_ones() -> None:
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name("kills.py"), str(N)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == 18 and all(f"{N} kills" in line for line in lines)
    # Some had begun to write.
    assert any("temporary" in line or "between" in line for line in lines)
