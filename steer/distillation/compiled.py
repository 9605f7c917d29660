"""A compiled prompt: a system message, a vector beside it, and how much of the prompt's effect they
recover."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from steer.base.errors import UsageError
from steer.base.files import check_writable, write_atomic
from steer.base.intervals import Interval, plain
from steer.measures.tables import in_console, in_notebook, table
from steer.steering.named import NamedSteer
from steer.steering.recipe import placed, to_toml
from steer.vectors import store
from steer.vectors.vector import SteeringVector

#: What carries the part of a prompt that does not stay text.
Kind = Literal["edit", "token"]
#: Indices of clauses that stay text, in rising order.
Kept = tuple[int, ...]


def paths_of(recipe: str | PathLike[str]) -> tuple[Path, Path]:
    """The path of a recipe, and that of the vector beside it.

    Raises:
        UsageError: it does not end in `.toml`.
    """
    path = Path(recipe)
    if path.suffix != ".toml":
        raise UsageError(f"{path}: a recipe's name ends in .toml", hint=f"write {path.stem}.toml")
    return path, path.with_suffix(store.SUFFIX)


@dataclass(frozen=True, slots=True)
class FormRow:
    """A form of a prompt, measured on held-out texts: text, an edit or a token, or both.

    text: the system message, empty for none. steer: an edit or a token beside it. tokens: of the
    system message, including the embeddings of a token. recovery: of the whole prompt's effect.
    extra_nats: nats per token of this form's texts under the plain model, above those of the plain
    model's own texts. unrelated: KL(p_base || p_form) in nats per token of unrelated texts.
    """

    text: str
    steer: Kind | None
    tokens: int
    recovery: Interval
    extra_nats: float
    unrelated: Interval

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "text": self.text,
            "steer": self.steer,
            "tokens": self.tokens,
            "recovery": plain(self.recovery),
            "extra_nats": self.extra_nats,
            "unrelated_kl": plain(self.unrelated),
        }


@dataclass(frozen=True, slots=True)
class CompiledPrompt:
    """A compiled prompt: a system message, and a vector that acts beside it.

    kept: the clauses that stay text. vector: None if text alone is the best form. rows: first the
    whole prompt, then its forms. chosen: the index of the recipe's form. tried: the forms that were
    compared on validation texts. nats: KL(p_prompt || p_base) in nats per token.
    """

    prompt: str
    clauses: tuple[str, ...]
    kept: Kept
    text: str
    vector: SteeringVector | None
    rows: tuple[FormRow, ...]
    chosen: int
    tried: tuple[dict[str, Any], ...]
    nats: float

    def save(self, path: str | PathLike[str], *, force: bool = False) -> Path | None:
        """Write the recipe, and the vector beside it; returns the vector's path, if there is one.

        Raises:
            UsageError: the path does not end in `.toml`.
            SteerError: a file exists, or cannot be written.
        """
        recipe, beside = paths_of(path)
        for file in (recipe, beside):
            check_writable(file, force=force)
        steers = []
        if self.vector is not None:
            sealed = store.write(beside, self.vector, force=force)
            steers.append(placed(NamedSteer(str(beside), sha256=sealed.sha256), recipe))
        generation = {"chat": True, **({"system": self.text} if self.text else {})}
        text = to_toml(steers, generation, description=f"compiled from: {self.prompt}")
        write_atomic(recipe, text.encode(), force=force)
        return beside if steers else None

    @property
    def saved(self) -> int:
        """Tokens of the system message that the recipe saves in every request."""
        return self.rows[0].tokens - self.rows[self.chosen].tokens

    def to_dict(self) -> dict[str, Any]:
        """Everything but the vector, as plain JSON."""
        return {
            "prompt": self.prompt,
            "nats": self.nats,
            "clauses": [
                {"text": clause.strip(), "kept": index in self.kept}
                for index, clause in enumerate(self.clauses)
            ],
            "text": self.text,
            "steer": self.rows[self.chosen].steer,
            "saved": self.saved,
            "chosen": self.chosen,
            "rows": [{"form": self.label(row), **row.to_dict()} for row in self.rows],
            "tried": list(self.tried),
        }

    def view(self) -> Iterator[Any]:
        """The clauses, a table of the forms, and the tokens that the recipe saves."""
        for index, clause in enumerate(self.clauses):
            stays = "text" if index in self.kept else self.rows[self.chosen].steer or "left out"
            yield f"{stays}: {' '.join(clause.split())}"
        yield ""
        yield table(
            ["form", "tokens", "recovery", "extra nats", "KL on unrelated texts", ""],
            [
                [
                    self.label(row),
                    str(row.tokens),
                    str(row.recovery),
                    f"{row.extra_nats:+.2f}",
                    f"{row.unrelated.value:.3f}",
                    "the recipe" if index == self.chosen else "",
                ]
                for index, row in enumerate(self.rows)
            ],
        )
        yield ""
        if not self.chosen:
            yield "no clause can be left out: lower the recovery to reach, or keep the prompt"
        else:
            yield f"{self.saved} of {self.rows[0].tokens} tokens saved in every request"
        yield (
            f"recovery: of the whole prompt's effect, {self.nats:.2f} nats per token, on held-out"
            " answers; extra nats: of the form's own answers under the plain model, per token; 95 %"
            " intervals in brackets"
        )

    def label(self, row: FormRow) -> str:
        """The name of a row: its text, and the edit or token beside it."""
        if row.steer is None:
            return "whole prompt" if row.text == self.rows[0].text else "text alone"
        return f"text + {row.steer}" if row.text else f"{row.steer} alone"

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        yield from in_console(self.view())

    def _repr_html_(self) -> str:
        return in_notebook(self)
