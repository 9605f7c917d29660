"""What a sweep costs beside its cells one at a time: `python tests/benchmarks/sweep.py [MODEL]`.

Every layer with ten coefficients on texts of the model's own: KL from the unsteered model, at the
same positions. One at a time, each cell and text is a forward with its hooks, as `steer apply`
would run it; the sweep runs them as `steer sweep` does. Both in one process, in turns, in seconds
of CPU, which a busy machine does not change much; the numbers have to agree.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[1]))
from recorded import extract, pairs

from steer.contrasts.source import ModelSource
from steer.distillation.recovery import token_kl
from steer.evaluation.batches import Text, drift
from steer.evaluation.scoring import Scorer
from steer.evaluation.sweep import POSITIONS
from steer.evaluation.written import Writing, thinned, write
from steer.hooks.clock import TokenClock
from steer.hooks.inject import injected
from steer.measures.grids import Plan, Row, default_coefficients
from steer.models.model import Model, load

TEXTS = 50
ROUNDS = 3


def swept(model: Model, plan: Plan, texts: Sequence[Text]) -> np.ndarray:
    n = plan.n_columns
    scorer = Scorer(model, texts, drift, n)
    sums = np.zeros((len(plan.rows), n, len(texts)))
    for row in range(len(plan.rows)):
        cells = [(plan.steer(row, column),) for column in range(n)]
        for group, indices in enumerate(scorer.indices):
            sums[row][:, indices] = scorer.score(group, cells)
    return sums


def one_at_a_time(model: Model, plan: Plan, texts: Sequence[Text]) -> np.ndarray:
    def log_probs(text: Text) -> torch.Tensor:
        logits = model.network(torch.tensor([text.ids], device=model.device)).logits[0]
        return logits[[position - 1 for position in text.scored]].float().log_softmax(-1)

    n = plan.n_columns
    sums = np.zeros((len(plan.rows), n, len(texts)))
    clock = TokenClock(1, torch.zeros(1, dtype=torch.int64))
    with torch.no_grad():
        base = [log_probs(text) for text in texts]
        for row in range(len(plan.rows)):
            for column in range(n):
                steers = [plan.steer(row, column)]
                for index, text in enumerate(texts):
                    with injected(model, steers, clock):
                        found = log_probs(text)
                    sums[row, column, index] = float(token_kl(base[index], found).sum())
    return sums


def main() -> None:
    model = load(ModelSource(sys.argv[1] if len(sys.argv) > 1 else "pocket"))
    vector = extract(model, pairs(("One day Mara laughed.", "One day Mara wept.")))
    columns = default_coefficients(vector)
    rows = tuple(Row(vector, (layer,), columns, "joyful") for layer in vector.metadata.layers)
    plan = Plan(rows)
    written = write(model, Writing(("One day",), samples=TEXTS, max_tokens=64), ())
    texts = thinned([one.scored for one in written if one.n], POSITIONS)
    swept(model, Plan(rows[:1]), texts[:4])  # tries the trunk
    ratios = []
    for _ in range(ROUNDS):
        start = time.process_time()
        fast = swept(model, plan, texts)
        middle = time.process_time()
        slow = one_at_a_time(model, plan, texts)
        end = time.process_time()
        np.testing.assert_allclose(fast, slow, rtol=1e-2, atol=1e-3)
        ratios.append((middle - start) / (end - middle))
        print(f"sweep {middle - start:.2f} s, one at a time {end - middle:.2f} s", flush=True)
    cells = len(rows) * plan.n_columns
    print(f"{cells} cells x {len(texts)} texts: {statistics.median(ratios):.3f} of the time")


if __name__ == "__main__":
    main()
