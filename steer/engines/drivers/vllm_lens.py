"""vllm-lens: a plugin of vLLM that adds the vectors of a request.

    {"vllm_xargs": {"apply_steering_vectors": "[VECTOR]"},    in the body; the list is JSON as text
     "cache_salt": TEXT}

The engine holds no steering. (Its hooks for all requests are pickled code, which is not sent.) It
reads a steered prompt afresh, but lets vLLM keep what it has read, and a later request without
steering would get it: requests with another salt do not.
"""

from __future__ import annotations

import base64
import hashlib
import json

from steer.engines.driving import Driver, Outcome, Steering, packed
from steer.engines.endpoint import Server


def _steer(server: Server, steering: Steering) -> Outcome:
    layers, table = packed(steering.everywhere)
    vector = {
        "activations": {
            "data": base64.b64encode(table.tobytes()).decode(),
            "dtype": "float32",
            "original_dtype": "torch.float32",
            "shape": list(table.shape),
        },
        "layer_indices": layers,
        "scale": 1.0,
        "norm_match": False,
        "position_indices": None,
    }
    vectors = json.dumps([vector])
    return Outcome({"vllm_xargs": {"apply_steering_vectors": vectors}, "cache_salt": salt(vectors)})


def salt(steering: str) -> str:
    """A text that requests share only if they are steered alike, so that vLLM keeps their prompts
    apart from others in its cache."""
    return hashlib.sha256(steering.encode()).hexdigest()


def _detect(server: Server) -> bool:
    # Only POST is allowed there; a vLLM without the plugin does not have the path.
    return server.peek("/v1/hooks/register")[0] == 405


DRIVER = Driver(
    name="vllm-lens",
    title="vllm-lens",
    help="vllm serve where the package vllm-lens is installed",
    steer=_steer,
    detect=_detect,
)
