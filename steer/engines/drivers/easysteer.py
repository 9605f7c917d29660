"""EasySteer: a vLLM with a default steering for all requests.

    GET  /v1/steering    the default
    POST /v1/steering    {"spec": {"vectors": [VECTOR], "conflict": "sequential"}}, or null

A vector is {"algorithm", "scale", "data", "apply"}, where `apply` says at which tokens, and `data`
holds the numbers in base64, with a SHA-256 of them.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from steer.engines.driving import Driver, Outcome, Steering
from steer.engines.endpoint import Server
from steer.vectors.vector import Directions

_PATH = "/v1/steering"
#: Scopes. The response begins with the last token of the prompt, which predicts the first new one.
_APPLY: dict[str, dict[str, Any]] = {
    "all": {"prompt": "all", "generation": "all"},
    "prompt": {"prompt_window": [0, -1]},
    "response": {"prompt_positions": [-1], "generation": "all"},
}


def _steer(server: Server, steering: Steering) -> Outcome:
    vectors = [
        {"algorithm": "direct", "scale": 1.0, "data": payload(rows), "apply": _APPLY[scope]}
        for scope, rows in steering.additions.items()
    ]
    server.ask("POST", _PATH, {"spec": {"vectors": vectors, "conflict": "sequential"}})
    return Outcome()


def payload(rows: Mapping[int, Directions]) -> dict[str, Any]:
    """Directions by layer, in EasySteer's own form."""
    tensors, digest = {}, hashlib.sha256(b"direction:1")
    for name, row in sorted((f"layer.{layer}", row) for layer, row in rows.items()):
        data = row.astype("<f4").tobytes()
        for part in (name.encode(), str(tuple(row.shape)).encode(), data):
            digest.update(part)
        tensors[name] = {"shape": list(row.shape), "data": base64.b64encode(data).decode()}
    return {
        "version": 1,
        "kind": "direction",
        "tensors": tensors,
        "extra": {},
        "sha256": digest.hexdigest(),
    }


def _clear(server: Server) -> Outcome:
    server.ask("POST", _PATH, {"spec": None})
    return Outcome()


def _detect(server: Server) -> bool:
    status, content = server.peek(_PATH)
    return status == 200 and isinstance(content, dict) and "active_layers" not in content


DRIVER = Driver(
    name="easysteer",
    title="EasySteer",
    help="vllm serve of EasySteer with --enable-steer-vector --steer-algorithms direct",
    steer=_steer,
    clear=_clear,
    detect=_detect,
    scopes=("all", "prompt", "response"),
)
