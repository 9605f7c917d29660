"""Serve a model; and steer other servers, or test whether they are steered."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steer.base.errors import SteerError, UsageError
from steer.base.files import check_writable, write_atomic
from steer.base.progress import Progress, silent
from steer.engines import driving
from steer.engines.driving import Driver
from steer.engines.endpoint import Endpoint, Server
from steer.engines.server_check import PROMPTS, AnswerComparison, compare_answers
from steer.library.data import as_tuple
from steer.library.models import FitWarning, Model
from steer.library.vectors import Steers, as_steers, html_table
from steer.models import model as models
from steer.models.source import ModelSource
from steer.sharing import fetch
from steer.steering.steers import check_all_fit

if TYPE_CHECKING:
    from steer.serving.serve import ServerInfo


@dataclass(frozen=True, slots=True)
class ServerCheck:
    """A comparison of a server's answers with those of hooks in this process.

    `answers.verdict` is `steered`, `other` (steered at another strength: `answers.multiple` times),
    `unsteered`, `neither` or `unclear`.
    """

    url: str
    served: str
    steers: tuple[str, ...]
    answers: AnswerComparison

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `steer check-server --json` prints; distances in nats per token."""
        distances = self.answers.distances
        names = ("to_steered", "to_unsteered", "between")
        return {
            "verdict": self.answers.verdict,
            "multiple": self.answers.multiple,
            "url": self.url,
            "served": self.served,
            "steers": list(self.steers),
            "nats": dict(zip(names, distances, strict=True)) if distances else None,
            "prompts": [asdict(row) for row in self.answers.prompts],
        }

    def _repr_html_(self) -> str:
        rows = [
            (row.prompt, row.agrees, row.to_steered, row.to_unsteered)
            for row in self.answers.prompts
        ]
        caption = f"{self.served} at {self.url}: {self.answers.verdict}"
        return html_table(caption, ("prompt", "agrees", "to steered", "to unsteered"), rows)


@dataclass(frozen=True, slots=True)
class EngineSteering:
    """An engine with steering of its own, and how it steers now.

    engine: the name of its driver. takes, refuses: the steers that it supports, and does not.
    steers: those that were set; None if nothing was changed. fields: to add to the body of each
    request, if the engine itself stores no steering. notes: further facts for the user.
    """

    url: str
    engine: str
    takes: str
    refuses: tuple[str, ...]
    steers: tuple[str, ...] | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the keys of `steer drive --json`."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


def drive(
    url: str,
    steers: Steers | None = None,
    *,
    engine: str | None = None,
    clear: bool = False,
    out: str | Path | None = None,
    force: bool = False,
    api_key: str | None = None,
) -> EngineSteering:
    """Steer a running server by its engine's own steering, in place of its present steers.

    Without steers, it only reports the engine and the steers that it supports; `clear` removes its
    steering. engine: such as `ik_llama.cpp`; by default it is recognised. out: the file of the
    vector, for an engine that reads one (by default a temporary file), or of the fields of requests
    as JSON. force: replace a file. `check_server` then tests whether the server is steered.

    Raises:
        UsageError: `url` is not an address, there is no such engine, or it does not support a
            steer.
        SteerError: the server cannot be reached, refuses, or has no known steering.
    """
    chosen = as_steers(steers) if steers is not None else ()
    if clear and chosen:
        raise UsageError("clear ends all steering: it takes no steers", hint="do one of the two")
    with Server(url, api_key=api_key) as server:
        driver = driving.find(server, engine)
        known = (server.url, driver.name, driver.takes, driver.refuses)
        if not chosen and not clear:
            return EngineSteering(*known)
        path = None if out is None else Path(out)
        if path is not None:
            _check_out(driver, path, force=force)
        outcome = driving.drive(server, driver, chosen, path if driver.reads_file else None)
        if path is not None and not driver.reads_file:
            write_atomic(path, json.dumps(dict(outcome.fields)).encode() + b"\n", force=True)
        return EngineSteering(*known, tuple(map(str, chosen)), dict(outcome.fields), outcome.notes)


def _check_out(driver: Driver, path: Path, *, force: bool) -> None:
    """Check that there is something to write, and that it can be written.

    Raises:
        UsageError: the engine reads no file, and its requests need no fields.
        SteerError: the file cannot be written.
    """
    if driver.clear is not None and not driver.reads_file:
        raise UsageError(
            f"{driver.title} is sent the vector itself, and reads no file", hint="leave --out out"
        )
    check_writable(path, force=force)


def _warn(text: str) -> None:
    warnings.warn(text, FitWarning, stacklevel=3)


def check_server(
    url: str,
    model: Model | Callable[[], models.Model],
    steers: Steers,
    *,
    prompts: Sequence[str] | None = None,
    chat: bool = False,
    max_tokens: int = 16,
    served: str | None = None,
    api_key: str | None = None,
    fields: Mapping[str, Any] | None = None,
    allow_other_model: bool = False,
    progress: Progress = silent,
    warn: Callable[[str], None] = _warn,
) -> ServerCheck:
    """Test whether an OpenAI-compatible server steers as these vectors say.

    model: the unsteered model of the server, or a function that loads it. prompts: to send, instead
    of steer's own. served: the server's name for its model, by default its first. fields: added to
    the body of each request, such as those of `drive`.

    Raises:
        UsageError: `url` is not an address.
        SteerError: the server does not answer, or serves no model.
        ModelError: a vector was made on another model.
        HookError: a steer was never applied.
    """
    chosen = as_steers(steers)
    used = [vector for steer in chosen for vector in steer.vectors]
    with Endpoint(url, api_key=api_key, fields=fields) as endpoint:
        name = served or _first(endpoint)
        loaded = model.inner if isinstance(model, Model) else model()
        for text in check_all_fit(used, loaded.identity, allow_other_model=allow_other_model):
            warn(text)
        texts = tuple(prompts or PROMPTS)
        with progress("asking", len(texts)) as advance:
            answers = compare_answers(
                loaded,
                chosen,
                texts,
                lambda text: endpoint.complete(text, served=name, max_tokens=max_tokens, chat=chat),
                max_tokens=max_tokens,
                chat=chat,
                on_done=lambda: advance(1),
            )
        return ServerCheck(f"{endpoint.url}/v1", name, tuple(map(str, chosen)), answers)


def serve(
    model: Model | Callable[[], models.Model],
    vectors: str | Path = "vectors",
    steer: Steers = None,
    *,
    recipes: str | Path | Sequence[str | Path] = (),
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    allow_origin: str | Sequence[str] = (),
    allow_idle: bool = False,
    allow_other_model: bool = False,
    log_requests: Callable[[str], None] = lambda text: None,
    on_up: Callable[[ServerInfo], None] = lambda served: None,
    warn: Callable[[str], None] = _warn,
) -> None:
    """Serve a model with OpenAI's API and steer's page, until interrupted (Ctrl-C).

    model: a model, or a function that loads it, which is called after everything else is checked.
    vectors: a folder of the vectors and recipes that requests can name. steer: the steers of
    requests that name none. recipes: more recipes that requests can name. host: where to listen;
    0.0.0.0 is everywhere, and needs an `api_key`. port: 0 takes any free one. allow_origin: pages
    that may call the server besides its own, such as `http://localhost:3000`. allow_idle: allow
    steers that change nothing. log_requests: called with a line for each request, without its
    texts. on_up: called once the server answers, with its addresses.

    Raises:
        UsageError: everybody could use the server.
        VectorError: there is no vector to serve.
        ModelError: a default steer belongs to another model.
        HookError: steers do not change the server's answers.
        SteerError: the port is taken, a folder does not exist, or a package is not installed.
    """
    from steer.serving.serve import ServedContent, ServerSettings
    from steer.serving.serve import serve as run

    listed = [recipes] if isinstance(recipes, (str, Path)) else recipes
    content = ServedContent(Path(vectors), [Path(path) for path in listed], as_steers(steer))
    settings = ServerSettings(
        host=host,
        ports=[port],
        api_key=api_key,
        origins=as_tuple(allow_origin),
        allow_idle=allow_idle,
        allow_other_model=allow_other_model,
    )
    name = model.id if isinstance(model, Model) else ""
    run(
        content,
        (lambda: model.inner) if isinstance(model, Model) else model,
        ModelSource(name),
        settings,
        find=fetch.find,
        warn=warn,
        log_request=log_requests,
        on_up=on_up,
    )


def _first(endpoint: Endpoint) -> str:
    """The server's first model.

    Raises:
        SteerError: it has none.
    """
    names = endpoint.models()
    if not names:
        raise SteerError(f"{endpoint.url} serves no model", hint="name one with --served")
    return names[0]
