"""`steer serve`: an OpenAI-compatible server whose requests say how they are steered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import engine as engines
from steer.cli import options, output
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.vectors.vector import SteeringVector

_LOCAL = ("127.0.0.1", "localhost", "::1")


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("serve")(serve)


@options.with_model(default="pocket")
def serve(
    *,
    vectors: Annotated[
        Path, typer.Option(help="A folder: the vectors that requests can name.")
    ] = Path("vectors"),
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 is everywhere.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar="STEER_API_KEY", help="A key that clients have to send.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="vllm: vLLM's own server, which runs requests together.")
    ] = None,
    engine_option: engines.EngineSettings = None,
    allow_other_model: Annotated[
        bool, typer.Option("--allow-other-model", help="Use vectors on a finetune of their model.")
    ] = False,
    json: options.Json = False,
    source: ModelSource,
) -> None:
    """Serve a model by OpenAI's API, steered as each request says.

    Completions and chat completions, streamed or not, with logprobs, n, seed and stop. Requests
    name vectors of one folder, which is read once; GET /v1/vectors lists them. Without "steer"
    nothing is steered. On Hugging Face (pip install 'steer-activations[serve]') requests run one
    after another; --engine vllm is for many users.

    \b
    steer serve -m MODEL --vectors vectors
    client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
    client.chat.completions.create(model="MODEL", messages=[...], extra_body={
        "steer": [{"vector": "joyful", "coefficient": 2, "layers": [14]}]})

    \b
    "coefficient"  2, -1.5 or "15%"    "op"        "ablate", "clamp=pos", as in -v
    "layers"       [14, 15] or "all"   "scope"     "response", "4-9", ...
    left out: as the file recommends   "schedule"  "decay=20", ...

    \b
    steer serve -m MODEL --engine vllm --engine-option tensor_parallel_size=2
    """
    from steer.base.errors import UsageError
    from steer.serving.asked import fitting, read_shelf

    if source.tensor_parallel:
        raise UsageError(
            "one process serves, --tp is for several", hint="spread it with --device-map auto"
        )
    settings, usable = _ready(engine, engine_option or [])
    shelf, notes = read_shelf(vectors, usable)
    from steer.serving.listening import listening

    at = listening(host, port)
    if host not in _LOCAL and api_key is None:
        output.warning(f"whoever reaches {host} can use this server: --api-key asks for a key")
    model = options.load_model(replace(source, device="cpu") if engine else source)
    identity, runs_on = (
        model.identity,
        f"{model.identity.id} · {engine}" if engine else model.describe(),
    )
    shelf, more = fitting(shelf, identity, allow_other_model=allow_other_model)
    for text in [*notes, *more]:
        output.warning(text)
    name = f"[{host}]" if ":" in host else host
    port = at.getsockname()[1]
    url = f"http://{name}:{port}/v1"

    def up() -> None:
        names = sorted(shelf.vectors)
        output.note(f"{runs_on} · {url} · vectors: {', '.join(names)}")
        if json:
            output.as_json({"url": url, "model": identity.id, "vectors": names})

    if engine is None:
        from steer.serving.running import serve as on_hugging_face

        on_hugging_face(model, shelf, at, api_key=api_key, log=output.warning, on_up=up)
        return
    from steer.serving.vllm_server import serve as on_vllm

    del model  # vLLM has the weights from here on
    at.close()
    on_vllm(
        source,
        shelf,
        served=identity.id,
        host=host,
        port=port,
        api_key=api_key,
        options=settings,
        on_up=up,
    )


def _ready(
    engine: str | None, engine_option: Sequence[str]
) -> tuple[dict[str, Any], Callable[[SteeringVector], None]]:
    """What the engine is started with, and what refuses a vector that it cannot use.

    Raises:
        UsageError: there is no such engine, or a setting without a value.
        SteerError: something is not installed.
    """
    from steer.base.errors import SteerError

    settings = engines.check(engine, engine_option, [])
    if engine is None:
        missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
        if missing:
            raise SteerError(
                f"{missing[0]} is not installed", hint="pip install 'steer-activations[serve]'"
            )
        return settings, lambda vector: None
    from steer.engines.vllm_engine import check
    from steer.steering.operation import Coefficient
    from steer.steering.steers import Steer

    def usable(vector: SteeringVector) -> None:
        metadata = vector.metadata
        check([Steer(vector, Coefficient(1.0), metadata.layers)], metadata.model.architecture)

    return settings, usable
