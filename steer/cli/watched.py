"""The options `--watch` and `--guard`, and reports of what gates, guards and steers did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from steer.cli import options, output

if TYPE_CHECKING:
    from steer.steering.generation import GateReading, Generation
    from steer.steering.projection import Guard
    from steer.steering.spec import ReadSpec
    from steer.vectors.vector import SteeringVector


class Observers:
    """The watched vectors and guards, which read activations while text is generated.

    Raises:
        UsageError: an option cannot be parsed.
    """

    def __init__(self, watch: list[str], guard: list[str], on_trip: str | None) -> None:
        from steer.base.errors import UsageError
        from steer.steering import spec
        from steer.steering.projection import ON_TRIP

        if on_trip is not None and not guard:
            raise UsageError("--on-trip needs --guard", hint="write --guard 'NAME>0.5'")
        if on_trip is not None and on_trip not in ON_TRIP:
            raise UsageError(f"--on-trip {on_trip!r} is unknown", hint="use stop, error or ablate")
        self._on_trip: Any = on_trip or "stop"
        self._watch = [spec.parse_read(text) for text in watch]
        self._guard = [spec.parse_threshold(text) for text in guard]

    def read_vectors(self) -> None:
        """Read the files of the vectors.

        Raises:
            VectorError: a file does not exist, or does not store the means of its sides.
        """
        from steer.steering import projection
        from steer.vectors import store

        def read(spec: ReadSpec) -> SteeringVector:
            return store.read(options.find(spec.reference))

        self.watched = [projection.projection(spec, read(spec)) for spec in self._watch]
        self.guards = [
            projection.guard(spec, read(spec.read), self._on_trip) for spec in self._guard
        ]
        for spec, guard in zip(self._guard, self.guards, strict=True):
            if spec.pooling is None and guard.pooling == "last":
                output.note(
                    f"guard {guard}: checks only the first new token, since its vector was read at"
                    " the end of prompts; /token checks each new token"
                )

    @property
    def vectors(self) -> list[SteeringVector]:
        """The vectors of both, in that order."""
        guarded = [guard.threshold.projection for guard in self.guards]
        return [projection.vector for projection in [*self.watched, *guarded]]

    def report(self, generations: Sequence[Generation]) -> None:
        """Report on stderr what gates and guards did, and which steers changed nothing."""
        report_steering(generations)
        report_trips(generations, self.guards)
        report_empty([generation.text for generation in generations])


class SteeredText(Protocol):
    """A generated text, and what acted on it."""

    @property
    def gates(self) -> list[GateReading]: ...
    @property
    def idle(self) -> list[str]: ...
    @property
    def unreached(self) -> list[str]: ...


def report_steering(generations: Sequence[SteeredText]) -> None:
    """Report texts that a steer did not change, and how often each gate was open, so that no text
    is silently unsteered."""
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
        output.note(f"{steer}: no projection reached its bound in {_which(idle, len(generations))}")
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
            output.warning(f"{message}; nothing was steered")


def _which(numbers: Sequence[int], total: int) -> str:
    """Texts by their numbers, which count from 1."""
    if total == 1:
        return "the text"
    if len(numbers) == total:
        return f"any of the {total} texts"
    named = ", ".join(map(str, numbers[:20])) + (", ..." if len(numbers) > 20 else "")
    return f"{len(numbers)} of {total} texts: number {named}"


def report_trips(generations: Sequence[Generation], guards: Sequence[Guard]) -> None:
    """Report which guards tripped, where, and what they did."""
    ablating = {str(guard) for guard in guards if guard.on_trip == "ablate"}
    for generation in generations:
        for trip in generation.trips:
            outcome = "ablated from there on" if trip.guard in ablating else "the text ends before"
            output.note(f"{trip}: {outcome}")


def report_empty(texts: Sequence[str]) -> None:
    """Report texts that are empty, because the model ended them at once."""
    empty = [number for number, text in enumerate(texts, 1) if not text.strip()]
    if len(empty) == len(texts) > 0:
        output.note("the model ended at once: there is no text")
    elif empty:
        output.note(f"the model ended at once in {_which(empty, len(texts))}")


def report_watched(generation: Generation) -> None:
    """Print each new token with its projections, in the units of the files."""
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
    """A token on one line, without blanks at its ends unless it is all blank."""
    return repr(token)[1:-1].strip() or repr(token)
