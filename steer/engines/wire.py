"""Encode the steers of a request as a line of JSON for an engine's workers. No torch.

Vectors are sent by name only: workers read them from a folder when they start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from steer.base.errors import UsageError
from steer.base.text import listed
from steer.ops.op import Op, Side
from steer.ops.registry import ops
from steer.steering.operation import Coefficient, Operation
from steer.steering.scope import EVERYWHERE, Scope
from steer.steering.steers import Steer
from steer.vectors.provenance import Unit
from steer.vectors.vector import SteeringVector

#: Scopes by name. The response begins with the token that predicts the first new one.
SCOPES = {str(scope): scope for scope in (EVERYWHERE, Scope("prompt"), Scope("response"))}


class SteerMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One steer. value: as `Operation.value`."""

    vector: str
    coefficient: float
    layers: tuple[int, ...]
    unit: Unit = "vector"
    op: str = "add"
    value: float | Side | None = None
    scope: str = "all"


def can_do(op: Op) -> bool:
    """Whether the kernels of engines can do an op: adding, and moving a projection to a level."""
    return op.adds or op.moves is not None


def check_engine_can(steer: Steer, engine: str) -> None:
    """Refuse a steer that only hooks in this process can apply.

    Raises:
        UsageError: a gate, a schedule, an op, a scope or a site that the engine does not support.
    """
    site = steer.vector.metadata.site
    lacking = None
    if steer.gate is not None:
        lacking = "gates (--when)"
    elif steer.timing.schedule.kind != "constant":
        lacking = f"schedules ({steer.schedule})"
    elif str(steer.scope) not in SCOPES:
        lacking = f"the scope {steer.scope}"
    elif steer.op.keep_norm or steer.op.writes or not can_do(steer.op.op):
        lacking = f"the op {steer.op}"
    elif site not in ("resid_post", "resid_pre") or any(
        site.canonical.name != "resid_post" for site in steer.sites()
    ):
        lacking = f"edits of {site} at layer {steer.layers[0]}"
    if lacking:
        raise UsageError(
            f"{engine} does not support {lacking}, which {str(steer)!r} needs",
            hint=f"it can {listed([op.name for op in ops() if can_do(op)])} at resid_post, over"
            " all, prompt or response; leave --engine out for the rest",
        )


def encode(steers: Sequence[Steer], names: Mapping[SteeringVector, str]) -> str:
    """Encode steers; `names` are the workers' names for their vectors.

    Steers with coefficient 0 are left out; without any steer, the result is "".
    """
    messages = [
        SteerMessage(
            vector=names[steer.vector],
            coefficient=steer.coefficient.value,
            layers=steer.layers,
            unit=steer.coefficient.unit,
            op=steer.op.name,
            value=steer.op.value,
            scope=str(steer.scope),
        )
        for steer in steers
        if steer.coefficient.value
    ]
    return msgspec.json.encode(messages).decode() if messages else ""


def decode(text: str, vectors: Mapping[str, SteeringVector]) -> list[Steer]:
    """Decode steers.

    Raises:
        ValueError, KeyError: the text is not from `encode`, or names an unknown vector.
        VectorError: a vector lacks one of the layers.
    """
    if not text:
        return []
    return [
        Steer(
            vectors[sent.vector],
            Coefficient(sent.coefficient, sent.unit),
            sent.layers,
            scope=SCOPES[sent.scope],
            op=Operation(sent.op, sent.value),
        )
        for sent in msgspec.json.decode(text, type=tuple[SteerMessage, ...])
    ]
