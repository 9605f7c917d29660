"""Two processes that write one name at the same time never leave, or show, half a vector."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

N = 50


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the two are forks")
def test_two_processes_that_write_one_name_do_not_corrupt_it() -> None:
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name("racing.py"), str(N)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    rows = [line.split(": ") for line in run.stdout.splitlines()]
    assert [place for place, _ in rows] == ["written", "pulled", "team", "hf://team/vectors"]
    # That could fail: they did come in each other's way.
    assert all(int(row.split()[2]) > 1 for _, row in rows), run.stdout
