"""`steer suite`: compare methods on conditions with known effects, beside the prompt itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import measuring, options, output
from steer.cli.texts import read_prompts, records_of, with_map
from steer.contrasts.schema import Names
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.vectors.vector import SteeringVector


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("suite")(suite)


@options.with_model(default="pocket", chat=True)
@with_map("texts", "prompts")
def suite(
    *,
    context: typer.Context,
    tags: Annotated[
        str | None,
        typer.Option(help="Tags of the pocket model: joyful,sea. Default: all."),
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(help="A prompt in place of tags. Repeatable."),
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(help="With --condition: a hundred unrelated texts."),
    ] = None,
    prompts: measuring.Prompts = None,
    names: Names,
    methods: Annotated[
        str | None,
        typer.Option(help="Such as 'mean_diff, last;probe:penalty=2'. Default: all."),
    ] = None,
    vector: Annotated[
        list[str] | None,
        typer.Option("-v", "--vector", help="TAG=FILE: another tool's vector for a tag."),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=2, max=100_000, help="Texts to generate for each row.")
    ] = 48,
    max_tokens: measuring.MaxTokens = 64,
    seed: measuring.Seed = 0,
    budget: measuring.BudgetOption = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes. Default: pocket one a core, else 1.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write everything here, as JSON.")
    ] = None,
    force: options.Force = False,
    json: options.Json = False,
    source: ModelSource,
) -> None:
    """Compare methods on conditions with known effects.

    Every method makes a vector for each tag of the pocket model (or each --condition). The layer
    and coefficient are chosen as in `steer sweep`, on texts that the model generates under the
    condition. Effect and cost are then measured on other texts, beside the condition as a prompt.
    If a suite is stopped, the same command continues it.

    \b
    steer suite
    steer suite --tags joyful,sea --methods "mean_diff;lda" -v joyful=happy.gguf
    steer suite -m MODEL --condition "You are cheerful." --texts texts.jsonl
    """
    from steer.base.files import check_writable
    from steer.evaluation import suite as run

    if out is not None:
        check_writable(out, force=force)
    # Without --condition these files are not read: the library refuses them.
    read = None if texts is None else (_texts(texts, names) if condition else [texts])
    beginnings = None if prompts is None else (_prompts(prompts, names) if condition else [""])
    result = run(
        lambda: options.load_model(source),
        condition or (),
        read or (),
        tags=[tag.strip() for tag in tags.split(",")] if tags else (),
        prompts=beginnings,
        methods=[part.strip() for part in methods.split(";")] if methods else None,
        rivals=_rivals(vector or []),
        samples=samples,
        max_tokens=max_tokens,
        seed=seed,
        budget=budget,
        jobs=jobs or ((os.cpu_count() or 1) if source.name == "pocket" else 1),
        source=source,
        command=measuring.command_line(context),
        progress=output.progress,
        note=output.note,
    )
    if out is not None:
        measuring.write_json(out, result.to_dict(), force=force)
    if json:
        output.as_json(result.to_dict())
    else:
        measuring.show(result)
    result.finish()  # Deletes the kept scores, now that the result is written.


def _texts(file: str, names: Names) -> list[str]:
    from steer.contrasts import heldout

    names = names.of("texts")
    return [passage.text for passage in heldout.texts(records_of(file, names), names).texts or ()]


def _prompts(file: Path, names: Names) -> list[str]:
    from steer.contrasts import prompts

    return list(prompts.different(read_prompts(file, names)))


def _rivals(specs: list[str]) -> dict[str, dict[str, SteeringVector]]:
    """The vectors of other tools, by subject and file name, from texts such as TAG=FILE."""
    from steer.base.errors import UsageError

    rivals: dict[str, dict[str, SteeringVector]] = {}
    for text in specs:
        subject, equals, file = text.rpartition("=")
        if not equals:
            raise UsageError(f"{text!r} is not TAG=FILE", hint="write joyful=happy.gguf")
        if Path(file).name in rivals.setdefault(subject, {}):
            raise UsageError(
                f"two files named {Path(file).name} for {subject}", hint="rename one of them"
            )
        rivals[subject][Path(file).name] = _read(Path(file))
    return rivals


def _read(path: Path) -> SteeringVector:
    from steer.formats import reading
    from steer.formats.source import Options
    from steer.models import torch_files
    from steer.vectors import store

    if path.suffix == store.SUFFIX and path.exists() and store.is_vector(path):
        return store.read(path)
    foreign = reading.read(path, Options(), torch_files.read)
    output.note(f"{path.name}: {foreign.assumed}")
    return reading.steering_vector(foreign, None, name=path.stem)
