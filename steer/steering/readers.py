"""Whether vectors that read activations are used on texts like those that they were read from.

A vector from texts in a chat template has its two sides at other places than one from plain texts,
so its projection, in the file's units, means nothing on texts of the other kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from steer.base.errors import UsageError
from steer.steering.projection import Guard, Projection
from steer.steering.readouts import Readout
from steer.steering.steers import Steer
from steer.vectors.vector import SteeringVector


def check_readers(
    *,
    chat: bool,
    steers: Iterable[Steer] = (),
    vectors: Iterable[SteeringVector] = (),
    watched: Sequence[Projection | Readout] = (),
    guards: Iterable[Guard] = (),
) -> list[str]:
    """What to warn of: gates and watched vectors that were read from texts of the other kind, and
    steers, or vectors that are going to be some, that were made in a chat and are used on plain
    text, which often ends at once there. `hint` says what to do.

    chat: whether the texts go into a chat template. A vector whose file does not say how it was
    read (an imported or a combined one) fits both.

    Raises:
        UsageError: a guard's vector was read from texts of the other kind.
    """
    for guard in guards:
        fault = _fault(guard.condition.projection, chat)
        if fault:
            raise UsageError(f"guard {guard}: {fault}", hint=hint(chat=chat))
    steers = list(steers)
    away = [
        f"{vector.name!r} was made in a chat and is used on plain text"
        for vector in (*vectors, *(steer.vector for steer in steers))
        if not chat and vector.metadata.read.in_chat
    ]
    gates = (steer.gate for steer in steers)
    readers = [
        *((f"gate {gate}", gate.condition.projection) for gate in gates if gate is not None),
        *((str(one), one) for one in watched),
    ]
    faults = ((name, _fault(one, chat)) for name, one in readers)
    return list(dict.fromkeys([*away, *(f"{name}: {fault}" for name, fault in faults if fault)]))


def hint(*, chat: bool) -> str:
    """What to do about a vector of the other kind."""
    option = "leave --chat out" if chat else "add --chat"
    return f"{option}, or use a vector that was made {_kind(chat)}"


def _fault(reader: Projection | Readout, chat: bool) -> str | None:
    """What is wrong with using a reader on such texts, if anything."""
    in_chat = reader.vector.metadata.read.in_chat
    if in_chat is None or in_chat == chat:
        return None
    return (
        f"{reader.vector.name!r} was read {_kind(in_chat)} and is used {_kind(chat)}, where its"
        " values mean something else"
    )


def _kind(chat: bool) -> str:
    return "in a chat" if chat else "on plain text"
