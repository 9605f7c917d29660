"""`steer serve`: a server with OpenAI's API whose requests say how to steer, and its page."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import engine as engines
from steer.cli import options, output
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.serving.serve import ServedContent, ServerInfo, ServerSettings


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("serve")(serve)


@options.with_model(default="pocket", chat=True)
def serve(
    *,
    vector: Annotated[
        list[str] | None,
        typer.Option("-v", "--vector", help="Steer requests that name no steers, as in apply."),
    ] = None,
    when: Annotated[str | None, typer.Option(help="A gate for -v: 'sea>0.2'.")] = None,
    vectors: Annotated[
        Path, typer.Option(help="A folder: the vectors and recipes that requests can name.")
    ] = Path("vectors"),
    recipe: Annotated[
        list[Path] | None, typer.Option(help="Another recipe that requests can name. Repeatable.")
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 is everywhere.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar="STEER_API_KEY", help="A key that clients have to send.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Pages of this origin may call: http://HOST:PORT.")
    ] = None,
    log_requests: Annotated[
        bool, typer.Option("--log", help="A line for each request on stderr, without its texts.")
    ] = False,
    engine: Annotated[
        str | None, typer.Option(help="vllm: vLLM's own server, for many users.")
    ] = None,
    engine_option: engines.EngineSettings = None,
    allow_idle: options.AllowIdle = False,
    allow_other_model: Annotated[
        bool, typer.Option("--allow-other-model", help="Use vectors on a finetune of their model.")
    ] = False,
    json: options.Json = False,
    source: ModelSource,
) -> None:
    """Serve a model with OpenAI's API; requests say how to steer.

    Completions and chat completions, streamed or not, with logprobs, n, seed and stop. Requests
    name vectors and recipes of one folder, which is read once; GET /v1/vectors lists them, and each
    is a model, MODEL:NAME. Requests run together, each under its own steers
    (pip install 'steer-activations[serve]'). The page at / does the same by hand; `steer ui` opens
    it.

    \b
    steer serve -m MODEL --vectors vectors
    steer serve -v joyful:2@2                steers requests that name no steers
    client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
    client.chat.completions.create(model="MODEL", messages=[...],
        extra_body={"steer": "joyful:2@14", "watch": "joyful"})

    \b
    "steer"   "joyful:2@14/response" as in -v, a list of these, or objects:
              {"vector": "joyful", "coefficient": 2, "layers": [14]}
              with "op", "scope", "schedule", "when"; [] steers nothing
    "when"    "refusal>0.4"                 "watch"   ["joyful"]
    "guard"   "troll>0.5", and "on_trip": "stop", "error" or "ablate"

    \b
    steer serve -m MODEL --engine vllm --engine-option tensor_parallel_size=2
    """
    from steer.serving.serve import ServedContent, ServerSettings
    from steer.steering.named import NamedSteer, gated

    settings = ServerSettings(
        host=host,
        ports=[port],
        api_key=api_key,
        origins=allow_origin or [],
        engine=engine,
        engine_options=engines.check(engine, engine_option or [], []),
        allow_idle=allow_idle,
        allow_other_model=allow_other_model,
    )
    defaults = gated([NamedSteer(text) for text in vector or []], when, "--when")
    content = ServedContent(vectors, recipe or [], defaults)
    run(content, source, settings, partial(report, json=json), log_requests=log_requests)


def run(
    content: ServedContent,
    source: ModelSource,
    settings: ServerSettings,
    on_up: Callable[[ServerInfo], None],
    *,
    log_requests: bool = False,
) -> None:
    """Serve until interrupted; warnings, and a line for each request, go to stderr."""
    from steer.serving.serve import serve

    load = options.load_identity if settings.engine else options.load_model
    serve(
        content,
        partial(load, source),
        source,
        settings,
        find=options.find,
        warn=output.warning,
        log_request=output.note if log_requests else lambda text: None,
        on_up=on_up,
    )


def report(served: ServerInfo, *, json: bool) -> None:
    """Report a server that is up."""
    parts = [served.runs_on, f"vectors: {', '.join(served.vectors) or 'none yet'}"]
    parts += [f"recipes: {', '.join(served.recipes)}"] if served.recipes else []
    parts += [f"steered by {' + '.join(served.defaults)}"] if served.defaults else []
    output.note(" · ".join(parts))
    output.note(f"page: {served.page} · OpenAI's API: {served.url} · Ctrl-C stops the server")
    if json:
        output.as_json(served.to_dict())
