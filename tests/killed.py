"""What `test_resume.py` starts: recordings that are killed at any moment (`killing`)."""

from __future__ import annotations

from pathlib import Path

import killing
import tiny
from recorded import pairs

from steer.extraction import ReadSettings, plan, record_contrasts
from steer.fitting.activations import resume
from steer.hooks import record
from steer.workers import LocalWorker

PAIRS = [(f"w{i} w{i + 7} w{i + 9}", f"w{i} w{i + 20} w{i + 3}") for i in range(3, 39)]


def main() -> None:
    record.token_budget = lambda model: 24  # two or three passages a batch
    model = tiny.model("llama")
    planned = plan(model, pairs(*PAIRS), ReadSettings())

    def recorded(path: Path) -> None:
        with record_contrasts(LocalWorker(model), planned, path):
            pass

    def passages(path: Path) -> int:
        with resume(path, planned.recording) as kept:
            return int(kept.done().sum())

    killing.main(recorded, passages)


if __name__ == "__main__":
    main()
