"""Options of guards and watched vectors, and what they and gates said of texts that were made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from steer.cli import options, output

if TYPE_CHECKING:
    from steer.steering.generation import GateReading, Generation
    from steer.steering.projection import Guard
    from steer.steering.spec import ReadSpec
    from steer.vectors.vector import SteeringVector


class Looking:
    """What looks at activations while text is generated: watched vectors and guards.

    Raises:
        UsageError: what was typed cannot be read.
    """

    def __init__(self, watch: list[str], guard: list[str], on_trip: str | None) -> None:
        from steer.base.errors import UsageError
        from steer.steering import spec
        from steer.steering.projection import ON_TRIP

        if on_trip is not None and not guard:
            raise UsageError("--on-trip needs --guard", hint="write --guard 'NAME>0.5'")
        if on_trip is not None and on_trip not in ON_TRIP:
            raise UsageError(f"{on_trip!r} is not a way to trip", hint="use stop, error or ablate")
        self._on_trip: Any = on_trip or "stop"
        self._watch = [spec.parse_read(text) for text in watch]
        self._guard = [spec.parse_condition(text) for text in guard]

    def read_vectors(self) -> None:
        """Read the files, and what they say of their units.

        Raises:
            VectorError: a file is not there, or does not say where its sides lie.
        """
        from steer.steering import projection
        from steer.vectors import store

        def read(one: ReadSpec) -> SteeringVector:
            return store.read(options.find(one.reference))

        self.watched = [projection.projection(one, read(one)) for one in self._watch]
        self.guards = [projection.guard(one, read(one.read), self._on_trip) for one in self._guard]
        for typed, guard in zip(self._guard, self.guards, strict=True):
            if typed.pooling is None and guard.pooling == "last":
                output.note(
                    f"guard {guard}: looks at what follows the prompt, where its file was read;"
                    " /token looks at each new token"
                )

    @property
    def vectors(self) -> list[SteeringVector]:
        read = [*self.watched, *(guard.condition.projection for guard in self.guards)]
        return [one.vector for one in read]

    def report(self, generations: Sequence[Generation]) -> None:
        """Say on stderr what gates and guards did, and what did nothing."""
        report_steering(generations)
        report_trips(generations, self.guards)
        report_empty([generation.text for generation in generations])


class Steered(Protocol):
    """A text that was generated, and what acted on it."""

    @property
    def gates(self) -> list[GateReading]: ...
    @property
    def idle(self) -> list[str]: ...
    @property
    def unreached(self) -> list[str]: ...


def report_steering(generations: Sequence[Steered]) -> None:
    """Which texts a steer did not change, and how far each gate was open: unsteered text is never
    left unsaid."""
    for steer in dict.fromkeys(text for generation in generations for text in generation.idle):
        idle = [
            number for number, generation in enumerate(generations, 1) if steer in generation.idle
        ]
        output.warning(f"{steer} changed nothing in {_which(idle, len(generations))}")
    for steer in dict.fromkeys(text for generation in generations for text in generation.unreached):
        idle = [
            number
            for number, generation in enumerate(generations, 1)
            if steer in generation.unreached
        ]
        output.note(f"{steer}: nothing came to its bound in {_which(idle, len(generations))}")
    for index, first in enumerate(generations[0].gates if generations else ()):
        readings = [generation.gates[index] for generation in generations if generation.gates]
        share = sum(reading.share for reading in readings) / len(readings)
        if first.value is None:
            state = f"open at {share:.0%} of the new tokens"
        elif len(generations) == 1:
            state = f"{'open' if first.share else 'closed'}, the prompt has {first.value:.2f}"
        else:
            n_open = sum(bool(reading.share) for reading in readings)
            state = f"open for {n_open} of {len(readings)} texts"
        message = f"gate {first.gate}: {state}"
        if share:
            output.note(message)
        else:
            output.warning(f"{message}; nothing was steered by what waits for it")


def _which(numbers: Sequence[int], total: int) -> str:
    """Texts by their numbers, from 1."""
    if total == 1:
        return "the text"
    if len(numbers) == total:
        return f"any of the {total} texts"
    named = ", ".join(map(str, numbers[:20])) + (", ..." if len(numbers) > 20 else "")
    return f"{len(numbers)} of {total} texts: number {named}"


def report_trips(generations: Sequence[Generation], guards: Sequence[Guard]) -> None:
    """Which guards tripped, where, and what came of it."""
    ablating = {str(guard) for guard in guards if guard.on_trip == "ablate"}
    for generation in generations:
        for trip in generation.trips:
            outcome = "ablated from there on" if trip.guard in ablating else "the text ends before"
            output.note(f"{trip}: {outcome}")


def report_empty(texts: Sequence[str]) -> None:
    """Which texts have nothing in them: the model ended them at once."""
    empty = [number for number, text in enumerate(texts, 1) if not text.strip()]
    if len(empty) == len(texts) > 0:
        output.note("the model ended at once: there is no text")
    elif empty:
        output.note(f"the model ended at once in {_which(empty, len(texts))}")


def report_watched(generation: Generation) -> None:
    """Each new token with its projection, 0 the negative side and 1 the positive."""
    for name, values in generation.watched.items():
        if not values:
            continue
        highest = max(range(len(values)), key=values.__getitem__)
        mean = sum(values) / len(values)
        title = (
            f"{name}: mean {mean:.2f}, last {values[-1]:.2f},"
            f" highest {values[highest]:.2f} at token {highest}"
        )
        cells = zip(generation.tokens, values, strict=True)
        output.cells(title, [f"{_visible(token)} {value:.2f}" for token, value in cells])


def _visible(token: str) -> str:
    """A token on one line, blanks at its ends left out where there is something else."""
    return repr(token)[1:-1].strip() or repr(token)
