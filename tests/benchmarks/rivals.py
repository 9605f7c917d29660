"""What `extract.py` starts in the rivals' own environment: does the same job with their tools.

`python rivals.py MODEL THREADS`; a line of JSON on standard input,
`{"tool": "repeng", "batch": 32, "pairs": [["...", "..."], ...]}`, is answered by one with the
`seconds` taken and the `directions` by layer.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time

import torch
from repeng import ControlVector, DatasetEntry
from steering_vectors import train_steering_vector
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    torch.set_num_threads(int(sys.argv[2]))
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        start = time.perf_counter()
        # Their progress bars are drawn to nowhere.
        with contextlib.redirect_stderr(io.StringIO()):
            if job["tool"] == "repeng":
                entries = [DatasetEntry(positive=p, negative=n) for p, n in job["pairs"]]
                method = {"method": job.get("method", "pca_diff")}
                found = ControlVector.train(
                    model, tokenizer, entries, batch_size=job["batch"], **method
                ).directions
            else:
                texts = [(positive, negative) for positive, negative in job["pairs"]]
                found = train_steering_vector(
                    model, tokenizer, texts, batch_size=job["batch"]
                ).layer_activations
        seconds = time.perf_counter() - start
        directions = {layer: row.tolist() for layer, row in found.items()}
        print(json.dumps({"seconds": seconds, "directions": directions}), flush=True)


if __name__ == "__main__":
    main()
