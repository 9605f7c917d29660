"""`steer compare --pack` and `steer monitor --pack`: the concepts of a built pack."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steer.base.errors import UsageError
from steer.cli import options, output
from steer.contrasts.passages import answers_of
from steer.contrasts.schema import Content, Names
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.concepts.profile import Profile

#: The number of nearest pairs, and of most opposite pairs, to list.
_PAIRS = 8
#: The number of concepts in each row of a running profile.
_RUNNING = 4


def compare(folder: Path, *, layer: int | None, html: Path | None, force: bool, json: bool) -> None:
    """Print the tree of a pack's concepts and the nearest pairs; write the heat map as a page."""
    from steer.base.files import check_writable, write_atomic
    from steer.concepts.geometry import geometry
    from steer.concepts.index import read

    if html is not None:
        check_writable(html, force=force)
    built = read(folder)
    compared = geometry(built.vectors(), layer)
    if html is not None:
        page = compared.to_html(f"{built.title} on {built.model}")
        write_atomic(html, page.encode("utf-8", "surrogatepass"), force=force)
        output.note(f"wrote {html}")
    if json:
        output.as_json(compared.to_dict())
        return
    for line in compared.lines():
        output.line(line)
    output.line()
    rows = [[first, second, f"{cosine:+.2f}"] for first, second, cosine in compared.pairs(_PAIRS)]
    output.table(["concept", "concept", "cosine"], rows, left=2)
    output.note(f"{len(compared.names)} concepts at layer {compared.layer}")


@dataclass(frozen=True, slots=True)
class ProfileSettings:
    """Options of `steer monitor --pack`.

    top: the number of concepts to show. every: tokens between running profiles; None for none.
    baseline: the number of the model's own texts; None for the default. chat: None uses the chat
    template if there is one.
    """

    top: int
    every: int | None
    baseline: int | None
    chat: bool | None
    allow_other_model: bool
    json: bool


def profile(
    text: str | None,
    path: Path | None,
    names: Names,
    folder: Path,
    settings: ProfileSettings,
    source: ModelSource,
) -> None:
    """Print the profile of each text, and of each answer of a conversation, as it is read.

    Raises:
        UsageError: both a text and a file are named, or neither.
        SteerError: the pack or the texts cannot be read, or the model is another one.
    """
    from steer.concepts.index import read

    built = read(folder)
    contents = _contents(text, path, names)
    model = options.load_model(replace(source, fast=True))
    from steer.concepts.profile import N_BASELINE, ConversationProfile, Profiler

    profiler = Profiler(
        model,
        built,
        chat=settings.chat,
        n_baseline=settings.baseline or N_BASELINE,
        allow_other_model=settings.allow_other_model,
        warn=output.warning,
        progress=output.progress,
    )
    output.note(f"{model.describe()} · {len(profiler.names)} concepts")
    printer = _Printer(settings, document=path is None)
    for number, (where, content) in enumerate(contents, 1):
        if isinstance(content, str):
            printer.show(profiler.read(content, where), f"text {number}", {"number": number})
            continue
        turns = []
        for index, turn in zip(
            answers_of(content, where), profiler.read_turns(content, where), strict=True
        ):
            place = {"number": number, "message": index + 1}
            printer.show(turn, f"conversation {number}, message {index + 1}", place)
            turns.append(turn)
        if len(turns) > 1 or settings.json:
            overall = ConversationProfile(tuple(turns)).overall
            title = f"conversation {number}, all its answers"
            printer.show(overall, title, {"number": number, "message": None})
    printer.end(model.identity.id, built.pack)


def _contents(text: str | None, path: Path | None, names: Names) -> Iterable[tuple[str, Content]]:
    """Texts and conversations, each with its place for messages. A file is checked as a whole; the
    records of a pipe are yielded as they arrive."""
    from steer.cli.texts import given_texts, records_of
    from steer.contrasts import prompts
    from steer.contrasts.records import arriving_records

    if path is None:
        [typed] = given_texts(text, None, names, "text", 'steer monitor "One day" --pack DIR')
        if text in (None, "-") and typed.lstrip().startswith(("{", "[{")):
            output.warning("stdin is read as one text; --texts - reads records, such as JSON")
        return [("the text", typed)]
    if text is not None:
        raise UsageError("name a text or --texts, not both")
    names = names.of("texts")
    if str(path) == "-":
        records = arriving_records(sys.stdin.buffer, "stdin", names.known)
        return prompts.read_contents(records, names, output.note)
    contents = list(prompts.read_contents(records_of(str(path), names), names, output.note))
    for where, content in contents:
        if not isinstance(content, str):
            answers_of(content, where)
    return contents


class _Printer:
    """Prints each profile when it is ready: as tables, as JSON lines, or in one JSON document."""

    def __init__(self, settings: ProfileSettings, *, document: bool) -> None:
        self._settings, self._is_document = settings, document
        self._kept: list[dict[str, Any]] = []
        self._baseline = 0

    def show(self, profile: Profile, title: str, place: dict[str, Any]) -> None:
        """Print one profile. place: which text or message it is, for JSON."""
        self._baseline = len(profile.baseline)
        if not self._settings.json:
            self._table(profile, title)
            return
        values = place | profile.to_dict()
        if self._settings.every is not None:
            values["running"] = [
                {
                    "tokens": part.n_tokens,
                    "readings": [float(value) for value in part.readings],
                    "false_positives": [float(value) for value in part.false_positives],
                }
                for part in profile.running(self._settings.every)
            ]
        if self._is_document:
            self._kept.append(values)
        else:
            output.json_line(values)

    def end(self, model: str, pack: str) -> None:
        """Print the JSON document, or an explanation of the tables' columns."""
        if self._settings.json:
            if self._is_document:
                output.as_json({"model": model, "pack": pack, "texts": self._kept})
            return
        output.note(
            "nats: by how many a token the concept makes the text likelier than its opposite; own:"
            f" the share of {self._baseline} texts of the model's own, and this one, with a reading"
            " as high"
        )

    def _table(self, profile: Profile, title: str) -> None:
        shown = " ".join(profile.text.split())
        output.heading(f"{title} · {shown[:70]}{'…' if len(shown) > 70 else ''}")
        if self._settings.every is not None:
            rows, begin = [], 0
            for part in profile.running(self._settings.every):
                highest = (f"{name} {reading:+.2f}" for name, reading, _ in part.top(_RUNNING))
                piece = " ".join("".join(part.pieces[begin:]).split())
                rows.append([piece, str(part.n_tokens), ", ".join(highest)])
                begin = part.n_tokens
            output.table(["text", "tokens so far", "highest"], rows, left=1)
            output.line()
        rows = [
            [name, f"{reading:+.2f}", f"{rate:.0%}"]
            for name, reading, rate in profile.top(self._settings.top)
        ]
        output.table(["concept", "nats", "own"], rows)
        output.line()
