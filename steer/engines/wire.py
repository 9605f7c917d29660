"""What travels to an engine's workers with a request: steers as a line of JSON. No torch.

Vectors travel by name alone: a worker has read them, from a folder that was named when it started.
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

#: Scopes by the names that travel; the token that writes the first new one begins the response.
SCOPES = {str(scope): scope for scope in (EVERYWHERE, Scope("prompt"), Scope("response"))}


class Sent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
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
    """Refuse what only hooks in this process can do.

    Raises:
        UsageError: a gate, a schedule, an op, a scope or a site that the engine does not have.
    """
    site = steer.vector.metadata.site
    lacking = None
    if steer.gate is not None:
        lacking = "gates (--when)"
    elif steer.when.schedule.kind != "constant":
        lacking = f"schedules ({steer.schedule})"
    elif str(steer.scope) not in SCOPES:
        lacking = f"the scope {steer.scope}"
    elif steer.op.keep_norm or steer.op.writes or not can_do(steer.op.op):
        lacking = f"the op {steer.op}"
    elif site not in ("resid_post", "resid_pre") or any(
        place.canonical.name != "resid_post" for place in steer.sites()
    ):
        lacking = f"edits of {site} at layer {steer.layers[0]}"
    if lacking:
        raise UsageError(
            f"{engine} cannot do {lacking}, which {str(steer)!r} asks for",
            hint=f"it can {listed([op.name for op in ops() if can_do(op)])} at resid_post, over"
            " all, prompt or response; leave --engine out for the rest",
        )


def encode(steers: Sequence[Steer], names: Mapping[SteeringVector, str]) -> str:
    """Steers as they travel, by the names that the workers know their vectors by.

    Steers that do nothing are left out, so nothing at all is the empty string.
    """
    sent = [
        Sent(
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
    return msgspec.json.encode(sent).decode() if sent else ""


def decode(text: str, vectors: Mapping[str, SteeringVector]) -> list[Steer]:
    """The steers that travelled.

    Raises:
        ValueError, KeyError: nothing that `encode` wrote, for these vectors.
        VectorError: a vector without one of the layers.
    """
    if not text:
        return []
    return [
        Steer(
            vectors[one.vector],
            Coefficient(one.coefficient, one.unit),
            one.layers,
            scope=SCOPES[one.scope],
            op=Operation(one.op, one.value),
        )
        for one in msgspec.json.decode(text, type=tuple[Sent, ...])
    ]
