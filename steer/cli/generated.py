"""Output of generated texts: as JSON records, to a file, and on the terminal."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steer.base.files import reported, write_atomic
from steer.base.processes import follows
from steer.cli import output
from steer.cli.watched import report_watched

if TYPE_CHECKING:
    from steer.steering.generation import Generation

    #: A steered continuation, and the unsteered one if the command compares them.
    Pair = tuple[Generation, Generation | None]


@dataclass
class Texts:
    """Collects finished continuations and, with `out`, writes each as a line of JSON.

    Lines go to a file beside `out` that ends in `.part`, which stays if the command is stopped.
    `write` replaces it by `out` when all continuations are finished.
    """

    total: int
    out: Path | None = None
    pairs: list[Pair] = field(default_factory=list)

    @property
    def steered(self) -> list[Generation]:
        return [steered for steered, _ in self.pairs]

    @property
    def records(self) -> list[dict[str, Any]]:
        """A record for each continuation."""
        return [_record(*pair) for pair in self.pairs]

    def add(self, pair: Pair) -> None:
        """Add a finished continuation.

        Raises:
            SteerError: the file cannot be written.
        """
        self.pairs.append(pair)
        if self.out is not None and not follows():
            part = self._part(self.out)
            mode = "w" if len(self.pairs) == 1 else "a"
            with reported(part), part.open(mode, encoding="utf-8") as file:
                file.write(_line(_record(*pair)))

    def write(self, *, force: bool) -> None:
        """Write `out`, once all continuations are finished.

        Raises:
            SteerError: `out` cannot be written.
        """
        if self.out is not None:
            write_atomic(self.out, "".join(map(_line, self.records)).encode(), force=force)
            if not follows():
                self._part(self.out).unlink()
            output.note(f"wrote {self.out}")

    def show(self, title: str) -> None:
        """Print the texts, under their prompts if there are several. `title` heads the steered
        texts where unsteered ones are beside them."""
        several_prompts = len({steered.prompt for steered in self.steered}) > 1
        for steered, unsteered in self.pairs:
            if several_prompts and steered.sample == 0:
                output.heading(steered.prompt)
            if unsteered is None:
                output.line(steered.text.strip() + "\n")
            else:
                output.beside(("unsteered", title), (unsteered.text, steered.text))
            report_watched(steered)

    def leave(self, *, shown: bool) -> None:
        """Note how many texts are finished, and where they are, when the command is stopped."""
        location = "" if shown else "; with -o FILE they would be kept"
        location = location if self.out is None else f", in {self._part(self.out)}"
        output.note(f"{len(self.pairs)} of {self.total} texts were finished{location}")

    @staticmethod
    def _part(out: Path) -> Path:
        return out.with_name(f"{out.name}.part")


def _record(generation: Generation, baseline: Generation | None) -> dict[str, Any]:
    """A continuation as a JSON record, without optional fields that are empty."""
    optional = ("tokens", "watched", "gates", "trips", "idle", "unreached")
    values = asdict(generation)
    record = {key: value for key, value in values.items() if value or key not in optional}
    if baseline is not None:
        record["unsteered"] = baseline.text
        if baseline.watched:
            record["unsteered_tokens"] = baseline.tokens
            record["unsteered_watched"] = baseline.watched
    return record


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
