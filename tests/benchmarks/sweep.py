"""What a sweep costs beside its cells one at a time: `python tests/benchmarks/sweep.py [MODEL]`.

Every layer with nine coefficients on 50 texts of the model's own, of several lengths: KL from the
unsteered model, at every position. One at a time, each cell and text is a forward with its
hooks, as `steer apply` would run it; the sweep runs them as `steer sweep` does. Both in one
process, in turns row by row, in seconds of CPU, which a busy machine does not change much; the
numbers have to agree.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1]))
from recorded import extract, pairs

from steer.contrasts.source import ModelSource
from steer.distillation.recovery import token_kl
from steer.evaluation.batches import Text, drift
from steer.evaluation.scoring import Scorer, Sums, in_groups
from steer.evaluation.written import Writing, write
from steer.hooks.clock import TokenClock
from steer.hooks.inject import injected
from steer.measures.grids import Row, default_coefficients
from steer.models.model import Model, load
from steer.steering.steers import Steer

TEXTS, COEFFICIENTS = 50, 9
#: Tokens that a text is given to write.
LENGTHS = (8, 24, 64)


def one_at_a_time(model: Model, steer: Steer, texts: Sequence[Text], base: list[Tensor]) -> Sums:
    """KL of one cell summed over each text's positions, [text]."""
    clock = TokenClock(1, torch.zeros(1, dtype=torch.int64))
    found = np.zeros(len(texts))
    for index, text in enumerate(texts):
        with injected(model, [steer], clock):
            found[index] = float(token_kl(base[index], log_probs(model, text)).sum())
    return found


def log_probs(model: Model, text: Text) -> Tensor:
    logits = model.network(torch.tensor([text.ids], device=model.device)).logits[0]
    return logits[[position - 1 for position in text.scored]].float().log_softmax(-1)


def seconds_of(model: Model, rows: Sequence[Row], texts: Sequence[Text]) -> tuple[float, float]:
    """CPU time of the sweep, and of its cells one at a time."""
    fast = slow = 0.0
    start = time.process_time()
    groups = in_groups(model, texts, COEFFICIENTS)
    scorer = Scorer(model, [[texts[index] for index in group] for group in groups], drift)
    fast += time.process_time() - start
    base = [log_probs(model, text) for text in texts]
    for row in rows:
        cells = [(row.steer(column),) for column in range(COEFFICIENTS)]
        shared = np.zeros((COEFFICIENTS, len(texts)))
        start = time.process_time()
        for group, indices in enumerate(groups):
            shared[:, indices] = scorer.score(group, cells)
        middle = time.process_time()
        alone = [one_at_a_time(model, steer, texts, base) for (steer,) in cells]
        end = time.process_time()
        np.testing.assert_allclose(shared, alone, rtol=1e-4, atol=1e-4)
        fast, slow = fast + middle - start, slow + end - middle
    return fast, slow


@torch.no_grad()
def main() -> None:
    model = load(ModelSource(sys.argv[1] if len(sys.argv) > 1 else "pocket"))
    vector = extract(model, pairs(("One day Mara laughed.", "One day Mara wept.")))
    columns = default_coefficients(vector)[:COEFFICIENTS]
    rows = [Row(vector, (layer,), columns, "joyful") for layer in vector.metadata.layers]
    sys.stdout.write(f"{len(rows)} x {COEFFICIENTS} cells, {TEXTS} texts, ")
    sys.stdout.write(f"threads: {torch.get_num_threads()}\n")
    sys.stdout.write("tokens  sweep  one at a time  ratio\n")
    for length in LENGTHS:
        written = write(model, Writing(("One day",), samples=TEXTS, max_tokens=length), ())
        texts = [one.scored for one in written]
        # Tries what can be left out, which is done once for a model.
        Scorer(model, [texts[:2]], drift).score(0, [(rows[0].steer(0),)])
        fast, slow = seconds_of(model, rows, texts)
        mean = statistics.mean(len(text.ids) for text in texts)
        sys.stdout.write(f"{mean:6.0f} {fast:6.2f} {slow:14.2f} {fast / slow:6.3f}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
