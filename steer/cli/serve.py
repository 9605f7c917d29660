"""`steer serve`: a server with OpenAI's API whose requests say how to steer, and its page."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import engine as engines
from steer.cli import options, output
from steer.models.source import POCKET, ModelSource

if TYPE_CHECKING:
    from steer.vectors.vector import SteeringVector


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
    from steer.base.errors import UsageError
    from steer.serving.middleware import is_local

    if source.tensor_parallel:
        raise UsageError(
            "one process serves, --tp is for several", hint="spread it with --device-map auto"
        )
    if engine and source.template.date is not None:
        raise UsageError(
            "vLLM puts today's date into chat templates: --date goes with no --engine",
            hint="leave one of the two out",
        )
    if not is_local(host) and not api_key:
        raise UsageError(
            f"whoever reaches {host} could use this server",
            hint="pass --api-key KEY, or set STEER_API_KEY",
        )
    settings, usable = ready(engine, engine_option or [])
    run(
        ServedContent(vectors, recipe or [], vector or [], when),
        source,
        host=host,
        ports=[port],
        api_key=api_key,
        allow_origin=allow_origin or [],
        log_requests=log_requests,
        engine=engine,
        settings=settings,
        usable=usable,
        allow_idle=allow_idle,
        allow_other_model=allow_other_model,
        json=json,
    )


@dataclass(frozen=True)
class ServedContent:
    """What to serve.

    vectors: a folder of vectors and recipes. recipes: more recipes. defaults: steers of requests
    that name none, as typed after -v; when: their gate. may_be_empty: serve without vectors too.
    """

    vectors: Path
    recipes: Sequence[Path]
    defaults: Sequence[str]
    when: str | None
    may_be_empty: bool = False


def run(
    requested: ServedContent,
    source: ModelSource,
    *,
    host: str,
    ports: Sequence[int],
    api_key: str | None,
    allow_origin: Sequence[str],
    log_requests: bool,
    engine: str | None,
    settings: dict[str, Any],
    usable: Callable[[SteeringVector], None],
    allow_idle: bool,
    allow_other_model: bool,
    json: bool,
    browser: bool = False,
) -> None:
    """Load, check, listen at the first of the ports that is free, and answer until interrupted."""
    from steer.serving import library as libraries
    from steer.serving import pages
    from steer.serving.middleware import Access, is_local
    from steer.serving.sockets import first_free
    from steer.steering.named import NamedSteer, gated

    defaults = gated([NamedSteer(text) for text in requested.defaults], requested.when, "--when")
    is_pocket = source.name == POCKET  # whose vectors are part of steer
    empty = requested.may_be_empty
    unnamed = is_pocket and requested.vectors == Path("vectors")
    library, notes = libraries.read_library(
        requested.vectors, usable, may_be_empty=empty or unnamed
    )
    if is_pocket:
        libraries.add_shipped(library, usable)
    notes += libraries.add_recipes(library, requested.recipes, requested.vectors, usable)
    libraries.set_defaults(library, defaults, requested.vectors, options.find)
    library.allow_idle = allow_idle
    access = Access(api_key or None, is_local(host), tuple(allow_origin))
    at = first_free(host, ports)
    model = options.load_identity(source) if engine else options.load_model(source)
    identity = model.identity
    runs_on = f"{identity.id} · {engine}" if engine else model.describe()
    library, more = libraries.for_model(
        library, identity, allow_other_model=allow_other_model, may_be_empty=empty
    )
    for text in [*notes, *more]:
        output.warning(text)
    name = f"[{host}]" if ":" in host else host
    port = at.getsockname()[1]
    page = f"http://{name}:{port}"
    url = f"{page}/v1"

    def up() -> None:
        names, recipes = sorted(library.vectors), sorted(library.recipes)
        parts = [runs_on, f"vectors: {', '.join(names) or 'none yet'}"]
        parts += [f"recipes: {', '.join(recipes)}"] if recipes else []
        parts += [f"steered by {' + '.join(map(str, library.defaults))}"] if defaults else []
        output.note(" · ".join(parts))
        output.note(f"page: {page}/ · OpenAI's API: {url} · Ctrl-C stops the server")
        if json:
            served = {"url": url, "model": identity.id, "vectors": names, "recipes": recipes}
            output.as_json(served | {"page": f"{page}/"})
        if browser:
            _open(f"{page}/")

    if engine is None:
        from steer.serving.server import serve as on_hugging_face

        on_hugging_face(
            model,
            library,
            at,
            access=access,
            source=source.name,
            folder=requested.vectors,
            log=output.warning,
            log_request=output.note if log_requests else lambda text: None,
            on_up=up,
        )
        return
    from steer.serving.vllm_server import serve as on_vllm

    about = pages.about(model, engine)
    del model  # vLLM has the weights from here on
    at.close()
    on_vllm(
        source,
        library,
        about=about,
        host=host,
        port=port,
        access=access,
        options=settings,
        on_up=up,
    )


def _open(url: str) -> None:
    """Open a page in the user's browser, where there is one to open."""
    import sys
    import threading
    import webbrowser

    has_screen = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )
    if has_screen:  # in a thread of its own: some browsers return only when they are closed
        threading.Thread(target=webbrowser.open, args=[url], daemon=True).start()


def ready(
    engine: str | None, engine_option: Sequence[str]
) -> tuple[dict[str, Any], Callable[[SteeringVector], None]]:
    """The settings of the engine, and a function that refuses vectors that it cannot use.

    Raises:
        UsageError: the engine does not exist, or a setting has no value.
        SteerError: a package is not installed.
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
