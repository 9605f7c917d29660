"""Check that vectors are used on the kind of text that they were made from: chat or plain.

The projections of the two sides differ between chat and plain text, so a projection in the file's
units is meaningless on texts of the other kind.
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
    """Warnings about gates and watched vectors from texts of the other kind, and about steers, or
    vectors to be swept, that were made in a chat and are used on plain text, where a text often
    ends at once. `hint` says what to do.

    chat: whether the texts go into a chat template. A vector of unknown origin (imported or
    combined) fits both.

    Raises:
        UsageError: a guard's vector was read from texts of the other kind.
    """
    for guard in guards:
        fault = _fault(guard.threshold.projection, chat)
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
        *((f"gate {gate}", gate.threshold.projection) for gate in gates if gate is not None),
        *((str(reader), reader) for reader in watched),
    ]
    faults = ((name, _fault(reader, chat)) for name, reader in readers)
    return list(dict.fromkeys([*away, *(f"{name}: {fault}" for name, fault in faults if fault)]))


def hint(*, chat: bool) -> str:
    """A hint about a vector of the other kind."""
    option = "leave --chat out" if chat else "add --chat"
    return f"{option}, or use a vector that was made {_kind(chat)}"


def _fault(reader: Projection | Readout, chat: bool) -> str | None:
    """Why a reader does not fit such texts; None if it does."""
    in_chat = reader.vector.metadata.read.in_chat
    if in_chat is None or in_chat == chat:
        return None
    return (
        f"{reader.vector.name!r} was read {_kind(in_chat)} and is used {_kind(chat)}, where its"
        " values mean something else"
    )


def _kind(chat: bool) -> str:
    return "in a chat" if chat else "on plain text"
