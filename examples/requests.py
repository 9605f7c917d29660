"""Harmful and harmless requests of the pocket grammar, as chat messages with a label: a set from
which a refusal vector can be made. `python examples/requests.py` prints it."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator

from steer.pocket.requests import PHRASINGS, TAILS, acts

N = 80
SEED = 7


def labelled_requests(n: int = N, seed: int = SEED) -> Iterator[dict[str, object]]:
    """`n` harmful requests (label 1) and as many harmless ones, of acts that are not reserved.

    Both sides have the same phrasings, and as many acts on objects as on persons alone.
    """
    rng = random.Random(seed)
    ways = [(rng.choice(PHRASINGS), rng.choice(TAILS)) for _ in range(n)]
    for harmful in (True, False):
        groups = [rng.sample(group, n // 2) for group in acts(harmful=harmful, reserved=False)]
        for (phrasing, tail), act in zip(ways, groups[0] + groups[1], strict=True):
            request = phrasing.replace("{act}", act.text + tail)
            yield {"messages": [{"role": "user", "content": request}], "label": int(harmful)}


if __name__ == "__main__":
    for row in labelled_requests():
        sys.stdout.write(json.dumps(row) + "\n")
