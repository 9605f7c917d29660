"""Output of generated texts: as JSON records, to a file, and on the terminal."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from steer.base.files import write_atomic, write_end
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
    _n_kept: int = 0
    _n_bytes: int = 0

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
            line = _line(_record(*pair)).encode()
            write_end(self._part(self.out), line, self._n_bytes)
            self._n_bytes += len(line)
            self._n_kept += 1

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

    def show(self, title: str, *, start: int = 0) -> None:
        """Print the texts from number `start` on, under their prompts if there are several. `title`
        heads the steered texts where unsteered ones are beside them."""
        several_prompts = len({steered.prompt for steered in self.steered}) > 1
        for steered, unsteered in self.pairs[start:]:
            if several_prompts and steered.sample == 0:
                output.heading(steered.prompt)
            if unsteered is None:
                output.line(steered.text.strip() + "\n")
            else:
                output.beside(("unsteered", title), (unsteered.text, steered.text))
            report_watched(steered)

    def leave(self, title: str, *, json: bool) -> None:
        """When the command is stopped, note how many texts are finished, and where they are. Those
        that no file holds are printed, unless the command prints JSON."""
        n = len(self.pairs)
        if self.out is not None and not follows() and not self._n_bytes:
            self._part(self.out).unlink(missing_ok=True)
        if not json:
            self.show(title, start=self._n_kept)
        location = ""
        if self._n_kept:
            held = "" if self._n_kept == n else f"{self._n_kept} of them "
            location = f", {held}in {self._part(cast(Path, self.out))}"
        elif json and self.out is None:
            location = "; with -o FILE they would be kept"
        output.note(f"{n} of {self.total} texts were finished{location}")

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
