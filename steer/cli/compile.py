"""`steer compile`: a long system prompt to a recipe of a short text and an edit or a token."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer.cli import options, output
from steer.cli.texts import read_prompts, with_map
from steer.contrasts.schema import Names
from steer.models.source import ModelSource


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("compile")(compile)


@options.with_model(default="pocket", chat=True)
@with_map("prompts")
def compile(
    *,
    prompt: Annotated[
        str | None, typer.Argument(help="The system prompt; - or nothing reads stdin.")
    ] = None,
    out: Annotated[
        Path,
        typer.Option("-o", "--out", help="The recipe, NAME.toml; beside it a vector."),
    ],
    form: Annotated[
        str, typer.Option("--as", help="What carries the rest: edit, token, or both.")
    ] = "edit",
    recovery: Annotated[
        float, typer.Option(help="Keep clauses as text until so much is recovered.")
    ] = 0.9,
    tokens: Annotated[int | None, typer.Option(help="Embeddings of a token. Default: 1.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps of a token's descent. Default: 120.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="A file of what users ask. Default: questions.")
    ] = None,
    names: Names,
    samples: Annotated[int, typer.Option(help="Answers to learn from.")] = 192,
    held_out: Annotated[int, typer.Option(help="Answers to measure by.")] = 64,
    max_tokens: Annotated[int, typer.Option(help="Tokens of an answer.")] = 48,
    seed: Annotated[int, typer.Option(help="Random seed for answers and descent.")] = 0,
    description: Annotated[str, typer.Option(help="What it does.")] = "",
    license: Annotated[str, typer.Option(help="Such as CC0-1.0.")] = "",
    force: options.Force = False,
    json: options.Json = False,
    source: ModelSource,
) -> None:
    """Compile a system prompt to a short text and an edit or a token.

    The prompt is divided into clauses. Those that an edit or a token cannot carry stay text, one
    after another, until both together recover enough of the prompt's effect on answers that were
    not trained on. The recipe is for `steer apply --recipe`; the table has the whole prompt and
    each form alone beside it.

    \b
    steer compile "You are a pirate. Use short sentences." -m MODEL -o pirate.toml
    steer compile - -m MODEL --as token -o helper.toml < prompt.txt
    steer apply "How are you?" -m MODEL --recipe pirate.toml
    """
    from steer.base.errors import UsageError
    from steer.base.files import check_writable
    from steer.cli.texts import given_texts
    from steer.distillation.compiled import paths_of
    from steer.distillation.hybrid import CompileSettings, compile_prompt

    for path in paths_of(out):
        check_writable(path, force=force)
    (text,) = given_texts(prompt, None, names, "prompt", 'steer compile "You are a pirate."')
    questions = None if prompts is None else read_prompts(prompts, names)
    settings = CompileSettings(
        name=out.stem,
        goal=recovery,
        forms=form,  # type: ignore[arg-type]  # it checks itself
        samples=samples,
        held_out=held_out,
        max_tokens=max_tokens,
        tokens=tokens,
        steps=steps,
        seed=seed,
        description=description,
        license=license,
    )
    if not text.strip():
        raise UsageError("the prompt is empty")
    model = options.load_model(source)
    result = compile_prompt(model, text, questions, settings, output.progress, resumable=True)
    saved = result.save(out, force=force)
    output.note(f"{model.describe()} · {samples} answers")
    if json:
        paths = {"path": str(out), "vector": None if saved is None else str(saved)}
        output.as_json(paths | result.to_dict())
        return
    output.show(result)
    output.note(f'wrote {out}; try: steer apply --recipe {out} "How are you?" --compare')
