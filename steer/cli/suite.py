"""`steer suite`: every method on known conditions, beside the prompt that it is to beat."""

from __future__ import annotations

import json as json_library
import os
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import measuring, options, output
from steer.cli.texts import read_prompts, records_of, with_map
from steer.contrasts.schema import Names
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.base.journal import Journal
    from steer.models.model import Model
    from steer.suite.subjects import Subject
    from steer.suite.suite import Settings
    from steer.vectors.vector import SteeringVector


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("suite")(suite)


@options.with_model(default="pocket")
@with_map("texts", "prompts")
def suite(
    *,
    context: typer.Context,
    tags: Annotated[
        str | None,
        typer.Option(help="Values of the pocket grammar, such as joyful,sea. Default: all."),
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(help="A prompt in place of the tags, of any model; several are rows."),
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(help="With --condition: texts that know nothing of it, a hundred or so."),
    ] = None,
    prompts: measuring.Prompts = None,
    names: Names,
    methods: Annotated[
        str | None,
        typer.Option(help="Separated by ';'. Default: all of them."),
    ] = None,
    vector: Annotated[
        list[str] | None,
        typer.Option("-v", "--vector", help="VALUE=FILE: a rival's vector for a tag, of any tool."),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=2, max=100_000, help="Texts that each row writes.")
    ] = 48,
    max_tokens: measuring.MaxTokens = 64,
    seed: measuring.Seed = 0,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes. Default: of pocket one a core, else 1.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write everything here, as JSON.")
    ] = None,
    force: options.Force = False,
    json: options.Json = False,
    source: ModelSource,
) -> None:
    """Compare methods on conditions whose truth is known.

    Of the pocket model's tags (or of --condition) every method makes a vector; the layer and the
    coefficient are chosen as `steer sweep` does, on texts that the model writes under the
    condition, and effect and cost measured on others, beside the condition as a prompt. What is
    done is kept: a suite that was killed goes on.

    \b
    steer suite
    steer suite --tags joyful,sea --methods "mean_diff;lda" -v joyful=happy.gguf
    steer suite -m MODEL --condition "You are cheerful." --texts texts.jsonl
    """
    from steer.base.errors import UsageError
    from steer.base.files import check_writable
    from steer.suite import methods as known
    from steer.suite.suite import Settings

    if condition and tags:
        raise UsageError("--tags are pocket's; --condition stands in their place")
    if (texts or prompts) and not condition:
        raise UsageError("--texts and --prompts go with --condition")
    if condition and not texts:
        raise UsageError("a --condition needs --texts", hint="texts that know nothing of it")
    if out is not None:
        check_writable(out, force=force)
    named = tuple(part.strip() for part in methods.split(";")) if methods else known.METHODS
    known.check(named)
    subjects, made_from = _subjects(tags, condition, texts, prompts, names)
    settings = Settings(named, samples, max_tokens, seed)
    read = _rivals(vector or [], subjects)
    model = options.load_model(source)
    rivals = {name: _bound(own, model) for name, own in read.items()}
    workers = jobs or ((os.cpu_count() or 1) if source.name == "pocket" else 1)
    rows, done = _rows(model, source, subjects, made_from, settings, rivals, workers)
    command = measuring.command_line(context)
    _report(model, rows, command, out, force=force, json=json)
    done.finish()  # Only now is nothing lost.


def _subjects(
    tags: str | None,
    conditions: list[str] | None,
    texts: str | None,
    prompts: Path | None,
    names: Names,
) -> tuple[list[Subject], tuple[str, ...]]:
    from steer.contrasts import heldout
    from steer.contrasts import prompts as library
    from steer.suite.subjects import of_conditions, of_pocket, stories, unlike

    if not conditions:
        return of_pocket([one.strip() for one in tags.split(",")] if tags else ()), stories()
    assert texts is not None
    own = names.of("texts")
    found = heldout.texts(records_of(texts, own), own).texts or ()
    begun: tuple[str, ...] = library.OPENINGS
    if prompts is not None:
        begun = tuple(library.different(read_prompts(prompts, names)))
    return of_conditions(conditions, begun), unlike([one.text for one in found])


def _rivals(named: list[str], subjects: list[Subject]) -> dict[str, dict[str, SteeringVector]]:
    """By subject and file name, the vectors that others made."""
    from steer.base.errors import UsageError

    found: dict[str, dict[str, SteeringVector]] = {one.name: {} for one in subjects}
    for text in named:
        subject, equals, file = text.rpartition("=")
        if not equals or subject not in found:
            raise UsageError(f"{text!r} names no tag here", hint="write joyful=happy.gguf")
        if Path(file).name in found[subject]:
            raise UsageError(
                f"two files named {Path(file).name} for {subject}", hint="rename one of them"
            )
        found[subject][Path(file).name] = _read(Path(file))
    return found


def _read(path: Path) -> SteeringVector:
    from steer.formats import reading
    from steer.formats.source import Options
    from steer.models import torch_files
    from steer.vectors import store

    if path.suffix == store.SUFFIX and path.exists() and store.is_vector(path):
        return store.read(path)
    found = reading.read(path, Options(), torch_files.read)
    output.note(f"{path.name}: {found.assumed}")
    return reading.steering_vector(found, None, name=path.stem)


def _bound(vectors: dict[str, SteeringVector], model: Model) -> dict[str, SteeringVector]:
    """Vectors of ours that fit the model, and others', which are taken for its own."""
    from steer.formats.reading import bind
    from steer.steering.steers import check_fits

    made = {}
    for name, vector in vectors.items():
        if vector.metadata.model.bound:
            check_fits(vector, model.identity)
            made[name] = vector
        else:
            made[name] = bind(vector, model.identity)
    return made


def _rows(
    model: Model,
    source: ModelSource,
    subjects: list[Subject],
    texts: tuple[str, ...],
    settings: Settings,
    rivals: dict[str, dict[str, SteeringVector]],
    jobs: int,
) -> tuple[list[dict[str, Any]], Journal]:
    """The rows of all subjects, in their order, and where they are kept; those that were done
    before are not done again."""
    from steer.resuming import journal, vector_key
    from steer.suite.suite import measured

    hashes = {
        name: {file: vector_key(one)[-1] for file, one in own.items()}
        for name, own in rivals.items()
    }
    kept = journal(model, "suites", texts, asdict(settings))
    keys = {one.name: f"{asdict(one)} {hashes[one.name]}" for one in subjects}
    rows = {one.name: kept.get(keys[one.name]) for one in subjects}
    waiting = [one for one in subjects if rows[one.name] is None]
    if len(waiting) < len(subjects):
        output.note(f"{len(subjects) - len(waiting)} of {len(subjects)} were done before")
    job = partial(measured, texts=texts, settings=settings, rivals=rivals)
    with output.progress("measuring", len(waiting)) as advance:
        for subject, made in _done(model, source, waiting, job, min(jobs, len(waiting))):
            kept.put(keys[subject.name], made)
            rows[subject.name] = made
            advance(1, subject.name)
    return [row for one in subjects for row in rows[one.name]], kept


def _done(
    model: Model, source: ModelSource, subjects: list[Subject], job: Any, jobs: int
) -> Iterator[tuple[Subject, list[dict[str, Any]]]]:
    from steer.suite import parallel

    if jobs > 1:
        yield from parallel.done(source, subjects, job, jobs)
        return
    for subject in subjects:
        yield subject, job(model, subject)


def _report(
    model: Model,
    rows: list[dict[str, Any]],
    command: str,
    out: Path | None,
    *,
    force: bool,
    json: bool,
) -> None:
    from steer.base.files import write_atomic
    from steer.suite.table import summary

    told = {"command": command, "model": model.identity.id, "rows": rows, "summary": summary(rows)}
    if out is not None:
        data = json_library.dumps(told, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomic(out, data.encode(), force=force)
        output.note(f"wrote {out}")
    if json:
        output.as_json(told)
        return
    from steer.cli.suite_tables import show

    show(model.describe(), told)
