"""`steer check-server`: test whether a running server steers as the vectors say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import options, output
from steer.cli.recipe import RecipeOption, settings
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.library.servers import ServerCheck

#: The most bytes of a file of fields.
_LARGEST = 1_000_000_000
_MEANING = {
    "steered": "steered as the vectors say",
    "other": "steered with these vectors, at another strength: about {multiple:g} times as strong",
    "unsteered": "not steered: it answers as the unsteered model does",
    "neither": "neither the steered nor the unsteered model: other weights, vectors or templates?",
    "unclear": "unclear: the vectors change almost nothing on these prompts",
}


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("check-server")(check_server)


@options.with_model(default="pocket", chat=True)
def check_server(
    *,
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="Of an OpenAI-compatible server.")],
    vector: Annotated[
        list[str] | None,
        typer.Option("-v", "--vector", help="What the server should steer with, as in apply."),
    ] = None,
    recipe: RecipeOption = None,
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt to send. Repeatable.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask in a conversation.")] = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each answer.")] = 16,
    served: Annotated[
        str | None, typer.Option(help="The server's name for its model; by default its first.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="STEER_API_KEY", help="A key that the server asks for.")
    ] = None,
    fields: Annotated[
        Path | None,
        typer.Option(help="JSON to put into each request, as `steer drive` gives it."),
    ] = None,
    allow_other_model: Annotated[
        bool, typer.Option("--allow-other-model", help="Use a vector on a finetune of its model.")
    ] = False,
    json: options.Json = False,
    source: ModelSource,
) -> None:
    """Test whether a running server steers as the vectors say.

    Engines silently ignore options that they do not know. steer compares the server's greedy
    answers, and its log-probs if it returns them, with those of the model here, steered and
    unsteered. Log-probs also show a wrong strength, such as 0.9 times the one you name. For a baked
    model, -m is the original. Exit status 0 if the server is steered as you say, otherwise 1.

    \b
    steer check-server http://localhost:8000 -m MODEL -v joyful:2@2
    steer check-server http://localhost:8000 -m MODEL -v joyful:2@2 --chat \\
        --prompt "Tell me a story."
    """
    from steer.base.errors import UsageError
    from steer.library.servers import check_server as run
    from steer.steering.named import resolved
    from steer.steering.tokens import refuse

    named, _ = settings(context, recipe, {}, vector or [])
    if not named:
        raise UsageError("no vector is named", hint="name vectors with -v, or a recipe")
    steers = resolved(named, options.find)
    refuse(steers, "steer check-server")
    used = [vector for steer in steers for vector in steer.vectors]
    result = run(
        url,
        lambda: options.load_model(options.for_vectors(used, source, chat=chat)),
        steers,
        prompts=prompt,
        chat=chat,
        max_tokens=max_tokens,
        served=served,
        api_key=api_key,
        fields=_fields(fields),
        allow_other_model=allow_other_model,
        progress=output.progress,
        warn=output.warning,
    )
    _show(result, json=json)


def _fields(file: Path | None) -> dict[str, Any] | None:
    """The fields of requests in a file.

    Raises:
        SteerError: the file cannot be read, or does not hold a JSON object.
    """
    from steer.base.errors import InputError
    from steer.base.files import read_bytes
    from steer.base.strict_json import load_strict_json

    if file is None:
        return None
    text = read_bytes(file, limit=_LARGEST).decode("utf-8", "replace")
    content = load_strict_json(text, str(file))
    if not isinstance(content, dict):
        raise InputError(f"{file} is not a JSON object", hint="steer drive --out writes one")
    return content


def _show(result: ServerCheck, *, json: bool) -> None:
    """Print the verdict and its evidence.

    Raises:
        typer.Exit: the server is not steered as the vectors say.
    """
    answers = result.answers
    if json:
        output.as_json(result.to_dict())
    else:
        output.table(
            ["prompt", "the server's text is", "nats to steered", "to unsteered"],
            [
                [
                    row.prompt,
                    row.agrees or "the same in both",
                    *("-" if d is None else f"{d:.2g}" for d in (row.to_steered, row.to_unsteered)),
                ]
                for row in answers.prompts
            ],
            left=2,
        )
        meaning = _MEANING[answers.verdict].format(multiple=answers.multiple)
        output.line(f"{result.served} at {result.url} is {meaning}")
        if answers.distances is None:
            output.note(
                "the server returns no comparable log-probs: the texts decide, and they cannot tell"
                " similar strengths apart"
            )
    if answers.verdict != "steered":
        raise typer.Exit(1)
