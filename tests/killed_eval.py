"""What `test_eval_resume.py` starts: evaluations that are killed at any moment (`killing`)."""

from __future__ import annotations

import json
from pathlib import Path

import killing
import tiny
from test_evaluate import HELD_OUT, WRITING

from steer.base.intervals import plain
from steer.base.journal import Journal
from steer.contrasts.heldout import HeldOut
from steer.evaluation import scoring
from steer.evaluation.evaluations import measure_rows
from steer.evaluation.task import Task, variants


def main() -> None:
    scoring.token_budget = lambda model: 64  # type: ignore[attr-defined]  # a text or two a batch
    model = tiny.model("llama")

    def evaluated(path: Path) -> None:
        rows = variants([tiny.steer(model, 3)], condition="w50 w51")
        done = Journal(path.with_suffix(".journal"))
        rows_measured = measure_rows(model, rows, Task(HeldOut(HELD_OUT), WRITING), done=done)
        figures = [
            [row.variant.label, {name: plain(x) for name, x in row.measures.items()}, row.samples]
            for row in rows_measured
        ]
        path.write_text(json.dumps(figures))

    def pieces(path: Path) -> int:
        return len(Journal(path.with_suffix(".journal")))

    killing.main(evaluated, pieces, suffix=".json", longest=0.5, growth=1.2)


if __name__ == "__main__":
    main()
