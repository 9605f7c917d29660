"""What `extract.py` and `overhead.py` start in the rivals' environment: does the same with theirs.

`python rivals.py MODEL THREADS`; each line of JSON on standard input is answered by one.
`{"tool": "repeng", "batch": 32, "pairs": [["...", "..."], ...]}` makes a vector: the `seconds`
taken and the `directions` by layer. `{"tool": "repeng", "ids": [[...], ...], "tokens": 48,
"directions": {"0": [...], ...}, "first": true}` generates steered and unsteered, steered first
where `first`: the CPU seconds of both.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from repeng import ControlModel, ControlVector, DatasetEntry
from steering_vectors import SteeringVector, train_steering_vector
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    torch.set_num_threads(int(sys.argv[2]))
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        answer = trained(model, job) if "pairs" in job else generated(model, job)
        print(json.dumps(answer), flush=True)


def clock() -> float:
    """CPU time of one thread, wall time of more."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def trained(model: Any, job: dict[str, Any]) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    start = clock()
    # Their progress bars are drawn to nowhere.
    with contextlib.redirect_stderr(io.StringIO()):
        if job["tool"] == "repeng":
            entries = [DatasetEntry(positive=p, negative=n) for p, n in job["pairs"]]
            method = {"method": job.get("method", "pca_diff")}
            vector = ControlVector.train(
                model, tokenizer, entries, batch_size=job["batch"], **method
            ).directions
        else:
            texts = [(positive, negative) for positive, negative in job["pairs"]]
            vector = train_steering_vector(
                model, tokenizer, texts, batch_size=job["batch"]
            ).layer_activations
    seconds = clock() - start
    return {"seconds": seconds, "directions": {at: row.tolist() for at, row in vector.items()}}


def generated(model: Any, job: dict[str, Any]) -> dict[str, Any]:
    took = {}
    for steered in (True, False) if job["first"] else (False, True):
        directions = {int(at): row for at, row in job["directions"].items()} if steered else {}
        with steering(job["tool"], model, directions):
            took[steered] = run(model, torch.tensor(job["ids"]), job["tokens"])
    return {"steered": took[True], "unsteered": took[False]}


def run(model: Any, ids: torch.Tensor, tokens: int) -> float:
    start = time.process_time()
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=True,
        top_k=0,
        pad_token_id=0,
    )
    return time.process_time() - start


@contextlib.contextmanager
def steering(tool: str, model: Any, directions: dict[int, list[float]]) -> Iterator[None]:
    """As their documentation says; set-up before the first text is not counted."""
    if not directions:
        yield
    elif tool == "repeng":
        rows = {at: np.array(row, np.float32) for at, row in directions.items()}
        controlled = ControlModel(model, list(rows))
        controlled.set_control(ControlVector("llama", rows))
        yield
        controlled.unwrap()
    else:
        with SteeringVector({at: torch.tensor(row) for at, row in directions.items()}).apply(model):
            yield


if __name__ == "__main__":
    main()
