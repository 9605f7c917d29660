"""What `test_distill.py` starts: distillations that are killed at any moment (`killing`)."""

from __future__ import annotations

from pathlib import Path

import killing
import tiny

from steer.base.journal import Journal
from steer.distillation import lessons
from steer.distillation.distill import distill
from steer.distillation.lessons import Conditions
from steer.distillation.settings import DistillSettings
from steer.vectors import store

SETTINGS = DistillSettings(
    name="x", rank=2, steps=10, samples=32, held_out=16, max_tokens=12, batch_size=4
)


def main() -> None:
    lessons.SAMPLED_TOGETHER = 8
    model = tiny.model("llama")

    def distilled(path: Path) -> None:
        kept = Journal(path.with_suffix(".journal"))
        vector = distill(model, Conditions("w5 w9 w33"), ["w4 w7"], SETTINGS, kept=kept)
        store.write(path, vector, force=True)

    def pieces(path: Path) -> int:
        return len(Journal(path.with_suffix(".journal")))

    # The last descent is not kept, and takes a while.
    killing.main(distilled, pieces, suffix=".safetensors", growth=1.3)


if __name__ == "__main__":
    main()
