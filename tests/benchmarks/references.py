"""Vectors of rivals for a tiny model and a few pairs, with which `tests/test_references.py`
compares ours.

    python tests/benchmarks/extract.py --setup DIR           makes the rivals' environment in DIR
    python tests/benchmarks/references.py DIR                writes tests/references.json

The model is the tests' own tiny Llama, which is the same wherever it is made.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))
import extract
import tiny

TESTS = Path(__file__).parents[1]

JOBS = {
    "repeng pca_center": {"tool": "repeng", "batch": 8, "method": "pca_center"},
    "steering-vectors mean": {"tool": "steering-vectors", "batch": 1},
}


def main() -> None:
    rng = np.random.default_rng(0)
    references: dict[str, Any] = {"versions": extract.PINNED}
    references["pairs"] = [
        [" ".join(f"w{i}" for i in rng.integers(3, 60, rng.integers(3, 9))) for _ in range(2)]
        for _ in range(24)
    ]
    with tempfile.TemporaryDirectory() as folder:
        tiny.save(Path(folder))
        extract.name_tokenizer_class(Path(folder))
        worker = extract.start_rivals(Path(sys.argv[1]), Path(folder), 1)
        assert worker.stdin and worker.stdout
        for name, job in JOBS.items():
            worker.stdin.write(json.dumps(job | {"pairs": references["pairs"]}) + "\n")
            worker.stdin.flush()
            directions = json.loads(worker.stdout.readline())["directions"]
            references[name] = {
                layer: [float(f"{value:.6g}") for value in row] for layer, row in directions.items()
            }
        worker.stdin.close()
        worker.wait()
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in references.items()]
    (TESTS / "references.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
