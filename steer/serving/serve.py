"""Serve a model until the process is interrupted, on Hugging Face or by vLLM's own server.

Everything that can be wrong is checked before the model loads: the options, the vectors and recipes
that requests can name, and the address.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steer.base.errors import SteerError, UsageError
from steer.models.source import POCKET, ModelSource
from steer.serving import library as libraries
from steer.serving import pages
from steer.serving.middleware import Access, is_local
from steer.serving.sockets import first_free
from steer.steering.named import NamedSteer
from steer.steering.steers import Steer
from steer.vectors import store

if TYPE_CHECKING:
    from steer.models.model import Model
    from steer.vectors.vector import SteeringVector


@dataclass(frozen=True)
class ServedContent:
    """The names that requests can use, and the default steering.

    vectors: a folder of vectors and recipes. recipes: more recipes. defaults: the steers of
    requests that name none. may_be_empty: serve without vectors too.
    """

    vectors: Path = Path("vectors")
    recipes: Sequence[Path] = ()
    defaults: Sequence[NamedSteer | Steer] = ()
    may_be_empty: bool = False


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server.

    host: where it listens. ports: the first free one is taken; 0 is any free port. api_key: the key
    that clients have to send. origins: of pages that may call it, besides its own. engine: None for
    Hugging Face, or `vllm`; engine_options: of vLLM. allow_idle: the default of requests.
    allow_other_model: use vectors on a finetune of their model.
    """

    host: str = "127.0.0.1"
    ports: Sequence[int] = (8000,)
    api_key: str | None = None
    origins: Sequence[str] = ()
    engine: str | None = None
    engine_options: dict[str, Any] = field(default_factory=dict)
    allow_idle: bool = False
    allow_other_model: bool = False

    def check(self, source: ModelSource | None = None) -> None:
        """Check the settings. source: the model, if it is not loaded yet.

        Raises:
            UsageError: settings exclude each other, or everybody could use the server.
            SteerError: a package is not installed.
        """
        if source is not None and source.tensor_parallel:
            raise UsageError(
                "one process serves, --tp is for several", hint="spread it with --device-map auto"
            )
        if self.engine and source is not None and source.template.date is not None:
            raise UsageError(
                "vLLM puts today's date into chat templates: --date goes with no --engine",
                hint="leave one of the two out",
            )
        if not is_local(self.host) and not self.api_key:
            raise UsageError(
                f"whoever reaches {self.host} could use this server",
                hint="pass --api-key KEY, or set STEER_API_KEY",
            )
        if self.engine is None:
            for package in ("fastapi", "uvicorn"):
                if find_spec(package) is None:
                    raise SteerError(
                        f"{package} is not installed", hint="pip install 'steer-activations[serve]'"
                    )

    def check_vector(self, vector: SteeringVector) -> None:
        """Check that the engine can steer with a vector.

        Raises:
            SteerError: it cannot.
        """
        if self.engine is None:
            return
        from steer.engines.vllm_engine import check
        from steer.steering.operation import Coefficient

        metadata = vector.metadata
        check([Steer(vector, Coefficient(1.0), metadata.layers)], metadata.model.architecture)


@dataclass(frozen=True)
class ServerInfo:
    """A server that is up.

    page: the address of its page. url: that of OpenAI's API. model: its name. runs_on: one line
    about the model and the engine. vectors, recipes: the names for requests. defaults: the steers
    of requests that name none.
    """

    page: str
    url: str
    model: str
    runs_on: str
    vectors: tuple[str, ...]
    recipes: tuple[str, ...]
    defaults: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the keys of `steer serve --json`."""
        return {
            "url": self.url,
            "model": self.model,
            "vectors": list(self.vectors),
            "recipes": list(self.recipes),
            "page": self.page,
        }


def serve(
    content: ServedContent,
    load: Callable[[], Model],
    source: ModelSource,
    settings: ServerSettings,
    *,
    find: Callable[[str], Path] = store.find,
    warn: Callable[[str], None] = lambda text: None,
    log_request: Callable[[str], None] = lambda text: None,
    on_up: Callable[[ServerInfo], None] = lambda served: None,
) -> None:
    """Check, load the model, listen, and answer requests until the process is interrupted.

    load: loads the model; with an engine its identity and tokenizer are enough. source: the model
    as commands name it. find: gives the file of a default steer's vector. warn: called with a line
    for each vector or recipe that is left out or may not fit. log_request: called with a line for
    each request, without its texts. on_up: called once the server answers.

    Raises:
        UsageError: as `ServerSettings.check`.
        VectorError: there is no vector to serve.
        ModelError, SiteError: the default steers do not fit the model.
        HookError: steers do not change the server's answers.
        SteerError: the address is taken, a file cannot be read, or vLLM ended by itself.
    """
    settings.check(source)
    library, notes = _read(content, source, settings, find)
    access = Access(settings.api_key or None, is_local(settings.host), tuple(settings.origins))
    socket = first_free(settings.host, settings.ports)
    model = load()
    library, more = libraries.for_model(
        library,
        model.identity,
        allow_other_model=settings.allow_other_model,
        may_be_empty=content.may_be_empty,
    )
    for text in [*notes, *more]:
        warn(text)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    port = socket.getsockname()[1]
    identity, engine = model.identity, settings.engine
    runs_on = f"{identity.id} · {engine}" if engine else model.describe()

    def up() -> None:
        on_up(
            ServerInfo(
                page=f"http://{host}:{port}/",
                url=f"http://{host}:{port}/v1",
                model=identity.id,
                runs_on=runs_on,
                vectors=tuple(sorted(library.vectors)),
                recipes=tuple(sorted(library.recipes)),
                defaults=tuple(map(str, library.defaults)),
            )
        )

    if engine is None:
        from steer.serving.server import run as run_here

        run_here(
            model,
            library,
            socket,
            access=access,
            source=source.name,
            folder=content.vectors,
            log=warn,
            log_request=log_request,
            on_up=up,
        )
        return
    from steer.serving.vllm_server import run as run_vllm

    about = pages.about(model, engine)
    del model  # vLLM has the weights from here on
    socket.close()
    run_vllm(
        source,
        library,
        about=about,
        host=settings.host,
        port=port,
        access=access,
        options=settings.engine_options,
        on_up=up,
    )


def _read(
    content: ServedContent,
    source: ModelSource,
    settings: ServerSettings,
    find: Callable[[str], Path],
) -> tuple[libraries.Library, list[str]]:
    """The library of the content, and notes on files that are left out."""
    is_pocket = source.name == POCKET  # whose vectors are part of steer
    is_default_folder = is_pocket and content.vectors == ServedContent.vectors
    library, notes = libraries.read_library(
        content.vectors,
        settings.check_vector,
        may_be_empty=content.may_be_empty or is_default_folder,
    )
    if is_pocket:
        libraries.add_shipped(library, settings.check_vector)
    notes += libraries.add_recipes(library, content.recipes, content.vectors, settings.check_vector)
    libraries.set_defaults(library, content.defaults, content.vectors, find)
    library.allow_idle = settings.allow_idle
    return library, notes
