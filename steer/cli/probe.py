"""`steer probe`: does a running server steer?"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import options, output
from steer.cli.recipe import RecipeOption, settings
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.engines.endpoint import Endpoint
    from steer.engines.probe import Probe

_MEANING = {
    "steered": "steered as the vectors say",
    "other": "steered with these vectors, at another strength: about {multiple:g} times as strong",
    "unsteered": "not steered: it answers as the unsteered model does",
    "neither": "neither the steered nor the unsteered model: other weights, vectors or templates?",
    "unclear": "unclear: the vectors change next to nothing on these prompts",
}


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("probe")(probe)


@options.with_model(default="pocket", chat=True)
def probe(
    *,
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="Of an OpenAI-compatible server.")],
    vector: Annotated[
        list[str] | None,
        typer.Option("-v", "--vector", help="What it should be steered with, as for steer apply."),
    ] = None,
    recipe: RecipeOption = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Ask this, in place of the usual. Repeatable.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask in a conversation.")] = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each answer.")] = 16,
    served: Annotated[
        str | None, typer.Option(help="The server's name for its model; by default its first.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="STEER_API_KEY", help="A key that the server asks for.")
    ] = None,
    allow_other_model: Annotated[
        bool, typer.Option("--allow-other-model", help="Use a vector on a finetune of its model.")
    ] = False,
    json: options.Json = False,
    source: ModelSource,
) -> None:
    """Ask a running server whether it is steered with vectors.

    Engines drop what they do not know in silence. This holds a server's greedy answers, and its
    log-probs where it tells them, against what the model does here with and without the vectors.
    Log-probs also tell another strength, such as 0.9 times what you say. -m is the model that was
    baked, not the result. Exit status 0 if it is steered as you say, else 1.

    \b
    steer probe http://localhost:8000 -m MODEL -v joyful:2@2
    steer probe http://localhost:8000 -m MODEL -v joyful:2@2 --chat \\
        --prompt "Tell me a story."
    """
    from steer.base.errors import UsageError
    from steer.engines.endpoint import Endpoint
    from steer.steering.named import resolved
    from steer.steering.tokens import refuse

    asked, _ = settings(context, recipe, {}, vector or [])
    if not asked:
        raise UsageError("nothing to look for", hint="name vectors with -v, or a recipe")
    steers = resolved(asked, options.find)
    refuse(steers, "steer probe")
    with Endpoint(url, api_key=api_key) as endpoint:
        name = served or _first(endpoint)
        used = [one for steer in steers for one in steer.vectors]
        model = options.load_model(options.for_vectors(used, source, chat=chat))
        from steer.engines import probe as probing

        options.check_fit(used, model.identity, allow_other_model=allow_other_model)
        prompts = tuple(prompt or probing.PROMPTS)
        with output.progress("asking", len(prompts)) as advance:
            found = probing.probe(
                model,
                steers,
                prompts,
                lambda text: endpoint.complete(text, served=name, max_tokens=max_tokens, chat=chat),
                max_tokens=max_tokens,
                chat=chat,
                on_done=lambda: advance(1),
            )
    said = {"url": endpoint.url, "served": name, "steers": [str(steer) for steer in steers]}
    _tell(found, said, json=json)


def _first(endpoint: Endpoint) -> str:
    """The server's first model.

    Raises:
        SteerError: it has none.
    """
    from steer.base.errors import SteerError

    names = endpoint.models()
    if not names:
        raise SteerError(f"{endpoint.url} serves no model", hint="name one with --served")
    return names[0]


def _tell(found: Probe, said: dict[str, Any], *, json: bool) -> None:
    """The verdict and what it rests on.

    Raises:
        typer.Exit: the server is not steered.
    """
    distances = found.distances
    if json:
        names = ("to_steered", "to_unsteered", "between")
        nats = dict(zip(names, distances, strict=True)) if distances else None
        rows = [asdict(one) for one in found.prompts]
        told = {"verdict": found.verdict, "multiple": found.multiple, **said}
        output.as_json({**told, "nats": nats, "prompts": rows})
    else:
        output.table(
            ["prompt", "the server's text is", "nats to steered", "to unsteered"],
            [
                [
                    one.prompt,
                    one.agrees or "the same in both",
                    *("-" if d is None else f"{d:.2g}" for d in (one.to_steered, one.to_unsteered)),
                ]
                for one in found.prompts
            ],
            left=2,
        )
        meaning = _MEANING[found.verdict].format(multiple=found.multiple)
        output.line(f"{said['served']} at {said['url']} is {meaning}")
        if distances is None:
            output.note(
                "the server tells no log-probs that could be compared: texts decide, which do not"
                " tell a strength from one near it"
            )
    if found.verdict != "steered":
        raise typer.Exit(1)
