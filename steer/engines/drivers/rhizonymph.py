"""RhizoNymph's vLLM: vectors and clamps for all requests.

    GET  /v1/steering        {"active_layers": {...}}
    POST /v1/steering/set    {"vectors": {HOOK: TABLE}, "clamps": {HOOK: {LAYER: [CLAMP]}},
                              "replace": true}
    POST /v1/steering/clear

A table of vectors is {"dtype", "shape", "layer_indices", "data"}, the data in base64; a clamp is
{"vector", "min" or "max" or "value", "strength"}. A clamp follows the additions of its layer.
"""

from __future__ import annotations

import base64
import math
from typing import Any

from steer.base.errors import SteerError, UsageError
from steer.engines.driving import Driver, Outcome, Steering, packed
from steer.engines.endpoint import Server
from steer.steering.plan import ProjectionEdit

_HOOK = "post_block"


def _steer(server: Server, steering: Steering) -> Outcome:
    body: dict[str, Any] = {"replace": True}
    if steering.everywhere:
        layers, table = packed(steering.everywhere)
        body["vectors"] = {
            _HOOK: {
                "dtype": "float32",
                "shape": list(table.shape),
                "layer_indices": layers,
                "data": base64.b64encode(table.tobytes()).decode(),
            }
        }
    if steering.moves:
        for layer, moves in steering.moves.items():
            if len(moves) > 1:
                raise UsageError(
                    f"{DRIVER.title} clamps along several directions of a layer independently, and"
                    f" steer one after another: layer {layer} has {len(moves)} ops",
                    hint="leave one of them out, or put it at another layer",
                )
        body["clamps"] = {
            _HOOK: {str(layer): [_clamp(moves[0])] for layer, moves in steering.moves.items()}
        }
    server.ask("POST", "/v1/steering/set", body)
    wanted = {*steering.everywhere, *steering.moves}
    active = server.ask("GET", "/v1/steering").get("active_layers", {})
    if lacking := sorted(wanted - {int(layer) for layer in active}):
        raise SteerError(f"{server.url} took the steering, but is not active at layers {lacking}")
    return Outcome()


def _clamp(move: ProjectionEdit) -> dict[str, Any]:
    """A clamp for an op that moves a projection to a level, within bounds.

    Raises:
        UsageError: its coefficient is not a share.
    """
    assert move.op.moves is not None
    if not 0 < move.coefficient <= 1:
        raise UsageError(
            f"{DRIVER.title} takes a share from 0 to 1 of {move.op.name}, not"
            f" {move.coefficient:g}, which {str(move.steer)!r} needs"
        )
    least, most = move.op.moves
    keys = {(-math.inf, math.inf): "value", (-math.inf, 0.0): "max", (0.0, math.inf): "min"}
    return {
        "vector": move.direction.tolist(),
        keys[least, most]: float(move.level),
        "strength": float(move.coefficient),
    }


def _clear(server: Server) -> Outcome:
    server.ask("POST", "/v1/steering/clear")
    return Outcome()


def _detect(server: Server) -> bool:
    status, content = server.peek("/v1/steering")
    return status == 200 and isinstance(content, dict) and "active_layers" in content


DRIVER = Driver(
    name="rhizonymph",
    title="RhizoNymph's vLLM",
    help="vllm serve of RhizoNymph's fork; --api-key is its steering API key, if it has one",
    steer=_steer,
    clear=_clear,
    detect=_detect,
    ops=("add", "ablate", "clamp", "cap", "floor"),
    limits=("two ops other than add at one layer",),
)
